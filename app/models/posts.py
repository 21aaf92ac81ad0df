"""Posts, and the lists of them: everyone's latest, one user's, a timeline, a hashtag's."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    FromClause,
    Index,
    ScalarSelect,
    Select,
    String,
    Subquery,
    Text,
    bindparam,
    delete,
    exists,
    false,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Mapped, aliased, joinedload, mapped_column, relationship, selectinload

from app.extensions import Base, UTCDateTime, db
from app.follower import may_be_stale
from app.models.follows import PERSON_COLUMNS, Follow, Person, people_table, person_columns
from app.models.likes import LIKE, likes_of
from app.models.pagination import BEFORE, LARGEST_ID, Id, PagedQuery, Pagination, counted
from app.models.post_text import TAG_LENGTH, Piece, pieces, tag_key
from app.models.writes import (
    ALL_POSTS,
    LATEST_FEED,
    LATEST_PAGE,
    PROFILE_FEED,
    PROFILE_PAGE,
    REPLIES_PAGE,
    TAG_FEED,
    TAG_PAGE,
    TAGS_PAGE,
)

if TYPE_CHECKING:
    from app.models.accounts import User

PER_PAGE = 30  # posts
BATCH = 200  # posts that one write deletes
LATELY = 5_000  # rows that tell who wrote lately, or which hashtags are in use; reading them takes a few milliseconds
EDITABLE = timedelta(minutes=15)  # long enough to mend a typo, too short to turn what others have answered
# Ids. A reader who follows one writer in ten finds a full page in them: in 0.2 ms on SQLite, not 0.5 (1.3 for one who
# follows 1,000 people), and in 0.8 on PostgreSQL, not 4 (8). If they hold too few, that costs 0.3 and 0.8 ms more.
RECENT = 500
ELSEWHERE = -1  # the addressee of an imported reply to somebody else; nobody has this id


class Listed(NamedTuple):
    """A post in a list: its id, and what is shown of it that changes."""

    id: int
    edited_at: datetime | None = None
    replies: int = 0  # MOST_COUNTED + 1 for any more
    likes: int = 0  # likewise


class PostQuery(PagedQuery[Listed]):
    """A list of posts. If the follower may find them, the primary says which still exist, and when they were edited."""

    def page(self, before: int | None, **parameters: object) -> Pagination[Listed]:
        """Return the newest posts whose key is below `before`."""
        page = super().page(before, **parameters)
        if not may_be_stale():
            return page
        query = select(POST.id, POST.edited_at).where(POST.id.in_([post.id for post in page.items]))
        edited_at: dict[int, datetime | None] = dict(db.session.execute(query).tuples().all())
        posts = [post._replace(edited_at=edited_at[post.id]) for post in page.items if post.id in edited_at]
        return replace(page, items=posts)


class ChangedMeanwhileError(Exception):
    """Somebody else has changed a post since it was read."""


class Post(Base):
    """A short message. Ids only grow, so ordering by id is ordering by age.

    Imported posts have negative ids, in the order of their dates: they come after all that was written here.
    """

    __tablename__ = "posts"
    __table_args__ = (
        Index("ix_posts_author_id_id", "author_id", "id"),
        Index("ix_posts_created_at_id", "created_at", "id"),
        Index("uq_posts_sent_as", "sent_as", unique=True),
        Index("ix_posts_reply_to_id", "reply_to_id"),  # a partial one would load PostgreSQL's dialect for SQLite: 2 MB
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    edited_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    # The post that this one was written in reply to, and the one that it stands below: the same, until that is deleted.
    # Then this one stands below what that one replied to. They are not foreign keys: if both are written at the same
    # moment, this one stands below nothing, and its page says that the post was deleted.
    answered_id: Mapped[int | None] = mapped_column(BigInteger)
    reply_to_id: Mapped[int | None] = mapped_column(BigInteger)
    # Its author, unless that is the author of this one, too. It stays when the post or the account is deleted: what was
    # said to somebody else never moves to where people look for what was said to everyone.
    addressee_id: Mapped[int | None] = mapped_column(BigInteger)
    sent_as: Mapped[str | None] = mapped_column(String(64))  # tells a form that is sent twice; see User.publish()
    # lazy="raise": code that forgot to load it fails in the first test, not with a query a post.
    author: Mapped["User"] = relationship(lazy="raise")
    tags: Mapped[list["PostTag"]] = relationship(lazy="raise", cascade="all, delete-orphan", passive_deletes=True)

    @property
    def is_editable(self) -> bool:
        """Return whether its author may still edit it."""
        return is_editable(self.created_at)

    def make_reply_to(self, answered: "Post") -> None:
        """Make this post, whose author is set, a reply to another one."""
        self.answered_id = self.reply_to_id = answered.id
        self.addressee_id = answered.author_id if answered.author_id != self.author_id else None

    def shown_in(self, author: str) -> set[str]:
        """Return the cached lists, and the stamp, that show this post by `author`, whose tags are loaded."""
        lists = {ALL_POSTS, PROFILE_PAGE(author), REPLIES_PAGE(author), *(TAG_PAGE(tag.tag) for tag in self.tags)}
        return lists if self.addressee_id else lists | {LATEST_PAGE()}

    def lists(self, author: str) -> set[str]:
        """Return all cached lists, and the stamp, that change when this post by `author` comes or goes.

        Its tags are loaded.
        """
        feeds = {TAG_FEED(tag.tag) for tag in self.tags}
        if self.addressee_id is None:
            feeds |= {LATEST_FEED(), PROFILE_FEED(author)}
        return self.shown_in(author) | feeds | ({TAGS_PAGE()} if self.tags else set())

    @classmethod
    def lock(cls, posts: "Collection[Post]") -> None:
        """Have others who edit or delete these posts wait until the transaction ends.

        Raises ChangedMeanwhileError if one has been edited or deleted since it was read.
        """
        these = cls.id.in_([post.id for post in posts])
        db.session.execute(update(cls).where(these).values(author_id=cls.author_id))  # SQLite has no FOR UPDATE
        versions = db.session.execute(select(cls.id, cls.edited_at).where(these))
        if {row.id: row.edited_at for row in versions} != {post.id: post.edited_at for post in posts}:
            raise ChangedMeanwhileError

    def change_text(self, body: str, tags: Collection[str]) -> None:
        """Give this post, which is locked, another text and its tags; the caller commits."""
        self.body, self.edited_at = body, datetime.now(UTC)
        db.session.execute(delete(PostTag).where(PostTag.post_id == self.id))
        db.session.add_all(PostTag(tag=tag, post_id=self.id) for tag in tags)

    @classmethod
    def some_by(cls, user_id: int) -> "Sequence[Post]":
        """Return up to BATCH posts by a user, each with its tags."""
        query = select(cls).options(selectinload(cls.tags)).where(cls.author_id == user_id).limit(BATCH)
        return db.session.scalars(query.execution_options(populate_existing=True)).all()

    @classmethod
    def delete_many(cls, ids: Collection[int]) -> set[int]:
        """Delete these posts, and move what stands below them to what they stand below; the caller commits.

        Returns the ids of the posts that were moved.
        """
        parent = aliased(cls)
        above = select(parent.reply_to_id).where(parent.id == cls.reply_to_id).scalar_subquery()
        below = select(cls.id).where(cls.reply_to_id.in_(ids), cls.id.not_in(ids))
        unsynchronized = {"synchronize_session": False}
        moved = set[int]()
        while some := db.session.scalars(below).all():  # again, because a post above may be among the deleted as well
            move = update(cls).where(cls.id.in_(some)).values(reply_to_id=above)
            db.session.execute(move, execution_options=unsynchronized)
            moved.update(some)
        db.session.execute(delete(cls).where(cls.id.in_(ids)), execution_options=unsynchronized)
        return moved

    @classmethod
    def ids_below(cls, ids: Collection[int]) -> Sequence[int]:
        """Return the ids of the posts that stand right below these, whether these still exist or not."""
        return db.session.scalars(select(cls.id).where(cls.reply_to_id.in_(ids))).all()

    @classmethod
    def latest(cls, before: int | None = None) -> "Pagination[Listed]":
        """Return everyone's posts, newest first, without their replies to others."""
        return LATEST.page(before)

    @classmethod
    def by(cls, user_id: int, before: int | None = None, *, replies: bool = False) -> "Pagination[Listed]":
        """Return one user's posts, newest first.

        replies: with their replies to others.
        """
        return (BY_WITH_REPLIES if replies else BY).page(before, user_id=user_id)

    @classmethod
    def tagged(cls, tag: str, before: int | None = None) -> "Pagination[Listed]":
        """Return the posts and replies with a hashtag (tag_key() says which tags are the same), newest first."""
        return TAGGED.page(before, tag=tag_key(tag))

    @classmethod
    def liked_by(cls, user_id: int, before: int | None = None) -> "Pagination[Listed]":
        """Return what a user likes, what they liked last first; `before` is the id of a like."""
        return LIKED.page(before, user_id=user_id)

    @classmethod
    def timeline_of(cls, user_id: int, before: int | None = None) -> "Pagination[Listed]":
        """Return the posts of those whom a user follows, and of the user's own, newest first.

        A reply is among them if the user follows both people, or is one of them. For most readers the page is full with
        what is in everyone's RECENT newest posts, which is quickly read.
        """
        page = RECENT_TIMELINE.page(before, user_id=user_id)
        return page if page.older else TIMELINE.page(before, user_id=user_id)

    @classmethod
    def with_id(cls, post_id: int) -> "Post | None":
        """Return the post with that id, with its author and tags, or None."""
        return next(iter(cls.whole([post_id])), None)

    @classmethod
    def listed(cls, ids: Collection[int]) -> "list[Listed]":
        """Return those of these posts that exist, in any order, as lists have them."""
        return [Listed(*row) for row in db.session.execute(_counts(), {"ids": list(ids)})]

    @classmethod
    def whole(cls, ids: Collection[int]) -> "Sequence[Post]":
        """Return those of these posts that exist, with their authors and tags."""
        query = select(cls).options(joinedload(cls.author), selectinload(cls.tags)).where(cls.id.in_(ids))
        return db.session.scalars(query.execution_options(populate_existing=True)).all()

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
        posts = [ShownPost(Person(*row[:PERSON_COLUMNS]), *row[PERSON_COLUMNS:]) for row in rows]
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

    author: Person
    id: int
    body: str
    created_at: datetime
    edited_at: datetime | None
    answered_id: int | None
    reply_to_id: int | None  # None if the post is not there
    addressee_id: int | None
    addressee: str | None  # that person's name, if they still have an account
    is_pinned: bool  # on top of its author's page
    people: dict[str, str] = field(default_factory=dict)  # the mentioned users who exist, by name in lower case

    @property
    def is_editable(self) -> bool:
        """Return whether its author may still edit it."""
        return is_editable(self.created_at)

    @property
    def replies_to_a_deleted_post(self) -> bool:
        return self.answered_id != self.reply_to_id

    @property
    def replies_elsewhere(self) -> bool:
        """Return whether it was imported, and what it replies to was not."""
        return self.addressee_id == ELSEWHERE

    @cached_property
    def pieces(self) -> list[Piece]:
        """The text, taken apart; that takes a fifth of a millisecond."""
        return list(pieces(self.body))

    @cached_property
    def mentions(self) -> set[str]:
        """The names that it mentions, in lower case, whether anyone has them or not."""
        return {piece.target.lower() for piece in self.pieces if piece.kind == "mention"}


