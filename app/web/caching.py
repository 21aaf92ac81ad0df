"""Cached views.

A view whose page is the same for everyone except for its holes (app/web/holes.py) is decorated with @cached.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial, wraps
from typing import Any

from flask import Flask, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from app import costs
from app.cache import PageCache, PageKind, current_cache
from app.front.early_responses import Address
from app.front.responses import EMPTY, Filling, PageResponses, Piece, headers_by_name
from app.sessions import has_cookie
from app.web.holes import SHARED, Holes, visitor
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
                if hasattr(view, "members_only"):
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

    def draw(self, marker: bytes, session: Mapping[str, Any]) -> Piece | None:
        """Return what fills a hole for a session's owner; None if that takes more than the session."""
        try:
            html = self._holes.fill(marker.decode(), self._holes.reader(session, _refuse_to_read))
        except _TakesSQLError:
            return None
        return Piece(html.encode()) if html else EMPTY

    def draw_with_sql(
        self, markers: Sequence[bytes], session: Mapping[str, Any], stamps: Mapping[str, str]
    ) -> dict[bytes, Piece]:
        """Return what fills these holes for a session's owner, by marker.

        stamps: those that the caller has read.
        """
        drawn = {}
        read = dict(stamps)
        with self._app.app_context():
            for marker in markers:
                used: list[str] = []

                def stamp(names: Sequence[str], used: list[str] = used) -> None:
                    used.extend(names)
                    read.update(self._cache.stamps(name for name in names if name not in read))

                html = self._holes.fill(marker.decode(), self._holes.reader(session, stamp))
                drawn[marker] = Piece(html.encode(), frozenset((name, read[name]) for name in used))
        return drawn

    def _build(self, endpoint: str, kind: PageKind, view: View, which: str) -> str:
        """Build a page as an anonymous visitor sees it. Raises NotAPageError if the view answers with anything else."""
        (rule,) = self._app.url_map.iter_rules(endpoint)
        arguments = dict(zip(sorted(rule.arguments), kind.parts(which), strict=False))
        path = self._urls.build(endpoint, arguments)
        context = self._app.test_request_context(path, base_url=self._base_url, environ_overrides={SHARED: True})
        with self._app.app_context(), context:  # its own context: nothing of the visitor's own request is in it
            page = view(**(context.request.view_args or {}))
        if not isinstance(page, str):
            raise NotAPageError(page)
        return page

    @property
    def _base_url(self) -> str:
        """Return a URL of the site that TRUSTED_HOSTS allows."""
        hosts = self._app.config["TRUSTED_HOSTS"] or ["localhost"]
        return f"http://{hosts[0].lstrip('.')}/"


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
        drawn = {marker: Piece(holes.fill(marker.decode(), reader).encode()) for marker in markers}
        answer = responses.to_viewer(Filling(drawn), headers)
    return Response(answer.body, answer.status, [(name.decode(), value.decode()) for name, value in answer.headers])


class _TakesSQLError(Exception):
    """A hole can't be filled from the session alone."""


def _refuse_to_read(_stamps: Sequence[str]) -> None:
    raise _TakesSQLError
