"""Notifications: what others did that concerns somebody. One row is one event; they are grouped when they are read."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    Select,
    String,
    Text,
    bindparam,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, UTCDateTime, db
from app.models.follows import Person, people_table, person_columns
from app.models.pagination import Id, PagedQuery, Pagination
from app.models.writes import notifications_of, write

PER_PAGE = 50  # events
MOST_UNREAD = 99  # that are counted
REPLY, MENTION, LIKE, FOLLOW = KINDS = ("reply", "mention", "like", "follow")
WARNING, REMOVAL = "warning", "removal"  # by moderators; they can't be turned off


class Notification(Base):
    """An event: `actor_id` did something that concerns `user_id`. Ids only grow, so what is newer is unread."""

    __tablename__ = "notifications"
    __table_args__ = (
        Index("ix_notifications_user_id_id", "user_id", "id"),
        Index("ix_notifications_actor_id", "actor_id"),  # for deleting an account
        Index("ix_notifications_post_id", "post_id"),  # for deleting a post
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(20))
    actor_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    post_id: Mapped[int | None] = mapped_column(ForeignKey("posts.id", ondelete="CASCADE"))  # written, or liked
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    note: Mapped[str | None] = mapped_column(Text)  # what moderators say; `actor_id` is then the user's own

    @classmethod
    def of(cls, user_id: int, before: int | None = None) -> "Pagination[Event]":
        """Return what concerns a user, newest first."""
        return _events().page(before, user_id=user_id)

    @classmethod
    def keep_in_order(cls, user_ids: Iterable[int]) -> None:
        """Have others who tell these users something wait until the transaction ends; call this before telling them.

        PostgreSQL counts ids before a commit: a user who reads between two commits would miss the lower id. SQLite has
        one writer at a time.
        """
        users = people_table()
        db.session.execute(
            select(users.c.id).where(users.c.id.in_(user_ids)).order_by(users.c.id).with_for_update(key_share=True)
        )

    @classmethod
    def forget(cls, kind: str, actor_id: int, user_id: int, post_id: int | None = None) -> None:
        """Delete what tells a user that the actor follows them, or likes a post; the caller commits."""
        which = cls.actor_id == actor_id, cls.user_id == user_id, cls.kind == kind, cls.post_id == post_id
        db.session.execute(delete(cls).where(*which))

    @classmethod
    def forget_all(cls, actor_id: int, user_id: int) -> None:
        """Delete what tells a user of anything that the actor did; the caller commits."""
        db.session.execute(delete(cls).where(cls.actor_id == actor_id, cls.user_id == user_id))

    @classmethod
    def told_of(cls, post_id: int) -> set[int]:
        """Return the ids of those who were told of a post by its author."""
        mentioned = cls.post_id == post_id, cls.kind.in_((REPLY, MENTION))
        return set(db.session.scalars(select(cls.user_id).where(*mentioned)))

    @classmethod
    def told_about(cls, post_ids: Collection[int]) -> set[str]:
        """Return the stamps of those who were told of these posts."""
        return _stamps(select(cls.user_id).where(cls.post_id.in_(post_ids)).distinct())

    @classmethod
    def told_by(cls, actor_id: int) -> set[str]:
        """Return the stamps of those who were told of what somebody did."""
        return _stamps(select(cls.user_id).where(cls.actor_id == actor_id).distinct())


class Event(NamedTuple):
    """A notification, as it is read."""

    id: int
    kind: str
    created_at: datetime
    post_id: int | None
    note: str | None
    actor: Person


@dataclass(frozen=True)
class Group:
    """Events that are told in one sentence: follows, likes of one post, or a single other event."""

    kind: str
    people: list[Person]  # the newest first
    post_id: int | None
    created_at: datetime  # of the newest
    newest: int  # its id
    note: str | None = None  # what moderators say


def grouped(events: Sequence[Event]) -> list[Group]:
    """Return events, newest first, as they are told."""
    alike: dict[object, list[Event]] = {}  # the group of the newest event first
    for event in events:
        together = {FOLLOW: FOLLOW, LIKE: event.post_id}.get(event.kind, event)
        alike.setdefault((event.kind, together), []).append(event)
    return [_group(some) for some in alike.values()]


def _group(events: Sequence[Event]) -> Group:
    newest, people = events[0], dict.fromkeys(event.actor for event in events)
    return Group(newest.kind, list(people), newest.post_id, newest.created_at, newest.id, newest.note)


def mark_read(user_id: int, newest: int) -> None:
    """Remember that a user has seen all notifications up to this id. Raises StoreUnavailableError."""
    users = people_table()
    query = update(users).where(users.c.id == user_id, users.c.notifications_read < newest)
    with write(notifications_of(user_id)):
        db.session.execute(query.values(notifications_read=newest))


def _stamps(user_ids: Select[Any]) -> set[str]:
    return {notifications_of(user_id) for user_id in db.session.scalars(user_ids)}


# The queries, each made once: to make one takes as long as to run it.

USER_ID = bindparam("user_id", type_=BigInteger)


@cache
def _events() -> PagedQuery[Event]:
    people, row = people_table(), Notification.__table__.c
    columns = row.id, row.kind, row.created_at, row.post_id, row.note, *person_columns(people)
    query = select(*columns).join(people, people.c.id == row.actor_id).where(row.user_id == USER_ID)
    return PagedQuery(_event, query, row.id, PER_PAGE)


def _event(event_id: int, kind: str, moment: datetime, post_id: int | None, note: str | None, *actor: Any) -> Event:
    return Event(event_id, kind, moment, post_id, note, Person(*actor))


@cache
def unread_query() -> Select[Any]:
    """Return the query that counts what a user, its parameter `user_id`, has not seen."""
    people, row = people_table().c, Notification.__table__.c
    seen = select(people.notifications_read).where(people.id == USER_ID).scalar_subquery()
    some = select(literal(1)).where(row.user_id == USER_ID, row.id > seen).limit(MOST_UNREAD + 1).subquery()
    return select(func.count()).select_from(some)
