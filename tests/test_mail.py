"""Mails on their way: a real mail server, with and without TLS, that refuses, puts off, dies and comes back."""

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from sqlalchemy import update

from app.config import parse_smtp_url
from app.extensions import db
from app.mail import REASON_LENGTH, Letter, MailError, current_mailer
from app.models import User
from app.models.addresses import forget_password
from app.models.mail import CHANGED, GIVE_UP, KEPT, Mail
from app.models.writes import write
from tests.conftest import PASSWORD as ADAS
from tests.conftest import Log, in_threads
from tests.mail_server import PASSWORD, USER, MailServer, mail_server
from tests.servers import free_port

pytestmark = pytest.mark.server

MakeSite = Callable[..., Flask]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture
def make_site(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> MakeSite:
    """Give a function that makes a site with a mail server, on which ada has an account with an address."""

    def make(url: str, **settings: Any) -> Flask:
        site = {"mail_from": "pipit@example.org", "trusted_hosts": ("pipit.example.org",), "site_name": "Café <1>"}
        app = make_app(smtp=parse_smtp_url(url), **(site | settings))
        with app.app_context():
            User.register("ada", "ada@example.org", ADAS)
        return app

    return make


@pytest.fixture
def site(make_site: MakeSite, server: MailServer) -> Flask:
    return make_site(f"smtp://127.0.0.1:{server.port}")


@pytest.fixture
def certified(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def forget(app: Flask, address: str = "ada@example.org") -> None:
    with app.app_context():
        forget_password(address)


def work_off(app: Flask) -> None:
    app.extensions["background"].work_off()


def unsent(app: Flask) -> list[Mail]:
    with app.app_context():
        return list(Mail.unsent())


def let_time_pass(app: Flask, span: timedelta, *, since_written: bool = False) -> None:
    """Have mails due sooner; since_written: they were written earlier, too."""
    with app.app_context():
        for mail in Mail.unsent():
            changed = {"due_at": mail.due_at - span}
            if since_written:
                changed["created_at"] = mail.created_at - span
            db.session.execute(update(Mail).where(Mail.id == mail.id).values(changed))
        db.session.commit()


def test_a_mail_comes_with_all_that_a_mailbox_needs_and_leaves_nothing_behind(site: Flask, server: MailServer) -> None:
    forget(site)
    work_off(site)
    (mail,) = server.accepted
    assert mail["From"] == '"Café <1>" <pipit@example.org>'
    assert mail["To"] == "ada@example.org"
    assert mail["Subject"] == "Choose a new password for @ada"
    assert mail["Message-ID"].startswith("<pipit.1.")
    assert mail["Message-ID"].endswith("@example.org>")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert abs(mail["Date"].datetime - datetime.now(UTC)) < timedelta(minutes=1)
    assert "https://pipit.example.org/reset/" in mail.get_content()
    assert "Café <1>" in mail.get_content()
    assert unsent(site) == []


def test_a_mail_that_can_not_be_written_is_tried_less_and_less_often_and_then_fails(
    site: Flask, server: MailServer
) -> None:
    forget(site)
    with site.app_context():
        db.session.execute(update(Mail).values(kind="of-a-newer-version"))
        db.session.commit()
    work_off(site)
    (mail,) = unsent(site)
    assert mail.error.startswith("it can't be written: ")
    assert mail.due_at > datetime.now(UTC) + timedelta(seconds=50)
    let_time_pass(site, timedelta(days=3), since_written=True)
    work_off(site)
    (mail,) = unsent(site)
    assert mail.failed_at
    assert server.accepted == []


def test_starttls_is_used_where_it_is_offered(
    make_site: MakeSite, certified: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with mail_server(starttls=certified, needs_login=True) as server:
        app = make_site(f"smtp://{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@localhost:{server.port}")
        forget(app)
        work_off(app)
    assert server.encrypted == [True]
    assert set(server.logins) == {USER}


def test_tls_from_the_start(
    make_site: MakeSite, certified: ssl.SSLContext, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with mail_server(tls=certified) as server:
        app = make_site(f"smtps://localhost:{server.port}")
        forget(app)
        work_off(app)
    assert len(server.accepted) == 1


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_certificate_that_nobody_vouches_for_stops_everything(
    make_site: MakeSite, certified: ssl.SSLContext, scheme: str
) -> None:
    tls, starttls = (certified, None) if scheme == "smtps" else (None, certified)
    with mail_server(tls=tls, starttls=starttls) as server:
        app = make_site(f"{scheme}://localhost:{server.port}")
        forget(app)
        work_off(app)
    assert server.accepted == []
    assert "CERTIFICATE_VERIFY_FAILED" in unsent(app)[0].error


def test_a_password_does_not_cross_the_network_in_clear_text(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server(needs_login=True) as server:
        app = make_site(f"smtp://{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}")
        monkeypatch.setattr("app.config.SMTPAddress.is_this_machine", False)
        forget(app)
        work_off(app)
        assert server.logins == []
        assert "offers no TLS" in unsent(app)[0].error
        monkeypatch.undo()
        let_time_pass(app, timedelta(minutes=1))
        work_off(app)
        assert server.logins == [USER]
        assert len(server.accepted) == 1


def test_a_wrong_password_loses_no_mail_and_is_not_repeated(make_site: MakeSite, log: Log) -> None:
    with mail_server(needs_login=True) as server:
        app = make_site(f"smtp://{quote(USER, safe='')}:hunter2@localhost:{server.port}")
        forget(app)
        work_off(app)
        (mail,) = unsent(app)
        assert mail.failed_at is None
        assert mail.error.startswith("535 ")
        with app.app_context(), pytest.raises(MailError, match="535"):
            current_mailer().check()
    written = "\n".join(log.lines())
    assert "mail 1 (reset) was not sent at attempt 1, and will be tried again: 535" in written
    assert "hunter2" not in written
    assert "ada@example.org" not in written


def test_a_recipient_who_is_refused_fails_at_once_and_can_be_tried_again(
    site: Flask, server: MailServer, log: Log
) -> None:
    server.refuses = lambda recipient: f"550 5.1.1 <{recipient}> has no mailbox here"
    forget(site)
    work_off(site)
    (mail,) = unsent(site)
    assert mail.failed_at
    assert mail.error == "550 5.1.1 <(the recipient)> has no mailbox here"
    assert "ada@example.org" not in "\n".join(log.lines())
    server.refuses = lambda _recipient: None
    work_off(site)
    assert server.accepted == []  # failed is failed
    with site.app_context():
        assert Mail.counts()[:2] == (0, 1)
        assert Mail.send_again(mail.id + 1) == 0
        assert Mail.send_again() == 1
        assert Mail.counts()[:2] == (1, 0)
    work_off(site)
    assert len(server.accepted) == 1


def test_a_mail_that_is_refused_for_what_it_says_fails_at_once(site: Flask, server: MailServer) -> None:
    server.refuses_data = lambda: "554 looks like spam " + "x" * 400
    forget(site)
    work_off(site)
    (mail,) = unsent(site)
    assert mail.failed_at
    assert mail.error.startswith("554 looks like spam")
    assert len(mail.error) <= REASON_LENGTH


def test_a_mail_that_has_failed_is_deleted_after_a_week(site: Flask, server: MailServer) -> None:
    server.refuses = lambda _recipient: "550 no"
    forget(site)
    work_off(site)
    let_time_pass(site, KEPT - timedelta(minutes=1))
    work_off(site)
    assert len(unsent(site)) == 1
    let_time_pass(site, timedelta(minutes=2))
    work_off(site)
    assert unsent(site) == []
    assert server.accepted == []


def test_greylisting_puts_off_one_mail_and_no_other(site: Flask, server: MailServer) -> None:
    server.refuses = lambda recipient: "451 4.7.1 Greylisted" if recipient.startswith("ada") else None
    with site.app_context():
        User.register("bob", "bob@example.org", ADAS)
    forget(site)
    forget(site, "bob@example.org")
    work_off(site)
    assert [mail["To"] for mail in server.accepted] == ["bob@example.org"]
    server.refuses = lambda _recipient: None
    work_off(site)
    assert len(server.accepted) == 1  # it is not due yet
    let_time_pass(site, timedelta(minutes=1))
    work_off(site)
    assert [mail["To"] for mail in server.accepted] == ["bob@example.org", "ada@example.org"]


def test_a_dead_server_loses_nothing_and_gets_all_when_it_is_back(make_site: MakeSite) -> None:
    port = free_port()
    app = make_site(f"smtp://127.0.0.1:{port}")
    for _ in range(3):
        forget(app)
    work_off(app)
    assert [mail.attempts for mail in unsent(app)] == [1, 0, 0]  # the other two would meet the same
    for _ in range(12):
        work_off(app)
        let_time_pass(app, timedelta(minutes=15))
    with mail_server(port=port) as server:
        work_off(app)
    assert len(server.accepted) == 3
    assert len({mail["Message-ID"] for mail in server.accepted}) == 3
    assert unsent(app) == []


def test_after_two_days_a_mail_has_failed(make_site: MakeSite) -> None:
    app = make_site(f"smtp://127.0.0.1:{free_port()}")
    forget(app)
    work_off(app)
    let_time_pass(app, GIVE_UP, since_written=True)
    work_off(app)
    (mail,) = unsent(app)
    assert mail.failed_at
    assert "ConnectionRefusedError" in mail.error


def test_a_mail_that_another_process_was_sending_is_sent_again_with_the_same_id(
    site: Flask, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after the server has accepted the mail, and before it is recorded."""

    class KilledError(BaseException):
        pass

    def die(_mail: Mail) -> None:
        raise KilledError

    forget(site)
    with monkeypatch.context() as patch:
        patch.setattr(Mail, "_delete", die)
        with pytest.raises(KilledError):
            work_off(site)
    work_off(site)
    assert len(server.accepted) == 1  # it is claimed still
    let_time_pass(site, timedelta(minutes=5))
    work_off(site)
    first, second = (mail["Message-ID"] for mail in server.accepted)
    assert first == second
    assert unsent(site) == []


def test_many_threads_send_each_mail_once(site: Flask, server: MailServer) -> None:
    with site.app_context():
        for number in range(30):
            with write():
                Mail.write_to(f"{number}@example.org", CHANGED, 1)
    in_threads(4, lambda _: work_off(site))
    work_off(site)
    assert len(server.accepted) == 30
    assert len({mail["Message-ID"] for mail in server.accepted}) == 30


def test_no_connection_to_sql_is_held_while_the_mail_server_thinks(site: Flask, server: MailServer) -> None:
    held: list[int] = []

    def note(_recipient: str) -> None:
        with site.app_context():
            held.append(db.engine.pool.checkedout())  # type: ignore[attr-defined]  # a QueuePool has it

    server.refuses = note
    forget(site)
    work_off(site)
    assert held == [0]


def test_an_address_that_belongs_to_nobody_is_written_nothing(site: Flask, server: MailServer) -> None:
    forget(site, "nobody@example.org")
    work_off(site)
    assert server.accepted == []
    assert unsent(site) == []


def test_a_header_cannot_be_smuggled_in(site: Flask) -> None:
    letter = Letter(1, "ada@example.org\r\nBcc: eve@example.org", "hello", "hello\n", datetime.now(UTC))
    with site.app_context(), pytest.raises(ValueError, match="linefeed"):
        current_mailer().deliver(letter)
