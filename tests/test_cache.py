"""The page cache, on a real Valkey: leases, the three strategies, and what readers may and may not be served."""

import itertools
import re
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest
from flask import Flask
from redis import OutOfMemoryError, Redis

from app.cache import (
    BUILDS_ALONE,
    CLOCK_SKEW,
    FADING,
    LEASE,
    MOST_BYTES,
    MOST_WAIT,
    PAST_COPIES,
    SEGMENT_BYTES,
    SEGMENTS,
    STILL_SERVED,
    STRATEGIES,
    WRITE_LEASE,
    Expire,
    Invalidate,
    Page,
    PageCache,
    PageKind,
    Refresh,
    Strategy,
)
from app.config import Config, parse_redis_url
from app.extensions import SQL_TIMEOUT
from app.front.local_cache import COPY_LIFETIME
from app.models.writes import LATEST_PAGE
from app.redis_client import Store, StoreUnavailableError
from tests.conftest import Visitor, finish, in_threads
from tests.counting import commands_sent
from tests.servers import PATIENCE, valkey, wait_until

PAGE = PageKind("page")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@dataclass
class Source:
    """What pages are made from: a number that a write changes. Building can be held at its worst moment."""

    value: int = 0
    builds: int = 0
    has_read: threading.Event = field(default_factory=threading.Event)
    may_finish: threading.Event = field(default_factory=threading.Event)
    held: bool = False

    def build(self, _which: str) -> str:
        self.builds += 1
        value = self.value
        if self.held:
            self.held = False
            self.has_read.set()
            assert self.may_finish.wait(PATIENCE)
        return str(value)

    def build_slowly(self, seconds: float) -> str:
        self.builds += 1
        value = self.value
        time.sleep(seconds)
        return str(value)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def make_cache(redis: Redis, redis_url: str, source: Source) -> Iterator[Callable[..., PageCache]]:
    stores = []

    def make(
        strategy: Strategy | None = None, version: str = "v1", url: str = redis_url, threads: int = 20
    ) -> PageCache:
        config = Config(parse_redis_url(url), "", "", redis_max_connections=threads)
        store = Store(config)
        stores.append(store)
        cache = PageCache(store, strategy or Invalidate(), 60, version)
        cache.register(PAGE, source.build)
        return cache

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def cache(make_cache: Callable[..., PageCache]) -> PageCache:
    return make_cache()


def test_the_first_reader_builds_and_the_next_is_served_from_redis(cache: PageCache, source: Source) -> None:
    assert cache.get("page") is None
    assert cache.get_or_build("page").status == "Pipit; fwd=miss; stored"
    served = cache.get_or_build("page")
    assert served.status == "Pipit; hit; ttl=60"
    assert served.page.body == "0"
    assert source.builds == 1


def test_a_page_lives_as_long_as_its_ttl_and_a_lease_never_without_one(
    cache: PageCache, redis: Redis, source: Source
) -> None:
    cache.get_or_build("page")
    assert 58 <= redis.ttl("page:page") <= 60
    assert redis.exists("page:page:lease") == 0
    source.held = True
    redis.delete("page:page")
    thread = threading.Thread(target=cache.get_or_build, args=("page",))
    thread.start()
    assert source.has_read.wait(PATIENCE)
    assert 0 < redis.pttl("page:page:lease") <= LEASE
    source.may_finish.set()
    finish(thread)


@pytest.mark.server
def test_a_hit_costs_one_command(cache: PageCache, redis: Redis) -> None:
    cache.get_or_build("page")
    with commands_sent(redis) as sent:
        cache.get_or_build("page")
    assert sent == ["GET page:page"]


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Give the set of threads that wait, or have waited, for another reader's page."""
    threads: set[int] = set()
    sleep = time.sleep

    def note_and_sleep(seconds: float) -> None:
        threads.add(threading.get_ident())
        sleep(seconds)

    monkeypatch.setattr(
        "app.cache.time", SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=note_and_sleep)
    )
    return threads


def test_many_readers_of_an_expired_page_cause_one_rebuild(
    make_cache: Callable[..., PageCache], source: Source, waiting: set[int]
) -> None:
    processes = [make_cache(threads=50) for _ in range(4)]  # each with a pool of its own, as processes have
    source.held = True
    bodies: list[str] = []

    def read(number: int) -> None:
        bodies.append(processes[number % 4].get_or_build("page").page.body)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(60)]
    for reader in readers:
        reader.start()
    wait_until(lambda: len(waiting) == 59, "all others to wait")
    source.may_finish.set()
    finish(*readers)
    assert bodies == ["0"] * 60
    assert source.builds == 1


@pytest.mark.parametrize("strategy", [Invalidate(), Refresh()], ids=lambda strategy: str(strategy.name))
def test_a_reader_that_began_before_a_write_cannot_leave_the_old_page_behind(
    make_cache: Callable[..., PageCache], source: Source, strategy: Strategy
) -> None:
    cache = make_cache(strategy)
    source.held = True
    slow = threading.Thread(target=cache.get_or_build, args=("page",))
    slow.start()
    assert source.has_read.wait(PATIENCE)  # it has read the old value, and not stored its page yet
    with cache.changing("page"):
        source.value = 1
    source.may_finish.set()
    finish(slow)
    assert cache.get_or_build("page").page.body == "1"


