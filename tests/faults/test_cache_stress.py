"""Many processes read and write the same pages at random: nobody is served a page older than an acknowledged write.

The database is one number a page in shared memory; a write adds one. A write is acknowledged when `changing()` has
ended. Whoever asks for a page after that must get that number or a later one, whatever the other processes do at the
time, and whether Redis forgets everything, hangs up or a writer is killed in the middle of it.
"""

import ctypes
import fcntl
import multiprocessing
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from app import cache as cache_module
from app.cache import COPY_LIFETIME, STRATEGIES, Page, PageCache
from app.config import Config, parse_redis_url
from app.redis_client import Store, StoreUnavailableError
from tests import servers
from tests.faults.traffic import Browser, visitors
from tests.servers import wait_until

SEED = 20240229
SECONDS = 1.5  # of stress; some thousands of rounds
PROCESSES = 4
PAGES = 3  # few, so that everybody meets
POSTS = 30
# What each process counts, a row for each.
COUNTED = ("reads", "hits", "copies", "stored", "writes", "refused", "stale", "too old", "served", "floor")
PATIENCE = 25  # s


@dataclass(frozen=True)
class Table:
    """The database, what was acknowledged of it, and what the processes count: numbers in shared memory."""

    committed: Any
    acknowledged: Any
    noted: Any  # what had been acknowledged at the moment `noted_at`
    noted_at: Any
    long_acknowledged: Any  # what had been acknowledged more than the life of a copy ago
    counts: Any
    lock: Path  # a file lock, because it ends with its holder

    @classmethod
    def empty(cls, folder: Path) -> "Table":
        lock = folder / "lock"
        lock.touch()
        committed, acknowledged, noted, long_acknowledged, counts = (
            RawArray(ctypes.c_longlong, size) for size in (PAGES, PAGES, PAGES, PAGES, PROCESSES * len(COUNTED))
        )
        return cls(committed, acknowledged, noted, RawArray(ctypes.c_double, PAGES), long_acknowledged, counts, lock)

    def commit(self, page: int) -> int:
        """Add one, and return the number."""
        with self._locked():
            self.committed[page] += 1
            return int(self.committed[page])

    def acknowledge(self, page: int, number: int) -> None:
        with self._locked():
            self.acknowledged[page] = max(self.acknowledged[page], number)
            now = time.monotonic()
            if now - self.noted_at[page] > COPY_LIFETIME + 0.5:  # what was acknowledged so long ago everyone must see
                self.long_acknowledged[page], self.noted[page] = self.noted[page], self.acknowledged[page]
                self.noted_at[page] = now

    def count(self, process: int, what: str, number: int | None = None) -> None:
        """Add one to a count, or set it to the number."""
        place = process * len(COUNTED) + COUNTED.index(what)
        self.counts[place] = self.counts[place] + 1 if number is None else number

    def total(self, what: str) -> int:
        return sum(self.counts[COUNTED.index(what) :: len(COUNTED)])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Flag:
    """Set once, seen by all. An Event has a lock, and a process killed while it looked would take that with it."""

    def __init__(self) -> None:
        self._value = RawArray(ctypes.c_int, 1)

    def set(self) -> None:
        self._value[0] = 1

    def is_set(self) -> bool:
        return bool(self._value[0])


class CarelessCache(PageCache):
    """What a cache without leases does: who has built a page stores it."""

    def store_if_ours(self, name: str, token: bytes, page: Page, run: str) -> bool:
        with self.store.commands() as redis:
            redis.set(self._key(name), self._encode(page, run), ex=self.ttl)
        return True


class UntoldCache(PageCache):
    """What copies are worth if nobody tells the processes of a write."""

    def _drop_copies(self, names: tuple[str, ...]) -> None:
        pass


