"""When something goes wrong: a page in plain words, the right status, and nothing that is nobody's business."""

import re
import sqlite3
from collections.abc import Callable
from types import SimpleNamespace
from typing import NoReturn
from urllib.parse import quote

import pytest
from flask import Flask, abort
from redis import Redis
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.config import parse_redis_url
from app.extensions import db, sql_reason
from app.front.bridge import MAX_CONTENT_LENGTH
from app.front.security import HEADERS
from app.models import Post
from tests.conftest import PASSWORD, SECRET_KEY, Visitor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

GUARDS = {name.decode(): value.decode() for name, value in HEADERS}
NOWHERE = parse_redis_url("redis://127.0.0.1:1/0")


@pytest.fixture
def away(app: Flask, make_app: Callable[..., Flask]) -> Flask:
    """Give a second process of the same Pipit, one that can't reach Redis."""
    return make_app(redis=NOWHERE)


def token_on(page: str) -> str:
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert found
    return found[1]


def test_every_error_is_a_whole_page_with_its_status_and_all_headers(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada.publish("hello")
    token = token_on(bob.get("/home").text)

    def broken(_before: int | None = None) -> NoReturn:
        raise OperationalError("SELECT", None, Exception("gone"))

    monkeypatch.setattr(Post, "latest", broken)
    answers = {
        400: bob.client.post("/posts", data={"body": "x"}),
        403: bob.client.post("/posts/1/delete", data={"csrf_token": token}),
        404: visitor.get("/nothing/here"),
        405: visitor.get("/logout"),
        413: visitor.client.post("/login", data={"username": "x" * (MAX_CONTENT_LENGTH + 1)}),
        503: visitor.get("/"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.content_type == "text/html; charset=utf-8"
        assert f'<p class="error-code">{status}</p>' in answer.text
        assert "<h1>" in answer.text
        assert '<a class="brand" href="/' in answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        for name, value in GUARDS.items():
            assert answer.headers[name] == value


def test_a_405_says_what_is_allowed(visitor: Visitor) -> None:
    answer = visitor.get("/logout")
    assert set(answer.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    assert "This address only takes forms" in answer.text
    assert visitor.client.delete("/").status_code == 405


@pytest.mark.parametrize("path", ["/posts", "/login", "/nothing/here", "/", "/healthz", "/logout"])
def test_a_request_too_large_to_read_is_refused_wherever_it_is_sent(ada: Visitor, path: str) -> None:
    answer = ada.client.post(path, data={"body": "x" * (MAX_CONTENT_LENGTH + 1)})
    assert answer.status_code in {404, 405, 413}
    assert "xxxxx" not in answer.text


def test_a_form_of_ten_thousand_fields_is_too_much(visitor: Visitor) -> None:
    fields = {f"f{number}": "" for number in range(2_000)}
    answer = visitor.client.post("/login", data=fields, content_type="multipart/form-data; boundary=x")
    assert answer.status_code in {400, 413}


def test_a_500_tells_the_visitor_nothing_and_the_log_everything(
    app: Flask, ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_before: int) -> NoReturn:
        raise RuntimeError(f"a secret: {SECRET_KEY}")

    monkeypatch.setattr(Post, "latest", broken)
    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    for reader in (visitor, ada):
        answer = reader.get("/?before=5")
        assert answer.status_code == 500
        assert "Something went wrong" in answer.text
        for secret in ("Traceback", "RuntimeError", "secret", SECRET_KEY, __file__):
            assert secret not in answer.text
        for name, value in GUARDS.items():
            assert answer.headers[name] == value
    assert "RuntimeError: a secret" in caplog.text


def test_an_error_nobody_foresaw_a_text_for_still_has_one(app: Flask, visitor: Visitor) -> None:
    app.add_url_rule("/teapot", view_func=lambda: abort(418))
    answer = visitor.get("/teapot")
    assert answer.status_code == 418
    assert "I&#39;m a teapot" in answer.text
    assert "Go back and try again." in answer.text


def test_an_address_with_too_many_slashes_leads_to_the_right_one(visitor: Visitor) -> None:
    answer = visitor.get("/settings//password")
    assert answer.status_code == 308
    assert answer.headers["Location"].endswith("/settings/password")


# Without SQL


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ('FATAL:  password authentication failed for user "pipit"\nmore', 'failed for user "pipit")'),
        ("FATAL:  too many connections for role", "too many connections for role)"),
        ("no such table: posts", "(OperationalError: no such table: posts)"),
        ("invalid: postgres://pipit:hunter2@host/pipit", "(OperationalError: invalid: postgres://…@host/pipit)"),
    ],
)
def test_the_log_has_the_reason_in_the_drivers_first_line(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: str, logged: str
) -> None:
    def broken(_before: int | None = None) -> NoReturn:
        raise OperationalError("SELECT %s", ("what ada wrote",), sqlite3.OperationalError(said))

    monkeypatch.setattr(Post, "latest", broken)
    assert visitor.get("/?before=5").status_code == 503
    assert logged in caplog.text
    for secret in ("hunter2", "more", "what ada wrote"):
        assert secret not in caplog.text


@pytest.mark.parametrize("password", ["hunter2", "pipit", "o", "p@ss/word"])
def test_a_reason_is_legible_whatever_the_password_and_does_not_hold_it(
    app: Flask, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    url = make_url("postgresql+psycopg://pipit@host/pipit").set(password=password)
    error = Exception(f"FATAL: refused {password}, {quote(password)}")
    with app.app_context(), monkeypatch.context() as patch:
        patch.setitem(db._app_engines[app], None, SimpleNamespace(url=url))
        reason = sql_reason(OperationalError("SELECT", None, error)).removeprefix("Exception: ")
    assert password not in reason
    assert quote(password) not in reason
    assert "FATAL: refused" in reason


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("SELECT", None, Exception("password=hunter2")),
        InterfaceError("SELECT", None, Exception("password=hunter2")),
        PoolTimeoutError("password=hunter2"),
    ],
)
def test_without_sql_a_page_says_so_and_the_log_holds_no_password(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def broken(_before: int | None = None) -> NoReturn:
        raise error

    monkeypatch.setattr(Post, "latest", broken)
    answer = visitor.get("/?before=5")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "can&#39;t use its database" in answer.text
    assert "hunter2" not in answer.text + caplog.text
    assert "the database can't be used" in caplog.text


@pytest.mark.parametrize("path", ["/", "/?before=5", "/settings/profile", "/settings/sessions", "/nothing-here"])
def test_without_sql_members_get_the_same_page_when_nothing_about_them_is_cached(
    ada: Visitor, redis: Redis, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for key in redis.scan_iter("page:*"):
        redis.delete(key)

    def broken(_engine: Engine) -> NoReturn:
        raise OperationalError("SELECT", None, Exception("gone"))

    monkeypatch.setattr(Engine, "raw_connection", broken)
    answer = ada.get(path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "If you were logged in, you still are" in answer.text
    assert "<!--[" not in answer.text


def test_a_bug_in_a_hole_is_a_500_that_is_a_whole_page(
    app: Flask, ada: Visitor, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in redis.scan_iter("page:*"):
        redis.delete(key)

    def broken(_engine: Engine) -> NoReturn:
        raise ProgrammingError("SELECT", None, Exception("syntax error"))

    app.config["PROPAGATE_EXCEPTIONS"] = False
    monkeypatch.setattr(Engine, "raw_connection", broken)
    answer = ada.get("/settings/sessions")
    assert answer.status_code == 500
    assert "The error has been logged" in answer.text
    assert "<!--[" not in answer.text


def test_without_sql_a_cached_page_is_still_served(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor.get("/")

    def broken(_before: int | None = None) -> NoReturn:
        raise OperationalError("SELECT", None, Exception("gone"))

    monkeypatch.setattr(Post, "latest", broken)
    assert visitor.get("/").status_code == 200


# Without Redis


@pytest.mark.server
def test_without_redis_strangers_read_on_from_sql(ada: Visitor, away: Flask) -> None:
    ada.publish("hello #tea")
    reader = away.test_client()
    for _ in range(3):
        for path in ("/", "/@ada", "/@ada/1", "/tags/tea", "/@ada/followers", "/?before=9"):
            answer = reader.get(path)
            assert answer.status_code == 200
            assert path.endswith("followers") or "hello" in answer.text
    assert reader.get("/").headers["Cache-Status"] == "Pipit; fwd=bypass; detail=store-unavailable"


@pytest.mark.server
def test_without_redis_nobody_is_logged_out(ada: Visitor, away: Flask) -> None:
    reader = away.test_client()
    reader.set_cookie("session", ada.session_id() or "")
    for path in ("/home", "/settings/password", "/settings/sessions"):
        answer = reader.get(path)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        assert "can&#39;t use its Redis server" in answer.text
    for path in ("/home", "/", "/@ada", "/login"):
        assert not [value for value in reader.get(path).headers.getlist("Set-Cookie") if value.startswith("session=")]
    assert ada.is_signed_in()


@pytest.mark.server
def test_without_redis_a_post_is_not_lost_and_the_form_not_blamed(ada: Visitor, away: Flask) -> None:
    token = token_on(ada.get("/home").text)
    writer = away.test_client()
    writer.set_cookie("session", ada.session_id() or "")
    answer = writer.post("/posts", data={"body": "an hour's work", "csrf_token": token})
    assert answer.status_code == 503
    assert "an hour&#39;s work" in answer.text
    assert ada.post("/logout", form_on="/").status_code == 302  # the session is as it was


@pytest.mark.server
def test_without_redis_nobody_can_log_in(ada: Visitor, away: Flask) -> None:
    answer = Visitor(away.test_client()).log_in("ada")
    assert answer.status_code == 503
    assert "can&#39;t use its Redis server" in answer.text
    assert "session" not in {value.split("=")[0] for value in answer.headers.getlist("Set-Cookie")}


@pytest.mark.server
def test_without_redis_nobody_can_register_and_no_account_is_made(away: Flask, visitor: Visitor) -> None:
    assert Visitor(away.test_client()).register("ada").status_code == 503
    assert visitor.get("/@ada").status_code == 404


@pytest.mark.server
def test_a_redis_that_is_full_takes_posts_but_no_logins_and_no_session_id_gets_into_the_log(
    ada: Visitor, visitor: Visitor, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    visitor.get("/")
    token = token_on(ada.get("/home").text)
    before = str(redis.config_get("maxmemory")["maxmemory"])
    redis.config_set("maxmemory", "1")
    try:
        answer = ada.client.post("/posts", data={"body": "hello", "csrf_token": token})
        assert answer.status_code == 302
        for reader in (ada, visitor):
            assert "hello" in reader.get("/").text
        assert visitor.log_in("ada", PASSWORD).status_code == 503
        assert ada.is_signed_in()
    finally:
        redis.config_set("maxmemory", before)
    assert "OutOfMemory" in caplog.text
    assert (ada.session_id() or "?") not in caplog.text
