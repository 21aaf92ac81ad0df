"""The forms for a code from an authenticator app."""

from wtforms import StringField
from wtforms.validators import InputRequired, Length

from app.web.forms import Form

LONGEST_CODE = 100  # characters; a recovery code has 19


def code_field(label: str, description: str, **attributes: str | bool) -> StringField:
    """Return a field for a code that browsers offer to fill in."""
    return StringField(
        label,
        description=description,
        validators=[InputRequired("Enter a code."), Length(max=LONGEST_CODE, message="That is too long for a code.")],
        render_kw={"autocomplete": "one-time-code", **attributes},
    )


class SetUpForm(Form):
    """A code that proves that the app has the secret."""

    code = code_field("Code", "The six digits that the app shows now.", inputmode="numeric")


class AppCodeForm(Form):
    """A code from the app, to log in. A recovery code is taken, too."""

    code = code_field("Code", "The six digits in your authenticator app.", inputmode="numeric", autofocus=True)


class RecoveryCodeForm(Form):
    """A recovery code, to log in: it has letters, for which a phone needs another keyboard."""

    code = code_field(
        "Recovery code",
        "One of the codes you kept when you set this up.",
        autocapitalize="none",
        spellcheck="false",
        autofocus=True,
    )
