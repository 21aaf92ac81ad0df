"""Background work: woken by a commit, found again after a crash, handed to a worker, and ended with the process."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from redis import Redis

from app import background
from app.background import Background, wake_after_commit
from app.models import User
from app.models.writes import write
from app.redis_client import Store
from tests import servers
from tests.conftest import PASSWORD, SECRET_KEY, Log
from tests.servers import PATIENCE, wait_until


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def loop(app: Flask) -> Iterator[Background]:
    """Give background work whose thread is the real one; conftest.py keeps that of an app from starting."""
    loop = Background(app, app.extensions["store"])
    app.extensions["background"] = loop
    yield loop
    loop.stop()


class Jobs:
    """Work of which a test adds pieces."""

    def __init__(self, name: str = "", done: list[str] | None = None) -> None:
        self.name = name
        self.waiting = 0
        self.done = [] if done is None else done

    def __call__(self) -> bool:
        if not self.waiting:
            return False
        self.waiting -= 1
        self.done.append(self.name)
        return True


def test_a_commit_that_stored_work_has_it_done_at_once_and_a_rollback_does_not(app: Flask, loop: Background) -> None:
    jobs = Jobs()
    loop.register(jobs)
    loop.start()
    with app.app_context():
        jobs.waiting = 1
        with write():
            wake_after_commit()
        wait_until(lambda: jobs.done, "the work", patience=background.POLL / 2)
        jobs.waiting = 1
        with pytest.raises(ZeroDivisionError), write():
            fail_after(wake_after_commit)
        assert not loop._awake.is_set()
        assert len(jobs.done) == 1


def test_work_that_nobody_told_of_is_found(loop: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "POLL", 0.01)
    jobs = Jobs()
    loop.register(jobs)
    loop.start()
    jobs.waiting = 3
    wait_until(lambda: len(jobs.done) == 3, "the work")


def test_kinds_of_work_take_turns(loop: Background) -> None:
    done: list[str] = []
    one, other = Jobs("one", done), Jobs("other", done)
    one.waiting, other.waiting = 5, 2
    loop.register(one)
    loop.register(other)
    loop.work_off()
    assert done == ["one", "other", "one", "other", "one", "one", "one"]


def test_work_that_fails_stops_no_other_and_is_logged_once(loop: Background, log: Log) -> None:
    def broken() -> bool:
        raise RuntimeError("a bug")

    jobs = Jobs()
    loop.register(broken)
    loop.register(jobs)
    for _ in range(3):
        jobs.waiting = 2
        loop.work_off()
    assert len(jobs.done) == 6
    assert sum("background work failed" in line for line in log.lines()) == 1


def test_the_first_request_starts_the_thread_where_no_front_has(app: Flask, loop: Background) -> None:
    jobs = Jobs()
    jobs.waiting = 1
    loop.register(jobs)
    with app.app_context():
        loop.wake()  # as a command would
        assert loop._thread is None
    with app.test_request_context():
        loop.wake()
        loop.wake()
    wait_until(lambda: jobs.done, "the work")


def test_stopping_waits_for_the_piece_under_way_and_begins_no_other(loop: Background) -> None:
    begun, may_end = threading.Event(), threading.Event()
    done: list[int] = []

    def slow() -> bool:
        begun.set()
        may_end.wait(PATIENCE)
        done.append(1)
        return True

    loop.register(slow)
    loop.start()
    loop.wake()
    begun.wait(PATIENCE)
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    wait_until(loop._stopping.is_set, "the stop")
    may_end.set()
    stopping.join(PATIENCE)
    assert done == [1]
    assert loop._thread is not None
    assert not loop._thread.is_alive()


def test_a_worker_takes_over_while_it_lives(
    app: Flask, loop: Background, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL", 0.01)
    monkeypatch.setattr(background, "WORKER_POLL", 0.01)
    of_web, of_worker = Jobs(), Jobs()
    loop.register(of_web)
    worker = Background(app, app.extensions["store"])
    worker.register(of_worker)
    thread = threading.Thread(target=worker.run_worker)
    thread.start()
    wait_until(lambda: redis.exists("worker"), "the worker's key")
    assert 0 < redis.ttl("worker") <= background.WORKER_LIFETIME
    of_web.waiting = of_worker.waiting = 1
    loop.start()
    wait_until(lambda: of_worker.done, "the worker")
    assert of_web.done == []
    worker.stop()
    thread.join(PATIENCE)
    assert not redis.exists("worker")
    wait_until(lambda: of_web.done, "the web process")


def test_without_redis_every_process_works(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app()
    away = Store(app.extensions["config"])
    monkeypatch.setattr(away.breaker, "lets_through", lambda: False)
    loop = Background(app, away)
    jobs = Jobs()
    jobs.waiting = 1
    loop.register(jobs)
    loop.start()
    loop.wake()
    wait_until(lambda: jobs.done, "the work")
    loop.stop()


@pytest.mark.server
def test_the_worker_command_works_and_stops_on_sigterm(app: Flask, redis: Redis, redis_url: str) -> None:
    config = app.extensions["config"]
    environ = servers.clean_environ() | {
        "DATABASE_URL": config.database_url,
        "REDIS_URL": redis_url,
        "SECRET_KEY": SECRET_KEY,
        "SMTP_URL": "smtp://127.0.0.1:1",
        "MAIL_FROM": "pipit@example.org",
    }
    with app.app_context():
        User.register("ada", None, PASSWORD, new_email="ada@example.org")
    command = [sys.executable, "-m", "flask", "worker"]
    with subprocess.Popen(command, cwd=servers.ROOT, env=environ, stdout=subprocess.PIPE, text=True) as worker:
        wait_until(lambda: redis.exists("worker"), "the worker")
        assert worker.stdout
        line = next(line for line in worker.stdout if "mail 1 (confirm)" in line)
        assert "was not sent at attempt 1" in line
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
    assert not redis.exists("worker")


def fail_after(call: Callable[[], None]) -> None:
    call()
    raise ZeroDivisionError
