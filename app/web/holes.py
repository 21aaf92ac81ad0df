"""Holes: the parts of a page that are not the same for everyone.

A page is built as an anonymous visitor sees it. Where a signed-in visitor sees something else (their name, a button,
their timeline) the template has a hole:

    {{ hole("follow", user_id=user.id, name=user.name) }}

templates/holes/follow.html renders it from the hole's arguments and the session: `viewer`, `csrf_token()` and
`messages()`. If that is not enough, a function decorated with @fills("follow") returns more variables. It reads SQL, or
what a stamp holds (app/cache.py); the front knows that already, so thirty such holes on a page cost it next to nothing.
Using anything else raises an error at once instead of producing a page that goes stale. A hole with
`only_for=post.author.id` stays empty for everyone else.

In the page a hole is markup between `<!--[name key=value-->` and `<!--]-->`, until it is filled for the visitor: by the
front for a cached page, else by Flask. People's own text is escaped, so it can't contain a hole. What fills a hole may
have holes itself.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import Any, Protocol, cast

from flask import Flask, get_flashed_messages, request
from flask_wtf.csrf import generate_csrf
from itsdangerous import URLSafeTimedSerializer
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from app.cache import current_cache
from app.web.viewer import Viewer, asked_by_script, signed_in

HOLE = re.compile(r"<!--\[([^>]*)-->.*?<!--\]-->", re.DOTALL)  # as SplitPage finds it in bytes
VALUE = re.compile(r"(?:-[0-9])?[\w/.@]*", re.ASCII)  # an argument; nothing in it can end a marker
SHARED = "pipit.shared"  # in the WSGI environment: a page is being built for the cache, as anonymous visitors see it
ONLY_FOR = "only_for"  # an argument: the id of the one person who sees something
CSRF_SALT = "wtf-csrf-token"  # Flask-WTF's
GLOBALS = ("asset", "hole", "url_for", "members_only", "may_register")  # that templates of holes may use
REMEMBERED = 1_000  # anonymous visitors' fillings; some 0.5 MB

Variables = Mapping[str, Any]


class NotHeldError(Exception):
    """A stamp does not hold what a hole needs: SQL has to be asked."""


class Stamps(Protocol):
    """The stamps that holes are filled under."""

    def before_reading(self, names: Sequence[str]) -> None:
        """Have these stamps read, because SQL is read next. May raise to prevent that."""

    def value(self, name: str) -> str:
        """Return what a stamp holds."""


@dataclass(frozen=True)
class Reader:
    """Whom holes are filled for.

    messages: returns flash messages, each after its category.
    """

    viewer: Viewer | None
    csrf_token: Callable[[], str]
    stamps: Stamps
    messages: Callable[[], Sequence[tuple[str, str]]] = list


Read = Callable[..., Variables | None]
Filler = Callable[[Reader, Viewer, Mapping[str, str]], Variables | None]
fillers: dict[str, Filler] = {}  # by hole, for those that the session can't fill


def fills(name: str, *, changed_by: Callable[[Viewer], Sequence[str]]) -> Callable[[Read], Read]:
    """Register a function that reads SQL and returns variables for a hole's template.

    It gets the Viewer and the hole's arguments as text. What it returned is used again until one of the stamps that
    `changed_by` names has changed. It is not called for anonymous visitors.
    """

    def register(function: Read) -> Read:
        def variables(reader: Reader, viewer: Viewer, about: Mapping[str, str]) -> Variables | None:
            reader.stamps.before_reading(changed_by(viewer))
            return function(viewer, **about)

        fillers[name] = variables
        return function

    return register


def fills_from(name: str, stamp: Callable[[int], str], *, else_from_sql: Read | None = None) -> Callable[[Read], Read]:
    """Register a function that gets what a stamp holds, and returns variables for a hole's template.

    It gets the text, and the hole's arguments. It returns None if the hole has nothing to show.

    stamp: returns the stamp's name, given the viewer's id.
    else_from_sql: gets the Viewer in place of the text; called if the function raises NotHeldError.
    """

    def register(function: Read) -> Read:
        def variables(reader: Reader, viewer: Viewer, about: Mapping[str, str]) -> Variables | None:
            held_in = stamp(viewer.id)
            try:
                return function(reader.stamps.value(held_in), **about)
            except NotHeldError:
                if else_from_sql is None:
                    raise
                reader.stamps.before_reading([held_in])
                return else_from_sql(viewer, **about)

        fillers[name] = variables
        return function

    return register


class Holes:
    """Draws what fills the holes of one app's pages."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._tokens = URLSafeTimedSerializer(app.config["SECRET_KEY"], salt=CSRF_SALT)
        self._for_anonymous = lru_cache(maxsize=REMEMBERED)(self._drawn_for_anonymous)

    def draw(self, name: str, /, **about: object) -> Markup:
        """Return a hole between its markers, with what anonymous visitors see."""
        if not all(VALUE.fullmatch(str(value)) for value in about.values()):
            raise ValueError(f"the hole {name} has an argument that can't be written in a marker: {about}")
        marker = " ".join((name, *(f"{key}={value}" for key, value in about.items())))
        return Markup(f"<!--[{marker}-->{self._for_anonymous(marker)}<!--]-->")  # noqa: S704  # checked above

    def reader(self, session: Mapping[str, Any], stamps: Stamps) -> Reader:
        """Return the owner of a session that has a secret for forms."""
        secret = session["csrf_token"]
        viewer = Viewer(session["user_id"], session["name"])
        return Reader(viewer, lambda: self._tokens.dumps(secret), stamps)

    def fill(self, marker: str, reader: Reader) -> str | None:
        """Return what fills a hole, None if it has nothing for this reader.

        Needs an application context if the hole, or one inside it, has a filler that reads SQL.
        """
        name, about = _parsed(marker)
        if not _is_for(reader.viewer, about):
            return None
        filler = fillers.get(name)
        more = filler(reader, reader.viewer, about) if filler and reader.viewer else {}
        if more is None:
            return None
        html = self._render(
            marker, viewer=reader.viewer, csrf_token=reader.csrf_token, messages=reader.messages, **more
        )
        return self.fill_all(html, reader)

    def fill_all(self, html: str, reader: Reader) -> str:
        """Return HTML with its holes filled."""
        return HOLE.sub(lambda hole: self.fill(hole[1], reader) or "", html) if "<!--[" in html else html

    def _drawn_for_anonymous(self, marker: str) -> str:
        if not _is_for(None, _parsed(marker)[1]):
            return ""
        html = self._render(marker, viewer=None, messages=list)
        if "<!--" in html:
            raise ValueError(f"what anonymous visitors see in the hole {marker} has a hole or a comment in it")
        return html

    @cached_property
    def _templates(self) -> Environment:
        """Return templates with only what a hole may use: Flask's own globals (request, session, g) are not there."""
        templates = self._app.jinja_env.overlay(undefined=StrictUndefined)
        templates.globals = {name: self._app.jinja_env.globals[name] for name in GLOBALS}
        templates.globals["site_name"] = self._app.config["SITE_NAME"]
        return templates

    def _render(self, marker: str, **known: Any) -> str:
        name, about = _parsed(marker)
        return self._templates.get_template(f"holes/{name}.html").render(**about, **known)


