"""What /home costs when somebody whom its reader follows has posted each time: now, at an earlier commit, in Express.

After each post the reader asks for /home, and then once more from another device; only that is timed. The first request
has the web process load and render the post. After that it has the post's HTML, for the second device as for any other
follower. The post is published by another process, on the core of the load, except in Express, whose tutorials publish
in the web process.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from redis import Redis

from bench import wire
from bench.contenders import Contender, Measure
from bench.machine import Cores
from bench.processes import Server, cpu_seconds, gunicorn, node, running, script
from bench.town import FOLLOWED, READER, Settings, earlier
from tests.servers import ROOT

TODAY = "d10452f"  # the commit that the target speaks of: /home is built for each request
ROUNDS, EACH = 10, 20  # posts
KEPT = 800  # ids of a timeline in Express
EXPRESS, NOW, BEFORE = "Express", "Pipit", f"Pipit at {TODAY}"
AGAIN = ", for another reader"


@dataclass(frozen=True)
class Looks:
    """What looks at /home took, in ms, and the server's CPU time for each."""

    p50_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Reader:
    """Somebody who looks at /home, and how a person whom they follow posts."""

    port: int
    process: int  # that serves
    cookies: list[str]  # of each device
    publish: Callable[[str], None]

    def looks(self, first: int) -> list[Looks]:
        """Look at /home from each device after each of EACH posts; return what that took by device."""
        taken: list[list[float]] = [[] for _ in self.cookies]
        cpu = [0.0 for _ in self.cookies]
        with wire.Client(self.port) as client:
            for number in range(first, first + EACH):
                self.publish(f"Number {number}: the ferry is early, says @p2. See https://example.org/{number} #ferry")
                for device, cookie in enumerate(self.cookies):
                    spent, began = cpu_seconds(self.process), time.perf_counter()
                    answer = client.get("/home", {"Cookie": cookie})
                    taken[device].append(time.perf_counter() - began)
                    cpu[device] += cpu_seconds(self.process) - spent
                    if f"Number {number}:" not in answer.text:
                        raise RuntimeError(f"/home lacks a post that was published before: {answer.status}")
        return [
            Looks(statistics.median(each) * 1000, spent / EACH * 1000) for each, spent in zip(taken, cpu, strict=True)
        ]


def posted_each_time(town: Settings, cores: Cores, scratch: Path, redis_url: str) -> dict[str, list[Looks]]:
    """Return what was found, by server and whose look it was, for each of ROUNDS interleaved rounds."""
    found: dict[str, list[Looks]] = {}
    before = earlier(TODAY, scratch)
    with ExitStack() as stack:
        readers = {}
        for number, (name, folder) in enumerate({NOW: ROOT, BEFORE: before}.items(), start=3):
            if folder:
                copy = town.copied(scratch, f"{redis_url}/{number}")
                readers[name] = stack.enter_context(_reader_on_pipit(copy, folder, cores, scratch))
        readers[EXPRESS] = stack.enter_context(_reader_on_express(town, cores, scratch, f"{redis_url}/5"))
        for number in range(ROUNDS):
            for name, reader in readers.items():
                for whose, looks in zip(("", AGAIN), reader.looks(number * EACH), strict=True):
                    found.setdefault(name + whose, []).append(looks)
    return found


@contextmanager
def _reader_on_pipit(town: Settings, folder: Path, cores: Cores, scratch: Path) -> Iterator[Reader]:
    cookies = town.cookies([READER, READER])
    server = replace(gunicorn(None, town.environ), folder=folder)
    own = scratch / f"home-{folder.name}"
    own.mkdir()
    with (
        running(server, cores.server, own) as pipit,
        script("publish.py", str(FOLLOWED), environ=town.environ, folder=folder) as writer,
    ):
        assert writer.stdin is not None
        assert writer.stdout is not None
        requests, answers = writer.stdin, writer.stdout

        def publish(body: str) -> None:
            requests.write(f"{body}\n")
            requests.flush()
            if answers.readline() != "published\n":
                raise RuntimeError("a post was not published")

        yield Reader(pipit.port, pipit.worker, cookies, publish)


@contextmanager
def _reader_on_express(town: Settings, cores: Cores, scratch: Path, redis_url: str) -> Iterator[Reader]:
    own = scratch / "home-express"
    own.mkdir()
    with running(_express(town, redis_url), cores.server, own) as express:
        *readers, author = (_logged_in_to_express(express.port, f"p{person}") for person in (READER, READER, FOLLOWED))

        def publish(body: str) -> None:
            with wire.Client(express.port) as client:
                answer = client.send("POST", "/posts", {"Cookie": author}, urlencode({"body": body}).encode())
            if answer.status != 302:
                raise RuntimeError(f"a post was not published: {answer.status}")

        yield Reader(express.port, express.process.pid, readers, publish)


def express_contender(town: Settings, cores: Cores, scratch: Path, redis_url: str) -> Contender:
    """Return Express with its timelines, for /home with nothing new."""
    server = _express(town, redis_url)
    with running(server, cores.server, scratch) as express:
        cookie = _logged_in_to_express(express.port, f"p{READER}")
    home = Measure("town: Express /home, timelines in Redis", "/home", {"Cookie": cookie}, length=town.home_bytes)
    return Contender("town", server, [home])


def _express(town: Settings, redis_url: str) -> Server:
    """Return Express with the reader's timeline in Redis, and a followed person whom eleven follow."""
    followed = f"SELECT followed_id FROM follows WHERE follower_id = {READER}"
    posts = town.rows(
        "SELECT posts.id, json_object('id', posts.id, 'author', name, 'body', body, 'at', posts.created_at) FROM posts "
        f"JOIN users ON users.id = author_id WHERE author_id IN ({followed}) ORDER BY posts.id DESC LIMIT {KEPT}"
    )
    with Redis.from_url(redis_url) as redis, redis.pipeline() as pipe:
        pipe.flushdb()
        pipe.mset({f"post:{number}": post for number, post in posts} | {"posts": posts[0][0], "bench:page": ""})
        pipe.rpush(f"timeline:p{READER}", *(number for number, _ in posts))
        pipe.sadd(f"followers:p{FOLLOWED}", f"p{READER}", *(f"p{number}" for number in range(10, 20)))
        pipe.execute()
    length = str(town.home_bytes)
    return node({"REDIS_URL": redis_url, "SECRET_KEY": town.environ["SECRET_KEY"], "BENCH_LENGTH": length})


def _logged_in_to_express(port: int, name: str) -> str:
    return wire.get(port, f"/login/{name}").header("Set-Cookie").partition(";")[0]
