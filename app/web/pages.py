"""Pages that are the same for everyone, with the viewer's own part added around it.

A cached page is rendered as an anonymous visitor sees it. Where a signed-in visitor sees something else (their name, a
button) the template leaves a *hole*: markup between `<!--[name-->` and `<!--name]-->`. For them the holes are filled
with what is theirs, and the rest is taken as it is. People's own text is escaped, so it can't contain a hole.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from flask import Flask, Response, render_template, request
from markupsafe import Markup, escape

from app.cache import current_cache
from app.front.answers import FILLING, MISSED, PAGE_NAME, Filling, PublicAnswers, private_answer, split
from app.front.assets import Assets
from app.models import Post
from app.models.accounts import MOST_COUNTED
from app.models.post_text import pieces
from app.sessions import has_cookie
from app.web.viewer import last_write


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
    _, parts = split(served.page)
    holes = {hole: _render_hole(hole, viewer_context) for hole, _ in parts}
    filling = Filling(holes)
    if not viewer_context and not holes["flashes"].strip():
        request.environ[FILLING] = filling
    status, headers, content = private_answer(served, filling, request.environ)
    return Response(content, status, headers)


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
