"""A release says what it did, and stops before it changes anything if the new version could not use Redis."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests import servers

pytestmark = pytest.mark.server


def release(redis_url: str, database_url: str) -> tuple[int, str]:
    """Run a release; return its status, and what a deployer reads."""
    environ = servers.clean_environ() | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "SECRET_KEY": "a key for tests, and for tests only",
    }
    command = [sys.executable, "-m", "flask", "release"]
    ended = subprocess.run(
        command, cwd=servers.ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_it_says_what_it_migrated_and_then_that_there_is_nothing_to_migrate(redis_url: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    newest = max(path.name[:4] for path in (servers.ROOT / "migrations" / "versions").glob("0*.py"))
    assert release(redis_url, url) == (0, f"Redis: takes writes.\nDatabase: migrated to {newest}.\n")
    assert release(redis_url, url) == (0, "Redis: takes writes.\nDatabase: nothing to migrate.\n")


def test_it_indexes_the_posts_from_before_there_was_an_index(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    release(redis_url, f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "INSERT INTO users (id, name, name_key, password_hash, created_at) VALUES (1, 'a', 'a', '', 0)"
        )
        for body in ("tea", "tea again"):
            database.execute("INSERT INTO posts (author_id, body, created_at) VALUES (1, ?, 0)", [body])
        database.execute("DELETE FROM post_search")
        database.commit()
        for said in ("Search: 2 older posts indexed.\n", ""):
            assert release(redis_url, f"sqlite:///{path}")[1].endswith(f"Database: nothing to migrate.\n{said}")
        assert len(database.execute("SELECT rowid FROM post_search WHERE words MATCH 'tea'").fetchall()) == 2


@pytest.mark.parametrize("kind", ["locked", "replica"])
def test_a_redis_that_will_refuse_the_new_version_stops_it(tmp_path: Path, kind: str) -> None:
    with servers.unfit_redis(kind) as url:
        status, said = release(url, f"sqlite:///{tmp_path / 'new.db'}")
    assert status == 1
    assert said.startswith("Release stopped; nothing was changed. Redis can't be used: ")
    assert said.count("\n") == 1
    assert "hunter2" not in said
    assert not (tmp_path / "new.db").exists()


def test_a_redis_that_is_away_is_said_and_does_not_stop_it(tmp_path: Path) -> None:
    status, said = release("redis://127.0.0.1:1/0", f"sqlite:///{tmp_path / 'new.db'}")
    assert status == 0
    assert "Redis can't be used now: ConnectionError: " in said
    assert "Database: migrated to " in said


def test_a_database_that_is_away_stops_it_with_the_reason(redis_url: str) -> None:
    status, said = release(redis_url, "postgres://pipit:hunter2@127.0.0.1:1/pipit")
    assert status == 1
    assert "The database can't be migrated: " in said
    assert "refused" in said
    assert "Traceback" not in said
    assert "hunter2" not in said
