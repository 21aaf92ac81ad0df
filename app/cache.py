"""Redis job 2: cached pages, and how they are invalidated.

Cache-aside: a reader looks in Redis; on a miss the reader builds the page from SQL and stores it. Two things go wrong
when this is written naively. When a busy page expires, every reader rebuilds it at once (a stampede). And a reader who
read SQL just before a write, but stores the page just after, leaves the old page behind until it expires (a stale
write-back). One mechanism prevents both, the *lease* (Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013,
section 3.2.1):

    page:<name>          string   `-`, or `w` during a write that lets it be served on; a line
                                  `version run etag built-at`; the compressed body; lives CACHE_TTL
    page:<name>:lease    string   the token of the reader who builds the page, or the marks of the writes under way
    page:stamp:<name>    string   as a page; its body is a random value
    pages:<segment>      string   the names of the pages in a segment, newest first; lives a month

On a miss one reader gets the lease and builds; the others wait for its page. A page is stored only by a reader whose
token is still there, and a write takes the token away. So a build that began before a write can't be stored after.
If there is no page after a second, one of the waiting readers builds too, in case the first has died. This reader takes
over the lease with the same token, and every second after that another reader may do so. The token only says that no
write has come since it was made, which is true for all of them. The first to finish stores the page, so a build may
take longer than a second.
A Redis that restarts from disk, or a replica that takes over, may have forgotten the last deletions. So each page
carries the `run_id` of the server that stored it, and counts only in a reply from that same run.

All pages together take at most MOST_BYTES. Each page belongs to one of SEGMENTS segments, by a hash of its name, and
each segment has an equal share of the bytes (as in a set-associative CPU cache). Storing a page deletes the oldest of
its segment until the new one fits. Nothing keeps count of bytes: the script asks Redis for the length of each page, so
what was deleted, evicted or has expired is free at once. Should Redis evict a segment, which it does only when it is
full, the pages in it are not counted any more; they expire within CACHE_TTL.

The front keeps copies of pages in memory (app/front/local_cache.py). Redis tells it when a page changes.

A *stamp* is for what can't be one page for everyone, such as a person's timeline. It is a cached page whose body is a
random value. A write replaces it, under every strategy. So what was built from SQL after the stamp was read is good as
long as the stamp is the same, whoever keeps it. A stamp may also hold what it stands for, if that is as small as a
person's unread count: then who wants to know it need not ask SQL.

A count that changes often must not delete the pages that show it. A write that changes only a count lets these pages
*fade*: they live COUNTS_LAG longer at most.

What else a write does is up to one of three strategies; docs/cache.md compares them.
"""

import gzip
import hashlib
import logging
import math
import secrets
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from urllib.parse import quote, unquote

from flask import Flask, current_app

from app.config import Config
from app.redis_client import UNKNOWN_RUN_ID, Store, StoreUnavailableError

log = logging.getLogger(__name__)

LEASE = 30_000  # ms in which what a reader builds can be stored; the router gives up on a request after 30 s
BUILDS_ALONE = 1000  # ms until one more reader may build; a builder that dies delays the others by at most this
MOST_WAIT = 15.0  # s a reader waits for another's page; building alone then still ends before the router gives up
WRITE_LEASE = 15_000  # ms a write may take from its mark to its commit; longer than a statement may run (SQL_TIMEOUT)
NOTICED = 1.5  # s after which no process is connected to the old primary of a failover: three of the front's looks
STILL_SERVED = 1000  # ms `refresh` lets the old page live during a write; a commit takes 10. A copy lives no longer
COUNTS_LAG = 5.0  # s that a page may show an old count
FADING = 4000  # ms that such a page stays in Redis; a copy of it lives a second more
POLL = 0.02  # s between two checks for another reader's page
BATCH = 500  # pages that one pipeline changes
CLOCK_SKEW = 1.0  # s by which the clocks of two dynos may differ
MOST_BYTES = 8_000_000  # of Redis's memory that all pages may take; the smallest plan has 25 MB, for sessions first
SEGMENTS = 128  # fewer share the bytes more evenly; more make a store faster, since it looks at a whole segment
SEGMENT_BYTES = MOST_BYTES // SEGMENTS - 400  # for its pages; the rest is for the segment's own key
SEGMENT_LIFETIME = 30 * 86_400_000  # ms; longer than a session: with volatile-ttl a full Redis evicts it last
PAGE_OVERHEAD = 200  # bytes of memory beside a page's key and value: hash tables, expiry, at times a lease
COMPRESSION_LEVEL = 3  # 6 takes twice as long, for 7 % less of a long page and 3 % of a short one
PAST_COPIES = 2.0  # s a copy may outlive a write or a page: the second that copies live, and the clocks' difference
WRITING = b"w"  # how a writer's mark begins; no token has that letter
BUILDING = b"f"  # how a reader's token begins; `~` after it, or after a mark, says: the page may show an old count

