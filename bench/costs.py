"""What is not a rate: the time of a miss, the memory after logins, the bytes of a visit, the time of a start."""

import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from app import create_app
from app.cache import PageCache
from app.cli.seed.town import wendbridge
from app.config import Config
from app.models.writes import LATEST_PAGE
from bench import wire
from bench.contenders import Site, logged_in
from bench.machine import Cores
from bench.processes import gthread, gunicorn, resident_bytes, running

MISSES = 100
LOGINS, LOGINS_AT_ONCE = 120, 20
GZIP = {"Accept-Encoding": "gzip"}
# What it takes to show the page. The manifest and the touch icon are for a phone's home screen.
LINKED = re.compile(r'<(?:link rel="(?:icon|stylesheet)" href|script[^>]*\ssrc)="(/[^"]+)"')


@dataclass(frozen=True)
class Misses:
    """Pages that were not in the cache, asked for one at a time."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Visit:
    """What came over the wire, headers included."""

    first_bytes: int
    first_requests: int
    repeat_bytes: int
    repeat_requests: int
    parts: dict[str, int]  # the first visit's bytes, by path


@dataclass(frozen=True)
class Starts:
    """Seconds from the start of gunicorn to its worker's first answer, one for each round."""

    pipit: list[float]
    flask: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(mine / bare for mine, bare in zip(self.pipit, self.flask, strict=True))


def misses(site: Site, cores: Cores, scratch: Path) -> Misses:
    """Ask for / after a write to it, each time."""
    taken = []
    writer = create_app(Config.from_environ(site.environ))
    cache: PageCache = writer.extensions["page_cache"]
    with running(site.server, cores.server, scratch) as pipit, wire.Client(pipit.port) as client:
        for _ in range(MISSES):
            with cache.changing(LATEST_PAGE()):
                pass
            began = time.perf_counter()
            answer = client.get("/")
            taken.append((time.perf_counter() - began) * 1000)
            if "fwd=miss" not in answer.header("Cache-Status"):
                raise RuntimeError("a page that had changed came from the cache")
    writer.extensions["store"].close()
    quantiles = statistics.quantiles(taken, n=100)
    return Misses(quantiles[49], quantiles[98])


def logins(site: Site, cores: Cores, scratch: Path) -> int:
    """Log in LOGINS times, LOGINS_AT_ONCE at a time, and return the worker's memory: each takes 19 MiB for its hash.

    The people take turns, because nobody may log in that often in a minute.
    """
    environ = {**site.environ, "LOGIN_MAX_ATTEMPTS": "1000"}
    with running(gunicorn(None, environ), cores.server, scratch) as pipit, ThreadPoolExecutor(LOGINS_AT_ONCE) as people:
        names = islice(cycle(wendbridge().people), LOGINS)
        for login in [people.submit(logged_in, pipit.port, name) for name in names]:
            login.result()
        return resident_bytes(pipit.worker)


def visit(site: Site, cores: Cores, scratch: Path) -> Visit:
    """Visit / as a browser that knows nothing of the site does, then once more."""
    with running(site.server, cores.server, scratch) as pipit, wire.Client(pipit.port) as client:
        return visited(client)


def visited(client: wire.Client) -> Visit:
    """Load / with all that it links to, then again what a browser would ask for again, with what it remembers."""
    answers = {"/": client.get("/", GZIP)}
    for path in dict.fromkeys(LINKED.findall(answers["/"].text)):
        answers[path] = client.get(path, GZIP)
    repeated = []
    for path, answer in answers.items():
        if answer.status != 200:
            raise RuntimeError(f"{path} answers {answer.status}")
        if "immutable" not in answer.header("Cache-Control"):
            repeated.append(client.get(path, {**GZIP, "If-None-Match": answer.header("ETag")}))
    return Visit(
        first_bytes=sum(answer.wire_bytes for answer in answers.values()),
        first_requests=len(answers),
        repeat_bytes=sum(answer.wire_bytes for answer in repeated),
        repeat_requests=len(repeated),
        parts={path: answer.wire_bytes for path, answer in answers.items()},
    )


def starts(site: Site, cores: Cores, scratch: Path, rounds: int) -> Starts:
    """Start Pipit, and bare Flask with the same libraries imported, in turn."""
    bare = gthread(
        "bench.peers.flask_and_libraries:application",
        {**site.environ, "BENCH_ANSWER": str(scratch / "page.json")},
    )
    seconds: dict[str, list[float]] = {"pipit": [], "flask": []}
    for _ in range(rounds):
        for name, server in (("pipit", site.server), ("flask", bare)):
            with running(server, cores.server, scratch) as started:
                seconds[name].append(started.seconds_to_answer)
    return Starts(**seconds)
