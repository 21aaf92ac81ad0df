"""Pipit's front on a real socket in this process, so that a test can look into the app, the front and its copies."""

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
from flask import Flask

from app.front.application import Front
from app.front.local_cache import LocalCache
from app.front.protocol import FrontProtocol
from tests.servers import PATIENCE, wait_until

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HOST = "pipit.example.org"
CHANGES = {"date", "x-request-id"}  # from answer to answer
WHERE = re.compile(r"hit; .*")  # for how long still, and from which memory
TOKEN = re.compile(rb'(name="csrf_token"[^>]*value="[^".]*)[^"]*')  # signed again each second


@dataclass(frozen=True)
class Reply:
    """What a browser gets."""

    status: int
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes
    early: bool  # without Flask

    def header(self, name: str) -> str:
        """Return a header's value, "" if it is not there. Fails if it is there twice."""
        values = [value for given, value in self.headers if given == name]
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else ""

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def page(self) -> tuple[object, ...]:
        """Return what must be the same whichever way the answer took."""
        headers = sorted((name, "" if name in CHANGES else WHERE.sub("hit", value)) for name, value in self.headers)
        return self.status, headers, TOKEN.sub(rb"\1", self.body)


class Server(uvicorn.Server):
    """uvicorn's server, which notices at once that it has to stop, and not a tenth of a second later."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.005)


class FrontServer:
    """A front that serves an app on a port of this machine."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.front = Front(app)
        self.to_flask = 0  # requests
        config = uvicorn.Config(
            app=self.front,
            http=FrontProtocol,
            loop="uvloop",
            interface="asgi3",
            lifespan="on",
            ws="none",
            server_header=False,
            proxy_headers=False,
            access_log=False,
            log_config=None,
        )
        self._server = Server(config)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, name="loop")
        self._connection: socket.socket | None = None

    # The visitors' side

    def ask(self, path: str, *headers: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> Reply:
        """Send a request on the connection of the one before, if that is still open; a header is "Name: value"."""
        lines = [f"{method} {path} HTTP/{version}", *headers]
        if not any(header.startswith("Host:") for header in headers):
            lines.append(f"Host: {HOST}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        before = self.to_flask
        connection = self._connection = self._connection or socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(PATIENCE)
        connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1") + body)
        status, fields, content = _read_answer(connection, has_body=method != "HEAD")
        if ("connection", "close") in fields:
            self.hang_up()
        return Reply(status, fields, content, early=self.to_flask == before)

    def hang_up(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection:
            self._connection.close()
            self._connection = None

    # The test's side

    @property
    def local_cache(self) -> LocalCache:
        return self.front._local_cache

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.front._bridge._loop

    @property
    def connections(self) -> set[Any]:
        """The open connections, each with its protocol."""
        return self._server.server_state.connections

    @property
    def total_requests(self) -> int:
        """Requests that were answered; uvicorn ends the process at its limit."""
        return self._server.server_state.total_requests

    def wait_for_proof(self) -> None:
        """Wait until copies are kept: the front knows that it hears of changes."""
        wait_until(lambda: self.local_cache._proven, "a proof that changes are pushed")

    def has_copy(self, path: str = "/", *headers: str) -> bool:
        """Return whether a look at a page is answered from memory."""
        return "detail=memory" in self.ask(path, *headers).header("cache-status")

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Run a function on the front's loop, and return what it returns."""

        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def start(self) -> None:
        """Serve. Raises RuntimeError if the front can't start."""
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive(), "the front to start")
        if not self._server.started:
            raise RuntimeError("the front did not start")
        wait_until(self.front._first_look.done, "the look at Redis, so that it is in no test's counts")
        bridge = self.front._bridge
        application = bridge._application

        def counted(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            self.to_flask += 1
            return application(environ, start_response)

        bridge._application = counted

    def stop(self) -> None:
        """Stop as on SIGTERM, and wait until that is done."""
        self.hang_up()
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._listener.close()
        assert not self._thread.is_alive(), "the front does not stop"


@contextmanager
def serving(app: Flask) -> Iterator[FrontServer]:
    """Serve an app until the end of the block."""
    server = FrontServer(app)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _read_answer(connection: socket.socket, *, has_body: bool) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
    """Return the status, the headers and the body of the next answer. Raises EOFError if it is cut off."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += _received(connection)
    head, _, body = heard.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    split = (line.partition(":") for line in lines)
    fields = tuple((name.lower(), value.strip()) for name, _, value in split)
    status = int(first.split()[1])
    length = int(dict(fields)["content-length"]) if has_body and status not in (204, 304) else 0
    while len(body) < length:
        body += _received(connection)
    assert len(body) == length, "an answer is longer than it says"
    return status, fields, body


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise EOFError
    return data
