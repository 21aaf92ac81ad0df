"""People: a user's page, who follows whom, following and unfollowing."""

from typing import Any, NoReturn

from flask import Blueprint, abort, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from app.models import Follow, Post, User
from app.models.writes import user_page
from app.web.pages import cached_page, render_shared
from app.web.posts import before
from app.web.viewer import Viewer, login_required, note_write, signed_in, viewer

bp = Blueprint("people", __name__)


@bp.get("/@<name>")
def profile(name: str) -> ResponseReturnValue:
    """Show a user and their latest posts."""
    person = signed_in()
    user, follows = _user_and_follow(person, name) if person else (_user(name), False)
    if user.name != name:
        return redirect(url_for("people.profile", name=user.name), 301)
    older_than = before()
    if older_than is None:
        return cached_page(user_page(user.id), user=user, follows=follows)
    return render_template("people/profile.html", **_profile(user, older_than), follows=follows)


@bp.get("/@<name>/followers")
def followers(name: str) -> ResponseReturnValue:
    """Show who follows a user."""
    user = _user(name)
    follows = Follow.followers_of(user.id, before())
    people = [follow.follower for follow in follows.items]
    return render_template("people/followers.html", user=user, people=people, older=follows.older)


@bp.get("/@<name>/following")
def following(name: str) -> ResponseReturnValue:
    """Show whom a user follows."""
    user = _user(name)
    follows = Follow.followed_by(user.id, before())
    people = [follow.followed for follow in follows.items]
    return render_template("people/following.html", user=user, people=people, older=follows.older)


@bp.post("/@<name>/follow")
@login_required
def follow(name: str) -> ResponseReturnValue:
    """Follow somebody."""
    user = _user(name)
    if user.id == viewer().id:
        abort(403, "Nobody follows themselves here.")
    viewer().follow(user)
    note_write()
    flash(f"You follow @{user.name}.")
    return redirect(url_for("people.profile", name=user.name))


@bp.post("/@<name>/unfollow")
@login_required
def unfollow(name: str) -> ResponseReturnValue:
    """Follow somebody no more."""
    user = _user(name)
    viewer().unfollow(user)
    note_write()
    flash(f"You don't follow @{user.name} any more.")
    return redirect(url_for("people.profile", name=user.name))


def build_profile(user_id: str) -> str:
    """Build the cached page of a user."""
    user = User.with_id(int(user_id)) or abort(404)
    return render_shared("people/profile.html", f"/@{user.name}", **_profile(user))


def _profile(user: User, older_than: int | None = None) -> dict[str, Any]:
    return {"user": user, "counts": user.counts(), "posts": Post.by(user.id, older_than), "older_than": older_than}


def _user(name: str) -> User:
    return User.named(name) or _nobody(name)


def _user_and_follow(person: Viewer, name: str) -> tuple[User, bool]:
    return User.seen_by(person.id, name) or _nobody(name)


def _nobody(name: str) -> NoReturn:
    abort(404, f"There is nobody called “{name[:40]}” here.")
