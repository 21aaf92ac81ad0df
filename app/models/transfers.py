"""Exports and imports: long work for one person, done in the background, a step at a time.

A row says what is to be done and how far it is. Its file is kept in parts, so that no process ever holds a whole one in
memory. A process claims the work for CLAIM from each step on, and each step's commit checks the claim. If the process
dies, another one goes on: an import after the last step that was committed, an export from its beginning.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryFile
from typing import IO, Any, Self

from sqlalchemy import (
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    delete,
    exists,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from app.background import wake_after_commit
from app.extensions import Base, UTCDateTime, db
from app.models.follows import people_table
from app.models.pagination import Id
from app.models.writes import rows_changed, write

log = logging.getLogger(__name__)

EXPORT, IMPORT = "export", "import"  # the kinds
RUNNING, DONE, FAILED = "running", "done", "failed"  # the states; what waits for its turn is running, too
CLAIM = timedelta(minutes=1)  # a step takes a second or two
MOST_ATTEMPTS = 10  # processes that may die, or fail, at the same work
DOWNLOADABLE = timedelta(days=1)  # for so long an export is kept
REPORTED = timedelta(days=7)  # for so long it is told how an import went, or that something has failed
PAUSE = timedelta(hours=1)  # between two exports by one person
LARGEST_FILE = 50 * 2**20  # bytes of a ZIP; that is more than 100,000 posts take
PART = 2**20  # bytes
GAVE_UP = "Something went wrong, again and again. Ask the people who run this site."

Steps = Callable[["Transfer"], Iterator[None]]


class TransferError(Exception):
    """The work can't be done; the message says why, to the person whose work it is."""


class UnderWayError(Exception):
    """The same person's export or import is under way, or an export was made less than PAUSE ago."""


class LostClaimError(Exception):
    """The work was claimed by another process, or must not go on: the account was deleted or suspended."""


