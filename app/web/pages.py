"""How a page is drawn, and which pages are cached.

A view whose page is the same for everyone but for its holes (app/web/holes.py) is decorated with @cached.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial, wraps
from typing import Any

from flask import Flask, Response, current_app, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup, escape
from werkzeug.exceptions import HTTPException

from app import costs
from app.cache import PageCache, PageKind, current_cache
from app.front.assets import Assets
from app.front.responses import Filling, PageResponses, headers_by_name
from app.models import Post
from app.models.accounts import MOST_COUNTED
from app.models.post_text import BIDI_CONTROL, Piece, pieces
from app.sessions import has_cookie
from app.web.holes import SHARED, Holes
from app.web.viewer import last_write

REMEMBERED_PATHS = 10_000  # some 3 MB; matching a path takes ten microseconds, and the same paths recur
REMEMBERED_URLS = 5_000  # some 1 MB; building one takes ten microseconds, and a page has a hundred
LONGEST_PATH = 200  # characters; no cached page has a longer one
LONGEST_URL_SHOWN = 40  # characters; more is more than a phone has room for on a line

View = Callable[..., ResponseReturnValue]


class NotAPageError(Exception):
    """A view that was run to build a cached page answered with something else, such as a redirect."""

    def __init__(self, answer: ResponseReturnValue) -> None:
        super().__init__("not a page")
        self.answer = answer


def cached(kind: PageKind) -> Callable[[View], View]:
    """Have a view's page come from the cache.

    The view's arguments name the page. To build it the view is run for an anonymous visitor, in a request of its own.
    An older page, with ?before= in its URL, is not cached; in debug none is.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def serve(**which: str) -> ResponseReturnValue:
            if "before" in request.args or current_app.debug:
                return view(**which)
            name = _page_name(kind, which)
            front: costs.RequestStats | None = request.environ.get(costs.ENVIRON_KEY)
            missed = front is not None and front.page_missed
            wrote = last_write() if has_cookie(request.cookies) else None
            try:
                served = current_cache().get_or_build(name, newer_than=wrote, missed=missed)
            except NotAPageError as error:
                return error.answer
            costs.current().cache_status = served.status
            return _answer(PageResponses.of(served))

        serve.cached_as = kind  # type: ignore[attr-defined]  # read by init_pages()
        return serve

    return decorate


class Pages:
    """The cached pages of one app, as the front sees them: which paths they are at, and what fills their holes."""

    def __init__(self, app: Flask, cache: PageCache, holes: Holes) -> None:
        self._app = app
        self._holes = holes
        self._kinds: dict[str, PageKind] = {}  # by endpoint
        self._urls = app.url_map.bind("")
        for endpoint, view in app.view_functions.items():
            kind: PageKind | None = getattr(view, "cached_as", None)
            if kind:
                self._kinds[endpoint] = kind
                cache.register(kind, partial(self._build, endpoint, kind, inspect.unwrap(view)))
        self._match = lru_cache(maxsize=REMEMBERED_PATHS)(self._name_at)

    def name_at(self, path: str) -> str | None:
        """Return the cache's name for the page at a path, None if no cached page is there."""
        return None if len(path) > LONGEST_PATH else self._match(path)  # what is long must not be remembered

    def _name_at(self, path: str) -> str | None:
        if self._app.debug:
            return None
        try:
            endpoint, arguments = self._urls.match(path, "GET")
        except HTTPException:
            return None
        kind = self._kinds.get(endpoint)
        return _page_name(kind, arguments) if kind else None

    def filling(
        self, markers: Iterable[bytes], session: Mapping[str, Any], known: Mapping[bytes, bytes]
    ) -> Filling | None:
        """Return what fills a page's holes for a session's owner; None if that takes more than the session.

        known: pieces that were drawn before for the same session.
        """
        drawn: dict[bytes, bytes] = {}
        for marker in markers:
            piece = known.get(marker)
            if piece is None:
                html = self._holes.fill(marker.decode(), session)
                if html is None:
                    return None
                piece = html.encode()
            drawn[marker] = piece
        return Filling(drawn)

    def _build(self, endpoint: str, kind: PageKind, view: View, which: str) -> str:
        """Build a page as an anonymous visitor sees it. Raises NotAPageError if the view answers with anything else."""
        (rule,) = self._app.url_map.iter_rules(endpoint)
        arguments = dict(zip(sorted(rule.arguments), kind.parts(which), strict=False))
        path = self._urls.build(endpoint, arguments)
        with self._app.test_request_context(path, base_url=self._base_url, environ_overrides={SHARED: True}):
            page = view(**arguments)
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
        holes = current_holes()
        drawn = {marker: holes.fill_for_visitor(marker.decode()).encode() for marker in responses.split.markers}
        answer = responses.to_viewer(Filling(drawn), headers)
    return Response(answer.body, answer.status, [(name.decode(), value.decode()) for name, value in answer.headers])


