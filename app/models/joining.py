"""Joining a site that is not open to everyone: links with which members invite others, and those who ask to join.

Whoever waits to be let in has no account yet, but a row of their own: so they appear on no page, in no search, and
nobody can mention or follow them.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Self

from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy import (
    ColumnElement,
    ForeignKey,
    Index,
    String,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, joinedload, mapped_column, relationship

from app.extensions import Base, UTCDateTime, db
from app.models import accounts
from app.models.accounts import EMAIL_LENGTH, NAME_LENGTH, NAME_PATTERN, NameTakenError, User
from app.models.mail import LET_IN
from app.models.moderators import news_of_moderators
from app.models.pagination import Id
from app.models.writes import rows_changed, write
from app.redis_client import StoreUnavailableError

MOST_OPEN = 10  # invitations of one member that can still be used; more is a list that nobody keeps track of
WHY_LENGTH = 200  # characters, as a line about oneself
SHOWN = 100  # people who wait, on one page


class InvitationEndedError(Exception):
    """An invitation can't be used any more; its text says why, to the person who was invited."""


class TooManyInvitationsError(Exception):
    """A member has MOST_OPEN invitations already."""


class Invitation(Base):
    """A link with which a member lets others join: a number of them, until it expires or is revoked."""

    __tablename__ = "invitations"
    __table_args__ = (Index("ix_invitations_made_by_id", "made_by", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    made_by: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    most_uses: Mapped[int]
    uses: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    inviter: Mapped[User] = relationship(lazy="raise")

    @classmethod
    def make(cls, member: User, most_uses: int, lifetime: timedelta) -> Self:
        """Make an invitation. Raises TooManyInvitationsError."""
        if len(cls.open_of(member.id)) >= MOST_OPEN:
            raise TooManyInvitationsError
        invitation = cls(made_by=member.id, most_uses=most_uses, expires_at=datetime.now(UTC) + lifetime)
        with write():
            db.session.add(invitation)
        return invitation

    @classmethod
    def open_of(cls, user_id: int) -> Sequence[Self]:
        """Return a member's invitations that can still be used, the newest first."""
        query = select(cls).where(cls.made_by == user_id, _is_open()).order_by(cls.id.desc()).limit(MOST_OPEN)
        return db.session.scalars(query).all()

    @classmethod
    def with_token(cls, token: str, secret_key: str) -> Self | None:
        """Return the invitation that a link leads to, with its inviter; None if the token was made up or cut off."""
        try:
            invitation_id = _signer(secret_key).loads(token)
        except BadData:
            return None
        inviter = joinedload(cls.inviter).undefer_group("private")
        return db.session.scalar(select(cls).options(inviter).where(cls.id == invitation_id))

    @classmethod
    def revoke(cls, user_id: int, invitation_id: int) -> None:
        """End one of a member's own invitations."""
        mine = INVITATION.c.id == invitation_id, INVITATION.c.made_by == user_id, INVITATION.c.revoked_at.is_(None)
        with write():
            db.session.execute(update(INVITATION).where(*mine).values(revoked_at=datetime.now(UTC)))

    def token(self, secret_key: str) -> str:
        """Return what the link ends with. It is signed and not stored: who reads the database can't invite anyone."""
        return _signer(secret_key).dumps(self.id)

    def check(self) -> None:
        """Raise InvitationEndedError, if this invitation, which was read with its inviter, can't be used any more."""
        if self.revoked_at or self.inviter.is_suspended:
            raise InvitationEndedError("This invitation has been withdrawn. Ask for a new one.")
        if self.uses >= self.most_uses:
            raise InvitationEndedError("This invitation has been used up. Ask for a new one.")
        if self.expires_at <= datetime.now(UTC):
            raise InvitationEndedError("This invitation has expired. Ask for a new one.")

    def use(self) -> None:
        """Count one use, in the transaction at hand; of two at the same moment, the last use goes to one.

        Raises InvitationEndedError.
        """
        free = or_(User.suspended_at.is_(None), User.suspended_until <= datetime.now(UTC))
        trusted = exists().where(User.id == INVITATION.c.made_by, free)
        query = update(INVITATION).where(INVITATION.c.id == self.id, _is_open(), trusted)
        if not rows_changed(query.values(uses=INVITATION.c.uses + 1)):
            raise InvitationEndedError("Somebody else was a moment faster. This invitation can't be used any more.")


class Applicant(Base):
    """Somebody who asks to join, until a moderator lets them in or turns them away."""

    __tablename__ = "applicants"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    name_key: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)  # the name in lower case
    email: Mapped[str] = mapped_column(String(EMAIL_LENGTH))  # as it was typed, to be confirmed; may be empty
    password_hash: Mapped[str] = mapped_column(String(255))
    why: Mapped[str] = mapped_column(String(WHY_LENGTH))  # they want to join; may be empty
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))

    @classmethod
    def ask(cls, name: str, email: str, password: str, why: str = "") -> Self:
        """Ask to join; moderators are told. Raises NameTakenError if somebody else who waits has that name.

        The caller has to check the accounts.
        """
        password_hash = accounts.hashed(password)
        applicant = cls(name=name, name_key=name.lower(), email=email, password_hash=password_hash, why=why)
        try:
            with write():
                db.session.add(applicant)
        except IntegrityError:
            raise NameTakenError from None
        cls._tell_moderators()
        return applicant

    @classmethod
    def named(cls, name: str) -> Self | None:
        """Return who waits under that name, as `ada` or `@ada`, in whatever case; None if nobody does."""
        name = name.removeprefix("@")
        if not NAME_PATTERN.fullmatch(name):
            return None
        return db.session.scalar(select(cls).where(cls.name_key == name.lower()))

    @classmethod
    def with_id(cls, applicant_id: int) -> Self | None:
        """Return who asked under that id, or None if they don't wait any more."""
        return db.session.get(cls, applicant_id)

    @classmethod
    def waiting(cls, limit: int | None = None, after: int = 0) -> Sequence[Self]:
        """Return those who wait to be let in, the longest first. after: whose ids are above this one."""
        return db.session.scalars(select(cls).where(cls.id > after).order_by(cls.id).limit(limit)).all()

    @classmethod
    def count(cls) -> int:
        """Return how many wait."""
        return db.session.scalar(select(func.count()).select_from(cls)) or 0

    def has_password(self, password: str) -> bool:
        return self._account().has_password(password)

    def let_in(self) -> User | None:
        """Make the account; None if another moderator has already let them in, or turned them away.

        If they gave an address, a mail there tells them, and has a link to confirm it. Raises NameTakenError if
        somebody has the name now.
        """
        user = self._account()
        try:
            user.join(before=self._stop_waiting, mail=LET_IN)
        except _NotWaitingError:
            return None
        self._tell_moderators()
        return user

    def turn_away(self) -> None:
        """Forget the request, with all that was asked for. The name is free again."""
        with write():
            db.session.execute(delete(APPLICANT).where(APPLICANT.c.id == self.id))
        self._tell_moderators()

    @staticmethod
    def _tell_moderators() -> None:
        """Have the moderators' menus count again; while Redis is away, nobody sees a menu."""
        with suppress(StoreUnavailableError), write(*news_of_moderators()):
            pass

    def _account(self) -> User:
        account = User(name=self.name, name_key=self.name_key, password_hash=self.password_hash)
        account.new_email = self.email.lower() or None
        return account

    def _stop_waiting(self) -> None:
        if not rows_changed(delete(APPLICANT).where(APPLICANT.c.id == self.id)):
            raise _NotWaitingError


class _NotWaitingError(Exception):
    """Somebody else has decided about an applicant a moment ago."""


INVITATION, APPLICANT = Base.metadata.tables["invitations"], Base.metadata.tables["applicants"]


def _is_open() -> ColumnElement[bool]:
    row = INVITATION.c
    return and_(row.uses < row.most_uses, row.expires_at > datetime.now(UTC), row.revoked_at.is_(None))


def _signer(secret_key: str) -> URLSafeSerializer:
    return URLSafeSerializer(secret_key, salt="invitation")
