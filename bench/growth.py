"""Does a page cost more as a town grows? `python -m bench.growth`.

The same pages on a small site and on a large one, on SQLite and, where it is installed, on PostgreSQL: how many SQL
statements each takes, and its median time, made anew each time. The figures go to bench/results/growth.md.

The town, small and large, has
    a popular person, with one post in twenty and every second person as a follower
    a typical one, with forty posts
    a reader who follows a thousand people who write like everyone
    and one who follows a thousand who have long been quiet: only the oldest tenth of the posts is theirs
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from flask import Flask
from flask_migrate import upgrade
from sqlalchemy import bindparam, text

from app import create_app
from app.config import Config, parse_database_url, parse_redis_url
from app.extensions import UTCDateTime, db
from app.sessions import Session, SignIn, current_interface
from tests import servers
from tests.counting import statements_run

TIMES = 40  # each page is made
LIMIT = 1.5  # wanted of the ratio
MOST_STATEMENTS = 5
FOLLOWED = 1000
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)  # when people joined: new accounts may publish less
RESULT = Path(__file__).resolve().parent / "results" / "growth.md"
POPULAR, TYPICAL, READER, QUIET_READER, REST = 1, 2, 3, 4, 5  # ids; REST: the first of all others


@dataclass(frozen=True)
class Town:
    """How large a site is."""

    people: int
    posts: int


@dataclass(frozen=True)
class Page:
    """A page that is measured."""

    what: str
    path: str
    reader: int | None = None  # who is signed in
    posts: int = 30


@dataclass(frozen=True)
class Cost:
    """What a page costs."""

    statements: int
    p50_ms: float


SMALL, LARGE = Town(2_200, 1_000), Town(100_000, 1_000_000)

PAGES = [
    Page("`/`", "/"),
    Page("`/@name`: a typical person", f"/@p{TYPICAL}"),
    Page("`/@name`: the popular one", f"/@p{POPULAR}"),
    Page("a permalink", f"/@p{POPULAR}/500", posts=1),
    Page("a hashtag, on one post in twenty", "/tags/ferry"),
    Page("followers: the popular one's", f"/@p{POPULAR}/followers", posts=0),
    Page("following: a thousand", f"/@p{READER}/following", posts=0),
    Page("`/home`, following 1,000", "/home", reader=READER),
    Page("`/home`, following 1,000 quiet ones", "/home", reader=QUIET_READER),
]

# Runs of numbers are made by a recursive query, which SQLite and PostgreSQL understand alike.
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
FILL = {
    "people": """
        INSERT INTO users (id, name, name_key, email, password_hash, created_at)
        {numbers} SELECT i, 'p' || i, 'p' || i, 'p' || i || '@example.org', '-', :long_ago FROM n""",
    "posts": """
        INSERT INTO posts (id, author_id, body, created_at)
        {numbers} SELECT i,
            CASE WHEN i % 20 = 0 THEN {POPULAR}
                 WHEN i % ({posts} / 40) = 1 THEN {TYPICAL}
                 WHEN i <= {posts} / 10 THEN 6 + 2 * (i * 7919 % (({people} - 5) / 2))
                 ELSE 5 + 2 * (i * 7919 % (({people} - 5) / 2)) END,
            'Number ' || i || ': the ferry is late again, says @p{TYPICAL}. See https://example.org/' || i ||
            CASE WHEN i % 20 = 10 THEN ' #ferry' ELSE ' #town' END,
            :moment FROM n""",
    "tags": """
        INSERT INTO post_tags (tag, post_id)
        SELECT CASE WHEN id % 20 = 10 THEN 'ferry' ELSE 'town' END, id FROM posts""",
    "followers of the popular": """
        INSERT INTO follows (follower_id, followed_id, created_at)
        SELECT id, {POPULAR}, :moment FROM users WHERE id % 2 = 0 AND id > {REST}""",
    "follows of everyone": """
        INSERT INTO follows (follower_id, followed_id, created_at)
        {numbers} SELECT u.id, (u.id - 1 + i * i * 31) % {people} + 1, :moment
        FROM users u CROSS JOIN n WHERE u.id >= {REST} ON CONFLICT DO NOTHING""",
    "follows of the readers": """
        INSERT INTO follows (follower_id, followed_id, created_at)
        {numbers} SELECT u.id, u.id + 2 + (i - 1) * 2 * (({people} - 10) / (2 * {FOLLOWED})), :moment
        FROM users u CROSS JOIN n WHERE u.id IN ({READER}, {QUIET_READER})""",
}


def main() -> None:
    """Measure, print and keep the table."""
    lines = [
        "| database | page | statements | p50, 1 thousand posts | p50, 1 million | ratio | |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    with ExitStack() as stack:
        for database, urls in databases(stack):
            small, large = (
                stack.enter_context(site(url, town)) for url, town in zip(urls, (SMALL, LARGE), strict=True)
            )
            for page in PAGES:
                lines.append(row(database, page, *costs(page, small, large)))
                click.echo(lines[-1])
    RESULT.write_text(
        f"# Growth\n\n{SMALL.people:,} people and {SMALL.posts:,} posts against {LARGE.people:,} and {LARGE.posts:,}; "
        f"aimed at: a ratio of {LIMIT} at most, and {MOST_STATEMENTS} statements. Times are of whole requests, in "
        "process; `python -m bench.growth` explains the pages and repeats this.\n\n" + "\n".join(lines) + "\n"
    )


def databases(stack: ExitStack) -> Iterator[tuple[str, tuple[str, str]]]:
    """Give each kind of database, with the URLs of two empty ones."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    yield "SQLite", (f"sqlite:///{folder / 'small.db'}", f"sqlite:///{folder / 'large.db'}")
    programs = servers.postgresql_programs()
    if programs is None:
        click.echo("PostgreSQL is not installed: left out", err=True)
        return
    small, large = (parse_database_url(stack.enter_context(servers.postgresql(programs))) for _ in range(2))
    yield "PostgreSQL", (small, large)


