"""Clients that are slow on purpose, by the thousand, and what they cost the server.

They run in a process of their own, so that they don't delay the client that measures the server beside them. That
process is `python -m tests.faults.slow PORT PATIENCE KINDS`; tests and benchmarks start it with `slow_clients()`.
"""

import json
import os
import re
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import IO, NamedTuple

from tests.servers import ROOT, wait_until

ROUTES = ("/", "/login", "/static/pipit.css", "/healthz", "/nothing")  # cached, Flask, a file, a bare answer, a 404
LONG_ROUTES = ("/", "/login", "/static/pipit.css")  # a few hundred of their answers fill any buffer
PATIENCE = 16.0  # s after the last client has come; longer than any deadline of Pipit's but the one for idling

TICK = 0.02  # s
ARRIVALS = 20  # connections a tick: a thousand a second, so that their coming alone isn't what keeps the server busy
BYTE_EVERY = 1.0  # s
HANG_UP_EVERY = 0.5  # s, for one client
HANG_UPS_LAST = 10.0  # s
STAY = 2.0  # s they stay after the last one was let go, so that whoever watches sees what the server still holds
BUFFER = 4096  # bytes a client's kernel takes of an answer that the client doesn't read
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends an RST
STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
UNFINISHED_STATUS = 11  # bytes of a status line that don't match yet

LISTENING = "0A"  # in /proc/net/tcp


@dataclass(frozen=True)
class Kind:
    """What one kind of client does. `{path}` is replaced by the client's route."""

    opening: str = ""  # sent at once
    trickle: str = ""  # sent afterwards, a byte a second
    routes: tuple[str, ...] = ROUTES
    requests: int = 1  # times the opening is sent
    reads: bool = True
    hangs_up: bool = False


GET = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
FORM = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
ENDLESS = "a" * 1000

KINDS = {
    "head": Kind(trickle=GET + "X-Slow: " + ENDLESS),
    "fields": Kind(GET, "X-Slow: " + ENDLESS),  # the request line comes at once
    "second head": Kind(GET + "\r\n", GET + "X-Slow: " + ENDLESS),  # the first request is answered
    "form": Kind(FORM + "Content-Length: 1000\r\n\r\n", ENDLESS),
    "body of a GET": Kind(GET + "Content-Length: 1000\r\n\r\n", ENDLESS),  # a cached page may be answered before it
    "refused body": Kind(FORM + "Content-Length: 10000000\r\n\r\n", ENDLESS),
    "silent": Kind(),
    "unread": Kind(GET + "\r\n", routes=LONG_ROUTES, requests=300, reads=False),
    "hang-ups": Kind(GET + "\r\n", hangs_up=True),
}


@dataclass(frozen=True)
class Fate:
    """What became of one client."""

    kind: str
    path: str
    seconds: float | None  # from the connection to the moment the server let go of it; None: it didn't
    how: str  # "closed", "reset", "held", "not connected" or "hung up"
    statuses: list[int]  # of all answers
    connections: int = 1  # more than one for a client that hangs up again and again


@dataclass(frozen=True)
class SlowClients:
    """Slow clients that run in the background."""

    process: subprocess.Popen[bytes]
    output: IO[bytes] = field(repr=False)
    patience: float

    def are_over(self) -> bool:
        """Return whether every client has been let go or has finished waiting."""
        return self.process.poll() is not None

    def fates(self) -> list[Fate]:
        """Wait for the end, and return what became of each client. Raises RuntimeError if their process failed."""
        wait_until(self.are_over, "the slow clients to end", self.patience + 30)
        if self.process.returncode:
            raise RuntimeError(f"the slow clients ended with {self.process.returncode}")
        self.output.seek(0)
        return [Fate(**fate) for fate in json.load(self.output)]


@contextmanager
def slow_clients(port: int, numbers: Mapping[str, int], patience: float = PATIENCE) -> Iterator[SlowClients]:
    """Send so many clients of each kind to a port of this machine. At the end all of them hang up."""
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "tests.faults.slow", str(port), str(patience), json.dumps(dict(numbers))]
        process = subprocess.Popen(command, cwd=ROOT, stdout=output)
        try:
            yield SlowClients(process, output, patience)
        finally:
            process.kill()
            process.wait()


