"""Who moderates, and the stamps that hold how much waits for them."""

from datetime import UTC, datetime

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, UTCDateTime, db
from app.models.pagination import Id
from app.models.writes import notifications_of


class ModeratorRole(Base):
    """Somebody may moderate. Only the command line adds or deletes a row."""

    __tablename__ = "moderators"

    user_id: Mapped[int] = mapped_column(Id, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    since: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))


def is_moderator(user_id: int) -> bool:
    """Return whether the user with that id is a moderator."""
    return db.session.get(ModeratorRole, user_id, populate_existing=True) is not None


def news_of_moderators() -> set[str]:
    """Return the stamps that hold how much waits for a decision; see news_of()."""
    return {notifications_of(user_id) for user_id in db.session.scalars(select(ModeratorRole.user_id))}
