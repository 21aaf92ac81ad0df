"""What Alembic runs for `flask db ...`: each migration in a transaction of its own, while the old version serves.

Never two releases at a time: two may start at once (two pushes, a platform that starts several machines). The second
waits for the first and then finds nothing left to do.

No write of the site waits long for a migration. PostgreSQL queues everyone behind a statement that waits for a table,
so that statement gives up after LOCK_TIMEOUT, and the migration is tried again after PAUSE. SQLite runs one write at a
time, and each migration is one. online.py has what a migration needs to change a large table.

A migration that fails stops the release, and the migrations before it stay. On SQLite it leaves nothing of itself. On
PostgreSQL it may leave columns or an index that no version reads yet. Running the release again continues from there.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from alembic import context
from alembic.migration import MigrationContext
from alembic.runtime.migration import RevisionStep
from flask import current_app
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from app.extensions import sql_reason
from migrations.online import LOCK_TIMEOUT, PATIENCE, PAUSE

LOCK = 0x70697069  # "pipi": the number of our advisory lock in PostgreSQL
BUSY = {"55P03", "40P01"}  # PostgreSQL's lock_not_available and deadlock_detected

extension = current_app.extensions["migrate"]


class Remaining:
    """The migrations that `flask db` asked for, less those that are done.

    Alembic asks at each try. To ask `find` again would be wrong: `downgrade -1` would go down once more.
    """

    def __init__(self, find: Callable[..., list[RevisionStep]]) -> None:
        self.find = find
        self.steps: list[RevisionStep] | None = None

    def __call__(self, heads: tuple[str, ...], migration: MigrationContext) -> Iterator[RevisionStep]:
        if self.steps is None:
            self.steps = list(self.find(heads, migration))
        while self.steps:
            begun = time.monotonic()
            yield self.steps[0]
            del self.steps[0]  # it is committed when Alembic asks for the next
            time.sleep(min(time.monotonic() - begun, PAUSE))  # SQLite has no queue: who waits must find a gap


def run_migrations() -> None:
    """Run the migrations that `flask db` asked for."""
    engine = extension.db.engine
    with _only_release(engine), _connect(engine) as connection:
        context.configure(connection=connection)
        asked = context.get_context()
        version = asked.get_current_revision()
        connection.rollback()
        if version is not None and version not in {script.revision for script in context.script.walk_revisions()}:
            print(f"The database is at {version}, which is newer than this version of Pipit.")  # after a rollback
            return
        context.configure(
            connection=connection,
            target_metadata=extension.db.metadata,
            transactional_ddl=True,
            transaction_per_migration=True,
            fn=Remaining(asked.opts["fn"]),
            **extension.configure_args,
        )
        _run_patiently(connection)


def _run_patiently(connection: Connection) -> None:
    """Run the migrations; try one again whose table is in use."""
    waited = 0.0
    while True:
        try:
            with context.begin_transaction():
                context.run_migrations()
            connection.commit()
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in BUSY:
                raise
            waited += LOCK_TIMEOUT + PAUSE
            if waited > PATIENCE:
                raise SystemExit(
                    f"The database can't be migrated: a table was in use for {PATIENCE} s. pg_stat_activity shows which"
                    " transaction has been open for so long. Run this again when it has ended."
                ) from None
        else:
            return
        connection.rollback()
        time.sleep(PAUSE)


@contextmanager
def _only_release(engine: Engine) -> Iterator[None]:
    """Wait until no other release is migrating, and make others wait until the end of the block."""
    if engine.dialect.name == "sqlite":
        # A lock on the database itself would end with each migration. This file stays, and stays empty.
        with closing(sqlite3.connect(f"{engine.url.database}-release", timeout=PATIENCE, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            yield
        return
    # Bound to a transaction, not to a session: PgBouncer may give the next transaction another session.
    with engine.connect() as connection:
        connection.detach()  # the pool may hold no more than one
        give_up = time.monotonic() + PATIENCE
        # A statement that waited for the lock would hold a snapshot, for which CREATE INDEX CONCURRENTLY waits.
        while not connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({LOCK})").scalar():
            if time.monotonic() > give_up:
                raise SystemExit(f"Another release has been migrating the database for more than {PATIENCE} s.")
            connection.rollback()  # or those who wait would use up PgBouncer's connections
            time.sleep(0.1)
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield


@contextmanager
def _connect(engine: Engine) -> Iterator[Connection]:
    """Give a connection whose transactions begin with what a migration needs."""

    def begin(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        if connection.dialect.name == "sqlite":
            driver.execute("BEGIN IMMEDIATE")
        elif not driver.autocommit:
            driver.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'; SET LOCAL statement_timeout = 0")

    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            driver: Any = connection.connection.dbapi_connection
            driver.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000}")
            driver.execute("PRAGMA foreign_keys = OFF")  # rebuilding a table must not delete what refers to it
        event.listen(engine, "begin", begin)  # after the application's own listener, whose time-outs are others
        try:
            yield connection
        finally:
            event.remove(engine, "begin", begin)
            connection.invalidate()  # its settings are not for the pool's next user


if context.is_offline_mode():
    raise SystemExit("Migrations run against a database; --sql is not supported.")
try:
    run_migrations()
except (OperationalError, sqlite3.OperationalError) as error:
    raise SystemExit(
        f"The database can't be migrated: {sql_reason(error)}. Is DATABASE_URL right, and does the server run?"
    ) from None
