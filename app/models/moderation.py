"""Moderation: who may do it, what people report, what is decided, and the log of that.

What a moderator does is a method of Moderator. `flask user` and `flask post` call the same methods, as COMMAND_LINE.
Each writes a line of the log in its own transaction, and returns it in words.

The log keeps bare ids, of the moderator, the person and the post: when an account is deleted, a number is left.
Triggers refuse to change or delete a line of it (migration 0011).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple, Self

from sqlalchemy import (
    BigInteger,
    Executable,
    ForeignKey,
    Index,
    Select,
    String,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    null,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, UTCDateTime, db
from app.models.accounts import REASON_LENGTH, User
from app.models.follows import Person, person_columns
from app.models.joining import Applicant
from app.models.moderators import ModeratorRole, is_moderator, news_of_moderators
from app.models.notifications import REMOVAL, WARNING, Notification, unread_query
from app.models.pagination import Id, PagedQuery, Pagination, counted
from app.models.pins import MOST_PINNED, PinnedPost
from app.models.post_text import in_brief
from app.models.posts import Post
from app.models.site_pages import SitePage
from app.models.writes import LATEST_PAGE, SITE_PAGE, Also, notifications_of, rows_changed, write

PER_PAGE = 50  # lines of the log
CASES = 20  # on a page
MOST_SHOWN = 10  # reports of a case whose reasons are shown
MOST_COUNTED = 99  # open reports and people who ask to join, together; more are shown as "99+"
QUOTED = 80  # characters of a removed post that its author is reminded of
ABOUT_PERSON = 0  # in place of a post's id

DISMISS, REMOVE_POST, WARN = "dismiss", "remove-post", "warn"
SUSPEND, CLEAR, REMOVE, REINSTATE = "suspend", "clear", "remove", "reinstate"
PROMOTE, DEMOTE, PIN, UNPIN, EDIT_PAGE = "promote", "demote", "pin", "unpin", "edit-page"
# What the log says, the page after a decision, and the command line.
WORDS = {
    DISMISS: "dismissed the reports about {who}",
    REMOVE_POST: "removed post {post} by {who}",
    WARN: "warned {who}",
    SUSPEND: "suspended {who} {time}",
    CLEAR: "suspended {who} {time} and removed all their posts",
    REINSTATE: "reinstated {who}",
    REMOVE: "removed the account of {who} with all its posts",
    PROMOTE: "made {who} a moderator",
    DEMOTE: "took moderation away from {who}",
    PIN: "pinned post {post} by {who}",
    UNPIN: "unpinned post {post} by {who}",
    EDIT_PAGE: "edited a page of the site",
}

DURATIONS: dict[str, int | None] = {"suspend-1": 1, "suspend-7": 7, "suspend-30": 30, SUSPEND: None}  # days
# What a moderator chooses from, about somebody or a post of theirs.
CHOICES = {
    DISMISS: "Dismiss the reports",
    REMOVE_POST: "Remove the post",
    WARN: "Warn them",
    "suspend-1": "Suspend them for 1 day",
    "suspend-7": "Suspend them for 7 days",
    "suspend-30": "Suspend them for 30 days",
    SUSPEND: "Suspend them for good",
    CLEAR: "Suspend them for good, and remove all their posts",
    REMOVE: "Remove the account, with all its posts",
    REINSTATE: "Reinstate them",
}


class NotAllowedError(Exception):
    """A moderator may not do this; the message says why."""


class Report(Base):
    """Somebody tells the moderators of a post, or of a person. Each person has at most one report of each."""

    __tablename__ = "reports"
    __table_args__ = (
        Index("uq_reports_reporter_id_user_id_post_id", "reporter_id", "user_id", "post_id", unique=True),
        Index("ix_reports_user_id", "user_id"),
        Index("ix_reports_decided_at_id", "decided_at", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    reporter_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))  # the person, or the post's author
    post_id: Mapped[int] = mapped_column(BigInteger)  # or ABOUT_PERSON; the post may have been deleted since
    reason: Mapped[str] = mapped_column(String(REASON_LENGTH))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    decided_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    decided_by: Mapped[int | None] = mapped_column(BigInteger)
    decision: Mapped[str | None] = mapped_column(String(20))

    @classmethod
    def send(cls, reporter: User, user: User, reason: str, post_id: int = ABOUT_PERSON) -> None:
        """Report a user, or a post of theirs. Reporting it again replaces the reason and reopens the report.

        Raises ValueError for oneself, StoreUnavailableError.
        """
        if reporter.id == user.id:
            raise ValueError("nobody reports themselves")
        same = cls.reporter_id == reporter.id, cls.user_id == user.id, cls.post_id == post_id
        try:
            with write(*news_of_moderators()):
                db.session.execute(delete(cls).where(*same))
                db.session.add(cls(reporter_id=reporter.id, user_id=user.id, post_id=post_id, reason=reason))
        except IntegrityError:
            return  # a second click, at the same moment

    @classmethod
    def count_open(cls) -> int:
        """Return how many reports are open, as counted() counts them."""
        return db.session.execute(select(counted(cls.decided_at.is_(None)))).scalar_one()


class LogEntry(Base):
    """A line of the log: who did what, about whom, why and when."""

    __tablename__ = "moderation_log"
    __table_args__ = (Index("ix_moderation_log_user_id_id", "user_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    moderator_id: Mapped[int | None] = mapped_column(BigInteger)  # None: the command line
    action: Mapped[str] = mapped_column(String(20))
    user_id: Mapped[int | None] = mapped_column(BigInteger)
    post_id: Mapped[int | None] = mapped_column(BigInteger)
    days: Mapped[int | None]  # of a suspension; None: for good
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Moderator:
    """Whoever decides: a moderator, or the command line, whose id is None.

    Each method returns what was done, in words. Each raises NotAllowedError if the person concerned is a moderator,
    whom only the command line may act on, and StoreUnavailableError.
    """

    id: int | None

    @classmethod
    def with_id(cls, user_id: int) -> Self | None:
        """Return the user with that id as a moderator, None if they are not one."""
        return cls(user_id) if is_moderator(user_id) else None

    def may_act_on(self, user: User) -> bool:
        """Return whether this moderator may do something about a user."""
        return self.id is None or not is_moderator(user.id)

    def dismiss(self, user: User, reason: str, post_id: int = ABOUT_PERSON) -> str:
        """Close the reports about a post, or a person, without doing anything else."""
        if self.id == user.id:
            raise NotAllowedError("You can't decide about yourself.")
        also, said = self._decision(DISMISS, user, reason, post_id)
        _only(also)
        return said

    def remove_post(self, post: Post, reason: str) -> str:
        """Delete somebody's post, and tell them why."""
        author = post.author
        self._check(author)
        told = REMOVAL, f"“{in_brief(post.body, QUOTED)}” {reason}".strip()
        also, said = self._decision(REMOVE_POST, author, reason, post.id, tell=told)
        author.delete(post, also)
        return said

    def warn(self, user: User, reason: str, post_id: int = ABOUT_PERSON) -> str:
        """Tell somebody, in a notification that can't be turned off, what they must not do again."""
        self._check(user)
        also, said = self._decision(WARN, user, reason, post_id, tell=(WARNING, reason))
        _only(also)
        return said

    def suspend(self, user: User, reason: str, days: int | None = None, post_id: int = ABOUT_PERSON) -> str:
        """Suspend somebody, for good if no days are given."""
        self._check(user)
        also, said = self._decision(SUSPEND, user, reason, post_id, days=days)
        user.suspend(days, reason, also)
        return said

    def clear(self, user: User, reason: str) -> str:
        """Suspend somebody for good, and delete all their posts."""
        self._check(user)
        also, said = self._decision(CLEAR, user, reason)
        user.suspend(None, reason, also)
        user.delete_posts()
        return said

    def reinstate(self, user: User, reason: str) -> str:
        """End a suspension before its time. Raises NotAllowedError if there is none."""
        self._check(user)
        also, said = self._decision(REINSTATE, user, reason)
        if not user.reinstate(also):
            raise NotAllowedError(f"@{user.name} isn't suspended.")
        return said

    def remove(self, user: User, reason: str) -> str:
        """Delete a whole account, for spammers: it is gone from every page and feed."""
        self._check(user)
        also, said = self._decision(REMOVE, user, reason)
        user.delete_account(also)
        return said

    def promote(self, user: User) -> str:
        """Make somebody a moderator. Only the command line can."""
        return self._change_role(PROMOTE, user, insert(ModeratorRole).values(user_id=user.id))

    def demote(self, user: User) -> str:
        """Take the moderator's role away from somebody. Only the command line can."""
        return self._change_role(DEMOTE, user, delete(ModeratorRole).where(ModeratorRole.user_id == user.id))

    def pin(self, post: Post) -> str:
        """Pin a post above everyone's latest ones. Raises NotAllowedError if there is no room, or it is a reply."""
        pinned = [listed.id for listed in PinnedPost.all()]
        if post.addressee_id is not None:
            raise NotAllowedError("A reply to somebody else can't be pinned: few would know what it is about.")
        if post.id not in pinned and len(pinned) >= MOST_PINNED:
            raise NotAllowedError(f"There are {MOST_PINNED} pinned posts already. Unpin one first.")
        if post.id not in pinned:
            with write(LATEST_PAGE()):
                db.session.merge(PinnedPost(post_id=post.id))  # another moderator may have pinned it since
                self.log(PIN, post.author_id, post.id)
        return sentence(PIN, post.author, post.id)

    def unpin(self, post: Post) -> str:
        """Unpin a post from above everyone's latest ones."""
        with write(LATEST_PAGE(), removal=True):
            if rows_changed(delete(PinnedPost).where(PinnedPost.post_id == post.id)):
                self.log(UNPIN, post.author_id, post.id)
        return sentence(UNPIN, post.author, post.id)

    def edit_page(self, name: str, body: str) -> None:
        """Replace the text of one of the site's own pages."""
        with write(SITE_PAGE(name), removal=True):
            SitePage.store(name, body)
            self.log(EDIT_PAGE, None, reason=name)

    def decide(self, choice: str, user: User, reason: str, post_id: int = ABOUT_PERSON) -> str:
        """Do what was chosen among CHOICES, about a user or a post of theirs."""
        if choice in DURATIONS:
            return self.suspend(user, reason, DURATIONS[choice], post_id)
        if choice == REMOVE_POST:
            post = Post.with_id(post_id)
            if post is None:
                raise NotAllowedError("The post has been deleted already.")
            return self.remove_post(post, reason)
        if choice in (DISMISS, WARN):
            return (self.dismiss if choice == DISMISS else self.warn)(user, reason, post_id)
        return {CLEAR: self.clear, REMOVE: self.remove, REINSTATE: self.reinstate}[choice](user, reason)

    def log(
        self, action: str, user_id: int | None, post_id: int | None = None, reason: str = "", days: int | None = None
    ) -> None:
        """Add a line to the log; the caller commits."""
        about = {"user_id": user_id, "post_id": post_id or None, "reason": reason, "days": days}
        db.session.add(LogEntry(moderator_id=self.id, action=action, **about))

    def _check(self, user: User) -> None:
        if not self.may_act_on(user):
            who = "You are" if user.id == self.id else f"@{user.name} is"
            raise NotAllowedError(f"{who} a moderator. Only the people who run this site can do that.")

    def _decision(
        self,
        action: str,
        user: User,
        reason: str,
        post_id: int = ABOUT_PERSON,
        *,
        days: int | None = None,
        tell: tuple[str, str] | None = None,
    ) -> tuple[Also, str]:
        """Return what comes with a decision (its line in the log, the end of the reports), and the decision in words.

        tell: a kind of notification, and what it says.
        """
        user_id = user.id

        def run() -> None:
            self.log(action, user_id, post_id, reason, days)
            self._close_reports(action, user_id, post_id)
            if tell:
                kind, note = tell
                Notification.keep_in_order([user_id])
                # The site tells them, not a person: that no moderator is named keeps moderators safe.
                db.session.add(Notification(user_id=user_id, kind=kind, actor_id=user_id, note=note))

        changes = news_of_moderators() | ({notifications_of(user_id)} if tell else set())
        return Also(run, changes), sentence(action, user, post_id, days)

    def _close_reports(self, action: str, user_id: int, post_id: int) -> None:
        """Close the reports that a decision is about; a new one opens them again."""
        if action == REINSTATE:
            return
        about = [Report.user_id == user_id, Report.decided_at.is_(None)]
        if action not in (CLEAR, REMOVE):
            about.append(Report.post_id == post_id)
        decided = {"decided_at": datetime.now(UTC), "decided_by": self.id, "decision": action}
        db.session.execute(update(Report).where(*about).values(**decided))

    def _change_role(self, action: str, user: User, change: Executable) -> str:
        is_one = is_moderator(user.id)
        if is_one != (action == DEMOTE):
            raise NotAllowedError(f"@{user.name} {'is already' if is_one else 'is not'} a moderator.")
        with write(notifications_of(user.id)):
            db.session.execute(change)
            self.log(action, user.id)
        return sentence(action, user)


