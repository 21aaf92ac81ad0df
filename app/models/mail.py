"""Mails that wait to be sent. A row is written in the transaction of the change that causes it, and deleted once sent.

A row says what is to be told to whom, but holds no text: app/web/letters.py writes that when the mail is sent. So no
link that opens an account is ever stored, and a link's time begins when its mail leaves.

Before a mail is sent, it is claimed: its next attempt is put off until LONGEST_DIALOGUE from now. If this process dies,
another one tries again then. A mail is sent twice only if the server accepts it and this process dies before it has
deleted the row, or never gets the server's reply.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Self

from sqlalchemy import ForeignKey, String, delete, func, select, text, true, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from app.background import wake_after_commit
from app.extensions import Base, UTCDateTime, db
from app.mail import LONGEST_DIALOGUE, REASON_LENGTH, Letter, MailError, current_mailer
from app.models.pagination import Id
from app.models.writes import rows_changed, write

log = logging.getLogger(__name__)

RESET, CONFIRM, LET_IN, CHANGED = "reset", "confirm", "let-in", "changed"  # the kinds of mails
NEW_PASSWORD, FACTOR_ON, FACTOR_OFF = "new-password", "factor-on", "factor-off"
RECIPIENT_LENGTH = 254  # RFC 5321, 4.5.3.1.3
FIRST_RETRY = timedelta(minutes=1)  # doubled after each attempt, up to
LAST_RETRY = timedelta(minutes=15)  # so that a server that is back has all of them soon
GIVE_UP = timedelta(days=2)  # after the first attempt was due; the mail has failed then
KEPT = timedelta(days=7)  # so long after it has failed, a mail can be sent again
CLAIM = timedelta(seconds=LONGEST_DIALOGUE)

Compose = Callable[["Mail"], Letter | None]


class Mail(Base):
    """A mail that is not sent yet, or has failed."""

    __tablename__ = "mails"
    __table_args__ = {"sqlite_autoincrement": True}  # an id is part of a Message-ID, so it is never used twice

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    recipient: Mapped[str] = mapped_column(String(RECIPIENT_LENGTH))
    # Whom the mail is about. For a forgotten password, only the typed address is known.
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    # When to try next; of a mail that has failed, when to delete it.
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC), index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    failed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    error: Mapped[str] = mapped_column(String(REASON_LENGTH), default="", server_default=text("''"))  # of the last one

    @classmethod
    def write_to(cls, recipient: str, kind: str, user_id: int | None = None) -> None:
        """Add a mail to the current transaction; it is sent after the commit. Do nothing on a site without mail."""
        if current_mailer().config.sends_mail:
            db.session.add(cls(kind=kind, recipient=recipient, user_id=user_id))
            wake_after_commit()

    @classmethod
    def unsent(cls) -> Sequence[Self]:
        """Return the mails that wait or have failed, the oldest first."""
        return db.session.scalars(select(cls).order_by(cls.id)).all()

    @classmethod
    def counts(cls) -> tuple[int, int, datetime | None]:
        """Return how many mails wait, how many have failed, and since when the oldest one waits."""
        waits = cls.failed_at.is_(None)
        oldest = func.min(cls.created_at).filter(waits)
        query = select(func.count().filter(waits), func.count(cls.failed_at), oldest)
        waiting, failed, since = db.session.execute(query).one()
        return waiting, failed, since

    @classmethod
    def send_again(cls, mail_id: int | None = None) -> int:
        """Have a mail that has failed sent again, or all of them, beginning with a first attempt; return how many."""
        which = cls.failed_at.is_not(None), cls.id == mail_id if mail_id else true()
        now = datetime.now(UTC)
        unsent = {"attempts": 0, "failed_at": None, "error": "", "created_at": now, "due_at": now}
        with write():
            count = rows_changed(update(cls).where(*which).values(unsent))
            wake_after_commit()
        return count

    @classmethod
    def send_next(cls, compose: Compose) -> bool:
        """Send a mail that is due, and return whether to look for another one at once.

        compose: returns what the mail says, or None if it need not be sent any more.
        """
        mail = db.session.scalar(select(cls).where(cls.due_at <= datetime.now(UTC)).order_by(cls.due_at).limit(1))
        if mail is None:
            return False
        if mail.failed_at:
            mail._delete()
        elif mail._claim():
            return mail._send(compose)
        return True

    def _claim(self) -> bool:
        """Make this attempt this process's own; return False if another process was faster."""
        attempt = self.attempts + 1
        query = update(Mail).where(Mail.id == self.id, Mail.attempts == self.attempts, Mail.failed_at.is_(None))
        query = query.values(attempts=attempt, due_at=datetime.now(UTC) + CLAIM)
        with write():
            claimed = rows_changed(query) == 1
        self.attempts = attempt
        db.session.expunge(self)  # changes are written by _note() alone
        return claimed

    def _send(self, compose: Compose) -> bool:
        try:
            letter = self._written(compose)
            if letter:
                current_mailer().deliver(letter)
        except MailError as error:
            self._note(error)
            return error.kind != "unusable"
        self._delete()
        if letter:
            log.info("mail %d (%s) was sent at attempt %d", self.id, self.kind, self.attempts)
        return True

    def _written(self, compose: Compose) -> Letter | None:
        """Return what the mail says, or None if it need not be sent any more. Raises MailError."""
        try:
            return compose(self)
        except SQLAlchemyError:
            raise
        except Exception as error:  # of an unknown kind, after a rollback, or in a template
            log.exception("mail %d (%s) can't be written", self.id, self.kind)
            raise MailError("deferred", f"it can't be written: {type(error).__name__}") from None
        finally:
            db.session.rollback()  # gives the connection back: the mail server may take a minute

    def _note(self, error: MailError) -> None:
        """Store why an attempt failed, and when to try again, unless another process has claimed the mail since."""
        now = datetime.now(UTC)
        gives_up = error.kind == "refused" or now - self.created_at > GIVE_UP
        pause = min(FIRST_RETRY * 2 ** min(self.attempts - 1, 10), LAST_RETRY)
        outcome = {"failed_at": now, "due_at": now + KEPT} if gives_up else {"due_at": now + pause}
        log.warning(
            "mail %d (%s) was not sent at attempt %d, and %s: %s",
            self.id,
            self.kind,
            self.attempts,
            "has failed" if gives_up else "will be tried again",
            error,
        )
        query = update(Mail).where(Mail.id == self.id, Mail.attempts == self.attempts)
        with write():
            rows_changed(query.values(error=str(error)[:REASON_LENGTH], **outcome))

    def _delete(self) -> None:
        with write():
            db.session.execute(delete(Mail).where(Mail.id == self.id))
