"""HTTP as it goes over the wire: a client that counts every byte it receives."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection

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
        self.connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: object) -> None:
        self.connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for a page. Raises OSError if the server does not answer."""
        return self.send("GET", path, headers)

    def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, form: bytes | None = None
    ) -> Answer:
        """Send a request. Raises OSError if the server does not answer."""
        content = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        self.connection.request(method, path, form, {**(headers or {}), **content})
        response = self.connection.getresponse()
        body, fields = response.read(), response.getheaders()
        head = f"HTTP/1.1 {response.status} {response.reason}\r\n\r\n"
        wire_bytes = len(head) + sum(len(f"{name}: {value}\r\n") for name, value in fields) + len(body)
        return Answer(response.status, fields, body, wire_bytes)


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Ask for a page on a connection of its own. Raises OSError if the server does not answer."""
    with Client(port) as client:
        return client.get(path, headers)