COMMAND_LINE = Moderator(None)


def _only(also: Also) -> None:
    """Write what comes with a decision that does nothing else."""
    with write(*also.changes):
        also.run()


def news_of(user_id: int) -> str:
    """Return what the stamp notifications_of() holds, for the bar of every page: three words, with spaces between.

    How many notifications a user has not seen; the digest of their picture, if they have one; for a moderator, how
    many reports are open and how many people ask to join.
    """
    unread, picture, undecided = db.session.execute(_news(), {"user_id": user_id}).one()
    return f"{unread} {picture or ''} {'' if undecided is None else undecided}"


def sentence(action: str, user: User, post_id: int | None = None, days: int | None = None) -> str:
    """Return what was done to whom, as a sentence."""
    words = in_words(action, f"@{user.name}", post_id, days)
    return f"{words[0].upper()}{words[1:]}."


def in_words(action: str, who: str, post_id: int | None = None, days: int | None = None) -> str:
    """Return what was done to whom, as the end of a sentence."""
    how_long = "for good" if days is None else f"for {days} day{'' if days == 1 else 's'}"
    return WORDS.get(action, action).format(who=who, post=post_id, time=how_long)


class Told(NamedTuple):
    """A report, as moderators read it."""

    reason: str
    created_at: datetime
    reporter: Person | None  # None if the account is deleted


