"""Copies of pages in a process's own memory: quick, dropped by every write, and never older than a second."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from app.cache import (
    COPY_LIFETIME,
    MOST_COPIES,
    Expire,
    Invalidate,
    LocalCopies,
    Page,
    PageCache,
    Refresh,
    Served,
    Strategy,
)
from app.config import Config, parse_redis_url
from app.redis_client import Store, StoreUnavailableError
from tests.counting import commands_sent
from tests.servers import wait_until


class Source:
    """What pages are made from: a number that a write changes."""

    value = 0

    def build(self, _which: str) -> str:
        return str(self.value)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def process(redis: Redis, redis_url: str, source: Source) -> Iterator[Callable[..., PageCache]]:
    """Give a function that makes a page cache with a store of its own, as each process has, that listens."""
    stores = []

    def make(strategy: Strategy | None = None) -> PageCache:
        store = Store(Config(parse_redis_url(redis_url), "", "", redis_max_connections=8))
        stores.append(store)
        cache = PageCache(store, strategy or Invalidate(), 60, "v1")
        cache.register({"page": source.build})
        cache.listen()
        wait_until(lambda: cache.broadcast.listening, "the process to listen")
        return cache

    yield make
    for store in stores:
        store.close()


def has_copy(cache: PageCache) -> bool:
    return "detail=memory" in cache.get_or_build("page").status


def test_a_busy_page_costs_one_command_a_second(process: Callable[..., PageCache], redis: Redis) -> None:
    cache = process()
    cache.get_or_build("page")
    with commands_sent(redis) as sent:
        bodies = {cache.get_or_build("page").page.body for _ in range(1000)}
    assert bodies == {"0"}
    assert set(sent) == {"GET page:page"}
    assert len(sent) <= 2


@pytest.mark.parametrize("strategy", [Invalidate, Refresh])
def test_once_a_write_is_acknowledged_no_process_serves_its_copy(
    process: Callable[..., PageCache], source: Source, strategy: type[Strategy]
) -> None:
    one, two = process(strategy()), process(strategy())
    for number in range(1, 50):
        wait_until(lambda: has_copy(one) and has_copy(two), "copies in both processes")
        with one.changing("page"):
            source.value = number
        assert one.get_or_build("page").page.body == str(number)
        assert two.get_or_build("page").page.body == str(number)


def test_a_removal_drops_the_copies_under_every_strategy(process: Callable[..., PageCache], source: Source) -> None:
    one, two = process(Expire()), process(Expire())
    wait_until(lambda: has_copy(two), "a copy")
    with one.changing("page", removal=True):
        source.value = 1
    assert two.get_or_build("page").page.body == "1"


def test_a_write_waits_until_a_slow_process_has_dropped_its_copy(
    process: Callable[..., PageCache], source: Source
) -> None:
    writer, slow = process(), process()
    wait_until(lambda: has_copy(slow), "a copy")
    go_on = threading.Event()
    drop = slow.broadcast._on_message
    slow.broadcast._on_message = lambda names: (go_on.wait(10), drop(names))[1]
    done = threading.Event()

    def write() -> None:
        with writer.changing("page"):
            source.value = 1
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    wait_until(lambda: source.value == 1, "the commit")
    assert not done.wait(0.1)
    go_on.set()
    assert done.wait(COPY_LIFETIME / 2)
    thread.join()
    assert slow.get_or_build("page").page.body == "1"


def test_a_process_that_hears_nothing_delays_a_write_until_its_copy_is_too_old(
    process: Callable[..., PageCache], source: Source
) -> None:
    """The bounded worst case: messages are lost, and still nobody is served less than was acknowledged."""
    writer, deaf = process(), process()
    wait_until(lambda: has_copy(deaf), "a copy")
    stuck = threading.Event()
    deaf.broadcast._on_message = lambda _names: stuck.wait(10)  # type: ignore[assignment]  # nobody looks at what it returns
    began = time.monotonic()
    with writer.changing("page"):
        source.value = 1
    assert COPY_LIFETIME / 2 < time.monotonic() - began < COPY_LIFETIME + 0.5
    assert deaf.get_or_build("page").page.body == "1"
    stuck.set()


def test_a_process_that_has_lost_its_connection_keeps_no_copies_until_it_listens_again(
    process: Callable[..., PageCache], redis: Redis, source: Source
) -> None:
    cache = process()
    wait_until(lambda: has_copy(cache), "a copy")
    generation = cache.copies.ticket()[0]
    redis.client_kill_filter(_type="pubsub")
    wait_until(lambda: cache.copies.ticket()[0] > generation, "the loss to be noticed")
    wait_until(lambda: cache.broadcast.listening and has_copy(cache), "copies again")
    with cache.changing("page"):
        source.value = 1
    assert cache.get_or_build("page").page.body == "1"


def test_a_page_that_was_asked_for_before_a_message_is_not_kept_after_it() -> None:
    copies = LocalCopies()
    served = Served(Page("old", "e", 0.0), "hit")
    ticket = copies.ticket()
    copies.drop("page")
    copies.keep("page", served, ticket)
    assert copies.get("page") is None
    copies.keep("page", served, copies.ticket())
    assert copies.get("page") == served


def test_a_copy_lives_a_second_from_the_moment_redis_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("app.cache.time.monotonic", lambda: now)
    copies = LocalCopies()
    ticket = copies.ticket()
    now = 100.5
    copies.keep("page", Served(Page("body", "e", 0.0), "hit"), ticket)
    now = 100.0 + COPY_LIFETIME - 0.01
    assert copies.get("page")
    now = 100.0 + COPY_LIFETIME
    assert copies.get("page") is None


def test_what_is_compressed_once_is_not_compressed_again_while_the_page_stays_the_same() -> None:
    copies = LocalCopies()
    first = Page("body", "e", 0.0)
    copies.keep("page", Served(first, "hit; ttl=9"), copies.ticket())
    assert copies.known("page", Page("body", "e", 0.0)) is first  # with what was made of it
    assert copies.known("page", built_anew := Page("body", "e", 1.0)) is built_anew
    assert copies.known("page", changed := Page("other", "f", 0.0)) is changed
    assert copies.known("another", Page("body", "e", 0.0)) is not first


def test_copies_take_no_more_than_their_share_of_memory() -> None:
    copies = LocalCopies()
    for number in range(3 * MOST_COPIES):
        copies.keep(f"page:{number}", Served(Page("body", str(number), 0.0), "hit"), copies.ticket())
        assert len(copies._copies) <= MOST_COPIES


def test_a_process_that_serves_no_pages_keeps_no_copies(redis: Redis, redis_url: str, source: Source) -> None:
    store = Store(Config(parse_redis_url(redis_url), "", ""))
    cache = PageCache(store, Invalidate(), 60, "v1")
    cache.register({"page": source.build})
    for _ in range(3):
        assert not has_copy(cache)
    store.close()


def test_a_full_redis_delays_no_write(process: Callable[..., PageCache], redis: Redis, source: Source) -> None:
    one, two = process(), process()
    wait_until(lambda: has_copy(two), "a copy")
    redis.config_set("maxmemory", 1)
    try:
        began = time.monotonic()
        with one.changing("page"):
            source.value = 1
        assert time.monotonic() - began < COPY_LIFETIME / 2
    finally:
        redis.config_set("maxmemory", 0)
    assert two.get_or_build("page").page.body == "1"


def test_a_write_that_could_not_begin_waits_for_nobody(process: Callable[..., PageCache], redis: Redis) -> None:
    cache = process()
    redis.slaveof("127.0.0.1", 1)
    try:
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError), cache.changing("page"):
            pytest.fail("nothing may be written")
        assert time.monotonic() - began < COPY_LIFETIME / 2
    finally:
        redis.slaveof()


def test_a_connection_without_a_sign_of_life_is_lost(
    process: Callable[..., PageCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router in between has dropped the connection without a word: nothing comes, and nothing fails."""
    cache = process()
    generation = cache.copies.ticket()[0]
    monkeypatch.setattr("redis.client.PubSub.get_message", lambda *_, **__: time.sleep(0.01))
    wait_until(lambda: cache.copies.ticket()[0] > generation, "the silence to be noticed", patience=5)
    wait_until(lambda: not cache.broadcast.listening, "no copies to be kept", patience=5)
