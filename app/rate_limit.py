"""Redis job 3: rate limits, one INCR counter for each clock minute, so that passwords can't be guessed.

    limit:<what>:<who>:<minute>   string, integer   attempts in that clock minute; lives two minutes. A rule with a
                                                    window of an hour or a day has that instead; it lives two windows

    devices:<account>             zset              browsers known to an account, by last login

The textbook pattern is INCR, then EXPIRE if the answer was 1. A client that dies between the two leaves a counter that
never expires: a lockout for good. Here one script does both, and Redis runs a script as a whole. The script counts an
attempt under all of its rules or, if one of them refuses it, under none: a refused attempt leaves nothing behind.

A limit on an account alone would let an attacker lock its owner out. So a browser that has logged in to the account
before has a counter of its own, by its device cookie (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").
"""

import hashlib
import ipaddress
import re
import secrets
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from flask import Flask, current_app

from app.config import DAY, Config
from app.redis_client import Store

WINDOW = 60  # s; a clock minute, so that "try again at 20:49" is true for every counter
HOUR = 3600  # s
ADDRESS_FACTOR = 4  # an address may try this many times as often as an account: a family, a class, an office
RESETS = 20  # a minute and address
REGISTRATIONS = 60  # a minute and address, or an hour if a moderator decides: a class of thirty can join at once
Action = Literal["sign-in", "post", "follow", "like", "report", "invite", "picture", "import"]
# How often an account may do that in a minute; and while it is younger than a day: often enough for whoever finds their
# way around, not for a spammer who has just joined and is not reported yet.
BY_ACCOUNT: dict[Action, tuple[int, int]] = {
    "sign-in": (30, 30),  # with the right password
    "post": (120, 20),  # more than anybody types, less than a loop sends
    "follow": (60, 10),  # and unfollow, block and mute
    "like": (120, 30),  # likes, given and taken back
    "report": (10, 5),
    "invite": (20, 20),  # whoever makes a link, and revokes it, could go on for ever
    "picture": (5, 5),  # uploads; one is made small at a time, and may take five seconds
    "import": (5, 5),  # uploads; each is unpacked once, and kept until it is imported
}
SEARCHES = 30  # a minute and account; four times as many from an address, for strangers: a class may share one
MAILS = 6  # an hour to one e-mail address: nobody's mailbox is flooded
MAILS_FROM = 120  # mails an hour and client address: four classes of thirty can join, each with an address
# Wrong codes a day, by someone who knows the password. A code has six digits and three of them are right at any time:
# at five guesses a minute it would be found in a month. NIST SP 800-63B, 3.2.2, allows a hundred.
WRONG_CODES = 100
LONGEST_NAME = 300  # characters; more is neither a name nor an e-mail address, even with spaces around it
MOST_DEVICES = 10  # known browsers of an account; the one that logged in longest ago is forgotten
DEVICE_LIFETIME = 365 * DAY  # s a browser is remembered without a login

# Count an attempt under every rule, unless one of them refuses it. Returns each rule's count, the attempt included.
# KEYS counters. ARGV a limit and a lifetime (s) for each of them.
HIT = """
local counts, refused = {}, false
for i, key in ipairs(KEYS) do
  counts[i] = tonumber(redis.call('GET', key) or 0) + 1
  refused = refused or counts[i] > tonumber(ARGV[2 * i - 1])
end
if refused then return counts end
for i, key in ipairs(KEYS) do
  counts[i] = redis.call('INCR', key)
  redis.call('EXPIRE', key, ARGV[2 * i])
end
return counts
"""

# Give an attempt back, but never create a key that would have no expiry. KEYS counter.
GIVE_BACK = "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('DECR', KEYS[1]) end return 0"


@dataclass(frozen=True)
class Rule:
    """At most `limit` attempts of `what` by `who` in a window: a clock minute or hour, or a day in UTC."""

    what: str
    who: str
    limit: int
    window: int = WINDOW  # s

    @property
    def lifetime(self) -> int:
        """Return how many seconds a counter is kept: a clock that is a little off between two dynos loses no count."""
        return 2 * self.window

    @property
    def is_for_logins(self) -> bool:
        """Return whether it limits logins: names, passwords or codes."""
        return self.what.startswith(("login", "second-factor", "sign-in"))