@dataclass(frozen=True)
class Case:
    """The open reports about one post, or one person."""

    person: Person  # or the post's author
    post_id: int  # ABOUT_PERSON if it is not about a post
    count: int  # of reports
    oldest: int  # the id of the oldest
    reports: list[Told]  # up to MOST_SHOWN, the oldest first


def open_cases(after: int | None = None, user_id: int | None = None) -> tuple[list[Case], int | None]:
    """Return a page of what is to be decided, the oldest first, and `after` of the next page, None on the last.

    user_id: only what is about that user.
    """
    oldest = func.min(Report.id)
    person = person_columns(User.__table__)
    query = select(Report.post_id, func.count(), oldest, *person).join(User, User.id == Report.user_id)
    query = query.where(Report.decided_at.is_(None)).group_by(Report.post_id, *person).order_by(oldest)
    if user_id is not None:
        query = query.where(Report.user_id == user_id)
    rows = db.session.execute(query.having(oldest > (after or 0)).limit(CASES + 1)).all()
    shown = [Case(Person(*who), post_id, count, first, []) for post_id, count, first, *who in rows[:CASES]]
    by_subject = {(found.person.id, found.post_id): found.reports for found in shown}
    for about, post_id, told in _told({found.person.id for found in shown}):
        if (about, post_id) in by_subject:
            by_subject[about, post_id].append(told)
    return shown, shown[-1].oldest if len(rows) > CASES else None


