"""Notifications: what others did that concerns the viewer; how many they have not seen; what they are told of."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from app.cache import PageCache
from app.models import Notification, Post
from app.models.moderation import news_of
from app.models.notifications import KINDS, MOST_UNREAD, grouped, mark_read
from app.models.writes import notifications_of
from app.web.blocks import hidden_from_viewer
from app.web.converters import before
from app.web.forms.people import NotificationsForm
from app.web.holes import fills_from
from app.web.post_html import html_by_id
from app.web.viewer import login_required, viewer

bp = Blueprint("notifications", __name__)


@fills_from("unread", notifications_of)
def unread(held: str) -> dict[str, str]:
    """Return how many notifications the viewer has not seen, for the bar of every page."""
    count = int(held.partition(" ")[0])
    return {"unread": f"{MOST_UNREAD}+" if count > MOST_UNREAD else str(count or "")}


@fills_from("own_face", notifications_of)
def own_face(held: str) -> dict[str, str]:
    """Return the viewer's picture, for the bar. It is held with the number, so it costs no further command."""
    return {"picture": held.split(" ")[1]}


def init_notifications(cache: PageCache) -> None:
    """Keep what the bar shows each member in Redis."""
    # In the context at hand: with one of its own, a request could wait for a connection while it holds another.
    cache.register_value("notifications", lambda user_id: news_of(int(user_id)))


@bp.get("/notifications")
@login_required
def latest() -> ResponseReturnValue:
    """Show what others did that concerns the viewer. From then on it is no longer new."""
    events = Notification.of(viewer().id, before())
    seen = viewer().notifications_read
    if events.items and events.items[0].id > seen:
        mark_read(viewer().id, events.items[0].id)
    hidden = hidden_from_viewer()
    groups = grouped([event for event in events.items if event.actor.id not in hidden])
    html = html_by_id(Post.listed([group.post_id for group in groups if group.post_id]))
    return render_template("notifications/latest.html", groups=groups, html=html, events=events, seen=seen)


@bp.route("/settings/notifications", methods=["GET", "POST"])
@login_required
def settings() -> ResponseReturnValue:
    """Choose what to be told of."""
    not_told_of = viewer().not_told_of.split(",")
    form = NotificationsForm(data={kind: kind not in not_told_of for kind in KINDS})
    if form.validate_on_submit():
        viewer().tell_of([kind for kind in KINDS if form[kind].data])
        flash("Saved.")
        return redirect(url_for("notifications.latest"))
    return render_template("notifications/settings.html", form=form)