@dataclass(frozen=True)
class Window:
    """What one rule says about this attempt."""

    rule: Rule
    attempts: int  # in this window, this one included
    resets_in: int  # s until the next window
    # The keys of all counters that include this attempt.
    counters: tuple[str, ...] = field(default=(), repr=False)

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
        """Count one attempt under every rule, in one round trip; under none, if one of them refuses it.

        Returns the strictest window: the one exceeded, else the one with the fewest attempts left; of equals, the one
        that lasts longest.
        Raises StoreUnavailableError if Redis does not answer: the caller decides what that means.
        """
        now = time.time()
        keys = tuple(self._key(rule, now) for rule in rules)
        with self.store.commands() as redis:
            bounds = [bound for rule in rules for bound in (rule.limit, rule.lifetime)]
            attempts = cast(list[int], redis.eval(HIT, len(keys), *keys, *bounds))
        windows = [
            Window(rule, count, rule.window - int(now) % rule.window, keys)
            for rule, count in zip(rules, attempts, strict=True)
        ]
        return min(windows, key=lambda window: (not window.exceeded, window.remaining, -window.resets_in))

    def give_back(self, window: Window) -> None:
        """Take back a counted attempt whose password was right: only wrong passwords are guesses.

        Raises StoreUnavailableError.
        """
        with self.store.commands() as redis, redis.pipeline() as pipe:
            for key in window.counters:
                pipe.eval(GIVE_BACK, 1, key)
            pipe.execute()

    def login_rules(self, account: str, address: str, device: str | None) -> list[Rule]:
        """Return the rules for a login: the account's and the address's, or those of a device known to the account.

        device: what the browser was given by remember_device(). Raises StoreUnavailableError.
        """
        name, origin = login_account(account), address_label(address)
        from_address = ADDRESS_FACTOR * self.login_max_attempts
        if device and self._is_known(name, device):
            return [
                Rule("login-device", f"{name}:{device}", self.login_max_attempts),
                Rule("login-devices-from", origin, from_address),  # unknown browsers can use up "login-from"
            ]
        of_account = [Rule("login", name, self.login_max_attempts)] if name else []
        return [*of_account, Rule("login-from", origin, from_address)]

    def password_rules(self, user_id: int) -> list[Rule]:
        """Return the rules for entering the password once more; only a signed-in user can."""
        return [Rule("password", str(user_id), self.login_max_attempts)]

    def second_factor_rules(self, user_id: int, password_version: int, account: str, device: str | None) -> list[Rule]:
        """Return the rules for a code that is entered after the right password.

        A device known to the account is counted apart, as in login_rules(). For all others, a new password starts a new
        count: whoever used up the old one knew only the old password.

        Raises StoreUnavailableError.
        """
        is_known = device and self._is_known(login_account(account), device)
        who = f"{user_id}:{device}" if is_known else f"{user_id}:{password_version}"
        return [
            Rule("second-factor", who, self.login_max_attempts),
            Rule("second-factor-day", who, WRONG_CODES, window=DAY),
        ]

    def remember_device(self, account: str, instead_of: str | None) -> str:
        """Return a nonce that identifies a browser after its login; the nonce is not secret.

        instead_of: the browser's earlier nonce, which is forgotten. Raises StoreUnavailableError.
        """
        key, nonce = self._devices_key(login_account(account)), secrets.token_urlsafe(9)
        with self.store.commands() as redis, redis.pipeline() as pipe:
            pipe.zrem(key, instead_of or "")
            pipe.zadd(key, {nonce: time.time()})
            pipe.zremrangebyrank(key, 0, -MOST_DEVICES - 1)
            pipe.expire(key, DEVICE_LIFETIME)
            pipe.execute()
        return nonce

    def forget_device(self, account: str, device: str) -> None:
        """Forget one known browser of an account. Raises StoreUnavailableError."""
        with self.store.commands() as redis:
            redis.zrem(self._devices_key(login_account(account)), device)

    def forget_devices(self, account: str) -> None:
        """Forget all known browsers of an account, as after a change of password.

        Raises StoreUnavailableError.
        """
        with self.store.commands() as redis:
            redis.delete(self._devices_key(login_account(account)))

    def _is_known(self, account: str, device: str) -> bool:
        with self.store.commands() as redis:
            return redis.zscore(self._devices_key(account), device) is not None

    def _devices_key(self, account: str) -> str:
        return self.store.key(f"devices:{account}")

    def _key(self, rule: Rule, now: float) -> str:
        return self.store.key(f"limit:{rule.what}:{rule.who}:{int(now) // rule.window}")


def registration_rules(address: str, *, asks: bool) -> list[Rule]:
    """Return the rules for making an account. asks: a moderator decides, who can't read a thousand requests."""
    origin = address_label(address)
    rules = [Rule("register-from", origin, REGISTRATIONS)]
    return [*rules, Rule("ask-from", origin, REGISTRATIONS, HOUR)] if asks else rules


def reset_rules(address: str) -> list[Rule]:
    """Return the rules for setting a password with a link."""
    return [Rule("reset-from", address_label(address), RESETS)]


def mail_rules(recipient: str, address: str) -> list[Rule]:
    """Return the rules for asking for a mail to an e-mail address, whether it is known here or not.

    Each client address has a counter of its own for each e-mail address. A counter that all share would tell a stranger
    that somebody has used an e-mail address here lately.
    """
    origin = address_label(address)
    return [
        Rule("mail-to", f"{login_account(recipient)}:{origin}", MAILS, HOUR),
        Rule("mail-from", origin, MAILS_FROM, HOUR),
    ]


def sending_rules(recipient: str) -> list[Rule]:
    """Return the rules for sending a mail that anybody can ask for. Whoever asked is not told if it is not sent."""
    return [Rule("mail-sent", login_account(recipient), MAILS, HOUR)]


def account_rules(action: Action, user_id: int, *, is_new: bool = False) -> list[Rule]:
    """Return the rules for what an account does. is_new: it is younger than a day."""
    usual, of_new_account = BY_ACCOUNT[action]
    return [Rule(action, str(user_id), of_new_account if is_new else usual)]


def searching_rules(user_id: int | None, address: str) -> list[Rule]:
    """Return the rules for searching, of an account or, for a stranger, of an address."""
    if user_id is None:
        return [Rule("search-from", address_label(address), ADDRESS_FACTOR * SEARCHES)]
    return [Rule("search", str(user_id), SEARCHES)]


def login_account(name: str) -> str:
    """Return the form of an account's name that counters use: the same for all spellings, and never long."""
    if len(name) <= LONGEST_NAME:  # normalizing takes quadratic time for a long pile of accents
        name = unicodedata.normalize("NFKC", name).strip().casefold()
    name = name.removeprefix("@")
    if re.fullmatch(r"[a-z0-9_]{0,30}", name):
        return name
    return "-" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def address_label(address: str) -> str:
    """Return a client's address as counters use it; for IPv6 the /64 network, because one customer gets a whole /64."""
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
