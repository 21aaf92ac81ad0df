"""The rate limiter: windows that count exactly, on a real Valkey and across processes, and that nobody can abuse."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from fakeredis import FakeRedis
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from sqlalchemy import update
from werkzeug.test import TestResponse

from app import redis_client
from app.config import DAY, Config, parse_redis_url
from app.extensions import db
from app.models import User
from app.models.accounts import hasher
from app.models.writes import write
from app.rate_limit import (
    BY_ACCOUNT,
    DEVICE_LIFETIME,
    HOUR,
    MOST_DEVICES,
    WINDOW,
    Action,
    RateLimiter,
    Rule,
    account_rules,
    address_label,
    login_account,
    registration_rules,
)
from app.redis_client import Store, StoreUnavailableError
from tests.conftest import FAKE_PORT, PASSWORD, FollowingFake, Visitor, have_joined_long_ago, in_threads
from tests.counting import commands_sent
from tests.servers import ROOT, clean_environ

MINUTE = 1_800_000_000 // WINDOW * WINDOW


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def limiter(redis: Redis, redis_url: str) -> RateLimiter:
    return RateLimiter(Store(Config(parse_redis_url(redis_url), "", "", redis_max_connections=51)), 5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the limiter's clock; it stands still until it is set again."""

    def set_to(moment: float) -> None:
        monkeypatch.setattr("app.rate_limit.time.time", lambda: moment)

    set_to(MINUTE)
    return set_to


RULE = Rule("try", "ada", 5)


@pytest.fixture(params=["fakeredis", "valkey"])
def any_limiter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RateLimiter:
    if request.param == "valkey":
        limiter: RateLimiter = request.getfixturevalue("limiter")
        return limiter
    monkeypatch.setattr(redis_client, "FollowingConnection", FollowingFake)
    FakeRedis(host="127.0.0.1", port=FAKE_PORT).flushall()
    return RateLimiter(Store(Config(parse_redis_url(f"redis://127.0.0.1:{FAKE_PORT}/0"), "", "")), 5)


def test_it_counts_up_to_the_limit_and_then_says_no(any_limiter: RateLimiter, clock: Callable[[float], None]) -> None:
    windows = [any_limiter.hit([RULE]) for _ in range(7)]
    assert [window.exceeded for window in windows] == [False] * 5 + [True] * 2
    assert [window.remaining for window in windows] == [4, 3, 2, 1, 0, 0, 0]


def test_a_window_ends_with_its_clock_minute(any_limiter: RateLimiter, clock: Callable[[float], None]) -> None:
    clock(MINUTE + 59.9)
    assert any_limiter.hit([RULE] * 5).resets_in == 1
    assert any_limiter.hit([RULE]).exceeded
    clock(MINUTE + 60)
    window = any_limiter.hit([RULE])
    assert not window.exceeded
    assert (window.attempts, window.resets_in) == (1, 60)


def test_a_rule_may_count_by_the_day(any_limiter: RateLimiter, clock: Callable[[float], None]) -> None:
    midnight = MINUTE // DAY * DAY
    by_day = Rule("day", "ada", 2, window=DAY)
    clock(midnight)
    assert any_limiter.hit([RULE, by_day]).rule == by_day
    clock(midnight + DAY - 60)
    assert any_limiter.hit([RULE, by_day]).remaining == 0
    window = any_limiter.hit([RULE, by_day])
    assert window.exceeded
    assert (window.rule, window.resets_in) == (by_day, 60)
    assert any_limiter.hit([RULE]).attempts == 2
    clock(midnight + DAY)
    assert not any_limiter.hit([RULE, by_day]).exceeded


def test_of_several_rules_the_one_exceeded_speaks(any_limiter: RateLimiter, clock: Callable[[float], None]) -> None:
    wide, narrow = Rule("address", "here", 100), Rule("account", "ada", 1)
    assert any_limiter.hit([wide, narrow]).rule == narrow
    assert any_limiter.hit([wide, narrow]).exceeded
    assert any_limiter.hit([wide]).attempts == 2


