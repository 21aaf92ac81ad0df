"""Pages that are the same for everyone, with the viewer's own part added around it.

A cached page is rendered as an anonymous visitor sees it. Where a signed-in visitor sees something else (their name, a
button) the template leaves a *hole*: markup between `<!--[name-->` and `<!--name]-->`. For them the holes are filled
with what is theirs, and the rest is taken as it is. People's own text is escaped, so it can't contain a hole.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, render_template, request
from markupsafe import Markup, escape

from app.cache import MOST_COPIES, Page, Served, current_cache, etag_of
from app.models import Post
from app.models.accounts import MOST_COUNTED
from app.models.post_text import pieces
from app.sessions import has_cookie
from app.web.assets import Assets
from app.web.viewer import last_write

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


def render_shared(template: str, here: str, **context: Any) -> str:
    """Return a page as an anonymous visitor sees it at the path `here`, in whosever request it is built."""
    return render_template(template, **context, here=here, viewer=None, shared=True)


def cached_page(name: str, **viewer_context: Any) -> Response:
    """Return a page that comes from the cache, or goes there.

    name: the cache's name for the page.
    viewer_context: what the holes need.
    """
    request.environ[PAGE_NAME] = name
    missed = MISSED in request.environ
    if not has_cookie(request.cookies):
        served = current_cache().get_or_build(name, missed=missed)
        status, headers, content = PublicAnswers(served).to(request.environ)
        return Response(content, status, headers)
    served = current_cache().get_or_build(name, newer_than=last_write(), missed=missed)
    _, parts = _split(served.page)
    holes = {hole: _render_hole(hole, viewer_context) for hole, _ in parts}
    filling = Filling(holes)
    if not viewer_context and not holes["flashes"].strip():
        request.environ[FILLING] = filling
    status, headers, content = private_answer(served, filling, request.environ)
    return Response(content, status, headers)


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
    start, parts = _split(served.page)
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
def _split(page: Page) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return a cached page taken apart: what comes before its first hole, and each hole with what follows it."""
    start, *parts = HOLE.split(page.body)
    return start.encode(), [(hole, text.encode()) for hole, text in zip(parts[::2], parts[1::2], strict=True)]


def _render_hole(name: str, viewer_context: dict[str, Any]) -> str:
    return render_template(f"holes/{name}.html", **viewer_context)


def post_html(post: Post) -> Markup:
    """Return a post's text as HTML: URLs, mentions and hashtags are links, everything else is escaped."""
    return _body_html(post.body)


@lru_cache(
    maxsize=2_000
)  # some 2 MB; finding the links takes a fifth of a millisecond, for the same posts over and over
def _body_html(body: str) -> Markup:
    return Markup("").join(_piece_html(body))


def _piece_html(body: str) -> Iterator[Markup]:
    for piece in pieces(body):
        match piece.kind:
            case "url":
                yield Markup('<a href="{}" rel="nofollow ugc noopener">{}</a>').format(piece.target, piece.text)
            case "mention":
                yield Markup('<a href="/@{}">{}</a>').format(piece.target, piece.text)
            case "tag":
                yield Markup('<a href="/tags/{}" rel="nofollow">{}</a>').format(piece.target, piece.text)
            case _:
                yield escape(piece.text)


def time_tag(moment: datetime) -> Markup:
    """Return a moment as <time>: absolute here, in UTC; a script shows it relative to the reader's own clock."""
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.strftime("%Y-%m-%dT%H:%M:%SZ"), utc.strftime("%-d %b %Y, %H:%M UTC")
    )


def counted(number: int) -> str:
    """Return a number of User.counts() for people: exact, or that there are more than are counted."""
    return f"{number:,}" if number <= MOST_COUNTED else f"{MOST_COUNTED:,}+"


def init_pages(app: Flask, assets: Assets) -> None:
    """Give the templates what they need to draw a page."""
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals["asset"] = assets.url
    app.jinja_env.filters["post_html"] = post_html
    app.jinja_env.filters["time_tag"] = time_tag
    app.jinja_env.filters["counted"] = counted

    @app.after_request
    def keep_private(response: Response) -> Response:
        """Let nobody keep a page that says nothing else: it was made for one visitor, at one moment."""
        response.headers.setdefault("Cache-Control", "private, no-cache")
        return response
