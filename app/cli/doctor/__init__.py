"""`flask doctor`: check a deployment, and say for each finding what to do about it.

facts.py gathers the facts; checks.py judges them. Redis or the database may be down: then that is a finding, and the
other checks still run. No secret, URL with credentials or session id is shown.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby

import click
from flask import current_app
from flask.cli import with_appcontext

from app.cli.doctor.checks import CHECKS, LEVELS, Level
from app.cli.doctor.facts import Facts


@dataclass(frozen=True)
class Finding:
    """The answer of one check."""

    check: str  # "redis.memory"
    group: str  # "redis"
    level: Level
    fact: str
    remedy: str | None  # what to do; None if all is well


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
@click.option("--strict", is_flag=True, help="Exit with status 1 for warnings, too.")
@click.pass_context
@with_appcontext
def doctor(context: click.Context, as_json: bool, strict: bool) -> None:
    """Check this deployment: Redis, the database and the settings.

    The exit status is 1 if there is a problem; with --strict, also if there is a warning.
    """
    logging.disable()  # the log would repeat what the findings say, in the middle of the JSON
    findings = list(examine(Facts.gather(current_app.extensions["config"])))
    logging.disable(logging.NOTSET)
    click.echo(as_json_text(findings) if as_json else "\n".join(as_lines(findings)))
    failing = ("warning", "problem") if strict else ("problem",)
    context.exit(int(any(finding.level in failing for finding in findings)))


def examine(facts: Facts) -> Iterator[Finding]:
    """Yield a finding for each check, except where the facts it needs are not known."""
    for check in CHECKS:
        group, _, name = check.__name__.partition("_")
        try:
            level, fact, remedy = check(facts)
        except KeyError:
            continue
        yield Finding(f"{group}.{name}", group, level, fact, remedy)


def as_json_text(findings: list[Finding]) -> str:
    """Return the findings as a JSON object; docs/operations.md promises its keys."""
    counts = Counter(finding.level for finding in findings)
    document = {
        "status": max(counts, key=LEVELS.index),
        "counts": {level: counts[level] for level in LEVELS},
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def as_lines(findings: list[Finding]) -> Iterator[str]:
    """Yield the findings for people, group by group."""
    for group, members in groupby(findings, key=lambda finding: finding.group):
        yield group.capitalize()
        for finding in members:
            name = finding.check.removeprefix(f"{group}.").replace("_", " ")
            yield f"  {finding.level:<7}  {name:<11}  {finding.fact}"
            if finding.remedy:
                yield f"{'':24}→ {finding.remedy}"
        yield ""
    counts = Counter(finding.level for finding in findings)
    plurals = [f"{counts[level]} {level}{'' if level == 'ok' or counts[level] == 1 else 's'}" for level in LEVELS]
    yield ", ".join(reversed(plurals))
