"""Who is suspended reads why and until when, and can do nothing else."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from flask import Flask
from redis import Redis

from app.models import User
from tests.conftest import Visitor
from tests.serving import FrontServer


def suspend(app: Flask, name: str = "ada", days: int | None = 7, reason: str = "Too many leeks.") -> None:
    with app.app_context():
        User.named(name).suspend(days, reason)  # type: ignore[union-attr]


def reinstate(app: Flask, name: str = "ada") -> None:
    with app.app_context():
        assert User.named(name).reinstate()  # type: ignore[union-attr]


@pytest.fixture
def suspended(app: Flask, ada: Visitor) -> Visitor:
    """Give ada, who has logged in again after she was suspended for a week."""
    ada.publish("before")
    suspend(app)
    assert not ada.is_signed_in()
    assert ada.log_in("ada").status_code == 302
    return ada


def test_who_is_suspended_reads_why_and_until_when(app: Flask, suspended: Visitor) -> None:
    page = suspended.get("/", follow_redirects=True)
    until = datetime.now(UTC) + timedelta(days=7)
    assert page.request.path == "/suspended"
    assert "Too many leeks." in page.text
    assert until.strftime("%-d %b %Y") in page.text
    assert "Export" not in page.text
    suspend(app, days=None, reason="")
    suspended.log_in("ada")
    assert "It is suspended for good." in suspended.get("/suspended").text


@pytest.mark.parametrize("path", ["/", "/home", "/@ada", "/@ada/1", "/settings/profile", "/login", "/moderation", "/x"])
def test_they_read_nothing_else_while_they_are_logged_in(suspended: Visitor, path: str) -> None:
    answer = suspended.get(path)
    assert (answer.status_code, answer.location) == (302, "/suspended")


@pytest.mark.parametrize("path", ["/about", "/rules", "/privacy", "/readyz", "/static/pipit.css", "/favicon.ico"])
def test_but_the_pages_of_the_site_itself(suspended: Visitor, path: str) -> None:
    answer = suspended.get(path)
    assert answer.status_code in (200, 302)
    assert answer.location != "/suspended"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/posts", {"body": "still here"}),
        ("/posts/1/delete", {}),
        ("/posts/1/like", {}),
        ("/posts/1/pin", {}),
        ("/posts/1/report", {"reason": "x"}),
        ("/@bob/follow", {}),
        ("/settings/profile", {"display_name": "x"}),
        ("/settings/sessions/end-others", {}),
    ],
)
def test_they_write_nothing(
    bob: Visitor, visitor: Visitor, suspended: Visitor, path: str, fields: dict[str, str]
) -> None:
    answer = suspended.post(path, form_on="/suspended", **fields)
    assert answer.status_code == 403
    assert "Your account is suspended." in answer.text
    assert "still here" not in visitor.get("/@ada").text
    assert "before" in visitor.get("/@ada").text


def test_they_can_log_out_and_read_as_everyone_does(suspended: Visitor) -> None:
    assert suspended.post("/logout", form_on="/suspended").status_code == 302
    assert "before" in suspended.get("/@ada").text


def test_the_bar_offers_them_no_more_than_that(suspended: Visitor) -> None:
    for path in ("/suspended", "/rules"):
        page = suspended.get(path).text
        assert "Log out" in page
        for link in ("/home", "/notifications", "/settings/profile", "/likes"):
            assert f'href="{link}"' not in page


def test_when_the_time_is_over_the_session_is_one_like_others(
    suspended: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = datetime.now(UTC) + timedelta(days=7, seconds=2)

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return later.astimezone(tz)

    monkeypatch.setattr("app.sessions.time.time", later.timestamp)
    monkeypatch.setattr("app.models.accounts.datetime", Later)
    assert suspended.is_signed_in()
    assert suspended.get("/suspended").location == "/home"
    assert suspended.publish("after").status_code == 302
    assert visitor.log_in("ada").status_code == 302
    assert visitor.is_signed_in()


def test_who_is_reinstated_is_back_at_once(app: Flask, suspended: Visitor, redis: Redis) -> None:
    reinstate(app)
    assert redis.keys("session:*") == []
    assert suspended.log_in("ada").status_code == 302
    assert suspended.is_signed_in()
    with app.app_context():
        assert not User.named("ada").reinstate()  # type: ignore[union-attr]
    assert suspended.is_signed_in()


def test_who_is_suspended_again_is_out_again(app: Flask, suspended: Visitor, redis: Redis) -> None:
    suspend(app, days=1)
    assert redis.keys("session:*") == []


def test_others_are_told_nothing(app: Flask, bob: Visitor, suspended: Visitor) -> None:
    assert bob.get("/suspended").location == "/home"
    assert "uspended" not in bob.get("/@ada").text


def test_whoever_is_not_logged_in_is_asked_to(visitor: Visitor) -> None:
    assert visitor.get("/suspended").location == "/login?next=/suspended"


@pytest.mark.server
def test_the_front_serves_them_nothing_early(
    app: Flask, ada: Visitor, bob: Visitor, front: FrontServer, new_visitor: Callable[..., Visitor]
) -> None:
    for path in ("/", "/home"):
        bob.get("/home")
        cookie = f"Cookie: session={bob.session_id()}"
        front.ask(path, cookie)
        assert front.ask(path, cookie).early
    suspend(app, "bob")
    bob.log_in("bob")
    cookie = f"Cookie: session={bob.session_id()}"
    for path in ("/", "/home", "/@ada"):
        front.ask(path)
        for _ in range(2):
            reply = front.ask(path, cookie)
            assert not reply.early
            assert (reply.status, reply.header("location")) == (302, "/suspended")
    for _ in range(2):
        reply = front.ask("/rules", cookie)
        assert reply.status == 200
        assert "Log out" in reply.text
