"""Logging in, after the password: the session at once, or a second step that asks for a code.

Between the two steps the visitor is anonymous. Their signed cookie (app/sessions.py) says whose password they know, and
that gives access to nothing but the second step.
"""

import time
from dataclasses import dataclass
from hmac import compare_digest

from flask import make_response, redirect, url_for
from flask.typing import ResponseReturnValue
from werkzeug import Response

from app.models import SecondFactor, User
from app.rate_limit import current_limiter
from app.sessions import current_session
from app.web.limits import remember_device
from app.web.viewer import local_path, sign_in

HALF_LOGIN = "half_login"  # a key of the anonymous visitor's cookie
HALF_LOGIN_LIFETIME = 600  # s to find the phone
LONGEST_NEXT = 500  # characters of a path; a cookie has room for 4 kB


@dataclass(frozen=True)
class HalfLogin:
    """Someone who has entered the right password. `next` is where they want to go."""

    user: User
    factor: SecondFactor
    next: str | None


def after_password(user: User, next_path: str | None) -> ResponseReturnValue | None:
    """Log in, or ask for a code if the account has a second factor. Returns None as complete_login() does.

    user: as it was read when the password was checked. Raises StoreUnavailableError.
    """
    if SecondFactor.of(user.id) is None:
        return complete_login(user, next_path)
    half: dict[str, int | str] = {"user": user.id, "password": user.password_fingerprint, "at": int(time.time())}
    if next_path and len(next_path) <= LONGEST_NEXT:
        half["next"] = next_path
    current_session()[HALF_LOGIN] = half
    return redirect(url_for("second_factor.enter_code"))


def half_login() -> HalfLogin | None:
    """Return who has entered the password of an account with a second factor; None if nobody has.

    A change of password, a suspension and the end of HALF_LOGIN_LIFETIME void what they have entered. Like a link to
    reset a password, the cookie is bound to the password: the secret key alone is not enough to forge one.
    """
    half = current_session().get(HALF_LOGIN)
    if not half or time.time() - half["at"] > HALF_LOGIN_LIFETIME:
        return None
    user, factor = User.with_id(half["user"]), SecondFactor.of(half["user"])
    if user is None or factor is None or not compare_digest(user.password_fingerprint, half["password"]):
        return None
    return HalfLogin(user, factor, half.get("next"))


def complete_login(user: User, next_path: str | None) -> Response | None:
    """Sign in, remember the device, and show the visitor the page that they want.

    Returns None if the password was changed, or the account suspended, meanwhile. Raises StoreUnavailableError.
    """
    response = make_response(redirect(local_path(next_path) or url_for("posts.home")))
    devices = remember_device(response, *user.login_names)
    if sign_in(user):
        return response
    for account, device in devices.items():
        current_limiter().forget_device(account, device)
    return None
