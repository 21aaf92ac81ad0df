"""A process that imports posts is killed again and again: each post is imported once, and the report says so."""

import io
import json
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zipfile import ZipFile

from flask import Flask
from sqlalchemy import select

from app.extensions import db
from app.models import Post, User
from app.models.imports import LISTS, start_import
from app.models.transfers import IMPORT, MOST_ATTEMPTS, Transfer
from tests.conftest import PASSWORD, SECRET_KEY
from tests.faults.killed_workers import work_and_kill
from tests.servers import wait_until

FILES, IN_A_FILE = 40, 10
KILLS = MOST_ATTEMPTS - 2


def test_however_often_the_importer_is_killed_each_post_is_imported_once(
    app: Flask, database_url: str, redis_url: str
) -> None:
    with app.app_context():
        ada = User.register("ada", None, PASSWORD)
        start_import(ada, export())
    environ = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "SECRET_KEY": SECRET_KEY,
    }
    chance = random.Random(4711)
    kills = 0

    def transfer() -> Transfer:
        with app.app_context():
            found = Transfer.of(ada.id, IMPORT)
            assert found
            return found

    def until_killed() -> None:
        nonlocal kills
        target = transfer().done + IN_A_FILE * chance.randrange(1, 4) if kills < KILLS else FILES * IN_A_FILE
        reached(transfer, target, last=kills == KILLS)
        time.sleep(chance.random() * 0.02)  # at any moment of the next step
        kills += kills < KILLS

    work_and_kill("app.models.transfers", environ, lambda: not transfer().is_running, until_killed)
    assert kills == KILLS
    with app.app_context():
        texts = db.session.scalars(select(Post.body).where(Post.author_id == ada.id).order_by(Post.id)).all()
        assert texts == [f"post {number}" for number in range(FILES * IN_A_FILE)]
    assert transfer().is_done
    assert transfer().outcome["imported"] == FILES * IN_A_FILE
    assert transfer().outcome["already"] == transfer().outcome["left_out"] == 0


def reached(transfer: Callable[[], Transfer], target: int, *, last: bool) -> None:
    """Wait until so many posts are done, or all work."""

    def condition() -> bool:
        now = transfer()
        return not now.is_running or (now.done >= target and not last)

    wait_until(condition, "some posts", patience=60)


def export() -> io.BytesIO:
    """Return an export of FILES files."""
    count = FILES * IN_A_FILE
    lists = {name: {"count": 0, "files": 0} for name in LISTS} | {"posts": {"count": count, "files": FILES}}
    about = {"format": "pipit-export", "version": 1, "account": {"name": "ada"}, "lists": lists}
    start = datetime(2020, 1, 1, tzinfo=UTC)
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr("pipit.json", json.dumps(about))
        for number in range(FILES):
            posts = [
                {
                    "id": index + 1,
                    "text": f"post {index}",
                    "created_at": (start + timedelta(hours=index)).isoformat(),
                    "edited_at": None,
                    "reply_to": None,
                }
                for index in range(number * IN_A_FILE, (number + 1) * IN_A_FILE)
            ]
            archive.writestr(f"posts/{number + 1}.json", json.dumps({"posts": posts}))
    return file
