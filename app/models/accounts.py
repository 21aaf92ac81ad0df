"""Accounts: who people are, how they prove it, and what they may do."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hmac import compare_digest
from typing import TYPE_CHECKING, Any, Self

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from itsdangerous import BadData, URLSafeTimedSerializer
from sqlalchemy import (
    BigInteger,
    Executable,
    Select,
    String,
    bindparam,
    delete,
    exists,
    func,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column, undefer_group

from app.extensions import Base, UTCDateTime, db, release_connection
from app.models.blocks import Block
from app.models.conversations import pages_above, pages_around
from app.models.follows import Follow, Person, person_columns
from app.models.former_names import FormerName
from app.models.likes import Like
from app.models.mail import CONFIRM, NEW_PASSWORD, Mail
from app.models.notifications import FOLLOW, KINDS, LIKE, MENTION, REPLY, Notification
from app.models.pagination import Id, counted
from app.models.post_text import PostText, search_key
from app.models.posts import LATELY, ChangedMeanwhileError, Post, PostTag
from app.models.writes import (
    FOLLOWERS_PAGE,
    FOLLOWING_PAGE,
    LIKERS_PAGE,
    NOTHING_ELSE,
    PEOPLE_PAGE,
    POST_PAGE,
    PROFILE_FEED,
    PROFILE_PAGE,
    REPLIES_PAGE,
    SITEMAP,
    Also,
    hidden_from,
    likes_by,
    notifications_of,
    posts_by,
    rows_changed,
    write,
)
from app.rate_limit import current_limiter
from app.redis_client import StoreUnavailableError
from app.sessions import current_interface

if TYPE_CHECKING:
    from app.models.joining import Invitation

NAME_LENGTH = 30
NAME_PATTERN = re.compile(rf"[A-Za-z0-9_]{{1,{NAME_LENGTH}}}")
EMAIL_LENGTH = 254  # RFC 5321, 4.5.3.1.3
# What <input type=email> takes (HTML standard, 4.10.5.1.5), with a dot in the domain: the browser and we agree.
EMAIL_PATTERN = re.compile(
    r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+\Z"
)
DISPLAY_NAME_LENGTH, ABOUT_LENGTH, LINK_LENGTH = 50, 200, 200  # code points
DIGEST_LENGTH = 32  # characters of a picture's name
NEW = timedelta(days=1)  # how long an account counts as new
REASON_LENGTH = 500  # code points, of why somebody is suspended or reported
DISPLAY_KEY_LENGTH = 2 * DISPLAY_NAME_LENGTH  # as it is searched for: one letter may become two
SUGGESTED = 5  # people
OWN_PAGES = (PROFILE_PAGE, REPLIES_PAGE, PROFILE_FEED, FOLLOWERS_PAGE, FOLLOWING_PAGE)
RESET_LIFETIME = 3600  # s a link to reset a password is good for
PASSWORD_MIN = 8  # NIST SP 800-63B, 3.1.1.2
PASSWORD_MAX = 1000  # no limit a person meets, but an end to what may be hashed

# Argon2id as OWASP's Password Storage Cheat Sheet sets it: 19 MiB, two passes, one lane. The library's own default
# takes 64 MiB a hash, and ten threads that hash at once would then fill a 512 MB dyno.
hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class NameTakenError(Exception):
    """An account has that name, in upper or lower case."""


class EmailTakenError(Exception):
    """An account has that e-mail address."""


class User(Base):
    """A person with an account. Their name never changes, so that a permalink never breaks."""

    __tablename__ = "users"
    __table_args__ = {"sqlite_autoincrement": True}  # the id of a deleted account is never given again

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    name_key: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)  # the name in lower case
    # A list of posts has no use for these. They are read together, so that hash and version belong together.
    email: Mapped[str | None] = mapped_column(String(EMAIL_LENGTH), unique=True, deferred_group="private")  # lower case
    new_email: Mapped[str | None] = mapped_column(String(EMAIL_LENGTH), deferred_group="private")  # not confirmed yet
    password_hash: Mapped[str] = mapped_column(String(255), deferred_group="private")
    password_version: Mapped[int] = mapped_column(default=0, server_default="0", deferred_group="private")
    suspended_at: Mapped[datetime | None] = mapped_column(UTCDateTime, deferred_group="private")
    invited_by: Mapped[int | None] = mapped_column(BigInteger, deferred_group="private")  # kept if they are deleted
    suspended_until: Mapped[datetime | None] = mapped_column(UTCDateTime, deferred_group="private")  # None: for good
    suspension_reason: Mapped[str] = mapped_column(
        String(REASON_LENGTH), default="", server_default=text("''"), deferred_group="private"
    )
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC), index=True)
    pinned_post_id: Mapped[int | None] = mapped_column(BigInteger)  # on top of their own page; it may be deleted
    notifications_read: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")  # up to this id
    # Kinds of notifications that they have turned off, with commas between.
    not_told_of: Mapped[str] = mapped_column(String(100), default="", server_default=text("''"))
    display_name: Mapped[str] = mapped_column(String(DISPLAY_NAME_LENGTH), default="", server_default=text("''"))
    display_key: Mapped[str] = mapped_column(String(DISPLAY_KEY_LENGTH), default="", server_default=text("''"))
    about: Mapped[str] = mapped_column(String(ABOUT_LENGTH), default="", server_default=text("''"))
    link: Mapped[str] = mapped_column(String(LINK_LENGTH), default="", server_default=text("''"))  # a URL
    # Of the picture that they have; empty if none: see app/models/pictures.py.
    picture: Mapped[str] = mapped_column(String(DIGEST_LENGTH), default="", server_default=text("''"))

    # Registering and logging in

    @classmethod
    def register(
        cls, name: str, email: str | None, password: str, *, new_email: str = "", invitation: "Invitation | None" = None
    ) -> Self:
        """Make an account. Raises NameTakenError or EmailTakenError, and InvitationEndedError.

        new_email: an address that its owner has yet to confirm, by a link that is sent to it.
        """
        address = email.lower() if email else None
        user = cls(name=name, name_key=name.lower(), email=address, password_hash=hashed(password))
        user.new_email = new_email.lower() or None
        user.invited_by = invitation.made_by if invitation else None
        user.join(before=invitation.use if invitation else None)
        return user

    def join(self, *, before: Callable[[], None] | None = None, mail: str = CONFIRM) -> None:
        """Store an account that has just been made. Raises NameTakenError, EmailTakenError, and what `before` raises.

        before: has to succeed first, in the same transaction. mail: the kind of mail to the address they gave.
        """
        name = self.name
        if FormerName.has(name):
            raise NameTakenError
        try:
            with write():
                if before:
                    before()
                db.session.add(self)
                if self.new_email:
                    db.session.flush()  # the user has an id now
                    Mail.write_to(self.new_email, mail, self.id)
        except IntegrityError:
            if User.named(name):
                raise NameTakenError from None
            raise EmailTakenError from None
        with suppress(StoreUnavailableError), write(PEOPLE_PAGE()):  # an account can be made while Redis is away
            pass

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
        row = db.session.execute(_with_counts(), {"name": name.lower()}).first()
        return row and (row[0], Counts(*row[1:]))

    @classmethod
    def with_id(cls, user_id: int) -> Self | None:
        """Return the account with that id, or None."""
        return db.session.get(cls, user_id)

    @classmethod
    def with_email(cls, email: str) -> Self | None:
        """Return the account with that e-mail address, in whatever case, or None."""
        if len(email) > EMAIL_LENGTH or not EMAIL_PATTERN.fullmatch(email):
            return None
        return db.session.scalar(select(cls).where(cls.email == email.lower()))

    @classmethod
    def everyone(cls, *, suspended: bool = False) -> Iterator[Self]:
        """Yield all accounts, or the suspended ones, oldest first, with their deferred columns."""
        query = select(cls).options(undefer_group("private")).order_by(cls.id)
        if suspended:
            is_not_over = cls.suspended_until.is_(None) | (cls.suspended_until > datetime.now(UTC))
            query = query.where(cls.suspended_at.is_not(None), is_not_over)
        return db.session.scalars(query.execution_options(yield_per=500))

    @classmethod
    def active_lately(cls, limit: int) -> Sequence[tuple[str, datetime]]:
        """Return the names of up to `limit` people, each with the time of their last post, the latest first.

        Only the LATELY newest posts are read, however many exist.
        """
        newest = select(Post.author_id, Post.id, Post.created_at).order_by(Post.id.desc()).limit(LATELY).subquery()
        last = func.max(newest.c.id)
        query = select(cls.name, func.max(newest.c.created_at)).join(newest, newest.c.author_id == cls.id)
        rows = db.session.execute(query.group_by(cls.id, cls.name).order_by(last.desc()).limit(limit))
        return [(name, moment) for name, moment in rows]

    @classmethod
    def to_follow(cls, user_id: int) -> list[Person]:
        """Return SUGGESTED people who have posted most lately, for a user who follows nobody; else an empty list."""
        return [Person(*row) for row in db.session.execute(_to_follow(), {"user_id": user_id})]

    @classmethod
    def known_as(cls, login: str) -> Self | None:
        """Return the account with that name, as `ada` or `@ada`, or with that e-mail address; None if there is none."""
        name = login.removeprefix("@")
        return cls.with_email(login) if "@" in name else cls.named(name)

    @classmethod
    def authenticate(cls, login: str, password: str) -> Self | None:
        """Return the account, if the password is its own, else None; an unknown account takes just as long.

        The account may be suspended: app/web/suspension.py says what its session may do.
        """
        user = cls.known_as(login)
        if user is None:
            _matches(_hash_of_nobody(), password)
            return None
        if not user.has_password(password):
            return None
        db.session.expunge(user)  # so that no later query changes the password version that was checked
        if hasher.check_needs_rehash(user.password_hash):
            user._store_hash(password, user.password_version)
        return user

    @property
    def is_new(self) -> bool:
        """Return whether somebody has just joined: then stricter limits hold."""
        return datetime.now(UTC) < self.created_at + NEW

    @property
    def login_names(self) -> list[str]:
        """Return all that the owner may log in with."""
        return [self.name, self.email] if self.email else [self.name]

    def has_password(self, password: str) -> bool:
        return _matches(self.password_hash, password)

    @classmethod
    def may_log_in(cls, user_id: int, password_version: int, suspended_at: datetime | None) -> bool:
        """Return whether a login that was right a moment ago still is: same password, and suspended since then or not.

        Call this after the session is stored. A password change, a suspension, its end and a deletion end the account's
        sessions after their commit. So either they find the new session, or this method sees their change.
        """
        db.session.rollback()  # start a new transaction, which sees the latest commit
        row = db.session.execute(select(cls.password_version, cls.suspended_at).where(cls.id == user_id)).first()
        return row is not None and tuple(row) == (password_version, suspended_at)

    def change_password(self, password: str, *, keep: str | None = None) -> bool:
        """Set another password, and end all sessions but the one with the id `keep`.

        Returns False, with the password left as it is, if it was changed since this object was read. Raises
        StoreUnavailableError; then nothing has changed if Redis was away from the start.
        """
        before = self.password_version
        db.session.expunge(self)  # so that no later query changes `password_version`
        with self._locking_out(keep=keep):
            changed = self._store_hash(password, before, next_version=before + 1)
        if changed:
            self.password_version = before + 1
        return changed

    def reset_token(self, secret_key: str) -> str:
        """Return a token with which a new password can be set once, within RESET_LIFETIME.

        The token is bound to the password that it replaces, so the secret key alone is not enough to forge one; and to
        the e-mail address that the account has now, for the link may have been sent there.
        """
        return _reset_signer(secret_key).dumps([self.id, self._reset_fingerprint])

    @classmethod
    def with_reset_token(cls, token: str, secret_key: str) -> Self | None:
        """Return the account that a token resets the password of; None if it is used up, too old or forged."""
        try:
            user_id, fingerprint = _reset_signer(secret_key).loads(token, max_age=RESET_LIFETIME)
        except BadData:
            return None
        user = cls.with_id(user_id)
        return user if user and compare_digest(user._reset_fingerprint, fingerprint) else None

    @property
    def password_fingerprint(self) -> str:
        """Return a value that changes with the password and its version, and reveals neither."""
        return hashlib.sha256(f"{self.password_version}:{self.password_hash}".encode()).hexdigest()[:32]

    @property
    def _reset_fingerprint(self) -> str:
        return hashlib.sha256(f"{self.password_fingerprint} {self.email or ''}".encode()).hexdigest()[:32]

    def _store_hash(self, password: str, version: int, *, next_version: int | None = None) -> bool:
        """Store a password's hash, unless the password is no longer of this version; return whether it was stored."""
        new_hash = hashed(password)
        query = (
            update(User)
            .where(User.id == self.id, User.password_version == version)
            .values(password_hash=new_hash, password_version=next_version or version)
        )
        with write():
            stored = rows_changed(query) > 0
            if stored and next_version:
                self.tell_owner(self.id, NEW_PASSWORD)
        if stored:
            self.password_hash = new_hash
        return stored

    @classmethod
    def tell_owner(cls, user_id: int, kind: str) -> None:
        """Add a mail to the account's address, if it has one, to the current transaction."""
        if address := db.session.scalar(select(cls.email).where(cls.id == user_id)):
            Mail.write_to(address, kind, user_id)

    # Suspending and deleting

    @property
    def is_suspended(self) -> bool:
        """Return whether the account is suspended at this moment: nothing has to lift a suspension that is over."""
        until = self.suspended_until
        return self.suspended_at is not None and (until is None or until > datetime.now(UTC))

    def suspend(self, days: int | None = None, reason: str = "", also: Also = NOTHING_ELSE) -> None:
        """Suspend this account, for good if no days are given. Its posts stay.

        Its sessions end at once, everywhere. Its owner can log in again, read why and until when, export their data
        and delete the account. Suspending it again ends its sessions again, and the new time counts.

        Raises StoreUnavailableError.
        """
        with self._locking_out(), write(*also.changes):
            self.suspended_at = now = datetime.now(UTC)
            self.suspended_until = now + timedelta(days=days) if days else None
            self.suspension_reason = reason
            # Reset links and logins under way are void. The database counts: the password may be changing right now.
            self.password_version = User.password_version + 1
            also.run()

    def reinstate(self, also: Also = NOTHING_ELSE) -> bool:
        """End a suspension before its time; return False if there is none.

        The sessions that only told why end, so that the owner can log in as before. Raises StoreUnavailableError.
        """
        if not self.is_suspended:
            return False
        with self._locking_out(), write(*also.changes):
            self.suspended_at = self.suspended_until = None
            self.suspension_reason = ""
            also.run()
        return True

    def delete_posts(self) -> None:
        """Delete everything this user has written. Raises StoreUnavailableError."""
        while self._delete_some_posts():
            pass

    def delete_account(self, also: Also = NOTHING_ELSE) -> None:
        """Delete the account and all that belongs to it; its name stays reserved.

        also: done as soon as the account is locked. Raises StoreUnavailableError.
        """
        self.suspend(also=also)  # so that the owner can't post or follow meanwhile
        own_pages = [page(self.name) for page in OWN_PAGES]
        # A batch at a time, because each follow and each post is on pages of its own; and again, because a request that
        # was under way may still have posted or followed, and others may follow this account until it is gone.
        while self._end_some_follows() or self._end_some_likes() or self._delete_some_posts():
            pass
        stamps = {stamp(self.id) for stamp in (likes_by, notifications_of, hidden_from)}
        stamps |= Notification.told_by(self.id) | {hidden_from(user_id) for user_id in Block.others(self.id)}
        with write(*own_pages, SITEMAP(), PEOPLE_PAGE(), *stamps, removal=True):
            FormerName.keep(self.name)
            db.session.execute(delete(User).where(User.id == self.id))

    def _end_some_follows(self) -> bool:
        """End some of the follows by and of this user; return whether there were any."""
        follows = Follow.some_of(self.id)
        pages = {page for follow in follows for page in Follow.changes(follow.follower, follow.followed)}
        profiles = {page for follow in follows for page in Follow.counted_on(follow.follower, follow.followed)}
        if follows:
            with write(*pages, *profiles, removal=True):
                Follow.end_many(follow.id for follow in follows)
        return bool(follows)

    def _end_some_likes(self) -> bool:
        """End some of this user's likes; return whether there were any."""
        ids = Like.some_by(self.id)
        if ids:
            posts = Post.whole(ids)
            likers = {LIKERS_PAGE(post.author.name, post.id) for post in posts}
            with write(*likers.union(*map(_counted_on, posts)), removal=True):
                Like.end(self.id, ids)
        return bool(ids)

    def _delete_some_posts(self) -> bool:
        """Delete some of this user's posts; return whether there were any."""
        posts = Post.some_by(self.id)
        if posts:
            ids = [post.id for post in posts]
            lists = set[str]().union(*(post.lists(self.name) for post in posts))
            above = Post.whole([post.reply_to_id for post in posts if post.reply_to_id])
            counted_on = set[str]().union(*map(_lists_of, above)) - lists
            likers = {LIKERS_PAGE(self.name, post_id) for post_id in ids}
            changed = lists | pages_around(ids) | Notification.told_about(ids) | likers
            with suppress(ChangedMeanwhileError):  # then they are among the next
                with write(*changed, counted_on=counted_on, removal=True):
                    Post.lock(posts)
                    moved = Post.delete_many(ids)
                _drop_late_replies(ids, moved, changed)
        return bool(posts)

    @contextmanager
    def _locking_out(self, *, keep: str | None = None) -> Iterator[None]:
        """End this account's sessions before and after a change of who may use it, and forget its devices.

        Before, so that nothing changes if Redis is away; after, to catch anyone who logged in before the commit.
        """
        names = self.login_names
        interface, limiter = current_interface(), current_limiter()
        user_id = self.id
        interface.end_all(user_id, keep=keep)
        yield
        interface.end_all(user_id, keep=keep)
        for name in names:
            limiter.forget_devices(name)

    # Posting

    def publish(self, said: PostText, reply_to: Post | None = None, form_key: str = "") -> Post:
        """Publish a post, or a reply to one.

        form_key: of the form that it was written in. If the same text was sent with that form before, as an impatient
        click or the back button does, return the post that it became.

        Raises StoreUnavailableError, with nothing written, if the cache can't be told; BlockedError.
        """
        post = Post(author_id=self.id, body=said.body, tags=[PostTag(tag=tag) for tag in said.tags])
        post.sent_as = sent_as = self._sent_as(said, reply_to, form_key)
        above = set[str]()
        if reply_to:
            post.make_reply_to(reply_to)
            above = pages_above([reply_to.id])
        lists = post.lists(self.name)
        told = self._to_be_told(said.mentions, post.addressee_id)
        stamps = posts_by(self.id), *map(notifications_of, told)
        try:
            with write(*lists, *above, *stamps, counted_on=_lists_of(reply_to) - lists):
                db.session.add(post)
                if post.addressee_id:
                    db.session.flush()
                    Block.lets_through(self.id, post.addressee_id)
                self._tell(told, post)
        except IntegrityError:
            sent_before = db.session.scalar(select(Post).where(Post.sent_as == sent_as)) if sent_as else None
            if sent_before is None:
                raise
            return sent_before
        return post

    def _sent_as(self, said: PostText, reply_to: Post | None, form_key: str) -> str | None:
        """Return what tells that the same text is sent with the same form; None if the form has no key."""
        if not form_key:
            return None
        sent = f"{self.id} {form_key} {reply_to.id if reply_to else ''} {said.body}"
        return hashlib.sha256(sent.encode()).hexdigest()

    def _to_be_told(self, names: Collection[str], addressee_id: int | None) -> dict[int, str]:
        """Return who is told of a post that mentions these names, and why; those who don't want to be are left out."""
        if not names and addressee_id is None:
            return {}
        query = select(User.id, User.not_told_of).where(User.name_key.in_(names) | (User.id == addressee_id))
        query = query.where(User.id != self.id, ~Block.hides(User.__table__.c.id, self.id))
        concerned = [
            (user_id, REPLY if user_id == addressee_id else MENTION, not_of)
            for user_id, not_of in db.session.execute(query)
        ]
        return {user_id: kind for user_id, kind, not_of in concerned if kind not in not_of.split(",")}

    def _tell(self, told: Mapping[int, str], post: Post) -> None:
        """Tell people of a post, each for a reason."""
        if told:
            Notification.keep_in_order(told)
            db.session.flush()  # the post has an id now
        for user_id, kind in told.items():
            db.session.add(Notification(user_id=user_id, kind=kind, actor_id=self.id, post_id=post.id))

    def edit(self, post: Post, said: PostText) -> bool:
        """Change the text of a post of one's own; return False if it can't be edited any more.

        Those whom the old text mentioned are not told again. Raises StoreUnavailableError.
        """
        if post.author_id != self.id or not post.is_editable:
            return False
        if said.body == post.body:
            return True
        post_id = post.id
        told = self._to_be_told(said.mentions - PostText(post.body).mentions, None)
        for user_id in Notification.told_of(post_id):
            told.pop(user_id, None)
        edited = Post(author_id=self.id, addressee_id=post.addressee_id, tags=[PostTag(tag=tag) for tag in said.tags])
        changed = post.lists(self.name) | edited.lists(self.name) | pages_around([post_id])
        try:
            with write(*changed, *map(notifications_of, told), removal=True):
                Post.lock([post])
                post.change_text(said.body, said.tags)
                self._tell(told, post)
        except ChangedMeanwhileError:
            again = Post.with_id(post_id)
            return again is not None and self.edit(again, said)
        _drop_late_replies([post_id], [], changed)
        return True

    def delete(self, post: Post, also: Also = NOTHING_ELSE) -> bool:
        """Delete one's own post; return False, and leave it, if it is somebody else's. Raises StoreUnavailableError.

        What replies to it stays.
        """
        if post.author_id != self.id:
            return False
        above = Post.with_id(post.reply_to_id) if post.reply_to_id else None
        lists = post.lists(self.name)
        changed = lists | pages_around([post.id]) | Notification.told_about([post.id])
        changed.add(LIKERS_PAGE(self.name, post.id))
        if above:
            changed |= pages_above([above.id])  # one more than shows the post shows how many replies it had
        deleted = [post.id]
        try:
            with write(*changed, *also.changes, counted_on=_lists_of(above) - lists, removal=True):
                Post.lock([post])
                moved = Post.delete_many(deleted)
                also.run()
        except ChangedMeanwhileError:
            again = Post.with_id(deleted[0])
            return again is None or self.delete(again, also)
        _drop_late_replies(deleted, moved, changed)
        return True

    def pin(self, post: Post | None) -> None:
        """Pin one of one's own posts to the top of one's page, in place of the one before; None only unpins that.

        Raises ValueError for somebody else's post, StoreUnavailableError.
        """
        if post and post.author_id != self.id:
            raise ValueError("nobody pins somebody else's post")
        changed = {post.id if post else None, self.pinned_post_id} - {None}
        with write(PROFILE_PAGE(self.name), *(POST_PAGE(self.name, post_id) for post_id in changed), removal=True):
            self.pinned_post_id = post.id if post else None

    # Following

    def follow(self, other: "User") -> None:
        """Follow someone; following twice changes nothing.

        Raises ValueError for oneself, StoreUnavailableError, BlockedError.
        """
        if other.id == self.id:
            raise ValueError("nobody follows themselves")
        told = [notifications_of(other.id)] if FOLLOW not in other.not_told_of.split(",") else []
        try:
            with write(*Follow.changes(self, other), *told, counted_on=Follow.counted_on(self, other)):
                db.session.add(Follow(follower_id=self.id, followed_id=other.id))
                db.session.flush()
                if Block.lets_through(self.id, other.id) and told:
                    Notification.keep_in_order([other.id])
                    db.session.add(Notification(user_id=other.id, kind=FOLLOW, actor_id=self.id))
        except IntegrityError:
            return  # already

    def unfollow(self, other: "User") -> None:
        """Unfollow someone. Raises StoreUnavailableError."""
        changed = *Follow.changes(self, other), notifications_of(other.id)
        with write(*changed, counted_on=Follow.counted_on(self, other), removal=True):
            Follow.end(self.id, other.id)
            Notification.forget(FOLLOW, self.id, other.id)

    # Liking

    def like(self, post: Post) -> None:
        """Like a post that has its author and tags; liking twice changes nothing.

        Raises StoreUnavailableError, BlockedError.
        """
        author = post.author
        is_told = author.id != self.id and LIKE not in author.not_told_of.split(",")
        changed = _liking(self, post) - (set() if is_told else {notifications_of(author.id)})
        try:
            with write(*changed, counted_on=_counted_on(post)):
                db.session.add(Like(user_id=self.id, post_id=post.id))
                db.session.flush()
                if Block.lets_through(self.id, author.id) and is_told:
                    Notification.keep_in_order([author.id])
                    db.session.add(Notification(user_id=author.id, kind=LIKE, actor_id=self.id, post_id=post.id))
        except IntegrityError:
            return  # they like it already, or it has just been deleted

    def unlike(self, post: Post) -> None:
        """No longer like a post that has its author and tags. Raises StoreUnavailableError."""
        changed = {*_liking(self, post), POST_PAGE(post.author.name, post.id)}  # which may name them
        with write(*changed, counted_on=_counted_on(post) - changed, removal=True):
            Like.end(self.id, [post.id])
            Notification.forget(LIKE, self.id, post.author_id, post.id)

    # The profile

    def describe(self, display_name: str, about: str, link: str) -> None:
        """Say who one is: a name beside @name, a line, and a URL; each may be empty. Raises StoreUnavailableError.

        One's own pages and the directory show it at once. Posts are on too many pages, and their HTML is kept: they
        show another display name when that has expired.
        """
        with write(*(page(self.name) for page in OWN_PAGES), PEOPLE_PAGE(), removal=True):
            self.display_name, self.about, self.link = display_name, about, link
            self.display_key = search_key(display_name)[:DISPLAY_KEY_LENGTH]

    # Notifications

    def tell_of(self, kinds: Collection[str]) -> None:
        """Tell this user of these kinds of events from now on, and of no others."""
        with write():
            self.not_told_of = ",".join(kind for kind in KINDS if kind not in kinds)


