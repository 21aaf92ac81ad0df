"""One workload, replayed against each invalidation strategy, to see what each of them costs.

It drives the real PageCache on the real Redis, under keys of its own. Only SQL is played: a dict of page versions, a
sleep for each page built. Requests come when they are due whether or not the ones before are done (an open loop, with
Poisson arrivals), and their latency counts from that moment. A closed loop would send fewer requests just while the
cache is slow, and so hide what it is here to show.
"""

import math
import secrets
import threading
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from queue import SimpleQueue
from random import Random

from app.cache import PageCache, Strategy
from app.config import Config
from app.models.writes import LATEST_PAGE, PROFILE_PAGE
from app.redis_client import Store, StoreUnavailableError
from bench.lab.redis_server import RedisServer

THREADS = 32  # requests at once; as a few dynos have. A connection is opened only when a command needs it.
COMMIT = 0.002  # s an SQL commit takes
PAGE_SIZE = 20_000  # bytes; about what a page of twenty posts takes
TEXT = Random("a page").randbytes(4_000).hex()  # no secret; such a page takes some 4,000 bytes compressed
BURST_EVERY = 5.0  # s from the start of one burst to the next
BURST_LENGTH = 1.0  # s
BURST_FACTOR = 20  # times the usual rate; a goal, a gale, a fire engine in the high street
LATEST = LATEST_PAGE()


@dataclass(frozen=True)
class Workload:
    """What is asked of the cache. The same workload always gives the same arrivals."""

    readers: float  # reads a second
    writers: float  # posts a second
    pages: int  # distinct ones: the latest posts of everyone, and those of pages - 1 authors
    seconds: float  # per strategy
    ttl: int  # s a page lives
    build_ms: int  # ms that building a page from SQL takes
    bursts: bool
    seed: int


@dataclass(frozen=True)
class Arrival:
    """A request, before it is made."""

    due: float  # s after the start
    is_write: bool
    pages: tuple[str, ...]  # the one to read, or those that the post changes


Waiting = SimpleQueue[Arrival | None]  # requests that are due; None sends a thread home


@dataclass(frozen=True)
class Read:
    """A read that was answered. Times are in seconds after the start."""

    due: float
    began: float
    ended: float
    page: str
    version: int
    status: str  # Cache-Status, as the page was served


@dataclass(frozen=True)
class Write:
    """A post that was acknowledged. Times are in seconds after the start."""

    due: float
    ended: float
    versions: tuple[tuple[str, int], ...]  # the pages it changed, and the version each has since


@dataclass(frozen=True)
class Stale:
    """A read that got less than had been acknowledged before it began."""

    at: float  # s after the start
    age: float  # s since a newer version had been acknowledged


@dataclass(frozen=True)
class Outcome:
    """What a strategy made of the workload."""

    strategy: str
    seconds: float
    reads: int
    hits: int
    waited: int  # reads that were given what somebody else was building
    bypassed: int  # reads that went past Redis, which was away, slow or full
    rebuilds: int  # pages built, by readers and by writers
    writes: int
    stale: tuple[Stale, ...]
    read_latency: tuple[float, ...]  # s, ascending
    write_latency: tuple[float, ...]  # s, ascending
    late: tuple[float, ...]  # s that requests waited for a free thread, ascending
    commands: Counter[str]  # calls of Redis commands
    memory: int | None  # bytes of the keys at the end

    @property
    def hit_rate(self) -> float:
        """Return the share of reads that were hits, 0 to 1; 0 if there were none."""
        return self.hits / self.reads if self.reads else 0.0

    @property
    def rebuild_rate(self) -> float:
        """Return how many pages were built a second."""
        return self.rebuilds / self.seconds

    @property
    def commands_per_request(self) -> float:
        """Return the Redis commands a request, reads and writes taken together; 0 if there were none."""
        return self.commands.total() / max(1, self.reads + self.writes)

    @property
    def stale_ages(self) -> tuple[float, ...]:
        """Return the ages of what was served stale: seconds, ascending."""
        return tuple(sorted(stale.age for stale in self.stale))