def is_editable(created_at: datetime) -> bool:
    """Return whether a post that was published then may still be edited."""
    return datetime.now(UTC) < created_at + EDITABLE


class PostTag(Base):
    """A hashtag in a post, as it is looked up: see tag_key()."""

    __tablename__ = "post_tags"
    __table_args__ = (Index("ix_post_tags_post_id", "post_id"),)  # for deleting a post

    tag: Mapped[str] = mapped_column(String(TAG_LENGTH), primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("posts.id", ondelete="CASCADE"), primary_key=True)


# The queries for the lists, each made once: to make one takes as long as to run it.


@cache
def _shown() -> Select[Any]:
    people, addressee = people_table(), people_table().alias()
    columns = *person_columns(people), POST.id, POST.body, POST.created_at, POST.edited_at
    is_pinned = func.coalesce(people.c.pinned_post_id == POST.id, false())
    context = POST.answered_id, OTHER.id, POST.addressee_id, addressee.c.name, is_pinned
    query = select(*columns, *context).join(people, people.c.id == POST.author_id)
    query = query.outerjoin(ANOTHER, OTHER.id == POST.reply_to_id)
    query = query.outerjoin(addressee, addressee.c.id == POST.addressee_id)
    return query.where(POST.id.in_(bindparam("ids", expanding=True)))


