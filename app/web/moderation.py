"""Moderation: reporting a post or a person, and what moderators see of that and do about it.

Whether somebody is a moderator is read from SQL, at each request to one of their pages; these are rare. The links to
them, which are on cached pages, are holes that are filled from a stamp.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.models import Applicant, Moderator, PinnedPost, Post, Report, SitePage, User
from app.models.moderation import (
    ABOUT_PERSON,
    CHOICES,
    DISMISS,
    MOST_COUNTED,
    REINSTATE,
    REMOVE_POST,
    NotAllowedError,
    log_lines,
    open_cases,
)
from app.models.site_pages import TITLES
from app.models.writes import notifications_of
from app.sessions import current_session
from app.web.converters import before, id_in_query
from app.web.forms.moderation import DecisionForm, ReportForm, SitePageForm
from app.web.holes import fills_from
from app.web.limits import count_action
from app.web.people import person_named
from app.web.post_html import html_by_id
from app.web.viewer import login_required, note_write, viewer

bp = Blueprint("moderation", __name__)

View = Callable[..., ResponseReturnValue]
THANKS = "Thanks, the moderators will look at it."


def moderator_required(view: View) -> View:
    """Call a view with the Moderator who asks, before its other arguments; another member gets a 404."""

    @login_required
    @wraps(view)
    def wrapped(**arguments: Any) -> ResponseReturnValue:
        moderator = Moderator.with_id(current_session()["user_id"])
        return view(moderator or abort(404), **arguments)

    return wrapped


@fills_from("moderation", notifications_of)
def undecided(held: str) -> dict[str, str] | None:
    """Return how much waits for a decision, for a moderator's menu; None for everyone else."""
    count = held.split(" ")[2]
    if not count:
        return None
    return {"count": f"{MOST_COUNTED}+" if int(count) > MOST_COUNTED else "" if count == "0" else count}


@fills_from("moderate", notifications_of)
def moderate_link(held: str, **_about: str) -> dict[str, str] | None:
    """Return something if the viewer is a moderator: then the page leads to what they can do."""
    return {} if held.split(" ")[2] else None


# Reporting


@bp.route("/posts/<id:post_id>/report", methods=["GET", "POST"])
@login_required
def report_post(post_id: int) -> ResponseReturnValue:
    """Report a post to the moderators."""
    post = Post.with_id(post_id) or abort(404)
    path = url_for("posts.permalink", name=post.author.name, post_id=post_id)
    return _report(post.author, path, "This is your own post. You can edit or delete it here.", post_id)


@bp.route("/@<name>/report", methods=["GET", "POST"])
@login_required
def report_person(name: str) -> ResponseReturnValue:
    """Report a person to the moderators."""
    user = person_named(name)
    return _report(user, url_for("people.profile", name=user.name), "This is your own page.")


def _report(user: User, path: str, own: str, post_id: int = ABOUT_PERSON) -> ResponseReturnValue:
    if user.id == viewer().id:
        flash(own)
        return redirect(path)
    form = ReportForm()
    if form.is_submitted():
        count_action("report")
    if not form.validate_on_submit():
        html = html_by_id(Post.listed([post_id])) if post_id else {}
        page = render_template("moderation/report.html", form=form, user=user, path=path, post=html.get(post_id))
        return page, form.status
    Report.send(viewer(), user, form.reason.data, post_id)
    flash(THANKS)
    return redirect(path)


# What moderators do


@bp.get("/moderation")
@moderator_required
def reports(_moderator: Moderator) -> ResponseReturnValue:
    """Show what is to be decided, the oldest first."""
    after = id_in_query("after")
    cases, newer = open_cases(after)
    html = html_by_id(Post.listed([case.post_id for case in cases if case.post_id]))
    about = {"cases": cases, "newer": newer, "html": html, "after": after, "waiting": Applicant.count()}
    return render_template("moderation/reports.html", **about)


@bp.get("/moderation/people")
@moderator_required
def look_up(_moderator: Moderator) -> ResponseReturnValue:
    """Lead to somebody whose name was typed."""
    name = request.args.get("name", "").strip().removeprefix("@")
    return redirect(url_for("moderation.person", name=person_named(name).name))


