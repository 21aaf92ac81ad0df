"""Forms for writing a post, a reply, or another text of a post."""

from wtforms import Field, HiddenField, TextAreaField, ValidationError
from wtforms.validators import Length

from app.models import Post, PostTextError
from app.models.pagination import parse_id
from app.models.post_text import LENGTH, PostText
from app.web.forms import Form

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
