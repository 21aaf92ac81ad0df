"""Redis job 2: cached pages, and how they are invalidated.

Cache-aside: a reader looks in Redis, and on a miss builds the page from SQL and leaves it there for the next. Two
things go wrong with that when it is written naively. When a busy page expires, every reader rebuilds it at once (a
stampede). And a reader who read SQL just before a write, but stores its page just after, leaves the old page behind
until it expires (a stale write-back). One mechanism prevents both, the *lease* (Nishtala et al., "Scaling Memcache at
Facebook", NSDI 2013, section 3.2.1):

    page:<name>          string   the page; lives CACHE_TTL
    page:<name>:lease    string   a random token of whoever may fill it, or of the write that is under way

On a miss one reader gets the lease and builds; the others wait briefly for its page. A page is stored only by a reader
whose token is still there, and a write takes the token away. So a fill that began before a write can't be stored after.

A write brackets its commit. Before it, the page is deleted and the lease marked as the writer's, so that nobody can
store a page while the outcome is open; after it, both are deleted. Should the writer or Redis die between the two,
there is no page to be stale, and the mark expires by itself. The price is one more round trip for a write.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app
from redis import Redis

from app.config import Config
from app.redis_client import Store, StoreUnavailableError

log = logging.getLogger(__name__)

LEASE = 1000  # ms a reader has to build a page; a holder that dies delays the others by no more than this
WRITE_LEASE = 15_000  # ms a write may take from its mark to its commit; longer than a statement may run (SQL_TIMEOUT)
POLL = 0.02  # s between two looks of those who wait for somebody else's page
WRITING = b"w"  # how a writer's token begins
FILLING = b"f"  # how a reader's does

# Store a page if the lease is still ours. KEYS page, lease; ARGV token, page, seconds to live.
FILL = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""

# After a commit: delete the page, and the lease too unless it is the mark of another write that is still under way.
# KEYS page, lease; ARGV our mark.
SETTLE = """
redis.call('DEL', KEYS[1])
local lease = redis.call('GET', KEYS[2])
if lease and (lease == ARGV[1] or string.sub(lease, 1, 1) ~= 'w') then redis.call('DEL', KEYS[2]) end
return 1
"""


@dataclass(frozen=True)
class Page:
    """A page as everyone gets it, before the viewer's own part is added."""

    body: str
    etag: str  # of the body: 32 hexadecimal digits
    built_at: float  # s since the epoch


@dataclass(frozen=True)
class Served:
    """A page, and how it was come by, in the words of Cache-Status (RFC 9211, section 2)."""

    page: Page
    status: str


class PageCache:
    """The cached pages. `version` tells one deployment's pages from another's: a page names its own style sheet."""

    def __init__(self, store: Store, ttl: int, version: str) -> None:
        self.store = store
        self.ttl = ttl
        self.version = version

    def get(self, name: str) -> Served | None:
        """Return the cached page, or None. Raises StoreUnavailableError."""
        with self.store.commands() as redis:
            value = cast(bytes | None, redis.get(self._key(name)))
        page = self._decode(value)
        return Served(page, f"Pipit; hit; ttl={self._time_left(page)}") if page else None

    def get_or_build(self, name: str, build: Callable[[], str]) -> Served:
        """Return the page from Redis, or build it and leave it there; without Redis, just build it."""
        try:
            return self._get_or_fill(name, build)
        except StoreUnavailableError as error:
            log.warning("the page %s is built without the cache: %s", name, error)
            return Served(self._page(build()), "Pipit; fwd=bypass; detail=store-unavailable")

    @contextmanager
    def changing(self, *names: str) -> Iterator[None]:
        """Bracket a write that changes these pages: the commit belongs inside.

        Raises StoreUnavailableError before the body runs if Redis can't be told: then nothing was written, which is
        better than a write that others would not see. Once the body has run it never raises.
        """
        mark = WRITING + secrets.token_hex(8).encode()
        with self.store.commands() as redis, redis.pipeline() as pipe:
            for name in names:
                pipe.delete(self._key(name))
                pipe.set(self._lease_key(name), mark, px=WRITE_LEASE)
            pipe.execute()
        try:
            yield
        finally:
            try:
                with self.store.commands() as redis, redis.pipeline() as pipe:
                    for name in names:
                        pipe.eval(SETTLE, 2, self._key(name), self._lease_key(name), mark)
                    pipe.execute()
            except StoreUnavailableError as error:
                log.warning("the pages %s stay uncached for %d s: %s", ", ".join(names), WRITE_LEASE // 1000, error)

    def _get_or_fill(self, name: str, build: Callable[[], str]) -> Served:
        token = FILLING + secrets.token_hex(8).encode()
        status = "Pipit; hit"
        give_up = time.monotonic() + LEASE / 1000
        while True:
            with self.store.commands() as redis:
                page = self._decode(cast(bytes | None, redis.get(self._key(name))))
                if page:
                    return Served(page, f"{status}; ttl={self._time_left(page)}")
                holder = self._take_lease(redis, name, token)
            if holder is None:
                return self._fill(name, token, build)
            if holder.startswith(WRITING) or time.monotonic() > give_up:
                return Served(self._page(build()), "Pipit; fwd=miss")
            status = "Pipit; fwd=miss; collapsed"
            time.sleep(POLL)

    def _take_lease(self, redis: Redis, name: str, token: bytes) -> bytes | None:
        """Return None if the lease is ours now, else the token of whoever has it."""
        if redis.set(self._lease_key(name), token, nx=True, px=LEASE):
            return None
        return cast(bytes | None, redis.get(self._lease_key(name))) or FILLING  # gone meanwhile: look again

    def _fill(self, name: str, token: bytes, build: Callable[[], str]) -> Served:
        page = self._page(build())
        try:
            with self.store.commands() as redis:
                value = self._encode(page)
                stored = redis.eval(FILL, 2, self._key(name), self._lease_key(name), token, value, self.ttl)
        except StoreUnavailableError as error:  # full, or gone since: the page is still a page
            log.warning("the page %s can't be cached: %s", name, error)
            stored = 0
        return Served(page, "Pipit; fwd=miss; stored" if stored else "Pipit; fwd=miss")

    def _page(self, body: str) -> Page:
        return Page(body, etag_of(body), time.time())

    def _encode(self, page: Page) -> bytes:
        return f"{self.version} {page.etag} {page.built_at:.3f}\n{page.body}".encode()

    def _decode(self, value: bytes | None) -> Page | None:
        """Return the page; None if there is none, or if another version of Pipit wrote it."""
        head, _, body = (value or b"").partition(b"\n")
        version, _, rest = head.decode("ascii", "replace").partition(" ")
        if version != self.version:
            return None
        etag, _, built_at = rest.partition(" ")
        return Page(body.decode(), etag, float(built_at))

    def _time_left(self, page: Page) -> int:
        return max(0, round(page.built_at + self.ttl - time.time()))

    def _key(self, name: str) -> str:
        return self.store.key(f"page:{name}")

    def _lease_key(self, name: str) -> str:
        return self.store.key(f"page:{name}:lease")


def etag_of(body: str) -> str:
    """Return an entity tag for a body: 32 hexadecimal digits."""
    return hashlib.sha256(body.encode()).hexdigest()[:32]


def init_cache(app: Flask, config: Config, store: Store, version: str) -> PageCache:
    """Give the app its page cache."""
    cache = PageCache(store, config.cache_ttl, version)
    app.extensions["page_cache"] = cache
    return cache


def current_cache() -> PageCache:
    """Return the page cache of the current app."""
    cache: PageCache = current_app.extensions["page_cache"]
    return cache
