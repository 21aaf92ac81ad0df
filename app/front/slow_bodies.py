"""A form that trickles in must not keep a thread: ten of them, a byte a second each, would stop the whole site.

gunicorn's threads wait for a body for as long as it takes. Here it is read before the application begins, within
PATIENCE and not beyond LARGEST_REQUEST; who takes longer gets a 408, and the thread is free again.
"""

import io
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.exceptions import RequestTimeout

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LARGEST_REQUEST = 64 * 1024  # bytes; a post of 280 family emoji is some 7,000
PATIENCE = 10.0  # s for a whole body: at the slowest of mobile networks 64 kB take 8
CHUNK = 8 * 1024  # bytes


class Socket(Protocol):
    """What is asked of the connection that gunicorn passes on."""

    def gettimeout(self) -> float | None:
        """Return the time-out (s)."""

    def settimeout(self, seconds: float | None, /) -> None:
        """Set it."""


class SlowBodies:
    """Reads bodies within a deadline, for the application inside."""

    def __init__(self, application: "WSGIApplication") -> None:
        self.application = application

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer as the application does, or with a 408."""
        socket: Socket | None = environ.get("gunicorn.socket")
        if socket is not None and _has_body(environ):
            try:
                environ["wsgi.input"] = io.BytesIO(_read(environ["wsgi.input"], socket))
            except TimeoutError:
                return RequestTimeout()(environ, start_response)
        return self.application(environ, start_response)


def _has_body(environ: "WSGIEnvironment") -> bool:
    """Return whether there is a body that the application would read; one that is too large is refused unread."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return True
    length = environ.get("CONTENT_LENGTH") or "0"
    return length.isdigit() and 0 < int(length) <= LARGEST_REQUEST


def _read(body: Any, socket: Socket) -> bytes:
    """Return the body, up to one byte more than is allowed. Raises TimeoutError if it takes longer than PATIENCE."""
    end = time.monotonic() + PATIENCE
    before = socket.gettimeout()
    parts: list[bytes] = []
    size = 0
    try:
        while size <= LARGEST_REQUEST:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            socket.settimeout(left)
            part = body.read(min(CHUNK, LARGEST_REQUEST + 1 - size))
            if not part:
                break
            parts.append(part)
            size += len(part)
    finally:
        socket.settimeout(before)
    return b"".join(parts)
