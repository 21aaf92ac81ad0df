"""Redis job 2: cached pages, and how they are invalidated.

Cache-aside: a reader looks in Redis, and on a miss builds the page from SQL and leaves it there for the next. Two
things go wrong with that when it is written naively. When a busy page expires, every reader rebuilds it at once (a
stampede). And a reader who read SQL just before a write, but stores its page just after, leaves the old page behind
until it expires (a stale write-back). One mechanism prevents both, the *lease* (Nishtala et al., "Scaling Memcache at
Facebook", NSDI 2013, section 3.2.1):

    page:<name>          string   the page; lives CACHE_TTL
    page:<name>:lease    string   a random token of whoever may fill it, or the mark of a write that is under way

On a miss one reader gets the lease and builds; the others wait briefly for its page. A page is stored only by a reader
whose token is still there, and a write takes the token away. So a fill that began before a write can't be stored after.
A Redis that restarts from disk, or a replica that takes over, may have forgotten the last deletions. So a page names
the run of the server that took it, and counts only there.

Each web process also keeps pages for a second in its own memory (LocalCopies), so that a busy page costs one GET a
second, not one a visitor. A write tells all processes to drop theirs, and is acknowledged only when they have.

What a write does beyond that is a Strategy, one of three; docs/cache.md compares them.
"""

import gzip
import hashlib
import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from flask import Flask, current_app
from redis import OutOfMemoryError, RedisError

from app.broadcast import Broadcast
from app.config import Config
from app.redis_client import Store, StoreUnavailableError

log = logging.getLogger(__name__)

LEASE = 1000  # ms a reader has to build a page; a holder that dies delays the others by no more than this
WRITE_LEASE = 15_000  # ms a write may take from its mark to its commit; longer than a statement may run (SQL_TIMEOUT)
STILL_SERVED = 1000  # ms `refresh` lets the old page live during a write; a commit takes 10
COPY_LIFETIME = 1.0  # s a process may serve its own copy without asking Redis: how old a page is if a message is lost
CHANNEL = "page:changes"
POLL = 0.02  # s between two looks of those who wait for somebody else's page
CLOCK_SKEW = 1.0  # s by which the clocks of two dynos may differ
MOST_COPIES = 200  # some 10 MB, compressed ones included
WRITING = b"w"  # how a writer's mark begins
FILLING = b"f"  # how a reader's token does

# On a miss: give the page if it has come meanwhile, else take the lease if it is free, and say whose it is. In one
# step: a reader who looked before another's page was stored must not take the lease after.
# KEYS page, lease; ARGV token, ms, how a page begins that may be served.
TAKE = """
local page = redis.call('GET', KEYS[1])
if page and string.sub(page, 1, #ARGV[3]) == ARGV[3] then return {page, ''} end
redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
return {'', redis.call('GET', KEYS[2])}
"""

# Store a page if the lease is still ours. KEYS page, lease; ARGV token, page, seconds to live.
FILL = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""

# After a commit: delete the page, and the lease too. The mark of another write that is still under way stays, but is
# spoilt: if that writer has read SQL already, what it builds lacks this commit. APPEND keeps the expiry.
# KEYS page, lease; ARGV our mark.
SETTLE = """
redis.call('DEL', KEYS[1])
local lease = redis.call('GET', KEYS[2])
if not lease then return 1 end
if string.sub(lease, 1, #ARGV[1]) == ARGV[1] or string.sub(lease, 1, 1) ~= 'w' then
    redis.call('DEL', KEYS[2])
else
    redis.call('APPEND', KEYS[2], '!')
end
return 1
"""

Builder = Callable[[str], str]


@dataclass(frozen=True, eq=False)  # two pages are the same only if they are one: what is made of it is kept with it
class Page:
    """A page as everyone gets it, before the viewer's own part is added."""

    body: str
    etag: str  # of the body: 32 hexadecimal digits
    built_at: float  # s since the epoch, when building it began: what was written later may not be in it

    @cached_property
    def encoded(self) -> bytes:
        """Return the body as it goes over the wire."""
        return self.body.encode()

    @cached_property
    def compressed(self) -> bytes:
        """Return the body in gzip; made once, and kept for as long as the page is."""
        return gzip.compress(self.encoded, compresslevel=6, mtime=0)


@dataclass(frozen=True)
class Served:
    """A page, and how it was come by, in the words of Cache-Status (RFC 9211, section 2)."""

    page: Page
    status: str


