"""HTTP as it goes over the wire: a client that counts every byte it receives."""

import gzip
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

TIMEOUT = 20  # s


@dataclass(frozen=True)
class Answer:
    """What a server sent."""

    status: int
    headers: list[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    wire_bytes: int  # status line, headers and body, as they came

    def header(self, name: str) -> str:
        """Return a header's value, "" if it was not sent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def text(self) -> str:
        """Return the body, decompressed if need be."""
        return (gzip.decompress(self.body) if self.header("Content-Encoding") == "gzip" else self.body).decode()


class Client:
    """One connection that stays open, as a browser's does."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.port = port

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()
        self.socket.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for a page. Raises OSError if the server does not answer."""
        return self.send("GET", path, headers)

    def send(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """Send a request. Raises OSError if the server does not answer."""
        fields = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        if body:
            fields |= {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        return self._receive()

    def _receive(self) -> Answer:
        status_line = self.file.readline()
        if not status_line:
            raise ConnectionResetError("the server hung up")
        received = len(status_line)
        headers: list[tuple[str, str]] = []
        while True:
            line = self.file.readline()
            received += len(line)
            if not line.strip():
                break
            name, _, value = line.decode().partition(":")
            headers.append((name, value.strip()))
        answer = Answer(int(status_line.split()[1]), headers, b"", received)
        if answer.header("Transfer-Encoding"):
            raise OSError("an answer of unknown length: everything measured here knows its own")
        length = 0 if answer.status == 304 else int(answer.header("Content-Length") or 0)
        return Answer(answer.status, headers, self.file.read(length), received + length)


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Ask for a page on a connection of its own. Raises OSError if the server does not answer."""
    with Client(port) as client:
        return client.get(path, headers)