# On a miss: return the page if another reader has stored it meanwhile; else the token to build under, if the lease is
# free or its last taker has had its second; else the marks of the writes that hold it, or '' for "wait". In one step: a
# reader who missed before another's page was stored must not take the lease afterwards. The key's time to live tells
# when it was last taken; if that is longer than a lease, the key is not ours.
# KEYS page, lease; ARGV a new token, ms of a lease, ms of building alone, how a page begins that may be served.
TAKE = """
local page = redis.call('GET', KEYS[1])
if page and string.sub(page, 2, #ARGV[4] + 1) == ARGV[4] then return {page, ''} end
local lease = redis.call('GET', KEYS[2]) or ARGV[1]
if string.find(lease, 'w', 1, true) then return {'', lease} end
local age = ARGV[2] - redis.call('PTTL', KEYS[2])
if lease ~= ARGV[1] and age >= 0 and age < tonumber(ARGV[3]) then return {'', ''} end
redis.call('SET', KEYS[2], lease, 'PX', ARGV[2])
return {'', (string.gsub(lease, '~', ''))}
"""

# Store a page if the lease is as we took it and the page is no larger than a segment. Of the other pages in its
# segment, keep the newest that still fit. Redis's memory comes in blocks whose sizes are up to a quarter apart, hence
# the 1.25; a key counts twice, because its name is in the segment as well. Only the segment knows the other pages, so
# their keys can't be passed in KEYS. A cluster accepts that, since all keys are in one slot.
# Whatever is in a damaged segment, only keys of pages are deleted.
# KEYS page, lease, segment; ARGV token or mark, page, ms to live, how keys of pages begin, bytes a segment, bytes of
# overhead a page, ms the segment lives, ms to live if a count on the page has changed.
STORE = """
local lease = redis.call('GET', KEYS[2])
if lease ~= ARGV[1] and lease ~= ARGV[1] .. '~' then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
local room = tonumber(ARGV[5])
local function fits(key, size)
    room = room - 1.25 * (size + 2 * #key) - ARGV[6]
    return room >= 0
end
if not fits(KEYS[1], #ARGV[2]) then return 0 end
local names = {string.sub(KEYS[1], #ARGV[4] + 1)}
local others = redis.pcall('GET', KEYS[3])
for name in string.gmatch(type(others) == 'string' and others or '', '%S+') do
    local key = ARGV[4] .. name
    local size = redis.pcall('STRLEN', key)
    if type(size) == 'number' and size > 0 then
        if fits(key, size) then table.insert(names, name) else redis.call('DEL', key) end
    end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', lease == ARGV[1] and ARGV[3] or math.min(ARGV[3], ARGV[8]))
redis.call('SET', KEYS[3], table.concat(names, ' '), 'PX', ARGV[7])
return 1
"""

# A count on a page changes: the page lives on for a moment, and so does a page that a reader or a writer is building.
# A full Redis refuses the SET unless the script has deleted something before. KEYS page, lease; ARGV ms.
FADE = """
if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
local lease = redis.call('GET', KEYS[2]) or ''
if lease ~= '' and string.sub(lease, -1) ~= '~' then
    local left = math.max(1, redis.call('PTTL', KEYS[2]))
    redis.call('DEL', KEYS[2])
    redis.call('SET', KEYS[2], lease .. '~', 'PX', left)
end
"""

