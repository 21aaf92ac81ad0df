"""What `flask doctor` knows: replies of Redis and of the database, and the settings.

Nothing is changed, except that Redis gets a key that expires within a minute.
"""

import time
import timeit
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.config import Config
from app.extensions import FOLLOWER, db, sql_reason
from app.mail import MailError, current_mailer
from app.models.mail import Mail
from app.redis_client import Store, StoreUnavailableError, current_store

TRIES = 5  # round trips; one slow reply does not move their median

# The server limits connections, and so may the database or the role: Heroku's plans limit the role.
CONNECTIONS = """
SELECT least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
             nullif(datconnlimit, -1), nullif(rolconnlimit, -1)),
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())
  FROM pg_database, pg_roles WHERE datname = current_database() AND rolname = current_user
"""


FOLLOWER_LAG = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE coalesce(extract(epoch FROM now() - pg_last_xact_replay_timestamp()), 0) END
"""


@dataclass(frozen=True)
class Facts:
    """The settings, and what Redis and the database tell. A fact that could not be had is missing."""

    config: Config
    redis: Mapping[str, Any]  # what redis_facts() returns
    database: Mapping[str, Any]  # what database_facts() returns
    mail: Mapping[str, Any] = field(default_factory=dict)  # what mail_facts() returns
    follower: Mapping[str, Any] = field(default_factory=dict)  # what follower_facts() returns

    @classmethod
    def gather(cls, config: Config) -> Self:
        """Ask Redis, the database and the mail server."""
        database = database_facts(config)
        mail = mail_facts(config, has_tables="moderators" in database)
        return cls(config, redis_facts(current_store()), database, mail, follower_facts(config))


def redis_facts(store: Store) -> dict[str, Any]:
    """Return the fields of INFO, `primary` (its place), `seconds` (a round trip) and `clock_lead` (s).

    Where it can't be used, also `error` and `advice`; one that is full gives an error and still answers INFO.
    """
    facts: dict[str, Any] = {}
    try:
        facts["seconds"] = median(timeit.repeat(store.check, number=1, repeat=TRIES))
    except StoreUnavailableError as error:
        trouble = store.trouble(error)
        facts["error"] = f"{error}; it {trouble.state}" if trouble else str(error)
        facts["advice"] = trouble.advice if trouble else None
    with suppress(StoreUnavailableError), store.commands() as redis:
        facts |= redis.info()
        facts["primary"] = "{}:{}".format(*store.primary.locate())
        facts["clock_lead"] = time.time() - facts["server_time_usec"] / 1e6
    return facts


def database_facts(config: Config) -> dict[str, Any]:
    """Return `server`, `seconds` (a round trip) and migrations; for PostgreSQL also `used` and `limit`; or `error`.

    If the tables fit the code, also how many `moderators` there are.
    """
    url = db.engine.url
    if url.get_backend_name() == "sqlite":
        if config.on_heroku:
            return {}  # that alone is the problem
        if not Path(url.database or "").exists():
            return {"error": "there is no such file yet"}  # connecting would make an empty one
    try:
        with db.engine.connect() as connection:
            scripts = ScriptDirectory.from_config(current_app.extensions["migrate"].migrate.get_config())
            dialect = db.engine.dialect
            name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[dialect.name]
            facts = {
                "server": f"{name} {'.'.join(map(str, dialect.server_version_info or ()))}",
                "at": set(MigrationContext.configure(connection).get_current_heads()),
                "head": set(scripts.get_heads()),
                "known": {script.revision for script in scripts.walk_revisions()},
                "seconds": median(timeit.repeat(lambda: connection.execute(text("SELECT 1")), number=1, repeat=TRIES)),
            }
            if facts["at"] == facts["head"]:
                facts["moderators"] = connection.execute(text("SELECT count(*) FROM moderators")).scalar()
            if dialect.name == "postgresql":
                facts["limit"], facts["used"] = connection.execute(text(CONNECTIONS)).one()
            return facts
    except SQLAlchemyError as error:
        return {"error": sql_reason(error)}


def follower_facts(config: Config) -> dict[str, Any]:
    """Return whether the follower `follows` a server, and its `lag` (s, at most); or `error`. Nothing without one."""
    if not config.database_read_url:
        return {}
    try:
        with db.engines[FOLLOWER].connect() as connection:
            follows, lag = connection.execute(text(FOLLOWER_LAG)).one()
            return {"follows": follows, "lag": float(lag)}
    except SQLAlchemyError as error:
        return {"error": sql_reason(error)}


def mail_facts(config: Config, *, has_tables: bool) -> dict[str, Any]:
    """Return `error`, which is None if the mail server lets Pipit in, and how many mails are `waiting` and `failed`.

    Without a mail server, `error` is missing; without tables that fit the code, the numbers are.
    """
    facts: dict[str, Any] = {}
    if config.smtp:
        facts["error"] = None
        try:
            current_mailer().check()
        except MailError as error:
            facts["error"] = str(error)
    if has_tables:
        facts["waiting"], facts["failed"], facts["since"] = Mail.counts()
    return facts
