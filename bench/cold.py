"""What a process costs that has just started, and what Redis keeps for a person who was here."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from bench import wire
from bench.machine import Cores
from bench.processes import gunicorn, running
from bench.town import READER, Settings, permalinks

PAGES = 100
PEOPLE = 1_000  # whose /home is looked at


@dataclass(frozen=True)
class Cold:
    """The first request to each of PAGES in a new process, p50 in ms: with the page in Redis, and without."""

    cached: float
    cached_signed_in: float
    built: float
    built_signed_in: float


def cold(town: Settings, cores: Cores, scratch: Path) -> Cold:
    """Ask a new process for pages of all kinds, each once."""
    names = [f"/@p{number}" for number in range(1, PAGES // 4 + 1)]
    paths = [*permalinks(town, PAGES // 4), *names]
    paths += [f"{name}/{page}" for name in names for page in ("followers", "following")]
    cookies = ["", *town.cookies([READER])]
    found = []
    with Redis.from_url(town.environ["REDIS_URL"]) as redis:
        for cookie in cookies:
            _first_requests(town, cores, scratch, paths, "")  # leaves the pages in Redis
            found.append(_first_requests(town, cores, scratch, paths, cookie))
        for cookie in cookies:
            for key in redis.scan_iter("page:*", count=1000):
                redis.delete(key)
            found.append(_first_requests(town, cores, scratch, paths, cookie))
    return Cold(*found)


def _first_requests(town: Settings, cores: Cores, scratch: Path, paths: list[str], cookie: str) -> float:
    taken = []
    with running(gunicorn(None, town.environ), cores.server, scratch) as pipit, wire.Client(pipit.port) as client:
        for path in paths:
            began = time.perf_counter()
            answer = client.get(path, {"Cookie": cookie} if cookie else {})
            taken.append((time.perf_counter() - began) * 1000)
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}")
    return statistics.median(taken)


def kept_for_home(town: Settings, cores: Cores, scratch: Path) -> float:
    """Return the bytes that Redis holds more for each of PEOPLE, signed in before, who have just looked at /home."""
    cookies = town.cookies(range(1001, 1001 + PEOPLE))
    with (
        running(gunicorn(None, town.environ), cores.server, scratch) as pipit,
        wire.Client(pipit.port) as client,
        Redis.from_url(town.environ["REDIS_URL"]) as redis,
    ):
        before = _held(redis)
        for cookie in cookies:
            client.get("/home", {"Cookie": cookie})
        return (_held(redis) - before) / PEOPLE


def _held(redis: Redis) -> int:
    """Return the bytes of all keys."""
    with redis.pipeline() as pipe:
        for key in redis.scan_iter(count=1000):
            pipe.memory_usage(key, samples=0)
        return sum(pipe.execute())