@contextmanager
def laboratory(config: Config) -> Iterator[Store]:
    """Give a store on the configured server, with a prefix and a pool of its own. Its keys are deleted at the end.

    Raises StoreUnavailableError if they can't be deleted; then they expire by themselves.
    """
    prefix = f"{config.redis_prefix}cache-lab:{secrets.token_hex(4)}:"
    lab = Store(replace(config, redis_prefix=prefix, redis_max_connections=THREADS + 1))
    try:
        yield lab
    finally:
        try:
            RedisServer(lab).delete(lab.prefix)
        finally:
            lab.close()


def arrivals(workload: Workload) -> list[Arrival]:
    """Return all requests in the order in which they are due.

    Pages are as popular as Zipf's law has it: the second is asked for half as often as the first, which is the latest
    posts of everyone. A post changes that page, and its author's.
    """
    # Separate sources, so that with other readers the posts stay what they were. To be repeatable is their purpose.
    reading, posting = Random(f"{workload.seed} reads"), Random(f"{workload.seed} posts")
    authors = [PROFILE_PAGE(number) for number in range(1, workload.pages)]
    names = [LATEST, *authors]
    popularity = list(accumulate(1 / rank for rank in range(1, len(names) + 1)))
    talk = list(accumulate(1 / rank for rank in range(1, len(names))))
    reads = [
        Arrival(due, False, (names[_drawn(reading, popularity)],))
        for due in _moments(reading, workload, workload.readers)
    ]
    writes = [
        Arrival(due, True, (LATEST, authors[_drawn(posting, talk)]) if authors else (LATEST,))
        for due in _moments(posting, workload, workload.writers)
    ]
    return sorted(reads + writes, key=lambda arrival: arrival.due)


def measure(store: Store, strategy: Strategy, workload: Workload, tick: Callable[[], None]) -> Outcome:
    """Replay the workload against a strategy, from an empty cache on, and leave none of its keys.

    tick: is called for every request that is sent.

    Raises StoreUnavailableError if Redis is away or refuses a write.
    """
    schedule = arrivals(workload)
    server = RedisServer(store)
    replay = Replay(store, strategy, workload)
    before = server.calls()
    replay.run(schedule, tick)
    commands = server.calls() - before
    outcome = replay.outcome(commands, server.memory(store.prefix))
    server.delete(store.prefix)
    return outcome


