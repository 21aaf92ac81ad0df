"""E-mail addresses: forgotten passwords, and an address that belongs to an account once its owner has confirmed it.

What somebody types is never compared with the addresses that are known while they wait for the answer. It is written
down, and looked up when the mail is sent. So no answer, and no time that it takes, tells whether an address is known.
"""

import hashlib
from hmac import compare_digest

from itsdangerous import BadData, URLSafeTimedSerializer
from sqlalchemy.exc import IntegrityError

from app.config import DAY
from app.models.accounts import EmailTakenError, User
from app.models.mail import CHANGED, CONFIRM, RESET, Mail
from app.models.writes import write

CONFIRM_LIFETIME = DAY  # s a link to confirm an address is good for


def forget_password(address: str) -> None:
    """Send a link to choose a new password to an address, if it belongs to an account."""
    with write():
        Mail.write_to(address.lower(), RESET)


def ask_to_confirm(user: User, address: str) -> None:
    """Send a link to a new address; the account keeps its old one until that is opened. Earlier links are void."""
    with write():
        user.new_email = address.lower()
        Mail.write_to(user.new_email, CONFIRM, user.id)


def confirm_token(user: User, secret_key: str) -> str:
    """Return a token with which a user's new address is confirmed, within CONFIRM_LIFETIME.

    It does not name the address, because paths are logged.
    """
    return _signer(secret_key).dumps([user.id, _fingerprint(user)])


def with_confirm_token(token: str, secret_key: str) -> User | None:
    """Return the account whose new address a token confirms; None if it is used up, void, too old or forged."""
    try:
        user_id, fingerprint = _signer(secret_key).loads(token, max_age=CONFIRM_LIFETIME)
    except BadData:
        return None
    user = User.with_id(user_id)
    return user if user and user.new_email and compare_digest(_fingerprint(user), fingerprint) else None


def confirm(user: User) -> None:
    """Make the new address the account's own, and tell the old one.

    Raises EmailTakenError if it belongs to another account by now.
    """
    try:
        with write():
            _tell_old_address(user)
            user.email, user.new_email = user.new_email, None
    except IntegrityError:
        raise EmailTakenError from None


def remove(user: User) -> None:
    """Take the address away from an account, and tell the address."""
    with write():
        _tell_old_address(user)
        user.email = user.new_email = None


def keep(user: User) -> None:
    """Keep the confirmed address, and forget a new one that was to be confirmed."""
    with write():
        user.new_email = None


def _tell_old_address(user: User) -> None:
    if user.email:
        Mail.write_to(user.email, CHANGED, user.id)


def _fingerprint(user: User) -> str:
    """Return a value that changes with either address and with the password, and reveals none of them.

    So an owner who gets an account back by a new password voids the links that somebody else had asked for.
    """
    return hashlib.sha256(f"{user.password_fingerprint} {user.email} {user.new_email}".encode()).hexdigest()[:32]


def _signer(secret_key: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(secret_key, salt="confirm-email")
