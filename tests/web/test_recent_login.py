"""Whoever changes what protects an account has entered its password just before."""

import re
import time
from collections.abc import Callable
from html import unescape

import pytest
from flask import Flask
from redis import Redis

from app.sessions import JsonSerializer
from app.web.recent_login import RECENT
from tests.conftest import PASSWORD, Visitor

SETTINGS = "/settings/account/two-factor"
CONFIRM = "/confirm-password"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock, at the start of the next minute, and give a function that moves it on by some seconds."""
    now = [time.time() // 60 * 60 + 60]  # not before the login of a fixture
    monkeypatch.setattr("time.time", lambda: now[0])

    def on(seconds: float) -> None:
        now[0] += seconds

    return on


def hidden_on(page: str) -> dict[str, str]:
    """Return the hidden fields of the form in a page, without its token."""
    found = re.findall(r'<input[^>]*type="hidden"[^>]*>', page.partition("<main")[2])
    fields = {re.search(r'name="([^"]*)"', tag): re.search(r'value="([^"]*)"', tag) for tag in found}
    values = {name[1]: unescape(value[1]) for name, value in fields.items() if name and value}
    return {name: value for name, value in values.items() if name != "csrf_token"}


def test_a_login_is_recent_for_a_quarter_of_an_hour(ada: Visitor, move: Callable[[float], None]) -> None:
    ada.log_out()
    ada.log_in("ada")
    move(RECENT)
    assert ada.get(SETTINGS).status_code == 200
    move(1)
    assert ada.get(SETTINGS).headers["Location"] == f"{CONFIRM}?next={SETTINGS}"
    assert ada.get("/settings/account").status_code == 200


def test_the_password_makes_it_recent_again_and_leads_back(ada: Visitor, move: Callable[[float], None]) -> None:
    move(RECENT + 1)
    page = ada.get(f"{CONFIRM}?next={SETTINGS}")
    assert page.headers["Cache-Control"] == "no-store"
    refused = ada.post(CONFIRM, confirmed_password="wrong", **hidden_on(page.text))
    assert refused.status_code == 422
    assert "That&#39;s not your password." in refused.text
    assert ada.get(SETTINGS).status_code == 302
    answer = ada.post(CONFIRM, confirmed_password=PASSWORD, **hidden_on(refused.text))
    assert (answer.status_code, answer.headers["Location"]) == (302, SETTINGS)
    move(RECENT)
    assert ada.get(SETTINGS).status_code == 200


def test_it_is_recent_in_this_browser_only(ada: Visitor, visitor: Visitor, move: Callable[[float], None]) -> None:
    visitor.log_in("ada")
    move(RECENT + 1)
    ada.post(CONFIRM, confirmed_password=PASSWORD)
    assert ada.get(SETTINGS).status_code == 200
    assert visitor.get(SETTINGS).status_code == 302


def test_a_form_that_was_sent_too_late_is_sent_again(ada: Visitor, move: Callable[[float], None]) -> None:
    ada.get(SETTINGS)  # makes a secret, and checks the code's form
    move(RECENT + 1)
    asked = ada.post(f"{SETTINGS}?from=here", form_on="/home", code="12<3>", password="a secret", current_password="b")
    assert asked.status_code == 403
    assert "Enter your password" in asked.text
    kept = {"code": "12<3>", "next": f"{SETTINGS}?from=here", "resend": "yes"}
    assert hidden_on(asked.text) == kept
    refused = ada.post(CONFIRM, confirmed_password="", **kept)
    assert refused.status_code == 422
    assert hidden_on(refused.text) == kept
    answer = ada.post(CONFIRM, confirmed_password=PASSWORD, **kept)
    assert (answer.status_code, answer.headers["Location"]) == (307, kept["next"])  # with the same fields
    again = ada.post(kept["next"], form_on="/home", confirmed_password=PASSWORD, **kept)
    assert again.status_code == 422
    assert 'value="12&lt;3&gt;"' in again.text
    assert PASSWORD not in again.text


def test_guesses_are_limited_together_with_those_of_the_password_form(
    ada: Visitor, move: Callable[[float], None]
) -> None:
    move(RECENT + 1)
    for _ in range(3):
        assert ada.post(CONFIRM, confirmed_password="wrong").status_code == 422
    for _ in range(2):
        fields = {"current_password": "wrong", "new_password": "another sentence"}
        assert ada.post("/settings/password", **fields).status_code == 422
    refused = ada.post(CONFIRM, confirmed_password=PASSWORD, next=SETTINGS)
    assert refused.status_code == 429
    assert f"{CONFIRM}?next={SETTINGS}" in refused.text
    assert ada.get(SETTINGS).status_code == 302
    move(60)
    for _ in range(6):
        assert ada.post(CONFIRM, confirmed_password=PASSWORD).status_code == 302


def test_who_is_not_logged_in_has_to_log_in(visitor: Visitor) -> None:
    for path in (SETTINGS, CONFIRM):
        assert visitor.get(path).headers["Location"] == f"/login?next={path}"
        assert visitor.post(path, form_on="/login").status_code == 403


@pytest.mark.parametrize("elsewhere", ["https://example.org/", "//example.org"])
def test_nobody_is_led_elsewhere(ada: Visitor, elsewhere: str) -> None:
    for resend in ("", "yes"):
        answer = ada.post(CONFIRM, confirmed_password=PASSWORD, next=elsewhere, resend=resend)
        assert answer.headers["Location"] == "/settings/account"


def test_a_session_of_an_earlier_version_is_as_recent_as_its_login(app: Flask, ada: Visitor, redis: Redis) -> None:
    key, serializer = f"session:{ada.session_id()}", JsonSerializer()
    content = serializer.decode(str(redis.get(key)).encode())
    assert "proved" not in content
    assert ada.get(SETTINGS).status_code == 200
    del content["since"]  # as 1.0.0 may have stored it
    redis.set(key, serializer.encode(content))
    assert ada.get(SETTINGS).status_code == 302