def test_of_two_rules_that_refuse_the_one_that_lasts_longer_speaks(
    any_limiter: RateLimiter, clock: Callable[[float], None]
) -> None:
    minute, day = Rule("code", "ada", 1), Rule("code-day", "ada", 1, window=DAY)
    any_limiter.hit([minute, day])
    assert any_limiter.hit([minute, day]).rule == day


def test_what_one_rule_refuses_leaves_no_trace_under_another(limiter: RateLimiter, redis: Redis) -> None:
    narrow = Rule("address", "here", 1)
    limiter.hit([narrow])
    before = redis.keys("*")
    for number in range(50):
        assert limiter.hit([Rule("account", f"nobody{number}", 5), narrow]).rule == narrow
    assert redis.keys("*") == before


@pytest.mark.server
def test_one_round_trip_counts_under_all_rules_and_every_key_expires(limiter: RateLimiter, redis: Redis) -> None:
    limiter.hit([RULE])
    with commands_sent(redis) as sent:
        limiter.hit(limiter.login_rules("ada", "192.0.2.1", None))
    assert [command.split()[0] for command in sent] == ["EVAL"]
    assert len(redis.keys("limit:*")) == 3
    assert all(0 < redis.ttl(key) <= RULE.lifetime for key in redis.keys("limit:*"))


def test_each_counter_lives_twice_as_long_as_its_window(limiter: RateLimiter, redis: Redis) -> None:
    limiter.hit([RULE, Rule("day", "ada", 2, window=DAY)])
    (minute,), (day,) = redis.keys("limit:try:*"), redis.keys("limit:day:*")
    assert 100 < redis.ttl(minute) <= 120
    assert 172_700 < redis.ttl(day) <= 172_800


def test_giving_back_never_makes_a_key(limiter: RateLimiter, redis: Redis, clock: Callable[[float], None]) -> None:
    window = limiter.hit([RULE])
    redis.flushdb()
    limiter.give_back(window)
    assert redis.keys("*") == []
    limiter.give_back(limiter.hit([RULE]))
    assert limiter.hit([RULE]).attempts == 1
    assert all(redis.ttl(key) > 0 for key in redis.keys("*"))


def test_giving_back_undoes_just_what_was_counted_also_in_the_next_minute(
    any_limiter: RateLimiter, clock: Callable[[float], None]
) -> None:
    clock(MINUTE + 59)
    window = any_limiter.hit([RULE])
    clock(MINUTE + 60)
    any_limiter.hit([RULE])
    any_limiter.give_back(window)
    assert any_limiter.hit([RULE]).attempts == 2
    clock(MINUTE + 59)
    assert any_limiter.hit([RULE]).attempts == 1


def test_a_thousand_attempts_at_once_let_exactly_the_allowed_number_through(
    limiter: RateLimiter, clock: Callable[[float], None]
) -> None:
    passed = []

    def attempt(_number: int) -> None:
        for _ in range(20):
            if not limiter.hit([RULE]).exceeded:
                passed.append(1)  # noqa: PERF401  # each hit is the point

    in_threads(50, attempt)
    assert len(passed) == 5


ATTEMPTS = """
import sys, types, app.rate_limit as it
from app.config import DAY, Config, parse_redis_url
from app.redis_client import Store
limiter = it.RateLimiter(Store(Config(parse_redis_url(sys.argv[1]), "", "")), 5)
moments = iter([float(sys.argv[2])] * 125 + [float(sys.argv[2]) + 1] * 125)
it.time = types.SimpleNamespace(time=lambda: next(moments))
print(sum(not limiter.hit([it.Rule("try", "ada", 5)]).exceeded for _ in range(250)))
"""