def _liking(user: User, post: Post) -> set[str]:
    """Return the cached pages and stamps that change when a user likes a post or no longer does, beside the counts."""
    return {LIKERS_PAGE(post.author.name, post.id), likes_by(user.id), notifications_of(post.author_id)}


def _counted_on(post: Post) -> set[str]:
    """Return the cached pages, and the stamp, that show how many people like a post."""
    return post.shown_in(post.author.name) | pages_above([post.id])


def _lists_of(post: Post | None) -> set[str]:
    """Return the cached lists that show a post, and so the number of its replies."""
    return post.shown_in(post.author.name) if post else set()


def _drop_late_replies(deleted: Collection[int], moved: Collection[int], dropped: Collection[str]) -> None:
    """Drop the pages of replies that were published while these posts were changed or deleted: they may show them.

    moved: the posts that stood below them. dropped: the pages that the write has dropped.
    """
    below = {*moved, *Post.ids_below(deleted)}
    late = pages_around(below).difference(dropped) if below else None
    if late:
        with write(*late, removal=True):
            pass


@dataclass(frozen=True)
class Counts:
    """How many posts a user has, how many follow them, and how many they follow; MOST_COUNTED + 1 for any more."""

    posts: int
    followers: int
    following: int


@cache
def _to_follow() -> Select[Any]:
    reader = bindparam("user_id", type_=BigInteger)
    newest = select(Post.author_id).order_by(Post.id.desc()).limit(LATELY).subquery()
    follows_nobody = ~exists().where(Follow.follower_id == reader)
    query = select(*person_columns(User.__table__)).join(newest, newest.c.author_id == User.id).where(follows_nobody)
    query = query.where(User.id != reader).group_by(*person_columns(User.__table__))
    return query.order_by(func.count().desc(), User.id).limit(SUGGESTED)


@cache
def _with_counts() -> Executable:
    """Return the query of User.with_counts(), made once: to make it takes as long as to run it."""
    mine = Post.author_id == User.id, Follow.followed_id == User.id, Follow.follower_id == User.id
    counts = (counted(which, outside=User.__table__) for which in mine)
    return select(User, *counts).where(User.name_key == bindparam("name"))


def hashed(password: str) -> str:
    """Return the hash of a password; that takes long, so another thread gets the connection to SQL meanwhile."""
    release_connection()
    return hasher.hash(password)


def _matches(password_hash: str, password: str) -> bool:
    release_connection()
    try:
        return hasher.verify(password_hash, password)
    except VerificationError:
        return False


def _reset_signer(secret_key: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(secret_key, salt="reset-password")


@cache
def _hash_of_nobody() -> str:
    """Return a hash that takes as long to check as a real one; computed when first needed, not at every start."""
    return hasher.hash("nobody")
