"""Counting what a request costs: commands at the Redis server, statements at the database."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from redis import Redis
from sqlalchemy import event

from app.extensions import db

CONNECTIONS_OWN = re.compile(r"CLIENT|SELECT|HELLO|AUTH|PING|INFO default|[GS]ET \S*front:")


@contextmanager
def commands_sent(redis: Redis) -> Iterator[list[str]]:
    """Collect the commands that reach the server meanwhile; a script counts as one.

    What a connection says of itself does not count, nor how the front proves that it hears of changes.
    """
    sent: list[str] = []
    with redis.monitor() as monitor:
        yield sent
        redis.echo("the end of this")
        for entry in monitor.listen():
            command = str(entry["command"])
            if command.startswith("ECHO"):
                break
            if entry["client_type"] != "lua" and not CONNECTIONS_OWN.match(command):
                sent.append(command)


@contextmanager
def statements_run(app: Flask) -> Iterator[list[str]]:
    """Collect the SQL statements that the app runs meanwhile."""
    run: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        run.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield run
    finally:
        event.remove(engine, "before_cursor_execute", note)
