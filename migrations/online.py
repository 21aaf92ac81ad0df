"""What a migration does to a table with a million rows while the old version goes on writing to it.

PostgreSQL keeps a table locked until the transaction ends. So each of these functions ends the transaction with its
change. If the release is killed after one of them, the next release starts the migration again, and the function finds
what is there. On SQLite the whole migration is one transaction.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

PATIENCE = 120  # s to wait for another release, or for tables that are in use
LOCK_TIMEOUT = 0.3  # s a statement may wait for a table; whoever comes after it waits as well
PAUSE = 0.5  # s in which everyone who waited gets a turn


def add_columns(table: str, *columns: sa.Column[Any]) -> None:
    """Add columns, and then let the table go. Columns that are already there stay."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    for column in columns:
        if column.name not in there:
            op.add_column(table, column)
    if _is_postgresql():
        with op.get_context().autocommit_block():
            pass  # Alembic commits before it enters the block


def create_index(name: str, table: str, columns: list[str], *, unique: bool = False) -> None:
    """Create an index without stopping writes to the table. SQLite does stop them: half a second for a million rows."""
    if not _is_postgresql():
        op.create_index(name, table, columns, unique=unique)
        return
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # a release that was killed leaves it unfinished
        op.create_index(name, table, columns, unique=unique, postgresql_concurrently=True)


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"
