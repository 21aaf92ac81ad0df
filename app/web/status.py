"""How the site is doing, for moderators: what happened in the last thirty days, and how things are now."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from app.daily_counts import BUILT, FROM_CACHE, LOGINS_REFUSED, current_counts, last_days
from app.models import Moderator, Report
from app.models.by_day import joined, published
from app.models.mail import Mail
from app.models.moderation import MOST_COUNTED as MOST_REPORTS
from app.models.pagination import MOST_COUNTED
from app.redis_client import StoreUnavailableError, current_store
from app.sessions import current_interface
from app.web.moderation import moderator_required

bp = Blueprint("status", __name__)

HEIGHT = 60  # of the highest bar, in the chart's own units
SMALLEST = 2  # of a bar that stands for anything but zero

T = TypeVar("T")


@dataclass(frozen=True)
class Chart:
    """A number for each day, as bars and as text."""

    title: str
    column: str  # its name in the table
    days: Sequence[date]
    numbers: Sequence[int]
    most: int | None = None  # was counted on one day; a larger number stands for any more

    @property
    def total(self) -> str:
        """Return the sum of all days."""
        return f"{'at least ' if self._has_more(max(self.numbers)) else ''}{sum(self.numbers):,}"

    @property
    def highest(self) -> str:
        """Return the highest number, and its day: the last such day."""
        number, day = max(zip(self.numbers, self.days, strict=True))
        return f"{self.text(number)} on {in_words(day)}" if number else "none"

    def text(self, number: int) -> str:
        """Return one day's number."""
        return f"{self.most:,}+" if self._has_more(number) else f"{number:,}"

    def bars(self) -> Iterator[tuple[int, str]]:
        """Yield the height of each day's bar, and what it stands for."""
        scale = HEIGHT / max(1, *self.numbers)
        for day, number in zip(self.days, self.numbers, strict=True):
            yield max(SMALLEST, round(number * scale)) if number else 0, f"{in_words(day)}: {self.text(number)}"

    def _has_more(self, number: int) -> bool:
        return self.most is not None and number > self.most


@bp.get("/moderation/status")
@moderator_required
def show(_moderator: Moderator) -> ResponseReturnValue:
    """Show the status page, without Redis's figures if it doesn't answer."""
    days = last_days()
    charts = [
        Chart("New accounts", "Accounts", days, joined(days), MOST_COUNTED),
        Chart("Posts", "Posts", days, published(days), MOST_COUNTED),
    ]
    counts = _if_told(lambda: current_counts().read(days))
    if counts is not None:
        for title, column, what in (
            ("Pages from the cache", "From cache", FROM_CACHE),
            ("Pages built", "Built", BUILT),
            ("Logins refused by the limit", "Refused", LOGINS_REFUSED),
        ):
            charts.append(Chart(title, column, days, [day[what] for day in counts]))
    waiting, failed, _ = Mail.counts()
    reports = Report.count_open()
    totals = sum(counts or [], Counter[str]())
    pages = totals[FROM_CACHE] + totals[BUILT]
    return render_template(
        "moderation/status.html",
        charts=charts,
        days=[in_words(day) for day in days],
        height=HEIGHT,
        reports=f"{MOST_REPORTS}+" if reports > MOST_REPORTS else reports,
        mails=(waiting, failed),
        hit_rate=f"{totals[FROM_CACHE] / pages:.1%}" if pages else None,
        sessions=_if_told(current_interface().count),
        usage=_if_told(current_store().usage),
    )


def in_words(day: date) -> str:
    """Return a day for people."""
    return day.strftime("%-d %b")


def _if_told(ask: Callable[[], T]) -> T | None:
    """Return what Redis answers, or None if it doesn't."""
    try:
        return ask()
    except StoreUnavailableError:
        return None