@cache
def _counts() -> Select[Any]:
    return select(*listed_columns(POST.id, Post.__table__)).where(POST.id.in_(bindparam("ids", expanding=True)))


@cache
def _people() -> Select[Any]:
    people = people_table()
    return select(people.c.name_key, people.c.name).where(people.c.name_key.in_(bindparam("names", expanding=True)))


def listed_columns(post_id: ColumnElement[int], table: FromClause) -> list[ColumnElement[Any]]:
    """Return the columns that make a Listed, given the column of `table` that has the post's id."""
    replies = counted(OTHER.reply_to_id == post_id, outside=table)
    return [post_id, edited_at(post_id, table), replies, likes_of(post_id, outside=table)]


def edited_at(post_id: ColumnElement[int], table: FromClause) -> ScalarSelect[datetime | None]:
    """Return a subquery that finds when a post was edited."""
    return select(OTHER.edited_at).where(OTHER.id == post_id).correlate(table).scalar_subquery()


def list_of(key: ColumnElement[int], table: FromClause, *conditions: ColumnElement[bool]) -> PostQuery:
    """Return the query for a list of posts; `key` is the column of their ids in a table."""
    return PostQuery(Listed, select(*listed_columns(key, table)).where(*conditions), key, PER_PAGE)


def _follows(person: ColumnElement[Any]) -> ColumnElement[bool]:
    return exists().where(Follow.follower_id == USER_ID, Follow.followed_id == person)


