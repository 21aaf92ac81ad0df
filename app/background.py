"""Background work: what is stored in SQL to be done after the answer, such as a mail to be sent.

One thread in each web process does it, so there is nothing to start besides. The thread is woken right after the commit
that stored work, and looks by itself every POLL seconds for what another process has left, as after a crash. A piece of
work is claimed in SQL before it is done, so it does not matter how many threads look.

    worker   string, empty   a worker process is alive; expires unless the worker renews it

`flask worker` does the same in a process of its own. While Redis has its key, the web processes leave the work to it.
While Redis is away, all of them work.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from flask import Flask, current_app, has_request_context
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.extensions import db, sql_reason
from app.redis_client import Store, StoreUnavailableError

log = logging.getLogger(__name__)

POLL = 15.0  # s; a look takes one command and one statement for each kind of work; daily counts take a few commands
WORKER_POLL = 2.0  # s; no commit wakes the worker, which is another process
WORKER_LIFETIME = 30  # s the worker's key lives; it is renewed before each piece of work and each look
STOP_PATIENCE = 4.0  # s to finish a piece of work; with uvicorn's 20 for requests, that is within gunicorn's 25
WAKES = "wakes_background"  # in Session.info: the transaction has stored work

Work = Callable[[], bool]


class Background:
    """Does the work that is registered, one piece after the other."""

    def __init__(self, app: Flask, store: Store) -> None:
        self._app = app
        self._store = store
        self._kinds: list[Work] = []
        self._afterwards: list[Callable[[], object]] = []
        self._failing: set[Work] = set()
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def register(self, work: Work) -> None:
        """Add a kind of work: a function that does one piece, in an app context, and returns whether there was one.

        The function must claim the piece in SQL, and hold no connection to SQL while it waits for anything else.
        """
        self._kinds.append(work)

    def after_each_look(self, do: Callable[[], object]) -> None:
        """Have the thread of each web process call this after each look for work, and before it ends.

        It must be quick, and never raise.
        """
        self._afterwards.append(do)

    def start(self) -> None:
        """Start the thread, unless it runs. After a fork, the new process has none yet."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="background", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Begin no other piece of work, and wait for the current one, but at most STOP_PATIENCE."""
        self._stopping.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join(STOP_PATIENCE)

    def wake(self) -> None:
        """Look for work now. Where no front has started the thread, the first request that wakes it does.

        A command does not start it: the command's end would break off what the thread does.
        """
        self._awake.set()
        if has_request_context():
            self.start()

    def work_off(self, before_each: Callable[[], object] = lambda: None) -> None:
        """Work until nothing is left that can be done now; one piece of each kind in turn, so that none waits long."""
        found = True
        while found and not self._stopping.is_set():
            found = sum(self._work_once(work, before_each) for work in self._kinds) > 0

    def run_worker(self) -> None:
        """Work in this thread until stop() is called, and have the web processes leave the work to this process."""
        while not self._stopping.is_set():
            self._announce_worker()
            self.work_off(self._announce_worker)
            self._wait(WORKER_POLL)
        with suppress(StoreUnavailableError), self._store.commands() as redis:
            redis.delete(self._store.key("worker"))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wait(POLL)
            if not self._has_worker():
                self.work_off()
            self._end_look()
        self._end_look()  # stop() may have come just after the last one

    def _end_look(self) -> None:
        for do in self._afterwards:
            do()

    def _wait(self, seconds: float) -> None:
        self._awake.wait(seconds)
        self._awake.clear()

    def _work_once(self, work: Work, before: Callable[[], object]) -> bool:
        before()
        with self._app.app_context():
            try:
                found = work()
            except Exception as error:  # the thread must live on
                if work not in self._failing:  # log once per outage
                    self._failing.add(work)
                    if isinstance(error, SQLAlchemyError):
                        log.error("background work waits: the database can't be used (%s)", sql_reason(error))  # noqa: TRY400
                    else:
                        log.exception("background work failed, and is tried again")
                return False
        self._failing.discard(work)
        return found

    def _announce_worker(self) -> None:
        with suppress(StoreUnavailableError), self._store.commands() as redis:
            redis.set(self._store.key("worker"), "", ex=WORKER_LIFETIME)

    def _has_worker(self) -> bool:
        try:
            with self._store.commands() as redis:
                return bool(redis.exists(self._store.key("worker")))
        except StoreUnavailableError:
            return False


def wake_after_commit() -> None:
    """Have the background look for work once the current transaction is committed."""
    db.session().info[WAKES] = True


@event.listens_for(db.session, "after_commit")
def _wake(session: Session) -> None:
    if session.info.pop(WAKES, False):
        current_background().wake()


def init_background(app: Flask, store: Store) -> None:
    """Give the app its background work."""
    app.extensions["background"] = Background(app, store)


def current_background() -> Background:
    """Return the background work of the current app."""
    background: Background = current_app.extensions["background"]
    return background