class _StampsForOnce:
    """Stamps for a page that is not kept: only what they hold is of interest, once a request."""

    def __init__(self) -> None:
        self.value = cache(current_cache().value)

    def before_reading(self, names: Sequence[str]) -> None:
        pass


def visitor() -> Reader:
    """Return the visitor whose request is at hand."""
    return Reader(signed_in(), generate_csrf, _StampsForOnce(), _messages)


def stranger() -> Reader:
    """Return the visitor whose request is at hand as somebody who isn't signed in."""
    return replace(visitor(), viewer=None)


def _messages() -> Sequence[tuple[str, str]]:
    if asked_by_script():
        return []
    return cast(list[tuple[str, str]], get_flashed_messages(with_categories=True))


def csrf_token_for_visitor() -> str:
    """Return a CSRF token for the visitor at hand. Raises RuntimeError on a page that everyone gets."""
    if request.environ.get(SHARED):
        raise RuntimeError("a cached page can't hold a CSRF token: the form belongs in a hole")
    return str(generate_csrf())


@lru_cache(maxsize=REMEMBERED)
def _parsed(marker: str) -> tuple[str, Mapping[str, str]]:
    """Return a hole's name and its arguments, given its marker."""
    name, *about = marker.split(" ")
    return name, dict(argument.split("=", 1) for argument in about)


def _is_for(viewer: Viewer | None, about: Mapping[str, str]) -> bool:
    """Return whether a hole with these arguments shows this visitor anything."""
    return ONLY_FOR not in about or (viewer is not None and about[ONLY_FOR] == str(viewer.id))
