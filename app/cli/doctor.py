"""`flask doctor`: look at a deployment as an experienced operator would, and say for each finding what to run.

This asks, app/cli/doctor_checks.py judges. A server that does not answer is a finding, not an end: the other questions
are asked all the same. Nothing is changed, and no secret, URL or session id is shown.
"""

import json
import logging
import platform
import shutil
import statistics
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.cli.doctor_checks import (
    LEVELS,
    PYTHON_FILES,
    DatabaseFacts,
    Finding,
    NamedPython,
    RedisFacts,
    database_away,
    database_findings,
    database_kind,
    python_runtime,
    python_version,
    redis_away,
    redis_findings,
    settings_findings,
)
from app.cli.server_stats import ServerStats
from app.config import Config
from app.extensions import db, sql_reason
from app.redis_client import StoreUnavailableError, current_store, glob_escape

TREE = Path(__file__).resolve().parent.parent.parent
QUERIES = 5  # for a median that one slow answer does not move
TITLES = {"redis": "Redis", "database": "Database", "settings": "Settings", "python": "Python"}
COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}
NARROW = 40  # columns left to a fact; a terminal with fewer gets its lines as they are

# How many connections count towards the limit that binds first: the server's, the database's or the role's, which is
# how Heroku's plans are limited. What is reserved for superusers is nobody else's.
CONNECTIONS = """
SELECT s.limit - r.reserved AS limit,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used
  FROM (SELECT current_setting('max_connections')::int AS limit) s,
       (SELECT current_setting('superuser_reserved_connections')::int AS reserved) r
UNION ALL
SELECT datconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())
  FROM pg_database WHERE datname = current_database() AND datconnlimit >= 0
UNION ALL
SELECT rolconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)
  FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0
"""


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
        for line in as_lines(findings, _width()):
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


def named_python(tree: Path) -> NamedPython | None:
    """Return the Python that the tree names for the platform; None if it leaves the choice to the platform."""
    for file in PYTHON_FILES:
        if (tree / file).exists():
            lines = [line.strip() for line in (tree / file).read_text().splitlines()]
            version = next((line for line in lines if line and not line.startswith("#")), "nothing")
            return NamedPython(file, version.removeprefix("python-"))
    return None


def redis_facts(stats: ServerStats) -> RedisFacts:
    """Ask Redis all there is to ask. Raises StoreUnavailableError."""
    return RedisFacts(
        round_trip=stats.round_trip(),
        info=stats.info(),
        refusal=stats.refusal(),
        settings={name: stats.setting(name) for name in ("timeout", "save", "maxclients")},
        connection_names=stats.connection_names(),
        clock_lead=stats.clock_lead(),
        sessions=stats.sample(glob_escape(stats.store.key("session:")) + "*"),
        indexes=stats.sample(glob_escape(stats.store.key("user:")) + "*:sessions"),
    )


def database_facts() -> DatabaseFacts:
    """Ask the database all there is to ask. Raises SQLAlchemyError; CommandError if the migrations are at odds."""
    url = db.engine.url
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise NoDatabaseFileError("there is no such file yet")  # connecting would make an empty one
    with db.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        times = []
        for _number in range(QUERIES):
            began = time.perf_counter()
            connection.execute(text("SELECT 1"))
            times.append(time.perf_counter() - began)
        scripts = ScriptDirectory.from_config(current_app.extensions["migrate"].migrate.get_config())
        at = MigrationContext.configure(connection).get_current_heads()
        used = limit = None
        if db.engine.dialect.name == "postgresql":
            limits = connection.execute(text(CONNECTIONS)).all()
            limit, used = min(limits, key=lambda row: int(row[0]) - int(row[1]))
        return DatabaseFacts(
            kind={"sqlite": "SQLite", "postgresql": "PostgreSQL"}[db.engine.dialect.name],
            version=".".join(map(str, db.engine.dialect.server_version_info or ())),
            round_trip=statistics.median(times),
            at=at,
            head=tuple(scripts.get_heads()),
            missing=_missing(scripts, at),
            connections=used,
            limit=limit,
        )


class NoDatabaseFileError(SQLAlchemyError):
    """SQLite has no file to open."""


def as_json_text(findings: Iterable[Finding]) -> str:
    """Return the findings as a JSON object; docs/operations.md promises its keys."""
    findings = list(findings)
    counts = Counter(finding.level for finding in findings)
    document = {
        "status": max((finding.level for finding in findings), key=LEVELS.index),
        "counts": {level: counts[level] for level in LEVELS},
        "findings": [
            {
                "check": finding.check,
                "group": finding.group,
                "level": finding.level,
                "fact": finding.fact,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def as_lines(findings: Iterable[Finding], width: int | None) -> Iterator[str]:
    """Yield the findings for people, group by group; facts are wrapped to the width, if one is given."""
    findings = list(findings)
    names = {finding: finding.check.partition(".")[2].replace("_", " ") for finding in findings}
    indent = 2 + max(map(len, LEVELS)) + 2 + max(map(len, names.values())) + 2
    for group, members in groupby(findings, key=lambda finding: finding.group):
        yield click.style(TITLES[group], bold=True)
        for finding in members:
            level = click.style(f"{finding.level:<{max(map(len, LEVELS))}}", fg=COLOURS[finding.level])
            first, *more = _wrapped(finding.fact, width - indent if width else 0)
            yield f"  {level}  {names[finding]}".ljust(indent + len(level) - len(click.unstyle(level))) + first
            yield from (" " * indent + line for line in more)
            if finding.remedy:
                yield " " * indent + click.style(f"→ {finding.remedy}", fg=COLOURS[finding.level])
        yield ""
    counts = Counter(finding.level for finding in findings)
    yield ", ".join(_count(counts[level], level) for level in reversed(LEVELS))


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


def _wrapped(fact: str, width: int) -> list[str]:
    return textwrap.wrap(fact, width, break_long_words=False, break_on_hyphens=False) if width >= NARROW else [fact]


def _width() -> int | None:
    """Return the terminal's columns; None where nobody looks, and a line is easier to search."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _count(number: int, level: str) -> str:
    return f"{number} ok" if level == "ok" else f"{number} {level}{'' if number == 1 else 's'}"


def _missing(scripts: ScriptDirectory, at: tuple[str, ...]) -> int | None:
    """Return how many migrations lie between; None if the code does not know where the database is."""
    try:
        return sum(1 for _ in scripts.iterate_revisions("heads", at or "base"))
    except RevisionError:
        return None


def _without(cause: str, password: str | None) -> str:
    """Return the cause, or its first word alone if the password is in the rest."""
    hidden = {password, quote(password), quote(password, safe="")} if password else set()
    return cause.partition(":")[0] if any(secret in cause for secret in hidden) else cause
