"""A real mail server for tests: it keeps what it accepts, and refuses what a test tells it to."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.servers import free_port

USER, PASSWORD = "pipit@example.org", "p@ss/w:rd?"


@dataclass
class MailServer:
    """What a mail server has accepted, and how it answers."""

    port: int
    accepted: list[EmailMessage] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)  # of each accepted mail
    logins: list[str | None] = field(default_factory=list)
    # Takes the recipient; returns a reply, or None to accept.
    refuses: Callable[[str], str | None] = lambda _recipient: None
    refuses_data: Callable[[], str | None] = lambda: None

    async def handle_RCPT(self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _o: Any) -> str:  # noqa: N802
        reply = self.refuses(address)
        if reply is None:
            envelope.rcpt_tos.append(address)
        return reply or "250 OK"

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        reply = self.refuses_data()
        if reply is None:
            content = envelope.content
            assert isinstance(content, bytes)
            message = message_from_bytes(content, policy=policy.default)
            assert message["To"] == envelope.rcpt_tos[0]
            self.accepted.append(message)
            self.encrypted.append(session.ssl is not None)
        return reply or "250 OK"

    def knows(self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, login: Any) -> AuthResult:
        assert isinstance(login, LoginPassword)
        self.logins.append(login.login.decode())
        return AuthResult(success=(login.login.decode(), login.password.decode()) == (USER, PASSWORD), handled=False)


@contextmanager
def mail_server(
    *,
    tls: ssl.SSLContext | None = None,
    starttls: ssl.SSLContext | None = None,
    needs_login: bool = False,
    port: int = 0,
) -> Iterator[MailServer]:
    """Run a mail server on a free port of this machine, unless a port is given."""
    server = MailServer(port or free_port())
    controller = Controller(
        server,
        hostname="127.0.0.1",
        port=server.port,
        ssl_context=tls,
        tls_context=starttls,
        require_starttls=starttls is not None,
        authenticator=server.knows if needs_login else None,
        auth_required=needs_login,
        auth_require_tls=starttls is not None,
    )
    controller.start()
    try:
        yield server
    finally:
        controller.stop()
