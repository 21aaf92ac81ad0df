"""Redis job 3: rate limits, one INCR counter for each clock minute, so that passwords can't be guessed.

    limit:<what>:<who>:<minute>   string, integer   attempts in that clock minute; lives two minutes

The textbook pattern is INCR, then EXPIRE if the answer was 1. A client that dies between the two leaves a counter that
never expires: a lockout for good. Here both are one transaction (MULTI), so there is no between.

A limit on an account alone would let a stranger lock its owner out. So a browser that has logged in to the account
before is counted on its own, by its device cookie (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").
"""

import hashlib
import ipaddress
import re
import secrets
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app

from app.config import Config
from app.redis_client import Store

WINDOW = 60  # s; a clock minute, so that "try again at 20:49" is true for every counter
LIFETIME = 2 * WINDOW  # s a counter is kept: a clock that is a little off between two dynos loses no count
ADDRESS_FACTOR = 4  # an address may try this many times as often as an account: a family, a class, an office
REGISTRATIONS = 60  # a minute and address: a class of thirty may join at once
POSTS = 120  # a minute and account: more than anybody types, less than a loop sends

# Give an attempt back, but never create a key that would have no expiry. KEYS counter.
GIVE_BACK = "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('DECR', KEYS[1]) end return 0"


@dataclass(frozen=True)
class Rule:
    """At most `limit` attempts a clock minute of `what` by `who`."""

    what: str
    who: str
    limit: int


@dataclass(frozen=True)
class Window:
    """What one rule says of the attempt just made."""

    rule: Rule
    attempts: int  # in this window, this one included
    resets_in: int  # s until the next window, 1 to 60

    @property
    def exceeded(self) -> bool:
        return self.attempts > self.rule.limit

    @property
    def remaining(self) -> int:
        return max(0, self.rule.limit - self.attempts)


class RateLimiter:
    """Counts attempts in Redis."""

    def __init__(self, store: Store, login_max_attempts: int) -> None:
        self.store = store
        self.login_max_attempts = login_max_attempts

    def hit(self, rules: Sequence[Rule]) -> Window:
        """Count one attempt under every rule, in one round trip.

        Returns the window that speaks most against the attempt: the one exceeded, else the one with least left.
        Raises StoreUnavailableError if Redis does not answer: the caller decides what that means.
        """
        now = time.time()
        with self.store.commands() as redis, redis.pipeline(transaction=True) as pipe:
            for rule in rules:
                key = self._key(rule, now)
                pipe.incr(key)
                pipe.expire(key, LIFETIME)
            attempts = cast(list[int], pipe.execute()[::2])
        resets_in = WINDOW - int(now) % WINDOW
        windows = [Window(rule, count, resets_in) for rule, count in zip(rules, attempts, strict=True)]
        return min(windows, key=lambda window: (not window.exceeded, window.remaining))

    def give_back(self, rules: Sequence[Rule]) -> None:
        """Take back one attempt, of a password that was right: only wrong ones are guesses.

        Raises StoreUnavailableError.
        """
        now = time.time()
        with self.store.commands() as redis, redis.pipeline() as pipe:
            for rule in rules:
                pipe.eval(GIVE_BACK, 1, self._key(rule, now))
            pipe.execute()

    def login_rules(self, account: str, address: str, device: str | None = None) -> list[Rule]:
        """Return the rules for a login: the account's and the address's, or those of a device known to the account."""
        if device:
            return [Rule("login-device", f"{login_account(account)}:{device}", self.login_max_attempts)]
        return [
            Rule("login", login_account(account), self.login_max_attempts),
            Rule("login-from", address_label(address), ADDRESS_FACTOR * self.login_max_attempts),
        ]

    @staticmethod
    def new_device() -> str:
        """Return a nonce to know a browser by; it is part of a key, not a secret."""
        return secrets.token_urlsafe(9)

    def _key(self, rule: Rule, now: float) -> str:
        return self.store.key(f"limit:{rule.what}:{rule.who}:{int(now) // WINDOW}")


def registration_rules(address: str) -> list[Rule]:
    """Return the rules for making an account."""
    return [Rule("register-from", address_label(address), REGISTRATIONS)]


def posting_rules(user_id: int) -> list[Rule]:
    """Return the rules for publishing a post."""
    return [Rule("post", str(user_id), POSTS)]


def login_account(name: str) -> str:
    """Return an account's name as it is counted: all spellings of one name are one, and no name makes a long key."""
    name = unicodedata.normalize("NFKC", name).strip().casefold()
    if re.fullmatch(r"[a-z0-9_]{1,30}", name):
        return name
    return "-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def address_label(address: str) -> str:
    """Return a client's address as it is counted: IPv6 by its /64, which is what one customer is given."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False).network_address)


def init_limiter(app: Flask, config: Config, store: Store) -> None:
    """Give the app its rate limiter."""
    app.extensions["rate_limiter"] = RateLimiter(store, config.login_max_attempts)


def current_limiter() -> RateLimiter:
    """Return the rate limiter of the current app."""
    limiter: RateLimiter = current_app.extensions["rate_limiter"]
    return limiter
