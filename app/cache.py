"""Redis job 2: cached pages, and how they are invalidated.

Cache-aside: a reader looks in Redis, and on a miss builds the page from SQL and leaves it there for the next. Two
things go wrong with that when it is written naively. When a busy page expires, every reader rebuilds it at once (a
stampede). And a reader who read SQL just before a write, but stores its page just after, leaves the old page behind
until it expires (a stale write-back). One mechanism prevents both, the *lease* (Nishtala et al., "Scaling Memcache at
Facebook", NSDI 2013, section 3.2.1):

    page:<name>          string   a line `version run etag built-at`, then the body in gzip; lives CACHE_TTL
    page:<name>:lease    string   the token of the reader who may fill it, or the marks of the writes under way

On a miss one reader gets the lease and builds; the others wait for its page. A page is stored only by a reader whose
token is still there, and a write takes the token away. So a fill that began before a write can't be stored after.
If no page has come after a second, one of the waiting readers builds too, in case the first has died. It takes over the
lease with the same token, and every second after that another reader may do so. The token only says that no write has
come since it was made, which is true for all of them. The first to finish stores the page, so a build may take longer
than a second.
A Redis that restarts from disk, or a replica that takes over, may have forgotten the last deletions. So each page
carries the run id of the server that stored it, and only that run may serve it.

The front keeps copies of pages in memory (app/front/local_cache.py). Redis tells it when a page or its lease changes.

What a write does beyond that is a Strategy, one of three; docs/cache.md compares them.
"""

import gzip
import hashlib
import logging
import math
import secrets
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from urllib.parse import quote, unquote

from flask import Flask, current_app

from app.config import Config
from app.redis_client import Store, StoreUnavailableError

log = logging.getLogger(__name__)

LEASE = 30_000  # ms in which what a reader builds can be stored; the router gives up on a request after 30 s
BUILDS_ALONE = 1000  # ms until one more reader may build; a builder that dies delays the others by no more than this
MOST_WAIT = 15.0  # s a reader waits for others; with a build of its own it is done before the router gives up
WRITE_LEASE = 15_000  # ms a write may take from its mark to its commit; longer than a statement may run (SQL_TIMEOUT)
STILL_SERVED = 1000  # ms `refresh` lets the old page live during a write; a commit takes 10. A copy lives no longer
POLL = 0.02  # s between two checks for another reader's page
CLOCK_SKEW = 1.0  # s by which the clocks of two dynos may differ
PAST_COPIES = 2.0  # s a copy may outlive a write or a page: the second that copies live, and the clocks' difference
WRITING = b"w"  # how a writer's mark begins
FILLING = b"f"  # how a reader's token begins

# On a miss: return the page if it has come meanwhile; else the token to build under, if the lease is free or its last
# taker has had its second; else the marks of the writes that hold it, or '' for "wait". In one step: a reader who
# looked before another's page was stored must not take the lease after. How long the key has to live tells when it was
# last taken. If that is longer than a lease, it was set by something else.
# KEYS page, lease; ARGV a new token, ms of a lease, ms of building alone, how a page begins that may be served.
TAKE = """
local page = redis.call('GET', KEYS[1])
if page and string.sub(page, 1, #ARGV[4]) == ARGV[4] then return {page, ''} end
local lease = redis.call('GET', KEYS[2]) or ARGV[1]
if string.sub(lease, 1, 1) == 'w' then return {'', lease} end
local age = ARGV[2] - redis.call('PTTL', KEYS[2])
if lease ~= ARGV[1] and age >= 0 and age < tonumber(ARGV[3]) then return {'', ''} end
redis.call('SET', KEYS[2], lease, 'PX', ARGV[2])
return {'', lease}
"""

# Store a page if the lease is as we took it. KEYS page, lease; ARGV token or mark, page, ms to live.
FILL = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

# Before a write: put our mark into the lease. Each of several writers has its own there, `w<id>@<ms>;`; one that has
# outlived its write is dropped, or a page would stay uncached while others go on writing. A full Redis takes the mark
# all the same: it refuses no memory to a script that has begun to write.
# KEYS page, lease; ARGV mark, ms a mark lives, now (ms), ms the page may still be served.
MARK = """
if ARGV[4] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
local marks = ''
for mark, at in string.gmatch(redis.call('GET', KEYS[2]) or '', '(w%x+@(%d+);!?)') do
    if at + ARGV[2] > ARGV[3] + 0 then marks = marks .. mark end
end
redis.call('SET', KEYS[2], marks .. ARGV[1], 'PX', ARGV[2])
"""

# After a commit: delete the page, and our mark. Another writer's mark stays, but no longer lets that writer store its
# page: what it builds may lack this commit. KEYS page, lease; ARGV our mark or token.
SETTLE = """
redis.call('DEL', KEYS[1])
local lease = redis.call('GET', KEYS[2]) or ''
local from, to = string.find(lease, ARGV[1], 1, true)
if from then lease = string.sub(lease, 1, from - 1) .. string.sub(lease, to + 1) end
if string.find(lease, 'w', 1, true) then
    redis.call('SET', KEYS[2], lease .. '!', 'PX', math.max(1, redis.call('PTTL', KEYS[2])))
else
    redis.call('DEL', KEYS[2])
end
"""