def post_html(post: Post) -> Markup:
    """Return a post's text as HTML: URLs, hashtags and the people it mentions are links, everything else is escaped."""
    return _body_html(post.body, post.people)


@lru_cache(maxsize=2_000)  # some 2 MB; finding the links takes a fifth of a millisecond, again and again for each post
def _body_html(body: str, people: frozenset[str]) -> Markup:
    names = {name.lower(): name for name in people}
    return Markup("").join(_piece_html(piece, names) for piece in pieces(body))


def _piece_html(piece: Piece, names: Mapping[str, str]) -> Markup:
    # A link with a direction of its own shows what it leads to, whatever stands before it.
    match piece.kind:
        case "url":
            link = Markup('<a href="{}" rel="nofollow ugc noopener" dir="ltr">{}</a>')
            return link.format(piece.target, shortened(piece.text))
        case "mention" if name := names.get(piece.target.lower()):
            return Markup('<a href="{}" dir="ltr">{}</a>').format(url_for("people.profile", name=name), piece.text)
        case "tag":
            url = url_for("posts.tagged", tag=piece.target)
            return Markup('<a href="{}" rel="nofollow" dir="auto">{}</a>').format(url, piece.text)
        case _:
            return escape(piece.text)


def shortened(url: str) -> str:
    """Return a URL as a post shows it: a long one without its scheme and its end, but with all of its host."""
    if len(url) <= LONGEST_URL_SHOWN:
        return url
    url = url.partition("://")[2] or url
    host = len(re.split("[/?#]", url, maxsplit=1)[0])
    shown = max(LONGEST_URL_SHOWN - 1, host + 1)
    return url if len(url) <= shown else f"{url[:shown]}…"


def time_tag(moment: datetime) -> Markup:
    """Return a post's time as <time>, as short as a list wants it: a date here, in UTC.

    A script shows how long ago that is, up to a week, and then the date by the reader's own clock.
    """
    full = full_time(moment)
    date = full.partition(",")[0].removesuffix(f" {datetime.now(UTC).year}")
    return Markup(f'<time datetime="{_in_utc(moment)}" title="{full}">{date}</time>')  # noqa: S704  # nobody's text


def full_time_tag(moment: datetime) -> Markup:
    """Return a moment as <time>, with date and time: in UTC here; a script shows it in the reader's time zone."""
    return Markup(f'<time datetime="{_in_utc(moment)}" class="full">{full_time(moment)}</time>')  # noqa: S704  # nobody's text


def full_time(moment: datetime) -> str:
    """Return a moment for people, in UTC."""
    return moment.astimezone(UTC).strftime("%-d %b %Y, %H:%M UTC")


def _in_utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def in_brief(text: str, length: int) -> str:
    """Return the start of a text for a title: one line, and nothing in it that turns the direction of what follows."""
    line = " ".join(BIDI_CONTROL.sub("", text).split())
    return line if len(line) <= length else f"{line[: length - 1].rsplit(' ', 1)[0]}…"


def counted(number: int) -> str:
    """Return a number of User.with_counts() for people: exact, or that there are more than are counted."""
    return f"{number:,}" if number <= MOST_COUNTED else f"{MOST_COUNTED:,}+"


def init_templates(app: Flask, assets: Assets) -> None:
    """Give the templates what they need to draw a page."""
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    urls = app.url_map.bind("")  # Flask's own url_for() needs a request, for a host that is trusted
    app.jinja_env.globals["url_for"] = lru_cache(maxsize=REMEMBERED_URLS)(
        lambda endpoint, **values: urls.build(endpoint, values)
    )
    app.extensions["assets"] = assets
    app.jinja_env.globals["asset"] = assets.url
    app.jinja_env.filters["post_html"] = post_html
    app.jinja_env.filters["time_tag"] = time_tag
    app.jinja_env.filters["full_time_tag"] = full_time_tag
    app.jinja_env.filters["in_brief"] = in_brief
    app.jinja_env.filters["counted"] = counted

    holes = app.extensions["holes"] = Holes(app)
    app.jinja_env.globals["hole"] = holes.draw

    @app.after_request
    def keep_private(response: Response) -> Response:
        """Let nobody keep a page that says nothing else: it was made for one visitor, at one moment."""
        response.headers.setdefault("Cache-Control", "private, no-cache")
        return response


def init_pages(app: Flask, cache: PageCache) -> Pages:
    """Register the cached pages of the app's views; call it when all of them are there."""
    return Pages(app, cache, app.extensions["holes"])


def current_holes() -> Holes:
    """Return the holes of the current app."""
    holes: Holes = current_app.extensions["holes"]
    return holes
