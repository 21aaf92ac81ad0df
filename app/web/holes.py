"""Holes: the parts of a cached page that are not the same for everyone.

A cached page is built as an anonymous visitor sees it. Where a signed-in visitor sees something else (their name, a
button) the template calls `hole()` and says what the hole needs:

    {{ hole("invitation", "nothing") }}                           the same for everyone who is signed in
    {{ hole("account", "session", here=here) }}                   who is signed in, and their CSRF token
    {{ hole("follow", "more", user_id=user.id, name=user.name) }} what the function registered with @fills returns

A hole is rendered by templates/holes/<name>.html, which gets the arguments and what the hole needs, and nothing else.
Using anything else raises an error at once instead of producing a page that goes stale. A hole that needs nothing or
the session is filled by the front, without Flask; one page with another kind sends its signed-in visitors to Flask.

In the cached page a hole is markup between `<!--[needs name key=value-->` and `<!--]-->`. People's own text is escaped,
so it can't contain one.
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

NEEDS = ("nothing", "session", "more")
VALUE = re.compile(r"[\w/.@]*", re.ASCII)  # an argument; nothing in it can end a marker
SHARED = "pipit.shared"  # in the WSGI environment: a page is being built for the cache, as anonymous visitors see it
CSRF_SALT = "wtf-csrf-token"  # Flask-WTF's

Filler = Callable[..., Mapping[str, Any]]
fillers: dict[str, Filler] = {}  # by hole, for those that need more


def fills(name: str) -> Callable[[Filler], Filler]:
    """Register the function that finds out what a hole needs beyond the session.

    It gets the Viewer and the hole's arguments as text, and returns variables for the hole's template.
    """

    def register(filler: Filler) -> Filler:
        fillers[name] = filler
        return filler

    return register


@dataclass(frozen=True)
class Hole:
    """A hole, as its marker in a cached page describes it."""

    needs: str
    name: str
    about: Mapping[str, str]

    @property
    def marker(self) -> str:
        return " ".join((self.needs, self.name, *(f"{key}={value}" for key, value in self.about.items())))


class Holes:
    """Draws what fills the holes of one app's pages."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._tokens = URLSafeTimedSerializer(app.config["SECRET_KEY"], salt=CSRF_SALT)

    def draw(self, name: str, needs: str, /, **about: object) -> Markup:
        """Return a hole's content for the visitor at hand; with its markers, if the page goes to the cache."""
        if needs not in NEEDS:
            raise ValueError(f"the hole {name} needs one of {NEEDS}, not {needs!r}")
        if not all(VALUE.fullmatch(str(value)) for value in about.values()):
            raise ValueError(f"the hole {name} has an argument that can't be written in a marker: {about}")
        hole = Hole(needs, name, {key: str(value) for key, value in about.items()})
        if request.environ.get(SHARED):
            return Markup(f"<!--[{hole.marker}-->{self._for_anonymous(hole)}<!--]-->")  # noqa: S704  # checked above
        return Markup(self.fill_for_visitor(hole.marker))  # noqa: S704  # from a template

    def fill(self, marker: str, session: Mapping[str, Any]) -> str | None:
        """Return what fills a hole for a session's owner; None if that takes more than the session.

        Needs no request and does no I/O: the front calls it on its event loop.
        """
        hole = _parsed(marker)
        if hole.needs == "nothing":
            return self._render(hole, signed_in=True)
        secret = session.get("csrf_token")
        if hole.needs == "more" or not secret:
            return None
        viewer = Viewer(session["user_id"], session["name"])
        return self._render(
            hole, signed_in=True, viewer=viewer, csrf_token=lambda: self._tokens.dumps(secret), messages=list
        )

    def fill_for_visitor(self, marker: str) -> str:
        """Return what fills a hole for the visitor whose request is at hand."""
        hole = _parsed(marker)
        viewer = signed_in()
        if hole.needs == "nothing":
            return self._render(hole, signed_in=viewer is not None)
        known = {"signed_in": viewer is not None, "viewer": viewer, "csrf_token": generate_csrf}
        if hole.needs == "session":
            return self._render(hole, **known, messages=get_flashed_messages)
        return self._render(hole, **known, **(fillers[hole.name](viewer, **hole.about) if viewer else {}))

    def _for_anonymous(self, hole: Hole) -> str:
        if hole.needs == "nothing":
            return self._render(hole, signed_in=False)
        return self._render(hole, signed_in=False, viewer=None, messages=list)

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
        raise RuntimeError("a cached page can't hold a CSRF token: the form belongs in a hole that needs the session")
    return str(generate_csrf())


@lru_cache(maxsize=1_000)
def _parsed(marker: str) -> Hole:
    needs, name, *about = marker.split(" ")
    return Hole(needs, name, dict(argument.split("=", 1) for argument in about))
