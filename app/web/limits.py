"""Limits as views use them: count an attempt, refuse it when there were too many, and say so in the headers."""

from collections.abc import Sequence

from flask import Flask, Request, Response, current_app, g, request
from itsdangerous import BadSignature, URLSafeSerializer

from app.daily_counts import LOGINS_REFUSED, current_counts
from app.rate_limit import DEVICE_LIFETIME, Action, Rule, Window, account_rules, current_limiter, login_account
from app.redis_client import StoreUnavailableError
from app.sessions import cookie_name
from app.web.viewer import viewer

DEVICE_ACCOUNTS = 10  # names and addresses one browser is remembered for: a family's tablet


class TooManyAttemptsError(Exception):
    """A rate limit is exceeded; its window says until when."""

    def __init__(self, window: Window) -> None:
        super().__init__(f"{window.rule.what}: {window.attempts} of {window.rule.limit}")
        self.window = window


def count_attempt(rules: Sequence[Rule]) -> Window:
    """Count one attempt under the rules; the response will say how many are left.

    Raises TooManyAttemptsError if it is one too many, StoreUnavailableError if it can't be counted.
    """
    g.window = window = current_limiter().hit(rules)
    if window.exceeded:
        if window.rule.is_for_logins:
            current_counts().add(LOGINS_REFUSED)
        raise TooManyAttemptsError(window)
    return window


def count_if_possible(rules: Sequence[Rule]) -> None:
    """Count an attempt at a harmless action; if Redis can't count it, allow the action.

    Raises TooManyAttemptsError if it is one too many.
    """
    try:
        count_attempt(rules)
    except StoreUnavailableError as error:
        current_app.logger.warning("not counted: %s", error)


def count_action(action: Action) -> None:
    """Count what the viewer does, if Redis can count it. Raises TooManyAttemptsError if it is once too often."""
    count_if_possible(account_rules(action, viewer().id, is_new=viewer().is_new))


def rules_for_this_browser(account: str) -> list[Rule]:
    """Return the rules that this browser's attempt to log in to an account is counted under."""
    device = _devices(request).get(login_account(account))
    return current_limiter().login_rules(account, request.remote_addr or "", device)


def rules_for_code(user_id: int, password_version: int, account: str) -> list[Rule]:
    """Return the rules that this browser's guess at a second factor is counted under, after the right password."""
    device = _devices(request).get(login_account(account))
    return current_limiter().second_factor_rules(user_id, password_version, account, device)


def remember_device(response: Response, *accounts: str) -> dict[str, str]:
    """Give the browser a device cookie: proof that an account has logged in from it (OWASP's "Device Cookies").

    The cookie grants no access. It only lets the owner's attempts be counted separately from everyone else's.

    accounts: every name the owner can log in with: the account's name and, if set, its e-mail address.

    Returns the new nonces by account, for forget_device(). Raises StoreUnavailableError.
    """
    devices = _devices(request)
    new = {}
    for account in map(login_account, accounts):
        new[account] = current_limiter().remember_device(account, instead_of=devices.pop(account, None))
    kept = list((devices | new).items())[-DEVICE_ACCOUNTS:]
    response.set_cookie(
        cookie_name("device", secure=request.is_secure),
        _signer().dumps(dict(kept)),
        max_age=DEVICE_LIFETIME,
        secure=request.is_secure,
        httponly=True,
        samesite="Lax",
    )
    return new


def init_limits(app: Flask) -> None:
    """Tell clients of the limits (IETF draft "RateLimit header fields for HTTP")."""

    @app.after_request
    def tell(response: Response) -> Response:
        window: Window | None = g.get("window")
        if window:
            rule = window.rule
            response.headers["RateLimit-Policy"] = f'"{rule.what}";q={rule.limit};w={rule.window}'
            response.headers["RateLimit"] = f'"{rule.what}";r={window.remaining};t={window.resets_in}'
        return response


def _devices(request: Request) -> dict[str, str]:
    """Return the accounts this browser is known for, each with its nonce; none if the cookie is missing or forged."""
    try:
        devices = _signer().loads(request.cookies.get(cookie_name("device", secure=request.is_secure), ""))
    except BadSignature:
        return {}
    return dict(devices)


def _signer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt="device-cookie")
