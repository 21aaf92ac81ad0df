"""Accounts: who people are, how they prove it, and what they may do."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Self

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlalchemy import ColumnElement, ScalarSelect, String, func, literal, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, UTCDateTime, db
from app.models import pages
from app.models.follows import Follow
from app.models.paging import Id
from app.models.post_text import PostText
from app.models.posts import Post, PostTag
from app.models.writes import write

NAME_LENGTH = 30
NAME_PATTERN = re.compile(rf"[A-Za-z0-9_]{{1,{NAME_LENGTH}}}")
EMAIL_LENGTH = 254  # RFC 5321, 4.5.3.1.3
MOST_COUNTED = 5_000  # posts or followers; the popular person's page shall cost no more than anybody's
PASSWORD_MIN = 8  # NIST SP 800-63B, 3.1.1.2
PASSWORD_MAX = 1000  # no limit a person meets, but an end to what may be hashed

# Argon2id as OWASP's Password Storage Cheat Sheet sets it: 19 MiB, two passes, one lane. The library's own default
# takes 64 MiB a hash, and ten threads that hash at once would then fill a 512 MB dyno.
hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class NameTakenError(Exception):
    """Somebody has that name, in whatever case."""


class EmailTakenError(Exception):
    """Somebody has registered with that e-mail address."""


class User(Base):
    """A person with an account. Their name never changes, so that a permalink never breaks."""

    __tablename__ = "users"
    __table_args__ = {"sqlite_autoincrement": True}  # the id of a deleted account is never given again

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    name_key: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)  # the name in lower case
    email: Mapped[str] = mapped_column(String(EMAIL_LENGTH), unique=True, deferred=True)  # in lower case
    password_hash: Mapped[str] = mapped_column(String(255), deferred=True)  # of no use to a list of posts
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))

    # Registering and logging in

    @classmethod
    def register(cls, name: str, email: str, password: str) -> Self:
        """Make an account. Raises NameTakenError or EmailTakenError."""
        user = cls(name=name, name_key=name.lower(), email=email.lower(), password_hash=hasher.hash(password))
        try:
            with write():
                db.session.add(user)
        except IntegrityError:
            if cls.named(name):
                raise NameTakenError from None
            raise EmailTakenError from None
        return user

    @classmethod
    def named(cls, name: str) -> Self | None:
        """Return the account with that name, in whatever case, or None."""
        if not NAME_PATTERN.fullmatch(name):
            return None
        return db.session.scalar(select(cls).where(cls.name_key == name.lower()))

    @classmethod
    def with_counts(cls, name: str) -> "tuple[Self, Counts] | None":
        """Return the account with that name, and how much is on its page; None if there is none. One query."""
        if not NAME_PATTERN.fullmatch(name):
            return None
        posts = _counted(Post.author_id == cls.id)
        followers = _counted(Follow.followed_id == cls.id)
        following = _counted(Follow.follower_id == cls.id)
        row = db.session.execute(select(cls, posts, followers, following).where(cls.name_key == name.lower())).first()
        return row and (row[0], Counts(*row[1:]))

    @classmethod
    def with_id(cls, user_id: int) -> Self | None:
        """Return the account with that id, or None."""
        return db.session.get(cls, user_id)

    @classmethod
    def with_email(cls, email: str) -> Self | None:
        """Return the account with that e-mail address, or None."""
        return db.session.scalar(select(cls).where(cls.email == email.lower()))

    @classmethod
    def authenticate(cls, name: str, password: str) -> Self | None:
        """Return the account if the password is its own, else None; an unknown account takes just as long."""
        user = cls.named(name)
        if user is None:
            _matches(_hash_of_nobody(), password)
            return None
        if not user.has_password(password):
            return None
        if hasher.check_needs_rehash(user.password_hash):
            with write():
                user.password_hash = hasher.hash(password)
        return user

    def has_password(self, password: str) -> bool:
        return _matches(self.password_hash, password)

    def change_password(self, password: str) -> None:
        """Set another password. Ending the sessions that the old one opened is the caller's next step."""
        with write():
            self.password_hash = hasher.hash(password)

    # Posting

    def publish(self, text: PostText) -> Post:
        """Publish a post. Raises StoreUnavailableError, with nothing written, if the cache can't be told."""
        with write(pages.LATEST(), pages.USER(self.name)):
            post = Post(author_id=self.id, body=text.body)
            post.tags = [PostTag(tag=tag) for tag in text.tags]
            db.session.add(post)
        return post

    def delete(self, post: Post) -> bool:
        """Delete one's own post; return False, and leave it, if it is somebody else's. Raises StoreUnavailableError."""
        if post.author_id != self.id:
            return False
        with write(pages.LATEST(), pages.USER(self.name), removal=True):
            db.session.delete(post)
        return True

    # Following

    def follow(self, other: "User") -> None:
        """Follow somebody; to do it twice is to do it once. Raises ValueError for oneself, StoreUnavailableError."""
        if other.id == self.id:
            raise ValueError("nobody follows themselves")
        try:
            with write(pages.USER(self.name), pages.USER(other.name)):
                db.session.add(Follow(follower_id=self.id, followed_id=other.id))
        except IntegrityError:
            return  # already

    def unfollow(self, other: "User") -> None:
        """Follow somebody no more. Raises StoreUnavailableError."""
        with write(pages.USER(self.name), pages.USER(other.name), removal=True):
            Follow.end(self.id, other.id)


@dataclass(frozen=True)
class Counts:
    """How many posts a user has, how many follow them, and how many they follow; MOST_COUNTED + 1 for any more."""

    posts: int
    followers: int
    following: int


def _counted(which: ColumnElement[bool]) -> ScalarSelect[int]:
    """Return a query for how many rows there are of a kind, that stops where it does not matter any more."""
    some = select(literal(1)).where(which).correlate(User).limit(MOST_COUNTED + 1).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def _matches(password_hash: str, password: str) -> bool:
    try:
        return hasher.verify(password_hash, password)
    except VerificationError:
        return False


@cache
def _hash_of_nobody() -> str:
    """Return a hash that costs as much to check as anybody's; made when first needed, not at every start."""
    return hasher.hash("nobody")
