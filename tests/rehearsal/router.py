"""The router in front of the dynos, as far as an application can tell: what it adds, reuses, retries and gives up on.

Rules from the platform's documentation ("HTTP Routing", Router 2.0). TLS is a header here: one port says that visitors
came with it, the other that they did not. It streams bodies and buffers none, as the real one does with a slow visitor.
"""

import asyncio
import re
import threading
import time
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

CLIENT_IDLE = 90  # s a visitor's connection is kept without a request, and one to a dyno
FIRST_BYTE = 30  # s a dyno has for the first byte of its answer, from the last byte of the request: then H12
BETWEEN_BYTES = 55  # s without a byte from either side, later on
CONNECT = 5  # s for a connection to a dyno
LARGEST_HEAD = 64 * 1024  # bytes
REQUEST_ID = re.compile(r"[A-Za-z0-9+/=-]{20,200}")  # what of a visitor's own id is kept ("HTTP Request IDs")
IDEMPOTENT = ("GET", "HEAD", "OPTIONS")  # without a body, so that it can be sent a second time
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "upgrade"}
OURS = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-port", "x-request-id", "x-request-start", "via"}
VIA = "1.1 heroku-router"


class RouterError(Exception):
    """A request that gets the router's own 503; its text is the code that Heroku logs."""


class NoAnswerError(Exception):
    """The dyno closed the connection before the first byte of an answer."""


class VisitorGoneError(Exception):
    """The visitor hung up, or said nothing for BETWEEN_BYTES."""


@dataclass(frozen=True)
class Routed:
    """One line of the router's log."""

    request_id: str
    method: str
    path: str
    dyno: str  # "" if it reached none
    status: int
    code: str  # H12 and the like; "" if all went well
    seconds: float


