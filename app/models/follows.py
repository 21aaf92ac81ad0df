"""Who follows whom."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, ForeignKey, FromClause, Index, Table, bindparam, delete, select
from sqlalchemy.orm import Mapped, joinedload, mapped_column, relationship

from app.extensions import Base, UTCDateTime, db
from app.models.pagination import Id, PagedQuery, Pagination
from app.models.writes import FOLLOWERS_PAGE, FOLLOWING_PAGE, PROFILE_PAGE, REPLIES_PAGE, follows_by

if TYPE_CHECKING:
    from app.models.accounts import User

PER_PAGE = 50  # people
BATCH = 200  # follows that one write ends; the same write drops these people's pages


@dataclass(frozen=True)
class Person:
    """A user as readers see them."""

    id: int
    name: str
    display_name: str = ""  # empty if they have not chosen one
    picture: str = ""  # the digest of the one that they have uploaded, if any


PERSON_COLUMNS = len(fields(Person))


def people_table() -> Table:
    """Return the table of users, whose model can't be imported here: it imports this one."""
    return Base.metadata.tables["users"]


def person_columns(people: FromClause) -> list[ColumnElement[Any]]:
    """Return the columns that make a Person."""
    return [people.c.id, people.c.name, people.c.display_name, people.c.picture]


class Follow(Base):
    """One person follows another. Its id only serves to page through a list that grows, newest first."""

    __tablename__ = "follows"
    __table_args__ = (
        Index("uq_follows_follower_id_followed_id", "follower_id", "followed_id", unique=True),
        Index("ix_follows_followed_id_id", "followed_id", "id"),
        Index("ix_follows_follower_id_id", "follower_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    follower_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    followed_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    follower: Mapped["User"] = relationship(foreign_keys=[follower_id], lazy="raise")
    followed: Mapped["User"] = relationship(foreign_keys=[followed_id], lazy="raise")

    @classmethod
    def exists(cls, follower_id: int, followed_id: int) -> bool:
        """Return whether the follower follows the followed user."""
        query = select(cls.id).where(cls.follower_id == follower_id, cls.followed_id == followed_id)
        return db.session.scalar(query) is not None

    @classmethod
    def end(cls, follower_id: int, followed_id: int) -> None:
        """Delete the follow, if there is one; the caller commits."""
        db.session.execute(delete(cls).where(cls.follower_id == follower_id, cls.followed_id == followed_id))

    @staticmethod
    def changes(follower: "User", followed: "User") -> tuple[str, ...]:
        """Return the cached pages and stamps that change, beside the counts, when one user follows another or stops."""
        return FOLLOWING_PAGE(follower.name), FOLLOWERS_PAGE(followed.name), follows_by(follower.id)

    @staticmethod
    def counted_on(follower: "User", followed: "User") -> tuple[str, ...]:
        """Return the cached pages on which a count changes then."""
        people = follower.name, followed.name
        return *map(PROFILE_PAGE, people), *map(REPLIES_PAGE, people)

    @classmethod
    def some_of(cls, user_id: int) -> "Sequence[Follow]":
        """Return up to BATCH follows by and of a user, each with both people."""
        both = joinedload(cls.follower), joinedload(cls.followed)
        mine = (cls.follower_id == user_id) | (cls.followed_id == user_id)
        return db.session.scalars(select(cls).options(*both).where(mine).limit(BATCH)).all()

    @classmethod
    def end_many(cls, ids: Iterable[int]) -> None:
        """Delete these follows; the caller commits."""
        db.session.execute(delete(cls).where(cls.id.in_(list(ids))))

    @classmethod
    def followers_of(cls, user_id: int, before: int | None = None) -> "Pagination[Person]":
        """Return who follows a user, the newest first."""
        return _followers().page(before, user_id=user_id)

    @classmethod
    def followed_by(cls, user_id: int, before: int | None = None) -> "Pagination[Person]":
        """Return whom a user follows, the newest first."""
        return _followed().page(before, user_id=user_id)


@cache
def _followers() -> PagedQuery[Person]:
    return _people(FOLLOW.follower_id, FOLLOW.followed_id)


@cache
def _followed() -> PagedQuery[Person]:
    return _people(FOLLOW.followed_id, FOLLOW.follower_id)


def _people(shown: ColumnElement[int], of: ColumnElement[int]) -> PagedQuery[Person]:
    people = people_table()
    query = select(*person_columns(people)).join(Follow.__table__, shown == people.c.id)
    return PagedQuery(Person, query.where(of == bindparam("user_id")), FOLLOW.id, PER_PAGE)


FOLLOW = Follow.__table__.c
