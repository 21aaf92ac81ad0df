"""The site's own pages: about, rules and privacy. Every page links to them, and the form to join shows the rules."""

import re
from collections.abc import Callable

from flask import Blueprint, Flask, render_template
from flask.typing import ResponseReturnValue
from jinja2 import Environment, pass_environment
from markupsafe import Markup

from app.config import DAY
from app.models import SitePage
from app.models.post_text import pieces
from app.models.site_pages import TITLES
from app.models.writes import SITE_PAGE
from app.web.caching import cached
from app.web.membership import open_to_strangers, site_config
from app.web.templating import linked

bp = Blueprint("site_pages", __name__)

HEADING = re.compile("^(# .*)$", re.MULTILINE)
BLANK_LINES = re.compile(r"\n\s*\n")


@bp.get("/<any(about, rules, privacy):name>")
@open_to_strangers
@cached(SITE_PAGE)
def page(name: str) -> ResponseReturnValue:
    """Show one of the site's own pages."""
    return render_template("site_pages/page.html", name=name, title=TITLES[name], text=text_of(name))


def text_of(name: str) -> str:
    """Return the text of a page as visitors read it, with the site's name and settings in it."""
    config = site_config()
    days = f"{config.session_lifetime / DAY:g}"
    facts = {
        "{site_name}": config.site_name,
        "{session_days}": days,
        "{everyone}": "members" if config.members_only else "everyone",
    }
    text = SitePage.text_of(name)
    for placeholder, fact in facts.items():
        text = text.replace(placeholder, fact)
    return text


@pass_environment
def page_html(environment: Environment, text: str) -> Markup:
    """Return the text of such a page as HTML. URLs and hashtags become links, everything else is escaped."""
    url_for: Callable[..., str] = environment.globals["url_for"]  # type: ignore[assignment]  # declared as object

    def element(name: str, content: str) -> Markup:
        return Markup("<{0}>{1}</{0}>\n").format(Markup(name), linked(pieces(content), {}, url_for))  # noqa: S704

    html = Markup()
    for block in BLANK_LINES.split(HEADING.sub(r"\n\1\n", text).strip()):
        if block.startswith("# "):
            title = block[2:].strip()
            slug = re.sub(r"\W+", "-", title.lower())
            html += Markup('<h2 id="{}">{}</h2>\n').format(slug, title)
        elif block.startswith("- "):
            entries = Markup().join(element("li", entry) for entry in block[2:].split("\n- "))
            html += Markup("<ul>\n{}</ul>\n").format(entries)
        else:
            html += element("p", block)
    return html


def init_site_pages(app: Flask) -> None:
    """Give templates what they need to show such a page."""
    app.jinja_env.filters["page_html"] = page_html
    app.jinja_env.globals["text_of_page"] = text_of
