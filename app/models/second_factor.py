"""A second factor for logging in: a code from an authenticator app (TOTP, RFC 6238), or a recovery code.

A row of `second_factors` means that the account asks for a code. The secret is kept as it is: a server that checks
codes has to know it. It opens nothing without the password, of which only a hash is kept.
"""

import base64
import hashlib
import re
import secrets
import time
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Self

import pyotp
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    ForeignKey,
    String,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, UTCDateTime, db
from app.models.accounts import User
from app.models.mail import FACTOR_OFF, FACTOR_ON
from app.models.writes import rows_changed, write

STEP = 30  # s a code is shown, by every app
DRIFT = 1  # steps by which the app's clock may be off, and a step to type in (RFC 6238, 5.2)
SECRET_LENGTH = 32  # characters of base32: 160 bits (RFC 4226, 4)
APP_CODE = re.compile("[0-9]{6}")
RECOVERY_CODES = 10
# Bytes. 80 random bits can't be found by trying, so a fast hash protects them as well as a slow one: a guess takes no
# CPU, and a code is found by its hash. They are 16 characters of base32, without a 0 or a 1 to be taken for letters.
RECOVERY_CODE_LENGTH = 10


class AlreadyOnError(Exception):
    """The account has a second factor."""


class SecondFactor(Base):
    """The authenticator app of an account. Turning the second factor off deletes it, with its recovery codes."""

    __tablename__ = "second_factors"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    secret: Mapped[str] = mapped_column(String(SECRET_LENGTH))
    last_step: Mapped[int] = mapped_column(BigInteger)  # of the newest code that was used
    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, user_id: int) -> Self | None:
        """Return a user's second factor; None if the password is enough."""
        return db.session.get(cls, user_id, populate_existing=True)

    @classmethod
    def turn_on(cls, user_id: int, secret: str, code: str) -> list[str] | None:
        """Ask for codes from now on; return the recovery codes.

        Returns None, with nothing changed, if the code is not one that the secret makes now. Raises AlreadyOnError.
        """
        step = _step_of(secret, plain(code))
        if step is None:
            return None
        factor, codes = cls(user_id=user_id, secret=secret, last_step=step), _new_codes()
        try:
            with write():
                db.session.add(factor)
                db.session.flush()
                RecoveryCode.keep(user_id, codes)
                User.tell_owner(user_id, FACTOR_ON)
        except IntegrityError:
            raise AlreadyOnError from None
        return codes

    @classmethod
    def turn_off(cls, user_id: int) -> bool:
        """Turn the second factor off; return whether it was on."""
        with write():
            was_on = rows_changed(delete(cls).where(cls.user_id == user_id)) > 0
            if was_on:
                User.tell_owner(user_id, FACTOR_OFF)
        return was_on

    def accepts(self, code: str) -> bool:
        """Return whether a code is right, and use it up: of two requests with the same code, one is refused.

        code: of the app, or a recovery code, as it was typed.
        """
        return self._use_step(plain(code)) if is_app_code(code) else self._use_recovery_code(plain(code))

    def _use_step(self, code: str) -> bool:
        """Use a code of the app. Neither it nor an older one is accepted again (RFC 6238, 5.2)."""
        step = _step_of(self.secret, code)
        if step is None:
            return False
        unused = self._is_this, SecondFactor.secret == self.secret, SecondFactor.last_step < step
        with write():
            return rows_changed(update(SecondFactor).where(*unused).values(last_step=step)) > 0

    def _use_recovery_code(self, code: str) -> bool:
        has_code = RecoveryCode.user_id == self.user_id, RecoveryCode.code_hash == _hash(self.user_id, code)
        with write():
            return rows_changed(delete(RecoveryCode).where(*has_code)) > 0

    def codes_left(self) -> int:
        """Return how many recovery codes are not used yet."""
        return db.session.scalar(select(func.count()).where(RecoveryCode.user_id == self.user_id)) or 0

    def renew_codes(self) -> list[str]:
        """Return new recovery codes; the old ones no longer work. Returns none if the second factor was turned off."""
        codes = _new_codes()
        with write():
            # The row is locked, so that of two requests at once the later one deletes what the earlier one has kept.
            if not rows_changed(update(SecondFactor).where(self._is_this).values(last_step=SecondFactor.last_step)):
                return []
            db.session.execute(delete(RecoveryCode).where(RecoveryCode.user_id == self.user_id))
            RecoveryCode.keep(self.user_id, codes)
        return codes

    @property
    def _is_this(self) -> ColumnElement[bool]:
        return SecondFactor.user_id == self.user_id


class RecoveryCode(Base):
    """A recovery code that is not used yet. Only its hash is kept."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[int] = mapped_column(ForeignKey(SecondFactor.user_id, ondelete="CASCADE"), primary_key=True)
    code_hash: Mapped[str] = mapped_column(String(64), primary_key=True)

    @classmethod
    def keep(cls, user_id: int, codes: Sequence[str]) -> None:
        """Keep the hashes of a user's codes; the caller commits."""
        rows = [{"user_id": user_id, "code_hash": _hash(user_id, plain(code))} for code in codes]
        db.session.execute(insert(cls), rows)


def new_secret() -> str:
    """Return a secret for an authenticator app, in base32."""
    return pyotp.random_base32(SECRET_LENGTH)


def app_uri(secret: str, name: str, site: str) -> str:
    """Return the URI from which an authenticator app learns a secret, and what to call it."""
    return pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=site)


def in_fours(text: str) -> list[str]:
    """Return a text in pieces of four characters, as people copy it by hand."""
    return [text[start : start + 4] for start in range(0, len(text), 4)]


def plain(code: str) -> str:
    """Return a code as it is compared: people type spaces, hyphens and capitals, and some keyboards wide digits."""
    return re.sub(r"[\s-]", "", unicodedata.normalize("NFKC", code)).lower()


def is_app_code(code: str) -> bool:
    """Return whether a code is, by its form, one of an app and not a recovery code."""
    return APP_CODE.fullmatch(plain(code)) is not None


def _step_of(secret: str, code: str) -> int | None:
    """Return the time step, among those accepted now, whose code this is; None if it is none of them."""
    now, app = int(time.time()) // STEP, pyotp.TOTP(secret)
    steps = range(now - DRIFT, now + DRIFT + 1)
    return next((step for step in steps if compare_digest(app.generate_otp(step).encode(), code.encode())), None)


def _new_codes() -> list[str]:
    codes = (
        base64.b32encode(secrets.token_bytes(RECOVERY_CODE_LENGTH)).decode().lower() for _ in range(RECOVERY_CODES)
    )
    return ["-".join(in_fours(code)) for code in codes]


def _hash(user_id: int, code: str) -> str:
    return hashlib.sha256(f"{user_id}:{code}".encode()).hexdigest()
