"""The viewer: who is signed in, according to the session alone, without a query."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import ParamSpec
from urllib.parse import urlsplit

from flask import abort, current_app, flash, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as Redirect

from app.cache import current_cache
from app.models import User
from app.redis_client import StoreUnavailableError
from app.sessions import LAST_MOMENT, SignIn, current_interface, current_session
from app.web.device import device_in_words

P = ParamSpec("P")


@dataclass(frozen=True)
class Viewer:
    """The signed-in visitor, as far as a page needs to know them."""

    id: int
    name: str
    is_suspended: bool = False


class LoginNeededError(Exception):
    """Somebody who isn't signed in sent a form that is for members only."""


def signed_in() -> Viewer | None:
    """Return who is signed in, or None."""
    session = current_session()
    if session.user_id is None:
        return None
    return Viewer(session.user_id, session["name"], session.is_suspended)


def viewer() -> User:
    """Return the account of the signed-in visitor, for a view that is login_required; reads it from SQL once."""
    if "viewer" not in g:
        session = current_session()
        user = User.with_id(session["user_id"])
        if user is None or user.name != session["name"]:  # the database is not the one this session was begun on
            sign_out()
            abort(redirect(url_for("accounts.login")))
        g.viewer = user
    found: User = g.viewer
    return found


def login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Send a visitor who isn't signed in to the login page, and back here afterwards.

    Raises what send_to_login() raises.
    """

    @wraps(view)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        return send_to_login() or view(*args, **kwargs)

    wrapped.members_only = True  # type: ignore[attr-defined]  # read by is_for_members()
    return wrapped


def send_to_login() -> Redirect | None:
    """Return a redirect to the login page, which leads back here afterwards; None if the visitor is signed in.

    Raises LoginNeededError if they sent a form: a redirect would lose what they wrote. While Redis can't say who is
    signed in, nobody is sent away: raises StoreUnavailableError, which is answered with a 503.
    """
    session = current_session()
    if session.unavailable:
        raise StoreUnavailableError("the session can't be read")
    if session.user_id is not None:
        return None
    if request.method not in ("GET", "HEAD"):
        raise LoginNeededError
    path = request.full_path.rstrip("?")
    if path == "/":  # where they logged out, or first came to: there is nothing to explain, nor to go back to
        return redirect(url_for("accounts.login"))
    if not asked_by_script():
        flash("Log in to see this page.")
    return redirect(url_for("accounts.login", next=path))


def sign_in(user: User) -> bool:
    """Start a session for this visitor; return False if the account was changed or suspended just before that.

    If it was suspended before, the session says until when; app/web/suspension.py says what such a session may do.

    user: as it was read when the password was checked. Raises StoreUnavailableError.
    """
    version, suspended_at = user.password_version, user.suspended_at
    until = LAST_MOMENT if user.suspended_until is None else int(user.suspended_until.timestamp()) + 1
    device = device_in_words(request.user_agent.string)
    details = SignIn(user.id, user.name, device, request.remote_addr or "", until if user.is_suspended else None)
    may_stay = partial(User.may_log_in, user.id, version, suspended_at)
    return current_interface().begin(current_session(), details, may_stay)


def sign_out() -> None:
    """End this visitor's session. Raises StoreUnavailableError."""
    current_interface().end(current_session())


def end_other_sessions() -> int:
    """End all of this visitor's sessions but this one; return how many. Raises StoreUnavailableError."""
    session = current_session()
    return current_interface().end_all(session["user_id"], keep=session.sid)


def note_write(*, counts: bool = False) -> None:
    """Remember when this visitor last wrote something. The next page must show it, even if a cached copy is older.

    counts: it changed a count, which cached pages may show late.
    """
    session = current_session()
    session["wrote"] = time.time()
    if counts:
        session["counted"] = session["wrote"]


def last_write() -> float | None:
    """Return when this visitor last wrote something that the cache may not show (s since the epoch), or None."""
    session = current_session()
    wrote: float | None = session.get("wrote")
    return wrote if wrote and current_cache().may_lack(wrote, session.get("counted", 0)) else None


def came_from() -> str | None:
    """Return the page of this site whose form was sent, as path and query; None if the browser does not say."""
    try:
        parts = urlsplit(request.referrer or "")
        current_app.url_map.bind("").match(parts.path, "GET")  # a form may be on the answer to another form
    except (ValueError, HTTPException):
        return None
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return local_path(path) if parts.netloc == request.host else None


def asked_by_script() -> bool:
    """Return whether the page's script asks, which shows nobody a flash message; those wait for the next page."""
    return "X-Requested-With" in request.headers


def local_path(url: str | None) -> str | None:
    """Return the URL if it is a path on this site, else None: nobody is sent elsewhere by a forged ?next=."""
    if not url or not url.startswith("/") or url.startswith("//") or "\\" in url or not url.isprintable():
        return None
    parts = urlsplit(url)
    return None if parts.scheme or parts.netloc else url
