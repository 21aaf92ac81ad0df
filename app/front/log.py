"""The log: one line for each request and for each event, in logfmt, which people can read and machines can parse.

    method=GET path=/ status=200 ms=3 request_id=5e1f… redis=1 sql=0 cache=hit

No query string, cookie, address or form is ever logged: a log is read by more people than the database is.
"""

import atexit
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import lru_cache

from app import costs

CACHE_RESULT = re.compile(r"\bfwd=(\w+)|\bhit\b")
PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # visible ASCII except " = and \\
# The end of a token signed by itsdangerous, as in the links of invitations and password resets: the rest is useless
# without it.
SIGNATURE = re.compile(r"(?:\.[\w-]{6})?\.[\w-]{27}", re.ASCII)
FLUSH_INTERVAL = 0.1  # s a line may wait
MOST_LINES = 20_000  # that may wait; with more, the reader of the log has stalled
MOST_REMEMBERED = 200  # characters of a value whose quoted form is remembered


def write_request(request: costs.RequestStats, method: str, path: str, status: int) -> None:
    """Write a request's line.

    The line is formatted at once: the garbage collector would scan unformatted records again and again, which costs
    more than formatting them.
    """
    output.put(
        f"method={method if method.isalpha() else _quoted(method)} path={_quoted(path)} status={status} "
        f"ms={(time.monotonic() - request.began) * 1000:.0f} request_id={request.id} redis={request.redis} "
        f"sql={request.sql} cache={_cache_result(request.cache_status)}"
    )


class Logfmt(logging.Formatter):
    """Formats a record as logfmt: `key=value`, quoted where it has to be; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        fields = {
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "in": record.name,
            "request_id": costs.current().id,
        }
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Output:
    """Standard output, flushed ten times a second by its own thread.

    A write to a pipe for each request costs a fifth of what a process can serve: it releases the GIL each time.
    Warnings and errors are written at once, by that thread too: a log that nobody reads must not stop the event loop.
    """

    def __init__(self) -> None:
        self.begin()
        os.register_at_fork(after_in_child=self.begin)  # a fork keeps no threads, and the lines are the parent's

    def begin(self) -> None:
        """Start with no lines and no thread."""
        self._lines: deque[str] = deque()
        self._lock = threading.Lock()
        self._soon = threading.Event()
        self._dropped = 0
        self._has_thread = False

    def put(self, line: str, *, at_once: bool = False) -> None:
        """Queue a line to be written; if too many are waiting, drop and count it."""
        if len(self._lines) < MOST_LINES:
            self._lines.append(line)
        else:
            self._dropped += 1
        if not self._has_thread:
            self._start()
        if at_once:
            self._soon.set()

    def flush(self) -> None:
        """Write all waiting lines, now. Never raises: on a full disk or a closed pipe they are lost, and counted."""
        with self._lock:
            waiting = [self._lines.popleft() for _ in range(len(self._lines))]
            lost, dropped = len(waiting), self._dropped
            if dropped:
                waiting.append(f'level=warning event="{dropped} lines of the log were dropped" in={__name__}')
            if not waiting:
                return
            try:
                sys.stdout.write("\n".join(waiting) + "\n")
                sys.stdout.flush()
            except (OSError, ValueError):
                self._dropped += lost
            else:
                self._dropped -= dropped

    def _start(self) -> None:
        with self._lock:
            if not self._has_thread:
                with suppress(RuntimeError):  # no thread to be had: the next line tries again
                    threading.Thread(target=self._flush_often, name="log", daemon=True).start()
                    self._has_thread = True

    def _flush_often(self) -> None:
        while True:
            self._soon.wait(FLUSH_INTERVAL)
            self._soon.clear()
            self.flush()


class OutputHandler(logging.Handler):
    """Sends log records to the output, in order with the request lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's line."""
        output.put(self.format(record), at_once=record.levelno > logging.INFO)


output = Output()
atexit.register(output.flush)


def init_log() -> None:
    """Send Pipit's log to standard output, where Heroku and honcho expect it."""
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, OutputHandler) for handler in logger.handlers):
        handler = OutputHandler()
        handler.setFormatter(Logfmt())
        logger.addHandler(handler)


@lru_cache(maxsize=1_000)  # it changes once a second
def _cache_result(cache_status: str) -> str:
    """Return a Cache-Status in one word: hit, miss, bypass or request; "-" if the page is not cached."""
    found = CACHE_RESULT.search(cache_status)
    return (found[1] or "hit") if found else "-"


def _quoted(value: str) -> str:
    """Return a value in logfmt: as it is if plain, else in quotes, with invisible characters escaped."""
    return _quote_once(value) if len(value) <= MOST_REMEMBERED else _quote(value)


def _quote(value: str) -> str:
    value = SIGNATURE.sub("(signature)", value)
    if PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    visible = "".join(char if char.isprintable() else repr(char)[1:-1] for char in escaped)
    return f'"{visible}"'


_quote_once = lru_cache(maxsize=1_000)(_quote)
