"""The WSGI layer ahead of Flask: it answers a plain look at a cached page without building a request.

For a visitor without a session that is all there is to do. For a signed-in one it reads the session, in one command,
and fills the page's holes with what filled them the last time: their name and their buttons don't change from one look
to the next. Whatever is out of the ordinary goes on to Flask: a flash message to show, a session due to be written.

It knows no routes and renders nothing, it learns: when a view has served a cached page it says so in the WSGI
environment. Names never change and ids are never given again, so what was learned of a path stays true.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from werkzeug.sansio.http import parse_cookie  # Flask's own: no bytes in a cookie are an error
from werkzeug.sansio.utils import host_is_trusted

from app.cache import MOST_COPIES, PageCache, Served
from app.front.answers import FILLING, MISSED, PAGE_NAME, Answer, Filling, PublicAnswers, private_answer
from app.front.early import EARLY, IN_VAIN, NotEarlyError
from app.front.security import security_headers
from app.redis_client import StoreUnavailableError
from app.sessions import ALREADY_READ, FLASHES, PipitSessionInterface, has_cookie, is_due

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REMEMBERED_PATHS = 10_000  # some 2 MB; past that the layer starts to learn anew
REMEMBERED_VIEWERS = 1_000  # some 3 MB, likewise
LONGEST_COOKIES = 1_000  # characters; Pipit's own take 250, and nobody shall fill the memory with theirs


class PageCacheLayer:
    """Serves cached pages; everything else goes on to Flask."""

    def __init__(self, application: "WSGIApplication", app: Flask, trusted_hosts: tuple[str, ...]) -> None:
        self.application = application
        self.cache: PageCache = app.extensions["page_cache"]
        self.sessions = cast(PipitSessionInterface, app.session_interface)
        self.trusted_hosts = trusted_hosts
        self.page_names: dict[str, str] = {}
        self.answers: dict[str, PublicAnswers] = {}
        self.fillings: dict[tuple[str | None, str, str], Filling] = {}  # by session, its CSRF secret, and page
        self.listening = False

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer from the cache if this is somebody's plain look at a page that is in it."""
        if not self.listening:  # here and not above: a forked worker listens for itself
            self.listening = True
            self.cache.listen()
        try:
            answer = None if IN_VAIN in environ else self._answer(environ)
        except StoreUnavailableError:
            answer = None  # the view builds the page, and says why in the log
        if answer is None:
            if EARLY in environ:
                raise NotEarlyError
            response = self.application(environ, start_response)
            self._learn(environ)
            return response
        status, headers, body = answer
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: "WSGIEnvironment") -> Answer | None:
        """Return the answer, or None if Flask has to give it. Raises StoreUnavailableError."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD") or environ.get("QUERY_STRING"):
            return None
        if self.trusted_hosts and not host_is_trusted(environ.get("HTTP_HOST"), self.trusted_hosts):
            return None  # Flask says so to the visitor
        name = self.page_names.get(environ["PATH_INFO"])
        if name is None:
            return None
        if "HTTP_COOKIE" in environ:
            if len(environ["HTTP_COOKIE"]) > LONGEST_COOKIES:
                return None
            cookies = _our_cookies(environ["HTTP_COOKIE"])
            if cookies is not None:
                return self._private_answer(name, cookies, environ)
        served = self._look(name, environ)
        if served is None:
            return None
        answers, also = self.answers.get(name), security_headers(environ["wsgi.url_scheme"])
        if answers is None or answers.served is not served or answers.also is not also:
            answers = PublicAnswers(served, also)
            _remember(self.answers, name, answers, MOST_COPIES)
        return answers.to(environ)

    def _private_answer(self, name: str, cookies: Mapping[str, str], environ: "WSGIEnvironment") -> Answer | None:
        sid, data = self.sessions.read(cookies, secure=environ["wsgi.url_scheme"] == "https")
        environ[ALREADY_READ] = sid, data
        if data is None or FLASHES in data or is_due(data) or self.cache.may_lack(data.get("wrote", 0)):
            return None
        filling = self.fillings.get((sid, data.get("csrf_token", ""), name))
        if filling is None:
            return None
        served = self._look(name, environ)
        also = security_headers(environ["wsgi.url_scheme"])
        return private_answer(served, filling, environ, also) if served else None

    def _look(self, name: str, environ: "WSGIEnvironment") -> Served | None:
        """Return the page, or None; then the view need not look again. Raises StoreUnavailableError."""
        served = self.cache.get(name)
        if served is None:
            environ[MISSED] = True
        return served

    def _learn(self, environ: "WSGIEnvironment") -> None:
        """Remember what a view has said of the page it served, and of the session it served it to."""
        name = environ.get(PAGE_NAME)
        if name is None:
            return
        _remember(self.page_names, environ["PATH_INFO"], name, REMEMBERED_PATHS)
        sid, data = environ.get(ALREADY_READ) or (None, None)
        if sid and data and FILLING in environ:
            key = sid, data.get("csrf_token", ""), name  # the secret too: the forms' tokens were made from it
            _remember(self.fillings, key, environ[FILLING], REMEMBERED_VIEWERS)


@lru_cache(maxsize=REMEMBERED_VIEWERS)
def _our_cookies(header: str) -> Mapping[str, str] | None:
    """Return the cookies if there are any of ours; browsers send the same ones each time, so that is remembered."""
    cookies = parse_cookie(header)
    return cookies if has_cookie(cookies) else None


def _remember(memory: dict[Any, Any], key: Any, value: Any, most: int) -> None:
    if len(memory) >= most:
        memory.clear()
    memory[key] = value
