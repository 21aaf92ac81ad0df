"""The bridge to Flask: complete requests go to threads, and whole responses come back.

A thread never waits for a client. It gets a request only when the body is complete and of the right length, and hands
back a whole response; a long one in a temporary file. So a client that sends slowly, reads slowly or hangs up costs no
thread. No library does all of this: `a2wsgi` streams the body, and `asgiref` runs all requests on one thread.

Most bodies are kept in memory. A body of more than MAX_CONTENT_LENGTH is an upload: only a view that declares a larger
limit gets it (app/web/uploads.py), it comes with its length, and it goes to a temporary file while it is received.
"""

import asyncio
import contextvars
import io
import logging
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote_to_bytes

from app import costs
from app.front.responses import Response, plain_text

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)

MAX_CONTENT_LENGTH = 64 * 1024  # bytes of a body; a post of 280 family emoji is some 7,000
MOST_UPLOADS = 20  # at once in one process; each takes some 0.3 MB of memory, and a file
MOST_UPLOADS_EACH = 2  # of them by one member
MOST_WAITING = 500  # requests that wait for a thread; more could not be answered before the router gives up
RETRY_AFTER = b"5"  # s
IN_MEMORY = 1_000_000  # bytes; a longer answer goes to a temporary file

T = TypeVar("T")
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Visit:
    """A request, with what the front knows about it."""

    scope: Scope
    method: str
    headers: Mapping[bytes, bytes]  # names in lower case; the last value if a name is repeated
    scheme: str  # http or https, as the visitor came
    address: str  # the visitor's
    request: costs.RequestStats
    largest_body: int = MAX_CONTENT_LENGTH  # bytes that the view takes
    member: int = 0  # the id of whoever sends an upload; 0 if unknown

    @property
    def is_upload(self) -> bool:
        """Return whether the body is larger than most may be, and no larger than this view takes."""
        declared = self.headers.get(b"content-length", b"")
        return bool(declared) and MAX_CONTENT_LENGTH < int(declared) <= self.largest_body


class DisconnectedError(Exception):
    """The client disconnected or was too slow before its request was complete; `status` is for the log."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class Job:
    """Work for a thread."""

    work: Callable[[], Any]
    result: "asyncio.Future[Any]"
    request: costs.RequestStats  # what the work costs is counted there


class BusyError(Exception):
    """Too many requests wait for a thread."""


class Bridge:
    """Runs a WSGI application on `threads` threads of its own."""

    def __init__(self, application: "WSGIApplication", threads: int) -> None:
        self._application = application
        self._loop = asyncio.get_running_loop()
        self._most = threads + MOST_WAITING
        self._under_way = 0
        self._uploads = Counter[int]()  # that are received, or answered, by the member
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"flask-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def answer(self, visit: Visit, receive: Receive) -> Response:
        """Return the application's response. Raises DisconnectedError if the request never becomes complete."""
        if not visit.is_upload:
            return await self._answer(visit, *await _read(visit, receive))
        if visit.member and self._uploads[visit.member] >= MOST_UPLOADS_EACH:
            text = b"You're already uploading something. Try again when that's finished.\n"
            return plain_text(429, text, (b"retry-after", RETRY_AFTER))
        if self._uploads.total() >= MOST_UPLOADS:
            log.warning("%d uploads are under way already: 503", MOST_UPLOADS)
            text = b"Too many people are uploading something right now. Try again in a moment.\n"
            return plain_text(503, text, (b"retry-after", RETRY_AFTER))
        self._uploads[visit.member] += 1
        try:
            with TemporaryFile() as file:
                return await self._answer(visit, file, await _receive_into(file, receive))
        finally:
            self._uploads -= Counter([visit.member])  # which forgets whoever has none left

    async def answer_without_body(self, visit: Visit) -> Response:
        """Return the application's response to a request whose body nobody will read, as if it had none."""
        return await self._answer(visit, io.BytesIO(), 0)

    async def _answer(self, visit: Visit, body: IO[bytes], length: int) -> Response:
        try:
            return await self.run(partial(self._respond, _environ(visit, body, length)), visit.request)
        except BusyError:
            log.error("%d requests wait for a thread already: 503", MOST_WAITING)  # noqa: TRY400  # nobody's bug
            text = b"Pipit is very busy right now. Try again in a few seconds.\n"
            return plain_text(503, text, (b"retry-after", RETRY_AFTER))

    async def run(self, work: Callable[[], T], request: costs.RequestStats) -> T:
        """Call `work` for a request on one of the threads; return or raise what it does. Raises BusyError."""
        if self._under_way >= self._most:
            raise BusyError
        result: asyncio.Future[T] = self._loop.create_future()
        self._under_way += 1  # until the thread is done, even if the waiting task is cancelled
        self._jobs.put(Job(work, result, request))
        return await result

    def close(self) -> None:
        """End the threads after the queued requests."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            costs.this_thread.request = job.request
            result: Any = None
            error: BaseException | None = None
            try:
                result = contextvars.Context().run(job.work)
            except BaseException as raised:  # noqa: BLE001  # the waiting task gets it; a sys.exit() must not end the thread
                error = raised
            self._loop.call_soon_threadsafe(self._done, job.result, result, error)
            del job, result, error  # or this thread would keep them alive until its next request

    def _respond(self, environ: dict[str, Any]) -> Response:
        try:
            return _collected(self._application, environ)
        except BaseException:  # Flask answers its own errors
            log.exception("a request failed outside of Flask")
            return plain_text(500, b"Something went wrong.\n")

    def _done(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self._under_way -= 1
        if future.done():  # the waiting task may have been cancelled
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


async def _read(visit: Visit, receive: Receive) -> tuple[IO[bytes], int]:
    """Return a request's whole body and its length. If it is too large, return no body and the declared length.

    Raises DisconnectedError.
    """
    declared = visit.headers.get(b"content-length", b"")
    if declared and int(declared) > MAX_CONTENT_LENGTH:  # the protocol has checked that it is a number
        return io.BytesIO(), int(declared)
    if not declared and b"transfer-encoding" not in visit.headers:
        return io.BytesIO(), 0
    parts: list[bytes] = []
    size = 0
    while True:
        message = await _next(receive)
        parts.append(message["body"])
        size += len(message["body"])
        if size > MAX_CONTENT_LENGTH:
            return io.BytesIO(), size
        if not message["more_body"]:
            return io.BytesIO(b"".join(parts)), size


async def _receive_into(file: IO[bytes], receive: Receive) -> int:
    """Write an upload to a file, and return its length. Raises DisconnectedError."""
    more = True
    while more:
        message = await _next(receive)
        file.write(message["body"])  # into the system's cache, which takes microseconds
        more = message["more_body"]
    length = file.tell()
    file.seek(0)
    return length


async def _next(receive: Receive) -> Any:
    """Return the next message with a part of the body. Raises DisconnectedError."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise DisconnectedError(message.get("status", 499))
    return message


