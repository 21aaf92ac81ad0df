"""Leaving: deleting one's own account."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from app.rate_limit import current_limiter
from app.web.forms.accounts import DeleteForm
from app.web.limits import count_attempt
from app.web.viewer import login_required, sign_out, viewer

bp = Blueprint("leaving", __name__)


@bp.route("/settings/delete", methods=["GET", "POST"])
@login_required
def delete() -> ResponseReturnValue:
    """Delete the viewer's account, given its password."""
    form = DeleteForm()
    if not form.is_submitted():
        return render_template("leaving/delete.html", form=form)
    attempt = count_attempt(current_limiter().password_rules(viewer().id))
    user = viewer()
    if form.validate():
        if user.has_password(form.password.data):
            current_limiter().give_back(attempt)
            user.delete_account()
            sign_out()
            flash("Your account and everything in it has been deleted.")
            return redirect(url_for("posts.latest"))
        form.password.errors.append("That's not your password.")
    return render_template("leaving/delete.html", form=form), 422
