"""The mails: what each kind says, written when it is sent. The first line of a template in mails/ is the subject."""

from collections.abc import Callable

from flask import Flask, current_app

from app.background import Background
from app.mail import Letter, current_mailer
from app.models import User
from app.models.accounts import RESET_LIFETIME
from app.models.addresses import CONFIRM_LIFETIME, confirm_token
from app.models.mail import CHANGED, CONFIRM, FACTOR_OFF, FACTOR_ON, LET_IN, NEW_PASSWORD, RESET, Mail
from app.rate_limit import current_limiter, sending_rules
from app.redis_client import StoreUnavailableError

WRITERS: dict[str, Callable[[Mail], Letter | None]] = {}
SECURITY = {
    NEW_PASSWORD: "Your password was changed",
    FACTOR_ON: "Two-factor authentication was turned on",
    FACTOR_OFF: "Two-factor authentication was turned off",
}


def writes(*kinds: str) -> Callable[[Callable[[Mail], Letter | None]], Callable[[Mail], Letter | None]]:
    """Declare the function that writes these mails; it returns None if a mail need not be sent any more."""

    def register(writer: Callable[[Mail], Letter | None]) -> Callable[[Mail], Letter | None]:
        WRITERS.update(dict.fromkeys(kinds, writer))
        return writer

    return register


@writes(RESET)
def reset(mail: Mail) -> Letter | None:
    """Write to somebody who forgot their password; nothing to an address that belongs to no account."""
    user = User.with_email(mail.recipient)
    if user is None or _floods(mail):
        return None
    link = current_mailer().link(f"/reset/{user.reset_token(current_app.config['SECRET_KEY'])}")
    return letter(mail, "reset", name=user.name, link=link, minutes=RESET_LIFETIME // 60)


@writes(CONFIRM, LET_IN)
def confirm(mail: Mail) -> Letter | None:
    """Write to an address that a member says is theirs; if it belongs to another account, tell its owner instead."""
    user = mail.user_id and User.with_id(mail.user_id)
    if not user or user.new_email != mail.recipient or _floods(mail):
        return None
    owner = User.with_email(mail.recipient)
    if owner and owner.id != user.id:
        return letter(mail, "taken", name=owner.name, link=current_mailer().link("/forgot"))
    link = current_mailer().link(f"/confirm/{confirm_token(user, current_app.config['SECRET_KEY'])}")
    login = current_mailer().link("/login")
    return letter(mail, mail.kind, name=user.name, link=link, hours=CONFIRM_LIFETIME // 3600, login=login)


@writes(CHANGED)
def changed(mail: Mail) -> Letter | None:
    """Write to the address that an account has had until now."""
    user = mail.user_id and User.with_id(mail.user_id)
    return letter(mail, "changed", name=user.name) if user else None


@writes(*SECURITY)
def security(mail: Mail) -> Letter | None:
    """Tell the owner of an account what has changed about logging in."""
    user = mail.user_id and User.with_id(mail.user_id)
    link = current_mailer().link("/forgot")
    return letter(mail, "security", subject=SECURITY[mail.kind], name=user.name, link=link) if user else None


def _floods(mail: Mail) -> bool:
    """Return whether a mailbox gets too many mails that strangers ask for: the links in the earlier ones still work."""
    try:
        return mail.attempts == 1 and current_limiter().hit(sending_rules(mail.recipient)).exceeded
    except StoreUnavailableError:
        return False


def letter(mail: Mail, template: str, **about: object) -> Letter:
    """Return a mail with the text of a template."""
    config = current_mailer().config
    # Not render_template(): what that adds comes from a request, and there is none.
    written = current_app.jinja_env.get_template(f"mails/{template}.txt").render(site_name=config.site_name, **about)
    subject, _, text = written.partition("\n")
    return Letter(mail.id, mail.recipient, subject, text.lstrip("\n") + "\n", mail.created_at)


def init_letters(app: Flask) -> None:
    """Send mails in the background."""
    background: Background = app.extensions["background"]
    background.register(send_next)


def send_next() -> bool:
    """Send a mail that is due; return whether there may be another one."""
    return Mail.send_next(lambda mail: WRITERS[mail.kind](mail))
