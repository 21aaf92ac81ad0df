"""People: a user's page, who follows whom, following and unfollowing."""

from typing import NoReturn

from flask import Blueprint, abort, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from app.models import Follow, Post, User
from app.models.writes import FOLLOWERS_PAGE, FOLLOWING_PAGE, PROFILE_PAGE, REPLIES_PAGE, follows_by
from app.web.addresses import address_required
from app.web.caching import cached
from app.web.converters import before
from app.web.forms.people import ProfileForm
from app.web.holes import fills
from app.web.limits import count_action
from app.web.post_html import listed_below
from app.web.stale import stale_is_harmless
from app.web.viewer import Viewer, login_required, note_write, viewer

bp = Blueprint("people", __name__)


@bp.get("/@<name>")
@cached(PROFILE_PAGE)
@stale_is_harmless
def profile(name: str) -> ResponseReturnValue:
    """Show a user and their latest posts."""
    return _profile(name, "people.profile", with_replies=False)


@bp.get("/@<name>/replies")
@cached(REPLIES_PAGE)
@stale_is_harmless
def replies(name: str) -> ResponseReturnValue:
    """Show a user, and their latest posts and replies."""
    return _profile(name, "people.replies", with_replies=True)


@fills("follow", changed_by=lambda viewer: (follows_by(viewer.id),))
def follow_button(viewer: Viewer, user_id: str, **_about: str) -> dict[str, bool]:
    """Return whether the viewer follows the user shown on the page."""
    return {"follows": Follow.exists(viewer.id, int(user_id))}


@bp.get("/@<name>/followers")
@cached(FOLLOWERS_PAGE)
def followers(name: str) -> ResponseReturnValue:
    """Show who follows a user."""
    user = person_named(name)
    if user.name != name:
        return redirect(url_for("people.followers", name=user.name), 301)
    return render_template("people/followers.html", user=user, people=Follow.followers_of(user.id, before()))


@bp.get("/@<name>/following")
@cached(FOLLOWING_PAGE)
def following(name: str) -> ResponseReturnValue:
    """Show whom a user follows."""
    user = person_named(name)
    if user.name != name:
        return redirect(url_for("people.following", name=user.name), 301)
    return render_template("people/following.html", user=user, people=Follow.followed_by(user.id, before()))


@bp.post("/@<name>/follow")
@login_required
@address_required
def follow(name: str) -> ResponseReturnValue:
    """Follow somebody."""
    user = person_named(name)
    if user.id == viewer().id:
        abort(403, "You can't follow yourself.")
    count_action("follow")
    viewer().follow(user)
    note_write(counts=True)
    flash(f"You now follow @{user.name}.")
    return redirect(url_for("people.profile", name=user.name))


@bp.post("/@<name>/unfollow")
@login_required
def unfollow(name: str) -> ResponseReturnValue:
    """Unfollow someone."""
    user = person_named(name)
    count_action("follow")
    viewer().unfollow(user)
    note_write(counts=True)
    flash(f"You unfollowed @{user.name}.")
    return redirect(url_for("people.profile", name=user.name))


@bp.route("/settings/profile", methods=["GET", "POST"])
@login_required
def settings() -> ResponseReturnValue:
    """Let the viewer say who they are."""
    user = viewer()
    form = ProfileForm(obj=user)
    if not form.validate_on_submit():
        return render_template("people/settings.html", form=form), form.status
    user.describe(form.display_name.data, form.about.data, form.link.data)
    note_write()
    flash("Saved.")
    return redirect(url_for("people.profile", name=user.name))


def _profile(name: str, endpoint: str, *, with_replies: bool) -> ResponseReturnValue:
    user, counts = User.with_counts(name) or _nobody(name)
    if user.name != name:
        return redirect(url_for(endpoint, name=user.name), 301)
    older = before()
    of_own = user.pinned_post_id if not (older or with_replies) else None
    posts, pinned = listed_below(Post.by(user.id, older, replies=with_replies), Post.listed([of_own]) if of_own else [])
    about = {"user": user, "counts": counts, "posts": posts, "pinned": pinned}
    return render_template("people/profile.html", endpoint=endpoint, **about)


def person_named(name: str) -> User:
    """Return the account with that name, in whatever case; if there is none, the answer is a 404."""
    return User.named(name) or _nobody(name)


def _nobody(name: str) -> NoReturn:
    abort(404, f"There's nobody called “{name[:40]}” here.")
