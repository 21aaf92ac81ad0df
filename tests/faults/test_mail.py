"""A process that sends mail is killed again and again: no mail is lost, and one that comes twice can be recognised."""

import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from flask import Flask

from app.config import parse_smtp_url
from app.models import User
from app.models.mail import CHANGED, Mail
from app.models.writes import write
from tests.conftest import PASSWORD, SECRET_KEY
from tests.faults.killed_workers import work_and_kill
from tests.mail_server import MailServer, mail_server
from tests.servers import wait_until

MAILS = 200
KILLS = 25


def test_however_often_the_sender_is_killed_every_mail_arrives(
    make_app: Callable[..., Flask], database_url: str, redis_url: str
) -> None:
    with mail_server() as server:
        site = {"trusted_hosts": ("pipit.example.org",), "mail_from": "pipit@example.org"}
        app = make_app(smtp=parse_smtp_url(f"smtp://127.0.0.1:{server.port}"), **site)
        with app.app_context():
            ada = User.register("ada", None, PASSWORD)
            with write():
                for number in range(MAILS):
                    Mail.write_to(f"{number}@example.org", CHANGED, ada.id)
        environ = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SECRET_KEY": SECRET_KEY,
            "SMTP_URL": f"smtp://127.0.0.1:{server.port}",
            "MAIL_FROM": "pipit@example.org",
            "TRUSTED_HOSTS": "pipit.example.org",
        }
        chance = random.Random(4711)
        kills = 0

        def is_over() -> bool:
            with app.app_context():
                return Mail.counts()[0] == 0

        def until_killed() -> None:
            nonlocal kills
            if kills == KILLS:
                wait_until(is_over, "the last mails", patience=60)
                return
            target = len(server.accepted) + chance.randrange(1, MAILS // KILLS)
            wait_until(partial(has_accepted, server, target), "some mails")
            time.sleep(chance.random() * 0.02)  # at any moment of the next one
            kills += 1

        work_and_kill("app.models.mail", environ, is_over, until_killed)
        arrived = Counter(mail["To"] for mail in server.accepted)
        ids = {mail["To"]: set[str]() for mail in server.accepted}
        for mail in server.accepted:
            ids[mail["To"]].add(mail["Message-ID"])
    assert set(arrived) == {f"{number}@example.org" for number in range(MAILS)}  # none lost
    assert {len(one) for one in ids.values()} == {1}  # a mailbox can tell
    assert arrived.total() - MAILS <= kills == KILLS
    with app.app_context():
        assert Mail.unsent() == []


def has_accepted(server: MailServer, target: int) -> bool:
    return len(server.accepted) >= target
