"""Holes: the parts of a cached page that are not the same for everyone.

A cached page is built as an anonymous visitor sees it. Where a signed-in visitor sees something else (their name, a
button) the template has a hole:

    {{ hole("follow", user_id=user.id, name=user.name) }}

templates/holes/follow.html renders it from the hole's arguments and the session: `viewer`, `csrf_token()` and
`messages()`. If that is not enough, a function decorated with @fills("follow") returns more variables. Using anything
else raises an error at once instead of producing a page that goes stale.

The front fills the holes of a page without Flask, unless one of them has such a function: then Flask fills all of them.

In the cached page a hole is markup between `<!--[name key=value-->` and `<!--]-->`. People's own text is escaped, so it
can't contain one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from flask import Flask, get_flashed_messages, request
from flask_wtf.csrf import generate_csrf
from itsdangerous import URLSafeTimedSerializer
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from app.web.viewer import Viewer, signed_in

VALUE = re.compile(r"[\w/.@]*", re.ASCII)  # an argument; nothing in it can end a marker
SHARED = "pipit.shared"  # in the WSGI environment: a page is being built for the cache, as anonymous visitors see it
CSRF_SALT = "wtf-csrf-token"  # Flask-WTF's

Filler = Callable[..., Mapping[str, Any]]
fillers: dict[str, Filler] = {}  # by hole, for those that the session can't fill


def fills(name: str) -> Callable[[Filler], Filler]:
    """Register a function that returns variables for a hole's template, when the session is not enough.

    The function gets the Viewer and the hole's arguments as text. It is not called for anonymous visitors.
    """

    def register(filler: Filler) -> Filler:
        fillers[name] = filler
        return filler

    return register


@dataclass(frozen=True)
class Hole:
    """A hole, as its marker in a cached page describes it."""

    name: str
    about: Mapping[str, str]

    @property
    def marker(self) -> str:
        return " ".join((self.name, *(f"{key}={value}" for key, value in self.about.items())))


class Holes:
    """Draws what fills the holes of one app's pages."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._tokens = URLSafeTimedSerializer(app.config["SECRET_KEY"], salt=CSRF_SALT)

    def draw(self, name: str, /, **about: object) -> Markup:
        """Return a hole's content for the visitor at hand; with its markers, if the page goes to the cache."""
        if not all(VALUE.fullmatch(str(value)) for value in about.values()):
            raise ValueError(f"the hole {name} has an argument that can't be written in a marker: {about}")
        hole = Hole(name, {key: str(value) for key, value in about.items()})
        if request.environ.get(SHARED):
            return Markup(f"<!--[{hole.marker}-->{self._for_anonymous(hole)}<!--]-->")  # noqa: S704  # checked above
        return Markup(self.fill_for_visitor(hole.marker))  # noqa: S704  # from a template

    def fill(self, marker: str, session: Mapping[str, Any]) -> str | None:
        """Return what fills a hole for a session's owner; None if that takes more than the session.

        Needs no request and does no I/O: the front calls it on its event loop.
        """
        hole = _parsed(marker)
        secret = session.get("csrf_token")
        if hole.name in fillers or not secret:
            return None
        viewer = Viewer(session["user_id"], session["name"])
        return self._render(hole, viewer=viewer, csrf_token=lambda: self._tokens.dumps(secret), messages=list)

    def fill_for_visitor(self, marker: str) -> str:
        """Return what fills a hole for the visitor whose request is at hand."""
        hole = _parsed(marker)
        viewer = signed_in()
        filler = fillers.get(hole.name)
        more = filler(viewer, **hole.about) if viewer and filler else {}
        return self._render(hole, viewer=viewer, csrf_token=generate_csrf, messages=get_flashed_messages, **more)

    def _for_anonymous(self, hole: Hole) -> str:
        return self._render(hole, viewer=None, messages=list)

    @cached_property
    def _templates(self) -> Environment:
        """Return templates with only what a hole may use: Flask's own globals (request, session, g) are not there."""
        templates = self._app.jinja_env.overlay(undefined=StrictUndefined)
        templates.globals = {name: self._app.jinja_env.globals[name] for name in ("asset", "url_for")}
        templates.globals["site_name"] = self._app.config["SITE_NAME"]
        return templates

    def _render(self, hole: Hole, **known: Any) -> str:
        return self._templates.get_template(f"holes/{hole.name}.html").render(**hole.about, **known)


def csrf_token_for_visitor() -> str:
    """Return a CSRF token for the visitor at hand. Raises RuntimeError on a page that everyone gets."""
    if request.environ.get(SHARED):
        raise RuntimeError("a cached page can't hold a CSRF token: the form belongs in a hole")
    return str(generate_csrf())


@lru_cache(maxsize=1_000)
def _parsed(marker: str) -> Hole:
    name, *about = marker.split(" ")
    return Hole(name, dict(argument.split("=", 1) for argument in about))
