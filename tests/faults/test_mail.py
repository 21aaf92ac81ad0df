"""A process that sends mail is killed again and again: no mail is lost, and one that comes twice can be recognised."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from flask import Flask

from app.config import parse_smtp_url
from app.models import User
from app.models.mail import CHANGED, Mail
from app.models.writes import write
from tests import servers
from tests.conftest import PASSWORD, SECRET_KEY
from tests.mail_server import MailServer, mail_server
from tests.servers import wait_until

MAILS = 200
KILLS = 25
# Starts a worker for each line it reads, and prints its process id; forked, because to import Pipit takes a second. The
# worker does what `flask worker` does, but a claim whose process has died is free sooner.
WORKERS = """
import os, sys
from datetime import timedelta
import app.models.mail as mail
mail.CLAIM = timedelta(seconds=1)
from app import background, create_app
background.WORKER_POLL = 0.1
app = create_app()
for _ in sys.stdin:
    child = os.fork()
    if not child:
        with app.app_context():
            background.current_background().run_worker()
    print(child, file=sys.stderr, flush=True)  # the log goes to stdout
    os.waitpid(child, 0)
"""


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
        environ = servers.clean_environ() | {
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

        command = [sys.executable, "-c", WORKERS]
        with subprocess.Popen(
            command,
            cwd=servers.ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as workers:
            assert workers.stdin
            assert workers.stderr
            while not is_over():
                print("another", file=workers.stdin, flush=True)
                worker = int(workers.stderr.readline())
                try:
                    if kills < KILLS:
                        target = len(server.accepted) + chance.randrange(1, MAILS // KILLS)
                        wait_until(partial(has_accepted, server, target), "some mails")
                        time.sleep(chance.random() * 0.02)  # at any moment of the next one
                        kills += 1
                    else:
                        wait_until(is_over, "the last mails", patience=60)
                finally:
                    os.kill(worker, signal.SIGKILL)
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