def _told(user_ids: set[int]) -> list[tuple[int, int, Told]]:
    """Return the first open reports about each post of these users, and each of them: whom, which post, and what."""
    place = func.row_number().over(partition_by=(Report.user_id, Report.post_id), order_by=Report.id).label("place")
    columns = Report.user_id, Report.post_id, Report.reason, Report.created_at, Report.reporter_id
    ranked = select(*columns, Report.id, place).where(Report.decided_at.is_(None), Report.user_id.in_(user_ids))
    row = ranked.subquery()
    query = select(row.c.user_id, row.c.post_id, row.c.reason, row.c.created_at, *person_columns(User.__table__))
    query = query.outerjoin(User, User.id == row.c.reporter_id).where(row.c.place <= MOST_SHOWN).order_by(row.c.id)
    return [
        (about, post_id, Told(reason, moment, Person(*reporter) if reporter[0] else None))
        for about, post_id, reason, moment, *reporter in db.session.execute(query)
    ]


@dataclass(frozen=True)
class Line:
    """A line of the log, as it is read."""

    moderator_id: int | None
    moderator: str | None  # the name, if they still have an account
    action: str
    user_id: int | None
    name: str | None  # of whom it was about, if they still have an account
    post_id: int | None
    days: int | None
    reason: str
    created_at: datetime

    @property
    def by(self) -> str:
        """Return who did it, for people."""
        return _called(self.moderator, self.moderator_id) or "The command line"

    @property
    def around(self) -> tuple[str, str]:
        """Return what was done, in words: what stands before the name of the person concerned, and what after it."""
        before, _, after = in_words(self.action, "\0", self.post_id, self.days).partition("\0")
        return before, after

    @property
    def who(self) -> str:
        """Return whom it was about, for people."""
        return _called(self.name, self.user_id)

    def __str__(self) -> str:
        done = in_words(self.action, self.who, self.post_id, self.days)
        return f"{self.by} {done}{f': {self.reason}' if self.reason else ''}"


