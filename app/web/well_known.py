"""What browsers and crawlers ask every site for at a fixed address."""

import json

from flask import Blueprint, Response, abort, current_app, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from werkzeug.wrappers import Response as Redirect

from app.front.assets import Assets
from app.models import User
from app.models.writes import SITEMAP
from app.web.caching import cached
from app.web.membership import open_to_strangers, site_config

bp = Blueprint("well_known", __name__)

KEPT = "public, max-age=3600"  # as long as a static file under its plain name
SITEMAP_PEOPLE = 1_000  # so that the sitemap fits into the cache; search engines find the others by links
PAPER = "#faf7f1"  # as in layout.html
ROBOTS = """\
User-agent: *
Disallow: /join/
Disallow: /login
Disallow: /moderation
Disallow: /notifications
Disallow: /posts/
Disallow: /register
Disallow: /reset/
Disallow: /settings/
"""


@bp.get("/robots.txt")
@open_to_strangers
def robots() -> Response:
    """Tell crawlers what is of no use to them (RFC 9309): forms, and pages that lead everyone but their owner there.

    /home does, too, but no link leads a stranger to it. It names the sitemap, if there is one. On a site for members
    only, everything leads to the login page.
    """
    if site_config().members_only:
        return Response("User-agent: *\nDisallow: /\n", mimetype="text/plain", headers={"Cache-Control": KEPT})
    site_url = site_config().site_url
    sitemap_line = f"\nSitemap: {site_url}{url_for('well_known.sitemap')}\n" if site_url else ""
    return Response(ROBOTS + sitemap_line, mimetype="text/plain", headers={"Cache-Control": KEPT})


@bp.get("/sitemap.xml")
@cached(SITEMAP)
def sitemap() -> ResponseReturnValue:
    """List the pages that search engines may not find by links (https://www.sitemaps.org/protocol.html).

    Its URLs must be absolute, so a site without a name has none. Neither has one that search engines can't read.
    """
    if not site_config().site_url or site_config().members_only:
        abort(404)
    return render_template("sitemap.xml", people=User.active_lately(SITEMAP_PEOPLE))


@bp.get("/favicon.ico")
@open_to_strangers
def favicon() -> Redirect:
    """Lead those who look for the icon where it used to be, such as feed readers, to where it is."""
    response = redirect(_assets().url("favicon.ico"))
    response.headers["Cache-Control"] = KEPT
    return response


@bp.get("/site.webmanifest")
@open_to_strangers
def manifest() -> Response:
    """Tell phones how the site looks on their home screen (https://www.w3.org/TR/appmanifest/)."""
    site_name = site_config().site_name
    icons = [
        {"src": _assets().url(f"icon-{size}.png"), "sizes": f"{size}x{size}", "type": "image/png"}
        for size in (192, 512)
    ]
    described = {
        "id": "/",
        "name": site_name,
        "short_name": site_name,
        "start_url": url_for("posts.latest"),
        "display": "minimal-ui",  # with a way back: Pipit has no button of its own for that
        "background_color": PAPER,
        "theme_color": PAPER,
        "icons": icons,
    }
    headers = {"Cache-Control": KEPT}
    return Response(json.dumps(described), mimetype="application/manifest+json", headers=headers)


def _assets() -> Assets:
    assets: Assets = current_app.extensions["assets"]
    return assets
