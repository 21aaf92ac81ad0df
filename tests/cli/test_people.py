"""`flask user` and `flask post`: who runs a site helps the people on it, and parts with some."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result
from flask import Flask
from redis import Redis

from app.models import Follow, Post, User
from app.models.follows import BATCH
from tests.conftest import PASSWORD, Mailbox, Visitor


@pytest.fixture
def run(app: Flask) -> Callable[..., Result]:
    def run(*words: str, answer: str | None = None) -> Result:
        return app.test_cli_runner().invoke(args=words, input=answer)

    return run


def test_accounts_are_listed_and_shown(
    run: Callable[..., Result], ada: Visitor, bob: Visitor, mailbox: Mailbox
) -> None:
    mailbox.confirm(ada, "ada@example.org")
    ada.publish("hello")
    bob.follow("ada")
    assert [line.split()[:2] for line in run("user", "list").output.splitlines()] == [["1", "ada"], ["2", "bob"]]
    listed = [json.loads(line) for line in run("user", "list", "--json").output.splitlines()]
    assert [person["name"] for person in listed] == ["ada", "bob"]
    shown = json.loads(run("user", "show", "@Ada", "--json").output)
    assert shown | {"joined": ""} == {
        "id": 1,
        "name": "ada",
        "joined": "",
        "suspended": None,
        "email": "ada@example.org",
        "invited_by": None,
        "moderator": False,
        "posts": 1,
        "followers": 1,
        "following": 0,
        "sessions": 1,
        "two_factor": None,
    }
    assert "suspended   -" in run("user", "show", "ada").output
    assert run("user", "list", "--suspended").output == ""


COMMANDS = ["show", "suspend", "reinstate", "delete", "reset-link", "remove-second-factor", "promote", "demote"]


@pytest.mark.parametrize("command", COMMANDS)
def test_who_is_not_there_is_said(run: Callable[..., Result], app: Flask, redis: Redis, command: str) -> None:
    result = run("user", command, "nobody")
    assert result.exit_code == 1
    assert "There is no user named 'nobody'." in result.output


def test_to_suspend_ends_all_sessions_at_once_and_to_reinstate_lets_in_again(
    run: Callable[..., Result], ada: Visitor, visitor: Visitor
) -> None:
    ada.publish("still here")
    assert run("user", "suspend", "ada").exit_code == 0
    assert not ada.is_signed_in()
    assert "still here" in visitor.get("/@ada").text
    assert run("user", "suspend", "ada").exit_code == 0
    assert "ada" in run("user", "list", "--suspended").output
    assert visitor.log_in("ada").status_code == 302
    assert not visitor.is_signed_in()
    assert run("user", "reinstate", "ada").exit_code == 0
    assert run("user", "list", "--suspended").output == ""
    assert visitor.log_in("ada").status_code == 302
    assert visitor.is_signed_in()
    again = run("user", "reinstate", "ada")
    assert (again.exit_code, again.output) == (1, "Error: @ada isn't suspended.\n")
    assert visitor.is_signed_in()


def test_an_account_is_deleted_with_all_that_is_its_own(
    app: Flask, run: Callable[..., Result], ada: Visitor, bob: Visitor, visitor: Visitor, redis: Redis
) -> None:
    ada.publish("gone #soon")
    bob.publish("stays")
    ada.follow("bob")
    bob.follow("ada")
    for path in ("/", "/@ada", "/@bob"):
        assert visitor.get(path).status_code == 200
    assert run("user", "delete", "ada", answer="bob\nada\n").exit_code == 0
    assert visitor.get("/@ada").status_code == 404
    latest, bobs = visitor.get("/").text, visitor.get("/@bob").text
    assert "gone" not in latest
    assert "stays" in latest
    assert "<b>0</b> followers" in bobs
    assert "<b>0</b> following" in bobs
    assert not ada.is_signed_in()
    assert redis.keys("user:1:*") == redis.keys("devices:ada") == []
    with app.app_context():
        assert User.named("ada") is None
        assert Post.tagged("soon").items == []
        assert Follow.followers_of(2).items == []


def test_to_delete_asks_first(run: Callable[..., Result], app: Flask, ada: Visitor) -> None:
    assert run("user", "delete", "ada", answer="").exit_code == 1
    assert ada.is_signed_in()
    assert run("user", "delete", "@ADA", "--yes").output.startswith("Removed the account of @ada ")
    with app.app_context():
        assert User.named("ada") is None


def test_the_follows_of_a_popular_account_end_in_batches(
    app: Flask, run: Callable[..., Result], ada: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.models.follows.BATCH", 3)
    with app.app_context():
        star = User.named("ada")
        assert star
        for number in range(8):
            fan = User.register(f"fan{number}", None, PASSWORD)
            fan.follow(star)
    assert run("user", "delete", "ada", "--yes").exit_code == 0
    with app.app_context():
        counts = [User.with_counts(f"fan{number}") for number in range(8)]
        assert [found[1].following for found in counts if found] == [0] * 8
    assert BATCH > 3


def test_a_link_to_reset_a_password_is_printed_for_this_site(
    make_app: Callable[..., Flask], run: Callable[..., Result], ada: Visitor, visitor: Visitor
) -> None:
    result = run("user", "reset-link", "ada", "--site", "https://pipit.example.org/")
    first, *_ = result.output.splitlines()
    assert first.startswith("https://pipit.example.org/reset/")
    assert visitor.get(first.removeprefix("https://pipit.example.org")).status_code == 200
    assert run("user", "reset-link", "ada").output.startswith("/reset/")
    named = make_app(trusted_hosts=(".example.org",)).test_cli_runner().invoke(args=["user", "reset-link", "ada"])
    assert named.output.startswith("https://example.org/reset/")


def test_a_post_is_removed_and_gone_from_every_page(run: Callable[..., Result], ada: Visitor, visitor: Visitor) -> None:
    ada.publish("must not stay")
    for path in ("/", "/@ada", "/@ada/1"):
        assert "must not stay" in visitor.get(path).text
    assert "Removed post 1 by @ada" in run("post", "remove", "1").output
    for path in ("/", "/@ada"):
        assert "must not stay" not in visitor.get(path).text
    assert visitor.get("/@ada/1").status_code == 404
    again = run("post", "remove", "1")
    assert (again.exit_code, "There is no post 1." in again.output) == (1, True)
    assert run("post", "remove", "x").exit_code == 2
