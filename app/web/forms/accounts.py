"""Forms about an account: joining, logging in, passwords."""

from wtforms import Field, HiddenField, PasswordField, StringField, ValidationError
from wtforms.validators import InputRequired, Length, Optional, Regexp

from app.models import Applicant, User
from app.models.accounts import NAME_LENGTH, NAME_PATTERN, PASSWORD_MAX, PASSWORD_MIN
from app.models.former_names import FormerName
from app.models.joining import WHY_LENGTH
from app.models.post_text import one_line
from app.web.forms import Form, password_field, strip
from app.web.forms.addresses import email_field

# Names that would look like the site's own accounts.
RESERVED_NAMES = {"admin", "administrator", "moderator", "pipit", "root", "support"}
# Alone, or with digits or a mark after them, these are the most common passwords that are long enough.
COMMON_WORDS = frozenset(
    """
    password passwort passw0rd p@ssw0rd p@ssword iloveyou sunshine princess football baseball superman starwars welcome
    qwerty qwertyuiop qwertz azerty asdf asdfgh asdfghjkl zxcvbnm 1q2w3e4r 1q2w3e4r5t 1qaz2wsx q1w2e3r4 qazwsx qazwsxedc
    abc abcd abcdef abcdefgh letmein trustno monkey dragon master shadow michael jennifer jordan charlie liverpool
    chelsea arsenal computer internet whatever secret changeme default admin administrator pipit
    """.split()  # noqa: SIM905  # a list would take fifty lines
)
ROWS_OF_KEYS = "01234567890123456789 98765432109876543210 qwertyuiopasdfghjklzxcvbnm abcdefghijklmnopqrstuvwxyz"
DIFFERENT = 3  # characters that a password has at least: not 11111111 nor abababab
EMAIL_USES = "Never shown to anyone. You can log in with it, and choose a new password if you forget yours."
NAME_TAKEN = "“{}” is taken. Choose another name."


def without_at(text: str | None) -> str:
    """Return a name without surrounding white space or a leading @, which people may type."""
    return strip(text).removeprefix("@")


def new_password_field(label: str) -> PasswordField:
    """Return the field for a password that is being chosen; it refuses common ones (NIST SP 800-63B-4, 3.1.1.2)."""
    return PasswordField(
        label,
        description=f"At least {PASSWORD_MIN} characters. A few random words are easy to remember and hard to guess.",
        validators=[
            InputRequired("Choose a password."),
            Length(min=PASSWORD_MIN, message=f"Use at least {PASSWORD_MIN} characters."),
            Length(max=PASSWORD_MAX, message=f"Use at most {PASSWORD_MAX} characters."),
            _is_uncommon,
        ],
        render_kw={"autocomplete": "new-password", "minlength": PASSWORD_MIN},
    )


def _is_uncommon(_form: Form, field: Field) -> None:
    """Refuse what attackers try first. Raises ValidationError."""
    password = field.data.casefold()
    if password.rstrip("0123456789!.?") in COMMON_WORDS or len(set(password)) < DIFFERENT or password in ROWS_OF_KEYS:
        raise ValidationError("This password is one of the first that people try. Choose another one.")


class RegisterForm(Form):
    """A new account."""

    username = StringField(
        "Name",
        filters=[without_at],
        description="Letters, digits and _. It will be part of your profile's address, so you can't change it later.",
        validators=[
            InputRequired("Choose a name."),
            Length(max=NAME_LENGTH, message=f"Use at most {NAME_LENGTH} characters."),
            Regexp(NAME_PATTERN.pattern + r"\Z", message="Use only letters from a to z, digits and _."),
        ],
        render_kw={"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"},
    )
    email = email_field(f"Optional. {EMAIL_USES}")
    password = new_password_field("Password")
    why = StringField(  # where a moderator decides
        "Why would you like to join?",
        filters=[lambda typed: one_line(typed or "")],
        description="Optional. Only moderators see it.",
        validators=[Optional(), Length(max=WHY_LENGTH, message=f"Use at most {WHY_LENGTH} characters.")],
        render_kw={"autocomplete": "off", "maxlength": WHY_LENGTH, "dir": "auto"},
    )
    next = HiddenField()

    def validate_username(self, field: Field) -> None:
        """Refuse a reserved name, or one that is taken."""
        if field.data.lower() in RESERVED_NAMES:
            raise ValidationError("That name is reserved. Choose another one.")
        if User.named(field.data) or FormerName.has(field.data) or Applicant.named(field.data):
            raise ValidationError(NAME_TAKEN.format(field.data))

    @classmethod
    def where(cls, *, sends_mail: bool, insists: bool, asks: bool) -> "RegisterForm":
        """Return the form for a site.

        sends_mail: it has a field for an address, which is None otherwise. insists: the address is required.
        asks: a moderator decides, and may be told why somebody would like to join.
        """
        form = InsistentRegisterForm() if insists else cls()
        if not sends_mail:
            del form.email
        if not asks:
            del form.why
        return form


class InsistentRegisterForm(RegisterForm):
    """A new account on a site that wants everyone's address."""

    email = email_field(
        f"{EMAIL_USES} You can post once you have opened the link that we send to it.",
        missing="Enter your e-mail address.",
    )


class LoginForm(Form):
    """Logging in."""

    username = StringField(
        "Name or e-mail",
        filters=[strip],
        validators=[InputRequired("Enter your name.")],
        render_kw={"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"},
    )
    password = password_field("Password")
    next = HiddenField()


class PasswordForm(Form):
    """Another password for the same account."""

    current_password = password_field("Current password", missing="Enter your current password.")
    new_password = new_password_field("New password")

    def validate_new_password(self, field: Field) -> None:
        """Refuse the password that the account has."""
        if field.data == self.current_password.data:
            raise ValidationError("The new password is the same as the current one.")


class DeleteForm(Form):
    """The deletion of one's own account."""

    password = password_field("Password")


class ResetForm(Form):
    """A new password, chosen with a link."""

    new_password = new_password_field("New password")
