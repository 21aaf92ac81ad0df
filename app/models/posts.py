"""Posts, and the lists of them: everyone's latest, one user's, a timeline, a hashtag's."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    Select,
    String,
    Text,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
)
from sqlalchemy.orm import Mapped, joinedload, mapped_column, relationship, selectinload

from app.extensions import Base, UTCDateTime, db
from app.models.follows import Follow, Person, people_table
from app.models.pagination import BEFORE, Id, PagedQuery, Pagination
from app.models.post_text import TAG_LENGTH, Piece, pieces, tag_key
from app.models.writes import ALL_POSTS, LATEST_FEED, LATEST_PAGE, PROFILE_FEED, PROFILE_PAGE, TAG_FEED, TAG_PAGE

if TYPE_CHECKING:
    from app.models.accounts import User

PER_PAGE = 30  # posts
BATCH = 200  # posts that one write deletes
# Ids. A reader who follows one writer in ten finds a full page in them: in 0.2 ms on SQLite, not 0.5 (1.3 for one who
# follows 1,000 people), and in 0.8 on PostgreSQL, not 4 (8). If they hold too few, that costs 0.3 and 0.8 ms more.
RECENT = 500


class Post(Base):
    """A short message. Ids only grow, so ordering by id is ordering by age."""

    __tablename__ = "posts"
    __table_args__ = (Index("ix_posts_author_id_id", "author_id", "id"), {"sqlite_autoincrement": True})
    __mapper_args__ = {"confirm_deleted_rows": False}  # deleted in two tabs at once is deleted

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    author: Mapped["User"] = relationship(lazy="raise")
    tags: Mapped[list["PostTag"]] = relationship(lazy="raise", cascade="all, delete-orphan", passive_deletes=True)

    @staticmethod
    def lists(author: str, tags: Iterable[str]) -> list[str]:
        """Return the cached pages and stamps that change when an author's post with these hashtags comes or goes."""
        everyones_and_own = [LATEST_PAGE(), LATEST_FEED(), ALL_POSTS, PROFILE_PAGE(author), PROFILE_FEED(author)]
        return everyones_and_own + [page(tag) for tag in tags for page in (TAG_PAGE, TAG_FEED)]

    @property
    def stored_tags(self) -> Sequence[str]:
        """Return the hashtags that it is listed under."""
        return db.session.scalars(select(PostTag.tag).where(PostTag.post_id == self.id)).all()

    @classmethod
    def some_by(cls, user_id: int) -> "Sequence[Post]":
        """Return up to BATCH posts by a user, each with its tags."""
        query = select(cls).options(selectinload(cls.tags)).where(cls.author_id == user_id)
        return db.session.scalars(query.limit(BATCH)).all()

    @classmethod
    def delete_many(cls, ids: Iterable[int]) -> None:
        """Delete these posts; the caller commits."""
        db.session.execute(delete(cls).where(cls.id.in_(list(ids))))

    @classmethod
    def latest(cls, before: int | None = None) -> Pagination[int]:
        """Return the ids of everyone's posts, newest first."""
        return LATEST.page(before)

    @classmethod
    def by(cls, user_id: int, before: int | None = None) -> Pagination[int]:
        """Return the ids of one user's posts, newest first."""
        return BY.page(before, user_id=user_id)

    @classmethod
    def tagged(cls, tag: str, before: int | None = None) -> Pagination[int]:
        """Return the ids of the posts with a hashtag (tag_key() says which tags are the same), newest first."""
        return TAGGED.page(before, tag=tag_key(tag))

    @classmethod
    def timeline_of(cls, user_id: int, before: int | None = None) -> Pagination[int]:
        """Return the ids of the posts of those whom a user follows, and of the user's own, newest first.

        For most readers the page is full with what is in everyone's RECENT newest posts, which is quickly read.
        """
        page = RECENT_TIMELINE.page(before, user_id=user_id)
        return page if page.older else TIMELINE.page(before, user_id=user_id)

    @classmethod
    def with_id(cls, post_id: int) -> "Post | None":
        """Return the post with that id, with its author, or None."""
        return db.session.get(cls, post_id, options=[joinedload(cls.author)])

    @classmethod
    def shown(cls, post_id: int) -> "ShownPost | None":
        """Return one post as readers see it, or None."""
        return next(iter(cls.all_shown([post_id])), None)

    @classmethod
    def all_shown(cls, ids: Collection[int]) -> "Sequence[ShownPost]":
        """Return those of these posts that exist, in any order, as readers see them.

        That is one query, and another one if they mention anybody.
        """
        rows = db.session.execute(_shown(), {"ids": list(ids)})
        posts = [ShownPost(row[0], Person(*row[1:3]), *row[3:]) for row in rows]
        names = set[str]().union(*(post.mentions for post in posts))
        if names:
            people = {row.name_key: row.name for row in db.session.execute(_people(), {"names": list(names)})}
            for post in posts:
                post.people.update((name, people[name]) for name in post.mentions if name in people)
        return posts


