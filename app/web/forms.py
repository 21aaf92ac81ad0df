"""The forms: what a person may type, and what they are told if it can't be used."""

from flask import request
from flask_wtf import FlaskForm
from wtforms import (
    BooleanField,
    EmailField,
    Field,
    HiddenField,
    PasswordField,
    StringField,
    TextAreaField,
    ValidationError,
)
from wtforms.form import BaseForm
from wtforms.validators import InputRequired, Length, Optional, Regexp

from app.models import Post, PostTextError, User
from app.models.accounts import (
    ABOUT_LENGTH,
    DISPLAY_NAME_LENGTH,
    EMAIL_LENGTH,
    EMAIL_PATTERN,
    LINK_LENGTH,
    NAME_LENGTH,
    NAME_PATTERN,
    PASSWORD_MAX,
    PASSWORD_MIN,
)
from app.models.pagination import parse_id
from app.models.post_text import LENGTH, PostText, looks_like_mention, one_line, web_address

# Names that would look like the site's own accounts.
RESERVED_NAMES = {"admin", "administrator", "moderator", "pipit", "root", "support"}


class Form(FlaskForm):
    """A form that reads only text fields.

    Flask-WTF also takes uploaded files and JSON: either could replace a field's text with another type.
    """

    class Meta(FlaskForm.Meta):
        """How the form reads a request."""

        def wrap_formdata(self, form: BaseForm, formdata: object) -> object:  # noqa: ARG002  # a method of WTForms
            """Return the submitted fields, as text by name; None unless the request is a POST."""
            return request.form if request.method == "POST" else None


EMAIL_USES = (
    "Optional, and never shown to anyone. You can log in with it, and whoever runs this site can reach you if you "
    "forget your password."
)


def strip(text: str | None) -> str:
    """Return the text without the white space around it."""
    return (text or "").strip()


def without_at(text: str | None) -> str:
    """Return a name without surrounding white space or a leading @, which people may type."""
    return strip(text).removeprefix("@")


def new_password_field(label: str) -> PasswordField:
    """Return the field for a password that is being chosen."""
    return PasswordField(
        label,
        description=f"At least {PASSWORD_MIN} characters. A few random words are easy to remember and hard to guess.",
        validators=[
            InputRequired("Choose a password."),
            Length(min=PASSWORD_MIN, message=f"Use at least {PASSWORD_MIN} characters."),
            Length(max=PASSWORD_MAX, message=f"Use at most {PASSWORD_MAX} characters."),
        ],
        render_kw={"autocomplete": "new-password", "minlength": PASSWORD_MIN},
    )


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
    email = EmailField(
        "E-mail",
        filters=[strip],
        description=EMAIL_USES,
        validators=[
            Optional(),
            Length(max=EMAIL_LENGTH, message="That is too long for an e-mail address."),
            Regexp(EMAIL_PATTERN, message="That doesn't look like an e-mail address, such as ada@example.org."),
        ],
        render_kw={"autocomplete": "email"},
    )
    password = new_password_field("Password")
    next = HiddenField()

    def validate_username(self, field: Field) -> None:
        """Refuse a reserved name, or one that is taken."""
        if field.data.lower() in RESERVED_NAMES:
            raise ValidationError("That name is reserved. Choose another one.")
        if User.named(field.data):
            raise ValidationError(NAME_TAKEN.format(field.data))

    def validate_email(self, field: Field) -> None:
        """Refuse an address that has an account."""
        if field.data and not field.errors and User.with_email(field.data):
            raise ValidationError(EMAIL_TAKEN)


NAME_TAKEN = "“{}” is taken. Choose another name."
EMAIL_TAKEN = "There is already an account with that address. Log in instead?"


