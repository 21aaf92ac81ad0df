"""Early responses: cached pages, served on the event loop without Flask.

An anonymous visitor gets the copy in memory, or costs one command to Redis. A signed-in visitor costs one round trip,
which reads the session, and the page if there is no copy; then the page's holes are filled. What filled a hole before
is used again as long as its stamps (app/cache.py) are the same; they are read in that round trip, too. A hole that
takes SQL is filled on one of Flask's threads. Flask answers anything unusual (a flash message to show, a session due to
be written, a suspended visitor, a page to be built), and gets what was already read.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

from werkzeug.sansio.http import parse_cookie  # Flask's own: it never raises, whatever a cookie holds
from werkzeug.sansio.utils import host_is_trusted

from app import costs
from app.cache import PAST_COPIES, Page, PageCache
from app.front.bridge import Bridge, Visit
from app.front.local_cache import Found, LocalCache
from app.front.redis_connection import RedisConnection
from app.front.responses import Filling, PageResponses, Piece, Response, Stamps
from app.sessions import FLASHES, PipitSessionInterface, cookie_name, has_cookie, is_due, is_suspended

log = logging.getLogger(__name__)

MOST_BYTES = 2_000_000  # of what is remembered for sessions
MOST_BYTES_EACH = 500_000  # for one session
MOST_PAGES = 200  # of one session whose fillings are known at once; for others, they are put together again
ENTRY = 300  # bytes that a piece or a filling takes beside its HTML
LONGEST_COOKIES = 1_000  # characters; Pipit's own take 250. Longer ones could fill the memory

Session = dict[str, Any]


class Address(NamedTuple):
    """What is at a path."""

    name: str  # the cache's, for the page
    members_only: bool  # anonymous visitors get something else, from Flask


class CachedPages(Protocol):
    """What the front needs to know about pages; app/web/caching.py implements it."""

    def at(self, path: str) -> Address | None:
        """Return the cached page at a path, or None if there is none."""

    def draw(
        self, markers: Iterable[bytes], session: Mapping[str, Any], stamps: Mapping[str, Page]
    ) -> dict[bytes, Piece]:
        """Return what fills these holes for a session's owner, by marker, without those that take more than `stamps`.

        stamps: those that the caller has read.
        """

    def draw_with_sql(
        self, markers: Iterable[bytes], session: Mapping[str, Any], stamps: Mapping[str, Page]
    ) -> dict[bytes, Piece]:
        """Return what fills these holes for a session's owner, by marker. Blocks."""


class Filled(NamedTuple):
    """What filled a page."""

    etag: str  # of the page
    filling: Filling
    stamps: Stamps  # that it was made under