# Before a write: delete the page, or flag it so that nobody keeps a copy, and put our mark into the lease. Each of
# several writers has a mark, `w<id>@<ms>;`. Marks that have outlived their write are dropped, or a page would stay
# uncached while others go on writing. A full Redis stores the mark all the same: once a script has begun to write,
# Redis refuses it no memory.
# KEYS page, lease; ARGV mark, ms a mark lives, now (ms), ms the page may still be served.
MARK = """
if ARGV[4] == '0' then
    redis.call('DEL', KEYS[1])
else
    local left = redis.call('PTTL', KEYS[1])
    if left > 0 then
        redis.call('PEXPIRE', KEYS[1], math.min(left, ARGV[4]))
        redis.call('SETRANGE', KEYS[1], 0, 'w')
    end
end
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
if from then lease = string.sub(lease, 1, from - 1) .. string.gsub(string.sub(lease, to + 1), '^!', '') end
if string.find(lease, 'w', 1, true) then
    redis.call('SET', KEYS[2], lease .. '!', 'PX', math.max(1, redis.call('PTTL', KEYS[2])))
else
    redis.call('DEL', KEYS[2])
end
"""

# After that, for a stamp: store a new one, unless another write is under way. So the next reader needn't.
# KEYS page, lease; ARGV page, ms to live.
RENEW = """
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
"""

# After a build that failed: give the lease up, if it is still the builder's. KEYS lease; ARGV token.
RELEASE = """
local lease = redis.call('GET', KEYS[1])
if lease == ARGV[1] or lease == ARGV[1] .. '~' then redis.call('DEL', KEYS[1]) end
"""

HTML = "text/html; charset=utf-8"
Builder = Callable[[str], str]


@dataclass(frozen=True)
class PageKind:
    """A kind of cached page: declared once; the view that shows it and the writes that change it use the same one."""

    kind: str
    content_type: str = HTML

    def __call__(self, *which: object) -> str:
        """Return the cache's name for one page of this kind, as in "user:ada"; no part of it holds another colon."""
        return ":".join((self.kind, *(quote(str(part), safe="") for part in which)))

    @staticmethod
    def parts(which: str) -> list[str]:
        """Return the arguments that a page was named with, given its name without the kind."""
        return [unquote(part) for part in which.split(":")]


STAMP = PageKind("stamp")  # STAMP("follows", 7) changes when user 7 follows someone


def is_stamp(name: str) -> bool:
    """Return whether this is the name of a stamp."""
    return name.startswith(f"{STAMP.kind}:")


@dataclass(frozen=True, eq=False)  # compared by identity
class Page:
    """A page as everyone gets it, before the viewer's own part is added."""

    encoded: bytes  # the body, in UTF-8
    etag: str  # of the body: 32 hexadecimal digits
    built_at: float  # s since the epoch, when building began: later writes may be missing

    @cached_property
    def body(self) -> str:
        """Return the HTML, or what a stamp holds."""
        return self.encoded.decode()

    @cached_property
    def compressed(self) -> bytes:
        """Return the body in gzip, for browsers; compressed once a page, when it is first needed."""
        return gzip.compress(self.encoded, compresslevel=6, mtime=0)


@dataclass(frozen=True)
class Served:
    """A page, and how it was served, as a Cache-Status value (RFC 9211, section 2)."""

    page: Page
    status: str
    is_new: bool = False  # built for this request


