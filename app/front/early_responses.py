"""Early responses: cached pages, served on the event loop without Flask.

An anonymous visitor gets the copy in memory, or costs one command to Redis. A signed-in visitor costs one round trip,
which reads the session, and the page if there is no copy; then the page's holes are filled. Flask answers anything
unusual (a flash message to show, a session due to be written, a page to be built), and gets what was already read.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Protocol

from werkzeug.sansio.http import parse_cookie  # Flask's own: it never raises, whatever a cookie holds
from werkzeug.sansio.utils import host_is_trusted

from app import costs
from app.cache import PAST_COPIES, PageCache
from app.front.local_cache import LocalCache
from app.front.redis_connection import RedisConnection
from app.front.responses import Filling, PageResponses, Response
from app.sessions import FLASHES, PipitSessionInterface, cookie_name, has_cookie, is_due

REMEMBERED_FILLINGS = 1_000  # each of one viewer for one page; some 4 MB
LONGEST_COOKIES = 1_000  # characters; Pipit's own take 250. Longer ones could fill the memory

Session = dict[str, Any]


class CachedPages(Protocol):
    """What the front needs to know about pages; app/web/caching.py implements it."""

    def name_at(self, path: str) -> str | None:
        """Return the cache's name for the page at a path, or None if that page is not cached."""

    def filling(
        self, markers: Iterable[bytes], session: Mapping[str, Any], known: Mapping[bytes, bytes]
    ) -> Filling | None:
        """Return what fills the holes for a session's owner, or None if that takes more than the session."""


class EarlyResponses:
    """Answers requests for cached pages that need no thread."""

    def __init__(
        self,
        pages: CachedPages,
        cache: PageCache,
        sessions: PipitSessionInterface,
        local_cache: LocalCache,
        trusted_hosts: tuple[str, ...],
    ) -> None:
        self._pages = pages
        self._cache = cache
        self._sessions = sessions
        self._local_cache = local_cache
        self._loop = asyncio.get_running_loop()
        self._fillings: OrderedDict[tuple[str, str, str], Filling] = OrderedDict()  # by session, CSRF secret, page
        self._is_ours = lru_cache(maxsize=100)(
            lambda host: not trusted_hosts or host_is_trusted(host.lower(), trusted_hosts)
        )

    async def answer(
        self, path: str, headers: Mapping[bytes, bytes], scheme: str, request: costs.RequestStats
    ) -> Response | None:
        """Return the response to a GET without a query, or None if Flask has to answer."""
        name = self._pages.name_at(path)
        connection = self._local_cache.link.connection
        if name is None or connection is None or not self._is_ours(headers.get(b"host", b"").decode("latin-1")):
            return None
        sid = None
        if b"cookie" in headers:
            if len(headers[b"cookie"]) > LONGEST_COOKIES:
                return None
            cookies = _our_cookies(headers[b"cookie"])
            if cookie_name("visitor", secure=scheme == "https") in cookies:
                return None  # there may be a flash message to show
            sid = self._sessions.session_id(cookies, secure=scheme == "https")
        if sid is None:
            page = self._local_cache.get(name) or await self._look_up(name, connection, request)
            if page is None:
                return None
            request.cache_status = page.status
            return page.to_anonymous(headers)
        return await self._answer_with_session(sid, name, headers, connection, request)

    async def _answer_with_session(
        self,
        sid: str,
        name: str,
        headers: Mapping[bytes, bytes],
        connection: RedisConnection,
        request: costs.RequestStats,
    ) -> Response | None:
        copy = self._local_cache.get(name)
        session, found = await self._read(sid, None if copy else name, connection, request)
        if session is None and request.session is None:  # Redis did not answer
            return None
        wrote = session.get("wrote", 0) if session else 0
        if session and (FLASHES in session or is_due(session) or self._cache.may_lack(wrote)):
            return None
        page = found
        if copy:  # get it again: an invalidation may have come before the session did
            page = self._local_cache.get(name) if time.time() >= wrote + PAST_COPIES else None
            page = page or await self._look_up(name, connection, request)
        if page is None:
            return None
        filling = None
        if session is not None:
            filling = self._filling(sid, session, name, page)
            if filling is None:
                return None
        request.cache_status = page.status
        return page.to_viewer(filling, headers) if filling else page.to_anonymous(headers)

    async def _look_up(
        self, name: str, connection: RedisConnection, request: costs.RequestStats
    ) -> PageResponses | None:
        """Return the page as Redis has it, or None."""
        request.redis += 1
        found = await self._local_cache.look_up(name, connection)
        request.page_missed = found.missed
        return found.responses

    async def _read(
        self, sid: str, name: str | None, connection: RedisConnection, request: costs.RequestStats
    ) -> tuple[Session | None, PageResponses | None]:
        """Return a session and, if a name is given, the page of that name, in one round trip."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        connection.ask(reply.set_result, *self._sessions.read_command(sid))
        request.redis += 1
        responses = await self._look_up(name, connection, request) if name else None
        value = await reply
        if isinstance(value, Exception):  # refused, or the connection is lost: Flask tries with its own
            return None, responses
        session = self._sessions.decode(value)
        request.session = sid, session
        return session, responses

    def _filling(self, sid: str, session: Session, name: str, responses: PageResponses) -> Filling | None:
        """Return what fills the page's holes for a session's owner, or None if that takes more than the session.

        The last rendering is reused: a name and its buttons don't change between two requests.
        """
        key = sid, session.get("csrf_token", ""), name  # with the secret, from which the forms' tokens are made
        known = self._fillings.get(key)
        if known is not None and known.pieces.keys() == responses.split.marker_set:
            return known
        filling = self._pages.filling(responses.split.markers, session, known.pieces if known else {})
        if filling is not None:
            self._fillings[key] = filling
            if len(self._fillings) > REMEMBERED_FILLINGS:
                self._fillings.popitem(last=False)
        return filling


@lru_cache(maxsize=1_000)  # a browser sends the same cookies each time
def _our_cookies(header: bytes) -> Mapping[str, str]:
    """Return a browser's cookies if any of them is ours, else an empty mapping."""
    cookies = parse_cookie(header.decode("latin-1"))
    return cookies if has_cookie(cookies) else {}
