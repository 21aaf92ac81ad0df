"""Pinned posts: a few above everyone's latest ones, which moderators choose, and one on top of a person's own page."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import ForeignKey, Select, select
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, UTCDateTime, db
from app.models.pagination import Id
from app.models.posts import Listed, listed_columns

MOST_PINNED = 3  # more would push the latest posts off the screen


class PinnedPost(Base):
    """A post above everyone's latest ones."""

    __tablename__ = "pinned_posts"

    post_id: Mapped[int] = mapped_column(Id, ForeignKey("posts.id", ondelete="CASCADE"), primary_key=True)
    pinned_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))

    @classmethod
    def all(cls) -> list[Listed]:
        """Return these posts, the last pinned first; at most MOST_PINNED."""
        return [Listed(*row) for row in db.session.execute(_pinned())]


@cache
def _pinned() -> Select[Any]:
    table = PinnedPost.__table__
    query = select(*listed_columns(table.c.post_id, table)).order_by(table.c.pinned_at.desc(), table.c.post_id.desc())
    return query.limit(MOST_PINNED)
