"""Copies of cached pages in a process's memory, kept current by Redis itself.

Redis remembers which keys the front's connection has read, and sends a push message when one changes (server-assisted
client-side caching, https://redis.io/docs/latest/develop/reference/client-side-caching/). What this guarantees:

- Replies and pushes arrive in order on one connection. A push that arrives while a reply waits for its batch's PING is
  replayed after that reply. So no push is missed.
- A write deletes the page before it commits, or flags it. By then every process has dropped its copy, and none keeps
  another until the write is settled: no page can be stored meanwhile, and one with a flag is served but not kept. The
  writer waits until Redis has sent the pushes (PageCache.wait_until_told).
- The front answers every request at least one turn of the loop after it read the request. So a process that was stopped
  reads the pushes before it answers.
- Redis tracks only pages that exist, or did a moment ago (tracking is OPTIN), and forgets them when they go. It would
  track a missing page for ever, so a client that asks for a hundred thousand missing pages could fill it.
- A copy expires COPY_LIFETIME after the front asked for it, even if a push was lost. While it has copies, the process
  also changes a small key once a second, through the pool, as writers do. If no push follows, the process keeps no
  copies until one does.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from app.cache import WRITING, PageCache
from app.front.redis_connection import LostError, RedisConnection, RedisLink
from app.front.responses import PageResponses, SplitPage
from app.redis_client import COMMAND_TIMEOUT, StoreUnavailableError

T = TypeVar("T")

log = logging.getLogger(__name__)

COPY_LIFETIME = 1.0  # s since the front asked Redis for the page: the age limit of a copy if a push is lost
MOST_BYTES = 4_000_000  # of copies in one process
OVERHEAD = 2_000  # bytes that a copy takes beside its page, and the page's compressed form
MOST_SEEN = 5_000  # names of pages that are known to exist
PROOF_INTERVAL = 1.0  # s between two proofs that pushes arrive
PROOF_KEY_LIFETIME = 10_000  # ms; so that a dead process leaves nothing behind


@dataclass(slots=True)
class Copy:
    """A page in memory."""

    head: bytes  # its first line in Redis: the same line is the same page
    responses: PageResponses
    expires: float  # on the loop's clock
    size: int  # bytes


@dataclass(slots=True)
class Found:
    """The result of a lookup."""

    responses: PageResponses | None
    missed: bool  # Redis answered that it does not have the page


@dataclass(slots=True)
class Lookup:
    """A question for a page; many requests may wait for its result."""

    found: "asyncio.Future[Found]"
    tracked: bool = False  # Redis will push a message when the page changes
    batch: int = 0  # the number of the batch that contains it
    asked_at: float = 0.0


UNKNOWN = Found(None, missed=False)
MISSED = Found(None, missed=True)


class LocalCache:
    """The copies of one process."""

    def __init__(self, cache: PageCache) -> None:
        cache.dictionary  # noqa: B018  # made now, while nobody waits for it
        self._cache = cache
        self._store = cache.store
        self._loop = asyncio.get_running_loop()
        self._copies: OrderedDict[str, Copy] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._seen: OrderedDict[str, None] = OrderedDict()  # names of pages that were in Redis, oldest first
        self._flying: dict[str, Lookup] = {}  # at most one for a page
        self._waiting: dict[str, Lookup] = {}  # to be sent when that one is back
        self._proof_name = f"front:{secrets.token_hex(8)}"
        self._proof = asyncio.Event()
        self._proven = False  # pushes arrive on this connection
        self.link = RedisLink(self._store, self._on_push, self._on_lost)

    def get(self, name: str) -> PageResponses | None:
        """Return the responses of the page's copy, or None if no copy may be served."""
        return self.get_all((name,)).get(name)

    def get_all(self, names: Iterable[str]) -> dict[str, PageResponses]:
        """Return the responses of those of these pages whose copies may be served, by name."""
        connection = self.link.connection
        if connection is None or not connection.usable:
            return {}
        found, now = {}, self._loop.time()
        for name in names:
            copy = self._copies.get(name)
            if copy is not None and now < copy.expires:
                self._copies.move_to_end(name)
                found[name] = copy.responses
        return found

    def look_up(self, name: str, connection: RedisConnection) -> "asyncio.Future[Found]":
        """Ask Redis for a page, and keep a copy if it may be kept.

        For each page at most one lookup is on its way, and one waits to be sent. A request never joins a lookup that
        was sent before the request came: the result may be older than a write that the visitor has seen.
        """
        flying = self._flying.get(name)
        if flying is None:
            flying = Lookup(self._loop.create_future())
            self._ask(name, flying, connection)
        if flying.batch > connection.written:
            return flying.found
        if name not in self._waiting:
            self._waiting[name] = Lookup(self._loop.create_future())
        return self._waiting[name].found

    async def prove_pushes(self) -> None:
        """Prove once that pushes arrive, if that is needed, and wait until the next proof is due."""
        connection = self.link.connection
        if connection and self.link.tracks and (self._copies or not self._proven):
            was_proven = self._proven
            proven = await self._is_pushed(connection)
            self._proven = proven and self.link.connection is connection and connection.usable
            if not self._proven:
                self.drop_all()
                if was_proven:
                    log.warning("Redis no longer sends invalidations: no page is kept in memory until it does")
                    connection.close(LostError("no push came"))
        await asyncio.sleep(PROOF_INTERVAL if self._proven else PROOF_INTERVAL / 4)

    def drop_all(self) -> None:
        """Drop all copies."""
        self._copies.clear()
        self._bytes = 0

    async def _is_pushed(self, connection: RedisConnection) -> bool:
        """Return whether Redis pushes a change that the pool made to the connection."""
        self._proof.clear()
        tracked: asyncio.Future[Any] = self._loop.create_future()
        connection.track_next()
        connection.ask(lambda reply: _settle(tracked, reply), "EXISTS", self._proof_key)
        if isinstance(await tracked, Exception):
            return False
        try:
            async with asyncio.timeout(2 * COMMAND_TIMEOUT):
                await self._loop.run_in_executor(None, self._change_proof_key)
            async with asyncio.timeout(COMMAND_TIMEOUT):
                await self._proof.wait()
        except (TimeoutError, StoreUnavailableError):
            return False
        return True

    def _change_proof_key(self) -> None:
        with self._store.commands() as redis:
            redis.set(self._proof_key, "", px=PROOF_KEY_LIFETIME)

    @property
    def _proof_key(self) -> str:
        return self._store.key(self._proof_name)  # whose beginning is known once there is a connection

    def _ask(self, name: str, lookup: Lookup, connection: RedisConnection) -> None:
        lookup.batch = connection.written + 1
        lookup.asked_at = self._loop.time()
        self._flying[name] = lookup
        lookup.tracked = self.link.tracks and name in self._seen
        if lookup.tracked:
            connection.track_next()
        connection.ask(lambda reply: self._on_reply(name, lookup, connection, reply), "GET", self._cache.key(name))

    def _on_reply(self, name: str, lookup: Lookup, connection: RedisConnection, reply: Any) -> None:
        """Keep the page if allowed; at once, before any push is replayed after this reply."""
        del self._flying[name]
        waiting = self._waiting.pop(name, None)
        is_answer = reply is None or isinstance(reply, bytes)
        if waiting and is_answer:
            self._ask(name, waiting, connection)
        elif waiting:
            _settle(waiting.found, UNKNOWN)
        _settle(lookup.found, self._found(name, lookup, reply) if is_answer else UNKNOWN)

    def _found(self, name: str, lookup: Lookup, value: bytes | None) -> Found:
        if value is None:
            self._seen.pop(name, None)
            return MISSED
        head = value[1 : value.find(b"\n")]
        known = self._copies.get(name)
        if known and known.head == head:
            split = known.responses.split
        else:
            page = self._cache.decode(value, self.link.run_id)
            if page is None:
                return MISSED
            split = SplitPage(page, self._cache.content_type(name))
            self._seen[name] = None
            if len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)
        status = f"Pipit; hit; ttl={self._cache.time_left(split.page)}"
        if lookup.tracked and self._proven and not value.startswith(WRITING):
            responses = PageResponses(split, f"{status}; detail=memory")
            size = len(split.page.encoded) * 3 // 2 + OVERHEAD
            self._keep(name, Copy(head, responses, lookup.asked_at + COPY_LIFETIME, size))
        return Found(PageResponses(split, status), missed=False)

    def _keep(self, name: str, copy: Copy) -> None:
        self._drop(name)
        self._copies[name] = copy
        self._bytes += copy.size
        while self._bytes > MOST_BYTES:
            self._drop(next(iter(self._copies)))

    def _drop(self, name: str) -> None:
        copy = self._copies.pop(name, None)
        if copy:
            self._bytes -= copy.size

    def _on_push(self, push: list[Any]) -> None:
        """Drop the copies that have changed."""
        if push[0] != b"invalidate":
            return
        if push[1] is None:  # everything: FLUSHALL
            self.drop_all()
            return
        pages, proof = self._cache.key("").encode(), self._proof_key.encode()
        for key in push[1]:
            if key.startswith(pages):
                self._drop(key[len(pages) :].decode())
            elif key == proof:
                self._proof.set()

    def _on_lost(self) -> None:
        self._proven = False
        self.drop_all()


def _settle(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():  # the waiting task may have been cancelled
        future.set_result(result)
