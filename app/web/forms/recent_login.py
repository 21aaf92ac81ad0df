"""The form that asks for the password once more."""

from wtforms import HiddenField, PasswordField
from wtforms.validators import InputRequired, Length

from app.models.accounts import PASSWORD_MAX
from app.web.forms import Form


class ConfirmForm(Form):
    """The password, beside whatever another form has sent; so its name is its own."""

    confirmed_password = PasswordField(
        "Password",
        validators=[InputRequired("Enter your password."), Length(max=PASSWORD_MAX, message="That is too long.")],
        render_kw={"autocomplete": "current-password", "autofocus": True},
    )
    next = HiddenField()
    resend = HiddenField()  # not empty if another form is waiting