@dataclass(frozen=True)
class Worker:
    """One process: it reads and writes at random until it is told to stop."""

    number: int
    url: str
    strategy: str
    kind: type[PageCache]
    table: Table
    start: Any
    stop: Flag
    copies: bool
    dies: bool = False  # lets its children do the work, and kills them in the middle of it

    def run(self) -> None:
        self.start.wait(PATIENCE)
        if self.dies:
            self._have_children_killed()
        else:
            self._work(random.Random(SEED + self.number), writes_in_ten=2)

    def _have_children_killed(self) -> None:
        cache_module.WRITE_LEASE = 100  # ms: a page that a dead writer marked is soon worth reading again
        chance = random.Random(SEED + self.number)
        generation = 0
        while not self.stop.is_set():
            generation += 1
            child = os.fork()
            if child == 0:
                try:
                    self._work(random.Random(SEED + self.number + 1000 * generation), writes_in_ten=9)
                finally:
                    os._exit(0)
            pause(chance.uniform(0.005, 0.06))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _work(self, chance: random.Random, writes_in_ten: int) -> None:
        store = Store(Config(parse_redis_url(self.url), "", ""))
        cache = self.kind(store, STRATEGIES[self.strategy](), 60, "v1")

        def build(page: str) -> str:
            number = int(self.table.committed[int(page)])
            if chance.random() < 0.5:
                pause(chance.uniform(0, 0.004))  # the worst moment: it has read, and not stored
            return str(number)

        cache.register({"page": build})
        if self.copies:  # as a web process keeps them
            cache.listen()
        while not self.stop.is_set():
            page = chance.randrange(PAGES)
            if chance.randrange(10) < writes_in_ten:
                self._write(cache, page, chance)
            else:
                self._read(cache, page)
        store.close()

    def _write(self, cache: PageCache, page: int, chance: random.Random) -> None:
        try:
            with cache.changing(f"page:{page}"):
                pause(chance.choice((0, 0, 0.002)))
                number = self.table.commit(page)
                pause(chance.choice((0, 0, 0.002)))
        except StoreUnavailableError:
            self.table.count(self.number, "refused")
            return
        self.table.acknowledge(page, number)
        self.table.count(self.number, "writes")

    def _read(self, cache: PageCache, page: int) -> None:
        floor, old_floor = int(self.table.acknowledged[page]), int(self.table.long_acknowledged[page])
        served = cache.get_or_build(f"page:{page}")
        self.table.count(self.number, "reads")
        if "hit" in served.status:
            self.table.count(self.number, "hits")
        if "memory" in served.status:
            self.table.count(self.number, "copies")
        if "stored" in served.status:
            self.table.count(self.number, "stored")
        if int(served.page.body) < old_floor:
            self.table.count(self.number, "too old")
        if int(served.page.body) < floor:
            self.table.count(self.number, "served", int(served.page.body))
            self.table.count(self.number, "floor", floor)
            self.table.count(self.number, "stale")


def pause(seconds: float) -> None:
    if seconds:
        select.select([], [], [], seconds)


def stress(
    table: Table,
    url: str,
    strategy: str,
    kind: type[PageCache] = PageCache,
    meanwhile: Callable[[], object] | None = None,
    enough: Callable[[], bool] = lambda: False,
    dying: int = 0,
    copies: bool = True,
) -> None:
    """Let the processes work for SECONDS, or until it is enough; the first `dying` of them are killed over and over."""
    context = multiprocessing.get_context("spawn")
    start, stop = context.Barrier(PROCESSES + 1), Flag()
    workers = [
        Worker(number, url, strategy, kind, table, start, stop, copies, dies=number < dying)
        for number in range(PROCESSES)
    ]
    processes = [context.Process(target=worker.run, daemon=True) for worker in workers]
    try:
        for process in processes:
            process.start()
        start.wait(PATIENCE)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not enough():
            if meanwhile:
                meanwhile()
            pause(0.01)
    finally:
        stop.set()
        for process in processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.empty(tmp_path)


