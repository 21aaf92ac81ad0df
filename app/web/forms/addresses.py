"""Forms about an e-mail address: a forgotten password, another address."""

from wtforms import EmailField
from wtforms.validators import InputRequired, Length, Optional, Regexp

from app.models.accounts import EMAIL_LENGTH, EMAIL_PATTERN
from app.web.forms import Form, password_field, strip


def email_field(description: str = "", *, missing: str = "") -> EmailField:
    """Return a field for an e-mail address. missing: what to say if it is empty; without that, it is optional."""
    return EmailField(
        "E-mail",
        filters=[strip],
        description=description,
        validators=[
            InputRequired(missing) if missing else Optional(),
            Length(max=EMAIL_LENGTH, message="That is too long for an e-mail address."),
            Regexp(EMAIL_PATTERN, message="That doesn't look like an e-mail address, such as ada@example.org."),
        ],
        render_kw={"autocomplete": "email"},
    )


class ForgotForm(Form):
    """Asking for a link to choose a new password."""

    email = email_field(missing="Enter your e-mail address.")


class AddressForm(Form):
    """Another address for an account, or none."""

    email = email_field("Never shown to anyone. You can log in with it, and choose a new password if you forget yours.")
    password = password_field("Your password")
