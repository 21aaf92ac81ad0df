"""What `flask doctor` asks: Redis, the database, and the tree that was deployed. Nothing is changed."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from flask import current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.cli.doctor.server_stats import KeySample, ServerStats
from app.extensions import db
from app.redis_client import glob_escape

PYTHON_FILES = ("runtime.txt", ".python-version")  # where a tree names its Python, in the order in which Heroku looks
QUERIES = 5  # for a median that one slow answer does not move

# How many connections count towards the limit that binds first: the server's, the database's or the role's, which is
# how Heroku's plans are limited. What is reserved for superusers is nobody else's.
CONNECTIONS = """
SELECT s.limit - r.reserved AS limit,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used
  FROM (SELECT current_setting('max_connections')::int AS limit) s,
       (SELECT current_setting('superuser_reserved_connections')::int AS reserved) r
UNION ALL
SELECT datconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())
  FROM pg_database WHERE datname = current_database() AND datconnlimit >= 0
UNION ALL
SELECT rolconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)
  FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0
"""


@dataclass(frozen=True)
class NamedPython:
    """The Python that the tree names for the platform."""

    file: str  # one of PYTHON_FILES
    version: str  # "3.13", or with a patch release


@dataclass(frozen=True)
class RedisFacts:
    """What a Redis server tells. None, or nothing, is what this user may not ask."""

    round_trip: float  # s, median
    info: Mapping[str, Any]
    refusal: str | None  # of Pipit's keys, by a node of a cluster
    settings: Mapping[str, str | None]  # timeout, save, maxclients
    connection_names: list[str] | None
    clock_lead: float | None  # s by which this machine's clock is ahead
    sessions: KeySample | None
    indexes: KeySample | None  # user:<id>:sessions


@dataclass(frozen=True)
class DatabaseFacts:
    """What a SQL database tells."""

    kind: str  # "SQLite", "PostgreSQL"
    version: str
    round_trip: float  # s, median
    at: tuple[str, ...]  # the migrations it has
    head: tuple[str, ...]  # those that the code needs
    missing: int | None  # migrations between the two; None if the database has one that the code does not know
    connections: int | None = None  # in use, of those that count towards the limit
    limit: int | None = None


def named_python(tree: Path) -> NamedPython | None:
    """Return the Python that the tree names for the platform; None if it leaves the choice to the platform."""
    for file in PYTHON_FILES:
        if (tree / file).exists():
            lines = [line.strip() for line in (tree / file).read_text().splitlines()]
            version = next((line for line in lines if line and not line.startswith("#")), "nothing")
            return NamedPython(file, version.removeprefix("python-"))
    return None


def redis_facts(stats: ServerStats) -> RedisFacts:
    """Ask Redis all there is to ask. Raises StoreUnavailableError."""
    return RedisFacts(
        round_trip=stats.round_trip(),
        info=stats.info(),
        refusal=stats.refusal(),
        settings={name: stats.setting(name) for name in ("timeout", "save", "maxclients")},
        connection_names=stats.connection_names(),
        clock_lead=stats.clock_lead(),
        sessions=stats.sample(glob_escape(stats.store.key("session:")) + "*"),
        indexes=stats.sample(glob_escape(stats.store.key("user:")) + "*:sessions"),
    )


def database_facts() -> DatabaseFacts:
    """Ask the database all there is to ask. Raises SQLAlchemyError; CommandError if the migrations are at odds."""
    url = db.engine.url
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise NoDatabaseFileError("there is no such file yet")  # connecting would make an empty one
    with db.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        times = []
        for _number in range(QUERIES):
            began = time.perf_counter()
            connection.execute(text("SELECT 1"))
            times.append(time.perf_counter() - began)
        scripts = ScriptDirectory.from_config(current_app.extensions["migrate"].migrate.get_config())
        at = MigrationContext.configure(connection).get_current_heads()
        used = limit = None
        if db.engine.dialect.name == "postgresql":
            limits = connection.execute(text(CONNECTIONS)).all()
            limit, used = min(limits, key=lambda row: int(row[0]) - int(row[1]))
        return DatabaseFacts(
            kind={"sqlite": "SQLite", "postgresql": "PostgreSQL"}[db.engine.dialect.name],
            version=".".join(map(str, db.engine.dialect.server_version_info or ())),
            round_trip=statistics.median(times),
            at=at,
            head=tuple(scripts.get_heads()),
            missing=_missing(scripts, at),
            connections=used,
            limit=limit,
        )


class NoDatabaseFileError(SQLAlchemyError):
    """SQLite has no file to open."""


def _missing(scripts: ScriptDirectory, at: tuple[str, ...]) -> int | None:
    """Return how many migrations lie between; None if the code does not know where the database is."""
    try:
        return sum(1 for _ in scripts.iterate_revisions("heads", at or "base"))
    except RevisionError:
        return None
