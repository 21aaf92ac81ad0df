"""`flask mail`: who runs a site sees what is not sent, sends it again, and tries the settings."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import update

from app.config import parse_smtp_url
from app.extensions import db
from app.models import User
from app.models.addresses import forget_password
from app.models.mail import Mail
from tests.conftest import PASSWORD

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(app: Flask) -> Callable[..., Result]:
    return lambda *words: app.test_cli_runner().invoke(args=["mail", *words])


@pytest.fixture
def failed(app: Flask) -> None:
    """Have one mail that waits and one that has failed."""
    with app.app_context():
        User.register("ada", "ada@example.org", PASSWORD)
        forget_password("ada@example.org")
        forget_password("bob@example.org")
        said = {"failed_at": datetime.now(UTC), "error": "550 no such mailbox", "attempts": 1}
        db.session.execute(update(Mail).where(Mail.id == 2).values(said))
        db.session.commit()


@pytest.mark.usefixtures("failed")
def test_what_is_not_sent_is_listed_and_counted(run: Callable[..., Result]) -> None:
    lines = run("list").output.splitlines()
    assert [line.split()[:5] for line in lines] == [
        ["1", "waiting", "0", "reset", "ada@example.org"],
        ["2", "failed", "1", "reset", "bob@example.org"],
    ]
    assert lines[1].endswith("550 no such mailbox")
    listed = [json.loads(line) for line in run("list", "--json").output.splitlines()]
    assert [(mail["state"], mail["error"]) for mail in listed] == [("waiting", None), ("failed", "550 no such mailbox")]
    assert run("count").output == "1 waiting, 1 failed\n"


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("words", [("retry",), ("retry", "2")])
def test_a_mail_that_has_failed_is_sent_again(run: Callable[..., Result], words: tuple[str, ...]) -> None:
    assert run(*words).output == "1 mail will be sent again, for up to 2 days.\n"
    assert run("count").output == "2 waiting, 0 failed\n"
    assert run("retry").output.startswith("0 mails ")


@pytest.mark.usefixtures("failed")
def test_a_mail_that_waits_is_not_sent_a_second_time(run: Callable[..., Result]) -> None:
    result = run("retry", "1")
    assert result.exit_code == 1
    assert "No mail with number 1 has failed." in result.output


def test_the_settings_can_be_tried(run: Callable[..., Result], make_app: Callable[..., Flask]) -> None:
    result = run("trial", "ada@example.org")
    assert "Kept, because SMTP_URL is not set." in result.output
    assert "To: ada@example.org\nSubject: A trial of Pipit\n" in result.output
    dead = make_app(smtp=parse_smtp_url("smtp://127.0.0.1:1"), mail_from="pipit@example.org")
    result = dead.test_cli_runner().invoke(args=["mail", "trial", "ada@example.org"])
    assert result.exit_code == 1
    assert "Not sent: smtp://127.0.0.1:1: ConnectionRefusedError" in result.output