def row(database: str, page: Page, small: Cost, large: Cost) -> str:
    ratio = large.p50_ms / small.p50_ms
    fine = ratio <= LIMIT and max(small.statements, large.statements) <= MOST_STATEMENTS
    statements = f"{large.statements}" if large.statements == small.statements else "not always the same"
    times = f"{small.p50_ms:.1f} ms | {large.p50_ms:.1f} ms | {ratio:.2f}"
    return f"| {database} | {page.what} | {statements} | {times} | {'reached' if fine else '**missed**'} |"


def costs(page: Page, small: Flask, large: Flask) -> tuple[Cost, Cost]:
    """Return what a page costs on both sites, measured in turn, so that what else the machine does falls on both."""
    statements = [statements_of(app, page) for app in (small, large)]
    times = [(milliseconds(small, page), milliseconds(large, page)) for _ in range(TIMES)]
    p50s = [statistics.median(each) for each in zip(*times, strict=True)]
    return Cost(statements[0], p50s[0]), Cost(statements[1], p50s[1])


def statements_of(app: Flask, page: Page) -> int:
    """Return the number of SQL statements that the page takes."""
    milliseconds(app, page)  # the first one opens connections
    with statements_run(app) as statements:
        milliseconds(app, page)
    return len(statements)


def milliseconds(app: Flask, page: Page) -> float:
    """Ask for the page, while nothing is in Redis but a session; return the time it took."""
    client = app.test_client()
    with app.extensions["store"].commands() as redis:
        redis.flushdb()
    if page.reader:
        client.set_cookie("session", sign_in(app, page.reader))
    began = time.perf_counter()
    response = client.get(page.path)
    taken = (time.perf_counter() - began) * 1000
    posts = response.get_data().count(b'<article class="post"')
    if response.status_code != 200 or posts != page.posts:
        raise RuntimeError(f"{page.path}: {response.status_code}, {posts} posts")
    return taken


@contextmanager
def site(url: str, town: Town) -> Iterator[Flask]:
    """Give a Pipit with that many people, on an empty database."""
    with servers.valkey() as valkey:
        redis = parse_redis_url(f"redis://127.0.0.1:{valkey.port}/0")
        app = create_app(Config(redis, url, "x" * 32, runs_commands=True))  # for upgrade()
        logging.getLogger("app").setLevel(logging.WARNING)
        with app.app_context():
            upgrade()
        fill(app, town)
        yield app
        app.extensions["store"].close()
        with app.app_context():
            db.engine.dispose()


def fill(app: Flask, town: Town) -> None:
    """Fill the database with a town, in a statement a table."""
    sizes = {"people": town.people, "posts": town.posts}
    counts = {**sizes, "follows of everyone": 10, "follows of the readers": FOLLOWED}
    ids = {"POPULAR": POPULAR, "TYPICAL": TYPICAL, "READER": READER, "QUIET_READER": QUIET_READER, "REST": REST}
    with app.app_context(), db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if db.engine.dialect.name == "postgresql":
            connection.execute(text("SET statement_timeout = 0"))
        for what, sql in FILL.items():
            numbers = NUMBERS.format(count=counts.get(what))
            statement = text(sql.format(numbers=numbers, FOLLOWED=FOLLOWED, **ids, **sizes))
            for name, moment in (("moment", datetime.now(UTC)), ("long_ago", LONG_AGO)):
                if f":{name}" in sql:
                    statement = statement.bindparams(bindparam(name, moment, UTCDateTime))
            connection.execute(statement)
        if db.engine.dialect.name == "postgresql":
            connection.execute(text("VACUUM ANALYZE"))  # as its own daemon would, in time


def sign_in(app: Flask, user_id: int) -> str:
    """Sign somebody in, without a password; return the session's id."""
    session = Session()
    with app.test_request_context():
        current_interface().begin(session, SignIn(user_id, f"p{user_id}"))
    return str(session.sid)


if __name__ == "__main__":
    main()
