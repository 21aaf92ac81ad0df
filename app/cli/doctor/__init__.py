"""`flask doctor`: look at a deployment as an experienced operator would, and say for each finding what to run.

facts.py asks, checks.py judges, report.py prints. A server that does not answer is a finding, not an end: the other
questions are asked all the same. Nothing is changed, and no secret, URL or session id is shown.
"""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from alembic.util import CommandError
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy.exc import SQLAlchemyError

from app.cli.doctor.checks import (
    Finding,
    database_away,
    database_findings,
    database_kind,
    python_runtime,
    python_version,
    redis_away,
    redis_findings,
    settings_findings,
)
from app.cli.doctor.facts import database_facts, named_python, redis_facts
from app.cli.doctor.report import as_json_text, as_lines, terminal_width
from app.cli.doctor.server_stats import ServerStats
from app.config import Config
from app.extensions import sql_reason
from app.redis_client import StoreUnavailableError, current_store

TREE = Path(__file__).resolve().parents[3]


class Present(click.types.BoolParamType):
    """A flag that a variable sets by being there: NO_COLOR means what it says whatever it holds (no-color.org)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:  # noqa: ARG002  # the signature is click's
        return bool(value)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for machines.")
@click.option("--strict", is_flag=True, help="Exit with status 1 for warnings, too.")
@click.option(
    "--no-color", is_flag=True, type=Present(), envvar="NO_COLOR", show_envvar=True, help="Leave the colours out."
)
@click.pass_context
@with_appcontext
def doctor(context: click.Context, as_json: bool, strict: bool, no_color: bool) -> None:
    """Check this deployment: Redis, the database, settings, Python; and say what to run where something is wrong.

    The exit status is 0 if there is no problem; with --strict, if there is no warning either.
    """
    config: Config = current_app.extensions["config"]
    with _quiet():
        findings = list(examine(config))
    if as_json:
        click.echo(as_json_text(findings))
    else:
        for line in as_lines(findings, terminal_width()):
            click.echo(line, color=False if no_color else None)
    failing = ("problem", "warning") if strict else ("problem",)
    context.exit(int(any(finding.level in failing for finding in findings)))


def examine(config: Config) -> Iterator[Finding]:
    """Yield all findings, group by group."""
    try:
        yield from redis_findings(redis_facts(ServerStats(current_store())), config)
    except StoreUnavailableError as error:
        yield redis_away(_without(str(error), config.redis.password), current_store().trouble(error), config)
    yield database_kind(config)
    try:
        yield from database_findings(database_facts(), config)
    except (SQLAlchemyError, CommandError) as error:
        yield database_away(sql_reason(error), config)
    yield from settings_findings(config)
    yield python_version(config, platform.python_version())
    yield python_runtime(config, named_python(TREE), platform.python_version())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log out of the output: what goes wrong is a finding, on a line of its own."""
    log = logging.getLogger("app")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _without(cause: str, password: str | None) -> str:
    """Return the cause, or its first word alone if the password is in the rest."""
    hidden = {password, quote(password), quote(password, safe="")} if password else set()
    return cause.partition(":")[0] if any(secret in cause for secret in hidden) else cause
