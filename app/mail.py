"""Speaks to the mail server: one message over one connection (RFC 5321), with TLS and a password.

models/mail.py decides what is sent and when. On a laptop without a mail server, a mail is printed and kept as a file.
"""

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Literal

from flask import Flask, current_app

from app.config import Config

TIMEOUT = 10  # s for a connection and for each reply
ACCEPT_TIMEOUT = 45  # s for each reply about the mail itself: some servers look for viruses before they accept
LONGEST_DIALOGUE = 300  # s; ten replies before the mail and four about it, with time to spare
MOST_FILES = 200  # mails that a laptop keeps
REASON_LENGTH = 200  # characters


@dataclass(frozen=True)
class Letter:
    """A mail as its recipient gets it."""

    id: int
    recipient: str
    subject: str
    text: str
    written: datetime


class MailError(Exception):
    """A mail was not accepted; the text says why, without a secret and without the recipient's address.

    refused: the server will not accept this mail for this recipient, however often it is tried
    deferred: the server may accept it later
    unusable: the server can't be used at all now, so no other mail can be sent either
    """

    def __init__(self, kind: Literal["refused", "deferred", "unusable"], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Mailer:
    """Hands mails to the server that SMTP_URL names."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def link(self, path: str) -> str:
        """Return the absolute URL of a path on this site, for a mail."""
        return self.config.mail_site_url + path

    def deliver(self, letter: Letter) -> None:
        """Hand a mail over; return as soon as the server has accepted it. Raises MailError.

        If the connection breaks before the server's last reply, the mail may have been accepted all the same.
        """
        if self.config.smtp is None:
            if not self.config.is_laptop:
                raise MailError("unusable", "SMTP_URL is not set")
            self._keep(letter)
            return
        with self._connection() as smtp:
            if smtp.sock:
                smtp.sock.settimeout(ACCEPT_TIMEOUT)
            try:
                smtp.send_message(self._message(letter), self.config.mail_from, [letter.recipient])
            except smtplib.SMTPRecipientsRefused as error:
                raise _about_this_mail(*error.recipients[letter.recipient], letter) from error
            except smtplib.SMTPDataError as error:
                raise _about_this_mail(error.smtp_code, error.smtp_error, letter) from error

    def check(self) -> None:
        """Connect and log in, and send nothing. Raises MailError if that does not work."""
        with self._connection() as smtp:
            smtp.noop()

    @contextmanager
    def _connection(self) -> Iterator[smtplib.SMTP]:
        """Connect and log in; translate what goes wrong with the server, here or in the block."""
        address, name = self.config.smtp, self.config.mail_from.rpartition("@")[2]
        if address is None:
            raise MailError("unusable", "SMTP_URL is not set")
        verified = ssl.create_default_context()
        try:
            if address.tls:
                smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                    address.host, address.port, name, timeout=TIMEOUT, context=verified
                )
            else:
                smtp = smtplib.SMTP(address.host, address.port, name, timeout=TIMEOUT)
            try:
                smtp.ehlo_or_helo_if_needed()
                if not address.tls and smtp.has_extn("starttls"):
                    smtp.starttls(context=verified)
                elif not (address.tls or address.username is None or address.is_this_machine):
                    raise MailError("unusable", f"{address} offers no TLS, and the password is not sent without it")
                if address.username is not None:
                    smtp.login(address.username, address.password or "")
                yield smtp
                with suppress(OSError):
                    smtp.putcmd("quit")  # without waiting for a reply: the mail is not recorded as sent yet
            finally:
                smtp.close()
        except smtplib.SMTPResponseException as error:
            raise MailError("unusable", _reason(error.smtp_code, error.smtp_error)) from error
        except OSError as error:  # smtplib's other errors, and those of TLS and sockets
            raise MailError("unusable", f"{address}: {type(error).__name__}: {error}"[:REASON_LENGTH]) from error

    def _message(self, letter: Letter) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        message["From"] = Address(self.config.site_name, addr_spec=self.config.mail_from)
        message["To"] = letter.recipient
        message["Subject"] = letter.subject
        message["Date"] = letter.written
        # The same at each attempt, so that a mailbox can recognise a mail that is delivered twice.
        domain = self.config.mail_from.rpartition("@")[2]
        message["Message-ID"] = f"<pipit.{letter.id}.{letter.written.timestamp() * 1e6:.0f}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies
        message.set_content(letter.text)
        return message

    def _keep(self, letter: Letter) -> None:
        folder = self.config.mail_folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{letter.written:%Y%m%d-%H%M%S}-{letter.id}.txt"
        text = f"To: {letter.recipient}\nSubject: {letter.subject}\n\n{letter.text}"
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        print(f"--- A mail. It is not sent, because SMTP_URL is not set. It is kept as {path}\n{text}---", flush=True)
        for old in sorted(folder.glob("*.txt"))[:-MOST_FILES]:
            old.unlink(missing_ok=True)


def _about_this_mail(code: int, said: bytes | str, letter: Letter) -> MailError:
    reason = _reason(code, said).replace(letter.recipient, "(the recipient)")
    return MailError("refused" if code >= 500 else "deferred", reason)  # RFC 5321, 4.2.1


def _reason(code: int, said: bytes | str) -> str:
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else said
    return f"{code} {' '.join(text.split())}"[:REASON_LENGTH]


def init_mail(app: Flask, config: Config) -> None:
    """Give the app its mailer."""
    app.extensions["mailer"] = Mailer(config)


def current_mailer() -> Mailer:
    """Return the mailer of the current app."""
    mailer: Mailer = current_app.extensions["mailer"]
    return mailer
