"""Copies of pages in a process's memory: quick, dropped by every write, and never older than a second."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask import Flask
from redis import Redis

from app.cache import PAST_COPIES, Invalidate, Page, PageCache, PageKind
from app.config import Config, parse_redis_url
from app.front import local_cache as local_cache_module
from app.front.local_cache import COPY_LIFETIME, Found, LocalCache
from app.front.redis_connection import LostError
from app.redis_client import Store
from app.web.caching import CachedPages, cached
from tests import servers
from tests.conftest import Visitor
from tests.counting import commands_sent
from tests.front import raw
from tests.front.conftest import OLD_SERVER
from tests.servers import PATIENCE, wait_until
from tests.serving import FrontServer


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


class Source:
    """What the page at /number is made from: a number that a write changes."""

    value = 0


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def process(
    make_app: Callable[..., Flask], serve: Callable[[Flask], FrontServer], source: Source
) -> Callable[..., FrontServer]:
    """Give a function that makes a process with one more cached page, at /number."""

    def make(**settings: Any) -> FrontServer:
        app = make_app(**settings)
        app.add_url_rule("/number", "number", cached(PageKind("number"))(lambda: f"number {source.value}"))
        app.extensions["cached_pages"] = CachedPages(app, cache_of(app), app.extensions["holes"])
        return serve(app)

    return make


def cache_of(app: Flask) -> PageCache:
    cache: PageCache = app.extensions["page_cache"]
    return cache


def wait_for_copies(*processes: FrontServer) -> None:
    for process in processes:
        process.ask("/number")
        process.wait_for_proof()
        wait_until(lambda: process.has_copy("/number"), "a copy")  # noqa: B023  # called in this very round


class Stop:
    """What a loop is called with to stand still until it may go on."""

    def __init__(self) -> None:
        self.stands_still, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.stands_still.set()
        self.go_on.wait(PATIENCE)


def test_redis_remembers_no_page_that_does_not_exist(process: Callable[..., FrontServer], redis: Redis) -> None:
    """It would remember a missing one for ever, and anyone can ask for a hundred thousand of those."""
    front = process()
    wait_for_copies(front)
    before = int(redis.info("stats")["tracking_total_keys"])
    for number in range(50):
        assert front.ask(f"/@nobody_{number}").status == 404
    assert int(redis.info("stats")["tracking_total_keys"]) <= before + 2  # the proof's own key


# Several processes


@pytest.mark.parametrize("strategy", ["invalidate", "refresh"])
def test_once_a_write_is_acknowledged_no_process_serves_its_copy(
    process: Callable[..., FrontServer], source: Source, strategy: str
) -> None:
    one, two = process(cache_strategy=strategy), process(cache_strategy=strategy)
    for number in range(1, 30):
        wait_for_copies(one, two)
        with cache_of(one.app).changing("number"):
            source.value = number
        for each in (one, two):
            assert each.ask("/number").text == f"number {number}"


def test_while_a_write_is_open_no_process_keeps_a_copy(process: Callable[..., FrontServer], source: Source) -> None:
    one, two = process(cache_strategy="refresh"), process(cache_strategy="refresh")
    wait_for_copies(one, two)
    with cache_of(one.app).changing("number"):
        for each in (one, two):
            wait_until(lambda: not each.has_copy("/number"), "the news")  # noqa: B023  # called in this very round
            for _ in range(3):
                assert not each.has_copy("/number")
                assert each.ask("/number").text == "number 0"
        source.value = 1
    wait_for_copies(one, two)


def test_a_removal_drops_the_copies_under_every_strategy(process: Callable[..., FrontServer], source: Source) -> None:
    one, two = process(cache_strategy="expire"), process(cache_strategy="expire")
    wait_for_copies(one, two)
    with cache_of(one.app).changing("number", removal=True):
        source.value = 1
    assert two.ask("/number").text == "number 1"


def test_a_process_that_was_stopped_reads_the_news_before_it_answers(
    process: Callable[..., FrontServer], source: Source
) -> None:
    """And the writer does not wait for it."""
    writer, stopped = process(), process()
    for number in range(1, 20):
        wait_for_copies(stopped)
        stop = Stop()
        with raw.Connection(stopped.port) as reader:
            reader.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            reader.hear(b"ok\n")
            stopped.loop.call_soon_threadsafe(stop)
            assert stop.stands_still.wait(PATIENCE)
            began = time.monotonic()
            with cache_of(writer.app).changing("number"):
                source.value = number
            assert time.monotonic() - began < COPY_LIFETIME / 2
            reader.send(b"GET /number HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            stop.go_on.set()
            assert reader.finish().last.body.decode() == f"number {number}"


def test_a_pipit_in_another_database_of_the_server_is_neither_waited_for_nor_read(
    process: Callable[..., FrontServer], source: Source, redis: Redis, redis_url: str
) -> None:
    """Redis tells of a changed key without saying in which database: news for one is heard by the other as well."""
    writer, other = process(), process(redis=parse_redis_url(redis_url.removesuffix("/0") + "/1"))
    wait_for_copies(writer, other)
    stop = Stop()
    other.loop.call_soon_threadsafe(stop)
    assert stop.stands_still.wait(PATIENCE)
    try:
        began = time.monotonic()
        with cache_of(writer.app).changing("number"):
            source.value = 1
        assert time.monotonic() - began < COPY_LIFETIME / 2
    finally:
        stop.go_on.set()
    assert writer.ask("/number").text == "number 1"
    assert other.ask("/number").text == "number 0"  # its own page, in its own database
    with Redis(port=redis.connection_pool.connection_kwargs["port"], db=1) as database:
        database.flushdb()


def test_a_full_redis_delays_no_write(process: Callable[..., FrontServer], redis: Redis, source: Source) -> None:
    one, two = process(), process()
    wait_for_copies(one, two)
    redis.config_set("maxmemory", 1)
    try:
        began = time.monotonic()
        with cache_of(one.app).changing("number"):
            source.value = 1
        assert time.monotonic() - began < COPY_LIFETIME / 2
        assert two.ask("/number").text == "number 1"
    finally:
        redis.config_set("maxmemory", 0)
    assert two.ask("/number").text == "number 1"


@pytest.mark.parametrize("forget", [Redis.flushall, Redis.flushdb])
def test_a_server_that_forgets_everything_takes_the_copies_with_it(
    process: Callable[..., FrontServer], redis: Redis, source: Source, forget: Callable[[Redis], object]
) -> None:
    front = process()
    wait_for_copies(front)
    forget(redis)
    redis.ping()
    source.value = 1
    assert front.ask("/number").text == "number 1"


# Whether news comes


def test_no_page_is_kept_before_the_first_proof_that_news_comes(
    process: Callable[..., FrontServer], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = LocalCache._change_proof_key
    tried: list[None] = []
    monkeypatch.setattr(LocalCache, "_change_proof_key", lambda _copies: tried.append(None))  # nobody pushes anything
    front = process()
    front.ask("/number")
    wait_until(lambda: len(tried) > 1, "a second try")
    with commands_sent(redis) as commands:
        for _ in range(5):
            reply = front.ask("/number")
            assert reply.early
            assert "detail=memory" not in reply.header("cache-status")
    assert len(commands) == 5
    monkeypatch.setattr(LocalCache, "_change_proof_key", change)
    wait_for_copies(front)


def test_a_process_that_gets_no_news_any_more_keeps_no_copies(
    process: Callable[..., FrontServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    front = process()
    wait_for_copies(front)
    first = front.local_cache.link.connection
    change = LocalCache._change_proof_key
    monkeypatch.setattr(LocalCache, "_change_proof_key", lambda _copies: None)
    wait_until(lambda: not front.local_cache._proven, "the silence to be noticed")
    assert not front.has_copy("/number")
    wait_until(lambda: front.local_cache.link.connection not in (None, first), "another connection")
    assert not front.has_copy("/number")
    assert "no page is kept in memory" in caplog.text
    monkeypatch.setattr(LocalCache, "_change_proof_key", change)
    wait_for_copies(front)


def test_a_process_that_has_lost_its_connection_keeps_no_copies_until_it_hears_of_changes_again(
    process: Callable[..., FrontServer], redis: Redis, source: Source
) -> None:
    front = process()
    wait_for_copies(front)
    connection = front.local_cache.link.connection
    assert connection
    address = "{}:{}".format(*connection._transport.get_extra_info("sockname"))
    assert redis.client_kill_filter(addr=address) == 1
    source.value = 1
    redis.delete("page:number")
    assert front.ask("/number").text == "number 1"
    wait_for_copies(front)
    with cache_of(front.app).changing("number"):
        source.value = 2
    assert front.ask("/number").text == "number 2"


def hits_are_early_and_from_redis(front: FrontServer, redis: Redis) -> None:
    front.ask("/number")
    wait_until(lambda: front.ask("/number").early, "an early answer")
    assert not front.local_cache.link.tracks
    with commands_sent(redis) as commands:
        for _ in range(5):
            reply = front.ask("/number")
            assert reply.early
            assert re.fullmatch(r"Pipit; hit; ttl=\d+", reply.header("cache-status"))
    assert len(commands) == 5
    assert not front.local_cache._copies


def test_a_user_that_may_not_hear_of_changes_has_no_copies_and_one_command_a_hit(
    process: Callable[..., FrontServer], redis: Redis, redis_url: str
) -> None:
    redis.acl_setuser("deaf", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-client|tracking"])
    try:
        front = process(redis=parse_redis_url(redis_url.replace("redis://", "redis://deaf:any@")))
        hits_are_early_and_from_redis(front, redis)
    finally:
        redis.acl_deluser("deaf")


def test_a_server_older_than_resp3_has_no_copies_and_one_command_a_hit(process: Callable[..., FrontServer]) -> None:
    with (
        servers.valkey(**OLD_SERVER) as old,
        Redis(port=old.port, decode_responses=True, protocol=2) as redis,
    ):
        front = process(redis=parse_redis_url(f"redis://127.0.0.1:{old.port}/0"))
        hits_are_early_and_from_redis(front, redis)


# Authors


def test_an_author_reads_past_the_copies_for_two_seconds_after_their_own_write(
    app: Flask, serve: Callable[[Flask], FrontServer], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """News that a lost packet delays is on its way for 0.2 s."""
    ada = Visitor(app.test_client())
    ada.register("ada")
    ada.publish("hello")
    ada.get("/home")
    front = serve(app)
    front.ask("/")
    front.wait_for_proof()
    cookie = f"Cookie: session={ada.session_id()}"
    wrote = json.loads(str(redis.get(f"session:{ada.session_id()}")))["wrote"]
    for later, past_copies in ((0.0, True), (PAST_COPIES - 0.1, True), (PAST_COPIES + 0.1, False)):
        wait_until(lambda: front.has_copy("/"), "a copy")
        monkeypatch.setattr("app.front.early_responses.time", SimpleNamespace(time=lambda: wrote + later))  # noqa: B023
        with commands_sent(redis) as commands:
            reply = front.ask("/", cookie)
        assert reply.early
        assert "hello" in reply.text
        assert any(command.startswith("GET page:latest") for command in commands) == past_copies


def test_under_expire_an_author_sees_their_post_though_there_are_copies_without_it(
    make_app: Callable[..., Flask], serve: Callable[[Flask], FrontServer]
) -> None:
    app = make_app(cache_strategy="expire")
    ada = Visitor(app.test_client())
    ada.register("ada")
    front = serve(app)
    front.ask("/")
    front.wait_for_proof()
    ada.publish("hello")
    ada.get("/home")
    wait_until(lambda: front.has_copy("/"), "a copy")
    own = front.ask("/", f"Cookie: session={ada.session_id()}")
    assert "hello" in own.text
    assert own.header("cache-status") == "Pipit; fwd=request; detail=own-write"
    assert "hello" not in front.ask("/").text


@pytest.mark.parametrize("signed_in", [True, False], ids=["signed in", "with the cookie of an ended session"])
def test_news_that_is_late_comes_with_a_readers_session_at_the_latest(
    process: Callable[..., FrontServer], source: Source, monkeypatch: pytest.MonkeyPatch, signed_in: bool
) -> None:
    """Redis sends both on one connection, so whoever has a session sees each write that was acknowledged before."""
    front = process()
    ada = Visitor(front.app.test_client())
    ada.register("ada")
    ada.get("/home")
    cookie = f"Cookie: session={ada.session_id() if signed_in else 22 * 'x'}"
    wait_for_copies(front)
    assert front.has_copy("/number", cookie)
    interface: Any = front.app.session_interface
    read_command = interface.read_command

    def write_first(sid: str) -> Any:
        """Write when the reader's copy has been found, and the news of the write has not been read."""
        with cache_of(front.app).changing("number"):
            source.value = 1
        return read_command(sid)

    monkeypatch.setattr(interface, "read_command", write_first)
    wait_until(lambda: front.has_copy("/number"), "a copy")
    assert front.ask("/number", cookie).text == "number 1"