def test_while_a_write_is_open_nobody_stores_a_page_or_waits(cache: PageCache, source: Source, redis: Redis) -> None:
    cache.get_or_build("page")
    with cache.changing("page"):
        assert redis.exists("page:page") == 0
        began = time.monotonic()
        served = cache.get_or_build("page")
        assert time.monotonic() - began < BUILDS_ALONE / 1000
        assert served.status == "Pipit; fwd=miss"
        assert redis.exists("page:page") == 0
        source.value = 1
    assert cache.get_or_build("page").status == "Pipit; fwd=miss; stored"
    assert redis.keys("page:*") == ["page:page"]


def test_a_writer_that_dies_after_its_commit_leaves_no_old_page(cache: PageCache, source: Source, redis: Redis) -> None:
    cache.get_or_build("page")
    write = cache.changing("page")
    write.__enter__()
    source.value = 1  # committed, and then the process is gone
    assert cache.get_or_build("page").page.body == "1"
    assert 0 < redis.pttl("page:page:lease") <= WRITE_LEASE


def test_two_writers_of_one_page_leave_no_old_page_whoever_ends_first(cache: PageCache, source: Source) -> None:
    for first_to_end in (0, 1):
        writes = [cache.changing("page"), cache.changing("page")]
        for write in writes:
            write.__enter__()
        source.value += 1
        writes[first_to_end].__exit__(None, None, None)
        cache.get_or_build("page")
        source.value += 1
        writes[1 - first_to_end].__exit__(None, None, None)
        assert cache.get_or_build("page").page.body == str(source.value)


@pytest.mark.server
def test_a_lease_holder_that_dies_delays_the_others_by_no_more_than_a_second(
    cache: PageCache, redis: Redis, source: Source
) -> None:
    redis.set("page:page:lease", "f of somebody who is gone", px=LEASE)
    began = time.monotonic()
    assert cache.get_or_build("page").page.body == "0"
    assert time.monotonic() - began < 1.3
    assert source.builds == 1
    assert cache.get("page")


