"""How many people joined, and how many posts were written, on each day; for the moderators' page."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import InstrumentedAttribute

from app.extensions import db
from app.models.accounts import User
from app.models.pagination import counted
from app.models.posts import Post


def joined(days: Sequence[date]) -> list[int]:
    """Return how many accounts were made on each of these days in UTC, as counted() does. Deleted ones don't count."""
    return _counts(days, User.created_at)


def published(days: Sequence[date]) -> list[int]:
    """Return how many posts were written here on each of these days, likewise. Imported ones don't count."""
    return _counts(days, Post.created_at, Post.id > 0)


def _counts(
    days: Sequence[date], created_at: InstrumentedAttribute[datetime], *conditions: ColumnElement[bool]
) -> list[int]:
    """Return the counts, read in one statement: a part of an index for each day."""
    starts = [datetime.combine(day, time.min, UTC) for day in days]
    each: list[Any] = [
        counted(and_(created_at >= start, created_at < start + timedelta(days=1), *conditions)) for start in starts
    ]
    return list(db.session.execute(select(*each)).one())
