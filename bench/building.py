"""The CPU time of building a page of 30 posts, beside an earlier commit's, in interleaved rounds."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from bench.machine import Cores, pin
from bench.processes import script
from bench.town import POPULAR, READER, Settings, earlier
from tests.servers import ROOT

BASE = "8637db1"  # the commit that the target speaks of
PAGES = 20  # of each kind
# Each kind begins where another kind's pages end, so that no page's posts have been on another page.
STARTS = {"/": 50_001, "/home": 49_001, "/tags/ferry": 46_001, f"/@{POPULAR}": 30_001}


@dataclass(frozen=True)
class Build:
    """The CPU time of one kind of page in each round, in ms (median of PAGES)."""

    now: list[float]
    base: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(now / base for now, base in zip(self.now, self.base, strict=True))


def builds(town: Settings, cores: Cores, scratch: Path, rounds: int) -> dict[str, dict[str, Build]] | None:
    """Return by path what was found with the posts' HTML "known" and "unknown"; None if the commit is not here."""
    base = earlier(BASE, scratch)
    if base is None:
        return None
    (cookie,) = town.cookies([READER])
    paths = [f"{path}?before={start}" for path, start in STARTS.items()]
    found = {path: {html: Build([], []) for html in ("known", "unknown")} for path in STARTS}
    for _ in range(rounds):
        for folder in (ROOT, base):
            with script("build.py", cookie, str(PAGES), *paths, environ=town.environ, folder=folder) as builder:
                pin(builder.pid, cores.server)
                assert builder.stdout is not None
                taken = json.load(builder.stdout)
            for path, build in found.items():
                for html, times in build.items():
                    (times.now if folder == ROOT else times.base).append(statistics.median(taken[path][html]))
    return found