@dataclass
class Database:
    """The part of SQL: which version each page has. A page nobody has written to has version 0."""

    build_time: float  # s
    versions: Counter[str] = field(default_factory=Counter)
    built: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def build(self, name: str) -> str:
        """Return the page, its version in the first line: the one it had before the work began, as in a snapshot."""
        with self.lock:
            self.built += 1
            version = self.versions[name]
        time.sleep(self.build_time)
        return f"{version}\n{TEXT}".ljust(PAGE_SIZE, ".")

    def commit(self, names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
        """Give each page a new version, all at once; return them."""
        time.sleep(COMMIT)
        with self.lock:
            self.versions.update(names)
            return tuple((name, self.versions[name]) for name in names)


class Replay:
    """One strategy under the workload: threads that make the requests, and a note of each."""

    def __init__(self, store: Store, strategy: Strategy, workload: Workload) -> None:
        self.store = store
        self.workload = workload
        self.database = Database(workload.build_ms / 1000)
        self.cache = PageCache(store, strategy, workload.ttl, "lab")
        self.cache.register(LATEST_PAGE, lambda _which: self.database.build(LATEST))
        self.cache.register(PROFILE_PAGE, lambda number: self.database.build(PROFILE_PAGE(number)))
        self.reads: list[Read] = []
        self.writes: list[Write] = []
        self.late: list[float] = []
        self.errors: list[Exception] = []
        self.abandoned = threading.Event()

    def run(self, schedule: Sequence[Arrival], tick: Callable[[], None]) -> None:
        """Make each request when it is due, and return when the last is answered. Raises what a request raised."""
        waiting: Waiting = SimpleQueue()
        threads = [threading.Thread(target=self._work, args=(waiting,), daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            self._send(schedule, waiting, tick)
        except BaseException:
            self.abandoned.set()
            raise
        finally:
            for _ in threads:
                waiting.put(None)
            for thread in threads:
                thread.join()
        if self.errors:
            raise self.errors[0]

    def outcome(self, commands: Counter[str], memory: int | None) -> Outcome:
        """Return what the notes amount to."""
        statuses = [read.status for read in self.reads]
        return Outcome(
            strategy=self.cache.strategy.name,
            seconds=self.workload.seconds,
            reads=len(self.reads),
            hits=sum(status.startswith("Pipit; hit") for status in statuses),
            waited=sum("collapsed" in status for status in statuses),
            bypassed=sum("bypass" in status for status in statuses),
            rebuilds=self.database.built,
            writes=len(self.writes),
            stale=tuple(staleness(self.reads, self.writes)),
            read_latency=tuple(sorted(read.ended - read.due for read in self.reads)),
            write_latency=tuple(sorted(write.ended - write.due for write in self.writes)),
            late=tuple(sorted(self.late)),
            commands=commands,
            memory=memory,
        )

    def _send(
        self, schedule: Sequence[Arrival], waiting: "SimpleQueue[Arrival | None]", tick: Callable[[], None]
    ) -> None:
        self.start = time.monotonic()
        for arrival in schedule:
            time.sleep(max(0.0, arrival.due - self._now()))
            if self.errors:
                self.abandoned.set()
                return
            if self.store.breaker.is_open:
                raise StoreUnavailableError("it stopped answering while the lab ran")
            waiting.put(arrival)
            tick()

    def _work(self, waiting: Waiting) -> None:
        while arrival := waiting.get():
            if self.abandoned.is_set():
                continue
            self.late.append(self._now() - arrival.due)
            try:
                if arrival.is_write:
                    self._write(arrival)
                else:
                    self._read(arrival)
            except Exception as error:  # noqa: BLE001  # run() raises it where somebody hears it
                self.errors.append(error)

    def _read(self, arrival: Arrival) -> None:
        (name,) = arrival.pages
        began = self._now()
        served = self.cache.get_or_build(name)
        version = int(served.page.body.partition("\n")[0])
        self.reads.append(Read(arrival.due, began, self._now(), name, version, served.status))

    def _write(self, arrival: Arrival) -> None:
        with self.cache.changing(*arrival.pages):
            versions = self.database.commit(arrival.pages)
        self.writes.append(Write(arrival.due, self._now(), versions))

    def _now(self) -> float:
        return time.monotonic() - self.start


def staleness(reads: Sequence[Read], writes: Sequence[Write]) -> Iterator[Stale]:
    """Give the reads that were served a version when a newer one had been acknowledged before they began."""
    acknowledged = {page_version: write.ended for write in writes for page_version in write.versions}
    outdated_at: dict[tuple[str, int], float] = {}  # when the first of all newer versions was acknowledged
    for page, version in sorted(acknowledged, key=lambda each: -each[1]):
        newer = outdated_at.get((page, version), math.inf)
        outdated_at[page, version - 1] = min(newer, acknowledged[page, version])
    for read in reads:
        age = read.began - outdated_at.get((read.page, read.version), math.inf)
        if age > 0:
            yield Stale(read.began, age)


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """Return the value that so many percent don't exceed (the nearest rank); None if there are no values."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def _moments(rng: Random, workload: Workload, rate: float) -> Iterator[float]:
    """Yield the moments of a Poisson process: in bursts by drawing at their rate, and leaving most out in between."""
    highest = rate * (BURST_FACTOR if workload.bursts else 1)
    moment = 0.0
    while highest:
        moment += rng.expovariate(highest)
        if moment >= workload.seconds:
            return
        # A burst ends each period, so that the first finds pages in the cache.
        in_burst = moment % BURST_EVERY >= BURST_EVERY - BURST_LENGTH
        if not workload.bursts or in_burst or rng.random() < 1 / BURST_FACTOR:
            yield moment


def _drawn(rng: Random, cumulated: Sequence[float]) -> int:
    return bisect(cumulated, rng.random() * cumulated[-1])
