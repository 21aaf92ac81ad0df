"""What Alembic runs for `flask db ...`: all migrations in one transaction, and never two at a time.

Two releases may run at once (two pushes, a platform that starts several machines). The second waits for the first and
then finds nothing left to do. A migration that fails leaves the database as it was, and stops the release.
"""

from alembic import context
from alembic.migration import MigrationContext
from flask import current_app
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from app.extensions import sql_reason

LOCK = 0x70697069  # "pipi": the number of our advisory lock in PostgreSQL
PATIENCE = 120  # s to wait for another release

extension = current_app.extensions["migrate"]


def run_migrations() -> None:
    """Run the migrations that `flask db` asked for."""
    with extension.db.engine.connect() as connection:
        _take_lock(connection)
        context.configure(
            connection=connection,
            target_metadata=extension.db.metadata,
            transactional_ddl=True,
            **extension.configure_args,
        )
        with context.begin_transaction():
            _run_known(connection)
        connection.commit()
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")


def _run_known(connection: Connection) -> None:
    """Run what is to be run. A database that is newer than this code is left as it is: that is a rollback."""
    version = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in context.script.walk_revisions()}
    if version is not None and version not in known:
        print(f"The database is at {version}, which is newer than this version of Pipit.")
        return
    context.run_migrations()


def _take_lock(connection: Connection) -> None:
    """Wait until no other release is migrating; the lock ends with the transaction."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}s'")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{PATIENCE}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # an index may take as long as it takes
    else:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {PATIENCE * 1000}")
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")  # rebuilding a table must not delete what refers to it
        connection.exec_driver_sql("BEGIN IMMEDIATE")


if context.is_offline_mode():
    raise SystemExit("Migrations run against a database; --sql is not supported.")
try:
    run_migrations()
except OperationalError as error:
    raise SystemExit(
        f"The database can't be migrated: {sql_reason(error)}. Is DATABASE_URL right, and does the server run?"
    ) from None