class Remembered:
    """What filled the holes of pages for one session."""

    def __init__(self, secret: str) -> None:
        self.secret = secret  # from which the forms' tokens are made; it changes with each login
        self.session: tuple[bytes, Session] | None = None  # as Redis had it last, and decoded
        self.pieces: dict[bytes, Piece] = {}  # by marker
        self.fillings: dict[tuple[bytes, ...], Filling] = {}  # by their markers
        self.pages: OrderedDict[str, Filled] = OrderedDict()  # by name, oldest first
        self.stamps: set[str] = set()  # the names of all that the pieces were made under
        self.size = 0  # bytes

    def filling(self, pieces: dict[bytes, Piece]) -> Filling | None:
        """Return the filling with these pieces, if it has been made before."""
        filling = self.fillings.get(tuple(pieces))
        return filling if filling and filling.pieces == pieces else None

    def keep(self, name: str, filled: Filled, pieces: Mapping[bytes, Piece]) -> None:
        """Remember what fills a page: its pieces, and the filling with those that are not empty."""
        self.stamps.update(stamp for stamp, _ in filled.stamps)
        for marker, piece in pieces.items():
            known = self.pieces.get(marker)
            if known is piece or (piece.shows_nothing and b" " in marker):  # one with arguments rarely comes again
                continue
            if known:
                self._forget_fillings(marker)
            self.size += len(piece.html) - len(known.html) if known else len(piece.html) + len(marker) + ENTRY
            self.pieces[marker] = piece
        self._keep_page(name, filled)
        markers = tuple(filled.filling.pieces)
        if markers not in self.fillings:
            self.size += ENTRY * (1 + len(markers) // 2)
        self.fillings[markers] = filled.filling

    def _forget_fillings(self, marker: bytes) -> None:
        """Forget the fillings with a piece that is being replaced: they would keep it in memory."""
        for markers in [markers for markers in self.fillings if marker in markers]:
            filling = self.fillings.pop(markers)
            self.size -= ENTRY * (1 + len(markers) // 2)
            for name in [name for name, filled in self.pages.items() if filled.filling is filling]:
                del self.pages[name]
                self.size -= ENTRY

    def _keep_page(self, name: str, filled: Filled) -> None:
        if self.pages.pop(name, None) is None:
            self.size += ENTRY
        self.pages[name] = filled
        if len(self.pages) > MOST_PAGES:
            self.pages.popitem(last=False)
            self.size -= ENTRY


class EarlyResponses:
    """Answers requests for cached pages on the event loop."""

    def __init__(
        self,
        pages: CachedPages,
        cache: PageCache,
        sessions: PipitSessionInterface,
        local_cache: LocalCache,
        bridge: Bridge,
        trusted_hosts: tuple[str, ...],
    ) -> None:
        self._pages = pages
        self._cache = cache
        self._sessions = sessions
        self._local_cache = local_cache
        self._bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._remembered: OrderedDict[str, Remembered] = OrderedDict()  # by session id, least recently used first
        self._bytes = 0
        self._is_ours = lru_cache(maxsize=100)(
            lambda host: not trusted_hosts or host_is_trusted(host.lower(), trusted_hosts)
        )

    async def answer(
        self, path: str, headers: Mapping[bytes, bytes], scheme: str, request: costs.RequestStats
    ) -> Response | None:
        """Return the response to a GET without a query, or None if Flask has to answer."""
        address = self._pages.at(path)
        connection = self._local_cache.link.connection
        if address is None or connection is None or not self._is_ours(headers.get(b"host", b"").decode("latin-1")):
            return None
        sid = None
        if b"cookie" in headers:
            if len(headers[b"cookie"]) > LONGEST_COOKIES:
                return None
            cookies = _our_cookies(headers[b"cookie"])
            if cookie_name("visitor", secure=scheme == "https") in cookies:
                return None  # there may be a flash message to show
            sid = self._sessions.session_id(cookies, secure=scheme == "https")
        if sid is not None:
            return await self._answer_with_session(sid, address, headers, connection, request)
        if address.members_only:
            return None
        page = self._local_cache.get(address.name)
        if page is None:
            found = await self._look_up(address.name, connection, request)
            request.page_missed = found.missed
            page = found.responses
        return _to_anonymous(page, headers, request)

    async def member(self, visit: Visit) -> int | None:
        """Return the id of the member whose session a request comes with, None if nobody's; 0 if Redis can't say.

        Flask reads the session again once it has the whole request: by then the session may have ended.
        """
        cookies = parse_cookie(visit.headers.get(b"cookie", b"").decode("latin-1"))
        sid = self._sessions.session_id(cookies, secure=visit.scheme == "https")
        connection = self._local_cache.link.connection
        if sid is None:
            return None
        if connection is None:
            return 0
        reply: asyncio.Future[Any] = self._loop.create_future()
        connection.ask(reply.set_result, *self._sessions.read_command(sid))
        visit.request.redis += 1
        value = await reply
        if isinstance(value, Exception):
            return 0
        session = self._sessions.decode(value)
        return session["user_id"] if session else None

    async def _answer_with_session(
        self,
        sid: str,
        address: Address,
        headers: Mapping[bytes, bytes],
        connection: RedisConnection,
        request: costs.RequestStats,
    ) -> Response | None:
        remembered = self._remembered.get(sid)
        names = (address.name, *(remembered.stamps if remembered else ()))
        # One write to Redis: the session, and whatever there is no copy of.
        reply: asyncio.Future[Any] = self._loop.create_future()
        connection.ask(reply.set_result, *self._sessions.read_command(sid))
        request.redis += 1
        copies = self._local_cache.get_all(names)
        asked = {name: self._look_up(name, connection, request) for name in names if name not in copies}
        value = await reply
        if isinstance(value, Exception):  # refused, or the connection is lost: Flask tries with its own
            return None
        session = self._decode(value, remembered)
        request.session = sid, session
        wrote = session.get("wrote", 0) if session else 0
        copies = self._local_cache.get_all(copies)  # again: an invalidation may have come before the session did
        if session:
            if FLASHES in session or is_due(session) or is_suspended(session):
                return None
            if wrote and self._cache.may_lack(wrote, session.get("counted", 0)):
                return None
            if time.time() < wrote + PAST_COPIES:
                copies = {}
        found: dict[str, PageResponses | None] = dict(copies)
        for name in names:
            if name not in copies:
                result = await (asked.get(name) or self._look_up(name, connection, request))
                found[name] = result.responses
                request.page_missed |= result.missed and name == address.name
        page = found[address.name]
        if session is None:
            return None if address.members_only else _to_anonymous(page, headers, request)
        if page is None:
            return None
        filling = await self._fill(sid, session, address.name, page, found, request)
        if filling is None:
            return None
        request.cache_status = page.status
        return page.to_viewer(filling, headers)

    def _look_up(self, name: str, connection: RedisConnection, request: costs.RequestStats) -> "asyncio.Future[Found]":
        request.redis += 1
        return self._local_cache.look_up(name, connection)

    def _decode(self, value: bytes | None, remembered: Remembered | None) -> Session | None:
        """Return the session under a key. Between two requests it rarely changes, so it is seldom decoded again."""
        if remembered and remembered.session and remembered.session[0] == value:
            return remembered.session[1]
        session = self._sessions.decode(value)
        if remembered and value and session and FLASHES not in session:  # a view may change that list
            remembered.session = value, session
        return session

    async def _fill(
        self,
        sid: str,
        session: Session,
        name: str,
        page: PageResponses,
        found: Mapping[str, PageResponses | None],
        request: costs.RequestStats,
    ) -> Filling | None:
        """Return what fills the page's holes for a session's owner, or None if Flask has to find out.

        found: the stamps as Redis has them.
        """
        secret = session.get("csrf_token")
        if not secret:
            return None
        remembered = self._remembered.get(sid)
        if remembered is None or remembered.secret != secret:
            remembered = Remembered(secret)
        etag = page.split.page.etag
        filled = remembered.pages.get(name)
        if filled and filled.etag == etag and _are_current(filled.stamps, found):
            self._remembered.move_to_end(sid)
            return filled.filling
        pieces: dict[bytes, Piece] = {}
        unknown = []
        for marker in page.split.markers:
            piece = remembered.pieces.get(marker)
            if piece is None or (piece.stamps and not _are_current(piece.stamps, found)):
                unknown.append(marker)
            else:
                pieces[marker] = piece
        read = {name: responses.split.page for name, responses in found.items() if responses}
        pieces |= self._pages.draw(unknown, session, read)
        with_sql = [marker for marker in unknown if marker not in pieces]
        if with_sql:
            try:
                pieces |= await self._bridge.run(partial(self._pages.draw_with_sql, with_sql, session, read), request)
            except Exception as error:  # noqa: BLE001  # Flask tries again, and logs why it fails
                log.warning("Flask has to fill the holes of %s: %s", name, type(error).__name__)
                return None
        not_empty = {marker: pieces[marker] for marker in page.split.markers if pieces[marker].html}
        filling = remembered.filling(not_empty) or Filling(not_empty)
        stamps = frozenset().union(*(piece.stamps for piece in pieces.values()))
        self._remember(sid, remembered, name, Filled(etag, filling, stamps), pieces)
        return filling

    def _remember(
        self, sid: str, remembered: Remembered, name: str, filled: Filled, pieces: Mapping[bytes, Piece]
    ) -> None:
        before = self._remembered.pop(sid, None)
        if before:
            self._bytes -= before.size
        if remembered.size > MOST_BYTES_EACH:
            remembered = Remembered(remembered.secret)
        remembered.keep(name, filled, pieces)
        self._remembered[sid] = remembered
        self._bytes += remembered.size
        while self._bytes > MOST_BYTES:
            self._bytes -= self._remembered.popitem(last=False)[1].size


def _to_anonymous(
    page: PageResponses | None, headers: Mapping[bytes, bytes], request: costs.RequestStats
) -> Response | None:
    if page is None:
        return None
    request.cache_status = page.status
    return page.to_anonymous(headers)


def _are_current(stamps: Stamps, found: Mapping[str, PageResponses | None]) -> bool:
    """Return whether Redis has these stamps."""
    for name, stamp in stamps:
        responses = found.get(name)
        if responses is None or responses.split.page.etag != stamp:
            return False
    return True


@lru_cache(maxsize=1_000)  # a browser sends the same cookies each time
def _our_cookies(header: bytes) -> Mapping[str, str]:
    """Return a browser's cookies if any of them is ours, else an empty mapping."""
    cookies = parse_cookie(header.decode("latin-1"))
    return cookies if has_cookie(cookies) else {}
