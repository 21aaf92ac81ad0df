"""The responses for a cached page: one for all anonymous visitors, and for each viewer one with the holes filled."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import IO

from app.cache import Page, Served, etag_of
from app.front.hidden_people import without_hidden_people

Headers = list[tuple[bytes, bytes]]
Stamps = frozenset[tuple[str, str]]  # each by its name: see app/cache.py

GZIP = re.compile(rb"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?(?:\s*,|\s*$))")  # accepted, unless with q=0
CSRF_TOKEN = re.compile(
    rb'(name="csrf_token"[^>]*value="[^".]*)[^"]*'
)  # the timestamp and the signature follow the first dot
HIDDEN_PEOPLE = b"hidden"  # the hole that says whom a viewer does not see
HOLE_OPENS, HOLE_CLOSES = b"<!--[", b"<!--]-->"
PLAIN = (b"content-type", b"text/plain; charset=utf-8")
VARY_BY_COOKIE = (b"vary", b"Cookie")


@dataclass(slots=True)
class Response:
    """A complete response."""

    status: int
    headers: Headers  # names in lower case
    body: bytes | IO[bytes]


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity
class Piece:
    """What fills a hole for one session: HTML, good as long as the stamps that it was made under are the latest."""

    html: bytes
    stamps: Stamps = frozenset()
    shows_nothing: bool = False  # so there is nothing to remember


EMPTY = Piece(b"")


class Filling:
    """The contents of a page's holes for one session.

    pieces: by marker, without those that are empty. So pages with the same pieces can share a filling.
    """

    def __init__(self, pieces: Mapping[bytes, Piece]) -> None:
        self.pieces = pieces
        # A CSRF token has a timestamp, but all tokens of a session are equally valid: pages that differ only there
        # share a weak ETag. The session's secret counts, so that after a new login no browser keeps invalid forms.
        html = b"".join(piece.html for piece in pieces.values())
        self.etag = etag_of(CSRF_TOKEN.sub(rb"\1", html)).encode()


class SplitPage:
    """A cached page, split at its holes."""

    def __init__(self, page: Page, content_type: str) -> None:
        self.page = page
        self.content_type = (b"content-type", content_type.encode())
        parts: list[bytes | memoryview] = []
        markers, end = [], 0
        encoded = page.encoded
        whole = memoryview(encoded)  # so that the parts take no memory of their own
        while (start := encoded.find(HOLE_OPENS, end)) >= 0:  # a regular expression takes three times as long
            marker_ends = encoded.index(b"-->", start)
            parts += [whole[end:start], b""]
            markers.append(encoded[start + len(HOLE_OPENS) : marker_ends])
            end = encoded.index(HOLE_CLOSES, marker_ends) + len(HOLE_CLOSES)
        self.markers = tuple(markers)
        self._parts = [*parts, whole[end:]]

    def filled(self, filling: Filling) -> bytes | None:
        """Return the page with its holes filled; None if it is about somebody whom the viewer can't see."""
        parts = self._parts.copy()
        parts[1::2] = [filling.pieces.get(marker, EMPTY).html for marker in self.markers]
        page = b"".join(parts)
        return without_hidden_people(page) if HIDDEN_PEOPLE in filling.pieces else page


class PageResponses:
    """The responses for one cached page; made once, and kept as long as the page is served.

    Browsers may keep the page, but ask each time whether it is still the latest; if so, the response is a 304.

    status: how the page is served, as a Cache-Status value (RFC 9211).
    """

    def __init__(self, split: SplitPage, status: str) -> None:
        self.split = split
        self.status = status
        self._status = (b"cache-status", status.encode())
        self._etag = split.page.etag.encode()
        self._headers = [
            (b"cache-control", b"no-cache"),
            self._status,
            (b"etag", b'W/"%s"' % self._etag),  # weak: compressed or not (RFC 9110, section 8.8.1)
            (b"vary", b"Accept-Encoding, Cookie"),
        ]
        self._unchanged = Response(304, self._headers, b"")

    @classmethod
    def of(cls, served: Served, content_type: str) -> "PageResponses":
        """Return the responses for a page that the cache has just served."""
        return cls(SplitPage(served.page, content_type), served.status)

    def to_anonymous(self, headers: Mapping[bytes, bytes]) -> Response:
        """Return the response for an anonymous visitor, compressed if the browser accepts that."""
        known = headers.get(b"if-none-match")
        if known is not None and _is_known(self._etag, known):
            return self._unchanged
        accepted = headers.get(b"accept-encoding")
        if accepted is not None and GZIP.search(accepted):
            return self._compressed
        return self._whole

    def to_viewer(self, filling: Filling, headers: Mapping[bytes, bytes]) -> Response | None:
        """Return the response for one viewer, with the holes filled; None if the viewer can't see the page.

        It is not compressed, because it holds a CSRF token: the length of a compressed page leaks its content (the
        BREACH attack).
        """
        etag = b"%s-%s" % (self._etag, filling.etag)
        fields = [(b"cache-control", b"private, no-cache"), self._status, (b"etag", b'W/"%s"' % etag), VARY_BY_COOKIE]
        known = headers.get(b"if-none-match")
        if known is not None and _is_known(etag, known):
            return Response(304, fields, b"")
        body = self.split.filled(filling)
        if body is None:
            return None
        return Response(200, [*fields, self.split.content_type, _length(body)], body)

    @cached_property
    def _whole(self) -> Response:
        body = self.split.page.encoded
        return Response(200, [*self._headers, self.split.content_type, _length(body)], body)

    @cached_property
    def _compressed(self) -> Response:
        body = self.split.page.compressed
        fields = [*self._headers, self.split.content_type, (b"content-encoding", b"gzip"), _length(body)]
        return Response(200, fields, body)


def plain_text(status: int, text: bytes, *headers: tuple[bytes, bytes]) -> Response:
    """Return a response that is a line of text."""
    return Response(status, [PLAIN, _length(text), *headers], text)


def headers_by_name(pairs: Iterable[tuple[str, str]]) -> dict[bytes, bytes]:
    """Return a request's headers by name, in lower case."""
    return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in pairs}


def _is_known(etag: bytes, known: bytes) -> bool:
    """Return whether the browser already has this page, by weak comparison (RFC 9110, section 13.1.2)."""
    return b'"%s"' % etag in known or known.strip() == b"*"


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)
