"""Forms about inviting others."""

from datetime import timedelta

from wtforms import SelectChoice, SelectField

from app.web.forms import Form

USES = {1: "1 person", 5: "5 people", 25: "25 people"}
DAYS = {1: "1 day", 7: "1 week", 30: "1 month"}


def _choices(values: dict[int, str]) -> list[SelectChoice]:
    return [SelectChoice(str(value), words) for value, words in values.items()]


class InvitationForm(Form):
    """A link that lets others join."""

    uses = SelectField("How many can join with it", choices=_choices(USES), coerce=int)
    days = SelectField("Works for", choices=_choices(DAYS), default=7, coerce=int)

    @property
    def lifetime(self) -> timedelta:
        """Return for how long the link works."""
        return timedelta(days=self.days.data)