@dataclass(frozen=True)
class ShownPost:
    """A post as readers see it.

    Not an entity: a list of posts is read often, and SQLAlchemy takes twice as long for entities as for rows.
    """

    id: int
    author: Person
    body: str
    created_at: datetime
    people: dict[str, str] = field(default_factory=dict)  # the mentioned users who exist, by name in lower case

    @cached_property
    def pieces(self) -> list[Piece]:
        """The text, taken apart; that takes a fifth of a millisecond."""
        return list(pieces(self.body))

    @cached_property
    def mentions(self) -> set[str]:
        """The names that it mentions, in lower case, whether anyone has them or not."""
        return {piece.target.lower() for piece in self.pieces if piece.kind == "mention"}


class PostTag(Base):
    """A hashtag in a post, as it is looked up: see tag_key()."""

    __tablename__ = "post_tags"
    __table_args__ = (Index("ix_post_tags_post_id", "post_id"),)  # for deleting a post

    tag: Mapped[str] = mapped_column(String(TAG_LENGTH), primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("posts.id", ondelete="CASCADE"), primary_key=True)


# The queries for the lists, each made once: to make one takes as long as to run it.


@cache
def _shown() -> Select[Any]:
    people = people_table()
    columns = POST.id, people.c.id, people.c.name, POST.body, POST.created_at
    query = select(*columns).join(people, people.c.id == POST.author_id)
    return query.where(POST.id.in_(bindparam("ids", expanding=True)))


@cache
def _people() -> Select[Any]:
    people = people_table()
    return select(people.c.name_key, people.c.name).where(people.c.name_key.in_(bindparam("names", expanding=True)))


def _timeline() -> Select[Any]:
    """Return a query for a timeline, however long ago its posts were written.

    Only the most recent authors can be on the page, and only with their newest posts. So this query reads one index
    entry for each person followed, however many posts exist. "author IN (...)" would read every post of busy authors,
    or scan all posts until it found those of quiet ones.
    """
    followed = select(Follow.followed_id.label("id")).where(Follow.follower_id == USER_ID)
    authors = followed.union_all(select(USER_ID.label("id"))).subquery()
    newest = select(func.max(OTHER.id)).where(OTHER.author_id == authors.c.id, OTHER.id < BEFORE).scalar_subquery()
    dated = select(authors.c.id, newest.label("newest")).subquery()
    recent = select(dated.c.id).where(dated.c.newest.is_not(None)).order_by(dated.c.newest.desc()).limit(PER_PAGE + 1)
    authors_on_page = recent.subquery()
    last_of_page = (
        select(OTHER.id)
        .where(OTHER.author_id == authors_on_page.c.id, OTHER.id < BEFORE)
        .order_by(OTHER.id.desc())
        .offset(PER_PAGE)
        .limit(1)
        .scalar_subquery()
    )
    on_page = select(POST.id).join(authors_on_page, authors_on_page.c.id == POST.author_id)
    return on_page.where(POST.id >= func.coalesce(last_of_page, 0))


def _recent_timeline() -> Select[Any]:
    """Return a query for what of a timeline is among everyone's RECENT newest posts. It stops when the page is full."""
    newest = select(func.max(OTHER.id)).where(OTHER.id < BEFORE).scalar_subquery()
    follows = exists().where(Follow.follower_id == USER_ID, Follow.followed_id == POST.author_id)
    return select(POST.id).where(POST.id > newest - RECENT, or_(POST.author_id == USER_ID, follows))


POST, OTHER, TAG = Post.__table__.c, Post.__table__.alias().c, PostTag.__table__.c
USER_ID = bindparam("user_id", type_=BigInteger)
LATEST = PagedQuery(int, select(POST.id), POST.id, PER_PAGE)
BY = PagedQuery(int, select(POST.id).where(POST.author_id == USER_ID), POST.id, PER_PAGE)
TAGGED = PagedQuery(int, select(TAG.post_id).where(TAG.tag == bindparam("tag")), TAG.post_id, PER_PAGE)
RECENT_TIMELINE = PagedQuery(int, _recent_timeline(), POST.id, PER_PAGE)
TIMELINE = PagedQuery(int, _timeline(), POST.id, PER_PAGE)
