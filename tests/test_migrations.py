"""The migrations make exactly the tables that the models describe, on both databases, there and back."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from flask_migrate import downgrade, upgrade
from sqlalchemy import create_engine, inspect, text

from app import create_app
from app.config import Config, parse_redis_url
from app.extensions import SEARCH_INDEX, SQL_TIMEOUT, Base, _prepare_sqlite, db, is_compared
from app.models import Post, User
from tests import servers
from tests.conftest import PASSWORD, SECRET_KEY, finish, in_threads, pooled

pytestmark = pytest.mark.server

BUILDS_AN_INDEX = """
    SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'
"""
WAITS_FOR_POSTS = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'posts'::regclass"
TABLES = {
    *("users", "posts", "post_tags", "follows", "notifications", "likes", "post_search"),
    *("mails", "second_factors", "recovery_codes", "pictures"),
    *("moderators", "reports", "moderation_log", "site_pages", "pinned_posts"),
    *("invitations", "applicants"),
    *("blocks", "former_names"),
    *("transfers", "transfer_parts"),
}


@pytest.fixture(
    params=["sqlite", *(pytest.param(kind, marks=pytest.mark.postgresql) for kind in ("postgresql", "pgbouncer"))]
)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give a database in which there is nothing at all; "pgbouncer" is PostgreSQL behind one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    url: str = request.getfixturevalue("empty_postgresql_url")
    with pooled(url) if request.param == "pgbouncer" else nullcontext(url) as url:
        yield url


@pytest.fixture
def empty_postgresql_url(postgresql_url: str) -> Iterator[str]:
    engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE migrations"))
        try:
            yield postgresql_url.rpartition("/")[0] + "/migrations"
        finally:
            connection.execute(text("DROP DATABASE migrations WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def empty_app(empty_database_url: str) -> Iterator[Flask]:
    """Give an app on an empty database, in its context; migrating needs no Redis."""
    app = app_on(empty_database_url)
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


def app_on(database_url: str) -> Flask:
    nowhere = parse_redis_url("redis://127.0.0.1:1/0")
    for_readers = 5  # connections, beside the migration's own
    config = Config(nowhere, database_url, SECRET_KEY, runs_commands=True, database_max_connections=for_readers)
    return create_app(config)


def start_release(database_url: str) -> "subprocess.Popen[str]":
    environ = servers.clean_environ() | {"DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
    command = [sys.executable, "-m", "flask", "db", "upgrade"]
    return subprocess.Popen(command, cwd=servers.ROOT, env=environ, stderr=subprocess.PIPE, text=True)


def ask(query: str) -> list[Any]:
    """Return the first column of what a query finds."""
    with db.engine.connect() as connection:
        return list(connection.execute(text(query)).scalars())


def version() -> str:
    (revision,) = ask("SELECT version_num FROM alembic_version")
    return str(revision)


def tables() -> set[str]:
    """Return the names of all tables but Alembic's and those in which FTS5 keeps the search index."""
    return {name for name in inspect(db.engine).get_table_names() if not name.startswith(("alembic_", "post_search_"))}


def differences() -> list[object]:
    """Return what Alembic would still have to change for the database to be as the models describe it."""
    options = {"compare_type": True, "compare_server_default": True, "include_object": is_compared}
    with db.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))


def constraint_names() -> set[str]:
    """Return the names that differ between databases unless they are given."""
    inspector = inspect(db.engine)
    found: set[str | None] = set()
    for table in TABLES - {SEARCH_INDEX}:  # which has one on PostgreSQL alone
        found |= {constraint["name"] for constraint in inspector.get_unique_constraints(table)}
        found |= {key["name"] for key in inspector.get_foreign_keys(table)}
    return {str(name) for name in found}


def test_upgrading_an_empty_database_makes_the_tables_of_the_models(empty_app: Flask) -> None:
    assert tables() == set()
    assert differences() != []
    upgrade()
    assert tables() == TABLES == set(Base.metadata.tables)
    assert differences() == []
    assert constraint_names() == {
        *("uq_users_name_key", "uq_users_email"),
        *("fk_posts_author_id", "fk_post_tags_post_id", "fk_follows_follower_id", "fk_follows_followed_id"),
        *("fk_notifications_user_id", "fk_notifications_actor_id", "fk_notifications_post_id"),
        *("fk_likes_user_id", "fk_likes_post_id", "fk_blocks_user_id", "fk_blocks_other_id"),
        *("fk_mails_user_id", "fk_second_factors_user_id", "fk_recovery_codes_user_id", "fk_pictures_user_id"),
        *("fk_moderators_user_id", "fk_pinned_posts_post_id", "fk_reports_reporter_id", "fk_reports_user_id"),
        *("fk_transfers_user_id", "fk_transfer_parts_transfer_id"),
        *("fk_invitations_made_by", "uq_applicants_name_key"),
    }


def test_upgrading_twice_changes_nothing(empty_app: Flask) -> None:
    upgrade()
    User.register("ada", "ada@example.org", PASSWORD)
    upgrade()
    assert User.named("ada")
    assert differences() == []


def test_there_is_a_way_down_to_nothing_and_up_again(empty_app: Flask) -> None:
    upgrade()
    db.session.add(Post(author_id=User.register("ada", "ada@example.org", PASSWORD).id, body="gone"))
    db.session.commit()
    db.session.remove()
    downgrade(revision="base")
    assert tables() == set()
    upgrade()
    assert differences() == []
    assert User.named("ada") is None


