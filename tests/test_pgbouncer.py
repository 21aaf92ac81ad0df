"""Behind PgBouncer, pooling transactions: the next transaction gets another connection, used by others before."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from psycopg.pq import TransactionStatus
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.extensions import SQL_TIMEOUT, db
from app.models import Post, User
from tests.conftest import PASSWORD, Visitor, in_threads, pooled

pytestmark = [pytest.mark.server, pytest.mark.postgresql]


@pytest.fixture(params=["straight", "pooled"])
def database_url(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[str]:
    if request.param == "straight":
        yield postgresql_url
        return
    with pooled(postgresql_url) as url:
        yield url


def test_many_write_and_read_at_once_without_an_error(make_app: Callable[..., Flask]) -> None:
    app = make_app(threads=12)
    with app.app_context():
        author = User.register("ada", "ada@example.org", PASSWORD).id

    def write(number: int) -> None:
        for turn in range(20):  # psycopg would prepare a statement at its fifth
            with app.app_context():
                db.session.add(Post(author_id=author, body=f"{number} {turn}"))
                db.session.commit()
                assert Post.latest()

    in_threads(12, write)
    with app.app_context():
        assert db.session.scalar(text("SELECT count(*) FROM posts")) == 240


@pytest.mark.usefixtures("context")
def test_both_timeouts_hold_in_every_transaction() -> None:
    for _ in range(2):
        for name in ("statement_timeout", "lock_timeout"):
            assert db.session.scalar(text(f"SHOW {name}")) == f"{SQL_TIMEOUT}s"
        db.session.rollback()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems name these options otherwise, or lack them")
def test_a_connection_to_a_machine_that_is_gone_ends(app: Flask) -> None:
    """Which takes a network that loses packets; so this only sees that the kernel was told."""
    options = {socket.TCP_KEEPIDLE: SQL_TIMEOUT, socket.TCP_KEEPINTVL: SQL_TIMEOUT}
    with app.app_context():
        driver: Any = db.session.connection().connection.dbapi_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for option, value in (*options.items(), (socket.TCP_USER_TIMEOUT, SQL_TIMEOUT * 1000)):
                assert connection.getsockopt(socket.IPPROTO_TCP, option) == value


@pytest.mark.usefixtures("context")
def test_the_server_ends_a_statement_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.extensions.BEGIN", b"BEGIN; SET LOCAL statement_timeout = '50ms'")
    with pytest.raises(OperationalError, match="statement timeout"):
        db.session.execute(text("SELECT pg_sleep(20)"))


def test_a_site_works(visitor: Visitor) -> None:
    assert visitor.register("ada").status_code == 302
    assert visitor.publish("hello").status_code == 302
    assert "hello" in visitor.get("/").text


@pytest.mark.usefixtures("context")
def test_a_transaction_that_begins_with_its_timeouts_needs_no_other_begin() -> None:
    with db.engine.connect() as connection, connection.begin():
        driver: Any = connection.connection.dbapi_connection
        assert driver.info.transaction_status == TransactionStatus.INTRANS
