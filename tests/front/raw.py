"""Raw HTTP: sends bytes exactly as given, and splits what comes back into answers by RFC 9112 alone.

An HTTP library would refuse to send what these tests send, and would repair what they want to see.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

TIMEOUT = 10  # s until the server is taken to say no more; reached only by a failure
READ = 64 * 1024  # bytes


@dataclass(frozen=True)
class Answer:
    """One answer of the server's; an interim one (100 Continue) counts as an answer of its own."""

    status: int
    fields: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for given, value in self.fields if given == name]

    def field(self, name: str) -> str | None:
        """Return the field's value, or None if the answer has no such field. Fails if it is there twice."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        """Whether the answer says that it is the last one on its connection."""
        return "close" in (self.field("connection") or "").lower()


@dataclass(frozen=True)
class Conversation:
    """All that the server said on one connection."""

    raw: bytes
    answers: tuple[Answer, ...]
    closed: bool  # by the server, within TIMEOUT

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(answer.status for answer in self.answers)

    @property
    def last(self) -> Answer:
        return self.answers[-1]


class Connection:
    """A connection to the server, for a test that has to hear something before it says more."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a piece is a packet
        self.heard = b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a server that has closed the connection doesn't get them, and what it said can still be read."""
        with suppress(ConnectionError):
            self.socket.sendall(data)

    def say_no_more(self) -> None:
        """Close this side of the connection; the server may still say something."""
        self.socket.shutdown(socket.SHUT_WR)

    def hear(self, end: bytes) -> bytes:
        """Return what the server has sent so far, once it ends with these bytes.

        Raises TimeoutError, or EOFError if the server has closed the connection.
        """
        while not self.heard.endswith(end):
            data = self.socket.recv(READ)
            if not data:
                raise EOFError(self.heard)
            self.heard += data
        return self.heard

    def finish(self, methods: Iterable[str] = ()) -> Conversation:
        """Read on until the server closes the connection.

        methods: those of the requests, in their order; needed where one is HEAD, whose answer has no body.
        """
        closed = True
        while True:
            try:
                data = self.socket.recv(READ)
            except ConnectionError:
                break
            except TimeoutError:
                closed = False
                break
            if not data:
                break
            self.heard += data
        return Conversation(self.heard, tuple(split(self.heard, methods)), closed)


def talk(port: int, *pieces: bytes, methods: Iterable[str] = ()) -> Conversation:
    """Send the pieces one after the other, then read until the server closes the connection."""
    with Connection(port) as connection:
        for piece in pieces:
            connection.send(piece)
        return connection.finish(methods)


def split(heard: bytes, methods: Iterable[str] = ()) -> list[Answer]:
    """Return the answers in what a server said. Fails if it isn't a whole number of well-formed answers."""
    answers: list[Answer] = []
    method = iter(methods)
    while heard:
        head, end, heard = heard.partition(b"\r\n\r\n")
        assert end, f"no end of a head in {head!r}"
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _reason = first.split(" ", 2)
        assert version in {"HTTP/1.1", "HTTP/1.0"}, first
        assert len(status) == 3, first
        fields = []
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon, f"no colon in {line!r}"
            assert name == name.strip(), f"spaces around a name in {line!r}"
            assert name, f"no name in {line!r}"
            fields.append((name.lower(), value.strip()))
        answer = Answer(int(status), tuple(fields), b"")
        if answer.status >= 200 and next(method, "GET") != "HEAD" and answer.status not in {204, 304}:
            body, heard = _body(answer, heard)
            answer = Answer(answer.status, answer.fields, body)
        answers.append(answer)
    return answers


def _body(answer: Answer, heard: bytes) -> tuple[bytes, bytes]:
    """Return an answer's body, and what comes after it."""
    if answer.field("transfer-encoding") == "chunked":
        assert answer.field("content-length") is None
        body = b""
        while True:
            size, end, heard = heard.partition(b"\r\n")
            assert end, f"no end of a chunk's size in {size!r}"
            length = int(size, 16)
            assert heard[length : length + 2] == b"\r\n", "a chunk is cut off"
            body, heard = body + heard[:length], heard[length + 2 :]
            if length == 0:
                return body, heard
    length = int(answer.field("content-length") or "-1")
    assert length >= 0, f"an answer doesn't say how long it is: {answer}"
    assert len(heard) >= length, "a body is cut off"
    return heard[:length], heard[length:]