def test_a_migration_cannot_be_written_out_without_a_database(empty_app: Flask) -> None:
    with pytest.raises(SystemExit, match="Migrations run against a database"):
        upgrade(sql=True)
    assert tables() == set()


def test_releases_at_once_migrate_one_after_the_other(empty_database_url: str) -> None:
    """Four `flask db upgrade` start at the same moment on one empty database; all of them end well."""
    for release in [start_release(empty_database_url) for _ in range(4)]:
        _, errors = release.communicate(timeout=60)
        assert release.returncode == 0, errors


def test_a_migration_that_fails_half_way_is_finished_by_the_next_release(
    empty_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **_more: object) -> None:
        raise RuntimeError("no room left")

    upgrade(revision="0002")
    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", fail)
        with pytest.raises(SystemExit):
            upgrade()
    assert version() == "0002"
    upgrade()
    assert differences() == []


@pytest.mark.postgresql
@pytest.mark.parametrize("server_goes_on", [True, False])
def test_a_release_that_is_killed_while_it_builds_an_index_is_finished_by_the_next(
    empty_postgresql_url: str, server_goes_on: bool
) -> None:
    """The server may finish the statement of a client that is gone, or leave an index that is not valid."""
    with app_on(empty_postgresql_url).app_context(), db.engine.connect() as reader:
        upgrade(revision="0002")
        reader.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        reader.execute(text("SELECT count(*) FROM follows"))  # CREATE INDEX CONCURRENTLY waits for older snapshots
        release = start_release(empty_postgresql_url)
        (builder,) = servers.wait_until(lambda: ask(BUILDS_AN_INDEX), "the index")
        release.kill()
        release.wait()
        if not server_goes_on:
            ask(f"SELECT pg_terminate_backend({builder})")
        second = start_release(empty_postgresql_url)
        third = start_release(empty_postgresql_url)
        servers.wait_until(lambda: ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"), "another release")
        reader.rollback()
        for following in (second, third):
            _, errors = following.communicate(timeout=60)
            assert following.returncode == 0, errors
        assert differences() == []
        assert ask("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid") == []
        db.engine.dispose()


@pytest.mark.postgresql
def test_a_table_that_stays_in_use_stops_the_release_with_the_reason(
    empty_postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrations.online.PATIENCE", 1)
    with app_on(empty_postgresql_url).app_context(), db.engine.connect() as reader:
        upgrade(revision="0002")
        reader.execute(text("SELECT count(*) FROM posts"))
        begun = time.monotonic()
        with pytest.raises(SystemExit, match="a table was in use for 1 s"):
            upgrade()
        assert time.monotonic() - begun < SQL_TIMEOUT  # the application's, which a migration must not wait
        assert version() == "0002"
        db.engine.dispose()


@pytest.mark.postgresql
def test_a_migration_that_is_tried_again_goes_no_further_than_was_asked(empty_postgresql_url: str) -> None:
    app = app_on(empty_postgresql_url)
    with app.app_context(), db.engine.connect() as reader:
        upgrade(revision="0003")
        reader.execute(text("SELECT count(*) FROM posts"))  # 0004 needs no lock on it; 0005 has to wait

        def read_until_a_try_has_failed() -> None:
            with app.app_context():
                servers.wait_until(lambda: ask(WAITS_FOR_POSTS), "a first try")
                servers.wait_until(lambda: not ask(WAITS_FOR_POSTS), "its end")
            reader.rollback()

        reading = threading.Thread(target=read_until_a_try_has_failed)
        reading.start()
        upgrade(revision="+2")
        finish(reading)
        assert version() == "0005"
        db.engine.dispose()


def test_many_may_open_a_new_sqlite_file_at_once(tmp_path: Path) -> None:
    for number in range(50):  # SQLite refuses one in every third or so
        path = tmp_path / f"{number}.db"

        def open_it(_: int, path: Path = path) -> None:
            with closing(sqlite3.connect(path, timeout=SQL_TIMEOUT)) as connection:
                _prepare_sqlite(connection, None)
                assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

        in_threads(6, open_it)


def test_making_a_table_anew_takes_nothing_along(empty_app: Flask) -> None:
    """SQLite can't change a column; dropping the old users must not drop their posts."""
    upgrade(revision="0001")
    with db.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO users (id, name, name_key, email, password_hash, created_at)"
                " VALUES (7, 'Ada', 'ada', 'ada@example.org', 'x', '2026-01-01 00:00:00')"
            )
        )
        connection.execute(
            text("INSERT INTO posts (author_id, body, created_at) VALUES (7, 'still here', '2026-01-01 00:00:00')")
        )
    upgrade()
    assert differences() == []
    ada = User.named("ada")
    assert ada
    assert (ada.id, ada.email, ada.password_version, ada.suspended_at) == (7, "ada@example.org", 0, None)
    assert [post.body for post in Post.all_shown([listed.id for listed in Post.latest().items])] == ["still here"]
    if db.engine.dialect.name == "sqlite":
        assert db.session.scalar(text("PRAGMA foreign_keys")) == 1
    User.register("bob", None, PASSWORD)
    db.session.remove()
    downgrade(revision="0001")
    with db.engine.connect() as connection:
        emails = connection.execute(text("SELECT email FROM users ORDER BY email")).scalars().all()
        assert emails == ["ada@example.org", "bob@unknown.invalid"]
        assert connection.execute(text("SELECT body FROM posts")).scalars().all() == ["still here"]
    upgrade()
    assert differences() == []