class Client:
    """One slow client: a socket that never blocks, and what is still to be sent."""

    def __init__(self, kind: str, number: int, port: int) -> None:
        self.name = kind
        self.kind = KINDS[kind]
        self.number = number
        self.port = port
        self.path = self.kind.routes[number % len(self.kind.routes)]
        self.trickle = self.kind.trickle.format(path=self.path).encode()
        self.socket: socket.socket | None = None
        self.unsent = b""
        self.wanted = 0  # events to be told of
        self.began = 0.0  # when it was connected
        self.seconds: float | None = None
        self.how = "not connected"
        self.connections = 0
        self.statuses: list[int] = []
        self.tail = b""

    @property
    def fate(self) -> Fate:
        return Fate(self.name, self.path, self.seconds, self.how, self.statuses, self.connections)

    @property
    def ticks(self) -> int:
        """Return how many ticks there are from one of its turns to the next."""
        return round((HANG_UP_EVERY if self.kind.hangs_up else BYTE_EVERY) / TICK)

    def connect(self, epoll: "select.epoll") -> int:
        """Begin to connect; return the file descriptor."""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.kind.reads or self.kind.hangs_up:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        if self.kind.hangs_up:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.began = 0.0
        self.unsent = self.kind.opening.format(path=self.path).encode() * self.kind.requests
        self.socket.connect_ex(("127.0.0.1", self.port))
        self.wanted = self._wanted()
        epoll.register(self.socket, self.wanted)
        return self.socket.fileno()

    def handle(self, epoll: "select.epoll", events: int) -> bool:
        """Do what the socket is ready for; return whether the connection is still there."""
        try:
            return self._handle(epoll, events)
        except OSError:
            return self._let_go("reset")

    def _handle(self, epoll: "select.epoll", events: int) -> bool:
        assert self.socket is not None
        gone = events & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP)
        if not self.began and not gone:
            self.began = time.monotonic()
            self.connections += 1
            self.how = "held"
        if self.unsent and events & select.EPOLLOUT:
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
            if self.kind.hangs_up and self.number % 2:  # the others wait for the first bytes of an answer
                return self.hang_up()
        if events & select.EPOLLIN:
            if not self._read():
                return self._let_go("closed")
            if self.kind.hangs_up:
                return self.hang_up()
        elif gone:  # unread; or not connected
            return self._let_go("reset" if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) else "closed")
        if self.wanted != (wanted := self._wanted()):
            epoll.modify(self.socket, wanted)
            self.wanted = wanted
        return True

    def send_a_byte(self) -> None:
        """Send the next byte. What the server did meanwhile is found out by reading."""
        if self.socket and self.began and self.trickle and not self.unsent:
            try:
                self.socket.send(self.trickle[:1])
            except OSError:
                return
            self.trickle = self.trickle[1:]

    def hang_up(self) -> bool:
        """Close the connection, by an RST if this is a client that hangs up; return False."""
        if self.socket:
            self.socket.close()
            self.socket = None
            if self.kind.hangs_up:
                self.how = "hung up"
        return False

    def _wanted(self) -> int:
        wanted = select.EPOLLIN if self.kind.reads else select.EPOLLRDHUP
        return wanted | (select.EPOLLOUT if self.unsent or not self.began else 0)

    def _read(self) -> bool:
        """Note the status lines; return whether there was anything."""
        assert self.socket is not None
        data = self.socket.recv(65536)
        text = self.tail + data
        self.statuses += [int(status) for status in STATUS.findall(text)]
        self.tail = text[-UNFINISHED_STATUS:]
        return bool(data)

    def _let_go(self, how: str) -> bool:
        if self.began and not self.kind.hangs_up:
            self.seconds = time.monotonic() - self.began
            self.how = how
        return self.hang_up()