class LocalCopies:
    """Pages in this process's own memory, each for COPY_LIFETIME, and only while its messages arrive.

    A copy that was asked for before a message came is not kept after it: between the two the page may have changed.
    """

    def __init__(self) -> None:
        self._copies: dict[str, tuple[Served, float]] = {}
        self._messages = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> Served | None:
        """Return the copy, or None if there is none that is young enough."""
        served, expires = self._copies.get(name, (None, 0.0))
        return served if time.monotonic() < expires else None

    def known(self, name: str, page: Page) -> Page:
        """Return the page, or the very one that was kept before if it is the same: what was made of it stays."""
        served, _ = self._copies.get(name, (None, 0.0))
        if served and (served.page.etag, served.page.built_at) == (page.etag, page.built_at):
            return served.page
        return page

    def ticket(self) -> tuple[int, float]:
        """Return what keep() needs to know of the moment before Redis was asked."""
        return self._messages, time.monotonic()

    def keep(self, name: str, served: Served, ticket: tuple[int, float]) -> None:
        """Keep a page that Redis gave, unless a message came meanwhile."""
        messages, asked = ticket
        with self._lock:
            if messages == self._messages:
                if len(self._copies) >= MOST_COPIES:
                    self._copies.clear()
                self._copies[name] = served, asked + COPY_LIFETIME

    def drop(self, names: str) -> None:
        """Drop the copies of pages that have changed; their names are separated by spaces."""
        with self._lock:
            self._messages += 1
            for name in names.split(" "):
                self._copies.pop(name, None)

    def drop_all(self) -> None:
        """Drop all copies: messages may have been missed."""
        with self._lock:
            self._messages += 1
            self._copies.clear()


