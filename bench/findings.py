"""What was found, and how it compares with what was aimed at."""

import statistics
from dataclasses import dataclass, field
from typing import Literal

from bench.costs import Memory, Misses, Starts, Visit
from bench.load import Load


@dataclass
class Findings:
    """Everything a run of the benchmark found; what was left out is None or missing."""

    facts: dict[str, str]  # about the machine and the versions
    rounds: int
    seconds: int
    page_bytes: int = 0
    loads: dict[str, list[Load]] = field(default_factory=dict)  # by the measure's name, one for each round
    misses: Misses | None = None
    memory: Memory | None = None
    logins: int | None = None  # bytes of a worker's memory after 120 of them
    visit: Visit | None = None
    starts: Starts | None = None

    def ratios(self, name: str, other: str) -> list[float]:
        """Return the ratio of two rates in each round; nothing if one of them was not measured."""
        pairs = zip(self.loads.get(name, []), self.loads.get(other, []), strict=False)
        return [mine.rate / theirs.rate for mine, theirs in pairs]


@dataclass(frozen=True)
class Target:
    """Something aimed at, and what was found."""

    what: str
    aim: float
    sense: Literal["≥", "≤", "<"]
    unit: str
    found: float | None  # None: not measured
    spread: str = ""

    @property
    def verdict(self) -> str:
        if self.found is None:
            return "not measured"
        reached = {
            "≥": self.found >= self.aim,
            "≤": self.found <= self.aim,
            "<": self.found < self.aim,
        }[self.sense]
        return "reached" if reached else "missed"


RATES = [  # Pipit's line, the other's, what is aimed at, in words
    ("Pipit", "bare ASGI", 0.8, "anonymous hit, of a bare ASGI function"),
    ("Pipit", "bare ASGI, stock uvicorn", 0.8, "anonymous hit, of the same on stock uvicorn"),
    ("Pipit", "nginx", 0.25, "anonymous hit, of nginx with a file"),
    ("Pipit", "Express", 6, "anonymous hit, of Express"),
    ("Pipit, signed in", "Pipit", 0.6, "signed-in hit, of the anonymous hit"),
    ("Pipit, signed in", "Express, signed in", 5, "signed-in hit, of Express signed in"),
    ("30 holes more, signed in", "Pipit, signed in", 0.6, "signed-in hit with 30 holes more, of one without"),
    ("Pipit, 304", "Pipit", 1, "unchanged page (304), of the anonymous hit"),
    ("WSGI function, bridged", "WSGI function, gthread", 1.5, "smallest WSGI function, of the same on threads"),
    ("Flask view, bridged", "Flask view, gthread", 1.2, "smallest Flask view, of the same on threads"),
]


def targets(findings: Findings) -> list[Target]:
    """Return all that is aimed at, reached or not."""
    found = []
    for mine, other, aim, words in RATES:
        ratios = findings.ratios(mine, other)
        median = statistics.median(ratios) if ratios else None
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
        found.append(Target(words, aim, "≥", "×", median, spread))
    found += _memory_targets(findings.memory)
    found.append(
        Target("its memory after 120 logins", 90, "≤", "MB", findings.logins / 1e6 if findings.logins else None)
    )
    return [*found, *_visit_targets(findings.visit), _start_target(findings.starts)]


def _memory_targets(memory: Memory | None) -> list[Target]:
    held = memory.at_end / 1e6 if memory else None
    grown = memory.growth / 1e6 if memory else None
    return [
        Target("a worker's memory after 100,000 requests", 90, "≤", "MB", held),
        Target("its growth over the last 50,000", 1, "<", "MB", grown),
    ]


def _visit_targets(visit: Visit | None) -> list[Target]:
    return [
        Target("first visit, over the wire", 30, "≤", "kB", visit.first_bytes / 1000 if visit else None),
        Target("first visit, requests", 4, "≤", "", visit.first_requests if visit else None),
        Target("repeat visit, over the wire", 1, "≤", "kB", visit.repeat_bytes / 1000 if visit else None),
    ]


def _start_target(starts: Starts | None) -> Target:
    return Target("start, of bare Flask with the same libraries", 1.5, "≤", "×", starts.ratio if starts else None)
