"""The Flask extensions, not yet bound to an app; create_app() binds them."""

import re
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_wtf.csrf import CSRFProtect
from sqlalchemy import Connection as SQLConnection
from sqlalchemy import DateTime, Dialect, MetaData, TypeDecorator, event, exists, false, select
from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase

from app import costs
from app.config import Config

CREDENTIALS = re.compile(r"(password\s*=\s*|://)[^\s@]+", re.IGNORECASE)
MISSING = re.compile(r"no such (?:table|column)|(?:relation|column) \S+ does not exist")  # SQLite, PostgreSQL
OUTAGES = (OperationalError, InterfaceError, DisconnectionError, PoolTimeoutError)
SEARCH_INDEX = "post_search"
FOLLOWER = "follower"  # the name of its engine
FOLLOWER_TIMEOUT = 2  # s to connect, or for its machine to take what it is sent; then the primary is asked
MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
SQLITE_CACHE = 200  # KiB for each thread's connection; the system caches the file anyway, once for all
SQL_TIMEOUT = 10  # s a statement may take or wait for a lock; the router gives up on a request after 30
BEGIN = f"BEGIN; SET LOCAL statement_timeout = '{SQL_TIMEOUT}s'; SET LOCAL lock_timeout = '{SQL_TIMEOUT}s'".encode()


class Base(DeclarativeBase):
    """What every model inherits. Constraints have names, so that a migration can name them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class UTCDateTime(TypeDecorator[datetime]):
    """A moment in time. SQLite drops the time zone, so every moment is stored as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


# Objects stay as they are after a commit: a view may show what it has just written without reading it again.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
csrf = CSRFProtect()


def init_extensions(app: Flask, config: Config) -> None:
    """Bind the extensions to the app."""
    app.config["SQLALCHEMY_DATABASE_URI"] = config.database_url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = _engine_options(config)
    if config.database_read_url:
        app.config["SQLALCHEMY_BINDS"] = {FOLLOWER: _follower_options(config)}
    db.init_app(app)
    if config.runs_commands:
        from flask_migrate import Migrate  # brings Alembic along, 11 MB that no web process needs

        Migrate(app, db, directory=str(MIGRATIONS), render_as_batch=True, include_object=is_compared)
    csrf.init_app(app)
    with app.app_context():
        for engine in db.engines.values():
            if engine.dialect.name == "sqlite":
                event.listen(engine, "connect", _prepare_sqlite)
            else:
                event.listen(engine, "begin", _begin_with_timeouts)
            event.listen(engine, "before_cursor_execute", _count)


def release_connection() -> None:
    """Give this thread's SQL connection to another one, before something that takes long; what was read stays loaded.

    While there is something to write, keep the connection: nothing is committed here.
    """
    session = db.session()
    if not (session.new or session.dirty or session.deleted):
        session.commit()


def sql_reason(error: Exception) -> str:
    """Return why the database could not be used: the first line of the driver's message, without passwords.

    Only later lines may quote what people wrote (PostgreSQL's DETAIL).
    """
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines() or [""]
    line = CREDENTIALS.sub(r"\1…", lines[0])
    for password in filter(None, (engine.url.password for engine in db.engines.values())):
        for secret in (quote(password, safe=""), quote(password), password):
            line = line.replace(secret, "…")
    return f"{type(cause).__name__}: {line[:200]}"


def has_tables() -> bool:
    """Return whether the database has every table and column that this code reads; it may have more.

    Raises SQLAlchemyError if it can't be asked.
    """
    try:
        tables = Base.metadata.sorted_tables
        db.session.execute(select(*(exists(select(table).where(false())) for table in tables)))
    except (ProgrammingError, OperationalError) as error:
        if not MISSING.search(str(error.orig)):
            raise
        return False
    return True


def sql_outage(error: Exception) -> str | None:
    """Return why the database can't be used, as the end of a sentence; None if the error has another cause, a bug."""
    if MISSING.search(str(getattr(error, "orig", ""))):
        return f"lacks a table or column: run `flask db upgrade` ({sql_reason(error)})"
    return f"can't be used ({sql_reason(error)})" if isinstance(error, OUTAGES) else None


def is_compared(_schema_item: object, name: str | None, *_kind: object) -> bool:
    """Return whether Alembic compares this with the models: not the search index, which no model can describe.

    On SQLite, FTS5 keeps it in tables whose names begin alike.
    """
    return not (name or "").startswith(SEARCH_INDEX)


def _engine_options(config: Config) -> dict[str, Any]:
    if config.database_url.startswith("sqlite"):
        # A transaction takes the lock for writing when it begins. Taken later, after a schema change, it is refused at
        # once if somebody else has it, whatever the timeout.
        return {"connect_args": {"timeout": SQL_TIMEOUT, "isolation_level": "IMMEDIATE"}, "hide_parameters": True}
    return {
        "pool_size": config.database_max_connections,  # threads wait for one; none needs a second while it has one
        "max_overflow": 0,
        "pool_pre_ping": True,
        "hide_parameters": True,  # an error's text, and so the log, must not quote what people wrote
        "pool_timeout": SQL_TIMEOUT,
        # PgBouncer, pooling transactions, gives each transaction another connection to the server: what was prepared on
        # one is missing on the next. It also refuses `options`, so the time-outs are set in each transaction.
        "connect_args": {"prepare_threshold": None, **_timeouts(SQL_TIMEOUT)},
    }


def _follower_options(config: Config) -> dict[str, Any]:
    options = _engine_options(config)
    connect = options["connect_args"] | _timeouts(FOLLOWER_TIMEOUT)
    return options | {"url": config.database_read_url, "connect_args": connect, "pool_timeout": FOLLOWER_TIMEOUT}


def _timeouts(seconds: int) -> dict[str, int]:
    """Return libpq's parameters that end a connection whose machine has vanished, after at most twice that time.

    tcp_user_timeout is for what is sent and not acknowledged; TCP's own limit is a quarter of an hour. While a
    statement runs, nothing is sent, so probes are; TCP's own begin after two hours.
    """
    alive = {"keepalives_idle": seconds, "keepalives_interval": seconds}
    return {"connect_timeout": seconds, "tcp_user_timeout": seconds * 1000, **alive}


def _begin_with_timeouts(connection: SQLConnection) -> None:
    """Begin a transaction and set its time-outs, in the one round trip that BEGIN takes anyway.

    psycopg then sends no BEGIN of its own. After an error, the next statement fails with it.
    """
    driver: Any = connection.connection.dbapi_connection
    if not driver.autocommit:
        driver.pgconn.exec_(BEGIN)


def _count(*_arguments: Any) -> None:
    costs.current().sql += 1


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA cache_size = -{SQLITE_CACHE}")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch the file to write-ahead logging (WAL), so that readers and a writer don't wait for each other.

    A file needs this once. If two processes switch it at the same moment, SQLite refuses one of them at once, whatever
    its timeout; that one tries again.
    """
    give_up = time.monotonic() + SQL_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return