@pytest.fixture(params=["invalidate", "refresh"])
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["redis alone", "with copies"])
def copies(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def assert_nothing_stale(table: Table, reads: int = 500) -> None:
    assert table.total("stale") == 0, {what: table.total(what) for what in COUNTED}
    assert table.total("reads") > reads
    assert table.total("writes") > reads / 10
    assert table.total("stored") + table.total("hits") > reads / 10  # or this was no test of a cache


# A writer that waits in vain for a process that was killed or cut off, waits a second: so there are fewer rounds.
DISTURBED = 30


def test_nobody_is_served_a_page_older_than_an_acknowledged_write(
    table: Table, redis: Redis, redis_url: str, strategy: str, copies: bool
) -> None:
    stress(table, redis_url, strategy, copies=copies)
    assert_nothing_stale(table)
    assert table.total("refused") == 0
    assert (table.total("copies") > 100) == copies


def test_nor_when_redis_forgets_everything_or_hangs_up_at_random(
    table: Table, redis: Redis, redis_url: str, strategy: str, copies: bool
) -> None:
    chance = random.Random(SEED)

    def disturb() -> None:
        if chance.random() < 0.5:
            redis.flushall()
        if chance.random() < 0.5:
            redis.client_kill_filter(_type="normal", skipme=True)

    stress(table, redis_url, strategy, meanwhile=disturb, copies=copies)
    assert_nothing_stale(table, DISTURBED if copies else 500)


def test_when_messages_are_lost_a_copy_is_a_second_old_at_most(
    table: Table, redis: Redis, redis_url: str, strategy: str
) -> None:
    """The bounded worst case: Redis has cut a process off from its messages, and the process has not noticed yet."""
    chance = random.Random(SEED)

    def cut_off() -> None:
        if chance.random() < 0.5:
            redis.client_kill_filter(_type="pubsub", skipme=True)

    stress(table, redis_url, strategy, meanwhile=cut_off)
    assert table.total("reads") > DISTURBED
    assert table.total("too old") == 0, {what: table.total(what) for what in COUNTED}


def test_nor_when_writers_are_killed_in_the_middle_of_a_write(
    table: Table, redis: Redis, redis_url: str, strategy: str, copies: bool
) -> None:
    stress(table, redis_url, strategy, dying=2, copies=copies)
    assert_nothing_stale(table, DISTURBED if copies else 500)


def test_a_cache_without_leases_does_not_pass(table: Table, redis: Redis, redis_url: str, strategy: str) -> None:
    stress(table, redis_url, strategy, CarelessCache, enough=lambda: table.total("stale") > 0, copies=False)
    assert table.total("stale") > 0, {what: table.total(what) for what in COUNTED}


def test_copies_that_no_write_drops_do_not_pass(table: Table, redis: Redis, redis_url: str, strategy: str) -> None:
    stress(table, redis_url, strategy, UntoldCache, enough=lambda: table.total("stale") > 0)
    assert table.total("stale") > 0, {what: table.total(what) for what in COUNTED}


def test_a_writer_that_has_read_before_anothers_commit_does_not_store_what_it_builds(
    redis: Redis, redis_url: str, strategy: str
) -> None:
    """What the stress found first, step by step: with `refresh`, both writers build, and one must not store."""
    stores = [Store(Config(parse_redis_url(redis_url), "", "")) for _ in range(2)]
    first, second = (PageCache(store, STRATEGIES[strategy](), 60, "v1") for store in stores)
    posts: list[str] = []
    earlier = first.changing("page")

    def build_while_the_other_ends(_which: str) -> str:
        page = " ".join(posts)
        if "first" not in posts:
            posts.append("first")
            earlier.__exit__(None, None, None)
        return page

    first.register({"page": lambda _which: " ".join(posts)})
    second.register({"page": build_while_the_other_ends})
    earlier.__enter__()
    with second.changing("page"):
        posts.append("second")
    second.get_or_build("page")
    assert first.get_or_build("page").page.body == "second first"
    assert redis.exists("page:page:lease") == 0
    for store in stores:
        store.close()


@pytest.mark.parametrize("dynos", [1, 2])
def test_once_a_post_is_answered_for_every_later_reader_gets_it(
    tmp_path: Path, redis: Redis, redis_url: str, strategy: str, dynos: int
) -> None:
    with ExitStack() as stack:
        settings = {"CACHE_STRATEGY": strategy, "WEB_CONCURRENCY": str(3 - dynos)}
        ports = [stack.enter_context(servers.pipit(tmp_path, redis_url, **settings)).port for _ in range(dynos)]
        writers = stack.enter_context(visitors([Browser(port) for port in ports]))
        writers[0].register("ada")
        for other in writers[1:]:
            other.cookies.update(writers[0].cookies)
        readers = stack.enter_context(visitors([Browser(ports[number % dynos]) for number in range(6)]))
        for reader in readers[4:]:  # the first four are anonymous
            reader.cookies.update(session=writers[0].cookies["session"])
        _publish_while_they_read(writers, readers)


def _publish_while_they_read(writers: list[Browser], readers: list[Browser]) -> None:
    answered: list[str] = []
    wrong: list[str] = []
    looks: list[str] = []
    done = threading.Event()

    def read(reader: Browser) -> None:
        try:
            while not done.is_set():
                due = answered[-1:]
                answer = reader.get("/")
                looks.append(answer.cache_status)
                if answer.status != 200 or not all(f"Number {word}." in answer.text for word in due):
                    wrong.append(f"{answer.status} {due} {answer.cache_status}")
                if len(looks) % 5 == 0:
                    reader.hang_up()  # and go on at another process, perhaps
        except Exception as error:  # noqa: BLE001  # the test fails with it below
            wrong.append(repr(error))

    threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    token = writers[0].token("/home")
    for thread in threads:
        thread.start()
    try:
        for number in range(POSTS):
            word = f"{number:03}"
            assert writers[number % len(writers)].send_form("/posts", token, body=f"Number {word}.").status == 302
            answered.append(word)
            wait_until(lambda: wrong or len(looks) >= 4 * len(answered), "readers to look")
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert wrong == []
    assert any("hit" in look for look in looks)
