"""Two-factor authentication as people use it, and what somebody who only knows the password can do."""

import re
import time
from collections.abc import Callable
from html import unescape
from itertools import count

import pyotp
import pytest
from flask import Flask
from redis import Redis
from werkzeug.test import TestResponse

from app.models import SecondFactor, User
from app.models.accounts import hasher
from app.models.second_factor import RECOVERY_CODES, STEP
from app.rate_limit import WRONG_CODES
from app.web.login_steps import HALF_LOGIN_LIFETIME
from tests.conftest import PASSWORD, SECRET_KEY, Log, Visitor, id_of, in_threads

SETTINGS = "/settings/account/two-factor"
CODE = "/login/code"
ANOTHER = "another sentence to remember"
Move = Callable[[float], None]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Move:
    """Stop the clock, at the start of the next minute, and give a function that moves it on by some seconds."""
    now = [time.time() // 60 * 60 + 60]  # not before the login of a fixture
    monkeypatch.setattr("time.time", lambda: now[0])

    def on(seconds: float) -> None:
        now[0] += seconds

    return on


class App:
    """An authenticator app on somebody's phone; each code that it gives is a new one, because the clock moves on."""

    def __init__(self, secret: str, recovery_codes: list[str], move: Move) -> None:
        self.secret, self.recovery_codes, self.move = secret, recovery_codes, move

    def code(self) -> str:
        self.move(STEP)
        return self.shows()

    def shows(self) -> str:
        return pyotp.TOTP(self.secret).at(int(time.time()))

    def wrong(self) -> str:
        """Return six digits that are no code now."""
        near = {pyotp.TOTP(self.secret).at(int(time.time()) + step * STEP) for step in (-1, 0, 1)}
        return next(code for number in count() if (code := f"{number:06}") not in near)


@pytest.fixture
def phone(ada: Visitor, move: Move) -> App:
    """Turn on ada's second factor."""
    return turn_on(ada, move)


def turn_on(person: Visitor, move: Move) -> App:
    secret = secret_on(person.get(SETTINGS))
    phone = App(secret, [], move)
    page = person.post(SETTINGS, code=phone.code())
    assert page.status_code == 200
    phone.recovery_codes = codes_on(page)
    return phone


def secret_on(page: TestResponse) -> str:
    found = re.search(r"secret=(\w{32})", unescape(page.text))
    assert found
    return found[1]


def codes_on(page: TestResponse) -> list[str]:
    return re.findall(r"<li>((?:\w{4}-){3}\w{4})</li>", page.text)


def half_in(visitor: Visitor, password: str = PASSWORD, **fields: str) -> None:
    """Take the first step of logging in as ada."""
    assert visitor.log_in("ada", password, **fields).headers["Location"] == CODE


# Setting up


def test_the_whole_walk(ada: Visitor, visitor: Visitor, move: Move) -> None:
    assert "Set up" in ada.get("/settings/account").text
    page = ada.get(SETTINGS)
    assert 'class="qr"' in page.text
    assert "style=" not in page.text
    assert page.headers["Cache-Control"] == "no-store"
    phone = App(secret_on(page), [], move)
    assert "".join(re.findall(r"<span>(\w{4})</span>", page.text)) == phone.secret
    done = ada.post(SETTINGS, code=phone.code())
    assert "Two-factor authentication is on." in done.text
    assert done.headers["Cache-Control"] == "no-store"
    codes = codes_on(done)
    assert len(codes) == RECOVERY_CODES
    account = ada.get("/settings/account").text
    assert "10 recovery codes left" in account
    assert codes[0] not in account

    half_in(visitor, next="/settings/profile")
    assert visitor.post(CODE, code=phone.code()).headers["Location"] == "/settings/profile"
    assert visitor.is_signed_in()
    visitor.log_out()

    half_in(visitor)
    assert "Use a recovery code" in visitor.get(CODE).text
    assert visitor.post(f"{CODE}?recovery=", code=codes[0]).headers["Location"] == "/home"
    assert "You&#39;ve used a recovery code. You have 9 left." in visitor.get("/home").text

    new = codes_on(ada.post(f"{SETTINGS}/recovery-codes"))
    assert len({*new, *codes}) == 2 * RECOVERY_CODES
    assert ada.post(f"{SETTINGS}/off").headers["Location"] == "/settings/account"
    assert "Two-factor authentication is off." in ada.get("/settings/account").text
    visitor.log_out()
    assert visitor.log_in("ada").headers["Location"] == "/home"


def test_a_wrong_first_code_turns_nothing_on_and_the_secret_stays(app: Flask, ada: Visitor, move: Move) -> None:
    phone = App(secret_on(ada.get(SETTINGS)), [], move)
    refused = ada.post(SETTINGS, code=phone.wrong())
    assert refused.status_code == 422
    assert "That code isn&#39;t right." in refused.text
    assert ada.post(SETTINGS, code="").status_code == 422
    assert secret_on(refused) == secret_on(ada.get(SETTINGS)) == phone.secret
    with app.app_context():
        assert SecondFactor.of(1) is None
    assert ada.post(SETTINGS, code=phone.code()).status_code == 200


def test_what_is_on_is_not_set_up_again_and_what_is_off_has_no_pages(ada: Visitor, bob: Visitor, phone: App) -> None:
    assert ada.get(SETTINGS).headers["Location"] == "/settings/account"
    answer = ada.post(SETTINGS, form_on="/settings/account", code=phone.code())
    assert answer.headers["Location"] == "/settings/account"
    for path in (f"{SETTINGS}/recovery-codes", f"{SETTINGS}/off"):
        assert ada.get(path).status_code == 200
        assert bob.get(path).headers["Location"] == "/settings/account"
        assert bob.post(path, form_on="/home").headers["Location"] == "/settings/account"


def test_of_two_browsers_that_set_it_up_the_first_one_counts(ada: Visitor, visitor: Visitor, move: Move) -> None:
    visitor.log_in("ada")
    late = App(secret_on(visitor.get(SETTINGS)), [], move)
    turn_on(ada, move)
    answer = visitor.post(SETTINGS, form_on="/home", code=late.code())
    assert answer.headers["Location"] == "/settings/account"


def test_other_devices_stay_logged_in(ada: Visitor, visitor: Visitor, move: Move) -> None:
    visitor.log_in("ada")
    turn_on(ada, move)
    assert visitor.is_signed_in()


# Logging in


def test_the_password_alone_opens_nothing(ada: Visitor, visitor: Visitor, phone: App, redis: Redis) -> None:
    before = redis.keys("session:*"), redis.keys("devices:*"), redis.zrange("devices:ada", 0, -1)
    half_in(visitor)
    assert not visitor.is_signed_in()
    assert visitor.session_id() is None
    assert visitor.client.get_cookie("device") is None
    for path in (SETTINGS, "/settings/password", "/notifications"):
        assert visitor.get(path).headers["Location"].startswith("/login?")
    assert visitor.post("/posts", form_on=CODE, body="hello").status_code == 403
    assert (redis.keys("session:*"), redis.keys("devices:*"), redis.zrange("devices:ada", 0, -1)) == before


def test_without_the_password_there_is_nothing_to_enter_a_code_for(visitor: Visitor, phone: App) -> None:
    assert visitor.get(CODE).headers["Location"] == "/login"
    assert visitor.post(CODE, form_on="/login", code=phone.code()).headers["Location"] == "/login"
    assert not visitor.is_signed_in()


def test_who_is_logged_in_needs_no_code(ada: Visitor) -> None:
    assert ada.get(CODE).headers["Location"] == "/home"


def test_a_replayed_code_is_refused(visitor: Visitor, new_visitor: Callable[[], Visitor], phone: App) -> None:
    half_in(visitor)
    code = phone.code()
    assert visitor.post(CODE, code=code).status_code == 302
    thief = new_visitor()
    half_in(thief)
    refused = thief.post(CODE, code=code)
    assert refused.status_code == 422
    assert "That code isn&#39;t right, or was used already." in refused.text
    assert code in refused.text  # what was typed stays
    assert not thief.is_signed_in()


def test_a_recovery_code_works_once(visitor: Visitor, new_visitor: Callable[[], Visitor], phone: App) -> None:
    half_in(visitor)
    assert visitor.post(CODE, code=phone.recovery_codes[0]).status_code == 302  # on the app's page, too
    thief = new_visitor()
    half_in(thief)
    assert thief.post(f"{CODE}?recovery=", code=phone.recovery_codes[0]).status_code == 422
    assert not thief.is_signed_in()


def test_the_last_recovery_code_is_told(app: Flask, visitor: Visitor, phone: App) -> None:
    with app.app_context():
        factor = SecondFactor.of(1)
        assert factor
        for code in phone.recovery_codes[1:]:
            factor.accepts(code)
    half_in(visitor)
    visitor.post(CODE, code=phone.recovery_codes[0])
    assert "last recovery code" in visitor.get("/home").text
    assert "No recovery codes left. Make new ones" in visitor.get("/settings/account").text


def test_a_change_of_password_voids_the_first_step(ada: Visitor, visitor: Visitor, phone: App) -> None:
    half_in(visitor)
    ada.post("/settings/password", current_password=PASSWORD, new_password=ANOTHER)
    answer = visitor.post(CODE, form_on="/login", code=phone.code())
    assert answer.headers["Location"] == "/login"
    assert not visitor.is_signed_in()
    half_in(visitor, ANOTHER)
    assert visitor.post(CODE, code=phone.code()).status_code == 302


def test_a_rehash_at_login_does_not_void_the_first_step(
    visitor: Visitor, phone: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(hasher), "check_needs_rehash", lambda *_: True)
    half_in(visitor)
    assert visitor.post(CODE, code=phone.code()).status_code == 302


def test_a_suspension_voids_the_first_step(app: Flask, visitor: Visitor, phone: App) -> None:
    half_in(visitor)
    with app.app_context():
        user = User.named("ada")
        assert user
        user.suspend()
        user.reinstate()
    assert visitor.get(CODE).headers["Location"] == "/login"
    assert "Please enter your password again." in visitor.get("/login").text


def test_a_change_of_password_during_the_second_step_gives_no_session(
    ada: Visitor, visitor: Visitor, phone: App, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepts = SecondFactor.accepts

    def change_meanwhile(factor: SecondFactor, code: str) -> bool:
        monkeypatch.setattr(SecondFactor, "accepts", accepts)
        fields = {"current_password": PASSWORD, "new_password": ANOTHER}
        in_threads(1, lambda _: ada.post("/settings/password", **fields))
        return factor.accepts(code)

    half_in(visitor)
    monkeypatch.setattr(SecondFactor, "accepts", change_meanwhile)
    assert visitor.post(CODE, code=phone.code()).headers["Location"] == "/login"
    assert not visitor.is_signed_in()
    assert redis.zcard("user:1:sessions") == 1
    assert redis.zcard("devices:ada") == 1


def test_the_first_step_is_good_for_ten_minutes(visitor: Visitor, phone: App, move: Move) -> None:
    half_in(visitor)
    move(HALF_LOGIN_LIFETIME)
    assert visitor.get(CODE).status_code == 200
    move(1)
    assert visitor.get(CODE).headers["Location"] == "/login"


def test_a_link_to_reset_the_password_does_not_turn_it_off(app: Flask, visitor: Visitor, phone: App) -> None:
    with app.app_context():
        user = User.named("ada")
        assert user
        path = f"/reset/{user.reset_token(SECRET_KEY)}"
    visitor.post(path, new_password=ANOTHER)
    assert not visitor.is_signed_in()
    half_in(visitor, ANOTHER)
    assert visitor.post(CODE, code=phone.code()).status_code == 302


def test_who_runs_the_site_can_remove_it(app: Flask, visitor: Visitor, phone: App) -> None:
    half_in(visitor)
    run = app.test_cli_runner().invoke
    assert "two_factor  20" in run(args=["user", "show", "ada"]).output
    assert "password alone" in run(args=["user", "remove-second-factor", "@Ada"]).output
    again = run(args=["user", "remove-second-factor", "ada"])
    assert (again.exit_code, "has no second factor" in again.output) == (1, True)
    assert visitor.get(CODE).headers["Location"] == "/login"
    assert visitor.log_in("ada").headers["Location"] == "/home"


@pytest.mark.parametrize("elsewhere", ["https://example.org/", "//example.org", "/" + 5_000 * "x"])
def test_nobody_is_led_elsewhere(visitor: Visitor, phone: App, elsewhere: str) -> None:
    half_in(visitor, next=elsewhere)
    assert visitor.post(CODE, code=phone.code()).headers["Location"] == "/home"


# The limit


def test_guesses_are_limited_like_passwords(
    visitor: Visitor, new_visitor: Callable[..., Visitor], phone: App, move: Move
) -> None:
    half_in(visitor)
    left = [visitor.post(CODE, code=phone.wrong()).headers["RateLimit"] for _ in range(5)]
    assert left[-1].startswith('"second-factor";r=0')
    assert visitor.post(CODE, code=phone.shows()).status_code == 429
    elsewhere = new_visitor(REMOTE_ADDR="192.0.2.9")
    half_in(elsewhere)
    refused = elsewhere.post(CODE, code=phone.shows())
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "30"
    assert not elsewhere.is_signed_in()
    move(60)
    assert visitor.post(CODE, code=phone.shows()).status_code == 302


def test_guesses_are_limited_by_the_day_too(visitor: Visitor, phone: App, move: Move) -> None:
    move(-time.time() % 86_400)
    half_in(visitor)
    for number in range(WRONG_CODES):
        if number % 5 == 0:
            move(60)
            half_in(visitor)
        assert visitor.post(CODE, code=phone.wrong()).status_code == 422
    move(60)
    refused = visitor.post(CODE, code=phone.shows())
    assert refused.status_code == 429
    assert "Try again in 24 hours." in refused.text


def test_right_codes_are_given_back(visitor: Visitor, phone: App, redis: Redis) -> None:
    for _ in range(8):
        half_in(visitor)
        assert visitor.post(CODE, code=phone.code()).status_code == 302
        visitor.log_out()
    assert {redis.get(key) for key in redis.keys("limit:second-factor*")} == {"0"}


def test_a_stranger_with_the_password_does_not_lock_a_known_device_out(
    ada: Visitor, visitor: Visitor, phone: App
) -> None:
    half_in(visitor)
    for _ in range(6):
        answer = visitor.post(CODE, code=phone.wrong())
    assert answer.status_code == 429
    ada.log_out()
    half_in(ada)
    assert ada.post(CODE, code=phone.shows()).status_code == 422  # it was used, to turn it on
    assert ada.post(CODE, code=phone.recovery_codes[0]).status_code == 302


def test_a_new_password_starts_a_new_count(ada: Visitor, visitor: Visitor, phone: App) -> None:
    half_in(visitor)
    for _ in range(6):
        answer = visitor.post(CODE, code=phone.wrong())
    assert answer.status_code == 429
    ada.post("/settings/password", current_password=PASSWORD, new_password=ANOTHER)
    half_in(visitor, ANOTHER)
    assert visitor.post(CODE, code=phone.recovery_codes[0]).status_code == 302


# Secrets


def test_no_secret_is_logged(ada: Visitor, visitor: Visitor, move: Move, log: Log) -> None:
    phone = turn_on(ada, move)
    half_in(visitor)
    code = phone.code()
    visitor.post(CODE, code=code)
    visitor.post(CODE, code=phone.recovery_codes[0])
    lines = "\n".join(log.lines())
    assert f"path={CODE}" in lines
    assert not any(secret in lines for secret in (phone.secret, code, *phone.recovery_codes))


def test_the_secret_leaves_the_session_once_it_is_used(app: Flask, ada: Visitor, redis: Redis, move: Move) -> None:
    secret = secret_on(ada.get(SETTINGS))
    key = f"session:{ada.session_id()}"
    assert secret in str(redis.get(key))
    phone = App(secret, [], move)
    ada.post(SETTINGS, code=phone.code())
    assert secret not in str(redis.get(key))
    assert id_of(app, "ada") == 1


@pytest.mark.server
def test_of_two_logins_with_one_code_at_once_one_succeeds(
    new_visitor: Callable[[], Visitor], phone: App, redis: Redis
) -> None:
    browsers = [new_visitor() for _ in range(4)]
    for browser in browsers:
        half_in(browser)
    code = phone.code()
    in_threads(len(browsers), lambda number: browsers[number].post(CODE, code=code))
    assert sum(browser.is_signed_in() for browser in browsers) == 1
