"""Posts, and the lists of them: everyone's latest, one user's, a timeline, a hashtag's."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ForeignKey, Index, Select, String, Text, delete, func, literal, select
from sqlalchemy.orm import Mapped, aliased, contains_eager, mapped_column, relationship, selectinload

from app.extensions import Base, UTCDateTime, db
from app.models.follows import Follow
from app.models.pagination import Id, Pagination, paginate
from app.models.post_text import TAG_LENGTH, mentions, tag_key
from app.models.writes import ALL_POSTS, LATEST_PAGE, PROFILE_PAGE, TAG_PAGE

if TYPE_CHECKING:
    from app.models.accounts import User

PER_PAGE = 30  # posts
BATCH = 200  # posts that one write deletes


class Post(Base):
    """A short message. Ids only grow, so ordering by id is ordering by age."""

    __tablename__ = "posts"
    __table_args__ = (Index("ix_posts_author_id_id", "author_id", "id"), {"sqlite_autoincrement": True})
    __mapper_args__ = {"confirm_deleted_rows": False}  # deleted in two tabs at once is deleted

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    # lazy="raise": a list that forgot to load its authors fails in the first test, not with a query a post.
    author: Mapped["User"] = relationship(lazy="raise")
    tags: Mapped[list["PostTag"]] = relationship(lazy="raise", cascade="all, delete-orphan", passive_deletes=True)
    people = frozenset[str]()  # not a column: the names of mentioned users who exist, read with the post

    @staticmethod
    def lists(author: str, tags: Iterable[str]) -> list[str]:
        """Return the cached pages and stamps that change when an author's post with these hashtags comes or goes."""
        return [LATEST_PAGE(), ALL_POSTS, PROFILE_PAGE(author), *(TAG_PAGE(tag) for tag in tags)]

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
    def latest(cls, before: int | None = None) -> "Pagination[Post]":
        """Return everyone's posts, newest first."""
        return cls._page(cls._with_author(), before)

    @classmethod
    def by(cls, user_id: int, before: int | None = None) -> "Pagination[Post]":
        """Return one user's posts, newest first."""
        return cls._page(cls._with_author().where(cls.author_id == user_id), before)

    @classmethod
    def timeline_of(cls, user_id: int, before: int | None = None) -> "Pagination[Post]":
        """Return the posts of those whom a user follows, and the user's own, newest first."""
        # Only the most recent authors can be on the page, and only with their newest posts. So this query reads one
        # index entry for each person followed, however many posts exist. "author IN (...)" would read every post of
        # busy authors, or scan all posts until it found those of quiet ones.
        one = aliased(Post)
        until = [one.id < before] if before is not None else []
        followed = select(Follow.followed_id.label("id")).where(Follow.follower_id == user_id)
        authors = followed.union_all(select(literal(user_id).label("id"))).subquery()
        newest = select(func.max(one.id)).where(one.author_id == authors.c.id, *until).scalar_subquery()
        dated = select(authors.c.id, newest.label("newest")).subquery()
        recent = (
            select(dated.c.id).where(dated.c.newest.is_not(None)).order_by(dated.c.newest.desc()).limit(PER_PAGE + 1)
        )
        authors_on_page = recent.subquery()
        last_of_page = (
            select(one.id)
            .where(one.author_id == authors_on_page.c.id, *until)
            .order_by(one.id.desc())
            .offset(PER_PAGE)
            .limit(1)
            .scalar_subquery()
        )
        query = (
            cls._with_author()
            .join(authors_on_page, authors_on_page.c.id == cls.author_id)
            .where(cls.id >= func.coalesce(last_of_page, 0))
        )
        return cls._page(query, before)

    @classmethod
    def tagged(cls, tag: str, before: int | None = None) -> "Pagination[Post]":
        """Return the posts with a hashtag (tag_key() says which tags are the same), newest first."""
        query = cls._with_author().join(PostTag, PostTag.post_id == cls.id).where(PostTag.tag == tag_key(tag))
        return cls._page(query, before)

    @classmethod
    def with_author(cls, post_id: int) -> "Post | None":
        """Return one post with its author, or None."""
        post: Post | None = db.session.scalar(cls._with_author().where(cls.id == post_id))
        if post:
            cls._find_people([post])
        return post

    @classmethod
    def _page(cls, query: Select[Any], before: int | None) -> "Pagination[Post]":
        page: Pagination[Post] = paginate(query, cls.id, PER_PAGE, before)
        cls._find_people(page.items)
        return page

    @classmethod
    def _find_people(cls, posts: "Iterable[Post]") -> None:
        """Look up everyone whom these posts mention: one query, or none if they mention nobody."""
        names = set[str]().union(*(mentions(post.body) for post in posts))
        if names:
            user = cls.author.entity.class_  # User can't be imported here: it imports Post
            found = db.session.execute(select(user.name_key, user.name).where(user.name_key.in_(names)))
            people = {row.name_key: row.name for row in found}
            for post in posts:
                post.people = frozenset(people[name] for name in mentions(post.body) if name in people)

    @classmethod
    def _with_author(cls) -> Select[Any]:
        return select(cls).join(cls.author).options(contains_eager(cls.author))


class PostTag(Base):
    """A hashtag in a post, as it is looked up: see tag_key()."""

    __tablename__ = "post_tags"
    __table_args__ = (Index("ix_post_tags_post_id", "post_id"),)  # for deleting a post

    tag: Mapped[str] = mapped_column(String(TAG_LENGTH), primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("posts.id", ondelete="CASCADE"), primary_key=True)