# After a build that failed: give the lease up, if it is still the builder's. KEYS lease; ARGV token.
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"

Builder = Callable[[str], str]


@dataclass(frozen=True)
class PageKind:
    """A kind of cached page: declared once, named by the view that shows it and by the writes that change it."""

    kind: str

    def __call__(self, *which: object) -> str:
        """Return the cache's name for one page of this kind, as in "user:ada"; no part of it holds another colon."""
        return ":".join((self.kind, *(quote(str(part), safe="") for part in which)))

    @staticmethod
    def parts(which: str) -> list[str]:
        """Return what one page was named for, given its name without the kind."""
        return [unquote(part) for part in which.split(":")]


@dataclass(frozen=True, eq=False)  # compared by identity: what is derived from a page is kept on it
class Page:
    """A page as everyone gets it, before the viewer's own part is added."""

    encoded: bytes  # the body, in UTF-8
    etag: str  # of the body: 32 hexadecimal digits
    built_at: float  # s since the epoch, when building it began: what was written later may not be in it

    @property
    def body(self) -> str:
        """Return the HTML."""
        return self.encoded.decode()

    @cached_property
    def compressed(self) -> bytes:
        """Return the body in gzip; made once, and kept as long as the page is."""
        return gzip.compress(self.encoded, compresslevel=6, mtime=0)

    @classmethod
    def from_compressed(cls, compressed: bytes, etag: str, built_at: float) -> "Page":
        """Build a page from its stored form. Raises OSError, EOFError or zlib.error if that is not gzip."""
        page = cls(gzip.decompress(compressed), etag, built_at)
        page.__dict__["compressed"] = compressed  # prefills the cached property
        return page