def test_a_reader_that_comes_a_second_after_the_holder_died_does_not_wait(
    cache: PageCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cache.time.sleep", lambda _seconds: pytest.fail("it waits"))
    redis.set("page:page:lease", "f of somebody who is gone", px=LEASE - BUILDS_ALONE)
    assert cache.get_or_build("page").status == "Pipit; fwd=miss; stored"


@pytest.mark.parametrize("expiry", [1000, None])
def test_a_lease_that_outlives_its_time_makes_nobody_wait(
    cache: PageCache, redis: Redis, monkeypatch: pytest.MonkeyPatch, expiry: int | None
) -> None:
    monkeypatch.setattr("app.cache.time.sleep", lambda _seconds: pytest.fail("it waits"))
    redis.set("page:page:lease", "f of a clock gone wrong", ex=expiry)
    assert cache.get_or_build("page").status == "Pipit; fwd=miss; stored"
    assert redis.exists("page:page:lease") == 0


class TestSlowBuilds:
    """A build may take longer than a second. It is stored, and each second one more reader builds, in case it died."""

    @pytest.mark.server
    def test_thirty_readers_of_a_slow_page_build_it_once_and_once_more_a_second_and_it_is_stored(
        self, make_cache: Callable[..., PageCache], source: Source
    ) -> None:
        processes = [make_cache(threads=50) for _ in range(3)]
        for cache in processes:
            cache.register(PAGE, lambda _which: source.build_slowly(1.5))
        statuses: list[str] = []
        began = time.monotonic()
        in_threads(30, lambda number: statuses.append(processes[number % 3].get_or_build("page").status))
        assert 2 <= source.builds <= 1 + time.monotonic() - began
        assert statuses.count("Pipit; fwd=miss; stored") == 1
        assert sum("collapsed" in status for status in statuses) == 30 - source.builds
        assert processes[0].get("page")

    def test_whoever_is_done_first_stores_and_the_other_does_not(
        self, cache: PageCache, source: Source, redis: Redis
    ) -> None:
        source.held = True
        statuses: list[str] = []
        first = threading.Thread(target=lambda: statuses.append(cache.get_or_build("page").status))
        first.start()
        assert source.has_read.wait(PATIENCE)
        had_its_second(redis)
        assert cache.get_or_build("page").status == "Pipit; fwd=miss; stored"
        source.may_finish.set()
        finish(first)
        assert statuses == ["Pipit; fwd=miss"]
        assert redis.keys("page:*") == ["page:page"]

    def test_one_that_was_joined_by_another_is_stored_if_it_is_done_first(
        self, cache: PageCache, source: Source, redis: Redis
    ) -> None:
        source.held = True
        statuses: list[str] = []

        def build_while_the_first_is_done(_which: str) -> str:
            source.may_finish.set()
            finish(first)
            return "of the second"

        first = threading.Thread(target=lambda: statuses.append(cache.get_or_build("page").status))
        first.start()
        assert source.has_read.wait(PATIENCE)
        cache.register(PAGE, build_while_the_first_is_done)
        had_its_second(redis)
        assert cache.get_or_build("page").status == "Pipit; fwd=miss"
        assert statuses == ["Pipit; fwd=miss; stored"]
        page = cache.get("page")
        assert page
        assert page.page.body == "0"

    def test_the_one_that_joins_has_a_second_of_its_own(
        self, cache: PageCache, source: Source, redis: Redis, waiting: set[int]
    ) -> None:
        redis.set("page:page:lease", "f0", px=LEASE - BUILDS_ALONE)
        source.held = True
        joins = threading.Thread(target=cache.get_or_build, args=("page",))
        joins.start()
        assert source.has_read.wait(PATIENCE)
        assert redis.get("page:page:lease") == "f0"
        assert redis.pttl("page:page:lease") > LEASE - BUILDS_ALONE
        waits = threading.Thread(target=cache.get_or_build, args=("page",))
        waits.start()
        wait_until(lambda: waiting, "it to wait")
        source.may_finish.set()
        finish(joins, waits)
        assert source.builds == 1

    def test_a_question_that_was_sent_twice_takes_the_lease_once(self, cache: PageCache, redis: Redis) -> None:
        """The answer to the first was lost with its connection."""
        for _ in range(2):
            assert cache._take_lease("page", b"f0")[1] == b"f0"
        assert cache._take_lease("page", b"f1")[1] == b""

    @pytest.mark.parametrize("strategy", [Invalidate, Refresh])
    def test_a_write_takes_the_token_away_from_all_who_build_under_it(
        self, make_cache: Callable[..., PageCache], source: Source, redis: Redis, strategy: type[Strategy]
    ) -> None:
        cache = make_cache(strategy())
        source.held = True
        first = threading.Thread(target=cache.get_or_build, args=("page",))
        first.start()
        assert source.has_read.wait(PATIENCE)
        had_its_second(redis)

        def build_while_somebody_writes(which: str) -> str:
            page = source.build(which)
            cache.register(PAGE, source.build)
            with cache.changing("page"):
                source.value = 1
            return page

        cache.register(PAGE, build_while_somebody_writes)
        assert cache.get_or_build("page").page.body == "0"
        source.may_finish.set()
        finish(first)
        assert cache.get_or_build("page").page.body == "1"

    def test_a_page_is_as_old_as_its_building_and_lives_so_much_shorter(
        self, cache: PageCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or with `expire` an author could lose sight of their own post once the cache is thought to have caught up."""
        now = time.time()
        monkeypatch.setattr("app.cache.time.time", lambda: now)

        def build(_which: str) -> str:
            nonlocal now
            now += 20
            return "old"

        cache.register(PAGE, build)
        assert cache.get_or_build("page").status == "Pipit; fwd=miss; stored"
        assert 38_000 < redis.pttl("page:page") <= 40_000

    def test_a_page_that_is_too_old_when_it_is_built_is_not_kept(
        self, cache: PageCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time()
        monkeypatch.setattr("app.cache.time.time", lambda: now)

        def build(_which: str) -> str:
            nonlocal now
            now += cache.ttl + 1
            return "old"

        cache.register(PAGE, build)
        assert cache.get_or_build("page").page.body == "old"
        wait_until(lambda: redis.keys("page:*") == [], "it to expire")

    def test_a_reader_does_not_wait_for_others_for_ever(
        self, cache: PageCache, redis: Redis, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Should one after the other take the lease and build without an end."""
        now = time.monotonic()
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            nonlocal now
            now += 1
            waited.append(seconds)
            redis.set("page:page:lease", "f of somebody else", px=LEASE)

        redis.set("page:page:lease", "f of somebody", px=LEASE)
        monkeypatch.setattr("app.cache.time", SimpleNamespace(monotonic=lambda: now, time=time.time, sleep=sleep))
        assert cache.get_or_build("page").status == "Pipit; fwd=miss"
        assert len(waited) == MOST_WAIT + 1


def had_its_second(redis: Redis) -> None:
    """Have the lease be as old as it is when one more reader may build."""
    assert redis.pexpire("page:page:lease", LEASE - BUILDS_ALONE)


def test_those_who_waited_say_so(cache: PageCache, source: Source, waiting: set[int]) -> None:
    source.held = True
    holder = threading.Thread(target=cache.get_or_build, args=("page",))
    holder.start()
    assert source.has_read.wait(PATIENCE)
    statuses: list[str] = []
    waiter = threading.Thread(target=lambda: statuses.append(cache.get_or_build("page").status))
    waiter.start()
    wait_until(lambda: waiting, "it to wait")
    source.may_finish.set()
    finish(waiter, holder)
    assert statuses == ["Pipit; fwd=miss; collapsed; ttl=60"]


def test_a_page_of_another_deployment_is_not_served(make_cache: Callable[..., PageCache], source: Source) -> None:
    make_cache(version="v1").get_or_build("page")
    assert make_cache(version="v2").get("page") is None
    assert make_cache(version="v2").get_or_build("page").status == "Pipit; fwd=miss; stored"


def packed_with(dictionary: bytes) -> bytes:
    compressor = zlib.compressobj(zdict=dictionary)
    return compressor.compress(b"of another dictionary") + compressor.flush()


RUBBISH = [
    b"",
    b"\n",
    b"v1",
    b"v1 x\n",
    b"v1 x y z\nbody",
    b"\xff\xfe",
    b"v1 RUN e 1.0",
    b"v1 RUN e 1.0\n",
    b"v1 RUN e 1.0\nnot compressed",
    b"v1 RUN e 1.0\n" + zlib.compress(b"cut off")[:-1],
    b"v1 RUN e 1.0\n" + zlib.compress(b"changed")[:-4] + b"1234",
    b"v1 RUN e 1.0\n" + packed_with(b"another dictionary"),
    b"v1 RUN e noon\n" + zlib.compress(b"x"),
    b"v1 RUN e 1.0 more\n" + zlib.compress(b"x"),
]


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_rubbish_in_its_place_is_a_miss(cache: PageCache, redis: Redis, rubbish: bytes) -> None:
    assert cache.get("page") is None  # so that the server's run is known
    redis.set("page:page", rubbish.replace(b"RUN", cache.store.run_id.encode()))
    began = time.monotonic()
    assert cache.get_or_build("page").page.body == "0"
    assert time.monotonic() - began < BUILDS_ALONE / 1000
    assert cache.get("page")


@pytest.mark.server
def test_a_page_is_kept_compressed_after_a_line_that_says_whose_it_is(cache: PageCache, redis_url: str) -> None:
    page = cache.get_or_build("page").page
    with Redis.from_url(redis_url) as client:
        head, _, compressed = cast(bytes, client.get("page:page")).partition(b"\n")
    assert head.decode() == f"-v1 {cache.store.run_id} {page.etag} {page.built_at:.3f}"
    assert zlib.decompress(compressed) == page.encoded == b"0"


def test_a_page_that_another_run_of_the_server_took_is_not_served(cache: PageCache, redis: Redis) -> None:
    """It has come back from disk, and may have forgotten a write that deleted the page."""
    page = cache.get_or_build("page").page
    value = cache.encode(Page(b"old", page.etag, page.built_at), "0" * 40)
    redis.set("page:page", value)
    assert cache.get_or_build("page").page.body == "0"


@pytest.mark.parametrize("parts", [(), ("ada",), ("a:b", "c"), ("a", "b:c"), ("a%3Ab", ""), ("é\n ", 7), (":lease",)])
def test_the_name_of_a_page_tells_what_it_was_named_for(parts: tuple[object, ...]) -> None:
    kind, _, which = PAGE(*parts).partition(":")
    assert kind == "page"
    assert tuple(PAGE.parts(which)) == (tuple(map(str, parts)) or ("",))
    assert re.fullmatch(r"[\w.~%:-]*", which, re.ASCII)


def test_a_builder_that_fails_lets_the_next_reader_try_at_once(cache: PageCache, source: Source) -> None:
    def fail(_which: str) -> str:
        raise LookupError

    cache.register(PageKind("broken"), fail)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(LookupError):
            cache.get_or_build("broken")
        assert time.monotonic() - began < BUILDS_ALONE / 2000


class TestMarks:
    """What writers leave in the lease: each has its own mark there, and a page is stored when none is left."""

    @pytest.fixture(params=[Invalidate, Refresh])
    def cache(self, request: pytest.FixtureRequest, make_cache: Callable[..., PageCache]) -> PageCache:
        return make_cache(request.param())

    @pytest.fixture
    def lease(self, redis: Redis) -> Callable[[], list[str]]:
        """Give a function that returns the marks in the lease."""
        return lambda: re.findall("w[^;]+;!*", str(redis.get("page:page:lease") or ""))

    def test_each_of_several_writers_has_its_own(self, cache: PageCache, lease: Callable[[], list[str]]) -> None:
        writes = [cache.changing("page") for _ in range(3)]
        for number, write in enumerate(writes, 1):
            write.__enter__()
            assert len(lease()) == number
        before = lease()
        writes[1].__exit__(None, None, None)
        assert [mark.rstrip("!") for mark in lease()] == [before[0], before[2]]
        cache.get_or_build("page")
        assert cache.get("page") is None  # two writes are still open
        for write in (writes[0], writes[2]):
            write.__exit__(None, None, None)
        assert lease() == []
        assert cache.get_or_build("page").status == "Pipit; fwd=miss; stored"

    def test_one_that_its_writer_left_behind_is_dropped_when_it_is_too_old(
        self, cache: PageCache, lease: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or the page would stay uncached while others go on writing."""
        now = time.time()
        monkeypatch.setattr("app.cache.time.time", lambda: now)
        died = cache.changing("page")
        died.__enter__()
        now += WRITE_LEASE / 1000 - 0.002
        with cache.changing("page"):
            assert len(lease()) == 2
        assert len(lease()) == 1
        now += 0.004
        with cache.changing("page"):
            assert len(lease()) == 1
        assert lease() == []
        cache.get_or_build("page")
        assert cache.get("page")

    def test_many_writers_at_once_leave_none_and_no_old_page(
        self, cache: PageCache, source: Source, lease: Callable[[], list[str]]
    ) -> None:
        lock = threading.Lock()

        def write_often(_number: int) -> None:
            for _ in range(20):
                with cache.changing("page"), lock:
                    source.value += 1
                cache.get_or_build("page")

        in_threads(6, write_often)
        assert lease() == []
        assert cache.get_or_build("page").page.body == "120"

    def test_a_reader_takes_no_lease_that_writers_hold(self, cache: PageCache, redis: Redis) -> None:
        with cache.changing("page"):
            held = redis.get("page:page:lease")
            redis.delete("page:page")
            cache.get_or_build("page")
            assert redis.get("page:page:lease") == held

    def test_a_full_redis_serves_no_old_page(self, cache: PageCache, source: Source, redis: Redis) -> None:
        cache.get_or_build("page")
        redis.config_set("maxmemory", 1)
        try:
            with cache.changing("page"):
                source.value = 1
            assert cache.get_or_build("page").page.body == "1"
        finally:
            redis.config_set("maxmemory", 0)
        assert cache.get_or_build("page").page.body == "1"

    @pytest.mark.server
    def test_a_write_that_could_not_begin_waits_for_nobody(
        self, cache: PageCache, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.cache.time.sleep", lambda _seconds: pytest.fail("it waits"))
        redis.slaveof("127.0.0.1", 1)  # a replica after a failover takes no writes
        try:
            with pytest.raises(StoreUnavailableError), cache.changing("page"):
                pytest.fail("nothing may be written")
        finally:
            redis.slaveof()

    def test_a_writer_whom_redis_does_not_answer_after_the_commit_waits_until_no_copy_is_left(
        self, cache: PageCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: list[float] = []
        monkeypatch.setattr("app.cache.time.sleep", waited.append)
        monkeypatch.setattr(cache, "settle", lambda _names, _mark: False)
        monkeypatch.setattr(cache, "store_if_ours", lambda *_: False)
        with cache.changing("page"):
            pass
        (seconds,) = waited
        assert 0.5 * STILL_SERVED / 1000 < seconds <= STILL_SERVED / 1000
        assert STILL_SERVED / 1000 >= COPY_LIFETIME

    @pytest.mark.server
    def test_a_writer_goes_on_when_redis_has_sent_the_news(self, cache: PageCache, redis: Redis) -> None:
        with redis.monitor() as monitor:
            with cache.changing("page"):
                redis.echo("the commit")
            redis.echo("the answer")
            commands: list[str] = []
            while commands[-1:] != ["ECHO the answer"]:
                commands.append(str(monitor.next_command()["command"]))
        after = commands[commands.index("ECHO the commit") : -1]
        assert after[-1] == "PING"
        assert not any(command.startswith(("EVAL", "DEL", "SET")) for command in commands[commands.index("PING") :])


class TestSize:
    """However many pages there are, those in Redis take no more than MOST_BYTES; the oldest of a segment go first."""

    def test_the_oldest_pages_make_room(self, cache: PageCache, redis: Redis) -> None:
        names = names_in_a_segment(40)
        for name in names:
            fill(cache, name, 3_000)
        kept = [name for name in names if cache.get(name)]
        assert kept == names[-len(kept) :]
        assert 10 <= len(kept) < 20
        assert redis.get(SEGMENT) == " ".join(reversed(kept))

    def test_a_page_that_replaces_its_older_self_counts_once_and_is_the_newest(
        self, make_cache: Callable[..., PageCache], redis: Redis
    ) -> None:
        cache = make_cache(Refresh())
        first, second = names_in_a_segment(2)
        fill(cache, first)
        fill(cache, second)
        with cache.changing(first):
            pass
        assert redis.get(SEGMENT) == f"{first} {second}"

    def test_a_page_in_steady_use_comes_back_with_one_rebuild(self, cache: PageCache) -> None:
        used, *others = names_in_a_segment(200)
        rebuilds = 0
        for name in others:
            rebuilds += fill(cache, used, 3_000).endswith("stored")
            fill(cache, name, 3_000)
        assert 2 <= rebuilds <= len(others) // 10

    @pytest.mark.parametrize("how", ["expired", "deleted by a write"])
    def test_pages_that_are_gone_make_room(self, cache: PageCache, redis: Redis, how: str) -> None:
        kept, *gone, last = names_in_a_segment(12)
        for name in (kept, *gone):
            fill(cache, name, 3_000)
        if how == "expired":
            for name in gone:
                redis.pexpire(f"page:{name}", 0)
        else:
            with cache.changing(*gone):
                pass
        fill(cache, last, 30_000)
        assert cache.get(kept)
        assert redis.get(SEGMENT) == f"{last} {kept}"

    def test_a_segment_expires_after_pages_and_sessions(self, cache: PageCache, redis: Redis) -> None:
        (name,) = names_in_a_segment(1)
        fill(cache, name)
        assert Config.session_lifetime < redis.ttl(SEGMENT) <= 30 * 86_400  # so that volatile-ttl evicts it last

    def test_a_page_larger_than_a_segment_is_served_and_not_stored(self, cache: PageCache, redis: Redis) -> None:
        small, large = names_in_a_segment(2)
        fill(cache, small)
        for _ in range(2):
            assert fill(cache, large, 2 * SEGMENT_BYTES) == "Pipit; fwd=miss"
        assert redis.keys("page:*") == [f"page:{small}"]

    @pytest.mark.parametrize("damage", [b"", b"\xff\x00\n", b" : page session:x %s 1e9 ", b"x " * 10_000, None])
    def test_a_damaged_segment_stops_no_page(self, cache: PageCache, redis: Redis, damage: bytes | None) -> None:
        (name,) = names_in_a_segment(1)
        redis.set("session:x", "somebody's")
        redis.rpush("page:page", "not a string")
        if damage is None:
            redis.rpush(SEGMENT, "not a string")
        else:
            redis.set(SEGMENT, damage)
        assert fill(cache, name) == "Pipit; fwd=miss; stored"
        assert cache.get(name)
        assert redis.get(SEGMENT) == name
        assert redis.get("session:x")

    @pytest.mark.server
    def test_a_store_that_makes_room_is_one_command(self, cache: PageCache, redis: Redis) -> None:
        *names, last = names_in_a_segment(40)
        for name in names:
            fill(cache, name, 3_000)
        with commands_sent(redis) as sent:
            fill(cache, last, 3_000)
        assert [command.split()[0] for command in sent] == ["GET", "EVAL", "EVAL"]  # look, take the lease, store

    @pytest.mark.server
    @pytest.mark.parametrize(("size", "pages", "segments"), [(3_000, 20_000, SEGMENTS), (10, 3_000, 8)])
    def test_whatever_is_asked_for_pages_take_no_more_than_they_may(
        self,
        make_cache: Callable[..., PageCache],
        monkeypatch: pytest.MonkeyPatch,
        size: int,
        pages: int,
        segments: int,
    ) -> None:
        monkeypatch.setattr("app.cache.SEGMENTS", segments)
        allowed = MOST_BYTES * segments // SEGMENTS
        with valkey() as server, Redis(port=server.port) as redis:
            cache = make_cache(url=f"redis://127.0.0.1:{server.port}/0")
            cache.get("page")
            before, most = used_memory(redis), 0
            for number in range(pages):
                fill(cache, f"text:{number}", size)
                if number % 100 == 99:
                    most = max(most, used_memory(redis) - before)
        assert allowed / 2 < most <= allowed

    @pytest.mark.server
    def test_seven_thousand_permalinks_all_stay(self, make_app: Callable[..., Flask], redis: Redis) -> None:
        app = make_app()
        visitor = Visitor(app.test_client())
        visitor.register("ada")
        visitor.publish("POST_TEXT")
        permalink = Visitor(app.test_client()).get("/@ada/1").text
        cache: PageCache = app.extensions["page_cache"]
        cache.register(TEXT, lambda _which: permalink.replace("POST_TEXT", random_text(100)))
        redis.flushall()
        before = used_memory(redis)
        for number in range(7_000):
            cache.get_or_build(TEXT(number))
        assert len(list(redis.scan_iter("page:*", count=1_000))) == 7_000
        assert used_memory(redis) - before < MOST_BYTES

    def test_what_pages_have_in_common_takes_no_room_and_any_process_can_read_them(
        self, make_app: Callable[..., Flask]
    ) -> None:
        mine, others = (make_app().extensions["page_cache"] for _ in range(2))
        page = mine.build(LATEST_PAGE())
        value = mine.encode(page, "run")
        decoded = others.decode(value, "run")
        assert decoded.encoded == page.encoded
        assert len(value) < len(page.compressed) / 3

    def test_a_page_that_shows_another_name_of_the_site_is_not_served(self, make_app: Callable[..., Flask]) -> None:
        mine, others = (make_app(site_name=name).extensions["page_cache"] for name in ("Pipit", "Wren"))
        assert others.decode(mine.encode(mine.build(LATEST_PAGE()), "run"), "run") is None


CHANCE = Random(8)
TEXT = PageKind("text")
SEGMENT = "pages:7"


def names_in_a_segment(count: int) -> list[str]:
    """Return names of pages that share one segment."""
    names = (f"text:{number}" for number in itertools.count())
    return list(itertools.islice((name for name in names if zlib.crc32(name.encode()) % SEGMENTS == 7), count))


def fill(cache: PageCache, name: str, size: int = 10) -> str:
    """Read a page of that many bytes of random text; return how it was served."""
    cache.register(TEXT, lambda _which: random_text(size))
    return cache.get_or_build(name).status


def used_memory(redis: Redis) -> int:
    return int(cast(dict[str, int], redis.info("memory"))["used_memory"])


def random_text(size: int) -> str:
    """Return text of that size that compression makes a quarter smaller at most."""
    return b64encode(CHANCE.randbytes(size))[:size].decode()


class TestInvalidate:
    def test_a_write_deletes_exactly_the_pages_it_changed(self, cache: PageCache, redis: Redis, source: Source) -> None:
        for name in ("page:1", "page:2", "page:3"):
            cache.get_or_build(name)
        with cache.changing("page:1", "page:2"):
            source.value = 1
        assert redis.keys("page:*") == ["page:page:3"]

    def test_a_write_that_fails_leaves_the_cache_usable(self, cache: PageCache, source: Source) -> None:
        cache.get_or_build("page")
        with pytest.raises(RuntimeError), cache.changing("page"):
            raise RuntimeError
        assert cache.get_or_build("page").status == "Pipit; fwd=miss; stored"


class TestRefresh:
    @pytest.fixture
    def cache(self, make_cache: Callable[..., PageCache]) -> PageCache:
        return make_cache(Refresh())

    def test_readers_get_the_old_page_until_the_new_one_replaces_it(self, cache: PageCache, source: Source) -> None:
        cache.get_or_build("page")
        with cache.changing("page"):
            source.value = 1
            assert cache.get_or_build("page").page.body == "0"
        served = cache.get_or_build("page")
        assert served.status.startswith("Pipit; hit")
        assert served.page.body == "1"

    def test_where_two_writers_meet_the_page_has_both_writes_or_is_gone(self, cache: PageCache, source: Source) -> None:
        for order in ((0, 1), (1, 0)):
            cache.get_or_build("page")
            writes = [cache.changing("page"), cache.changing("page")]
            for write in writes:
                write.__enter__()
            for number in order:
                source.value += 1
                writes[number].__exit__(None, None, None)
            assert cache.get_or_build("page").page.body == str(source.value)

    def test_a_write_that_fails_leaves_no_mark(self, cache: PageCache, redis: Redis) -> None:
        cache.get_or_build("page")
        with pytest.raises(RuntimeError), cache.changing("page"):
            raise RuntimeError
        assert redis.keys("page:*") == []

    def test_a_page_that_cannot_be_rebuilt_is_deleted(self, cache: PageCache, source: Source) -> None:
        cache.get_or_build("page")

        def fail(_which: str) -> str:
            raise LookupError

        with cache.changing("page"):
            cache.register(PAGE, fail)
        assert cache.get("page") is None

    def test_the_old_page_of_a_writer_that_dies_is_gone_within_a_second(self, cache: PageCache, redis: Redis) -> None:
        cache.get_or_build("page")
        write = cache.changing("page")
        write.__enter__()
        assert 0 < redis.pttl("page:page") <= 1000


class TestExpire:
    @pytest.fixture
    def cache(self, make_cache: Callable[..., PageCache]) -> PageCache:
        return make_cache(Expire())

    @pytest.mark.server
    def test_a_write_leaves_the_page_as_it_is(self, cache: PageCache, source: Source, redis: Redis) -> None:
        cache.get_or_build("page")
        with commands_sent(redis) as sent, cache.changing("page"):
            source.value = 1
        assert sent == []
        assert cache.get_or_build("page").page.body == "0"

    def test_who_wrote_it_reads_past_the_cache(self, cache: PageCache, source: Source) -> None:
        cache.get_or_build("page")
        with cache.changing("page"):
            source.value = 1
        served = cache.get_or_build("page", newer_than=time.time())
        assert served.page.body == "1"
        assert served.status == "Pipit; fwd=request; detail=own-write"

    def test_a_page_built_by_another_clock_is_taken_for_older_than_it_says(
        self, cache: PageCache, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The clocks of two dynos differ, and the author must not be served a page from before their post."""
        built_at = cache.get_or_build("page").page.built_at
        source.value = 1
        assert cache.get_or_build("page", newer_than=built_at - 0.9).page.body == "1"
        assert cache.get_or_build("page", newer_than=built_at - 1.1).page.body == "0"

    def test_what_was_removed_is_never_served_again(self, cache: PageCache, source: Source) -> None:
        cache.get_or_build("page")
        with cache.changing("page", removal=True):
            source.value = 1
        assert cache.get_or_build("page").page.body == "1"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_author_sees_their_post_on_the_next_page_load_whatever_the_strategy(
    make_app: Callable[..., Flask], strategy: str
) -> None:
    app = make_app(cache_strategy=strategy)
    ada, bob = Visitor(app.test_client()), Visitor(app.test_client())
    ada.register("ada")
    for page in ("/", "/@ada"):
        bob.get(page)
    ada.publish("fresh off the press")
    for page in ("/", "/@ada"):
        assert "fresh off the press" in ada.get(page).text
        assert ("fresh off the press" in bob.get(page).text) == (strategy != "expire")


@pytest.mark.parametrize("strategy", ["invalidate", "refresh"])
def test_an_author_costs_no_more_than_others_where_everyone_sees_what_they_wrote(
    make_app: Callable[..., Flask], strategy: str
) -> None:
    ada = Visitor(make_app(cache_strategy=strategy).test_client())
    ada.register("ada")
    ada.publish("fresh off the press")
    ada.get("/")
    assert ada.get("/").headers["Cache-Status"].startswith("Pipit; hit")


def test_what_lives_longer_than_what() -> None:
    """The guarantees rest on it."""
    assert WRITE_LEASE / 1000 > SQL_TIMEOUT  # a write has ended, one way or the other, when its mark expires
    assert PAST_COPIES >= COPY_LIFETIME + CLOCK_SKEW
    assert COPY_LIFETIME <= STILL_SERVED / 1000
    assert BUILDS_ALONE < LEASE
    assert MOST_WAIT + SQL_TIMEOUT < LEASE / 1000


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_deleted_post_is_served_to_nobody_whatever_the_strategy(
    make_app: Callable[..., Flask], strategy: str
) -> None:
    app = make_app(cache_strategy=strategy)
    ada, bob = Visitor(app.test_client()), Visitor(app.test_client())
    ada.register("ada")
    ada.publish("a mistake")
    for page in ("/", "/@ada"):
        assert "a mistake" in bob.get(page).text
    ada.post("/posts/1/delete", form_on="/@ada/1")
    for page in ("/", "/@ada"):
        assert "a mistake" not in bob.get(page).text


@pytest.mark.server
def test_with_refresh_a_rebuilt_page_is_what_a_reader_would_have_built(make_app: Callable[..., Flask]) -> None:
    app = make_app(cache_strategy="refresh")
    ada, bob = Visitor(app.test_client()), Visitor(app.test_client())
    ada.register("ada")
    ada.publish("hello")
    rebuilt = bob.get("/")
    assert rebuilt.headers["Cache-Status"].startswith("Pipit; hit")
    Redis(port=app.extensions["store"].pool.connection_kwargs["port"]).delete("page:latest")
    assert bob.get("/").text == rebuilt.text


@pytest.mark.server
def test_a_write_that_redis_cannot_be_told_of_does_not_happen(make_cache: Callable[..., PageCache]) -> None:
    away = make_cache(url="redis://127.0.0.1:1/0")
    reached = False
    with pytest.raises(StoreUnavailableError), away.changing("page"):
        reached = True
    assert not reached


@pytest.mark.server
def test_without_redis_pages_are_built(make_cache: Callable[..., PageCache]) -> None:
    served = make_cache(url="redis://127.0.0.1:1/0").get_or_build("page")
    assert served.page.body == "0"
    assert served.status == "Pipit; fwd=bypass; detail=store-unavailable"


def test_the_prefix_goes_in_front_of_every_key(redis: Redis, redis_url: str, source: Source) -> None:
    store = Store(replace(Config(parse_redis_url(redis_url), "", ""), redis_prefix="two:"))
    cache = PageCache(store, Invalidate(), 60, "v1")
    cache.register(PAGE, source.build)
    with cache.changing("page"):
        assert redis.keys("*") == ["two:page:page:lease"]
    cache.get_or_build("page")
    assert sorted(map(str, redis.keys("*"))) == ["two:page:page", f"two:pages:{zlib.crc32(b'page') % SEGMENTS}"]
    store.close()


class TestCounts:
    """A page on which only a count has changed is served on, and soon built again."""

    def test_a_page_that_a_writer_was_building_meanwhile_lives_no_longer(
        self, make_cache: Callable[..., PageCache], source: Source, redis: Redis
    ) -> None:
        """With `refresh` the writer of a post builds the page; its build may have read the old count."""
        cache = make_cache(Refresh())
        cache.get_or_build("page")

        def build_while_a_count_changes(_which: str) -> str:
            page = str(source.value)
            with cache.changing("other", counted_on=["page"]):
                source.value += 1
            return page

        cache.register(PageKind("other"), lambda _which: "")
        cache.register(PAGE, build_while_a_count_changes)
        with cache.changing("page"):
            pass
        served = cache.get("page")
        assert served
        assert served.page.body == "0"
        assert redis.pttl("page:page") <= FADING
        assert redis.exists("page:page:lease") == 0

    def test_two_writers_whose_page_loses_a_count_meanwhile_leave_no_old_page(
        self, make_cache: Callable[..., PageCache], source: Source, redis: Redis
    ) -> None:
        for strategy in (Invalidate(), Refresh()):
            for first_to_end in (0, 1):
                cache = make_cache(strategy)
                writes = [cache.changing("page"), cache.changing("page")]
                for write in writes:
                    write.__enter__()
                    cache.fade(["page"])
                for write in writes if first_to_end else reversed(writes):
                    source.value += 1
                    write.__exit__(None, None, None)
                    assert cache.get_or_build("page").page.body == str(source.value)
                assert redis.exists("page:page:lease") == 0

    def test_nobody_waits_for_a_page_whatever_remains_of_overlapping_writes(
        self, make_cache: Callable[..., PageCache], source: Source, redis: Redis
    ) -> None:
        cache = make_cache(Invalidate())
        first, second, last = (cache.changing("page") for _ in range(3))
        first.__enter__()
        second.__enter__()
        second.__exit__(None, None, None)  # from now on the first one may not store its page
        last.__enter__()
        first.__exit__(None, None, None)
        for _ in range(2):
            began = time.monotonic()
            assert cache.get_or_build("page").page.body == str(source.value)
            assert time.monotonic() - began < 1
        assert redis.pttl("page:page:lease") <= WRITE_LEASE
        last.__exit__(None, None, None)
        assert redis.exists("page:page:lease") == 0

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_a_full_redis_hears_of_a_write_all_the_same(
        self, make_cache: Callable[..., PageCache], source: Source, strategy: str
    ) -> None:
        with valkey() as server, Redis(port=server.port) as redis:
            cache = make_cache(STRATEGIES[strategy](), url=f"redis://127.0.0.1:{server.port}/0")
            before = cache.stamps(["stamp:a"])["stamp:a"].etag
            for name in ("page:1", "page:2"):
                cache.get_or_build(name)
            cache._take_lease("page:3", b"f1")
            redis.config_set("maxmemory", 100_000)
            with pytest.raises(OutOfMemoryError):
                redis.set("more", "x" * 100)
            began = time.monotonic()
            with cache.changing("page:1", "stamp:a", counted_on=["page:2", "page:3"]):
                source.value += 1
            assert time.monotonic() - began < STILL_SERVED / 1000
            assert cache.stamps(["stamp:a"])["stamp:a"].etag != before
            if cache.strategy.seen_by_everyone:
                assert cache.get_or_build("page:1").page.body == "1"
                assert redis.pttl("page:page:2") <= FADING
