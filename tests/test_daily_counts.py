"""What is counted in memory and added to Redis: pages from the cache, pages built, logins refused."""

import pytest
from flask import Flask
from redis import Redis

from app import background
from app.background import Background
from app.daily_counts import BUILT, DAYS, FROM_CACHE, LIFETIME, LOGINS_REFUSED, DailyCounts, last_days
from app.redis_client import Store, StoreUnavailableError
from tests.conftest import in_threads
from tests.servers import wait_until
from tests.serving import FrontServer


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def store(app: Flask) -> Store:
    store: Store = app.extensions["store"]
    return store


def of_today(redis: Redis) -> dict[str, str]:
    counts: dict[str, str] = redis.hgetall(f"count:{last_days()[-1]}")  # type: ignore[assignment]
    return counts


def test_processes_add_to_one_key_a_day_which_expires(redis: Redis, store: Store) -> None:
    for _ in range(2):
        counts = DailyCounts(store)
        counts.add(FROM_CACHE)
        counts.add(LOGINS_REFUSED)
        counts.write()
        counts.write()
    assert of_today(redis) == {FROM_CACHE: "2", LOGINS_REFUSED: "2"}
    assert 0 < redis.ttl(redis.keys("count:*")[0]) <= LIFETIME.total_seconds()
    read = counts.read(last_days())
    assert len(read) == DAYS
    assert (read[-1][FROM_CACHE], read[-1][BUILT], read[0][FROM_CACHE]) == (2, 0, 0)


def test_no_count_is_lost_between_threads(redis: Redis, store: Store) -> None:
    counts = DailyCounts(store)

    def work(number: int) -> None:
        for _ in range(500):
            counts.add(BUILT)
            if number == 0:
                counts.write()

    in_threads(4, work)
    counts.write()
    assert of_today(redis) == {BUILT: "2000"}


def test_what_redis_does_not_take_is_added_later(redis: Redis, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StoreUnavailableError

    counts = DailyCounts(store)
    with monkeypatch.context() as patch:
        patch.setattr(store, "commands", fail)
        counts.add(BUILT)
        counts.write()
    counts.add(BUILT)
    counts.write()
    assert of_today(redis) == {BUILT: "2"}


@pytest.mark.server
def test_the_front_counts_pages_from_the_cache_and_pages_built(app: Flask, redis: Redis, front: FrontServer) -> None:
    for path in ("/", "/", "/", "/login", "/nowhere", "/@nobody"):
        front.ask(path)
    app.extensions["daily_counts"].write()
    assert of_today(redis) == {FROM_CACHE: "2", BUILT: "1"}


def test_the_background_writes_now_and_then_and_when_it_ends(
    app: Flask, redis: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, counts = Background(app, store), DailyCounts(store)
    loop.after_each_look(counts.write)
    monkeypatch.setattr(background, "POLL", 0.01)
    loop.start()
    counts.add(BUILT)
    wait_until(lambda: of_today(redis) == {BUILT: "1"}, "the count")
    monkeypatch.setattr(background, "POLL", 60)
    counts.add(BUILT)
    loop.stop()
    assert of_today(redis) == {BUILT: "2"}