@dataclass(frozen=True)
class Served:
    """A page, and how it was served, as a Cache-Status value (RFC 9211, section 2)."""

    page: Page
    status: str


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

    def register(self, kind: PageKind, builder: Builder) -> None:
        """Say how pages of a kind are built: "user:ada" by the builder of "user", which is given "ada"."""
        self.builders[kind.kind] = builder

    def get(self, name: str) -> Served | None:
        """Return the cached page, or None. Raises StoreUnavailableError."""
        page = self.decode(*self.store.ask("GET", self.key(name)))
        return Served(page, f"Pipit; hit; ttl={self.time_left(page)}") if page else None

    def get_or_build(self, name: str, newer_than: float | None = None, *, missed: bool = False) -> Served:
        """Return the page from Redis, or build it and leave it there; without Redis, just build it.

        newer_than: s since the epoch; the reader's last write; an older page is built again for them.
        missed: Redis has just been asked for it, and did not have it.
        """
        try:
            served = (None if missed else self.get(name)) or self._fill(name)
        except StoreUnavailableError as error:
            if not self.store.breaker.is_open:  # that was logged once, when it opened
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
        with (Invalidate() if removal else self.strategy).changing(self, names):
            yield

    def may_lack(self, wrote: float) -> bool:
        """Return whether a cached page, or a copy of one, may lack what its reader wrote then (s since the epoch)."""
        return not self.strategy.seen_by_everyone and time.time() < wrote + self.ttl + PAST_COPIES

    def build(self, name: str) -> Page:
        """Build a page without caching it."""
        kind, _, which = name.partition(":")
        began = time.time()
        body = self.builders[kind](which).encode()
        return Page(body, etag_of(body), began)

    # What strategies are made of

    def mark(self, names: tuple[str, ...], mark: bytes, *, keep_for: int = 0) -> str:
        """Before a write: put a mark into the leases, so that nobody can store a page while the outcome is open.

        keep_for: ms the pages themselves may still be served; 0 deletes them.

        Returns the run of the server, for store_if_ours().
        """
        run = self.store.run
        with self.store.commands() as redis, redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.eval(MARK, 2, *self.keys(name), mark, WRITE_LEASE, int(time.time() * 1000), keep_for)
            pipe.execute()
        return run

    def settle(self, names: tuple[str, ...], mark: bytes) -> bool:
        """After a write: delete the pages, and the marks with them; return whether that could be done. Never raises.

        It is tried even if Redis did not answer a moment ago: should Redis be back, and have lost the mark, others may
        store the old page. If it can't be done, the mark expires.
        """
        try:
            with self.store.commands(insist=True) as redis, redis.pipeline() as pipe:
                for name in names:
                    pipe.eval(SETTLE, 2, *self.keys(name), mark)
                pipe.execute()
        except StoreUnavailableError as error:
            log.warning("the pages %s stay uncached for %d s: %s", ", ".join(names), WRITE_LEASE // 1000, error)
            return False
        return True

    def wait_until_told(self) -> None:
        """Return when Redis has sent the invalidations for this thread's writes. Never raises.

        Redis sends it, and its answer to us, before it reads the next command: so its answer to a PING comes after.
        """
        try:
            with self.store.commands(insist=True) as redis:
                redis.ping()
        except StoreUnavailableError as error:
            log.warning("copies of changed pages may be served for a second: %s", error)

    def store_if_ours(self, name: str, token: bytes, page: Page, run: str) -> bool:
        """Store a page if the lease is still ours; return whether it was. Never raises.

        It lives for the cache's time to live from when its building began: what it shows is as old as that.

        run: of the server when the lease was taken. If it is another one by now nobody is served the page: a server
        that came back may have forgotten a write that took the lease away.
        """
        lives = max(1, round((page.built_at + self.ttl - time.time()) * 1000))
        try:
            with self.store.commands() as redis:
                return bool(redis.eval(FILL, 2, *self.keys(name), token, self.encode(page, run), lives))
        except StoreUnavailableError as error:  # full, or gone since: the page is still a page
            log.warning("the page %s can't be cached: %s", name, error)
            return False

    # Keys and bytes

    def keys(self, name: str) -> tuple[str, str]:
        """Return the keys of a page and of its lease."""
        return self.key(name), self.key(f"{name}:lease")

    def key(self, name: str) -> str:
        """Return the key of a page."""
        return self.store.key(f"page:{name}")

    def encode(self, page: Page, run: str) -> bytes:
        """Return a page as it stands in Redis."""
        return f"{self._origin(run)}{page.etag} {page.built_at:.3f}\n".encode() + page.compressed

    def decode(self, value: bytes | None, run: str) -> Page | None:
        """Return the page; None if there is none, or if it is from another version of Pipit or run of the server."""
        try:
            head, _, compressed = (value or b"").partition(b"\n")
            version, stored_by, etag, built_at = head.decode().split(" ")
            if not compressed or (version, stored_by) != (self.version, run) or not math.isfinite(float(built_at)):
                return None
            return Page.from_compressed(compressed, etag, float(built_at))
        except (ValueError, OSError, EOFError, zlib.error):
            return None

    def time_left(self, page: Page) -> int:
        """Return the seconds until a page expires."""
        return max(0, round(page.built_at + self.ttl - time.time()))

    # Details

    def _fill(self, name: str) -> Served:
        """Build the page and leave it in Redis, or wait for whoever does. Raises StoreUnavailableError."""
        new_token = FILLING + secrets.token_hex(8).encode()
        give_up = time.monotonic() + MOST_WAIT
        while True:
            page, lease, run = self._take_lease(name, new_token)
            if page:
                return Served(page, f"Pipit; fwd=miss; collapsed; ttl={self.time_left(page)}")
            if lease.startswith(FILLING):
                page = self._build_holding(name, lease)
                stored = self.store_if_ours(name, lease, page, run)
                return Served(page, "Pipit; fwd=miss; stored" if stored else "Pipit; fwd=miss")
            if lease.startswith(WRITING) or time.monotonic() > give_up:
                return Served(self.build(name), "Pipit; fwd=miss")
            time.sleep(POLL)

    def _build_holding(self, name: str, token: bytes) -> Page:
        """Build a page while holding the lease; on failure release it, so that others don't wait."""
        try:
            return self.build(name)
        except BaseException:
            with suppress(StoreUnavailableError), self.store.commands() as redis:
                redis.eval(RELEASE, 1, self.keys(name)[1], token)
            raise

    def _take_lease(self, name: str, new_token: bytes) -> tuple[Page | None, bytes, str]:
        """Return the page if it has come meanwhile, the lease, and the run of the server.

        The lease is a token if this reader is to build under it, the marks of writes if they hold it, or else empty.
        """
        servable = self._origin(self.store.run)
        take = ("EVAL", TAKE, 2, *self.keys(name), new_token, LEASE, BUILDS_ALONE, servable)
        (value, lease), run = self.store.ask(*take)
        page = self.decode(value, run)
        if value and page is None:  # it has the right first line but can't be decoded: nobody could replace it
            self.settle((name,), new_token)
        return page, lease, run

    def _origin(self, run: str) -> str:
        """Return how a page begins that this version of Pipit stored on this run of the server."""
        return f"{self.version} {run} "


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
    there is no page to be stale, and the mark expires. It costs a write two round trips, and the first reader
    after it a rebuild. Redis may answer the mark before it tells those who keep copies: should it not answer after the
    commit, the writer waits until their copies have expired.
    """

    name = "invalidate"

    @contextmanager
    def changing(self, cache: PageCache, names: tuple[str, ...]) -> Iterator[None]:
        mark = _new_mark()
        cache.mark(names, mark)
        gone_by = time.monotonic() + STILL_SERVED / 1000
        try:
            yield
        finally:
            if cache.settle(names, mark):
                cache.wait_until_told()
            else:
                time.sleep(max(0, gone_by - time.monotonic()))


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
        else:
            cache.wait_until_told()

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


def etag_of(body: bytes) -> str:
    """Return an entity tag for a body: 32 hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()[:32]


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
    return b"%s%s@%d;" % (WRITING, secrets.token_hex(8).encode(), time.time() * 1000)
