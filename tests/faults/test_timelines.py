"""Timelines, and every other cached page, against what SQL says, while many processes write and Redis fails.

People post, delete, follow and unfollow at random, through the models, in several processes. Others read, from several
web processes as they run in production. Whatever was acknowledged before a reader asked must be there, or be gone.
Between two spells of this nobody writes; then every timeline must be what the plainest query says, to the last post.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import create_engine, text

from app.cache import PageCache
from app.extensions import Base
from tests.faults.test_cache_stress import pause
from tests.faults.town import CarelessCache, HastyCache, Town, running_town

SEED = 20240229
SPELL = 1.2  # s of reading and writing, with a failure in the middle
SILENCE = 0.7  # s that a stopped Redis is silent; longer than a command may take
LEAST_WRITES = 100  # on a busy machine; on an idle one there are thousands


def nothing(town: Town) -> None:
    """Let nothing happen."""


def kill(town: Town) -> None:
    """Kill Redis; it comes back with all that its disk has, sessions too."""
    town.server.terminate()
    town.server.start()


def kill_and_empty(town: Town) -> None:
    """Kill Redis; it comes back empty, but for the sessions."""
    with keeping_sessions(town):
        town.server.terminate()
        shutil.rmtree(town.server.data_dir)
        town.server.data_dir.mkdir()
        town.server.start()


def kill_and_go_back(town: Town) -> None:
    """Kill Redis; it comes back with what its disk had at the beginning of the spell."""
    town.server.terminate()
    shutil.rmtree(town.server.data_dir)
    shutil.copytree(older(town), town.server.data_dir)
    town.server.start()


def silence(town: Town) -> None:
    """Stop Redis for a while."""
    pid = town.server._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        pause(SILENCE)
    finally:
        os.kill(pid, signal.SIGCONT)


def hang_up(town: Town) -> None:
    """Have Redis close all connections, again and again."""
    with town.redis() as redis:
        for _ in range(5):
            redis.client_kill_filter(_type="normal", skipme=True)
            pause(0.1)


def flush(town: Town) -> None:
    """Have Redis forget everything but the sessions, again and again."""
    for _ in range(5):
        with town.redis() as redis, redis.pipeline() as pipe:
            kept = sessions(redis)
            pipe.flushall()
            pipe.mset(kept)
            pipe.execute()
        pause(0.1)


def refuse(town: Town) -> None:
    """Have Redis refuse writes: because it is full, then because it is a replica."""
    with town.redis() as redis:
        redis.config_set("maxmemory", 1)
        pause(0.3)
        redis.config_set("maxmemory", 0)
        pause(0.2)
        redis.replicaof("127.0.0.1", "1")
        pause(0.3)
        redis.replicaof("NO", "ONE")


FAILURES = (nothing, kill, kill_and_empty, kill_and_go_back, silence, hang_up, flush, refuse)


def older(town: Town) -> Path:
    """Return the folder with what Redis had at the beginning of a spell."""
    return Path(town.server.data_dir).with_name("older")


def sessions(redis: Redis) -> Any:
    return {key: redis.get(key) for key in redis.scan_iter("session:*")}


@contextmanager
def keeping_sessions(town: Town) -> Iterator[None]:
    with town.redis() as redis:
        kept = sessions(redis)
    yield
    with town.redis() as redis:
        redis.mset(kept)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database without people."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'pipit.db'}"
    url = str(request.getfixturevalue("postgresql_url"))
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    engine.dispose()
    return url


@pytest.mark.parametrize(
    ("database", "strategy"),
    [
        ("sqlite", "invalidate"),
        pytest.param("postgresql", "refresh", marks=pytest.mark.postgresql),
        ("sqlite", "expire"),
    ],
    indirect=["database"],
)
def test_what_was_acknowledged_is_on_every_page_whatever_becomes_of_redis(
    tmp_path: Path, database: str, strategy: str
) -> None:
    with running_town(tmp_path, database, strategy, SEED) as town:
        town.live(SPELL, nothing)
        for failure in town.chance.sample(FAILURES, len(FAILURES)):
            shutil.rmtree(older(town), ignore_errors=True)
            shutil.copytree(town.server.data_dir, older(town))
            town.live(SPELL, failure)
            town.check_all()
            assert town.wrong == [], failure.__name__
        fillings = town.home_requests()
    assert town.history.counts.total() > LEAST_WRITES
    assert town.served["hit"] > 500
    assert town.served["memory"] > 100
    assert min(fillings) > 30, fillings  # some timelines took SQL, others were kept


@pytest.mark.parametrize("cache", [CarelessCache, HastyCache])
def test_writers_that_do_not_keep_to_the_rules_are_found_out(tmp_path: Path, cache: type[PageCache]) -> None:
    """Stamps that stay, and stamps that are gone only before the commit, so that a reader can bring back old posts."""
    with running_town(tmp_path, f"sqlite:///{tmp_path / 'pipit.db'}", "invalidate", SEED, cache) as town:
        for _ in range(10):
            town.live(SPELL, nothing)
            if town.wrong:
                break
    assert town.wrong
    assert all(wrong.startswith(("home", "profile")) or "heart" in wrong for wrong in town.wrong)
