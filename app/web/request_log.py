"""The log: one line a request and one an event, in logfmt, which people read and machines parse.

    method=GET path=/ status=200 ms=3 request_id=5e1f… redis=1 sql=0 cache=hit

No query string, cookie, address or form is ever logged: a log is read by more people than the database is.
"""

import logging
import re
import sys
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.wsgi import ClosingIterator

from app import costs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

REQUEST_ID = "pipit.request_id"  # in the WSGI environment
ACCEPTED_ID = re.compile(r"[A-Za-z0-9-]{1,100}")  # what of a router's id is fit for a log line
CACHE_RESULT = re.compile(r"\bfwd=(\w+)|\bhit\b")
PLAIN = re.compile(r"[!#-<>-\[\]-~]+")  # visible ASCII but for " = and \\
HANDLER = "pipit-logfmt"


class RequestLog:
    """The outermost WSGI layer: gives each request an id, and writes its line when its answer is out."""

    def __init__(self, application: "WSGIApplication", *, believe_id: bool) -> None:
        self.application = application
        self.believe_id = believe_id

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer as the application does, with X-Request-ID added."""
        began = time.monotonic()
        request_id = environ[REQUEST_ID] = self._request_id(environ)
        cost = costs.begin(request_id)
        answer = {"status": "500", "cache": "-"}

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            answer["status"] = status[:3]
            answer["cache"] = _cache_result(headers)
            return start_response(status, [*headers, ("X-Request-ID", request_id)], *exc_info)

        def write_line() -> None:
            log.info(
                f"method={_quoted(environ['REQUEST_METHOD'])} path={_quoted(environ.get('PATH_INFO', ''))} "  # noqa: G004
                f"status={answer['status']} ms={(time.monotonic() - began) * 1000:.0f} request_id={request_id} "
                f"redis={cost.redis} sql={cost.sql} cache={answer['cache']}"
            )

        return ClosingIterator(self.application(environ, start), write_line)

    def _request_id(self, environ: "WSGIEnvironment") -> str:
        """Return the router's id if there is a router, else a new one."""
        given = environ.get("HTTP_X_REQUEST_ID", "") if self.believe_id else ""
        return given if ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex


class Logfmt(logging.Formatter):
    """Formats a record as logfmt: `key=value`, quoted where it has to be; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        if record.name == __name__:  # a request's line, complete already
            return str(record.msg)
        fields = {
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "in": record.name,
            "request_id": costs.current().request_id,
        }
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def init_request_log() -> None:
    """Send what Pipit logs to standard output, as Heroku and honcho want it."""
    logger = logging.getLogger("app")
    logger.setLevel(logging.INFO)
    if not any(handler.name == HANDLER for handler in logger.handlers):
        handler = logging.StreamHandler(sys.stdout)
        handler.name = HANDLER
        handler.setFormatter(Logfmt())
        logger.addHandler(handler)


def _cache_result(headers: list[tuple[str, str]]) -> str:
    """Return what Cache-Status says in a word: hit, miss, bypass; "-" for what is not a cached page."""
    for name, value in headers:
        if name.lower() == "cache-status":
            found = CACHE_RESULT.search(value)
            return (found[1] or "hit") if found else "-"
    return "-"


def _quoted(value: str) -> str:
    """Return a value as logfmt has it: plain ones as they are, others in quotes, with nothing invisible in them."""
    if PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    visible = "".join(char if char.isprintable() else repr(char)[1:-1] for char in escaped)
    return f'"{visible}"'
