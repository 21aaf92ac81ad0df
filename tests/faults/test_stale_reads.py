"""Nobody is served a page from before an answered write: not by a process that was stopped, nor by any of many.

The readers ask Pipits that run as in production. Each process keeps copies of pages, and Redis tells it what changes.
"""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import count
from pathlib import Path

import pytest
from redis import Redis

from app.front.local_cache import COPY_LIFETIME
from app.front.redis_connection import NAME
from tests import servers
from tests.conftest import unavailable
from tests.faults.slow import worker_of
from tests.faults.traffic import Browser, visitors
from tests.rehearsal.addons import redis_addon
from tests.servers import PATIENCE, Pipit, wait_until

ROUNDS = 200  # of a stopped process; 1,000 take less than a minute
TLS_ROUNDS = 100
KILLED_ROUNDS = 30  # it takes a process half a second until it has copies again
POSTS = 40  # published while readers hammer
READERS, WAITING = 4, 6  # connections: of those who hammer, and of those who ask at the moment of the answer
PROMPT = 0.5  # s for a write; to wait for somebody would take a second
CACHE_TTL = 2  # s, with `expire`
PAUSE = 0.2  # s between two posts then; those that a reader may not see yet have to fit on a page


@dataclass
class Site:
    """Two Pipits of one process each on one database and one Redis: a reader is at one, the author at the other."""

    redis: Redis
    read: Pipit
    author: Browser
    token: str
    reader: HTTPConnection
    numbers: Iterator[int] = field(default_factory=count)

    def publish(self) -> tuple[str, float]:
        """Publish a post; return its text, and how long that took (s)."""
        body = f"Number {next(self.numbers)}."
        return body, publish(self.redis, self.author, self.token, body)

    def ask(self) -> None:
        self.reader.request("GET", "/")

    def answer(self) -> tuple[str, str]:
        """Return the page that was asked for, and how it was served."""
        response = self.reader.getresponse()
        page = response.read().decode()
        assert response.status == 200
        return page, response.headers["Cache-Status"]

    def is_copy(self) -> bool:
        self.ask()
        return "detail=memory" in self.answer()[1]

    def served_after_a_stop(self, meanwhile: Callable[[], object] = lambda: None) -> tuple[str, str, str]:
        """Have the reader's process, which has a copy, sleep through a post, and ask it before it wakes up.

        Returns the post, the page that was served, and how.
        """
        wait_until(self.is_copy, "a copy")
        with stopped(worker_of(self.read.process.pid)):
            meanwhile()
            body, _ = self.publish()
            self.ask()
        return body, *self.answer()


def publish(redis: Redis, author: Browser, token: str, body: str) -> float:
    """Publish a post, however many there were in this minute; return how long it took (s)."""
    for key in redis.scan_iter("limit:post:*"):
        redis.delete(key)
    author.get("/home")  # shows the flash message about the last one, or the session would fill up with them
    answer = author.send_form("/posts", token, body=body)
    assert answer.status == 302
    return answer.seconds


@contextmanager
def stopped(process_id: int) -> Iterator[None]:
    os.kill(process_id, signal.SIGSTOP)
    try:
        stat = Path(f"/proc/{process_id}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the process to stop")
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


@contextmanager
def running_site(folder: Path, redis: Redis, url: str) -> Iterator[Site]:
    with ExitStack() as stack:
        settings = {"WEB_CONCURRENCY": "1", "REDIS_TLS_VERIFY": "no"}
        read, write = (stack.enter_context(servers.pipit(folder, url, **settings)) for _ in range(2))
        (author,) = stack.enter_context(visitors([Browser(write.port)]))
        author.register("ada")
        reader = HTTPConnection("127.0.0.1", read.port, timeout=PATIENCE)
        stack.callback(reader.close)
        yield Site(redis, read, author, author.token("/home"), reader)


@pytest.fixture(scope="module")
def plain_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        server = stack.enter_context(servers.valkey())
        redis = stack.enter_context(Redis(port=server.port, decode_responses=True))
        folder, url = tmp_path_factory.mktemp("plain"), f"redis://127.0.0.1:{server.port}/0"
        yield stack.enter_context(running_site(folder, redis, url))


