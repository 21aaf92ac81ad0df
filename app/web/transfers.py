"""Taking one's data along: an export of it, and importing the posts of one."""

from datetime import datetime

from flask import Blueprint, Flask, Response, abort, flash, redirect, render_template, stream_with_context, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from app.background import Background
from app.config import Config
from app.front.bridge import MAX_CONTENT_LENGTH
from app.models.exports import Site, export_steps, start_export
from app.models.imports import ImportFileError, import_steps, start_import
from app.models.transfers import EXPORT, IMPORT, LARGEST_FILE, Transfer, Transfers, UnderWayError
from app.rate_limit import account_rules
from app.sessions import current_session
from app.web.addresses import address_required
from app.web.forms.transfers import TOO_LARGE, ImportForm
from app.web.limits import count_if_possible
from app.web.recent_login import recent_login_required
from app.web.templating import full_time
from app.web.uploads import takes_upload
from app.web.viewer import login_required, note_write, signed_in, viewer

bp = Blueprint("transfers", __name__)

UNDER_WAY = "Your last import is still under way."


@bp.get("/settings/export")
@login_required
def exporting() -> ResponseReturnValue:
    """Show how far the viewer's export is, or let them ask for one."""
    return render_template("transfers/export.html", transfer=Transfer.of(current_session()["user_id"], EXPORT))


@bp.post("/settings/export")
@recent_login_required
def export() -> ResponseReturnValue:
    """Have an export made, unless there is a new one."""
    try:
        start_export(viewer())
    except UnderWayError:
        flash("There can be one export an hour.")
    return redirect(url_for("transfers.exporting"))


@bp.get("/settings/export/download")
@recent_login_required
def download() -> ResponseReturnValue:
    """Send the viewer their export."""
    transfer = Transfer.of(current_session()["user_id"], EXPORT)
    if transfer is None or not transfer.is_done:
        abort(404)
    name = f"pipit-{current_session()['name']}-{transfer.created_at:%Y-%m-%d}.zip"
    response = Response(stream_with_context(transfer.parts()), mimetype="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.route("/settings/import", methods=["GET", "POST"])
@login_required
@address_required
@takes_upload(LARGEST_FILE + MAX_CONTENT_LENGTH)  # the form around it has a name and a token
def importing() -> ResponseReturnValue:
    """Let the viewer upload an export, and show how far its import is, or how it went."""
    form = ImportForm()
    if not form.is_submitted():
        return _page(form)
    count_if_possible(account_rules("import", current_session()["user_id"]))
    if form.validate():
        try:
            start_import(viewer(), form.file.data.stream)
        except (ImportFileError, UnderWayError) as error:
            form.file.errors = [str(error) or UNDER_WAY]
        else:
            note_write()
            return redirect(url_for("transfers.importing"))
    return _page(form), 422


@bp.errorhandler(RequestEntityTooLarge)
def too_large(_error: RequestEntityTooLarge) -> ResponseReturnValue:
    """Say beside the field that the file is too large. It has not been read."""
    form = ImportForm(formdata=None)
    form.file.errors = [TOO_LARGE]
    return _page(form), 413


def _page(form: ImportForm) -> str:
    person = signed_in()
    return render_template("transfers/import.html", form=form, transfer=person and Transfer.of(person.id, IMPORT))


def init_transfers(app: Flask, config: Config) -> None:
    """Make exports and imports in the background."""
    background: Background = app.extensions["background"]
    site = Site(config.site_name, config.site_url)

    def draw(template: str, /, **about: object) -> str:
        # Not render_template(): what that adds comes from a request, and there is none.
        return app.jinja_env.get_template(f"exports/{template}.html").render(**about)

    app.jinja_env.filters["export_time"] = lambda date: full_time(datetime.fromisoformat(date))
    transfers = Transfers({EXPORT: lambda transfer: export_steps(transfer, draw, site), IMPORT: import_steps})
    background.register(transfers.step)