@dataclass(eq=False)
class Connection:
    """A connection to a dyno."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since: float = field(default_factory=time.monotonic)  # when it was last used
    reused: bool = False


@dataclass(eq=False)
class Dyno:
    """A dyno that gets requests."""

    name: str
    port: int
    idle: list[Connection] = field(default_factory=list)
    leaving: bool = False


@dataclass
class Head:
    """The first line and the headers of a message, in their order."""

    start: str
    headers: list[tuple[str, str]]

    @classmethod
    def parse(cls, raw: bytes) -> "Head":
        start, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(start, [(name, value.strip()) for name, _, value in pairs])

    def get(self, name: str) -> str:
        return ", ".join(value for other, value in self.headers if other.lower() == name)

    def without(self, names: set[str]) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.headers if name.lower() not in names]

    def to_bytes(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def length(self) -> int | None:
        """Return the length of the body, None if it comes in chunks."""
        if "chunked" in self.get("transfer-encoding").lower():
            return None
        return int(self.get("content-length") or 0)


class Router:
    """Two ports, any number of dynos; a context manager that runs in a thread of its own."""

    def __init__(self) -> None:
        self.log: list[Routed] = []
        self.retried = 0  # requests that were sent a second time, after a dyno had closed an idle connection
        self.reused = 0  # requests that went over a connection that had carried one before
        self.ports: dict[str, int] = {}  # "https" and "http"
        self.active: dict[str, str] = {}  # by request id: the dyno that is at work on it
        self._dynos: list[Dyno] = []
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="router", daemon=True)

    def __enter__(self) -> "Router":
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONNECT)

    def route(self, name: str, port: int) -> None:
        """Send requests to a dyno too."""
        self._call(self._add(Dyno(name, port)))

    def unroute(self, name: str) -> None:
        """Send a dyno no new request; those that it is answering go on."""
        self._call(self._remove(name))

    # Listening

    async def _listen(self) -> None:
        self._servers = []
        for scheme in ("https", "http"):

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scheme: str = scheme) -> None:
                await self._serve(reader, writer, scheme)

            server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=LARGEST_HEAD)
            self.ports[scheme] = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, visitor: asyncio.StreamReader, writer: asyncio.StreamWriter, scheme: str) -> None:
        """Answer the requests of one connection, one after the other."""
        with suppress(ConnectionError, VisitorGoneError, asyncio.CancelledError):
            while True:
                try:
                    raw = await asyncio.wait_for(visitor.readuntil(b"\r\n\r\n"), CLIENT_IDLE)
                except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                    break
                if not await self._answer(Head.parse(raw), visitor, writer, scheme):
                    break
        writer.close()

    # One request

    async def _answer(
        self, request: Head, visitor: asyncio.StreamReader, writer: asyncio.StreamWriter, scheme: str
    ) -> bool:
        """Pass one request on and its answer back; return whether the visitor's connection can carry another."""
        began = time.monotonic()
        method, target, _ = request.start.split(" ", 2)
        address = writer.get_extra_info("peername")[0]
        asked = self._with_headers(request, address, scheme)
        status, code, keep = 503, "", False
        try:
            dyno, connection, sending, head = await self._exchange(method, asked, visitor)
            status, keep = await self._relay(method, head, dyno, connection, sending, writer)
        except RouterError as error:
            code = str(error)
            await self._refuse(code, writer)
        except VisitorGoneError:
            status, code = 499, "H27"
            raise
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            code = "H18"  # the answer broke off
        finally:
            path = target.partition("?")[0]
            seconds = time.monotonic() - began
            name = self.active.pop(asked.get("x-request-id"), "")
            self.log.append(Routed(asked.get("x-request-id"), method, path, name, status, code, seconds))
        return keep and request.get("connection").lower() != "close"

    @staticmethod
    def _with_headers(request: Head, address: str, scheme: str) -> Head:
        """Return the request as the dyno sees it."""
        forwarded = request.get("x-forwarded-for")
        given_id = request.get("x-request-id")
        headers = [
            ("X-Forwarded-For", f"{forwarded}, {address}" if forwarded else address),
            ("X-Forwarded-Proto", scheme),
            ("X-Forwarded-Port", "443" if scheme == "https" else "80"),
            ("X-Request-Id", given_id if REQUEST_ID.fullmatch(given_id) else str(uuid.uuid4())),
            ("X-Request-Start", str(int(time.time() * 1000))),
            ("Via", VIA),
            ("Connection", "keep-alive"),
        ]
        return Head(request.start, [*request.without(HOP_BY_HOP | OURS), *headers])

    async def _exchange(
        self, method: str, request: Head, visitor: asyncio.StreamReader
    ) -> tuple[Dyno, Connection, "asyncio.Task[None]", Head]:
        """Send a request to a dyno and wait for the head of its answer. Raises RouterError, VisitorGoneError."""
        while True:
            dyno, connection = await self._connect()
            self.active[request.get("x-request-id")] = dyno.name
            sending = asyncio.create_task(self._send(request, visitor, connection))
            try:
                return dyno, connection, sending, await self._head(connection, sending)
            except NoAnswerError:
                sending.cancel()
                if not connection.reused or method not in IDEMPOTENT or request.length != 0:
                    raise RouterError("H13") from None
                self.retried += 1  # it was idle, and the dyno had closed it: nothing has been answered yet
            except BaseException:
                sending.cancel()
                connection.writer.close()
                raise

    async def _connect(self) -> tuple[Dyno, Connection]:
        """Return the next dyno in turn, and a connection to it: one that is open already if there is one."""
        for _ in range(len(self._dynos)):
            self._turn += 1
            dyno = self._dynos[self._turn % len(self._dynos)]
            while dyno.idle:
                connection = dyno.idle.pop()
                if not connection.reader.at_eof() and time.monotonic() - connection.since < CLIENT_IDLE:
                    connection.reused = True
                    self.reused += 1
                    return dyno, connection
                connection.writer.close()
            with suppress(OSError, TimeoutError):
                opened = asyncio.open_connection("127.0.0.1", dyno.port, limit=LARGEST_HEAD)
                return dyno, Connection(*await asyncio.wait_for(opened, CONNECT))
        raise RouterError("H10" if self._dynos else "H14")

    @staticmethod
    async def _send(request: Head, visitor: asyncio.StreamReader, connection: Connection) -> None:
        """Send a request, its body as it comes. Raises VisitorGoneError; that the dyno has gone the answer tells."""
        with suppress(ConnectionError):
            connection.writer.write(request.to_bytes())
            await connection.writer.drain()
            try:
                await _copy_body(visitor, connection.writer, request.length)
            except (asyncio.IncompleteReadError, TimeoutError):
                raise VisitorGoneError from None

    @staticmethod
    async def _head(connection: Connection, sending: "asyncio.Task[None]") -> Head:
        """Return the head of the answer. Raises NoAnswerError, VisitorGoneError, RouterError."""
        reading = asyncio.create_task(connection.reader.readuntil(b"\r\n\r\n"))
        try:
            await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                sending.result()
                await asyncio.wait({reading}, timeout=FIRST_BYTE)
            if not reading.done():
                raise RouterError("H12")
            return Head.parse(reading.result())
        except asyncio.IncompleteReadError as error:
            raise RouterError("H18") if error.partial else NoAnswerError from None
        except ConnectionError:
            raise NoAnswerError from None
        finally:
            reading.cancel()

    async def _relay(
        self,
        method: str,
        head: Head,
        dyno: Dyno,
        connection: Connection,
        sending: "asyncio.Task[None]",
        writer: asyncio.StreamWriter,
    ) -> tuple[int, bool]:
        """Pass an answer back; return its status, and whether the visitor's connection can carry another request."""
        status = int(head.start.split(" ", 2)[1])
        complete = sending.done()  # if not, what remains of the request's body is in the way of the next
        sending.cancel()
        until_closed = not head.get("content-length") and head.length is not None and status not in (204, 304)
        keep = complete and not until_closed
        mine = [("Via", VIA), ("Connection", "keep-alive" if keep else "close")]
        writer.write(Head(head.start, [*head.without(HOP_BY_HOP), *mine]).to_bytes())
        length = 0 if method == "HEAD" or status in (204, 304) else head.length
        try:
            if until_closed and method != "HEAD":
                while data := await asyncio.wait_for(connection.reader.read(65536), BETWEEN_BYTES):
                    writer.write(data)
            else:
                await _copy_body(connection.reader, writer, length)
            await writer.drain()
        except BaseException:
            connection.writer.close()
            raise
        if keep and head.get("connection").lower() != "close" and not dyno.leaving:
            connection.since = time.monotonic()
            dyno.idle.append(connection)
        else:
            connection.writer.close()
        return status, keep

    @staticmethod
    async def _refuse(code: str, writer: asyncio.StreamWriter) -> None:
        page = f"<!doctype html><title>Application error</title><h1>Application error</h1><p>{code}</p>".encode()
        headers = [("Content-Type", "text/html"), ("Content-Length", str(len(page))), ("Connection", "close")]
        writer.write(Head("HTTP/1.1 503 Service Unavailable", headers).to_bytes() + page)
        await writer.drain()

    # Dynos

    async def _add(self, dyno: Dyno) -> None:
        self._dynos.append(dyno)

    async def _remove(self, name: str) -> None:
        for dyno in [dyno for dyno in self._dynos if dyno.name == name]:
            self._dynos.remove(dyno)
            dyno.leaving = True
            for connection in dyno.idle:
                connection.writer.close()
            dyno.idle.clear()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CONNECT)


async def _copy_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int | None) -> None:
    """Copy a body of `length` bytes, or of chunks if that is None, as it comes."""
    if length is not None:
        while length:
            data = await asyncio.wait_for(reader.read(min(length, 65536)), BETWEEN_BYTES)
            if not data:
                raise asyncio.IncompleteReadError(b"", length)
            length -= len(data)
            writer.write(data)
            await writer.drain()
        return
    while True:
        line = await asyncio.wait_for(reader.readuntil(b"\r\n"), BETWEEN_BYTES)
        size = int(line.partition(b";")[0], 16)
        writer.write(line + await asyncio.wait_for(reader.readexactly(size + 2), BETWEEN_BYTES))
        await writer.drain()
        if not size:  # trailers are not used here: the last chunk ends with an empty line
            return
