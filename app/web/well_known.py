"""What browsers and crawlers ask every site for at a fixed address."""

from flask import Blueprint, Response, current_app, redirect
from werkzeug.wrappers import Response as Redirect

from app.front.assets import Assets

bp = Blueprint("well_known", __name__)

KEPT = "public, max-age=3600"  # as long as a static file under its plain name
ROBOTS = """\
User-agent: *
Disallow: /home
Disallow: /settings/
"""


@bp.get("/robots.txt")
def robots() -> Response:
    """Tell crawlers what is of no use to them (RFC 9309): pages that lead everyone but their owner to the login."""
    return Response(ROBOTS, mimetype="text/plain", headers={"Cache-Control": KEPT})


@bp.get("/favicon.ico")
def favicon() -> Redirect:
    """Lead those who look for the icon where it used to be, such as feed readers, to where it is."""
    assets: Assets = current_app.extensions["assets"]
    response = redirect(assets.url("favicon.ico"))
    response.headers["Cache-Control"] = KEPT
    return response
