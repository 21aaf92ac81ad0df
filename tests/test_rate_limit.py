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

from app.config import Config, parse_redis_url
from app.models.accounts import hasher
from app.rate_limit import (
    LIFETIME,
    POSTS,
    WINDOW,
    RateLimiter,
    Rule,
    address_label,
    login_account,
    posting_rules,
    registration_rules,
)
from app.redis_client import Store, StoreUnavailableError
from tests.conftest import PASSWORD, Visitor, in_threads
from tests.counting import commands_sent
from tests.servers import ROOT, clean_environ

MINUTE = 1_800_000_000 // WINDOW * WINDOW


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def limiter(redis: Redis, redis_url: str) -> RateLimiter:
    return RateLimiter(Store(Config(parse_redis_url(redis_url), "", "", redis_max_connections=50)), 5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the limiter's clock; it stands still until it is set again."""

    def set_to(moment: float) -> None:
        monkeypatch.setattr("app.rate_limit.time.time", lambda: moment)

    set_to(MINUTE)
    return set_to


RULE = Rule("try", "ada", 5)


@pytest.fixture(params=["fakeredis", "valkey"])
def any_limiter(request: pytest.FixtureRequest) -> RateLimiter:
    if request.param == "valkey":
        limiter: RateLimiter = request.getfixturevalue("limiter")
        return limiter
    store = Store(Config(parse_redis_url("redis://127.0.0.1:1/0"), "", ""))
    store.client = FakeRedis()  # type: ignore[assignment]  # it does what a CountingRedis does, but count
    return RateLimiter(store, 5)


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


def test_of_several_rules_the_one_exceeded_speaks(any_limiter: RateLimiter, clock: Callable[[float], None]) -> None:
    wide, narrow = Rule("address", "here", 100), Rule("account", "ada", 1)
    assert any_limiter.hit([wide, narrow]).rule == narrow
    assert any_limiter.hit([wide, narrow]).exceeded
    assert any_limiter.hit([wide]).attempts == 3


def test_one_round_trip_counts_under_all_rules_and_every_key_expires(limiter: RateLimiter, redis: Redis) -> None:
    limiter.hit([RULE])
    with commands_sent(redis) as sent:
        limiter.hit(limiter.login_rules("ada", "192.0.2.1"))
    assert [command.split()[0] for command in sent] == ["MULTI", "INCRBY", "EXPIRE", "INCRBY", "EXPIRE", "EXEC"]
    assert len(redis.keys("limit:*")) == 3
    assert all(0 < redis.ttl(key) <= LIFETIME for key in redis.keys("limit:*"))


def test_a_client_that_dies_in_between_leaves_no_key_without_expiry(redis: Redis, valkey_server: object) -> None:
    """INCR is sent, and the connection is gone before EXPIRE and EXEC: the server forgets both."""
    import socket

    port = redis.connection_pool.connection_kwargs["port"]
    with socket.create_connection(("127.0.0.1", port)) as dying:
        dying.sendall(b"MULTI\r\nINCR limit:try:ada:1\r\n")
        assert b"QUEUED" in dying.recv(100)
    assert redis.keys("*") == []


def test_giving_back_never_makes_a_key(limiter: RateLimiter, redis: Redis, clock: Callable[[float], None]) -> None:
    limiter.give_back([RULE])
    assert redis.keys("*") == []
    limiter.hit([RULE])
    limiter.give_back([RULE])
    assert limiter.hit([RULE]).attempts == 1
    assert all(redis.ttl(key) > 0 for key in redis.keys("*"))


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
from app.config import Config, parse_redis_url
from app.redis_client import Store
limiter = it.RateLimiter(Store(Config(parse_redis_url(sys.argv[1]), "", "")), 5)
moments = iter([float(sys.argv[2])] * 125 + [float(sys.argv[2]) + 1] * 125)
it.time = types.SimpleNamespace(time=lambda: next(moments))
print(sum(not limiter.hit([it.Rule("try", "ada", 5)]).exceeded for _ in range(250)))
"""


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
    for name in ("ada", "bob", "cy", "dee", "eve", "fay"):
        visitor.register(name)
        visitor.log_out()
    attempt(visitor, "fay")
    attempt(visitor, "bob")
    attempt(visitor, "ada")  # the sixth: forgotten
    assert len(redis.keys("limit:login-device:*")) == 2
    assert redis.get(f"limit:login:ada:{MINUTE // 60}") == "1"


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
    rule = registration_rules("127.0.0.1")[0]
    redis.set(f"limit:{rule.what}:{rule.who}:{MINUTE // 60}", rule.limit - 1)
    assert visitor.register("one").status_code == 302
    visitor.log_out()
    assert visitor.register("two").status_code == 429


def test_posting_is_limited_by_account_and_keeps_the_text(
    ada: Visitor, bob: Visitor, redis: Redis, clock: Callable[[float], None]
) -> None:
    rule = posting_rules(1)[0]
    redis.set(f"limit:{rule.what}:{rule.who}:{MINUTE // 60}", POSTS)
    refused = ada.publish("one too many")
    assert refused.status_code == 429
    assert "one too many" in refused.text
    assert bob.publish("not mine").status_code == 302


@pytest.mark.parametrize("proxies", [0, 1, 2])
def test_a_forged_address_changes_nothing(
    make_app: Callable[..., Flask], redis: Redis, proxies: int, clock: Callable[[float], None]
) -> None:
    """The router appends what it saw; what a client wrote before that, or without a router, is not believed."""
    visitor = Visitor(make_app(trusted_proxies=proxies).test_client(), REMOTE_ADDR="192.0.2.1")
    appended = [f"192.0.2.{hop}" for hop in range(20, 20 + proxies)]
    for forged in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        visitor.environ["HTTP_X_FORWARDED_FOR"] = ", ".join([forged, *appended])
        attempt(visitor, "nobody")
    seen = appended[0] if proxies else "192.0.2.1"
    assert redis.keys("limit:login-from:*") == [f"limit:login-from:{seen}:{MINUTE // 60}"]
