"""People's own pictures: serving them, and uploading or removing one's own."""

from flask import Blueprint, Response, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from app.config import DAY
from app.front.bridge import MAX_CONTENT_LENGTH
from app.models.pictures import LARGEST, Picture
from app.rate_limit import account_rules
from app.sessions import current_session
from app.web.forms.pictures import TOO_LARGE, PictureForm
from app.web.limits import count_if_possible
from app.web.uploads import takes_upload
from app.web.viewer import login_required, note_write, signed_in, viewer

bp = Blueprint("pictures", __name__)

FOR_EVER = 365 * DAY  # s; the name is that of the content, so another picture has another name


@bp.get("/pictures/<digest:digest>.webp")
def show(digest: str) -> ResponseReturnValue:
    """Serve a picture that somebody has."""
    response = Response(Picture.with_digest(digest) or abort(404), mimetype="image/webp")
    response.cache_control.public = response.cache_control.immutable = True
    response.cache_control.max_age = FOR_EVER
    response.set_etag(digest)
    # Caches may keep the response for everyone, so it must renew nobody's cookie, and not vary with cookies either.
    current_session().modified = False
    current_session().accessed = False
    return response.make_conditional(request)


@bp.route("/settings/picture", methods=["GET", "POST"])
@login_required
@takes_upload(LARGEST + MAX_CONTENT_LENGTH)  # the form around it has a name and a token
def settings() -> ResponseReturnValue:
    """Let the viewer choose a picture of themselves."""
    if request.method == "POST":
        count_if_possible(account_rules("picture", current_session()["user_id"]))
    form = PictureForm()  # nothing has been read from SQL yet: a connection need not wait while the picture is decoded
    if not form.validate_on_submit():
        return _page(form), form.status
    Picture.give(viewer(), form.webp)
    note_write()
    flash("Saved. Everyone sees your new picture within two minutes.")
    return redirect(url_for("people.profile", name=viewer().name))


@bp.post("/settings/picture/remove")
@login_required
def remove() -> ResponseReturnValue:
    """Remove the viewer's picture."""
    Picture.remove(viewer())
    note_write()
    flash("Your picture was removed.")
    return redirect(url_for("pictures.settings"))


@bp.errorhandler(RequestEntityTooLarge)
def too_large(_error: RequestEntityTooLarge) -> ResponseReturnValue:
    """Say beside the field that the file is too large. It has not been read."""
    form = PictureForm(formdata=None)
    form.picture.errors = [TOO_LARGE]
    return _page(form), 413


def _page(form: PictureForm) -> str:
    return render_template("pictures/settings.html", form=form, user=viewer() if signed_in() else None)
