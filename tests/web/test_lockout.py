"""Who may no longer come in is out at once, whatever was under way: real threads, a real Valkey, both databases."""

import json
import threading
import time
from collections.abc import Callable

import pytest
from flask import Flask
from redis import Redis
from sqlalchemy.exc import OperationalError

from app.models import User
from app.models.accounts import hasher
from app.rate_limit import BY_ACCOUNT
from tests.conftest import PASSWORD, SECRET_KEY, Visitor, in_threads

ROUNDS = 3
LOOPS = 4


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift the limits, which would end the loops before they meet anything."""
    monkeypatch.setattr("app.rate_limit.ADDRESS_FACTOR", 10_000)
    monkeypatch.setitem(BY_ACCOUNT, "sign-in", (10_000, 10_000))


def change_as_owner(app: Flask, owner: Visitor, password: str) -> str:
    """Change the password on the page for that; return the new one."""
    new = f"{password}!"
    answer = owner.post("/settings/password", current_password=password, new_password=new)
    assert answer.status_code == 302
    return new


def change_with_link(app: Flask, owner: Visitor, password: str) -> str:
    """Change the password with a link; return the new one."""
    with app.app_context():
        user = User.named("ada")
        assert user
        path = f"/reset/{user.reset_token(SECRET_KEY)}"
    new = f"{password}!"
    stranger = Visitor(app.test_client())
    assert stranger.post(path, new_password=new).status_code == 302
    return new


@pytest.mark.parametrize("change", [change_as_owner, change_with_link])
@pytest.mark.usefixtures("unlimited")
def test_no_login_with_the_old_password_outlives_its_change(
    make_app: Callable[..., Flask],
    redis: Redis,
    new_visitor: Callable[..., Visitor],
    change: Callable[[Flask, Visitor, str], str],
) -> None:
    app = make_app(login_max_attempts=1_000)
    owner = Visitor(app.test_client())
    owner.register("ada")
    password = PASSWORD
    for _ in range(ROUNDS):
        over = threading.Event()
        browsers: list[Visitor] = []

        def log_in_again_and_again(
            old: str = password, over: threading.Event = over, browsers: list[Visitor] = browsers
        ) -> None:
            while not over.is_set():
                browser = Visitor(app.test_client())
                if browser.log_in("ada", old).status_code == 302:
                    browsers.append(browser)

        loops = [threading.Thread(target=log_in_again_and_again) for _ in range(LOOPS)]
        for loop in loops:
            loop.start()
        password = change(app, owner, password)
        over.set()
        for loop in loops:
            loop.join(timeout=30)
            assert not loop.is_alive()
        assert not any(browser.is_signed_in() for browser in browsers)
        assert owner.is_signed_in() or owner.log_in("ada", password).status_code == 302
        assert redis.zcard("user:1:sessions") == 1
        assert redis.zcard("devices:ada") == 1  # the owner's own, not one of those who came too late


@pytest.mark.usefixtures("unlimited")
def test_no_login_outlives_a_suspension(make_app: Callable[..., Flask], redis: Redis) -> None:
    app = make_app(login_max_attempts=1_000)
    Visitor(app.test_client()).register("ada")
    for _ in range(ROUNDS):
        over = threading.Event()

        browsers: list[Visitor] = []

        def log_in_again_and_again(over: threading.Event = over, browsers: list[Visitor] = browsers) -> None:
            while not over.is_set():
                browser = Visitor(app.test_client())
                if browser.log_in("ada").status_code == 302:
                    browsers.append(browser)

        loops = [threading.Thread(target=log_in_again_and_again) for _ in range(LOOPS)]
        for loop in loops:
            loop.start()
        with app.app_context():
            user = User.named("ada")
            assert user
            user.suspend()
        over.set()
        for loop in loops:
            loop.join(timeout=30)
            assert not loop.is_alive()
        assert not any(browser.is_signed_in() for browser in browsers)
        sessions = [json.loads(str(redis.get(key))) for key in redis.keys("session:*")]
        assert all(session["suspended_until"] > time.time() for session in sessions)  # all that they can do is read why
        with app.app_context():
            User.named("ada").reinstate()  # type: ignore[union-attr]
        assert redis.keys("session:*") == []


@pytest.mark.usefixtures("unlimited")
def test_no_login_of_somebody_suspended_outlives_the_suspension(make_app: Callable[..., Flask], redis: Redis) -> None:
    """Who logs in while they are being reinstated must not stay locked out."""
    app = make_app(login_max_attempts=1_000)
    Visitor(app.test_client()).register("ada")
    for _ in range(ROUNDS):
        with app.app_context():
            User.named("ada").suspend()  # type: ignore[union-attr]
        over = threading.Event()

        def log_in_again_and_again(over: threading.Event = over) -> None:
            while not over.is_set():
                Visitor(app.test_client()).log_in("ada")

        loops = [threading.Thread(target=log_in_again_and_again) for _ in range(LOOPS)]
        for loop in loops:
            loop.start()
        with app.app_context():
            User.named("ada").reinstate()  # type: ignore[union-attr]
        over.set()
        for loop in loops:
            loop.join(timeout=30)
            assert not loop.is_alive()
        sessions = [json.loads(str(redis.get(key))) for key in redis.keys("session:*")]
        assert not any("suspended_until" in session for session in sessions)


def test_a_suspension_during_a_login_makes_it_void(
    app: Flask, ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suspended_meanwhile(_hasher: object, _hash: str) -> bool:
        monkeypatch.undo()
        with app.app_context():
            User.named("ada").suspend()  # type: ignore[union-attr]
        return False

    monkeypatch.setattr(type(hasher), "check_needs_rehash", suspended_meanwhile)
    assert visitor.log_in("ada").status_code == 422
    assert visitor.session_id() is None
    assert not ada.is_signed_in()


def change_elsewhere(owner: Visitor) -> None:
    """Change the password in a request of its own, while this one goes on."""
    in_threads(1, lambda _: owner.post("/settings/password", current_password=PASSWORD, new_password="the owner's own"))


def test_of_two_changes_at_once_one_counts(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    """Who checked the old password just before it was changed can't change it any more."""
    with app.app_context():
        late = User.named("ada")
        assert late
        assert late.has_password(PASSWORD)
        change_elsewhere(ada)
        assert not late.change_password("the attacker's")
    assert visitor.log_in("ada", "the attacker's").status_code == 422
    assert visitor.log_in("ada", "the owner's own").status_code == 302


def test_a_rehash_at_login_brings_no_old_password_back(
    app: Flask, ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_meanwhile(_hasher: object, _hash: str) -> bool:
        monkeypatch.undo()
        change_elsewhere(ada)
        return True

    monkeypatch.setattr(type(hasher), "check_needs_rehash", change_meanwhile)
    assert visitor.log_in("ada", PASSWORD).status_code == 422
    assert not visitor.is_signed_in()
    assert visitor.log_in("ada", "the owner's own").status_code == 302


def test_a_login_that_cannot_be_checked_gives_no_session(
    app: Flask, ada: Visitor, visitor: Visitor, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise OperationalError("SELECT", {}, Exception("gone"))

    ada.log_out()
    monkeypatch.setattr(User, "may_log_in", away)
    assert visitor.log_in("ada").status_code == 503
    assert visitor.session_id() is None
    assert redis.keys("session:*") == []


def test_a_link_from_before_a_suspension_is_dead(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    with app.app_context():
        user = User.named("ada")
        assert user
        path = f"/reset/{user.reset_token(SECRET_KEY)}"
        user.suspend()
        user.reinstate()
    assert visitor.get(path).status_code == 410
