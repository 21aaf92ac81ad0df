"""Who may read: with READING=members, a stranger reaches only the views that are marked @open_to_strangers.

Everything else is closed, a new view as well as an address at which there is nothing. So no answer tells a stranger
which people, posts and hashtags exist.
"""

from collections.abc import Callable
from typing import TypeVar

from flask import Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import SecurityError

from app.config import Config
from app.web.viewer import send_to_login

View = TypeVar("View", bound=Callable[..., object])


def open_to_strangers(view: View) -> View:
    """Mark a view that strangers need on a site that only its members may read, such as the login page.

    It must not show what members wrote, who they are, or how much there is of either.
    """
    view.open_to_strangers = True  # type: ignore[attr-defined]  # read by is_for_members()
    return view


def site_config() -> Config:
    """Return the settings of the current app."""
    config: Config = current_app.extensions["config"]
    return config


def is_for_members(view: Callable[..., object] | None, app: Flask) -> bool:
    """Return whether a view, or None for an address without one, answers only those who are signed in."""
    config: Config = app.extensions["config"]
    return hasattr(view, "members_only") or (config.members_only and not hasattr(view, "open_to_strangers"))


def init_membership(app: Flask) -> None:
    """Close the site to strangers, if only members may read it."""
    config: Config = app.extensions["config"]
    if config.members_only:
        app.before_request(_keep_strangers_out)
        app.after_request(_keep_private)


def _keep_strangers_out() -> ResponseReturnValue | None:
    if isinstance(request.routing_exception, SecurityError):  # the login page can't be shown under that name, either
        return None
    view = current_app.view_functions.get(request.endpoint or "")
    return send_to_login() if is_for_members(view, current_app) else None


def _keep_private(response: Response) -> Response:
    """Keep what members get out of shared caches, even if its view would let everyone keep it."""
    view = current_app.view_functions.get(request.endpoint or "")
    if is_for_members(view, current_app) and response.cache_control.public:
        response.cache_control.public = False
        response.cache_control.private = True
    return response