class LoginForm(Form):
    """Logging in."""

    username = StringField(
        "Name or e-mail",
        filters=[strip],
        validators=[InputRequired("Enter your name.")],
        render_kw={"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"},
    )
    password = PasswordField(
        "Password",
        validators=[InputRequired("Enter your password."), Length(max=PASSWORD_MAX, message="That is too long.")],
        render_kw={"autocomplete": "current-password"},
    )
    next = HiddenField()


class PasswordForm(Form):
    """Another password for the same account."""

    current_password = PasswordField(
        "Current password",
        validators=[
            InputRequired("Enter your current password."),
            Length(max=PASSWORD_MAX, message="That is too long."),
        ],
        render_kw={"autocomplete": "current-password"},
    )
    new_password = new_password_field("New password")


class ResetForm(Form):
    """A new password, chosen with a link."""

    new_password = new_password_field("New password")


class ProfileForm(Form):
    """What somebody says of themselves."""

    display_name = StringField(
        "Display name",
        filters=[lambda typed: one_line(typed or "")],
        description="Shown beside your @name. On posts it changes within two minutes.",
        validators=[
            Optional(),
            Length(max=DISPLAY_NAME_LENGTH, message=f"Use at most {DISPLAY_NAME_LENGTH} characters."),
        ],
        render_kw={"autocomplete": "name", "maxlength": DISPLAY_NAME_LENGTH, "dir": "auto"},
    )
    about = StringField(
        "About you",
        filters=[lambda typed: one_line(typed or "")],
        description="One line.",
        validators=[Optional(), Length(max=ABOUT_LENGTH, message=f"Use at most {ABOUT_LENGTH} characters.")],
        render_kw={"autocomplete": "off", "maxlength": ABOUT_LENGTH, "dir": "auto"},
    )
    link = StringField(
        "Link",
        filters=[strip],
        description="Your website, or another page about you.",
        validators=[Optional(), Length(max=LINK_LENGTH, message=f"Use at most {LINK_LENGTH} characters.")],
        render_kw={
            "autocomplete": "url",
            "inputmode": "url",
            "autocapitalize": "none",
            "maxlength": LINK_LENGTH,
            "dir": "ltr",
        },
    )

    def validate_display_name(self, field: Field) -> None:
        """Refuse what could be taken for somebody's @name."""
        if looks_like_mention(field.data):
            raise ValidationError("A display name can't begin with @.")

    def validate_link(self, field: Field) -> None:
        """Refuse what is no link to a web page; store it with its scheme."""
        if field.data and not field.errors:
            url = web_address(field.data)
            if url is None or len(url) > LINK_LENGTH:
                raise ValidationError("That doesn't look like a web address, such as https://example.org.")
            field.data = url


class NotificationsForm(Form):
    """What somebody is told of; a field for each kind of notification."""

    reply = BooleanField("Replies to you")
    mention = BooleanField("Posts that mention you")
    like = BooleanField("Likes of your posts")
    follow = BooleanField("New followers")


GONE = "The post that you were replying to has been deleted. You can publish this as a post of its own."


class TextForm(Form):
    """The text of a post."""

    body = TextAreaField(
        "What's happening?",
        render_kw={"rows": 3, "autocomplete": "off", "data-limit": LENGTH, "dir": "auto"},
    )
    text: PostText

    def validate_body(self, field: Field) -> None:
        """Refuse text that can't be a post; store valid text in `text`."""
        try:
            self.text = PostText.parse(field.data or "")
        except PostTextError as error:
            raise ValidationError(str(error)) from None


class PostForm(TextForm):
    """A post being written, or a reply."""

    reply_to = HiddenField()
    form_key = HiddenField(validators=[Length(max=100)])
    answered: Post | None = None  # the post to reply to

    def validate_reply_to(self, field: Field) -> None:
        """Find the post to reply to, if any; store it in `answered`. Without it, the text can be sent as a post."""
        if field.data:
            post_id = parse_id(field.data)
            self.answered = Post.with_id(post_id) if post_id else None
            if self.answered is None:
                raise ValidationError(GONE)