def _environ(visit: Visit, body: IO[bytes], length: int) -> dict[str, Any]:
    """Return the WSGI environment (PEP 3333)."""
    scope = visit.scope
    server = scope["server"] or ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": visit.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": str(server[0]),
        "SERVER_PORT": str(server[1]),
        "REMOTE_ADDR": visit.address,
        "CONTENT_LENGTH": str(length),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": visit.scheme,
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        costs.ENVIRON_KEY: visit.request,
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        if key in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            continue
        if key != "CONTENT_TYPE":
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text
    if "HTTP_HOST" in environ:
        environ["HTTP_HOST"] = environ["HTTP_HOST"].lower()  # host names are case-insensitive
    return environ


def _collected(application: "WSGIApplication", environ: dict[str, Any]) -> Response:
    """Run the application, and return its whole response."""
    response = Response(500, [], b"")

    def start_response(status: str, headers: list[tuple[str, str]], *_exc_info: Any) -> Callable[[bytes], object]:
        response.status = int(status[:3])
        response.headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return written.append

    written: list[bytes] = []
    content = application(environ, start_response)
    try:
        response.body, length = _whole(written, content)
    finally:
        if hasattr(content, "close"):
            content.close()
    has_body = environ["REQUEST_METHOD"] != "HEAD" and response.status not in (204, 304)
    if has_body and not any(name == b"content-length" for name, _ in response.headers):
        response.headers.append((b"content-length", b"%d" % length))  # so that the client knows where the body ends
    return response


def _whole(written: list[bytes], content: Iterable[bytes]) -> tuple[bytes | IO[bytes], int]:
    """Return a body, as a file if it is long, and its length."""
    size = 0
    parts = iter(content)
    for part in parts:
        written.append(part)
        size += len(part)
        if size > IN_MEMORY:
            break
    else:
        body = b"".join(written)
        return body, len(body)
    spool = TemporaryFile()  # noqa: SIM115  # closed when it has been sent
    spool.writelines(written)
    spool.writelines(parts)
    length = spool.tell()
    spool.seek(0)
    return spool, length