@pytest.fixture
def tls_site(tmp_path: Path) -> Iterator[Site]:
    missing = [program for program in ("openssl", "redis-server") if not shutil.which(program)]
    if missing:
        unavailable(f"not installed: {', '.join(missing)}")
    with ExitStack() as stack:
        addon = stack.enter_context(redis_addon(tmp_path / "redis"))
        redis = stack.enter_context(addon.client())
        yield stack.enter_context(running_site(tmp_path, redis, addon.url))


def test_a_process_that_was_stopped_reads_the_news_before_it_answers(plain_site: Site) -> None:
    served = [plain_site.served_after_a_stop() for _ in range(ROUNDS)]
    assert [how for body, page, how in served if body not in page] == []


def test_so_it_does_over_tls(tls_site: Site) -> None:
    served = [tls_site.served_after_a_stop() for _ in range(TLS_ROUNDS)]
    assert [how for body, page, how in served if body not in page] == []


def test_a_process_that_was_stopped_and_cut_off_from_redis_serves_no_copy(plain_site: Site) -> None:
    def cut_off() -> None:
        fronts = [client["id"] for client in plain_site.redis.client_list() if client["name"] == NAME]
        for front in fronts:  # the author's too
            plain_site.redis.client_kill_filter(_id=front)

    served = [plain_site.served_after_a_stop(cut_off) for _ in range(KILLED_ROUNDS)]
    assert [how for body, page, how in served if body not in page or "memory" in how] == []


@contextmanager
def stopped_reader(site: Site) -> Iterator[None]:
    with stopped(worker_of(site.read.process.pid)):
        yield


@contextmanager
def killed_reader(site: Site) -> Iterator[None]:
    site.reader.close()
    worker = worker_of(site.read.process.pid)
    os.kill(worker, signal.SIGKILL)
    yield
    wait_until(lambda: site.read.log.read_text().count("Booting worker") == 2, "another worker")
    wait_until(lambda: servers.answers(f"{site.read.url}/healthz"), "it to answer")


@contextmanager
def deaf_strangers(site: Site) -> Iterator[None]:
    """Have two clients of Redis ask to be told of everything, and never read it."""
    port = site.redis.connection_pool.connection_kwargs["port"]
    with ExitStack() as stack:
        tracking, subscribed = (stack.enter_context(socket.socket()) for _ in range(2))
        for one in (tracking, subscribed):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", port))
        tracking.sendall(b"HELLO 3\r\nCLIENT TRACKING ON BCAST\r\n")
        subscribed.sendall(b"PSUBSCRIBE *\r\n")
        wait_until(lambda: site.redis.info("clients")["tracking_clients"] == 3, "it to be tracked")
        yield


@pytest.mark.parametrize("trouble", [stopped_reader, deaf_strangers, killed_reader])
def test_no_write_waits_for_a_process_that_does_not_listen(
    plain_site: Site, trouble: Callable[[Site], AbstractContextManager[None]]
) -> None:
    wait_until(plain_site.is_copy, "a copy")
    with trouble(plain_site):
        took = [plain_site.publish()[1] for _ in range(20)]
    assert max(took) < PROMPT


@pytest.fixture(params=["invalidate", "refresh"])
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def running_crowd(folder: Path, redis: Redis, url: str, workers: tuple[int, ...], **environ: str) -> Iterator["Crowd"]:
    """Run a Pipit for each number of workers, on one database, and give a crowd of visitors to all of them."""
    with ExitStack() as stack:
        ports = [
            stack.enter_context(servers.pipit(folder, url, WEB_CONCURRENCY=str(number), **environ)).port
            for number in workers
        ]
        authors = stack.enter_context(visitors([Browser(port) for port in ports]))
        authors[0].register("ada")
        token = authors[0].token("/home")
        for author in authors[1:]:
            author.cookies.update(authors[0].cookies)
        readers = stack.enter_context(visitors([Browser(ports[number % len(ports)]) for number in range(READERS)]))
        readers[0].cookies.update(authors[0].cookies)  # the author's other browser
        readers[1].register("bob")
        readers[1].get("/home")  # the flash message that welcomes him
        waiting = stack.enter_context(visitors([Browser(ports[number % len(ports)]) for number in range(WAITING)]))
        yield Crowd(redis, authors, token, readers, waiting)