def _timeline() -> Subquery:
    """Return a query for a timeline, however long ago its posts were written.

    Only the most recent authors can be on the page, and only with their newest posts. So this query reads one index
    entry for each person followed, however many posts exist. "author IN (...)" would read every post of busy authors,
    or scan all posts until it found those of quiet ones. It reads only the replies that are newer than the oldest post
    on the page.
    """
    followed = select(Follow.followed_id.label("id")).where(Follow.follower_id == USER_ID)
    authors = followed.union_all(select(USER_ID.label("id"))).subquery()
    is_earlier_post = OTHER.id < BEFORE, OTHER.addressee_id.is_(None)
    newest = select(func.max(OTHER.id)).where(OTHER.author_id == authors.c.id, *is_earlier_post).scalar_subquery()
    dated = select(authors.c.id, newest.label("newest")).subquery()
    recent = select(dated.c.id).order_by(dated.c.newest.desc().nulls_last()).limit(PER_PAGE + 1).cte("recent_authors")
    last_of_author = (
        select(OTHER.id)
        .where(OTHER.author_id == recent.c.id, *is_earlier_post)
        .order_by(OTHER.id.desc())
        .offset(PER_PAGE)
        .limit(1)
        .scalar_subquery()
    )
    posts = select(POST.id).join(recent, recent.c.id == POST.author_id)
    posts = posts.where(POST.id >= func.coalesce(last_of_author, -LARGEST_ID), POST.id < BEFORE)
    # The sum keeps SQLite from reading all posts, the newest first, until it has found enough of these authors.
    page = posts.where(POST.addressee_id.is_(None)).order_by((POST.id + 0).desc()).limit(PER_PAGE + 1).cte("page")
    last_of_page = select(page.c.id).order_by(page.c.id.desc()).offset(PER_PAGE).limit(1).scalar_subquery()
    replies = select(POST.id).join(authors, authors.c.id == POST.author_id)
    replies = replies.where(POST.id >= func.coalesce(last_of_page, -LARGEST_ID), POST.id < BEFORE)
    replies = replies.where(POST.addressee_id.is_not(None), ADDRESSEE_IS_OF_INTEREST)
    return select(page.c.id).union_all(replies).subquery()


def _recent_timeline() -> tuple[ColumnElement[bool], ...]:
    """Return which of everyone's RECENT newest posts are in a timeline. The query stops when the page is full."""
    newest = select(func.max(OTHER.id)).where(OTHER.id < BEFORE).scalar_subquery()
    author_is_of_interest = or_(POST.author_id == USER_ID, _follows(POST.author_id))
    return POST.id > newest - RECENT, author_is_of_interest, or_(POST.addressee_id.is_(None), ADDRESSEE_IS_OF_INTEREST)


ANOTHER = Post.__table__.alias()
POST, OTHER, TAG = Post.__table__.c, ANOTHER.c, PostTag.__table__.c
USER_ID = bindparam("user_id", type_=BigInteger)
ADDRESSEE_IS_OF_INTEREST = or_(POST.author_id == USER_ID, POST.addressee_id == USER_ID, _follows(POST.addressee_id))
TIMELINE_IDS = _timeline()
LATEST = list_of(POST.id, Post.__table__, POST.addressee_id.is_(None))
BY = list_of(POST.id, Post.__table__, POST.author_id == USER_ID, POST.addressee_id.is_(None))
BY_WITH_REPLIES = list_of(POST.id, Post.__table__, POST.author_id == USER_ID)
TAGGED = list_of(TAG.post_id, PostTag.__table__, TAG.tag == bindparam("tag"))
LIKED = PostQuery(
    Listed, select(*listed_columns(LIKE.post_id, LIKE.id.table)).where(LIKE.user_id == USER_ID), LIKE.id, PER_PAGE
)
RECENT_TIMELINE = list_of(POST.id, Post.__table__, *_recent_timeline())
TIMELINE = list_of(TIMELINE_IDS.c.id, TIMELINE_IDS)
