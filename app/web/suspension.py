"""Suspension: a suspended person can log in, read why and until when, export their data, and delete their account.

The session says that its user is suspended (app/sessions.py), so no request asks SQL for it. The front hands each
request of such a session to Flask, where it has to get past let_only_read_why().
"""

from flask import Blueprint, Flask, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.sessions import current_session
from app.web.viewer import login_required, viewer

bp = Blueprint("suspension", __name__)

# What such a session may ask for beside static files.
TAKE_LEAVE = {"leaving.delete", "transfers.exporting", "transfers.export", "transfers.download", "recent_login.confirm"}
OPEN = {"suspension.suspended", "accounts.logout", *TAKE_LEAVE}
OPEN_BLUEPRINTS = {"site_pages", "health", "well_known"}


@bp.get("/suspended")
@login_required
def suspended() -> ResponseReturnValue:
    """Tell the viewer why they are suspended, and until when."""
    if not current_session().is_suspended:
        return redirect(url_for("posts.home"))
    return render_template("suspended.html", user=viewer())


def init_suspension(app: Flask) -> None:
    """Let nobody who is suspended past this."""

    @app.before_request
    def let_only_read_why() -> ResponseReturnValue | None:
        if not current_session().is_suspended or request.endpoint in OPEN or request.blueprint in OPEN_BLUEPRINTS:
            return None
        if request.method not in ("GET", "HEAD"):
            abort(403, "Your account is suspended. You can log out, and read the site as everyone else does.")
        return redirect(url_for("suspension.suspended"))
