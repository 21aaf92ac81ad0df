"""Leaving: deleting one's own account."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from app.web.forms.accounts import DeleteForm
from app.web.recent_login import has_proved
from app.web.viewer import login_required, sign_out, viewer

bp = Blueprint("leaving", __name__)


@bp.route("/settings/delete", methods=["GET", "POST"])
@login_required
def delete() -> ResponseReturnValue:
    """Delete the viewer's account, given its password."""
    form = DeleteForm()
    if not form.is_submitted():
        return render_template("leaving/delete.html", form=form)
    if not has_proved(form, form.password):
        return render_template("leaving/delete.html", form=form), 422
    viewer().delete_account()
    sign_out()
    flash("Your account and everything in it have been deleted.")
    return redirect(url_for("posts.latest"))
