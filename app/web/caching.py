"""Cached views.

A view whose page is the same for everyone except for its holes (app/web/holes.py) is decorated with @cached.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from typing import Any

from flask import Flask, Response, abort, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from app import costs
from app.cache import Page, PageCache, PageKind, current_cache
from app.front.early_responses import Address
from app.front.responses import Filling, PageResponses, Piece, headers_by_name
from app.sessions import has_cookie
from app.web.errors import cant_see
from app.web.holes import SHARED, Holes, visitor
from app.web.membership import is_for_members
from app.web.viewer import last_write

REMEMBERED_PATHS = 5_000  # some 1.5 MB; matching a path takes ten microseconds, and the same paths recur
FURTHER = {"before", "after"}  # in a query: another page than the first
LONGEST_PATH = 200  # characters of a page that is cached; a longer path is a hashtag that no post has

View = Callable[..., ResponseReturnValue]


class NotAPageError(Exception):
    """A view that was run to build a cached page answered with something else, such as a redirect."""

    def __init__(self, answer: ResponseReturnValue) -> None:
        super().__init__("not a page")
        self.answer = answer


def cached(kind: PageKind) -> Callable[[View], View]:
    """Have a view's page come from the cache.

    The view's arguments name the page. To build it the view is run for an anonymous visitor, in a request of its own.
    A further page, with ?before= or ?after= in its URL, is not cached; in debug none is. What is for members only has
    @login_required above @cached.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def serve(**which: str) -> ResponseReturnValue:
            if FURTHER & request.args.keys() or current_app.debug or len(request.path) > LONGEST_PATH:
                page = view(**which)
                return Response(page, content_type=kind.content_type) if isinstance(page, str) else page
            name = _page_name(kind, which)
            front: costs.RequestStats | None = request.environ.get(costs.ENVIRON_KEY)
            missed = front is not None and front.page_missed
            wrote = last_write() if has_cookie(request.cookies) else None
            try:
                served = current_cache().get_or_build(name, newer_than=wrote, missed=missed)
            except NotAPageError as error:
                return error.answer
            costs.current().cache_status = served.status
            return _answer(PageResponses.of(served, kind.content_type))

        serve.cached_as = kind  # type: ignore[attr-defined]  # read by CachedPages
        return serve

    return decorate


class CachedPages:
    """The cached pages of one app, as the front sees them: which paths they are at, and what fills their holes."""

    def __init__(self, app: Flask, cache: PageCache, holes: Holes) -> None:
        self._app = app
        self._cache = cache
        self._holes = holes
        self._kinds: dict[str, PageKind] = {}  # by endpoint
        self._for_members: set[str] = set()  # endpoints
        self._urls = app.url_map.bind("")
        for endpoint, view in app.view_functions.items():
            kind: PageKind | None = getattr(view, "cached_as", None)
            if kind:
                self._kinds[endpoint] = kind
                if is_for_members(view, app):
                    self._for_members.add(endpoint)
                cache.register(kind, partial(self._build, endpoint, kind, inspect.unwrap(view)))
        self._match = lru_cache(maxsize=REMEMBERED_PATHS)(self._address_of)

    def at(self, path: str) -> Address | None:
        """Return the cached page at a path, None if there is none."""
        return None if len(path) > LONGEST_PATH else self._match(path)  # what is long must not be remembered

    def _address_of(self, path: str) -> Address | None:
        if self._app.debug:
            return None
        try:
            endpoint, arguments = self._urls.match(path, "GET")
        except HTTPException:
            return None
        kind = self._kinds.get(endpoint)
        return Address(_page_name(kind, arguments), endpoint in self._for_members) if kind else None

    def draw(
        self, markers: Iterable[bytes], session: Mapping[str, Any], stamps: Mapping[str, Page]
    ) -> dict[bytes, Piece]:
        """Return what fills these holes for a session's owner, by marker, without those that take more than `stamps`.

        stamps: those that the caller has read.
        """
        return self._draw(markers, session, KnownStamps(stamps))

    def draw_with_sql(
        self, markers: Iterable[bytes], session: Mapping[str, Any], stamps: Mapping[str, Page]
    ) -> dict[bytes, Piece]:
        """Return what fills these holes for a session's owner, by marker."""
        with self._app.app_context():
            return self._draw(markers, session, CurrentStamps(stamps, self._cache))

    def _draw(self, markers: Iterable[bytes], session: Mapping[str, Any], stamps: "KnownStamps") -> dict[bytes, Piece]:
        reader = self._holes.reader(session, stamps)
        drawn = {}
        for marker in markers:
            stamps.used.clear()
            try:
                html = self._holes.fill(marker.decode(), reader)
            except NotKnownError:
                continue
            under = frozenset((name, stamps.known[name].etag) for name in stamps.used)
            drawn[marker] = Piece((html or "").encode(), under, shows_nothing=html is None)
        return drawn

    def _build(self, endpoint: str, kind: PageKind, view: View, which: str) -> str:
        """Build a page as an anonymous visitor sees it. Raises NotAPageError if the view answers with anything else."""
        (rule,) = self._app.url_map.iter_rules(endpoint)
        arguments = dict(zip(sorted(rule.arguments), kind.parts(which), strict=False))
        with request_of_anyone(self._app, self._urls.build(endpoint, arguments)):
            page = view(**(request.view_args or {}))
        if not isinstance(page, str):
            raise NotAPageError(page)
        return page