@pytest.mark.server
def test_across_processes_and_the_minute_boundary_each_minute_lets_its_own_number_through(
    redis: Redis, redis_url: str
) -> None:
    """Four processes make 250 attempts each: half in the last second of a minute, half in the first of the next."""
    command = [sys.executable, "-c", ATTEMPTS, redis_url, str(MINUTE + 59.5)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=clean_environ(), stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    passed = sum(int(process.communicate(timeout=60)[0]) for process in processes)
    assert passed == 10


def test_without_redis_nothing_is_allowed_silently() -> None:
    away = RateLimiter(Store(Config(parse_redis_url("redis://127.0.0.1:1/0"), "", "")), 5)
    with pytest.raises(StoreUnavailableError):
        away.hit([RULE])


@pytest.mark.parametrize("spelling", ["ada", "Ada", " ADA ", "\uff21\uff24\uff21", "ａｄａ"])
def test_all_spellings_of_a_name_are_counted_as_one(spelling: str) -> None:
    assert login_account(spelling) == "ada"


@given(st.text())
def test_no_name_makes_a_long_or_an_odd_key(name: str) -> None:
    label = login_account(name)
    assert len(label) <= 33
    assert label.isascii()
    assert ":" not in label
    assert label.isprintable()


@pytest.mark.parametrize(
    ("address", "label"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", "unknown"),
        ("not an address", "unknown"),
    ],
)
def test_an_ipv6_address_counts_by_its_64(address: str, label: str) -> None:
    assert address_label(address) == label


def attempt(visitor: Visitor, name: str, password: str = "wrong password") -> int:
    return visitor.log_in(name, password).status_code


@pytest.mark.server
def test_an_attacker_with_a_thousand_addresses_cannot_lock_the_owner_out(
    app: Flask, new_visitor: Callable[..., Visitor], clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ada joins from her laptop, and later logs out.
    laptop = new_visitor(REMOTE_ADDR="192.0.2.10")
    laptop.register("ada")
    laptop.log_out()

    # A stranger guesses her password, each time from another address. After five guesses the account is closed to them.
    def guess(number: int, password: str = "wrong password") -> int:
        return attempt(new_visitor(REMOTE_ADDR=f"10.0.{number // 250}.{number % 250 + 1}"), "ada", password)

    assert [guess(number) for number in range(5)] == [422] * 5
    with monkeypatch.context() as patch:
        patch.setattr(type(hasher), "verify", lambda *_: pytest.fail("a refused guess cost a hash"))
        assert {guess(number) for number in range(5, 1000)} == {429}

    # Ada comes back with the browser she used before, mistypes once, and is in.
    assert attempt(laptop, "ada") == 422
    assert attempt(laptop, "ada", PASSWORD) == 302
    assert laptop.is_signed_in()

    # The stranger is still out, even with the right password; and so is Ada on a new device, until the minute is over.
    assert guess(1000, PASSWORD) == 429
    clock(MINUTE + 60)
    assert guess(1001, PASSWORD) == 302


def test_a_device_is_limited_on_its_own(ada: Visitor, clock: Callable[[float], None]) -> None:
    ada.log_out()
    assert [attempt(ada, "ada") for _ in range(6)] == [422] * 5 + [429]


def test_a_device_known_to_one_account_is_a_stranger_to_another(
    ada: Visitor, bob: Visitor, redis: Redis, clock: Callable[[float], None]
) -> None:
    ada.log_out()
    attempt(ada, "bob")
    assert redis.get(f"limit:login:bob:{MINUTE // 60}") == "1"


def test_a_family_shares_a_browser(visitor: Visitor, redis: Redis, clock: Callable[[float], None]) -> None:
    for name in ("ada", "bob", "cy", "dee", "eve", "fay", "gil", "hal", "ida", "jo", "kim"):
        visitor.register(name)
        visitor.log_out()
    attempt(visitor, "fay")
    attempt(visitor, "bob")
    attempt(visitor, "ada")  # the eleventh: forgotten
    assert len(redis.keys("limit:login-device:*")) == 2
    assert redis.get(f"limit:login:ada:{MINUTE // 60}") == "1"


def test_a_device_counts_on_its_own_under_its_address_too(
    ada: Visitor, new_visitor: Callable[..., Visitor], redis: Redis, clock: Callable[[float], None]
) -> None:
    """Whoever knows the password can make device after device; together they guess no more than an address may."""
    devices = [new_visitor() for _ in range(8)]
    for device in devices:
        assert attempt(device, "ada", PASSWORD) == 302
        device.log_out()
    wrong = [attempt(device, "ada") for device in devices for _ in range(4)]
    assert wrong == [422] * 20 + [429] * 12
    # A stranger at another address who uses up its limit changes nothing here, nor one who is no device's at this one.
    assert attempt(new_visitor(), "bob") == 422
    assert attempt(new_visitor(REMOTE_ADDR="192.0.2.77"), "ada") == 422


def test_an_account_is_known_by_so_many_devices_and_by_the_latest(
    ada: Visitor, new_visitor: Callable[..., Visitor], redis: Redis, clock: Callable[[float], None]
) -> None:
    devices = [new_visitor() for _ in range(MOST_DEVICES)]
    for number, device in enumerate(devices):
        clock(MINUTE + number + 1)
        attempt(device, "ada", PASSWORD)
        device.log_out()
    assert redis.zcard("devices:ada") == MOST_DEVICES
    assert 0 < redis.ttl("devices:ada") <= DEVICE_LIFETIME
    ada.log_out()
    attempt(ada, "ada")
    assert redis.get(f"limit:login:ada:{MINUTE // 60}") == "1"  # her first browser is forgotten
    attempt(devices[0], "ada")
    assert len(redis.keys("limit:login-device:*")) == 1


def test_a_browser_that_logs_in_again_stays_one_device(
    ada: Visitor, redis: Redis, clock: Callable[[float], None]
) -> None:
    for _ in range(3):
        ada.log_out()
        assert attempt(ada, "ada", PASSWORD) == 302
    assert redis.zcard("devices:ada") == 1


@pytest.mark.server
def test_another_password_makes_strangers_of_all_devices(
    ada: Visitor, new_visitor: Callable[..., Visitor], redis: Redis, clock: Callable[[float], None]
) -> None:
    tablet = new_visitor()
    attempt(tablet, "ada", PASSWORD)
    tablet.log_out()
    ada.post("/settings/password", current_password=PASSWORD, new_password="another sentence")
    attempt(tablet, "ada")
    assert redis.get(f"limit:login:ada:{MINUTE // 60}") == "1"
    ada.log_out()
    attempt(ada, "ada")  # the browser on which it was changed is still known
    assert redis.get(f"limit:login:ada:{MINUTE // 60}") == "1"


def test_right_passwords_are_limited_too(
    ada: Visitor, new_visitor: Callable[..., Visitor], redis: Redis, clock: Callable[[float], None]
) -> None:
    redis.set(f"limit:sign-in:1:{MINUTE // 60}", BY_ACCOUNT["sign-in"][0] - 1)
    assert attempt(new_visitor(), "ada", PASSWORD) == 302
    refused = [attempt(new_visitor(), "ada", PASSWORD) for _ in range(6)]
    assert refused == [429] * 6
    assert redis.get(f"limit:login:ada:{MINUTE // 60}") == "5"  # they are not given back: the sixth hashed nothing


def test_refused_logins_leave_no_keys(
    visitor: Visitor, new_visitor: Callable[..., Visitor], redis: Redis, clock: Callable[[float], None]
) -> None:
    for number in range(20):
        attempt(visitor, f"nobody{number}")
    before = redis.keys("limit:*")
    assert {attempt(visitor, f"no_one{number}") for number in range(30)} == {429}
    assert redis.keys("limit:*") == before


@pytest.mark.server
def test_an_attempt_is_counted_before_it_is_looked_at(
    ada: Visitor, visitor: Visitor, redis: Redis, clock: Callable[[float], None]
) -> None:
    assert visitor.log_in("ada", "").status_code == 422
    assert redis.get(f"limit:login:ada:{MINUTE // 60}") == "1"
    assert visitor.log_in("", "").status_code == 422
    assert redis.get(f"limit:login-from:127.0.0.1:{MINUTE // 60}") == "2"
    assert ada.publish("x" * 281).status_code == 422
    assert redis.get(f"limit:post:1:{MINUTE // 60}") == "1"


@pytest.mark.server
def test_following_is_limited(ada: Visitor, bob: Visitor, redis: Redis, clock: Callable[[float], None]) -> None:
    redis.set(f"limit:follow:1:{MINUTE // 60}", BY_ACCOUNT["follow"][True] - 2)
    assert ada.follow("bob").status_code == 302
    assert ada.post("/@bob/unfollow", form_on="/home").status_code == 302
    assert ada.follow("bob").status_code == 429


@pytest.mark.parametrize("cookie", ["rubbish", "eyJhZGEiOiJ4In0.AAAA", ""])
def test_a_forged_device_cookie_is_none(
    visitor: Visitor, ada: Visitor, redis: Redis, cookie: str, clock: Callable[[float], None]
) -> None:
    visitor.client.set_cookie("device", cookie)
    attempt(visitor, "ada")
    assert redis.keys("limit:login-device:*") == []


def test_an_address_has_its_own_limit_over_all_accounts(visitor: Visitor, clock: Callable[[float], None]) -> None:
    statuses = [attempt(visitor, f"nobody{number}") for number in range(22)]
    assert statuses == [422] * 20 + [429] * 2


def test_the_headers_agree_with_what_then_happens(
    new_visitor: Callable[..., Visitor], ada: Visitor, clock: Callable[[float], None]
) -> None:
    clock(MINUTE + 18)
    stranger = new_visitor()
    left = [stranger.log_in("ada", "wrong password").headers["RateLimit"] for _ in range(5)]
    assert left == [f'"login";r={number};t=42' for number in (4, 3, 2, 1, 0)]
    refused = stranger.log_in("ada", "wrong password")
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "42"
    assert refused.headers["RateLimit-Policy"] == '"login";q=5;w=60'
    clock(MINUTE + 18 + 41)
    assert stranger.log_in("ada", "wrong password").status_code == 429
    clock(MINUTE + 18 + 42)
    assert stranger.log_in("ada", "wrong password").status_code == 422


def test_the_right_password_is_not_counted_as_a_guess(
    new_visitor: Callable[..., Visitor], ada: Visitor, clock: Callable[[float], None]
) -> None:
    for _ in range(8):
        assert attempt(new_visitor(), "ada", PASSWORD) == 302


def test_joining_is_limited_by_address(visitor: Visitor, redis: Redis, clock: Callable[[float], None]) -> None:
    (rule,) = registration_rules("127.0.0.1", asks=False)
    redis.set(f"limit:{rule.what}:{rule.who}:{MINUTE // 60}", rule.limit - 1)
    assert visitor.register("one").status_code == 302
    visitor.log_out()
    assert visitor.register("two").status_code == 429


def test_asking_to_join_is_limited_by_the_hour(
    make_app: Callable[..., Flask], redis: Redis, clock: Callable[[float], None]
) -> None:
    visitor = Visitor(make_app(registration="asked").test_client())
    _, rule = registration_rules("127.0.0.1", asks=True)
    redis.set(f"limit:{rule.what}:{rule.who}:{MINUTE // HOUR}", rule.limit - 1)
    assert visitor.post("/register", username="one", password=PASSWORD).status_code == 302
    clock(MINUTE + 60)
    assert visitor.post("/register", username="two", password=PASSWORD).status_code == 429


@pytest.mark.server
def test_posting_is_limited_by_account_and_keeps_the_text(
    ada: Visitor, bob: Visitor, redis: Redis, clock: Callable[[float], None]
) -> None:
    rule = account_rules("post", 1)[0]
    redis.set(f"limit:{rule.what}:{rule.who}:{MINUTE // 60}", rule.limit)
    refused = ada.publish("one too many")
    assert refused.status_code == 429
    assert "one too many" in refused.text
    assert bob.publish("not mine").status_code == 302


@pytest.mark.server
def test_an_account_younger_than_a_day_is_limited_more_strictly(
    app: Flask, ada: Visitor, bob: Visitor, redis: Redis, clock: Callable[[float], None]
) -> None:
    bob.publish("hello")
    attempts: dict[Action, Callable[[], TestResponse]] = {
        "post": lambda: ada.publish("hello"),
        "follow": lambda: ada.follow("bob"),
        "like": lambda: ada.post("/posts/1/like", form_on="/home"),
        "report": lambda: ada.post("/posts/1/report", reason="spam"),
    }
    for is_new in (True, False):
        for what, attempt in attempts.items():
            redis.set(f"limit:{what}:1:{MINUTE // 60}", BY_ACCOUNT[what][is_new] - 1)
            assert [attempt().status_code for _ in range(2)] == [302, 429], what
        have_joined_long_ago(app)


@pytest.mark.parametrize("proxies", [0, 1, 2])
def test_a_forged_address_changes_nothing(
    make_app: Callable[..., Flask], redis: Redis, proxies: int, clock: Callable[[float], None]
) -> None:
    """The router appends what it saw; what a client wrote before that, or without a router, is not believed."""
    visitor = Visitor(make_app(trusted_proxies=proxies).test_client(), REMOTE_ADDR="192.0.2.1")
    appended = [f"192.0.2.{hop}" for hop in range(20, 20 + proxies)]
    for forged in ("10.0.0.1", "10.0.0.2", '"', '"10.0.0.3'):  # an open quote swallows nothing
        visitor.environ["HTTP_X_FORWARDED_FOR"] = ", ".join([forged, *appended])
        attempt(visitor, "nobody")
    seen = appended[0] if proxies else "192.0.2.1"
    assert redis.keys("limit:login-from:*") == [f"limit:login-from:{seen}:{MINUTE // 60}"]


@pytest.mark.parametrize("exceeded_first", [False, True])
def test_a_rule_that_is_exceeded_speaks_before_one_that_is_just_used_up(
    any_limiter: RateLimiter, clock: Callable[[float], None], exceeded_first: bool
) -> None:
    """Neither has an attempt left, but only one of them refuses this one."""
    used_up, exceeded = Rule("account", "ada", 2), Rule("address", "here", 1)
    for rule in (used_up, exceeded):
        assert not any_limiter.hit([rule]).exceeded
    rules = [exceeded, used_up] if exceeded_first else [used_up, exceeded]
    assert any_limiter.hit(rules).exceeded


def test_a_counter_outlives_its_minute_so_that_a_clock_that_is_behind_loses_no_count(
    limiter: RateLimiter, redis: Redis
) -> None:
    limiter.hit([RULE])
    (key,) = redis.keys("limit:*")
    assert redis.ttl(key) > WINDOW + 30


def test_a_stranger_cannot_keep_an_owner_from_another_password(
    app: Flask, new_visitor: Callable[..., Visitor], ada: Visitor, clock: Callable[[float], None]
) -> None:
    with app.app_context(), write():
        db.session.execute(update(User).values(email="ada@example.org"))
    stranger, phone = new_visitor(REMOTE_ADDR="192.0.2.66"), new_visitor()
    assert attempt(phone, "ada@example.org", PASSWORD) == 302
    assert [attempt(stranger, "ada") for _ in range(6)] == [422] * 5 + [429]
    changed = phone.post("/settings/password", current_password=PASSWORD, new_password="another sentence")
    assert changed.status_code == 302
    phone.log_out()
    assert attempt(phone, "ada", "another sentence") == 302  # known by the name, too


@pytest.mark.server
def test_guesses_at_the_current_password_are_limited(ada: Visitor, clock: Callable[[float], None]) -> None:
    for status in [422] * 5 + [429]:
        answer = ada.post("/settings/password", current_password="a guess", new_password="another sentence")
        assert answer.status_code == status
