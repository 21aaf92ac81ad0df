"""The answers that a cached page gives: the same for all strangers; for a viewer, with the holes filled."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from app.cache import MOST_COPIES, Page, Served, etag_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?(?:\s*,|\s*$))")  # accepted, and not with a weight of nothing
CSRF_TOKEN = re.compile(r'(name="csrf_token"[^>]*value="[^".]*)[^"]*')  # time and signature follow a first dot
HOLE = re.compile(r"<!--\[(\w+)-->.*?<!--\1\]-->", re.DOTALL)
PAGE_NAME = "pipit.page"  # in the WSGI environment: which cached page answered this URL; page_cache.py learns from it
FILLING = "pipit.filling"  # likewise: what filled its holes, where that is the same at this visitor's next look
MISSED = "pipit.missed"  # the other way: page_cache.py has looked for the page, in vain
CACHE_STATUS = "pipit.cache_status"  # how the page was come by, for the log
HTML = ("Content-Type", "text/html; charset=utf-8")

Answer = tuple[str, list[tuple[str, str]], bytes]  # status, headers, body


class PublicAnswers:
    """What visitors without a session are sent of a page: made once, for as long as it is served.

    Browsers may keep the page, but ask each time whether it is still the latest; if so, the answer is a 304. It is
    compressed for those who can read that.

    also: headers to send besides, if no layer further out adds them.
    """

    def __init__(self, served: Served, also: Sequence[tuple[str, str]] = ()) -> None:
        self.served = served
        self.also = also
        self._headers = [
            ("Cache-Control", "no-cache"),
            ("Cache-Status", served.status),
            ("ETag", f'W/"{served.page.etag}"'),  # weak: compressed or not (RFC 9110, section 8.8.1)
            ("Vary", "Accept-Encoding, Cookie"),
            *also,
        ]
        self._unchanged: Answer = "304 NOT MODIFIED", self._headers, b""

    def to(self, environ: "WSGIEnvironment") -> Answer:
        """Return the answer to a request."""
        environ[CACHE_STATUS] = self.served.status
        if "HTTP_IF_NONE_MATCH" in environ and _is_known(self.served.page.etag, environ["HTTP_IF_NONE_MATCH"]):
            return self._unchanged
        if "HTTP_ACCEPT_ENCODING" in environ and GZIP.search(environ["HTTP_ACCEPT_ENCODING"]):
            return self._compressed
        return self._whole

    @cached_property
    def _whole(self) -> Answer:
        body = self.served.page.encoded
        return "200 OK", [*self._headers, HTML, ("Content-Length", str(len(body)))], body

    @cached_property
    def _compressed(self) -> Answer:
        body = self.served.page.compressed
        encoded = ("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))
        return "200 OK", [*self._headers, HTML, *encoded], body


class Filling:
    """What fills the holes of a page for one session."""

    def __init__(self, holes: Mapping[str, str]) -> None:
        self.holes = {name: html.encode() for name, html in holes.items()}
        # A CSRF token is signed anew each second, but any of one session's is as good: the page is the same, weakly.
        # What counts of it is the session's secret, so that after another login no browser keeps dead forms.
        self.etag = etag_of(CSRF_TOKEN.sub(r"\1", "".join(holes.values())))


def private_answer(
    served: Served, filling: Filling, environ: "WSGIEnvironment", also: Sequence[tuple[str, str]] = ()
) -> Answer:
    """Return a cached page for one visitor, its holes filled with what is theirs.

    It is not compressed: it holds a CSRF token, and the length of a compressed page tells about what is in it (the
    BREACH attack).

    also: headers to send besides, if no layer further out adds them.
    """
    environ[CACHE_STATUS] = served.status
    etag = f"{served.page.etag}-{filling.etag}"
    answer_headers = [
        ("Cache-Control", "private, no-cache"),
        ("Cache-Status", served.status),
        ("ETag", f'W/"{etag}"'),
        ("Vary", "Cookie"),
        *also,
    ]
    if "HTTP_IF_NONE_MATCH" in environ and _is_known(etag, environ["HTTP_IF_NONE_MATCH"]):
        return "304 NOT MODIFIED", answer_headers, b""
    start, parts = split(served.page)
    pieces = [start]
    for hole, following in parts:
        pieces += filling.holes[hole], following
    body = b"".join(pieces)
    answer_headers += (HTML, ("Content-Length", str(len(body))))
    return "200 OK", answer_headers, body


def _is_known(etag: str, known: str) -> bool:
    """Return whether the browser has this already, by weak comparison (RFC 9110, section 13.1.2)."""
    return f'"{etag}"' in known or known.strip() == "*"


@lru_cache(maxsize=MOST_COPIES)
def split(page: Page) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return a cached page taken apart: what comes before its first hole, and each hole with what follows it."""
    start, *parts = HOLE.split(page.body)
    return start.encode(), [(hole, text.encode()) for hole, text in zip(parts[::2], parts[1::2], strict=True)]