@contextmanager
def request_of_anyone(app: Flask, path: str) -> Iterator[None]:
    """Return a context manager in which the request at hand is one for a page that everyone gets.

    Nothing of a visitor's own request is in it.
    """
    hosts = app.config["TRUSTED_HOSTS"] or ["localhost"]
    base_url = f"http://{hosts[0].lstrip('.')}/"
    with app.app_context(), app.test_request_context(path, base_url=base_url, environ_overrides={SHARED: True}):
        yield


def _page_name(kind: PageKind, arguments: Mapping[str, Any]) -> str:
    return kind(*(arguments[name] for name in sorted(arguments)))


def _answer(responses: PageResponses) -> Response:
    """Return a cached page for the visitor at hand."""
    headers = headers_by_name(request.headers.items())
    if not has_cookie(request.cookies):
        answer = responses.to_anonymous(headers)
    else:
        holes: Holes = current_app.extensions["holes"]
        reader = visitor()
        markers = responses.split.markers
        drawn = {marker: Piece((holes.fill(marker.decode(), reader) or "").encode()) for marker in markers}
        answer = responses.to_viewer(Filling(drawn), headers) or abort(cant_see())
    return Response(answer.body, answer.status, [(name.decode(), value.decode()) for name, value in answer.headers])


class NotKnownError(Exception):
    """A hole takes SQL, or a stamp that has not been read."""


class KnownStamps:
    """The stamps that the front has read, and which of them a hole was filled under."""

    def __init__(self, known: Mapping[str, Page]) -> None:
        self.known = dict(known)
        self.used: set[str] = set()

    def before_reading(self, names: Sequence[str]) -> None:  # noqa: ARG002  # CurrentStamps needs them
        """Refuse to read SQL."""
        raise NotKnownError

    def value(self, name: str) -> str:
        """Return what a stamp holds. Raises NotKnownError."""
        if name not in self.known:
            raise NotKnownError
        self.used.add(name)
        return self.known[name].body


class CurrentStamps(KnownStamps):
    """The same, with all others, which are read when they are needed."""

    def __init__(self, known: Mapping[str, Page], cache: PageCache) -> None:
        super().__init__(known)
        self._cache = cache

    def before_reading(self, names: Sequence[str]) -> None:
        """Read those of these stamps that are not known."""
        self.used.update(names)
        unknown = [name for name in names if name not in self.known]
        if unknown:
            self.known.update(self._cache.stamps(unknown))

    def value(self, name: str) -> str:
        """Return what a stamp holds."""
        if name not in self.known:
            self.before_reading([name])
        return super().value(name)
