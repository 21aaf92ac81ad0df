"""What Alembic runs for `flask db ...`: all migrations in one transaction, and never two at a time.

Two releases may run at once (two pushes, a platform that starts several machines). The second waits for the first and
then finds nothing left to do. A migration that fails leaves the database as it was, and stops the release.
"""

from alembic import context
from flask import current_app
from sqlalchemy import Connection

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
            context.run_migrations()
        connection.commit()


def _take_lock(connection: Connection) -> None:
    """Wait until no other release is migrating; the lock ends with the transaction."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}s'")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{PATIENCE}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
    else:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {PATIENCE * 1000}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")


if context.is_offline_mode():
    raise SystemExit("Migrations run against a database; --sql is not supported.")
run_migrations()
