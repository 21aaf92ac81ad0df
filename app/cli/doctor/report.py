"""What `flask doctor` prints: the findings as lines for people, or as JSON for machines."""

import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby

import click

from app.cli.doctor.checks import LEVELS, Finding

TITLES = {"redis": "Redis", "database": "Database", "settings": "Settings", "python": "Python"}
COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}
NARROW = 40  # columns left to a fact; a terminal with fewer gets its lines as they are


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


def _wrapped(fact: str, width: int) -> list[str]:
    return textwrap.wrap(fact, width, break_long_words=False, break_on_hyphens=False) if width >= NARROW else [fact]


def terminal_width() -> int | None:
    """Return the terminal's columns; None where nobody looks, and a line is easier to search."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _count(number: int, level: str) -> str:
    return f"{number} ok" if level == "ok" else f"{number} {level}{'' if number == 1 else 's'}"
