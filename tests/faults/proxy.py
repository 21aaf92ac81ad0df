"""A proxy in front of Redis that reads what passes through it, and spoils it the way a bad network or proxy does."""

import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

SEED = 20240229
LINES = b"+-:_#,("  # these replies end with their line
BLOBS = b"$!="  # these name their length
PARTS = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}  # these name a number; of so many frames each
PUSH = b">"
HANDSHAKE = frozenset({b"HELLO", b"AUTH", b"SELECT", b"INFO", b"CLIENT"})  # spoiled only if they are named
TRACKING_ON = (b"CLIENT", b"TRACKING", b"ON")

Words = tuple[bytes, ...]
Direction = Literal["requests", "replies"]

# What a fault makes of a reply. A cut one ends the connection.
FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "extra": lambda reply: reply + reply,
    "missing": lambda _reply: b"",
    "nil": lambda _reply: b"_\r\n",
    "error": lambda _reply: b"-ERR injected\r\n",
    "cut": lambda reply: reply[: len(reply) // 2],
}


class IncompleteError(Exception):
    """The rest of the frame is still to come."""


def frame_end(data: bytes, start: int = 0) -> int:
    """Return where the frame that begins at `start` ends, in RESP2 and RESP3 alike; attributes belong to their reply.

    Raises IncompleteError if it isn't all there, and ValueError if it is no frame. Streamed strings and aggregates are
    not known here: no server sends them. The protocol: github.com/redis/redis-specifications, protocol/RESP3.md.
    """
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        raise IncompleteError
    kind, end = data[start : start + 1], line_end + 2
    if kind in LINES:
        return end
    length = int(data[start + 1 : line_end])
    if kind in BLOBS:
        end += length + 2 if length >= 0 else 0  # -1 is RESP2's nil
        if end > len(data):
            raise IncompleteError
        return end
    if kind not in PARTS:
        raise ValueError(f"no frame begins with {kind!r}")
    for _ in range(length * PARTS[kind]):
        end = frame_end(data, end)
    return frame_end(data, end) if kind == b"|" else end


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that are complete now."""
        data = self._rest + data
        frames, start = [], 0
        with suppress(IncompleteError):
            while start < len(data):
                end = frame_end(data, start)
                frames.append(data[start:end])
                start = end
        self._rest = data[start:]
        return frames


def words_of(frame: bytes) -> Words:
    """Return the words of a command, which is an array of strings; the first in upper case."""
    words, start = [], frame.index(b"\r\n") + 2
    while start < len(frame):
        end = frame_end(frame, start)
        words.append(frame[frame.index(b"\r\n", start) + 2 : end - 2])
        start = end
    return (words[0].upper(), *words[1:])


@dataclass
class Fault:
    """What happens to some of the replies; it counts how often."""

    kind: str  # one of FAULTS
    chance: float
    only: frozenset[bytes]  # the commands whose replies are spoiled; empty: all but the handshake's
    most: float  # times
    everyone: bool  # on all connections, not only those that said HELLO 3
    times: int = 0

    def hits(self, command: bytes, chance: random.Random) -> bool:
        concerned = command in self.only if self.only else command not in HANDSHAKE
        return concerned and self.times < self.most and chance.random() < self.chance


@dataclass
class Seen:
    """How a command has passed through; one with other arguments is another command."""

    times: int = 0
    last: float = 0.0  # when, on the monotonic clock
    most_in_flight: int = 0  # on one connection


@dataclass
class Asked:
    """A command whose reply is still to come."""

    words: Words
    answer: bytes | None = None  # what the client gets in place of the server's reply


@dataclass(eq=False)
class Link:
    """One client's connection, and ours to the server for it."""

    client: socket.socket
    server: socket.socket
    is_front: bool = False  # it has said HELLO 3
    is_open: bool = True
    asked: deque[Asked] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        self.is_open = False
        for one in (self.client, self.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Proxy:
    """Passes everything on, apart from what it is told to spoil; the front's connections alone, unless told otherwise.

    pretends_tracking: it answers CLIENT TRACKING ON itself, and the server never hears of it.
    swallows: pushes that hold these bytes are dropped; b"" is in all of them.
    hangs_up_after: a connection ends with a push that holds these bytes.
    latency: s by which replies are late, so that several batches are on their way at once.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.pretends_tracking = False
        self.swallows: bytes | None = None
        self.hangs_up_after: bytes | None = None
        self.latency = 0.0
        self.seen: dict[Words, Seen] = {}  # what the front has asked
        self._seeing = threading.Lock()
        self.links: list[Link] = []
        self._faults: list[Fault] = []
        self._chance = random.Random(SEED)
        self._moving: dict[Direction, threading.Event] = {"requests": threading.Event(), "replies": threading.Event()}
        for event in self._moving.values():
            event.set()
        self._stalls_everyone = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def fronts(self) -> list[Link]:
        """Return the open connections that have said HELLO 3."""
        return [link for link in self.links if link.is_front and link.is_open]

    def asked(self, name: bytes) -> int:
        """Return how often the front has sent a command of this name."""
        with self._seeing:
            return sum(seen.times for words, seen in self.seen.items() if words[0] == name)

    def hang_up(self) -> None:
        """Close the front's connections."""
        for link in self.fronts():
            link.close()

    @contextmanager
    def spoiling(
        self,
        kind: str,
        chance: float = 1,
        *,
        only: tuple[bytes, ...] = (),
        most: float = float("inf"),
        everyone: bool = False,
    ) -> Iterator[Fault]:
        """Spoil replies, each with this chance; only those to the named commands, and at most so many."""
        fault = Fault(kind, chance, frozenset(only), most, everyone)
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)

    @contextmanager
    def stalled(self, direction: Direction, *, everyone: bool = False) -> Iterator[None]:
        """Hold up one direction; what was held up arrives at the end."""
        self._stalls_everyone = everyone
        self._moving[direction].clear()
        try:
            yield
        finally:
            self._moving[direction].set()

    def close(self) -> None:
        """Hang up on everyone, and accept no more."""
        for event in self._moving.values():
            event.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self.links:
            link.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # nobody there: say so as a closed port would
                    client.close()
                    continue
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = Link(client, server)
                self.links.append(link)
                for work in (self._pass_requests, self._pass_replies):
                    threading.Thread(target=self._run, args=(work, link), daemon=True).start()

    def _run(self, work: Callable[[Link], None], link: Link) -> None:
        try:
            with suppress(OSError):
                work(link)
        finally:
            link.close()

    def _pass_requests(self, link: Link) -> None:
        splitter = Splitter()
        while data := link.client.recv(65536):
            frames = splitter.feed(data)
            asked = [self._look_at(words_of(frame), link) for frame in frames]
            self._wait(link, "requests")
            with link.lock:
                link.asked += asked
                for one in asked if link.is_front else ():
                    self._note(one.words, link)
            link.server.sendall(b"".join([b"PING\r\n" if a.answer else f for a, f in zip(asked, frames, strict=True)]))

    def _look_at(self, words: Words, link: Link) -> Asked:
        if words[:2] == (b"HELLO", b"3"):
            link.is_front = True
        pretends = self.pretends_tracking and words[:3] == TRACKING_ON
        return Asked(words, b"+OK\r\n" if pretends else None)

    def _note(self, words: Words, link: Link) -> None:
        with self._seeing:
            seen = self.seen.setdefault(words, Seen())
        seen.times += 1
        seen.last = time.monotonic()
        seen.most_in_flight = max(seen.most_in_flight, sum(asked.words == words for asked in link.asked))

    def _pass_replies(self, link: Link) -> None:
        splitter = Splitter()
        while data := link.server.recv(65536):
            self._wait(link, "replies")
            if link.is_front and self.latency:
                time.sleep(self.latency)
            for frame in splitter.feed(data):
                passed, stays_open = self._reply(frame, link)
                link.client.sendall(passed)
                if not stays_open:
                    return

    def _reply(self, frame: bytes, link: Link) -> tuple[bytes, bool]:
        """Return what the client gets for a frame, and whether the connection stays open."""
        if frame[:1] == PUSH:
            if link.is_front and self.swallows is not None and self.swallows in frame:
                return b"", True
            return frame, self.hangs_up_after is None or self.hangs_up_after not in frame
        with link.lock:
            asked = link.asked.popleft() if link.asked else None  # none in RESP2's pub/sub
        if asked is None:
            return frame, True
        if asked.answer:
            return asked.answer, True
        for fault in list(self._faults):
            if (link.is_front or fault.everyone) and fault.hits(asked.words[0], self._chance):
                fault.times += 1
                nil_of_resp2 = fault.kind == "nil" and not link.is_front
                return b"$-1\r\n" if nil_of_resp2 else FAULTS[fault.kind](frame), fault.kind != "cut"
        return frame, True

    def _wait(self, link: Link, direction: Direction) -> None:
        if link.is_front or self._stalls_everyone:
            self._moving[direction].wait()


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    """Run a proxy in front of the Redis at that port."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
