"""A link to reset a password: once, for an hour, and nobody else's."""

import re
from collections.abc import Callable

import pytest
from flask import Flask
from redis import Redis

from app.models import User
from app.models.accounts import RESET_LIFETIME
from app.rate_limit import RESETS
from tests.conftest import PASSWORD, SECRET_KEY, Log, Mailbox, Visitor

ANOTHER = "another sentence to remember"


def link(app: Flask, name: str = "ada") -> str:
    with app.app_context():
        user = User.named(name)
        assert user
        return f"/reset/{user.reset_token(SECRET_KEY)}"


def test_a_link_sets_a_new_password_and_ends_all_sessions(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    path = link(app)
    for _ in range(2):  # a preview of the link uses nothing up
        page = visitor.get(path)
        assert page.status_code == 200
        assert "For @ada." in page.text
        assert page.headers["Cache-Control"] == "no-store"
    assert ada.is_signed_in()
    answer = visitor.post(path, new_password=ANOTHER)
    assert answer.headers["Location"] == "/login"
    assert not ada.is_signed_in()
    assert visitor.log_in("ada").status_code == 422
    assert visitor.log_in("ada", ANOTHER).status_code == 302


def test_a_link_works_once(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    path = link(app)
    form = visitor.get(path)
    assert visitor.post(path, new_password=ANOTHER).status_code == 302
    assert form.status_code == 200
    for answer in (visitor.get(path), visitor.post(path, form_on="/login", new_password="yet another one")):
        assert answer.status_code == 410
        assert "works only once, and expires after an hour" in answer.text
    assert visitor.log_in("ada", ANOTHER).status_code == 302


def test_a_change_of_password_kills_the_link(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    path = link(app)
    ada.post("/settings/password", current_password=PASSWORD, new_password=ANOTHER)
    assert visitor.get(path).status_code == 410


def test_a_link_ends_after_an_hour(app: Flask, ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    path = link(app)
    monkeypatch.setattr("app.models.accounts.RESET_LIFETIME", -1)
    assert visitor.get(path).status_code == 410
    assert RESET_LIFETIME == 3600


@pytest.mark.parametrize(
    "token", ["x", "a.b.c", "%00", "é", "x" * 3000, "..", "WzEsMF0.awY8QQ.a_R0swWGktjPCuXSc0wvq19qIWk"]
)
def test_a_forged_link_is_dead(ada: Visitor, visitor: Visitor, token: str) -> None:
    assert visitor.get(f"/reset/{token}").status_code in (404, 410)


def test_a_token_of_another_kind_is_dead(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    csrf = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', ada.get("/home").text)
    assert csrf
    assert visitor.get(f"/reset/{csrf[1]}").status_code == 410


def test_a_password_that_is_too_short_uses_nothing_up(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    path = link(app)
    assert visitor.post(path, new_password="short").status_code == 422
    assert visitor.post(path, new_password=ANOTHER).status_code == 302


def test_trying_links_is_limited(ada: Visitor, visitor: Visitor, redis: Redis) -> None:
    statuses = [visitor.post("/reset/x", form_on="/login", new_password=ANOTHER).status_code for _ in range(RESETS + 1)]
    assert statuses[-1] == 429 or statuses.count(410) >= RESETS  # a new minute may begin meanwhile


def test_the_log_does_not_give_a_link_away(
    app: Flask, ada: Visitor, visitor: Visitor, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    path = link(app)
    visitor.get(path)
    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    monkeypatch.setattr(User, "with_reset_token", broken)
    assert visitor.get(path).status_code == 500
    lines = "\n".join(log.lines())
    assert "path=/reset/" in lines
    assert "Exception on /reset/" in lines
    assert path not in lines
    assert path.rpartition(".")[2] not in lines


def test_who_is_suspended_is_told_so_only_with_the_right_password(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    with app.app_context():
        user = User.named("ada")
        assert user
        user.suspend()
    assert not ada.is_signed_in()
    assert "suspended" not in visitor.log_in("ada", "wrong").text
    assert visitor.log_in("ada").status_code == 302
    assert not visitor.is_signed_in()
    assert "Your account is suspended" in visitor.get("/suspended").text
    assert visitor.post("/posts", form_on="/suspended", body="still here").status_code == 403
    with app.app_context():
        User.named("ada").reinstate()  # type: ignore[union-attr]
    assert visitor.log_in("ada").status_code == 302
    assert visitor.is_signed_in()


def test_one_may_log_in_with_name_or_address(
    ada: Visitor, mailbox: Mailbox, new_visitor: Callable[..., Visitor]
) -> None:
    mailbox.confirm(ada, "ada@example.org")
    for login in ("ada", "@ada", "ADA", " ada ", "ada@example.org", "Ada@Example.org"):
        assert new_visitor().log_in(login).status_code == 302, login
    for login in ("@", "@@ada", "@ada@example.org", "", "@example.org"):
        assert new_visitor().log_in(login).status_code == 422, login


def test_an_at_in_front_of_a_chosen_name_is_not_part_of_it(app: Flask, visitor: Visitor) -> None:
    assert visitor.post("/register", username=" @bob", password=PASSWORD).status_code == 302
    with app.app_context():
        assert User.named("bob")


def test_people_without_an_address_can_join(app: Flask, new_visitor: Callable[..., Visitor]) -> None:
    for name in ("one", "two"):
        answer = new_visitor().post("/register", username=name, email="  ", password=PASSWORD)
        assert answer.status_code == 302
    with app.app_context():
        assert {User.named(name).email for name in ("one", "two")} == {None}  # type: ignore[union-attr]
