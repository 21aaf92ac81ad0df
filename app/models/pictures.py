"""The pictures that people have uploaded of themselves: a small one of each, in SQL, under the digest of its content.

What was uploaded is decoded by a program of its own (app/models/shrink_picture.py), and not kept.
"""

import hashlib
import logging
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from sqlalchemy import ForeignKey, LargeBinary, String, delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from app.config import environment_for_python
from app.extensions import Base, UTCDateTime, db
from app.models import shrink_picture
from app.models.accounts import DIGEST_LENGTH, OWN_PAGES, User
from app.models.writes import PEOPLE_PAGE, notifications_of, write

LARGEST = 8 * 2**20  # bytes of an upload; phones make photos of 2 to 7 MB
PATIENCE = 10  # s for one picture, waiting for those of other processes included
QUEUE = 3  # s to wait for one that is being made in this process; more would keep threads from other visitors
JPEG = b"\xff\xd8"  # what such a file begins with
SCAN = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e]")  # how a scan over its pixels begins, and no chance pair of bytes
MOST_SCANS = 100  # of a JPEG; a progressive one has ten, and each takes as long as the first
HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc")  # bytes 4 to 12 of such a file

NOT_A_PICTURE = "That isn't a picture that can be used here. Choose a JPEG, PNG, WebP or GIF file."
IS_HEIC = "That is a picture in Apple's HEIC format, which can't be used here. Save it as a JPEG file first."
TOO_MANY_PIXELS = (
    "That picture has too many pixels. A JPEG file can have "
    f"{shrink_picture.MOST_PIXELS_OF_JPEG // 10**6} million, any other {shrink_picture.MOST_PIXELS // 10**6} million."
)
DAMAGED = "That picture can't be read. The file may be damaged or incomplete."
TOO_MUCH_WORK = "That picture takes too long to read. Save it again with another program, or choose another one."
BUSY = "Many people are uploading pictures right now. Try again in a moment."
REASONS = {
    shrink_picture.UNKNOWN: NOT_A_PICTURE,
    shrink_picture.TOO_LARGE: TOO_MANY_PIXELS,
    shrink_picture.BROKEN: DAMAGED,
}

log = logging.getLogger(__name__)
_one_at_a_time = Lock()


class PictureError(ValueError):
    """An upload that can't become somebody's picture; its message says why, to the person who sent it."""


class Picture(Base):
    """Somebody's picture. users.picture repeats its digest, so that lists of people need no further query."""

    __tablename__ = "pictures"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(DIGEST_LENGTH), index=True)  # two people may have the same picture
    webp: Mapped[bytes] = mapped_column(LargeBinary)
    made_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))

    @classmethod
    def with_digest(cls, digest: str) -> bytes | None:
        """Return the picture with this digest, as WebP; None if nobody has it any more."""
        return db.session.scalar(select(cls.webp).where(cls.digest == digest).limit(1))

    @classmethod
    def give(cls, user: User, webp: bytes) -> None:
        """Give a user a picture that made_small() returned, in place of the one they have.

        Their own pages, the directory and the bar show it at once; posts when their HTML has expired, as with
        User.describe(). Raises StoreUnavailableError.
        """
        digest = digest_of(webp)
        with write(*_changed(user), removal=True):
            cls._change(user, digest)
            db.session.add(cls(user_id=user.id, digest=digest, webp=webp))

    @classmethod
    def remove(cls, user: User) -> None:
        """Take a user's picture away, if they have one. Raises StoreUnavailableError."""
        with write(*_changed(user), removal=True):
            cls._change(user, "")

    @classmethod
    def _change(cls, user: User, digest: str) -> None:
        """Note another digest, and delete the picture; the caller commits. If two run at once, the second waits."""
        db.session.execute(update(User).where(User.id == user.id).values(picture=digest))
        db.session.execute(delete(cls).where(cls.user_id == user.id))


def made_small(upload: bytes) -> bytes:
    """Return a small square picture, as WebP without metadata. Raises PictureError.

    Takes PATIENCE + QUEUE s at most, and shrink_picture.MEMORY in another process; nothing of SQL is needed for it.
    """
    if upload.startswith(JPEG) and len(SCAN.findall(upload)) > MOST_SCANS:
        raise PictureError(TOO_MUCH_WORK)
    if not _one_at_a_time.acquire(timeout=QUEUE):
        raise PictureError(BUSY)
    try:
        # -I: Python takes no code from the environment or the working folder. What decodes strangers' files gets none
        # of the site's secrets, either.
        program = subprocess.run(  # noqa: S603  # nothing of it is anybody's input
            [sys.executable, "-I", str(Path(shrink_picture.__file__))],
            input=upload,
            capture_output=True,
            timeout=PATIENCE,
            env=environment_for_python(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PictureError(TOO_MUCH_WORK) from None
    finally:
        _one_at_a_time.release()
    if program.returncode == 0:
        return program.stdout
    if program.returncode == shrink_picture.UNKNOWN and upload[4:12] in HEIC:
        raise PictureError(IS_HEIC)
    if program.returncode not in REASONS:
        last_line = program.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        log.warning("a picture could not be made small: exit status %d %s", program.returncode, last_line[:200])
    raise PictureError(REASONS.get(program.returncode, TOO_MUCH_WORK))


def digest_of(webp: bytes) -> str:
    """Return the name of a picture: DIGEST_LENGTH hexadecimal digits of its SHA-256."""
    return hashlib.sha256(webp).hexdigest()[:DIGEST_LENGTH]


def _changed(user: User) -> tuple[str, ...]:
    """Return the pages and the stamp that show a user's picture at once."""
    return *(page(user.name) for page in OWN_PAGES), PEOPLE_PAGE(), notifications_of(user.id)
