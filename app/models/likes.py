"""Who likes which post.

What somebody likes is marked on every page they read, so it must cost a page nothing: the ids are held by a stamp
(app/cache.py), which the front reads with the session. It holds those of the MOST_HELD newest posts that they like, and
says how far back that is. For an older post, SQL has to be asked.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    FromClause,
    Index,
    ScalarSelect,
    Select,
    bindparam,
    delete,
    select,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, db
from app.models.follows import Person, people_table, person_columns
from app.models.pagination import LARGEST_ID, MOST_COUNTED, Id, PagedQuery, Pagination, counted

PER_PAGE = 50  # people
MOST_HELD = 5_000  # ids; some 35 kB, and 10 kB in Redis
MOST_NAMED = 5  # people, beside a post
BATCH = 200  # likes that one write ends


class Like(Base):
    """Somebody likes a post. Its id only serves to page through a list that grows, newest first."""

    __tablename__ = "likes"
    __table_args__ = (
        Index("uq_likes_user_id_post_id", "user_id", "post_id", unique=True),
        Index("ix_likes_user_id_id", "user_id", "id"),
        Index("ix_likes_post_id_id", "post_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    post_id: Mapped[int] = mapped_column(ForeignKey("posts.id", ondelete="CASCADE"))

    @classmethod
    def exists(cls, user_id: int, post_id: int) -> bool:
        """Return whether the user likes the post."""
        return db.session.scalar(select(cls.id).where(cls.user_id == user_id, cls.post_id == post_id)) is not None

    @classmethod
    def end(cls, user_id: int, post_ids: Sequence[int]) -> None:
        """Delete what says that the user likes these posts, if anything does; the caller commits."""
        db.session.execute(delete(cls).where(cls.user_id == user_id, cls.post_id.in_(post_ids)))

    @classmethod
    def some_by(cls, user_id: int) -> Sequence[int]:
        """Return the ids of up to BATCH posts that a user likes."""
        return db.session.scalars(select(cls.post_id).where(cls.user_id == user_id).limit(BATCH)).all()

    @classmethod
    def likers(cls, post_id: int, before: int | None = None) -> "Pagination[Person]":
        """Return who likes a post, the latest first."""
        return _likers().page(before, post_id=post_id)

    @classmethod
    def held(cls, user_id: int) -> str:
        """Return what is_held() looks into: the ids of the newest posts that a user likes."""
        ids = db.session.scalars(_newest(), {"user_id": user_id}).all()
        # A stamp must be new after each write. If this one holds not all, the ids that it holds may be the same.
        since = f"{ids[-1]}+{secrets.token_hex(4)}" if len(ids) == MOST_HELD else f"{-LARGEST_ID}+"
        return f"{since}: {' '.join(map(str, ids))} "


def is_held(held: str, post_id: str) -> bool | None:
    """Return whether a user likes a post, given what is held() of their likes; None if it does not tell."""
    since = int(held[: held.index("+")])
    return f" {post_id} " in held if int(post_id) >= since else None


@dataclass(frozen=True)
class Liked:
    """By whom a post is liked, as its page says."""

    by: Sequence[Person]  # up to MOST_NAMED, the latest first
    number: int  # of all; MOST_COUNTED + 1 for any more

    @property
    def others(self) -> int:
        """Return how many like it beside those who are named."""
        return self.number if self.number > MOST_COUNTED else self.number - len(self.by)

    @classmethod
    def of(cls, post_id: int) -> "Liked":
        """Return by whom a post is liked. One query."""
        rows = db.session.execute(_named(), {"post_id": post_id}).all()
        return cls([Person(*row[:-1]) for row in rows], rows[0][-1] if rows else 0)


def likes_of(post_id: ColumnElement[int], *, outside: FromClause) -> ScalarSelect[int]:
    """Return a subquery that counts the likes of a post, up to MOST_COUNTED + 1."""
    return counted(ANOTHER_LIKE.c.post_id == post_id, outside=outside)


# The queries, each made once: to make one takes as long as to run it.

LIKE = Like.__table__.c
ANOTHER_LIKE = Like.__table__.alias()
POST_ID = bindparam("post_id", type_=BigInteger)


@cache
def _likers() -> PagedQuery[Person]:
    return PagedQuery(Person, _people(), LIKE.id, PER_PAGE)


@cache
def _named() -> Select[Any]:
    number = likes_of(POST_ID, outside=Like.__table__)
    return _people().add_columns(number).order_by(LIKE.id.desc()).limit(MOST_NAMED)


def _people() -> Select[Any]:
    people = people_table()
    query = select(*person_columns(people)).join(Like.__table__, LIKE.user_id == people.c.id)
    return query.where(LIKE.post_id == POST_ID)


@cache
def _newest() -> Select[Any]:
    mine = LIKE.user_id == bindparam("user_id", type_=BigInteger)
    return select(LIKE.post_id).where(mine).order_by(LIKE.post_id.desc()).limit(MOST_HELD)
