"""The form for an export that is to be imported."""

from flask_wtf.file import FileField, FileRequired

from app.models.transfers import LARGEST_FILE
from app.web.forms import UploadForm

TOO_LARGE = f"That file is too large. An export can have up to {LARGEST_FILE // 2**20} MB."


class ImportForm(UploadForm):
    """An export to upload."""

    file = FileField(
        "Choose an export",
        description=f"The ZIP file that you downloaded from Pipit, of up to {LARGEST_FILE // 2**20} MB.",
        validators=[FileRequired("Choose a file first.")],
        render_kw={"accept": ".zip,application/zip", "data-most-bytes": LARGEST_FILE},
    )
