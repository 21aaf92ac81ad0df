"""Many processes read and write the same pages at random: nobody is served a page older than an acknowledged write.

The database is one number a page in shared memory; a write adds one. A write is acknowledged when `changing()` has
ended. Whoever asks for a page after that must get that number or a later one, whatever the other processes do at the
time, and whether Redis forgets everything, hangs up or a writer is killed in the middle of it.
"""

import asyncio
import ctypes
import fcntl
import multiprocessing
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis import Redis

from app import cache as cache_module
from app.cache import STRATEGIES, Page, PageCache, PageKind
from app.config import Config, parse_redis_url
from app.front.local_cache import COPY_LIFETIME, LocalCache
from app.redis_client import Store, StoreUnavailableError
from tests.faults.front import kept_true, read

SEED = 20240229
SECONDS = 1.5  # of stress; some thousands of rounds
PROCESSES = 4
READERS, WRITERS = 3, 2  # in each process
PAGES = 3  # few, so that everybody meets
PAGE = PageKind("page")
SOON_FORGOTTEN = 300  # ms for which a dead writer's mark lives here; long enough for the living
# What each process counts, a row for each.
COUNTED = ("reads", "hits", "copies", "stored", "writes", "refused", "stale", "old checks", "too old")
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

    def store_if_ours(self, name: str, token: bytes, page: Page, run_id: str) -> bool:
        with self.store.commands() as redis:
            redis.set(self.key(name), self.encode(page, run_id), ex=self.ttl)
        return True


class NoCopies(LocalCache):
    """A front that asks Redis each time."""

    def get(self, name: str) -> None:
        return None


class DeafCopies(LocalCache):
    """Copies that hear of no change, though the proof that they would succeeds."""

    def _on_push(self, push: list[Any]) -> None:
        if push[1] == [self._proof_key.encode()]:
            super()._on_push(push)


@dataclass(frozen=True)
class Worker:
    """One process: it reads and writes at random until it is told to stop."""

    number: int
    url: str
    strategy: str
    cache: type[PageCache]
    copies: type[LocalCache]
    table: Table
    start: Any
    stop: Flag
    is_doomed: bool  # its children do the work, and are killed in the middle of it
    writers: int

    def run(self) -> None:
        self.start.wait(PATIENCE)
        if self.is_doomed:
            self._have_children_killed()
        else:
            uvloop.run(self._work(SEED + self.number))

    def _have_children_killed(self) -> None:
        cache_module.WRITE_LEASE = SOON_FORGOTTEN
        chance = random.Random(SEED + self.number)
        generation = 0
        while not self.stop.is_set():
            generation += 1
            child = os.fork()
            if child == 0:
                try:
                    uvloop.run(self._work(SEED + self.number + 1000 * generation))
                finally:
                    os._exit(0)
            pause(chance.uniform(0.01, 0.08))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    async def _work(self, seed: int) -> None:
        chance = random.Random(seed)
        store = Store(Config(parse_redis_url(self.url), "", "", redis_max_connections=READERS + WRITERS + 2))
        cache = self.cache(store, STRATEGIES[self.strategy](), 60, "v1")

        def build(page: str) -> str:
            number = int(self.table.committed[int(page)])
            if chance.random() < 0.5:
                pause(chance.uniform(0, 0.004))  # the worst moment: it has read, and not stored
            return str(number)

        cache.register(PAGE, build)
        copies = self.copies(cache)
        with ThreadPoolExecutor(READERS + WRITERS) as threads:
            async with kept_true(copies):
                readers = [self._read_on(copies, cache, threads, chance) for _ in range(READERS)]
                writers = [self._write_on(cache, threads, chance) for _ in range(self.writers)]
                await asyncio.gather(*readers, *writers)
        store.close()

    async def _write_on(self, cache: PageCache, threads: ThreadPoolExecutor, chance: random.Random) -> None:
        loop = asyncio.get_running_loop()
        while not self.stop.is_set():
            await loop.run_in_executor(threads, self._write, cache, chance.randrange(PAGES), chance)
            await asyncio.sleep(chance.choice((0, 0.005, 0.01)))

    def _write(self, cache: PageCache, page: int, chance: random.Random) -> None:
        try:
            with cache.changing(PAGE(page)):
                pause(chance.choice((0, 0, 0.002)))
                number = self.table.commit(page)
                pause(chance.choice((0, 0, 0.002)))
        except StoreUnavailableError:
            self.table.count(self.number, "refused")
            return
        self.table.acknowledge(page, number)
        self.table.count(self.number, "writes")

    async def _read_on(
        self, copies: LocalCache, cache: PageCache, threads: ThreadPoolExecutor, chance: random.Random
    ) -> None:
        while not self.stop.is_set():
            page = chance.randrange(PAGES)
            floor, old_floor = int(self.table.acknowledged[page]), int(self.table.long_acknowledged[page])
            status, body = await read(copies, cache, threads, PAGE(page))
            self._check(int(body), floor, old_floor, status)
            await asyncio.sleep(chance.choice((0, 0, 0, 0.001)))

    def _check(self, number: int, floor: int, old_floor: int, status: str) -> None:
        seen = {
            "reads": True,
            "hits": "hit" in status,
            "copies": "memory" in status,
            "stored": "stored" in status,
            "stale": number < floor,
            "old checks": old_floor > 0,
            "too old": number < old_floor,
        }
        for what, is_so in seen.items():
            if is_so:
                self.table.count(self.number, what)


def pause(seconds: float) -> None:
    if seconds:
        select.select([], [], [], seconds)


