"""The form for a picture of oneself."""

from flask_wtf.file import FileField, FileRequired
from wtforms import Field, ValidationError

from app.models.pictures import LARGEST, PictureError, made_small
from app.web.forms import UploadForm

TOO_LARGE = f"That file is too large. A picture can have up to {LARGEST // 2**20} MB."


class PictureForm(UploadForm):
    """A picture to upload."""

    picture = FileField(
        "Choose a picture",
        description=(
            f"A JPEG, PNG, WebP or GIF file of up to {LARGEST // 2**20} MB. Its middle is shown, in a circle. "
            "On posts it changes within two minutes."
        ),
        validators=[FileRequired("Choose a file first.")],
        # Without HEIC in this list, iPhones make a JPEG of a photo before they send it.
        render_kw={"accept": "image/jpeg,image/png,image/webp,image/gif", "data-most-bytes": LARGEST},
    )
    webp: bytes  # the picture, made small

    def validate_picture(self, field: Field) -> None:
        """Make a small picture of it, and store it in `webp`."""
        upload = field.data.read(LARGEST + 1)
        if len(upload) > LARGEST:
            raise ValidationError(TOO_LARGE)
        try:
            self.webp = made_small(upload)
        except PictureError as error:
            raise ValidationError(str(error)) from None