class PageCache:
    """The cached pages.

    strategy: what a write does.
    ttl: s a page lives.
    version: tells one deployment's pages from another's, since a page names its own style sheet.
    """

    def __init__(self, store: Store, strategy: "Strategy", ttl: int, version: str) -> None:
        self.store = store
        self.strategy = strategy
        self.ttl = ttl
        self.version = version
        self.builders: dict[str, Builder] = {}
        self.copies = LocalCopies()
        self.broadcast = Broadcast(store, CHANNEL, self.copies.drop, self.copies.drop_all)

    def listen(self) -> None:
        """Keep copies in this process from now on, and listen for what changes them: for processes that serve pages."""
        if self.store.may_listen:
            self.broadcast.start()

    def register(self, builders: Mapping[str, Builder]) -> None:
        """Say how pages are built: "user:7" by the builder "user", which is given "7"."""
        self.builders.update(builders)

    def get(self, name: str) -> Served | None:
        """Return the cached page, from this process's memory or from Redis, or None. Raises StoreUnavailableError."""
        served = self.copies.get(name)
        if served:
            return served
        ticket = self.copies.ticket()
        with self.store.commands() as redis:
            page = self._decode(*redis.ask("GET", self._key(name)))
        if page is None:
            return None
        status = f"Pipit; hit; ttl={self._time_left(page)}"
        page = self.copies.known(name, page)
        if self.broadcast.listening:
            self.copies.keep(name, Served(page, f"{status}; detail=memory"), ticket)
        return Served(page, status)

    def get_or_build(self, name: str, newer_than: float | None = None, *, missed: bool = False) -> Served:
        """Return the page from Redis, or build it and leave it there; without Redis, just build it.

        newer_than: s since the epoch; a page begun before is not good enough for this reader.
        missed: get() has just been asked for it, in vain.
        """
        try:
            served = (None if missed else self.get(name)) or self._fill(name)
        except StoreUnavailableError as error:
            if not self.store.breaker.is_open:  # that was said once, when it opened
                log.warning("the page %s is built without the cache: %s", name, error)
            return Served(self.build(name), "Pipit; fwd=bypass; detail=store-unavailable")
        if newer_than is not None and served.page.built_at <= newer_than + CLOCK_SKEW:
            return Served(self.build(name), "Pipit; fwd=request; detail=own-write")
        return served

    @contextmanager
    def changing(self, *names: str, removal: bool = False) -> Iterator[None]:
        """Bracket a write that changes these pages: the commit belongs inside.

        removal: something on the pages goes away. That is never served from a cache again, whatever the strategy.

        Raises StoreUnavailableError before the body runs if Redis can't be told: then nothing was written, which is
        better than a write that others would not see. Once the body has run it never raises.
        """
        strategy = Invalidate() if removal else self.strategy
        may_have_written = False
        try:
            with strategy.changing(self, names):
                may_have_written = True
                yield
        finally:
            if may_have_written and strategy.seen_by_everyone:
                self._drop_copies(names)

    def may_lack(self, wrote: float) -> bool:
        """Return whether a cached page can still be one from before a write (s since the epoch)."""
        return time.time() < wrote + self.ttl + CLOCK_SKEW

    def build(self, name: str) -> Page:
        """Build a page, and leave it nowhere."""
        kind, _, which = name.partition(":")
        began = time.time()
        body = self.builders[kind](which)
        return Page(body, etag_of(body), began)

    # What strategies are made of

    def mark(self, names: tuple[str, ...], mark: bytes, *, keep_for: int = 0) -> str:
        """Before a write: take the leases, so that nobody can store a page while the outcome is open.

        keep_for: ms the pages themselves may still be served; 0 deletes them.

        Returns the run of the server, for store_if_ours().
        """
        run = self.store.run
        with self.store.commands() as redis, redis.pipeline(transaction=False) as pipe:
            for name in names:
                if keep_for:
                    pipe.pexpire(self._key(name), keep_for)
                else:
                    pipe.delete(self._key(name))
                pipe.set(self._lease_key(name), mark, px=WRITE_LEASE)
            for result in pipe.execute(raise_on_error=False):
                # A full Redis still deletes, and that is what counts: the mark guards only against our own death.
                if isinstance(result, RedisError) and not isinstance(result, OutOfMemoryError):
                    raise result
        return run

    def settle(self, names: tuple[str, ...], mark: bytes) -> bool:
        """After a write: delete the pages, and the marks with them; return whether that could be done. Never raises.

        It is tried even if Redis did not answer a moment ago: should Redis be back, and have lost the mark, others may
        store the old page. If it can't be done, the mark expires by itself.
        """
        try:
            with self.store.commands(insist=True) as redis, redis.pipeline() as pipe:
                for name in names:
                    pipe.eval(SETTLE, 2, self._key(name), self._lease_key(name), mark)
                pipe.execute()
        except StoreUnavailableError as error:
            log.warning("the pages %s stay uncached for %d s: %s", ", ".join(names), WRITE_LEASE // 1000, error)
            return False
        return True

    def store_if_ours(self, name: str, token: bytes, page: Page, run: str) -> bool:
        """Store a page if the lease is still ours; return whether it was. Never raises.

        run: of the server when the lease was taken. If it is another one by now nobody is served the page: a server
        that came back may have forgotten a write that took the lease away.
        """
        try:
            with self.store.commands() as redis:
                value = self._encode(page, run)
                return bool(redis.eval(FILL, 2, self._key(name), self._lease_key(name), token, value, self.ttl))
        except StoreUnavailableError as error:  # full, or gone since: the page is still a page
            log.warning("the page %s can't be cached: %s", name, error)
            return False

    # Details

    def _drop_copies(self, names: tuple[str, ...]) -> None:
        """Have all processes drop their copies; return when they have, or when these are too old to be served."""
        too_old = time.monotonic() + COPY_LIFETIME
        if not self.broadcast.tell(" ".join(names), COPY_LIFETIME):
            time.sleep(max(0, too_old - time.monotonic()))

    def _fill(self, name: str) -> Served:
        """Build the page and leave it in Redis, or wait for whoever does. Raises StoreUnavailableError."""
        token = FILLING + secrets.token_hex(8).encode()
        give_up = time.monotonic() + LEASE / 1000
        while True:
            page, holder, run = self._take_lease(name, token)
            if page:
                return Served(page, f"Pipit; fwd=miss; collapsed; ttl={self._time_left(page)}")
            if holder == token:
                page = self._build_holding(name, token)
                stored = self.store_if_ours(name, token, page, run)
                return Served(page, "Pipit; fwd=miss; stored" if stored else "Pipit; fwd=miss")
            if holder.startswith(WRITING) or time.monotonic() > give_up:
                return Served(self.build(name), "Pipit; fwd=miss")
            time.sleep(POLL)

    def _build_holding(self, name: str, token: bytes) -> Page:
        """Build a page; should that fail, don't keep the others waiting for it."""
        try:
            return self.build(name)
        except BaseException:
            self.settle((name,), token)
            raise

    def _take_lease(self, name: str, token: bytes) -> tuple[Page | None, bytes, str]:
        """Return the page if it has come meanwhile, whose the lease is (ours now, if it was free), and the run."""
        keys = self._key(name), self._lease_key(name)
        servable = self._origin(self.store.run)
        with self.store.commands() as redis:
            (value, holder), run = redis.ask("EVAL", TAKE, 2, *keys, token, LEASE, servable)
        return self._decode(value, run), holder, run

    def _encode(self, page: Page, run: str) -> bytes:
        return f"{self._origin(run)}{page.etag} {page.built_at:.3f}\n{page.body}".encode()

    def _decode(self, value: bytes | None, run: str) -> Page | None:
        """Return the page; None if there is none, or if it is from another version of Pipit or run of the server."""
        try:
            head, _, body = (value or b"").decode().partition("\n")
            version, stored_by, etag, built_at = head.split(" ")
            return Page(body, etag, float(built_at)) if (version, stored_by) == (self.version, run) else None
        except ValueError:
            return None

    def _origin(self, run: str) -> str:
        """Return how a page begins that this version of Pipit left with this run of the server."""
        return f"{self.version} {run} "

    def _time_left(self, page: Page) -> int:
        return max(0, round(page.built_at + self.ttl - time.time()))

    def _key(self, name: str) -> str:
        return self.store.key(f"page:{name}")

    def _lease_key(self, name: str) -> str:
        return self.store.key(f"page:{name}:lease")


class Strategy(ABC):
    """What a write does to the cached pages that it changes."""

    name: ClassVar[str]
    seen_by_everyone = True  # a write is on everyone's next page load; if not, its author reads past the cache

    @abstractmethod
    def changing(self, cache: PageCache, names: tuple[str, ...]) -> AbstractContextManager[None]:
        """Return a context manager around the commit."""


class Invalidate(Strategy):
    """Delete on write.

    The page goes before the commit and cannot come back until after it. Should the writer or Redis die in between,
    there is no page to be stale, and the mark expires by itself. It costs a write two round trips, and the first reader
    after it a rebuild.
    """

    name = "invalidate"

    @contextmanager
    def changing(self, cache: PageCache, names: tuple[str, ...]) -> Iterator[None]:
        mark = _new_mark()
        cache.mark(names, mark)
        try:
            yield
        finally:
            cache.settle(names, mark)


class Refresh(Strategy):
    """Rebuild on write.

    Readers never miss: they get the old page until the new one replaces it, just before the write is acknowledged. The
    writer pays for the rebuild, read or not. Where two writers meet, neither knows that its page has both writes, so
    each deletes the page instead. Should a writer die after its commit, the old page is gone after STILL_SERVED; should
    Redis not answer after it, the writer waits until then before it says that it is done.
    """

    name = "refresh"

    @contextmanager
    def changing(self, cache: PageCache, names: tuple[str, ...]) -> Iterator[None]:
        mark = _new_mark()
        run = cache.mark(names, mark, keep_for=STILL_SERVED)
        gone_by = time.monotonic() + STILL_SERVED / 1000
        try:
            yield
        except BaseException:
            cache.settle(names, mark)
            raise
        behind = tuple(name for name in names if not self._replace(cache, name, mark, run))
        if behind and not cache.settle(behind, mark):
            time.sleep(max(0, gone_by - time.monotonic()))

    def _replace(self, cache: PageCache, name: str, mark: bytes, run: str) -> bool:
        try:
            page = cache.build(name)
        except Exception:
            log.exception("the page %s can't be rebuilt after a write: it is deleted instead", name)
            return False
        return cache.store_if_ours(name, mark, page, run)


class Expire(Strategy):
    """Do nothing on write: a page is as old as its time to live allows, but for the author of a post."""

    name = "expire"
    seen_by_everyone = False

    @contextmanager
    def changing(self, cache: PageCache, names: tuple[str, ...]) -> Iterator[None]:  # noqa: ARG002  # a strategy's signature
        yield


STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (Invalidate, Refresh, Expire)}


def etag_of(body: str) -> str:
    """Return an entity tag for a body: 32 hexadecimal digits."""
    return hashlib.sha256(body.encode()).hexdigest()[:32]


def init_cache(app: Flask, config: Config, store: Store, version: str) -> PageCache:
    """Give the app its page cache."""
    cache = PageCache(store, STRATEGIES[config.cache_strategy](), config.cache_ttl, version)
    app.extensions["page_cache"] = cache
    return cache


def current_cache() -> PageCache:
    """Return the page cache of the current app."""
    cache: PageCache = current_app.extensions["page_cache"]
    return cache


def _new_mark() -> bytes:
    return WRITING + secrets.token_hex(8).encode()
