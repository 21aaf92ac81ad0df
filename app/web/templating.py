"""What the templates use beside Flask's own: filters for text, times and numbers, and quick URLs."""

import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from flask import Flask, Response, before_render_template
from jinja2 import Environment, pass_environment
from markupsafe import Markup, escape
from sqlalchemy.exc import SQLAlchemyError

from app.config import Config
from app.extensions import release_connection
from app.front.assets import Assets
from app.front.hidden_people import without_hidden_people
from app.models.pagination import shown_count
from app.models.post_text import Piece, in_brief, tag_key
from app.models.posts import ShownPost
from app.web.errors import cant_see, sql_failed
from app.web.holes import Holes, stranger, visitor
from app.web.post_html import PostHTML

REMEMBERED_URLS = 1_000  # some 0.2 MB; building one takes ten microseconds, and a list of people has fifty
GROUNDS, INKS, SHAPES = 10, 4, 12  # in the style sheet, for people's pictures
LONGEST_URL_SHOWN = 40  # characters; more is more than a phone has room for on a line


@pass_environment
def text_html(environment: Environment, post: ShownPost, site: str = "") -> Markup:
    """Return a post's text as HTML: URLs, hashtags and the people it mentions are links, everything else is escaped.

    site: goes before the path of every link into this site.
    """
    url_for: Callable[..., str] = environment.globals["url_for"]  # type: ignore[assignment]  # declared as object
    return linked(post.pieces, post.people, url_for, site)


def linked(pieces: Iterable[Piece], people: Mapping[str, str], url_for: Callable[..., str], site: str = "") -> Markup:
    """Return pieces of text as HTML. people: those who can be mentioned, by name in lower case."""
    return Markup("").join(_piece_html(piece, people, url_for, site) for piece in pieces)


def _piece_html(piece: Piece, people: Mapping[str, str], url_for: Callable[..., str], site: str) -> Markup:
    # A link with a direction of its own shows what it leads to, whatever stands before it.
    match piece.kind:
        case "url":
            link = Markup('<a href="{}" rel="nofollow ugc noopener" dir="ltr">{}</a>')
            return link.format(piece.target, shortened(piece.text))
        case "mention" if name := people.get(piece.target.lower()):
            url = site + url_for("people.profile", name=name)
            return Markup('<a href="{}" dir="ltr">{}</a>').format(url, piece.text)
        case "tag":
            url = site + url_for("posts.tagged", tag=tag_key(piece.target))
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


def face(name: str) -> str:
    """Return the classes that give a name its picture: a colour, a shape, and that shape's colour.

    The style sheet draws it, so it takes no request and some twenty bytes. Of a hundred people, few share one.
    """
    number = zlib.crc32(name.lower().encode())
    ground, number = number % GROUNDS, number // GROUNDS
    ink, number = number % INKS, number // INKS
    return f"ground-{ground} ink-{ink} shape-{number % SHAPES}"


def time_tag(moment: datetime) -> Markup:
    """Return a post's time as <time>, as short as a list wants it: a date here, in UTC.

    A script shows how long ago that is, up to a week, and then the date by the reader's own clock.
    """
    full = full_time(moment)
    date = full.partition(",")[0].removesuffix(f" {datetime.now(UTC).year}")
    return Markup(f'<time datetime="{in_utc(moment)}" title="{full}">{date}</time>')  # noqa: S704  # nobody's text


def full_time_tag(moment: datetime) -> Markup:
    """Return a moment as <time>, with date and time: in UTC here; a script shows it in the reader's time zone."""
    return Markup(f'<time datetime="{in_utc(moment)}" class="full">{full_time(moment)}</time>')  # noqa: S704  # nobody's text


def full_time(moment: datetime) -> str:
    """Return a moment for people, in UTC."""
    return moment.astimezone(UTC).strftime("%-d %b %Y, %H:%M UTC")


def in_utc(moment: datetime) -> str:
    """Return a moment for machines (RFC 3339)."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def init_templates(app: Flask, assets: Assets) -> None:
    """Give the templates what they need to draw a page."""
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    urls = app.url_map.bind("")  # Flask's own url_for() needs a request, for a host that is trusted
    app.jinja_env.globals["url_for"] = lru_cache(maxsize=REMEMBERED_URLS)(
        lambda endpoint, **values: urls.build(endpoint, values)
    )
    config: Config = app.extensions["config"]
    app.jinja_env.globals["members_only"] = config.members_only
    app.jinja_env.globals["registration"] = config.registration
    app.jinja_env.globals["may_register"] = config.may_register
    app.extensions["assets"] = assets
    app.jinja_env.globals["asset"] = assets.url
    app.jinja_env.filters["text_html"] = text_html
    app.jinja_env.filters["face"] = face
    app.jinja_env.filters["shown_link"] = lambda url: shortened(url.partition("://")[2].rstrip("/"))
    app.jinja_env.filters["time_tag"] = time_tag
    app.jinja_env.filters["full_time_tag"] = full_time_tag
    app.jinja_env.filters["in_utc"] = in_utc
    app.jinja_env.filters["in_brief"] = in_brief
    app.jinja_env.filters["counted"] = shown_count

    holes = app.extensions["holes"] = Holes(app)
    app.jinja_env.globals["hole"] = holes.draw
    app.extensions["post_html"] = PostHTML(app)

    @before_render_template.connect_via(app)
    def release(*_about: object, **_more: object) -> None:
        """Let other threads use the connection to SQL while a template renders."""
        release_connection()

    @app.after_request
    def fill_holes(response: Response) -> Response:
        """Fill the holes of a page that does not come from the cache."""
        if response.mimetype == "text/html" and "Cache-Status" not in response.headers:
            html = response.get_data(as_text=True)
            try:
                page = holes.fill_all(html, visitor())
            except SQLAlchemyError as error:
                if response.status_code < 500:
                    return fill_holes(sql_failed(error))
                page = holes.fill_all(html, stranger())  # an error page must not need SQL
            shown = without_hidden_people(page.encode())
            if shown is None:
                return fill_holes(cant_see())
            response.set_data(shown)
        return response

    @app.after_request
    def keep_private(response: Response) -> Response:
        """Let nobody keep a page that says nothing else: it was made for one visitor, at one moment."""
        response.headers.setdefault("Cache-Control", "private, no-cache")
        return response