@dataclass
class Crowd:
    """Authors and readers of one site."""

    redis: Redis
    authors: list[Browser]  # all are one person
    token: str
    readers: list[Browser]
    waiting: list[Browser]
    answered: list[tuple[float, int]] = field(default_factory=list)  # when, and which number
    checks: int = 0
    stale: list[str] = field(default_factory=list)
    hits: int = 0
    copies: int = 0

    def publish_while_they_read(self, seconds_old: float = 0) -> None:
        """Publish POSTS, and see that all readers get what was answered for so long before they asked."""
        done = threading.Event()
        threads = [threading.Thread(target=self._read_on, args=(reader, done, seconds_old)) for reader in self.readers]
        for thread in threads:
            thread.start()
        try:
            for number in range(POSTS):
                publish(self.redis, self.authors[number % len(self.authors)], self.token, f"Number {number:03}.")
                self.answered.append((time.monotonic(), number))
                if seconds_old:
                    done.wait(PAUSE)
                else:
                    self._ask_at_once(number)
        finally:
            done.set()
            for thread in threads:
                thread.join(PATIENCE)

    def _ask_at_once(self, number: int) -> None:
        connections = [browser.connection for browser in self.waiting if browser.connection]
        for connection in connections:
            connection.request("GET", "/")
        for connection in connections:
            response = connection.getresponse()
            self._check(response.read().decode(), number, response.headers["Cache-Status"])
        if not connections:  # the first time
            for browser in self.waiting:
                browser.get("/")

    def _read_on(self, reader: Browser, done: threading.Event, seconds_old: float) -> None:
        try:
            for look in count(1):
                asked_at = time.monotonic()
                due = [number for at, number in self.answered[-30:] if at + seconds_old <= asked_at]
                answer = reader.get("/")
                self._check(answer.text, due[-1] if due else None, answer.cache_status)
                if done.is_set():
                    return
                if look % 50 == 0:
                    reader.hang_up()  # and go on at another process, perhaps
        except Exception as error:  # noqa: BLE001  # the test fails with it
            self.stale.append(repr(error))

    def _check(self, page: str, number: int | None, how: str) -> None:
        self.checks += 1
        self.hits += "hit" in how
        self.copies += "memory" in how
        if number is not None and f"Number {number:03}." not in page:
            self.stale.append(f"without number {number}: {how}")


@pytest.mark.parametrize("workers", [(2,), (4,), (1, 1)], ids=["two", "four", "two dynos"])
def test_once_a_post_is_answered_for_every_later_reader_gets_it(
    tmp_path: Path, redis: Redis, redis_url: str, strategy: str, workers: tuple[int, ...]
) -> None:
    with running_crowd(tmp_path, redis, redis_url, workers, CACHE_STRATEGY=strategy) as crowd:
        crowd.publish_while_they_read()
    assert crowd.stale == []
    assert crowd.checks > 500
    assert crowd.copies > 50


def test_with_expire_a_page_is_as_old_as_its_life_at_most_but_for_its_author(
    tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    settings = {"CACHE_STRATEGY": "expire", "CACHE_TTL": str(CACHE_TTL)}
    with running_crowd(tmp_path, redis, redis_url, (2,), **settings) as crowd:
        (author,) = crowd.authors
        crowd.publish_while_they_read(seconds_old=CACHE_TTL + COPY_LIFETIME)
        for number in range(POSTS):
            body = f"To be seen by its author, {number}."
            publish(redis, author, crowd.token, body)
            assert body in author.get("/").text
            assert body in author.hang_up().get("/@ada").text
    assert crowd.stale == []
    assert crowd.copies > 100
