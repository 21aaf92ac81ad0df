"""What was found, and how it compares with what was aimed at."""

import statistics
from dataclasses import dataclass, field
from typing import Literal

from bench.building import BASE, Build
from bench.cold import Cold
from bench.costs import Misses, Starts, Visit
from bench.crawl import Crawl, Memory
from bench.home import AGAIN, BEFORE, NOW, TODAY, Looks
from bench.load import Load
from bench.publishing import Publishing
from bench.town import KINDS, PERMALINKS


@dataclass
class Findings:
    """Everything a run of the benchmark found; what was left out is None or missing."""

    facts: dict[str, str]  # about the machine and the versions
    rounds: int
    seconds: int
    page_bytes: int = 0
    loads: dict[str, list[Load]] = field(default_factory=dict)  # by the measure's name, one for each round
    misses: Misses | None = None
    logins: int | None = None  # bytes of a worker's memory after 120 of them
    visit: Visit | None = None
    starts: Starts | None = None
    home: dict[str, list[Looks]] = field(default_factory=dict)  # by server, one for each round
    builds: dict[str, dict[str, Build]] | None = None  # by path, with the posts' HTML "known" and "unknown"
    processes: dict[int, Publishing] | None = None  # by how many there are
    followers: dict[int, Publishing] | None = None
    memory: Memory | None = None
    crawl: Crawl | None = None
    cold: Cold | None = None
    kept_for_home: float | None = None  # bytes a person

    def ratios(self, name: str, other: str) -> list[float]:
        """Return the ratio of two rates in each round; nothing if one of them was not measured."""
        pairs = zip(self.loads.get(name, []), self.loads.get(other, []), strict=False)
        return [mine.rate / theirs.rate for mine, theirs in pairs]

    def sooner(self, whose: str = "") -> list[float]:
        """Return how many times sooner /home comes than at the earlier commit, in each round."""
        pairs = zip(self.home.get(NOW + whose, []), self.home.get(BEFORE + whose, []), strict=False)
        return [before.p50_ms / now.p50_ms for now, before in pairs]


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

VISITORS = ("", ", signed in")
PAGE_RATES = [  # signed in, both lines are
    *(
        (f"town: {what}{who}", f"town: latest{who}", aim, f"{what}{who}, of /")
        for what, aim in [*dict.fromkeys(KINDS, 0.9).items(), (f"{PERMALINKS:,} permalinks", 0.5)]
        for who in VISITORS
    ),
    *(
        (f"town: {what}", "town: latest, signed in", aim, f"{what}, signed in, of /")
        for what, aim in (("/@name, followed", 0.9), ("/@name, not followed", 0.9), ("/home, nothing new", 0.7))
    ),
]


def targets(findings: Findings) -> list[Target]:
    """Return all that is aimed at, reached or not."""
    found = []
    for mine, other, aim, words in RATES + PAGE_RATES:
        found.append(_ratio_target(words, aim, findings.ratios(mine, other)))
    for whose in ("", AGAIN):
        words = f"/home, somebody has posted each time{whose}, of commit {TODAY}'s"
        found.append(_ratio_target(words, 4, findings.sooner(whose)))
    found += _build_targets(findings.builds) + _publishing_targets(findings)
    found += _memory_targets(findings.memory) + _redis_targets(findings)
    found.append(
        Target("its memory after 120 logins", 90, "≤", "MB", findings.logins / 1e6 if findings.logins else None)
    )
    return [*found, *_visit_targets(findings.visit), _start_target(findings.starts)]


def _ratio_target(words: str, aim: float, ratios: list[float]) -> Target:
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
    return Target(words, aim, "≥", "×", statistics.median(ratios) if ratios else None, spread)


def _build_targets(builds: dict[str, dict[str, Build]] | None) -> list[Target]:
    return [
        Target(f"building `{path}` with known posts, of commit {BASE}", 0.5, "≤", "×", build["known"].ratio)
        for path, build in (builds or {}).items()
    ]


def _publishing_targets(findings: Findings) -> list[Target]:
    processes, followers = findings.processes, findings.followers
    ratio = processes[max(processes)].p50_ms / processes[min(processes)].p50_ms if processes else None
    slowest = followers[max(followers)].p50_ms if followers else None
    return [
        Target("publishing with 32 web processes, of with one", 1.5, "≤", "×", ratio),
        Target("publishing with 10,000 followers who were here", 100, "≤", "ms", slowest),
    ]


def _redis_targets(findings: Findings) -> list[Target]:
    crawl, kept = findings.crawl, findings.kept_for_home
    peak = crawl.peak / 1e6 if crawl else None
    return [
        Target("cached pages in Redis, while a stranger asks for all", 8, "≤", "MB", peak),
        Target("logins that a full Redis refused meanwhile", 0, "≤", "", len(crawl.refused) if crawl else None),
        Target("kept in Redis for the /home of each person", 1000, "≤", "bytes", kept),
    ]


def _memory_targets(memory: Memory | None) -> list[Target]:
    held = memory.at_end / 1e6 if memory else None
    grown = memory.growth / 1e6 if memory else None
    after = memory.after_stranger / 1e6 if memory else None
    return [
        Target("a worker's memory after 100,000 requests for all pages", 90, "≤", "MB", held),
        Target("its growth over the last 50,000", 1, "<", "MB", grown),
        Target("and after a stranger has asked for 100,000 pages", 90, "≤", "MB", after),
    ]


def _visit_targets(visit: Visit | None) -> list[Target]:
    return [
        Target("first visit, over the wire", 30, "≤", "kB", visit.first_bytes / 1000 if visit else None),
        Target("first visit, requests", 4, "≤", "", visit.first_requests if visit else None),
        Target("repeat visit, over the wire", 1, "≤", "kB", visit.repeat_bytes / 1000 if visit else None),
    ]


def _start_target(starts: Starts | None) -> Target:
    return Target("start, of bare Flask with the same libraries", 1.5, "≤", "×", starts.ratio if starts else None)