def is_from_cache(status: str) -> bool:
    """Return whether a page with this Cache-Status was in the cache, if only after its reader had waited for it."""
    return "; hit" in status or "; collapsed" in status


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
        self.sample: Callable[[], str] = str  # returns a page that is like most others, and the same in each process
        self.builders: dict[str, Builder] = {STAMP.kind: self._new_stamp}
        self._values: dict[str, Builder] = {}  # by the first part of a stamp's name
        self._content_types: dict[str, str] = {}  # by kind

    @cached_property
    def dictionary(self) -> bytes:
        """What pages have in common; they are compressed with it (RFC 1950, section 2.2)."""
        return self.sample().encode()

    def register(self, kind: PageKind, builder: Builder) -> None:
        """Register how pages of a kind are built: the builder of "user" gets "ada" and builds "user:ada"."""
        self.builders[kind.kind] = builder
        self._content_types[kind.kind] = kind.content_type

    def register_value(self, what: str, builder: Builder) -> None:
        """Register what some stamps hold: the builder of "notifications" gets "7" for STAMP("notifications", 7)."""
        self._values[what] = builder

    def value(self, stamp: str) -> str:
        """Return what a stamp holds. Never raises for Redis: without it, the value is built."""
        return self.get_or_build(stamp).page.body

    def content_type(self, name: str) -> str:
        """Return the Content-Type of a page, as its kind says."""
        return self._content_types.get(name.partition(":")[0], HTML)

    def get(self, name: str) -> Served | None:
        """Return the cached page, or None. Raises StoreUnavailableError."""
        page = self.decode(*self.store.ask("GET", self.key(name)))
        return Served(page, f"Pipit; hit; ttl={self.time_left(page)}") if page else None

    def get_or_build(self, name: str, newer_than: float | None = None, *, missed: bool = False) -> Served:
        """Return the page from Redis, or build it and leave it there; without Redis, just build it.

        newer_than: s since the epoch, the reader's last write; a page from before it is built again for this reader.
        missed: the caller has just asked Redis for the page: it is not cached.
        """
        try:
            served = (None if missed else self.get(name)) or self._build_or_wait(name)
        except StoreUnavailableError as error:
            if not self.store.breaker.is_open:  # the breaker logs an outage once
                log.warning("the page %s is built without the cache: %s", name, error)
            return Served(self.build(name), "Pipit; fwd=bypass; detail=store-unavailable")
        if newer_than is not None and not served.is_new and served.page.built_at <= newer_than + CLOCK_SKEW:
            return Served(self.build(name), "Pipit; fwd=request; detail=own-write", is_new=True)
        return served

    def stamps(self, names: Iterable[str]) -> dict[str, Page]:
        """Return the stamps of these names. Read from SQL after this call, not before. Never raises."""
        wanted = list(names)
        values: list[bytes | None] = [None] * len(wanted)
        run_id = UNKNOWN_RUN_ID
        if wanted:
            with suppress(StoreUnavailableError):  # then they are made up, and good for this once
                values, run_id = self.store.ask("MGET", *(self.key(name) for name in wanted))
        pages = {name: self.decode(value, run_id) for name, value in zip(wanted, values, strict=True)}
        return {name: page or self.get_or_build(name, missed=True).page for name, page in pages.items()}

    @contextmanager
    def changing(self, *names: str, removal: bool = False, counted_on: Collection[str] = ()) -> Iterator[None]:
        """Return a context manager for a write that changes these pages; commit inside it.

        removal: something on the pages goes away, and no strategy may serve it from the cache again.
        counted_on: pages on which only a count changes; they may be served for COUNTS_LAG more.

        Raises StoreUnavailableError before the body runs if Redis can't be told: nothing was written, which is better
        than a write that others don't see. After the body it never raises.
        """
        with (Invalidate() if removal else self.strategy).changing(self, names):
            self.fade(counted_on)  # before the commit, in case this process dies right after it
            yield
            with suppress(StoreUnavailableError):  # settling logs it
                self.fade(counted_on)

    def may_lack(self, wrote: float, counted: float) -> bool:
        """Return whether a cached page, or a copy of one, may lack what its reader wrote (s since the epoch).

        counted: when the reader last changed a count.
        """
        now = time.time()
        late = not self.strategy.seen_by_everyone and now < wrote + self.ttl + PAST_COPIES
        return late or now < counted + COUNTS_LAG + PAST_COPIES

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

        Returns the run_id of the server, for store_if_ours().
        """
        run_id = self.store.run_id
        for some in _batches(names):
            with self.store.commands() as redis, redis.pipeline(transaction=False) as pipe:
                for name in some:
                    pipe.eval(MARK, 2, *self.keys(name), mark, WRITE_LEASE, int(time.time() * 1000), keep_for)
                pipe.execute()
        return run_id

    def fade(self, names: Collection[str]) -> None:
        """Let these pages live for a moment more: a count on them changes. Raises StoreUnavailableError."""
        if not names or not self.strategy.seen_by_everyone:
            return
        with self.store.commands() as redis, redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.eval(FADE, 2, *self.keys(name), FADING)
            pipe.execute()

    def settle(self, names: tuple[str, ...], mark: bytes) -> bool:
        """After a write: delete the pages, renew the stamps, and delete the marks; return whether Redis did so.
        Never raises.

        The commands are sent even while the circuit is open: if Redis is back and has lost the mark, a reader could
        store the old page. If Redis does not answer, the mark expires.
        """
        try:
            for some in _batches(names):
                with self.store.commands(insist=True) as redis, redis.pipeline() as pipe:
                    for name in some:
                        pipe.eval(SETTLE, 2, *self.keys(name), mark)
                        if is_stamp(name) and not self._holds_value(name):  # SQL may still see what is to be undone
                            new = self.encode(self.build(name), self.store.run_id)
                            pipe.eval(RENEW, 2, *self.keys(name), new, self.ttl * 1000)
                    pipe.execute()
        except StoreUnavailableError as error:
            log.warning("the pages %s stay uncached for %d s: %s", ", ".join(names), WRITE_LEASE // 1000, error)
            return False
        return True

    def wait_until_told(self) -> None:
        """Return when Redis has sent the invalidations for this thread's writes. Never raises.

        Redis sends them before it reads the next command, so when it answers a PING they are on their way. After a
        failover, others may still be connected to the old primary: wait until they have noticed.
        """
        unnoticed = self.store.moved_at + NOTICED - time.monotonic()
        if unnoticed > 0:
            time.sleep(unnoticed)
        try:
            with self.store.commands(insist=True) as redis:
                redis.ping()
        except StoreUnavailableError as error:
            log.warning("copies of changed pages may be served for a second: %s", error)

    def store_if_ours(self, name: str, token: bytes, page: Page, run_id: str) -> bool:
        """Store a page if the lease is still ours, and it fits in a segment; return whether it was. Never raises.

        Its time to live counts from the start of the build: that is how old its content is.

        run_id: of the server when the lease was taken. After a restart or a failover the page is not served: the server
        may have forgotten a write that took the lease away.
        """
        lives = max(1, round((page.built_at + self.ttl - time.time()) * 1000))
        keys = (*self.keys(name), self.store.key(f"pages:{zlib.crc32(name.encode()) % SEGMENTS}"))
        bounds = (self.key(""), SEGMENT_BYTES, PAGE_OVERHEAD, SEGMENT_LIFETIME, FADING)
        try:
            with self.store.commands() as redis:
                return bool(redis.eval(STORE, 3, *keys, token, self.encode(page, run_id), lives, *bounds))
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

    def encode(self, page: Page, run_id: str) -> bytes:
        """Return a page as it stands in Redis."""
        compressor = zlib.compressobj(COMPRESSION_LEVEL, zdict=self.dictionary)
        head = f"-{self._origin(run_id)}{page.etag} {page.built_at:.3f}\n".encode()
        return head + compressor.compress(page.encoded) + compressor.flush()

    def decode(self, value: bytes | None, run_id: str) -> Page | None:
        """Return the page; None if there is none, or if it is from another version of Pipit or run of the server."""
        try:
            head, _, compressed = (value or b"").partition(b"\n")
            version, stored_by, etag, built_at = head[1:].decode().split(" ")
            if (version, stored_by) != (self.version, run_id) or not math.isfinite(float(built_at)):
                return None
            decompressor = zlib.decompressobj(zdict=self.dictionary)
            body = decompressor.decompress(compressed)
            return Page(body, etag, float(built_at)) if decompressor.eof else None  # or it is cut off
        except (ValueError, zlib.error):
            return None

    def time_left(self, page: Page) -> int:
        """Return the seconds until a page expires."""
        return max(0, round(page.built_at + self.ttl - time.time()))

    # Details

    def _holds_value(self, stamp: str) -> bool:
        return stamp.split(":")[1] in self._values

    def _new_stamp(self, which: str) -> str:
        what, _, about = which.partition(":")
        return self._values[what](about) if what in self._values else secrets.token_hex(8)

    def _build_or_wait(self, name: str) -> Served:
        """Build the page and store it, or wait for another reader's. Raises StoreUnavailableError."""
        new_token = BUILDING + secrets.token_hex(8).encode()
        give_up = time.monotonic() + MOST_WAIT
        while True:
            page, lease, run_id = self._take_lease(name, new_token)
            if page:
                return Served(page, f"Pipit; fwd=miss; collapsed; ttl={self.time_left(page)}")
            if lease.startswith(BUILDING):
                page = self._build_holding(name, lease)
                stored = self.store_if_ours(name, lease, page, run_id)
                return Served(page, "Pipit; fwd=miss; stored" if stored else "Pipit; fwd=miss", is_new=True)
            if WRITING in lease or time.monotonic() > give_up:
                return Served(self.build(name), "Pipit; fwd=miss", is_new=True)
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
        """Return the page if another reader has stored it meanwhile, the lease, and the run_id of the server.

        The lease is the token to build under, or the marks of the writes that hold it, or empty if another reader does.
        """
        servable = self._origin(self.store.run_id)
        take = ("EVAL", TAKE, 2, *self.keys(name), new_token, LEASE, BUILDS_ALONE, servable)
        (value, lease), run_id = self.store.ask(*take)
        page = self.decode(value, run_id)
        if value and page is None:  # damaged, but TAKE goes on returning it: delete it
            self.settle((name,), new_token)
        return page, lease, run_id

    def _origin(self, run_id: str) -> str:
        """Return how a page begins, after its flag, that this version of Pipit stored on this run of the server."""
        return f"{self.version} {run_id} "