class Transfer(Base):
    """An export or an import: at most one of each kind for a person, the latest."""

    __tablename__ = "transfers"
    __table_args__ = (
        Index("uq_transfers_user_id_kind", "user_id", "kind", unique=True),
        Index("ix_transfers_due_at", "due_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(10))
    state: Mapped[str] = mapped_column(String(10), default=RUNNING)
    attempts: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)  # of `total`: posts, and for an export what else is listed
    total: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    # When to claim it again; of what has ended, when to delete it.
    due_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))
    report: Mapped[str] = mapped_column(Text, default="{}")  # JSON: how an import went, or "error"

    @classmethod
    def of(cls, user_id: int, kind: str) -> Self | None:
        """Return a person's latest export or import, unless its time is over."""
        transfer = db.session.scalar(select(cls).where(cls.user_id == user_id, cls.kind == kind))
        return None if transfer is None or transfer._is_over else transfer

    @classmethod
    def start(cls, user_id: int, kind: str, *, total: int = 0, file: IO[bytes] | None = None) -> None:
        """Have an export made, or a file imported, in the background. What is left of the last one goes.

        Raises UnderWayError.
        """
        last = cls.of(user_id, kind)
        if last and not last.may_be_followed:
            raise UnderWayError
        transfer = cls(user_id=user_id, kind=kind, total=total)
        try:
            with write():
                db.session.execute(delete(cls).where(cls.user_id == user_id, cls.kind == kind, cls.state != RUNNING))
                db.session.add(transfer)
                db.session.flush()  # it has an id now
                if file:
                    transfer.store(file)
                wake_after_commit()
        except IntegrityError:
            raise UnderWayError from None

    @property
    def is_running(self) -> bool:
        return self.state == RUNNING

    @property
    def is_done(self) -> bool:
        return self.state == DONE

    @property
    def may_be_followed(self) -> bool:
        """Return whether its owner may start another one."""
        return not self.is_running and (self.kind == IMPORT or datetime.now(UTC) > self.created_at + PAUSE)

    @property
    def next_one_at(self) -> datetime:
        """Return from when on an export may be followed by another one."""
        return self.created_at + PAUSE

    @property
    def outcome(self) -> dict[str, Any]:
        """Return the report, to read or to be passed to advance()."""
        report: dict[str, Any] = json.loads(self.report)
        return report

    @property
    def _is_over(self) -> bool:
        return not self.is_running and self.due_at <= datetime.now(UTC)

    # The file

    def store(self, file: IO[bytes]) -> None:
        """Keep a file, from where it is read; the caller commits."""
        number = 0
        while content := file.read(PART):
            row = {"transfer_id": self.id, "number": number, "content": content}
            db.session.execute(insert(TransferPart).values(row))
            number += 1

    def parts(self) -> Iterator[bytes]:
        """Yield the file, PART by PART. No connection is held meanwhile."""
        mine = select(TransferPart.content).where(TransferPart.transfer_id == self.id)
        for number in range(LARGEST_FILE // PART + 1):
            content = db.session.scalar(mine.where(TransferPart.number == number))
            db.session.rollback()
            if content is None:
                break
            yield content

    def copy(self) -> IO[bytes]:
        """Return a temporary file with the same content; the caller closes it."""
        copy = TemporaryFile()  # noqa: SIM115  # closed by the caller
        for content in self.parts():
            copy.write(content)
        copy.seek(0)
        return copy

    def _drop_file(self) -> None:
        db.session.execute(delete(TransferPart).where(TransferPart.transfer_id == self.id))

    # The work

    def advance(self, done: int, report: Mapping[str, Any] | None = None, **values: object) -> None:
        """Note how far the work is, and go on claiming it; the caller commits, together with the step's own changes.

        Raises LostClaimError.
        """
        if report is not None:
            values["report"] = json.dumps(report)
        people = people_table().c
        may_post = people.suspended_at.is_(None) | (people.suspended_until <= datetime.now(UTC))
        may_go_on = exists().where(people.id == self.user_id, may_post if self.kind == IMPORT else true())
        mine = Transfer.id == self.id, Transfer.attempts == self.attempts, Transfer.state == RUNNING
        values = {"done": done, "due_at": datetime.now(UTC) + CLAIM} | values
        if rows_changed(update(Transfer).where(*mine, may_go_on).values(values)) != 1:
            raise LostClaimError

    def finish(self, file: IO[bytes] | None = None) -> None:
        """End the work; an export with the file that it has made."""
        kept = DOWNLOADABLE if file else REPORTED
        with write():
            self.advance(self.total, state=DONE, due_at=datetime.now(UTC) + kept)
            self._drop_file()
            if file:
                self.store(file)

    def fail(self, reason: str) -> None:
        """End the work without success, and tell its owner why."""
        log.warning("%s %d has failed after %d of %d: %s", self.kind, self.id, self.done, self.total, reason)
        report = json.dumps(self.outcome | {"error": reason})
        with write():
            values = {"state": FAILED, "report": report, "due_at": datetime.now(UTC) + REPORTED}
            db.session.execute(update(Transfer).where(Transfer.id == self.id).values(values))
            self._drop_file()

    def claim(self) -> bool:
        """Make the work this process's own; return False if another process was faster."""
        query = update(Transfer).where(Transfer.id == self.id, Transfer.attempts == self.attempts)
        with write():
            claimed = rows_changed(query.values(attempts=self.attempts + 1, due_at=datetime.now(UTC) + CLAIM)) == 1
        db.session.expunge(self)  # changes are written by advance() alone
        self.attempts += 1
        return claimed

    def delete(self) -> None:
        """Delete it, with its file."""
        with write():
            db.session.execute(delete(Transfer).where(Transfer.id == self.id))


class TransferPart(Base):
    """A piece of an upload, or of an export."""

    __tablename__ = "transfer_parts"

    transfer_id: Mapped[int] = mapped_column(ForeignKey("transfers.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class Transfers:
    """The transfers that a process works on: one at a time, a step each time it is asked, so that no mail waits."""

    def __init__(self, kinds: Mapping[str, Steps]) -> None:
        """Take for each kind what does the work: an iterator, of which each item is a step that was committed."""
        self._kinds = kinds
        self._steps: Iterator[None] | None = None
        self._current: Transfer | None = None

    def step(self) -> bool:
        """Do a step of what is under way, or claim what waits; return whether to come again at once."""
        if self._steps is None or self._current is None:
            return self._begin()
        current, steps, self._steps = self._current, self._steps, None
        try:
            next(steps)
        except StopIteration:
            log.info("%s %d is done: %d of %d", current.kind, current.id, current.total, current.total)
        except LostClaimError:
            log.warning("%s %d was given up: another process has it, or nobody wants it", current.kind, current.id)
        except TransferError as error:
            current.fail(str(error))
        else:
            self._steps = steps
        return True

    def _begin(self) -> bool:
        due = select(Transfer).where(Transfer.due_at <= datetime.now(UTC)).order_by(Transfer.due_at).limit(1)
        transfer = db.session.scalar(due)
        if transfer is None:
            return False
        if not transfer.is_running:
            transfer.delete()
        elif transfer.attempts >= MOST_ATTEMPTS:
            transfer.fail(GAVE_UP)
        elif transfer.claim():
            self._current, self._steps = transfer, self._kinds[transfer.kind](transfer)
        return True
