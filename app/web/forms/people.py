"""Forms about a person: what they say of themselves, what they are told of."""

from wtforms import BooleanField, Field, StringField, ValidationError
from wtforms.validators import Length, Optional

from app.models.accounts import ABOUT_LENGTH, DISPLAY_NAME_LENGTH, LINK_LENGTH
from app.models.post_text import looks_like_mention, one_line, web_address
from app.web.forms import Form, strip


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
        if not field.errors and looks_like_mention(field.data):  # it takes quadratic time for a long pile of accents
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
