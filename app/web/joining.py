"""Joining where not everyone can: links that members make, and those who wait for a moderator to let them in."""

from flask import Blueprint, abort, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.models import Applicant, Invitation, Moderator, NameTakenError
from app.models.joining import MOST_OPEN, SHOWN, InvitationEndedError, TooManyInvitationsError
from app.web.accounts import register_with
from app.web.converters import id_in_query
from app.web.forms.joining import InvitationForm
from app.web.limits import count_action
from app.web.membership import open_to_strangers, site_config
from app.web.moderation import moderator_required
from app.web.viewer import login_required, note_write, signed_in, viewer

bp = Blueprint("joining", __name__)

DEAD_LINK = "This isn't the whole link of an invitation, or there is none like it any more. Ask for a new one."
TOO_MANY = f"You have {MOST_OPEN} links already. Revoke one first."
GONE = "Somebody else has already decided about that request."


@bp.route("/join/<token>", methods=["GET", "POST"])
@open_to_strangers
def join(token: str) -> ResponseReturnValue:
    """Make an account with a member's link. On a site without invitations, /register says how to join."""
    if site_config().registration != "invited":
        return redirect(url_for("accounts.register"))
    if signed_in():
        flash("You're already a member. This link is for somebody who isn't yet.")
        return redirect(url_for("posts.home"))
    invitation = Invitation.with_token(token, current_app.config["SECRET_KEY"]) or abort(410, DEAD_LINK)
    try:
        invitation.check()
        return register_with(invitation)
    except InvitationEndedError as error:
        abort(410, str(error))


@bp.route("/settings/invitations", methods=["GET", "POST"])
@login_required
def invitations() -> ResponseReturnValue:
    """Show the viewer's links that can still be used, and make another one."""
    if site_config().registration != "invited":
        abort(404)
    form = InvitationForm()
    if form.validate_on_submit():
        count_action("invite")
        try:
            Invitation.make(viewer(), form.uses.data, form.lifetime)
        except TooManyInvitationsError:
            form.form_errors.append(TOO_MANY)
        else:
            flash("Link created. Send it to the people you invite.")
            return redirect(url_for("joining.invitations"))
    links = [(invitation, _url(invitation)) for invitation in Invitation.open_of(viewer().id)]
    page = render_template("joining/invitations.html", form=form, invitations=links)
    return page, form.status


@bp.post("/settings/invitations/<id:invitation_id>/revoke")
@login_required
def revoke(invitation_id: int) -> ResponseReturnValue:
    """End one of the viewer's own links."""
    Invitation.revoke(viewer().id, invitation_id)
    flash("That link doesn't work any more.")
    return redirect(url_for("joining.invitations"))


def _url(invitation: Invitation) -> str:
    """Return an invitation's link; this page is made for one visitor, so their own name for the site will do."""
    site_url = site_config().site_url or request.host_url.rstrip("/")
    return site_url + url_for("joining.join", token=invitation.token(current_app.config["SECRET_KEY"]))


# What moderators do


@bp.get("/moderation/joining")
@moderator_required
def waiting(_moderator: Moderator) -> ResponseReturnValue:
    """Show who asks to join, the longest wait first."""
    after = id_in_query("after")
    applicants = Applicant.waiting(SHOWN, after or 0)
    newer = applicants[-1].id if len(applicants) == SHOWN else None
    about = {"applicants": applicants, "number": Applicant.count(), "after": after, "newer": newer}
    return render_template("joining/waiting.html", **about)


@bp.post("/moderation/joining/<id:applicant_id>/let-in")
@moderator_required
def let_in(_moderator: Moderator, applicant_id: int) -> ResponseReturnValue:
    """Let somebody in."""
    applicant = Applicant.with_id(applicant_id)
    try:
        user = applicant and applicant.let_in()
    except NameTakenError:
        flash("There is an account with that name by now. You can only turn this request away.")
    else:
        flash(f"@{user.name} is a member now." if user else GONE)
    note_write()
    return redirect(url_for("joining.waiting"))


@bp.post("/moderation/joining/<id:applicant_id>/turn-away")
@moderator_required
def turn_away(_moderator: Moderator, applicant_id: int) -> ResponseReturnValue:
    """Turn somebody away."""
    applicant = Applicant.with_id(applicant_id)
    if applicant:
        applicant.turn_away()
    note_write()
    flash(f"@{applicant.name}'s request is deleted." if applicant else GONE)
    return redirect(url_for("joining.waiting"))
