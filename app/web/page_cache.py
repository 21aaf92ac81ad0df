"""The WSGI layer ahead of Flask: it answers a visitor without a session from the cache, without building a request.

It knows no routes. When a view has served a cached page it says so in the WSGI environment, and this layer remembers
which page belongs to that path: names never change and ids are never given again, so that stays true.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.http import parse_cookie
from werkzeug.sansio.utils import host_is_trusted

from app.cache import PageCache, Served
from app.redis_client import StoreUnavailableError
from app.sessions import has_cookie
from app.web.pages import PAGE_NAME, public_answer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REMEMBERED_PATHS = 10_000  # some 2 MB; past that the layer starts to learn anew


class PageCacheLayer:
    """Serves cached pages; everything else goes on to Flask."""

    def __init__(self, application: "WSGIApplication", app: Flask, trusted_hosts: tuple[str, ...]) -> None:
        self.application = application
        self.cache: PageCache = app.extensions["page_cache"]
        self.trusted_hosts = trusted_hosts
        self.page_names: dict[str, str] = {}
        self.listening = False

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer from the cache if this is somebody's plain look at a page that is in it."""
        if not self.listening:  # here and not above: a forked worker listens for itself
            self.listening = True
            self.cache.listen()
        plain = environ["REQUEST_METHOD"] in ("GET", "HEAD") and not environ.get("QUERY_STRING")
        if plain and not _has_session(environ) and self._is_trusted(environ):
            served = self._look_up(environ["PATH_INFO"])
            if served:
                return _answer(served, environ, start_response)
        response = self.application(environ, start_response)
        if plain and PAGE_NAME in environ:
            if len(self.page_names) >= REMEMBERED_PATHS:
                self.page_names.clear()
            self.page_names[environ["PATH_INFO"]] = environ[PAGE_NAME]
        return response

    def _is_trusted(self, environ: "WSGIEnvironment") -> bool:
        """Return whether the host is one of ours; if not, Flask says so to the visitor."""
        return not self.trusted_hosts or host_is_trusted(environ.get("HTTP_HOST"), self.trusted_hosts)

    def _look_up(self, path: str) -> Served | None:
        name = self.page_names.get(path)
        if name is None:
            return None
        try:
            return self.cache.get(name)
        except StoreUnavailableError:
            return None  # the view builds the page, and says why in the log


def _has_session(environ: "WSGIEnvironment") -> bool:
    cookies = environ.get("HTTP_COOKIE")
    return cookies is not None and has_cookie(parse_cookie(cookies))


def _answer(served: Served, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    status, headers, body = public_answer(served, environ)
    start_response(status, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