class Crowd:
    """All slow clients of this process, driven by one loop."""

    def __init__(self, port: int, numbers: Mapping[str, int], patience: float) -> None:
        self.clients = _mixed([[Client(kind, number, port) for number in range(numbers[kind])] for kind in numbers])
        self.patience = patience
        self.connected: dict[int, Client] = {}  # by file descriptor
        self.epoll = select.epoll()

    def run(self) -> list[Fate]:
        """Connect everyone, let them be slow, and return what became of them."""
        arriving = deque(self.clients)
        turns: defaultdict[int, list[Client]] = defaultdict(list)  # by tick
        began = time.monotonic()
        last_turn = last_arrival = -(-len(arriving) // ARRIVALS)
        for tick in range(last_arrival + round(self.patience / TICK)):
            is_late = tick > last_arrival + HANG_UPS_LAST / TICK
            for _ in range(min(ARRIVALS, len(arriving))):
                turns[tick].append(arriving.popleft())
            for client in turns.pop(tick, []):
                if self._take_a_turn(client, is_late=is_late):
                    turns[tick + client.ticks].append(client)
            self._wait(began + (tick + 1) * TICK)
            if arriving or turns:
                last_turn = tick
            elif tick > last_turn + STAY / TICK:
                break
        return [client.fate for client in self.clients]

    def _take_a_turn(self, client: Client, *, is_late: bool) -> bool:
        """Have a client connect, send a byte, or hang up and connect again; return whether there is a next turn."""
        if client.socket and client.kind.hangs_up:
            del self.connected[client.socket.fileno()]
            client.hang_up()
        if client.socket:
            client.send_a_byte()
        elif not client.connections or (client.kind.hangs_up and not is_late):
            self.connected[client.connect(self.epoll)] = client
        return client.socket is not None

    def _wait(self, until: float) -> None:
        """Handle what happens on the connections until then."""
        while True:
            left = until - time.monotonic()
            for descriptor, events in self.epoll.poll(max(0.0, left), 1000):
                if not self.connected[descriptor].handle(self.epoll, events):
                    del self.connected[descriptor]
            if left <= 0:
                return


def _mixed(kinds: list[list[Client]]) -> list[Client]:
    """Return the clients in the order they come: one of each kind, then the next of each."""
    return [client for row in zip_longest(*kinds) for client in row if client]


# What they cost the server, read from Linux's /proc.


def worker_of(master: int) -> int:
    """Return the process id of gunicorn's only worker."""
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return int(worker)


def open_sockets(process_id: int, redis_port: int) -> int:
    """Return how many sockets a process has open, those to Redis left out: their number depends on the load."""
    inodes = set()
    for link in Path(f"/proc/{process_id}/fd").iterdir():
        try:
            inodes.add(link.readlink().name)
        except FileNotFoundError:  # closed meanwhile
            continue
    to_redis = {f"socket:[{row.inode}]" for row in _tcp_table() if row.remote_port == redis_port}
    return sum(name.startswith("socket:") for name in inodes - to_redis)


def memory_bytes(process_id: int) -> int:
    """Return a process's share of the memory in RAM (Pss): a page that n processes share counts as 1/n."""
    rollup = Path(f"/proc/{process_id}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB$", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def send_buffers(port: int) -> list[int]:
    """Return for each connection to a port how many bytes the server's kernel still holds for the client.

    A client that reads confirms an answer some 40 ms late (RFC 9293, section 3.8.6.3), so it is among them until then.
    """
    return [row.unsent for row in _tcp_table() if row.local_port == port and row.state != LISTENING]


class _Row(NamedTuple):
    local_port: int
    remote_port: int
    state: str
    unsent: int  # bytes that the other side's kernel has not confirmed
    inode: str  # "0" once no process has the socket any more


def _tcp_table() -> list[_Row]:
    rows = []
    with Path("/proc/net/tcp").open() as table:
        next(table)
        for line in table:
            _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
            rows.append(_Row(int(local[-4:], 16), int(remote[-4:], 16), state, int(queues[:8], 16), inode))
    return rows


def main() -> None:
    """Run the clients named on the command line, and print their fates as JSON."""
    port, patience, numbers = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.nice(5)  # whoever measures the server beside them goes first
    fates = Crowd(int(port), json.loads(numbers), float(patience)).run()
    json.dump([asdict(fate) for fate in fates], sys.stdout)


if __name__ == "__main__":
    main()
