"""Forms about moderation: a report, a moderator's decision, one of the site's own pages."""

from wtforms import RadioField, TextAreaField
from wtforms.validators import DataRequired, InputRequired, Length

from app.models.accounts import REASON_LENGTH
from app.models.post_text import CONTROL
from app.models.site_pages import LENGTH
from app.web.forms import Form, strip


def _reason_field(label: str, description: str, missing: str) -> TextAreaField:
    return TextAreaField(
        label,
        filters=[strip, lambda typed: CONTROL.sub("", typed)],
        description=description,
        validators=[
            DataRequired(missing),
            Length(max=REASON_LENGTH, message=f"Use at most {REASON_LENGTH} characters."),
        ],
        render_kw={"rows": 3, "autocomplete": "off", "maxlength": REASON_LENGTH, "dir": "auto"},
    )


class ReportForm(Form):
    """Telling the moderators of a post or a person."""

    reason = _reason_field(
        "What's wrong?",
        "Only the moderators see this, and who sent it.",
        "Say in a few words what's wrong.",
    )


class DecisionForm(Form):
    """A moderator's decision about a post or a person. The view fills in the choices."""

    choice = RadioField("What do you want to do?", validators=[InputRequired("Choose what to do.")])
    reason = _reason_field(
        "Reason",
        "It is kept in the log. The person you warn or suspend sees it, and so does the author of a removed post.",
        "Give a reason.",
    )


class SitePageForm(Form):
    """The text of one of the site's own pages."""

    body = TextAreaField(
        "Text",
        description=(
            "A blank line begins a new paragraph, “# ” at the start of a line a heading, and “- ” an entry of a list. "
            "{site_name} becomes the site's name. If you leave it empty, the page gets its first text back."
        ),
        validators=[Length(max=LENGTH, message=f"Use at most {LENGTH:,} characters.")],
        render_kw={"rows": 20, "autocomplete": "off", "dir": "auto"},
    )
