"""The log: one line a request and one an event, in logfmt, which people read and machines parse.

    method=GET path=/ status=200 ms=3 request_id=5e1f… redis=1 sql=0 cache=hit

No query string, cookie, address or form is ever logged: a log is read by more people than the database is.
"""

import atexit
import logging
import os
import random
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from app import costs
from app.front.answers import CACHE_STATUS
from app.front.early import NotEarlyError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REQUEST_ID = "pipit.request_id"  # in the WSGI environment
LINE = "pipit.line"  # likewise: what there is already of the line, if an early answer was asked for in vain
ACCEPTED_ID = re.compile(r"[A-Za-z0-9+/=-]{1,200}")  # what a router may give; Heroku's takes it from its visitor
CACHE_RESULT = re.compile(r"\bfwd=(\w+)|\bhit\b")
PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # visible ASCII but for " = and \\
FLUSH_INTERVAL = 0.1  # s a line may wait


class RequestLog:
    """The WSGI layer around all that answers: gives each request an id, and writes its line when its answer is out."""

    def __init__(self, application: "WSGIApplication", *, believe_id: bool) -> None:
        self.application = application
        self.believe_id = believe_id

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer as the application does, with X-Request-ID added."""
        line: Line | None = environ.pop(LINE, None)
        if line is None:
            line = Line(environ.get("HTTP_X_REQUEST_ID") if self.believe_id else None)
        costs.this_thread.costs = line
        line.attach(environ, start_response)
        try:
            body = self.application(environ, line.start_response)
        except NotEarlyError:
            environ[LINE] = line
            raise
        except Exception:
            line.write()
            raise
        if type(body) is list:  # complete, as from the cache: there is nothing to wait for
            line.write()
            return body
        return ClosingIterator(body, line.write)


class Line(costs.Costs):
    """One request's line, from its first moment to its last.

    given_id: the router's, if there is a router.
    """

    __slots__ = ("_began", "_environ", "_start_response", "_status")

    def __init__(self, given_id: str | None) -> None:
        self._began = time.monotonic()
        self._status = "500"  # what an exception that nobody caught becomes
        self.redis = self.sql = 0
        # Our own is no secret, so it needs no entropy from the system, which would let go of the interpreter's lock.
        kept = given_id if given_id and ACCEPTED_ID.fullmatch(given_id) else None
        self.request_id = kept or f"{random.getrandbits(128):032x}"

    def attach(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> None:
        """Make it this request's line; called again when the whole request follows one that was asked early."""
        self._environ = environ
        self._start_response = start_response
        environ[REQUEST_ID] = self.request_id

    def start_response(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        """Start the response as the server does, and note its status."""
        self._status = status
        return self._start_response(status, [*headers, ("X-Request-ID", self.request_id)], *exc_info)

    def write(self) -> None:
        """Write the line.

        A string, and at once: objects kept for later are what Python's garbage collector goes through again and again,
        and cost each request more than putting the line together does.
        """
        environ = self._environ
        output.put(
            f"method={_quoted(environ['REQUEST_METHOD'])} path={_quoted(environ.get('PATH_INFO', ''))} "
            f"status={self._status[:3]} ms={(time.monotonic() - self._began) * 1000:.0f} "
            f"request_id={self.request_id} redis={self.redis} sql={self.sql} "
            f"cache={_cache_result(environ.get(CACHE_STATUS))}"
        )


class Logfmt(logging.Formatter):
    """Formats a record as logfmt: `key=value`, quoted where it has to be; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        fields = {
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "in": record.name,
            "request_id": costs.current().request_id,
        }
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Output:
    """Standard output, written to ten times a second by a thread of its own.

    A write to a pipe for each request costs a fifth of what gunicorn can serve: it hands the interpreter to another
    thread each time. Whatever is worse than information is written at once, and everything at the end of the process.
    """

    def __init__(self) -> None:
        self.begin()
        os.register_at_fork(after_in_child=self.begin)  # threads don't survive it, and the lines are the parent's

    def begin(self) -> None:
        """Begin with no lines and no thread."""
        self._lines: deque[str] = deque()
        self._lock = threading.Lock()
        self._has_thread = False

    def put(self, line: str) -> None:
        """Write a line, soon."""
        self._lines.append(line)
        if not self._has_thread:
            self._start()

    def flush(self) -> None:
        """Write what there is, now."""
        with self._lock:
            waiting = [self._lines.popleft() for _ in range(len(self._lines))]
            if waiting:
                sys.stdout.write("\n".join(waiting) + "\n")
                sys.stdout.flush()

    def _start(self) -> None:
        with self._lock:
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._flush_often, name="log", daemon=True).start()

    def _flush_often(self) -> None:
        while True:
            time.sleep(FLUSH_INTERVAL)
            self.flush()


class OutputHandler(logging.Handler):
    """Brings what Pipit logs to the output, in its order among the requests."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line."""
        output.put(self.format(record))
        if record.levelno > logging.INFO:
            output.flush()


output = Output()
atexit.register(output.flush)


def init_request_log() -> None:
    """Send what Pipit logs to standard output, as Heroku and honcho want it."""
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, OutputHandler) for handler in logger.handlers):
        handler = OutputHandler()
        handler.setFormatter(Logfmt())
        logger.addHandler(handler)


@lru_cache(maxsize=1_000)  # a page's says the same for a second
def _cache_result(cache_status: str | None) -> str:
    """Return what a Cache-Status says in a word: hit, miss, bypass; "-" for what is not a cached page."""
    found = CACHE_RESULT.search(cache_status or "")
    return (found[1] or "hit") if found else "-"


@lru_cache(maxsize=1_000)
def _quoted(value: str) -> str:
    """Return a value as logfmt has it: plain ones as they are, others in quotes, with nothing invisible in them."""
    if PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    visible = "".join(char if char.isprintable() else repr(char)[1:-1] for char in escaped)
    return f'"{visible}"'
