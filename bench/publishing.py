"""How long a post takes: with many web processes that hold copies of pages, and with many followers.

A browser publishes: what is timed is its POST /posts, from the form to the redirect. The web processes have nothing
else to do. Before each post every reader asks for the pages that it changes, so that all processes hold copies of them.
Many processes run on any core that is idle, as they would on a real machine, not on the one core of a single process.
"""

import re
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from redis import Redis
from sqlalchemy import create_engine, text

from bench import growth, load, wire
from bench.machine import Cores
from bench.processes import gunicorn, running
from bench.town import SIZE, Settings
from tests.servers import wait_until

PROCESSES = (1, 4, 16, 32)
FOLLOWERS = (10, 1_000, 10_000)
POSTS = 50  # fewer than the limit of one account in a minute
CONNECTIONS = 3  # for each process, so that each gets some
AUTHORS = 101  # the first one's id; each publishes in one line of the results


@dataclass(frozen=True)
class Publishing:
    """What publishing took, in ms."""

    p50_ms: float
    low_ms: float  # a quarter was faster
    high_ms: float  # a quarter was slower
    tracked: float  # keys of which Redis would tell, one for each process and key (median)


def with_processes(town: Settings, scratch: Path, redis_url: str) -> dict[int, Publishing]:
    """Publish with each of PROCESSES."""
    copy = town.copied(scratch, redis_url)
    found = {}
    for author, processes in enumerate(PROCESSES, start=AUTHORS):
        with _site(copy, None, scratch, processes) as port:
            found[processes] = _published(copy, port, author, readers=CONNECTIONS * processes)
    return found


def with_followers(town: Settings, cores: Cores, scratch: Path, redis_url: str) -> dict[int, Publishing]:
    """Publish with each of FOLLOWERS, all of whom have looked at /home."""
    copy = town.copied(scratch, redis_url)
    _give_followers(copy)
    people = range(SIZE.people + 1, SIZE.people + 1 + max(FOLLOWERS))
    looks = load.sequence_file(scratch / "homes.txt", [("/home", cookie) for cookie in copy.cookies(people)])
    found = {}
    with _site(copy, cores.server, scratch, 1) as port:
        load.run_through(cores.load, port, looks, len(people))
        for author, followers in enumerate(FOLLOWERS, start=AUTHORS):
            found[followers] = _published(copy, port, author, readers=CONNECTIONS)
    return found


def _give_followers(town: Settings) -> None:
    """Let new people join, and follow the first authors: FOLLOWERS of them."""
    join = growth.FILL["people"].format(numbers=growth.NUMBERS.format(count=SIZE.people + max(FOLLOWERS)))
    with create_engine(town.environ["DATABASE_URL"]).begin() as connection:
        connection.execute(
            text(join + f" WHERE i > {SIZE.people}"), {"long_ago": f"{growth.LONG_AGO:%Y-%m-%d %H:%M:%S}"}
        )
        for author, followers in enumerate(FOLLOWERS, start=AUTHORS):
            connection.execute(text(f"DELETE FROM follows WHERE followed_id = {author}"))
            connection.execute(
                text(
                    "INSERT INTO follows (follower_id, followed_id, created_at) "
                    f"SELECT id, {author}, created_at FROM users WHERE id > {SIZE.people} ORDER BY id LIMIT {followers}"
                )
            )


@contextmanager
def _site(town: Settings, core: int | None, scratch: Path, processes: int) -> Iterator[int]:
    """Run Pipit with that many processes; give its port once all of them have asked Redis for news."""
    server = gunicorn(None, town.environ | {"WEB_CONCURRENCY": str(processes)})
    with running(server, core, scratch) as pipit, Redis.from_url(town.environ["REDIS_URL"]) as redis:
        wait_until(lambda: redis.info("clients")["tracking_clients"] >= processes, "the processes to start", 90)
        yield pipit.port


def _published(town: Settings, port: int, author: int, readers: int) -> Publishing:
    """Publish POSTS, each after all readers have looked at pages."""
    cookie, *cookies = town.cookies([author, *range(1001, 1001 + readers)])
    taken, tracked = [], []
    with ExitStack() as stack, Redis.from_url(town.environ["REDIS_URL"]) as redis:
        browser, *clients = [stack.enter_context(wire.Client(port)) for _ in range(1 + readers)]
        for number in range(POSTS):
            for path in ("/", f"/@p{author}", *(() if number else ("/home",))):
                for reader, theirs in zip(clients, cookies, strict=True):
                    reader.get(path, {"Cookie": theirs})
            form = browser.get("/home", {"Cookie": cookie})
            token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form.text)
            assert token is not None
            fields = urlencode({"csrf_token": token[1], "body": f"Number {number} of @p{author}"}).encode()
            tracked.append(redis.info("stats")["tracking_total_items"])
            began = time.perf_counter()
            answer = browser.send("POST", "/posts", {"Cookie": cookie}, fields)
            taken.append((time.perf_counter() - began) * 1000)
            if answer.status != 302:
                raise RuntimeError(f"a post was answered with {answer.status}")
    low, p50, high = statistics.quantiles(taken, n=4)
    return Publishing(p50, low, high, statistics.median(tracked))