class Strategy(ABC):
    """What a write does to the cached pages that it changes."""

    name: ClassVar[str]
    seen_by_everyone = True  # on the next page load; if False, authors read past the cache

    @abstractmethod
    def changing(self, cache: PageCache, names: tuple[str, ...]) -> AbstractContextManager[None]:
        """Return a context manager around the commit."""


class Invalidate(Strategy):
    """Delete on write.

    The page goes before the commit and cannot come back until after it. If the writer or Redis dies in between,
    there is no page to be stale, and the mark expires. A write costs two round trips, and the next reader a rebuild.
    Redis may answer the mark before it notifies the processes that keep copies. So if Redis does not answer after the
    commit, the writer waits until all copies have expired.
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
    writer pays for the rebuild, read or not. If two writes overlap, neither writer knows whether its page has both, so
    each deletes the page instead. If a writer dies after its commit, the old page is gone after STILL_SERVED. If Redis
    does not answer after the commit, the writer waits that long before the write is acknowledged.
    """

    name = "refresh"

    @contextmanager
    def changing(self, cache: PageCache, names: tuple[str, ...]) -> Iterator[None]:
        mark = _new_mark()
        run_id = cache.mark(names, mark, keep_for=STILL_SERVED)
        gone_by = time.monotonic() + STILL_SERVED / 1000
        try:
            yield
        except BaseException:
            cache.settle(names, mark)
            raise
        behind = tuple(name for name in names if not self._replace(cache, name, mark, run_id))
        if behind and not cache.settle(behind, mark):
            time.sleep(max(0, gone_by - time.monotonic()))
        else:
            cache.wait_until_told()

    def _replace(self, cache: PageCache, name: str, mark: bytes, run_id: str) -> bool:
        try:
            page = cache.build(name)
        except Exception:
            log.exception("the page %s can't be rebuilt after a write: it is deleted instead", name)
            return False
        return cache.store_if_ours(name, mark, page, run_id)


class Expire(Strategy):
    """Delete only the stamps on write: a page may be as old as its time to live, except for its author."""

    name = "expire"
    seen_by_everyone = False

    @contextmanager
    def changing(self, cache: PageCache, names: tuple[str, ...]) -> Iterator[None]:
        stamps = tuple(filter(is_stamp, names))
        with Invalidate().changing(cache, stamps) if stamps else nullcontext():
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


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield names in portions that Redis works through in about ten milliseconds, so that it never times out."""
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]


def _new_mark() -> bytes:
    return b"%s%s@%d;" % (WRITING, secrets.token_hex(8).encode(), time.time() * 1000)