@dataclass(frozen=True)
class Stress:
    """What one kind of stress is put on."""

    table: Table
    url: str
    strategy: str
    cache: type[PageCache] = PageCache
    copies: type[LocalCache] = LocalCache
    doomed: int = 0  # processes that are killed over and over; then only they write

    def run(
        self,
        meanwhile: Callable[[], object] = lambda: None,
        enough: Callable[[], bool] = lambda: False,
        seconds: float = SECONDS,
        least_copies: int = 0,
    ) -> None:
        """Let the processes work for so long, or until it is enough; on a busy machine longer: it has to be a test."""
        context = multiprocessing.get_context("spawn")
        start, stop = context.Barrier(PROCESSES + 1), Flag()
        processes = [
            context.Process(target=self._worker(number, start, stop).run, daemon=True) for number in range(PROCESSES)
        ]
        try:
            for process in processes:
                process.start()
            start.wait(PATIENCE)
            end = time.monotonic() + seconds
            while not enough() and (time.monotonic() < end or not self._was_a_test(least_copies)):
                assert time.monotonic() < end + PATIENCE, "the processes hardly get on"
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

    def _was_a_test(self, least_copies: int) -> bool:
        """Return whether there was enough reading and writing, and a cache that took part in it."""
        counted = self.table.total
        return (
            counted("reads") > 500
            and counted("writes") > 25
            and counted("stored") + counted("hits") > 100
            and counted("copies") >= least_copies
        )

    def _worker(self, number: int, start: Any, stop: Flag) -> Worker:
        is_doomed = number < self.doomed
        writers = WRITERS if is_doomed or not self.doomed else 0
        return Worker(
            number, self.url, self.strategy, self.cache, self.copies, self.table, start, stop, is_doomed, writers
        )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table.empty(tmp_path)


@pytest.fixture(params=["invalidate", "refresh"])
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[NoCopies, LocalCache], ids=["redis alone", "with copies"])
def copies(request: pytest.FixtureRequest) -> Any:
    return request.param


def assert_nothing_stale(table: Table) -> None:
    totals = {what: table.total(what) for what in COUNTED}
    assert totals["stale"] == 0, totals


def test_nobody_is_served_a_page_older_than_an_acknowledged_write(
    table: Table, redis: Redis, redis_url: str, strategy: str, copies: type[LocalCache]
) -> None:
    Stress(table, redis_url, strategy, copies=copies).run(least_copies=100 if copies is LocalCache else 0)
    assert_nothing_stale(table)
    assert table.total("refused") == 0


def test_nor_when_redis_forgets_everything_or_hangs_up_at_random(
    table: Table, redis: Redis, redis_url: str, strategy: str, copies: type[LocalCache]
) -> None:
    chance = random.Random(SEED)

    def disturb() -> None:
        if chance.random() < 0.1:
            redis.flushall()
        if chance.random() < 0.1:
            hang_up(redis, "pipit")
        if chance.random() < 0.02:  # it takes half a second until there are copies again
            hang_up(redis, "pipit-front")

    stress = Stress(table, redis_url, strategy, copies=copies)
    stress.run(disturb, seconds=2 * SECONDS, least_copies=20 if copies is LocalCache else 0)
    assert_nothing_stale(table)


def hang_up(redis: Redis, name: str) -> None:
    """Have Redis close all connections of that name."""
    for client in redis.client_list():
        if client["name"] == name:
            redis.client_kill_filter(_id=client["id"])


def test_nor_when_writers_are_killed_in_the_middle_of_a_write(
    table: Table, redis: Redis, redis_url: str, strategy: str, copies: type[LocalCache]
) -> None:
    Stress(table, redis_url, strategy, copies=copies, doomed=2).run()
    assert_nothing_stale(table)


def test_when_news_is_lost_a_copy_is_a_second_old_at_most(
    table: Table, redis: Redis, redis_url: str, strategy: str
) -> None:
    """The bounded worst case. It also shows that copies which no news drops would not pass the tests above."""
    Stress(table, redis_url, strategy, copies=DeafCopies).run(seconds=2 * SECONDS)
    totals = {what: table.total(what) for what in COUNTED}
    assert totals["stale"] > 0, totals
    assert totals["old checks"] > 500, totals
    assert totals["too old"] == 0, totals


def test_a_cache_without_leases_does_not_pass(table: Table, redis: Redis, redis_url: str, strategy: str) -> None:
    stress = Stress(table, redis_url, strategy, CarelessCache, NoCopies)
    stress.run(enough=lambda: table.total("stale") > 0, seconds=PATIENCE)
    assert table.total("stale") > 0, {what: table.total(what) for what in COUNTED}


def test_a_writer_that_has_read_before_anothers_commit_does_not_store_what_it_builds(
    redis: Redis, redis_url: str, strategy: str
) -> None:
    """What the stress found first, step by step: with `refresh`, both writers build, and one must not store."""
    stores = [Store(Config(parse_redis_url(redis_url), "", "", redis_max_connections=5)) for _ in range(2)]
    first, second = (PageCache(store, STRATEGIES[strategy](), 60, "v1") for store in stores)
    posts: list[str] = []
    earlier = first.changing(PAGE())

    def build_while_the_other_ends(_which: str) -> str:
        page = " ".join(posts)
        if "first" not in posts:
            posts.append("first")
            earlier.__exit__(None, None, None)
        return page

    first.register(PAGE, lambda _which: " ".join(posts))
    second.register(PAGE, build_while_the_other_ends)
    earlier.__enter__()
    with second.changing(PAGE()):
        posts.append("second")
    second.get_or_build(PAGE())
    assert first.get_or_build(PAGE()).page.body == "second first"
    assert redis.exists("page:page:lease") == 0
    for store in stores:
        store.close()
