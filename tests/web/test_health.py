"""What platforms and monitors ask."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.config import parse_redis_url
from app.extensions import db
from tests.conftest import Visitor
from tests.servers import unfit_redis, wait_until

pytestmark = pytest.mark.server

NOWHERE = parse_redis_url("redis://127.0.0.1:1/0")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Give the port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_healthy_pipit_is_alive_and_ready(visitor: Visitor) -> None:
    for path, body in (("/healthz", "ok\n"), ("/readyz", "sql ok\nredis ok\n")):
        answer = visitor.get(path)
        assert (answer.status_code, answer.text) == (200, body)
        assert answer.mimetype == "text/plain"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_redis_it_is_alive_and_not_ready(make_app: Callable[..., Flask]) -> None:
    client = make_app(redis=NOWHERE).test_client()
    for _ in range(3):
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "sql ok\nredis fails\n")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_sql_it_is_alive_and_not_ready(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OperationalError("SELECT 1", None, Exception("password=secret"))

    monkeypatch.setattr(db.session, "execute", broken)
    assert visitor.get("/healthz").status_code == 200
    answer = visitor.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "sql fails\nredis ok\n")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("full", "is full"),
        ("replica", "is read-only"),
        ("locked", "refuses the password"),
        ("crowded", "has no free connection"),
    ],
)
def test_a_redis_that_answers_and_takes_no_writes_is_not_ready(
    make_app: Callable[..., Flask], caplog: pytest.LogCaptureFixture, kind: str, state: str
) -> None:
    with unfit_redis(kind) as url:
        answer = make_app(redis=parse_redis_url(url)).test_client().get("/readyz")
    assert (answer.status_code, answer.text) == (503, f"sql ok\nredis {state}\n")
    assert f"it {state}: " in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("change", "undo", "state"),
    [
        ("ALTER TABLE follows RENAME TO fellows", "ALTER TABLE fellows RENAME TO follows", "is not migrated"),
        ("ALTER TABLE posts RENAME body TO text", "ALTER TABLE posts RENAME text TO body", "is not migrated"),
        (
            "ALTER TABLE posts ADD COLUMN language text",
            "ALTER TABLE posts DROP COLUMN language",
            "ok",
        ),  # of a newer Pipit
    ],
)
def test_a_database_without_the_tables_of_this_code_is_not_ready(
    app: Flask, visitor: Visitor, change: str, undo: str, state: str
) -> None:
    run(app, change)
    try:
        answer = visitor.get("/readyz")
    finally:
        run(app, undo)
    assert (answer.status_code, answer.text) == (200 if state == "ok" else 503, f"sql {state}\nredis ok\n")
    assert visitor.get("/readyz").status_code == 200


def test_without_the_tables_of_this_code_a_page_is_a_503_and_the_log_says_what_to_do(
    app: Flask, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    run(app, "ALTER TABLE posts RENAME id TO number")
    try:
        answer = visitor.get("/")
    finally:
        run(app, "ALTER TABLE posts RENAME number TO id")
    assert answer.status_code == 503
    assert "can&#39;t use its database" in answer.text
    assert "the database lacks a table or column: run `flask db upgrade`" in caplog.text


def run(app: Flask, statement: str) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_redis_that_never_answers_does_not_hold_the_answer_up(
    make_app: Callable[..., Flask], silent_port: int
) -> None:
    client = make_app(redis=parse_redis_url(f"redis://127.0.0.1:{silent_port}/0")).test_client()
    began = time.monotonic()
    answer = client.get("/readyz")
    assert time.monotonic() - began < 1.5
    assert answer.status_code == 503
    assert answer.text in {"sql ok\nredis fails\n", "sql ok\nredis does not answer\n"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_hangs_is_told_from_a_redis_that_is_well_however_often_one_asks(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, waiting = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        waiting.set()
        go_on.wait(20)

    monkeypatch.setattr(db.session, "execute", hang)
    monkeypatch.setattr("app.web.health.PATIENCE", 0.2)
    try:
        for _ in range(3):
            answer = visitor.get("/readyz")
            assert (answer.status_code, answer.text) == (503, "sql does not answer\nredis ok\n")
        assert waiting.is_set()
    finally:
        go_on.set()
    monkeypatch.undo()
    wait_until(lambda: visitor.get("/readyz").status_code == 200, "the check to come back")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_health_takes_no_forms(visitor: Visitor) -> None:
    assert visitor.client.post("/healthz").status_code == 405
