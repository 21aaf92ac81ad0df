"""What all pages take: a web process's memory, and Redis's while a stranger asks for 100,000 different ones.

One worker, and a Redis of 25 MB that evicts nothing, as the smallest plan has. First come 100,000 requests as members
and visitors make them, over all kinds of pages, then the stranger, 200 times a second. Somebody logs in meanwhile.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from redis import Redis
from sqlalchemy import create_engine, text

from app.cli.seed import PASSWORD
from app.models.accounts import hasher
from bench import load, wire
from bench.contenders import WrongAnswerError, logged_in
from bench.machine import Cores, pinned_valkey
from bench.processes import gunicorn, resident_bytes, running
from bench.town import KINDS, READER, SIZE, Settings, permalinks

REQUESTS = 50_000  # before a worker's memory is read, and once more before it is read again
MEMBERS = 20
PER_SECOND = 200  # pages that the stranger asks for
LOGIN_EVERY = 5  # s
PLAN = {"maxmemory": "25mb", "maxmemory-policy": "noeviction"}


@dataclass(frozen=True)
class Memory:
    """What one worker keeps in RAM, in bytes."""

    at_start: int
    halfway: int
    at_end: int
    after_stranger: int

    @property
    def growth(self) -> int:
        """Return by how much it grew over the second half of the requests."""
        return self.at_end - self.halfway


@dataclass(frozen=True)
class Crawl:
    """What the stranger did to Redis."""

    pages: int
    per_second: float
    peak: int  # bytes that Redis used more than before the first page, sampled each second
    logins: int
    refused: list[str]  # of the logins


def crawl(town: Settings, cores: Cores, scratch: Path, pages: int) -> tuple[Memory, Crawl]:
    """Let members, visitors and then the stranger come."""
    with pinned_valkey(cores.redis, **PLAN) as valkey:
        own = town.copied(scratch, f"redis://127.0.0.1:{valkey.port}/0")
        _give_password(own)
        with (
            running(gunicorn(None, own.environ), cores.server, scratch) as pipit,
            Redis.from_url(own.environ["REDIS_URL"]) as redis,
        ):
            asked = load.sequence_file(scratch / "all-kinds.txt", _as_all_do(own))
            before = redis.info("memory")["used_memory"]
            sizes = [resident_bytes(pipit.worker)]
            for start in (0, REQUESTS):
                load.run_through(cores.load, pipit.port, asked, REQUESTS, start)
                sizes.append(resident_bytes(pipit.worker))
            found = _stranger(pipit.port, _different(own, pages), redis, before)
            return Memory(sizes[0], sizes[1], sizes[2], resident_bytes(pipit.worker)), found


def _stranger(port: int, paths: list[str], redis: Redis, before: int) -> Crawl:
    used, refused, logins = [], [], 0
    began = time.monotonic()
    with wire.Client(port) as client:
        for number, path in enumerate(paths):
            if number % PER_SECOND == 0:
                used.append(redis.info("memory")["used_memory"] - before)
            if number % (LOGIN_EVERY * PER_SECOND) == 0:
                logins += 1
                try:
                    logged_in(port, f"p{READER}")
                except (WrongAnswerError, AssertionError) as error:
                    refused.append(str(error))
            answer = client.get(path)
            if answer.status != 200:
                raise WrongAnswerError(f"{path}: {answer.status}")
            time.sleep(max(0, began + (number + 1) / PER_SECOND - time.monotonic()))
    return Crawl(len(paths), len(paths) / (time.monotonic() - began), max(used), logins, refused)


def _give_password(town: Settings) -> None:
    with create_engine(town.environ["DATABASE_URL"]).begin() as connection:
        query = text("UPDATE users SET password_hash = :hash WHERE id = :reader")
        connection.execute(query, {"hash": hasher.hash(PASSWORD), "reader": READER})


def _as_all_do(town: Settings) -> list[tuple[str, str]]:
    """Return requests, half of them members': every second for one of the best-known pages, the rest by Zipf's law."""
    random = Random(18)
    members = town.cookies(range(READER, READER + MEMBERS))
    best_known = ["/", *KINDS.values()]
    paths = permalinks(town) + _of_people(1_000)
    random.shuffle(paths)
    weights = [1 / rank for rank in range(1, len(paths) + 1)]
    requests = []
    for path in random.choices(paths, weights, k=2 * REQUESTS):
        cookie = random.choice(["", random.choice(members)])
        chosen = random.choice([path, random.choice([*best_known, "/home"] if cookie else best_known)])
        requests.append((chosen, cookie))
    return requests


def _different(town: Settings, most: int) -> list[str]:
    """Return paths of different pages, mixed: all there are, and hashtags that nobody has used."""
    there = permalinks(town, SIZE.posts) + _of_people(SIZE.people)
    paths = there + [f"/tags/tag{number}" for number in range(100_000 - len(there))]
    Random(18).shuffle(paths)
    return paths[:most]


def _of_people(most: int) -> list[str]:
    return [f"/@p{number}{page}" for number in range(1, most + 1) for page in ("", "/followers", "/following")]
