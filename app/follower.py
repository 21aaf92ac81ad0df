"""Reads from a follower: a PostgreSQL server that repeats what the primary does, a little later (DATABASE_READ_URL).

Where a view says that a stale answer is harmless (app/web/stale.py), find() asks the follower which posts or people are
on a page; that is most of the work. What they look like, and whether they still exist, the primary says. So what was
deleted is gone at once, and an edit shows at once. Whatever else is read, written or cached, the follower has no part.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Flask, current_app
from sqlalchemy import Engine, Select
from sqlalchemy.exc import SQLAlchemyError

from app.extensions import FOLLOWER, db, sql_reason

log = logging.getLogger(__name__)

CATCH_UP = 10.0  # s; nobody reads the follower so soon after their own write
LEFT_ALONE = 5.0  # s after a failure, so that not every page waits for a follower that is down
ALLOWED = "may_be_stale"  # in Session.info


class Follower:
    """The follower, and whether it answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next_try = 0.0  # on the monotonic clock
        self._fails = False

    def rows(self, query: Select[Any], parameters: Mapping[str, object]) -> Sequence[Any] | None:
        """Return what a query finds; None if the follower can't be asked, or failed less than LEFT_ALONE ago."""
        if time.monotonic() < self._next_try:
            return None
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(query, parameters).all()
        except SQLAlchemyError as error:
            self._next_try = time.monotonic() + LEFT_ALONE
            if not self._fails:  # log once per outage
                log.warning("the follower can't be used (%s): reading from the primary", sql_reason(error))
            self._fails = True
            return None
        if self._fails:
            log.warning("the follower answers again")
            self._fails = False
        return rows


def init_follower(app: Flask) -> None:
    """Give the app its follower, or None."""
    with app.app_context():
        engine = db.engines.get(FOLLOWER)
    app.extensions["follower"] = Follower(engine) if engine is not None else None


def allow_stale_reads() -> None:
    """Let find() ask the follower, until the end of this request."""
    db.session().info[ALLOWED] = True


def may_be_stale() -> bool:
    """Return whether find() may ask the follower."""
    return current_app.extensions["follower"] is not None and ALLOWED in db.session().info


def find(query: Select[Any], parameters: Mapping[str, object]) -> Sequence[Any]:
    """Return what a query finds, which may be some seconds old if may_be_stale()."""
    follower: Follower | None = current_app.extensions["follower"]
    rows = follower.rows(query, parameters) if follower and may_be_stale() else None
    return db.session.execute(query, parameters).all() if rows is None else rows