@bp.route("/moderation/people/<name>", methods=["GET", "POST"])
@moderator_required
def person(moderator: Moderator, name: str) -> ResponseReturnValue:
    """Show what is known about somebody, or about the post of theirs in ?post=, and decide."""
    user = person_named(name)
    post_id = id_in_query("post") or ABOUT_PERSON
    post = Post.with_id(post_id) if post_id else None
    if post and post.author_id != user.id:
        abort(404)
    cases, _ = open_cases(user_id=user.id)
    cases.sort(key=lambda case: case.post_id != post_id)  # what this page is about comes first
    is_reported = any(case.post_id == post_id for case in cases)
    form = DecisionForm()
    form.choice.choices = list(_choices(moderator, user, post, is_reported=is_reported).items())
    if form.validate_on_submit():
        try:
            said = moderator.decide(form.choice.data, user, form.reason.data, post_id)
        except NotAllowedError as error:
            form.choice.errors = [str(error)]
        else:
            note_write(counts=True)
            flash(said)
            return redirect(url_for("moderation.reports"))
    shown = html_by_id(Post.listed({*(case.post_id for case in cases), post_id} - {ABOUT_PERSON}))
    about = {"post": post, "post_id": post_id, "cases": cases, "html": shown, "lines": log_lines(user_id=user.id).items}
    is_pinned = post is not None and post.id in [pinned.id for pinned in PinnedPost.all()]
    page = render_template("moderation/person.html", form=form, user=user, is_pinned=is_pinned, **about)
    return page, form.status


def _choices(moderator: Moderator, user: User, post: Post | None, *, is_reported: bool) -> dict[str, str]:
    """Return what this moderator can do about a user, or a post of theirs, by what the form sends."""
    choices = dict(CHOICES) if moderator.may_act_on(user) else {DISMISS: CHOICES[DISMISS]}
    impossible = {
        DISMISS: not is_reported or user.id == moderator.id,
        REMOVE_POST: post is None,
        REINSTATE: not user.is_suspended,
    }
    return {choice: label for choice, label in choices.items() if not impossible.get(choice)}


@bp.post("/moderation/posts/<id:post_id>/pin")
@moderator_required
def pin(moderator: Moderator, post_id: int) -> ResponseReturnValue:
    """Pin a post above everyone's latest ones."""
    return _pin(moderator.pin, post_id)


@bp.post("/moderation/posts/<id:post_id>/unpin")
@moderator_required
def unpin(moderator: Moderator, post_id: int) -> ResponseReturnValue:
    """Take it down from there."""
    return _pin(moderator.unpin, post_id)


def _pin(change: Callable[[Post], str], post_id: int) -> ResponseReturnValue:
    post = Post.with_id(post_id) or abort(404)
    try:
        flash(change(post))
    except NotAllowedError as error:
        flash(str(error))
    note_write()
    return redirect(url_for("moderation.person", name=post.author.name, post=post_id))


@bp.get("/moderation/log")
@moderator_required
def log(_moderator: Moderator) -> ResponseReturnValue:
    """Show who did what, about whom and why, the latest first."""
    return render_template("moderation/log.html", lines=log_lines(before()))


@bp.get("/moderation/pages")
@moderator_required
def pages(_moderator: Moderator) -> ResponseReturnValue:
    """Show which pages the site has of its own."""
    return render_template("moderation/pages.html", titles=TITLES)


@bp.route("/moderation/pages/<any(about, rules, privacy):name>", methods=["GET", "POST"])
@moderator_required
def edit_page(moderator: Moderator, name: str) -> ResponseReturnValue:
    """Edit such a page."""
    form = SitePageForm(data={"body": SitePage.text_of(name)})
    if not form.validate_on_submit():
        page = render_template("moderation/edit_page.html", form=form, title=TITLES[name])
        return page, form.status
    moderator.edit_page(name, form.body.data or "")
    note_write()
    flash("Saved.")
    return redirect(url_for("site_pages.page", name=name))
