"""The forms: what a person may type, and what they are told if it can't be used. One module for each blueprint."""

from flask import request
from flask_wtf import FlaskForm
from flask_wtf.file import FileField
from werkzeug.datastructures import MultiDict
from wtforms import PasswordField
from wtforms.form import BaseForm
from wtforms.validators import InputRequired, Length

from app.models.accounts import PASSWORD_MAX


class Form(FlaskForm):
    """A form that reads only text fields.

    Flask-WTF also takes uploaded files and JSON: either could replace a field's text with another type.
    """

    class Meta(FlaskForm.Meta):
        """How the form reads a request."""

        def wrap_formdata(self, form: BaseForm, formdata: object) -> object:  # noqa: ARG002  # a method of WTForms
            """Return the submitted fields, as text by name; None unless the request is a POST."""
            return request.form if request.method == "POST" else None

    @property
    def status(self) -> int:
        """Return the status of a page that shows this form: 422 if what was sent was refused."""
        return 422 if self.is_submitted() else 200


class UploadForm(Form):
    """A form with files. A file can't pass for a field of text, nor a text for a file."""

    class Meta(Form.Meta):
        """How the form reads a request: files where it has fields for them, and the usual fields of text."""

        def wrap_formdata(self, form: BaseForm, formdata: object) -> object:
            """Return what was submitted; None unless the request is a POST that was read."""
            if request.method != "POST" or formdata is None:
                return None
            sent = MultiDict[str, object](request.form)
            for field in form:
                if isinstance(field, FileField):
                    sent.setlist(field.name, request.files.getlist(field.name))
            return sent


def password_field(label: str, *, missing: str = "Enter your password.", **attributes: bool) -> PasswordField:
    """Return a field for the password that an account has. missing: what to say if it is empty."""
    return PasswordField(
        label,
        validators=[InputRequired(missing), Length(max=PASSWORD_MAX, message="That is too long.")],
        render_kw={"autocomplete": "current-password", **attributes},
    )


def strip(text: str | None) -> str:
    """Return the text without the white space around it."""
    return (text or "").strip()