def log_lines(before: int | None = None, user_id: int | None = None) -> Pagination[Line]:
    """Return what was done, the latest first. user_id: only what was about that user."""
    return (_log() if user_id is None else _log_about()).page(before, user_id=user_id)


def _called(name: str | None, user_id: int | None) -> str:
    if name:
        return f"@{name}"
    return f"deleted account {user_id}" if user_id else ""


# The queries, each made once: to make one takes as long as to run it.


@cache
def _news() -> Select[Any]:
    may = exists().where(ModeratorRole.user_id == bindparam("user_id", type_=BigInteger))
    people = User.__table__.c
    picture = select(people.picture).where(people.id == bindparam("user_id", type_=BigInteger)).scalar_subquery()
    undecided = counted(Report.decided_at.is_(None)) + counted(Applicant.id.is_not(None))
    return select(unread_query().scalar_subquery(), picture, case((may, undecided), else_=null()))


@cache
def _log() -> PagedQuery[Line]:
    return _lines()


@cache
def _log_about() -> PagedQuery[Line]:
    return _lines(LogEntry.user_id == bindparam("user_id", type_=BigInteger))


def _lines(*conditions: Any) -> PagedQuery[Line]:
    row, moderator, person = LogEntry.__table__.c, User.__table__.alias(), User.__table__.alias()
    what = row.post_id, row.days, row.reason, row.created_at
    query = select(row.moderator_id, moderator.c.name, row.action, row.user_id, person.c.name, *what)
    query = query.outerjoin(moderator, moderator.c.id == row.moderator_id)
    query = query.outerjoin(person, person.c.id == row.user_id).where(*conditions)
    return PagedQuery(Line, query, row.id, PER_PAGE)
