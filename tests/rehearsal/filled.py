"""A database with a million posts, and people who go on using the version before while it is migrated."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection, Engine, text

from app import create_app
from app.config import Config, parse_database_url, parse_redis_url
from app.extensions import db
from tests.servers import ROOT, clean_environ, postgresql, postgresql_programs

POSTS, USERS = 1_000_000, 1_000
BEFORE = "0002"  # the newest migration of the version before
SECRET_KEY = "a key for the rehearsal, and for nothing else"
LONG = 5  # s that a slow reader keeps a transaction open
BREATH = 0.005  # s between two things that a person does
NUMBERS = {
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) ",
    "postgresql": "WITH n (i) AS (SELECT generate_series(1, :count)) ",
}
FILL_USERS = """
    INSERT INTO users (name, name_key, password_hash, created_at)
    SELECT 'User' || i, 'user' || i, 'none', '2026-01-01 00:00:00' FROM n
"""
FILL_POSTS = """
    INSERT INTO posts (author_id, body, created_at)
    SELECT 1 + i % 1000, 'Number ' || i, '2026-01-01 00:00:00' FROM n
"""
# What the version before says to the database.
REGISTER = text(
    "INSERT INTO users (name, name_key, password_hash, created_at) VALUES (:name, :name, 'none', '2026-01-02 00:00:00')"
)
FIND = text("SELECT name, suspended_at FROM users WHERE id = 7")
PUBLISH = text("INSERT INTO posts (author_id, body, created_at) VALUES (7, 'One more', '2026-01-02 00:00:00')")
READ = text("SELECT posts.id, body, name FROM posts JOIN users ON users.id = author_id ORDER BY posts.id DESC LIMIT 30")


@dataclass
class Filled:
    """A database, and how many seconds each write and each read took."""

    url: str
    writes: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)

    def migrate(self, revision: str = "head") -> float:
        """Run this version's migrations, as a release does; return the seconds they took."""
        begun = time.monotonic()
        environ = clean_environ() | {"DATABASE_URL": self.url, "SECRET_KEY": SECRET_KEY}
        command = [sys.executable, "-m", "flask", "db", "upgrade", revision]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return time.monotonic() - begun

    def fill(self) -> None:
        """Insert the posts and their authors."""
        with self.engine() as engine, engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SET LOCAL session_replication_role = replica"))  # checks no reference
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            for statement, count in ((FILL_USERS, USERS), (FILL_POSTS, POSTS)):
                connection.execute(text(NUMBERS[engine.dialect.name] + statement), {"count": count})

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let people register, publish and read until the end of the block."""
        end = threading.Event()

        def repeat(do: Callable[[Connection], None], seconds: list[float]) -> None:
            while not end.wait(BREATH):
                begun = time.monotonic()
                with engine.begin() as connection:
                    do(connection)
                seconds.append(time.monotonic() - begun)

        with self.engine() as engine, ThreadPoolExecutor() as people:
            busy = [people.submit(repeat, do, self.writes) for do in (_register, _publish, _publish)]
            busy += [people.submit(repeat, _read, self.reads) for _ in range(2)]
            try:
                yield
            finally:
                end.set()
            for person in busy:
                person.result()

    @contextmanager
    def read_slowly(self) -> Iterator[None]:
        """Keep a transaction open that has read posts and users before the block begins."""
        has_read = threading.Event()

        def read(engine: Engine) -> None:
            with engine.connect() as connection:
                _read(connection)
                has_read.set()
                time.sleep(LONG)

        with self.engine() as engine, ThreadPoolExecutor() as people:
            reader = people.submit(read, engine)
            has_read.wait()
            yield
            reader.result()

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Give an engine like that of a web process, with its time-outs."""
        config = Config(parse_redis_url("redis://127.0.0.1:1/0"), parse_database_url(self.url), SECRET_KEY)
        with create_app(config).app_context():
            engine = db.engine
        try:
            yield engine
        finally:
            engine.dispose()


@contextmanager
def filled(kind: str, folder: Path) -> Iterator[Filled]:
    """Give a database of the version before, "sqlite" or "postgresql", with a million posts."""
    if kind == "sqlite":
        database = Filled(f"sqlite:///{folder / 'filled.db'}")
        database.migrate(BEFORE)
        database.fill()
        yield database
        return
    programs = postgresql_programs()
    assert programs
    with postgresql(programs) as url:
        database = Filled(url)
        database.migrate(BEFORE)
        database.fill()
        yield database


def _register(connection: Connection) -> None:
    connection.execute(REGISTER, {"name": uuid4().hex[:30]})


def _publish(connection: Connection) -> None:
    connection.execute(FIND).one()
    connection.execute(PUBLISH)


def _read(connection: Connection) -> None:
    connection.execute(READ).all()