def test_a_copy_may_outlive_its_page_so_under_expire_authors_read_past_both_for_longer(
    make_app: Callable[..., Flask], serve: Callable[[Flask], FrontServer], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(cache_strategy="expire", cache_ttl=60)
    ada = Visitor(app.test_client())
    ada.register("ada")
    ada.get("/")
    ada.publish("hello")
    ada.get("/home")
    front = serve(app)
    cookie = f"Cookie: session={ada.session_id()}"
    wrote = json.loads(str(redis.get(f"session:{ada.session_id()}")))["wrote"]
    clock = SimpleNamespace(time=lambda: wrote + 60 + PAST_COPIES - 0.1, monotonic=time.monotonic)
    monkeypatch.setattr("app.cache.time", clock)
    assert front.ask("/", cookie).header("cache-status") == "Pipit; fwd=request; detail=own-write"
    clock.time = lambda: wrote + 60 + PAST_COPIES + 0.1
    assert "hit" in front.ask("/", cookie).header("cache-status")


# One process, its connection played by the test


class Connection:
    """What the copies see of a connection to Redis."""

    usable = True

    def __init__(self) -> None:
        self.written = 0  # batches
        self.asked: list[tuple[Callable[[Any], None], tuple[str, ...]]] = []

    def ask(self, callback: Callable[[Any], None], *command: str) -> None:
        self.asked.append((callback, command))

    def track_next(self) -> None:
        """Take no note of it."""

    def reply(self, reply: Any) -> None:
        """Answer the oldest question that has none."""
        callback, _ = self.asked.pop(0)
        callback(reply)


class Clock:
    """A loop whose clock stands still, until it is moved."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def create_future(self) -> "asyncio.Future[Any]":
        return self.loop.create_future()


class AllSeen(dict[str, None]):
    """All pages are known to exist, so all are tracked."""

    def __contains__(self, _name: object) -> bool:
        return True


class Alone:
    """The copies of a process, on a connection and with a clock that the test plays."""

    def __init__(self, store: Store) -> None:
        self.cache = PageCache(store, Invalidate(), 60, "v1")
        self.local_cache = LocalCache(self.cache)
        self.local_cache.link.run_id = "run"
        self.local_cache.link.tracks = True
        self.local_cache._proven = True
        self.local_cache._seen = cast(Any, AllSeen())
        self.clock = self.local_cache._loop = cast(Any, Clock())
        self.connection = Connection()
        self.local_cache.link.connection = cast(Any, self.connection)

    def look_up(self, name: str) -> "asyncio.Future[Found]":
        return self.local_cache.look_up(name, cast(Any, self.connection))

    def value(self, body: str = "body", built_at: float = 0.0, run: str = "run") -> bytes:
        return self.cache.encode(Page(body.encode(), body, built_at), run)

    def keep(self, name: str, body: str = "body") -> None:
        """Ask for a page, and have Redis answer."""
        self.look_up(name)
        self.connection.written += 1
        self.connection.reply(self.value(body))

    def has(self, name: str) -> bool:
        return self.local_cache.get(name) is not None

    def push(self, *keys: bytes) -> None:
        self.local_cache._on_push([b"invalidate", list(keys)])


@pytest.fixture
def alone(redis_url: str) -> Iterator[Callable[[Callable[[Alone], None]], None]]:
    """Give a function that runs a test on a loop."""
    store = Store(Config(parse_redis_url(redis_url), "", ""))

    def run(test: Callable[[Alone], None]) -> None:
        async def main() -> None:
            test(Alone(store))

        asyncio.run(main(), debug=True)

    yield run
    store.close()


RunAlone = Callable[[Callable[[Alone], None]], None]


def test_one_question_for_a_page_is_on_its_way_and_one_waits_however_many_ask(alone: RunAlone) -> None:
    def test(alone: Alone) -> None:
        first = [alone.look_up("latest") for _ in range(10)]
        assert [command for _, command in alone.connection.asked] == [("GET", "page:latest")]
        alone.connection.written += 1  # from here on nobody joins it: its answer may be older than what they know
        later = [alone.look_up("latest") for _ in range(10)]
        other = alone.look_up("user:ada")
        assert len(alone.connection.asked) == 2
        alone.connection.reply(alone.value("old"))
        assert {future.result().responses.split.page.body for future in first} == {"old"}  # type: ignore[union-attr]
        assert not any(future.done() for future in [*later, other])
        assert len(alone.connection.asked) == 2
        alone.connection.reply(None)
        assert other.result() == Found(None, missed=True)
        alone.connection.written += 1
        alone.connection.reply(alone.value("new"))
        assert {future.result().responses.split.page.body for future in later} == {"new"}  # type: ignore[union-attr]
        assert alone.connection.asked == []

    alone(test)


@pytest.mark.parametrize(("flag", "kept"), [(b"-", True), (b"w", False)])
def test_a_page_is_kept_unless_a_write_has_flagged_it(alone: RunAlone, flag: bytes, kept: bool) -> None:
    def test(alone: Alone) -> None:
        future = alone.look_up("latest")
        alone.connection.reply(flag + alone.value()[1:])
        found = future.result().responses
        assert found is not None
        assert "detail=memory" not in found.status  # this one is from Redis
        assert alone.has("latest") == kept

    alone(test)


def test_nothing_is_kept_without_a_proof_that_news_comes(alone: RunAlone) -> None:
    def test(alone: Alone) -> None:
        alone.local_cache._proven = False
        alone.keep("latest")
        assert not alone.has("latest")

    alone(test)


@pytest.mark.parametrize("value", [None, b"", b"junk", "another run"])
def test_what_is_not_a_page_of_this_run_is_a_miss(alone: RunAlone, value: bytes | str | None) -> None:
    def test(alone: Alone) -> None:
        future = alone.look_up("latest")
        alone.connection.reply(alone.value(run="before") if isinstance(value, str) else value)
        assert future.result() == Found(None, missed=True)
        assert not alone.has("latest")

    alone(test)


def test_a_copy_lives_a_second_from_the_moment_redis_was_asked(alone: RunAlone) -> None:
    def test(alone: Alone) -> None:
        alone.look_up("latest")
        alone.clock.now = 100.5
        alone.connection.reply(alone.value())
        alone.clock.now = 100.0 + COPY_LIFETIME - 0.01
        assert alone.has("latest")
        alone.clock.now = 100.0 + COPY_LIFETIME
        assert not alone.has("latest")

    alone(test)


def test_news_of_a_page_drops_its_copy_and_no_other(alone: RunAlone) -> None:
    def test(alone: Alone) -> None:
        for name in ("latest", "user:ada"):
            alone.keep(name)
        alone.push(b"session:page:latest", b"page:lates", b"page:latest2", b"page:")
        assert alone.has("latest")
        alone.push(b"other", b"page:latest")
        assert not alone.has("latest")
        assert alone.has("user:ada")
        alone.local_cache._on_push([b"message", b"channel", b"page:user:ada"])
        assert alone.has("user:ada")
        alone.local_cache._on_push([b"invalidate", None])
        assert not alone.has("user:ada")
        assert alone.local_cache._bytes == 0

    alone(test)


def test_no_copy_is_served_on_a_connection_that_is_being_closed(alone: RunAlone) -> None:
    def test(alone: Alone) -> None:
        alone.keep("latest")
        alone.connection.usable = False
        assert not alone.has("latest")
        alone.local_cache.link.connection = None
        assert not alone.has("latest")

    alone(test)


def test_a_lost_connection_takes_all_copies_and_all_who_wait_go_on_without(alone: RunAlone) -> None:
    def test(alone: Alone) -> None:
        alone.keep("user:ada")
        first = alone.look_up("latest")
        alone.connection.written += 1
        second = alone.look_up("latest")
        alone.connection.reply(LostError("gone"))
        alone.local_cache._on_lost()
        for future in (first, second):
            assert future.result() == Found(None, missed=False)
        assert not alone.has("user:ada")
        assert alone.connection.asked == []
        alone.look_up("latest")
        assert len(alone.connection.asked) == 1

    alone(test)


def test_somebody_who_does_not_wait_any_longer_harms_nobody(alone: RunAlone) -> None:
    def test(alone: Alone) -> None:
        alone.look_up("latest").cancel()
        alone.connection.written += 1
        alone.look_up("latest").cancel()
        alone.connection.reply(alone.value())
        assert alone.has("latest")
        alone.connection.reply(LostError("gone"))
        assert alone.connection.asked == []

    alone(test)


def test_what_is_made_of_a_page_is_kept_while_the_page_stays_the_same(alone: RunAlone) -> None:
    def test(alone: Alone) -> None:
        def split(*value: Any) -> object:
            future = alone.look_up("latest")
            alone.connection.reply(alone.value(*value))
            responses = future.result().responses
            assert responses is not None
            return responses.split

        first = split("body")
        assert split("body") is first
        assert split("body", 1.0) is not first  # built again
        assert split("other") is not first

    alone(test)


def test_copies_take_no_more_than_their_share_of_memory_and_the_least_used_go_first(
    alone: RunAlone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def test(alone: Alone) -> None:
        alone.keep("page:0")
        size = alone.local_cache._bytes
        assert size > len("body")
        monkeypatch.setattr(local_cache_module, "MOST_BYTES", 3 * size + size // 2)
        for number in range(1, 30):
            alone.keep(f"page:{number}")
            assert alone.has("page:0")  # which makes it the last used
            assert alone.local_cache._bytes == size * len(alone.local_cache._copies) <= local_cache_module.MOST_BYTES
        assert list(alone.local_cache._copies) == ["page:28", "page:29", "page:0"]
        alone.keep("page:0", "another " * 10)
        assert alone.local_cache._bytes == sum(copy.size for copy in alone.local_cache._copies.values())
        monkeypatch.setattr(local_cache_module, "MOST_BYTES", size - 1)
        alone.keep("page:too large")
        assert (len(alone.local_cache._copies), alone.local_cache._bytes) == (0, 0)

    alone(test)
