"""Who wants to see nothing of whom.

A mute is one-sided: its owner no longer sees the other person's posts in lists, and is told nothing of what they do. A
block is mutual and complete: neither sees anything of the other, nor can follow, answer or like them.

Whom a person does not see concerns every page they read, so it must cost a page nothing. The ids are held by a stamp
(app/cache.py), which the front reads with the session. The page itself is the same for everyone. What is by these
people is left out when the page is filled for its reader (app/front/hidden_people.py).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, ForeignKey, Index, case, delete, exists, or_, select
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, UTCDateTime, db
from app.models.follows import Follow, Person, people_table, person_columns
from app.models.notifications import Notification
from app.models.pagination import Id
from app.models.writes import hidden_from, notifications_of, write

if TYPE_CHECKING:
    from app.models.accounts import User

MOST_LISTED = 1_000  # people, on the page of those whom somebody has blocked or muted


class BlockedError(Exception):
    """One of two people has blocked the other, so they can't follow, answer or like each other."""


class Block(Base):
    """Somebody has blocked another person, or only muted them."""

    __tablename__ = "blocks"
    __table_args__ = (
        Index("uq_blocks_user_id_other_id", "user_id", "other_id", unique=True),
        Index("ix_blocks_other_id", "other_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    other_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    is_mute: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))

    @classmethod
    def by(cls, user_id: int) -> list[tuple[Person, bool]]:
        """Return whom somebody has blocked or muted, the latest first, each with whether it is a mute."""
        people = people_table()
        query = select(*person_columns(people), cls.is_mute).join(cls, cls.other_id == people.c.id)
        query = query.where(cls.user_id == user_id).order_by(cls.id.desc()).limit(MOST_LISTED)
        return [(Person(*row[:-1]), row[-1]) for row in db.session.execute(query)]

    @classmethod
    def lets_through(cls, actor_id: int, other_id: int) -> bool:
        """Return whether a person wants to be told of what the actor does to them. Raises BlockedError.

        Call this in a write that has inserted its row. Then a block that comes at the same moment either waits for the
        row and deletes it, or is found here.
        """
        mine = (cls.user_id == actor_id) & (cls.other_id == other_id) & ~cls.is_mute
        theirs = (cls.user_id == other_id) & (cls.other_id == actor_id)
        mutes = db.session.scalars(select(cls.is_mute).where(mine | theirs)).all()
        if not all(mutes):
            raise BlockedError
        return not mutes

    @classmethod
    def hides(cls, user_id: ColumnElement[int], other_id: int) -> ColumnElement[bool]:
        """Return a condition: the user has blocked or muted that person, or has been blocked by them."""
        mine = (cls.user_id == user_id) & (cls.other_id == other_id)
        theirs = (cls.user_id == other_id) & (cls.other_id == user_id) & ~cls.is_mute
        return exists().where(mine | theirs)

    @classmethod
    def others(cls, user_id: int) -> Sequence[int]:
        """Return the ids of those who have blocked or muted a user, or whom the user has."""
        other = case((cls.user_id == user_id, cls.other_id), else_=cls.user_id)
        return db.session.scalars(select(other).where(or_(cls.user_id == user_id, cls.other_id == user_id))).all()

    @classmethod
    def held(cls, user_id: int) -> str:
        """Return whom a user does not see: the ids of those they have muted, a bar, the ids of those who are blocked.

        The latter are those whom they have blocked and those who have blocked them.
        """
        query = select(cls.user_id, cls.other_id, cls.is_mute)
        query = query.where(or_(cls.user_id == user_id, (cls.other_id == user_id) & ~cls.is_mute))
        muted, blocked = set[int](), set[int]()
        for owner_id, other_id, is_mute in db.session.execute(query):
            (muted if is_mute else blocked).add(other_id if owner_id == user_id else owner_id)
        return f"{_joined(muted - blocked)}|{_joined(blocked)}"


def hidden_ids(held: str) -> tuple[set[int], set[int]]:
    """Return the ids of the muted, and of the blocked, given what is held() of them."""
    muted, _, blocked = held.partition("|")
    return set(map(int, muted.split())), set(map(int, blocked.split()))


def block(user: "User", other: "User") -> None:
    """Have two people see nothing of each other; they no longer follow each other. Raises StoreUnavailableError."""
    pairs = (user, other), (other, user)
    changed = {hidden_from(user.id), hidden_from(other.id), notifications_of(user.id), notifications_of(other.id)}
    changed.update(*(Follow.changes(*pair) for pair in pairs))
    counted_on = set[str]().union(*(Follow.counted_on(*pair) for pair in pairs))
    with write(*changed, counted_on=counted_on, removal=True):
        _lock(user.id, other.id)
        for one, another in pairs:
            Follow.end(one.id, another.id)
            Notification.forget_all(one.id, another.id)
        _replace(user.id, other.id, is_mute=False)


def mute(user: "User", other: "User") -> None:
    """Have a user see no more posts of another person, who does not learn of it. Raises StoreUnavailableError.

    If they have blocked that person, that ends.
    """
    with write(hidden_from(user.id), hidden_from(other.id), removal=True):
        _lock(user.id, other.id)
        _replace(user.id, other.id, is_mute=True)


def end_block(user: "User", other: "User") -> None:
    """End a user's block or mute of another person, if there is one. Raises StoreUnavailableError."""
    with write(hidden_from(user.id), hidden_from(other.id), removal=True):
        db.session.execute(delete(Block).where(Block.user_id == user.id, Block.other_id == other.id))


def _lock(*user_ids: int) -> None:
    """Have others who follow, like or answer in the name of these users wait; SQLite has one writer at a time."""
    users = people_table()
    these = select(users.c.id).where(users.c.id.in_(user_ids)).order_by(users.c.id)
    db.session.execute(these.with_for_update())


def _replace(user_id: int, other_id: int, *, is_mute: bool) -> None:
    db.session.execute(delete(Block).where(Block.user_id == user_id, Block.other_id == other_id))
    db.session.add(Block(user_id=user_id, other_id=other_id, is_mute=is_mute))


def _joined(ids: set[int]) -> str:
    return " ".join(map(str, sorted(ids)))
