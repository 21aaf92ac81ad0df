"""A town of 5,000 people and 50,000 posts: the site on which every kind of page is measured.

It is bench/growth.py's town: @p1 is popular, @p3 follows a thousand people who write like everyone.
"""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import click
from sqlalchemy import create_engine, text

from app import create_app
from app.config import Config
from app.extensions import db
from bench import growth, load
from bench.contenders import Contender, Measure
from bench.processes import gunicorn, run_flask
from tests.servers import ROOT

SIZE = growth.Town(5_000, 50_000)
POPULAR, READER, FAN = f"p{growth.POPULAR}", growth.READER, 6  # the fan follows the popular one, the reader doesn't
FOLLOWED = growth.READER + 2  # by the reader
PERMALINKS = 5_000  # that are asked for as people do
ASKED_FOR = 200_000  # requests in a sequence; then it starts over
KINDS = {  # of pages, by their name in the results
    "a permalink": f"/@{POPULAR}/{SIZE.posts}",
    "a hashtag": "/tags/ferry",
    "followers": f"/@{POPULAR}/followers",
    "following": f"/@p{READER}/following",
}


@dataclass(frozen=True)
class Settings:
    """A town that a Pipit can run on: its environment variables."""

    environ: dict[str, str]
    home_bytes: int = 0  # of the reader's /home

    def cookies(self, people: Iterable[int]) -> list[str]:
        """Sign these people in; return each one's Cookie header."""
        app = create_app(Config.from_environ(self.environ))
        cookies = [f"session={growth.sign_in(app, person)}" for person in people]
        app.extensions["store"].close()
        return cookies

    def copied(self, scratch: Path, redis_url: str) -> "Settings":
        """Return a copy of the town, for a Pipit that writes."""
        database = scratch / f"town-{len(list(scratch.glob('town*.db')))}.db"
        shutil.copy(self.environ["DATABASE_URL"].removeprefix("sqlite:///"), database)
        return replace(self, environ=self.environ | {"DATABASE_URL": f"sqlite:///{database}", "REDIS_URL": redis_url})

    def rows(self, sql: str) -> list[tuple[int, str]]:
        """Return what a query finds in the database."""
        with create_engine(self.environ["DATABASE_URL"]).connect() as connection:
            return [(row[0], row[1]) for row in connection.execute(text(sql))]


def built(scratch: Path, redis_url: str) -> Settings:
    """Make the town."""
    settings = Settings(
        {
            "DATABASE_URL": f"sqlite:///{scratch / 'town.db'}",
            "REDIS_URL": redis_url,
            "SECRET_KEY": "a key for benchmarks, and for benchmarks only",
            "LOGIN_MAX_ATTEMPTS": "1000",
        }
    )
    run_flask(settings.environ, "db", "upgrade")
    app = create_app(Config.from_environ(settings.environ))
    growth.fill(app, SIZE)
    client = app.test_client()
    client.set_cookie("session", growth.sign_in(app, READER))
    home_bytes = len(client.get("/home").data)
    app.extensions["store"].close()
    with app.app_context():
        db.engine.dispose()  # SQLite then leaves a single file, which can be copied
    return replace(settings, home_bytes=home_bytes)


def contender(town: Settings, scratch: Path) -> Contender:
    """Return a Pipit in the town, and every kind of page that is asked of it."""
    reader, fan = ({"Cookie": cookie} for cookie in town.cookies((READER, FAN)))
    shown = f'class="menu-name">@p{READER}<'
    measures = []
    for what, path in {"latest": "/", **KINDS}.items():
        measures.append(Measure(f"town: {what}", path, hides='class="menu-name">'))
        measures.append(Measure(f"town: {what}, signed in", path, reader, shows=shown))
    measures += [
        Measure("town: /@name, followed", f"/@{POPULAR}", fan, shows=">Unfollow<"),
        Measure("town: /@name, not followed", f"/@{POPULAR}", reader, shows=">Follow<"),
        Measure("town: /home, nothing new", "/home", reader, shows='id="body-count"'),
    ]
    for what, headers in (("", {}), (", signed in", reader)):
        file = scratch / f"permalinks{what}.txt"
        sequence = load.sequence_file(file, as_people_do(permalinks(town), headers.get("Cookie", "")))
        measures.append(Measure(f"town: {PERMALINKS:,} permalinks{what}", sequence=sequence))
    return Contender("town", gunicorn(None, town.environ), measures)


def permalinks(town: Settings, most: int = PERMALINKS) -> list[str]:
    """Return the paths of the newest posts, newest first."""
    sql = "SELECT posts.id, name FROM posts JOIN users ON users.id = author_id ORDER BY posts.id DESC LIMIT {}"
    return [f"/@{name}/{number}" for number, name in town.rows(sql.format(most))]


def as_people_do(paths: list[str], cookie: str) -> list[tuple[str, str]]:
    """Return requests by Zipf's law with exponent 1: the second page gets half as many as the first, and so on."""
    weights = [1 / rank for rank in range(1, len(paths) + 1)]
    return [(path, cookie) for path in Random(18).choices(paths, weights, k=ASKED_FOR)]


def earlier(commit: str, scratch: Path) -> Path | None:
    """Unpack an earlier commit of Pipit, and return its folder; None if its history is not here."""
    folder = scratch / commit
    folder.mkdir()
    found = subprocess.run(["git", "archive", commit, "--output", f"{folder}.tar"], cwd=ROOT, capture_output=True)
    if found.returncode:
        click.echo(f"left out: commit {commit} is not here ({found.stderr.decode().strip()})", err=True)
        return None
    shutil.unpack_archive(f"{folder}.tar", folder)
    return folder
