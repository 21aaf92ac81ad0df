"""Registering, logging in and out, changing the password, and what stops those who guess."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from argon2 import PasswordHasher
from flask import Flask
from redis import Redis

from app.models import User, accounts
from app.web.forms.accounts import RegisterForm
from tests.conftest import PASSWORD, Visitor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

NOON = 1_800_000_000.0 - 1_800_000_000 % 60  # the first second of a clock minute
ELSEWHERE = [
    "//evil.example",
    "///evil.example",
    "https://evil.example/",
    "https:evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/a\\b",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    " //evil.example",
    "http://localhost@evil.example/",
    "",
]


class Clock:
    """Stands in for the module `time` in the limiter."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the limiter's clock; it stands still ten seconds into a minute, so that no test crosses a boundary."""
    clock = Clock(NOON + 10)
    monkeypatch.setattr("app.rate_limit.time", clock)
    return clock


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list of the passwords that were hashed to be checked."""
    seen: list[str] = []
    verify = accounts.hasher.verify

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(hasher, name)

        def verify(self, password_hash: str, password: str) -> bool:
            seen.append(password)
            return verify(password_hash, password)

    hasher = accounts.hasher
    monkeypatch.setattr(accounts, "hasher", Spy())
    return seen


def error_at(page: str, field: str) -> str | None:
    found = re.search(rf'<p class="field-error" id="{field}-error">(.*?)</p>', page)
    return found[1] if found else None


# Registering


def test_who_registers_is_signed_in_and_welcome(visitor: Visitor) -> None:
    answer = visitor.register("Ada")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/home")
    assert "Welcome, @Ada. Say hello!" in visitor.get("/home").text


def test_white_space_around_a_name_and_an_address_is_not_part_of_them(visitor: Visitor) -> None:
    assert visitor.post("/register", username=" ada ", email=" a@example.org ", password=PASSWORD).status_code == 302
    assert visitor.get("/@ada").status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("username", "", "Choose a name."),
        ("username", "   ", "Use only letters from a to z, digits and _."),
        ("username", "x" * 31, "Use at most 30 characters."),
        ("username", "a-b", "Use only letters from a to z, digits and _."),
        ("username", "ada\n", None),
        ("username", "jürgen", "Use only letters from a to z, digits and _."),
        ("username", "Admin", "That name is reserved. Choose another one."),
        ("username", "pipit", "That name is reserved. Choose another one."),
        ("email", "", None),
        ("email", "ada", "That doesn&#39;t look like an e-mail address, such as ada@example.org."),
        ("email", "ada@localhost", "That doesn&#39;t look like an e-mail address, such as ada@example.org."),
        ("email", "a@" + "x." * 130 + "org", "That is too long for an e-mail address."),
        ("password", "", "Choose a password."),
        ("password", "1234567", "Use at least 8 characters."),
        ("password", "x" * 1001, "Use at most 1000 characters."),
    ],
)
def test_what_is_wrong_stands_beside_its_field(visitor: Visitor, field: str, value: str, message: str | None) -> None:
    fields = {"username": "ada", "email": "ada@example.org", "password": PASSWORD} | {field: value}
    answer = visitor.post("/register", **fields)
    assert answer.status_code == (422 if message else 302)
    assert error_at(answer.text, field) == message
    assert sum(error_at(answer.text, other) is not None for other in fields) == (1 if message else 0)
    assert PASSWORD not in answer.text


def test_a_missing_field_is_an_empty_one(visitor: Visitor) -> None:
    answer = visitor.post("/register")
    assert answer.status_code == 422
    assert error_at(answer.text, "username") == "Choose a name."
    assert error_at(answer.text, "password") == "Choose a password."


def test_a_name_is_taken_in_every_case(ada: Visitor, visitor: Visitor) -> None:
    answer = visitor.post("/register", username="ADA", email="other@example.org", password=PASSWORD)
    assert answer.status_code == 422
    assert error_at(answer.text, "username") == "“ADA” is taken. Choose another name."
    assert 'value="other@example.org"' in answer.text


def test_who_registers_a_moment_too_late_is_told_the_same(
    visitor: Visitor, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.app_context():
        User.register("ada", "a@b.org", PASSWORD)
    monkeypatch.setattr(RegisterForm, "validate_username", lambda _form, _field: None)  # it looked before that
    answer = visitor.post("/register", password=PASSWORD, username="ADA", email="new@example.org")
    assert answer.status_code == 422
    assert "is taken" in (error_at(answer.text, "username") or "")
    assert not visitor.is_signed_in()


def test_registering_needs_a_token(visitor: Visitor) -> None:
    fields = {"username": "ada", "email": "ada@example.org", "password": PASSWORD}
    assert visitor.client.post("/register", data=fields).status_code == 400
    assert visitor.get("/@ada").status_code == 404


def test_who_is_signed_in_needs_no_door(ada: Visitor) -> None:
    for path in ("/login", "/register"):
        answer = ada.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (302, "/home")


# The session's cookie


def test_over_http_the_cookie_is_kept_from_scripts_and_other_sites(visitor: Visitor) -> None:
    visitor.register("ada")
    cookie = visitor.client.get_cookie("session")
    assert cookie
    assert (cookie.http_only, cookie.same_site, cookie.secure, cookie.path) == (True, "Lax", False, "/")
    assert cookie.max_age == 14 * 24 * 3600


def test_over_https_the_browser_guards_the_cookie_too(make_app: Callable[..., Flask]) -> None:
    visitor = Visitor(make_app(trusted_proxies=1).test_client(), HTTP_X_FORWARDED_PROTO="https")
    visitor.get("/login")
    visitor.register("ada")
    assert visitor.is_signed_in()
    cookies = visitor.client._cookies or {}
    assert any(cookie.key == "__Host-session" for cookie in cookies.values())
    for cookie in cookies.values():
        assert cookie.key.startswith("__Host-"), cookie.key
        assert (cookie.secure, cookie.http_only, cookie.same_site, cookie.path) == (True, True, "Lax", "/")
        assert cookie.origin_only  # no Domain, as the prefix demands


def test_a_forged_proto_changes_nothing(visitor: Visitor) -> None:
    visitor.environ = {"HTTP_X_FORWARDED_PROTO": "https"}
    visitor.register("ada")
    assert visitor.session_id()
    assert visitor.client.get_cookie("__Host-session") is None


def test_a_forged_address_changes_nothing(ada: Visitor, new_visitor: Callable[..., Visitor], clock: Clock) -> None:
    statuses = []
    for number in range(21):  # twenty a minute from one address
        stranger = new_visitor(HTTP_X_FORWARDED_FOR=f"192.0.2.{number}", HTTP_FORWARDED=f"for=192.0.2.{number}")
        statuses.append(stranger.log_in(f"nobody{number}").status_code)
    assert statuses == [422] * 20 + [429]


def test_behind_a_proxy_the_last_address_is_the_one_that_counts(make_app: Callable[..., Flask], clock: Clock) -> None:
    app = make_app(trusted_proxies=1)

    def status(name: str, forwarded: str) -> int:
        return Visitor(app.test_client(), HTTP_X_FORWARDED_FOR=forwarded).log_in(name).status_code

    for number in range(20):
        assert status(f"nobody{number}", f"198.51.100.{number}, 192.0.2.1") == 422
    assert status("one_more", "192.0.2.99, 192.0.2.1") == 429
    assert status("one_more", "192.0.2.1, 192.0.2.2") == 422


# Logging in and out


def test_name_and_password_open_the_account_in_any_case_of_the_name(ada: Visitor, visitor: Visitor) -> None:
    answer = visitor.log_in(" ADA ")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/home")
    assert "@ada" in visitor.get("/home").text


def test_logging_in_gives_an_id_that_nobody_could_have_known_before(ada: Visitor, visitor: Visitor) -> None:
    planted = "A" * 22
    visitor.client.set_cookie("session", planted)
    visitor.log_in("ada")
    assert visitor.session_id() not in (None, planted)
    assert visitor.is_signed_in()


def test_a_wrong_password_and_an_unknown_name_look_the_same(ada: Visitor, new_visitor: Callable[[], Visitor]) -> None:
    pages = []
    for name, password in (("ada", "wrong"), ("nobody", PASSWORD), ("é" * 200, PASSWORD)):
        visitor = new_visitor()
        answer = visitor.log_in(name, password)
        assert answer.status_code == 422
        assert error_at(answer.text, "password") == "That name and password don&#39;t match."
        assert password not in answer.text
        assert not visitor.is_signed_in()
        pages.append(re.sub(r'value="[^"]*"', "", answer.text))
    assert pages[0] == pages[1] == pages[2]


def test_an_unknown_name_costs_a_hash_too(visitor: Visitor, verified: list[str]) -> None:
    visitor.log_in("nobody", "a guess")
    assert verified == ["a guess"]


def test_an_empty_login_says_what_is_missing(visitor: Visitor) -> None:
    answer = visitor.log_in("", "")
    assert answer.status_code == 422
    assert error_at(answer.text, "username") == "Enter your name."
    assert error_at(answer.text, "password") == "Enter your password."


def test_a_password_too_long_to_be_one_is_not_hashed(ada: Visitor, visitor: Visitor, verified: list[str]) -> None:
    assert visitor.log_in("ada", "x" * 1001).status_code == 422
    assert verified == []


def test_a_password_hashed_by_older_rules_is_hashed_anew(
    ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, app: Flask
) -> None:
    monkeypatch.setattr(accounts, "hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    assert visitor.log_in("ada").status_code == 302
    with app.app_context():
        user = User.named("ada")
        assert user
        assert "m=64,t=1,p=1" in user.password_hash


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nobody_is_sent_elsewhere_by_a_forged_next(ada: Visitor, visitor: Visitor, url: str) -> None:
    assert 'name="next"' not in visitor.get("/login", query_string={"next": url}).text
    assert visitor.log_in("ada", next=url).headers["Location"] == "/home"


@pytest.mark.parametrize("url", ["/", "/@bob", "/home?before=3", "/tags/tea?before=1&x=//y", "/@bob#top"])
def test_who_had_to_log_in_goes_on_to_where_they_were_going(ada: Visitor, visitor: Visitor, url: str) -> None:
    page = visitor.get("/login", query_string={"next": url}).text
    assert f'value="{url.replace("&", "&amp;")}"' in page
    assert visitor.log_in("ada", next=url).headers["Location"] == url


def test_a_wrong_password_does_not_forget_where_one_was_going(ada: Visitor, visitor: Visitor) -> None:
    assert 'value="/@bob"' in visitor.log_in("ada", "wrong", next="/@bob").text


def test_logging_out_ends_the_session_at_once(ada: Visitor, redis: Redis) -> None:
    assert len(redis.keys("session:*")) == 1
    stolen = ada.session_id()
    answer = ada.log_out()
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert redis.keys("session:*") == []
    assert "You&#39;re logged out." in ada.get("/").text
    assert "You&#39;re logged out." not in ada.get("/").text
    ada.client.set_cookie("session", stolen or "")
    assert not ada.is_signed_in()


def test_after_logging_out_a_browser_is_a_strangers_again(ada: Visitor) -> None:
    ada.log_out()
    ada.get("/")
    assert ada.session_id() is None
    assert "Log in" in ada.get("/").text
    assert "Set-Cookie" not in ada.get("/").headers


def test_logging_out_twice_is_no_error(visitor: Visitor) -> None:
    answer = visitor.post("/logout", form_on="/login")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert "logged out" not in visitor.get("/").text


def test_a_link_or_a_forged_form_logs_nobody_out(ada: Visitor) -> None:
    answer = ada.get("/logout")
    assert answer.status_code == 405
    assert ada.client.post("/logout").status_code == 400
    assert ada.is_signed_in()


# Changing the password


def change(visitor: Visitor, current: str, new: str) -> str:
    answer = visitor.post("/settings/password", current_password=current, new_password=new)
    assert current not in answer.text
    assert new not in answer.text
    return f"{answer.status_code} {error_at(answer.text, 'current_password') or error_at(answer.text, 'new_password')}"


def test_changing_the_password_ends_all_other_sessions_and_renews_this_one(
    ada: Visitor, bob: Visitor, visitor: Visitor, redis: Redis
) -> None:
    visitor.log_in("ada")
    before = ada.session_id()
    assert change(ada, PASSWORD, "another good one") == "302 None"
    assert ada.session_id() != before
    assert not redis.exists(f"session:{before}")
    assert "Password changed." in ada.get("/home").text
    assert bob.is_signed_in()
    assert not visitor.is_signed_in()
    assert visitor.log_in("ada").status_code == 422
    assert visitor.log_in("ada", "another good one").status_code == 302


@pytest.mark.parametrize("password", ["password", "Password1!", "1234567890", "qwertyuiop", "aaaaaaaaaa", "abababab"])
def test_what_attackers_try_first_is_no_password(ada: Visitor, visitor: Visitor, password: str) -> None:
    said = "This password is one of the first that people try. Choose another one."
    changed = ada.post("/settings/password", current_password=PASSWORD, new_password=password)
    assert error_at(changed.text, "new_password") == said
    registered = visitor.post("/register", username="eve", password=password)
    assert error_at(registered.text, "password") == said


def test_another_password_is_not_the_same_one(ada: Visitor) -> None:
    assert change(ada, PASSWORD, PASSWORD) == "422 The new password is the same as the current one."


def test_changing_the_password_needs_a_login(visitor: Visitor) -> None:
    answer = visitor.get("/settings/password")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login?next=/settings/password")


def test_a_password_that_cannot_be_chosen_is_refused(ada: Visitor) -> None:
    assert ada.get("/settings/password").status_code == 200
    assert change(ada, PASSWORD, "short1!") == "422 Use at least 8 characters."
    assert ada.post("/settings/password").status_code == 422


def test_a_wrong_current_password_is_a_guess_and_counted(ada: Visitor, clock: Clock, verified: list[str]) -> None:
    for _ in range(5):
        assert change(ada, "not my password", "another good one") == "422 That&#39;s not your current password."
    assert len(verified) == 5
    answer = ada.post("/settings/password", current_password=PASSWORD, new_password="another good one")
    assert answer.status_code == 429
    assert 'href="/settings/password">Back to the form' in answer.text
    assert len(verified) == 5
    clock.now += 60
    assert change(ada, PASSWORD, "another good one") == "302 None"


# Where one is logged in


def places(visitor: Visitor) -> tuple[int, list[str]]:
    """Return how many sessions the page shows, and where the forms lead that end one of them."""
    page = visitor.get("/settings/sessions").text
    return page.count('<li class="place">'), re.findall(r'action="(/settings/sessions/[0-9a-f]+/end)"', page)


def test_one_sees_where_one_is_logged_in_and_can_end_it_there(ada: Visitor, visitor: Visitor) -> None:
    assert places(ada) == (1, [])
    visitor.environ = {"HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
    visitor.log_in("ada")
    count, ends = places(ada)
    assert (count, len(ends)) == (2, 1)
    page = ada.get("/settings/sessions").text
    assert "Firefox" in page
    for person in (ada, visitor):
        assert (person.session_id() or "?") not in page
    answer = ada.post(ends[0], form_on="/settings/sessions")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/settings/sessions")
    assert not visitor.is_signed_in()
    assert "Logged out of " in ada.get("/settings/sessions").text
    ada.post(ends[0], form_on="/settings/sessions")
    assert "That device was already logged out." in ada.get("/settings/sessions").text


def test_nobody_ends_somebody_elses_session(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    visitor.log_in("ada")
    (end,) = places(ada)[1]
    bob.post(end, form_on="/settings/sessions")
    assert visitor.is_signed_in()


@pytest.mark.parametrize(
    ("others", "words"), [(0, "0 other devices."), (1, "1 other device."), (2, "2 other devices.")]
)
def test_one_can_log_out_everywhere_else(
    ada: Visitor, bob: Visitor, new_visitor: Callable[[], Visitor], others: int, words: str
) -> None:
    elsewhere = [new_visitor() for _ in range(others)]
    for browser in elsewhere:
        browser.log_in("ada")
    ada.post("/settings/sessions/end-others", form_on="/home")
    assert f"Logged out of {words}" in ada.get("/settings/sessions").text
    assert not any(browser.is_signed_in() for browser in elsewhere)
    assert bob.is_signed_in()


# The limiter, as a visitor meets it


def test_after_five_wrong_passwords_the_sixth_is_not_even_looked_at(
    ada: Visitor, visitor: Visitor, clock: Clock, verified: list[str]
) -> None:
    for left in (4, 3, 2, 1, 0):
        answer = visitor.log_in("ada", "wrong")
        assert answer.status_code == 422
        assert answer.headers["RateLimit"] == f'"login";r={left};t=50'
    assert len(verified) == 5
    answer = visitor.log_in("Ada")  # the right one, too late
    assert answer.status_code == 429
    assert len(verified) == 5
    assert answer.headers["Retry-After"] == "50"
    assert answer.headers["RateLimit-Policy"] == '"login";q=5;w=60'
    assert answer.headers["RateLimit"] == '"login";r=0;t=50'
    assert answer.headers["Cache-Control"] == "no-store"
    assert 'href="/login">Back to the form' in answer.text
    assert not visitor.is_signed_in()


@pytest.mark.parametrize(
    ("second", "words"),
    [(0, "in 60 seconds."), (12, "in 48 seconds."), (59, "in 1 second.")],
)
def test_the_page_says_in_how_many_seconds_to_try_again(
    visitor: Visitor, clock: Clock, second: int, words: str
) -> None:
    clock.now = datetime(2026, 7, 1, 20, 48, second, 400_000, UTC).timestamp()
    for _ in range(5):
        visitor.log_in("ada", "wrong")
    page = visitor.log_in("ada", "wrong").text
    assert words in page
    assert "UTC" not in page


def test_after_too_many_attempts_the_form_still_knows_where_one_wanted_to_go(visitor: Visitor, clock: Clock) -> None:
    for _ in range(6):
        answer = visitor.log_in("ada", "wrong", next="/@bob")
    assert answer.status_code == 429
    assert 'href="/login?next=/@bob">Back to the form' in answer.text
    assert 'name="next" type="hidden" value="/@bob"' in visitor.get("/login?next=/@bob").text
    for _ in range(6):
        answer = visitor.log_in("bob", "wrong", next="https://elsewhere.example.org/")
    assert 'href="/login">Back to the form' in answer.text


def test_another_account_is_not_affected(ada: Visitor, bob: Visitor, visitor: Visitor, clock: Clock) -> None:
    for _ in range(6):
        visitor.log_in("ada", "wrong")
    assert visitor.log_in("ada").status_code == 429
    assert visitor.log_in("bob").status_code == 302


def test_all_spellings_of_a_name_are_one_account(ada: Visitor, visitor: Visitor, clock: Clock) -> None:
    for name in ("ada", "ADA", " ada ", "ａｄａ", "Ada"):
        assert visitor.log_in(name, "wrong").status_code == 422
    assert visitor.log_in("aDa").status_code == 429


def test_the_next_minute_is_another_chance(ada: Visitor, visitor: Visitor, clock: Clock) -> None:
    for _ in range(6):
        visitor.log_in("ada", "wrong")
    clock.now = NOON + 59.9
    assert visitor.log_in("ada").status_code == 429
    clock.now = NOON + 60
    assert visitor.log_in("ada").status_code == 302


def test_the_right_password_gives_its_attempt_back(
    ada: Visitor, new_visitor: Callable[[], Visitor], clock: Clock
) -> None:
    for _ in range(10):
        assert new_visitor().log_in("ada").status_code == 302
    stranger = new_visitor()
    for _ in range(4):
        stranger.log_in("ada", "wrong")
    assert new_visitor().log_in("ada").status_code == 302
    assert stranger.log_in("ada", "wrong").status_code == 422
    assert stranger.log_in("ada", "wrong").status_code == 429


def test_who_sends_no_token_is_not_counted(ada: Visitor, visitor: Visitor, clock: Clock, redis: Redis) -> None:
    for _ in range(9):
        visitor.client.post("/login", data={"username": "ada", "password": "wrong"})
    assert redis.keys("limit:login*") == []


def test_a_stranger_cannot_lock_the_owner_out_of_a_browser_they_have_used(
    ada: Visitor, visitor: Visitor, clock: Clock
) -> None:
    ada.log_out()
    for _ in range(6):
        visitor.log_in("ada", "wrong")
    assert visitor.log_in("ada").status_code == 429
    assert ada.log_in("ada", "wrong").status_code == 422
    assert ada.log_in("ada").status_code == 302


def test_a_browser_known_to_one_account_has_no_advantage_with_another(
    ada: Visitor, bob: Visitor, visitor: Visitor, clock: Clock
) -> None:
    bob.log_out()
    for _ in range(5):
        visitor.log_in("ada", "wrong")
    assert bob.log_in("ada").status_code == 429


@pytest.mark.parametrize("cookie", ["", "x", "WyJhIl0.bad", "e30.aaaa"])
def test_a_forged_device_cookie_is_none(visitor: Visitor, clock: Clock, cookie: str) -> None:
    statuses = []
    for number in range(6):
        visitor.client.set_cookie("device", cookie + str(number))
        statuses.append(visitor.log_in("ada", "wrong").status_code)
    assert statuses == [422] * 5 + [429]
