"""SIGTERM under load: what has begun is finished, what is idle is let go of, and soon the processes are gone."""

import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests import servers
from tests.faults.traffic import TIMEOUT, Browser, visitors
from tests.servers import PATIENCE, Pipit, wait_until

IDLE = 500
PATHS = ("/", "/login", "/healthz", "/", "/login", "/static/pipit.css")  # a busy client for each
BEFORE = 1000  # requests of theirs before the signal
GONE_WITHIN = 1.5  # s of the last answer; a quiet machine takes half a second


@dataclass
class Busy:
    """A client that sends a request as soon as it has the answer to the last one, on one connection."""

    port: int
    path: str
    statuses: Counter[int] = field(default_factory=Counter)
    end: str = "none"
    last_answer: float = 0.0  # on the monotonic clock

    def run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        connection.connect()
        try:
            while connection.sock is not None:  # http.client closes it after "Connection: close"
                if is_closed(connection.sock):
                    self.end = "closed between two requests"
                    return
                connection.request("GET", self.path)
                response = connection.getresponse()
                response.read()
                self.last_answer = time.monotonic()
                self.statuses[response.status] += 1
            self.end = "closed with an answer"
        except (OSError, HTTPException) as error:
            self.end = f"lost: {error!r}"
        finally:
            connection.close()


def is_closed(connection: socket.socket) -> bool:
    """Return whether the server has hung up: before a request is sent there is nothing else to be read."""
    return bool(select.select([connection], [], [], 0)[0])


def connected(port: int) -> socket.socket:
    """Return a connection that has had an answer, and is idle now."""
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    return connection


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
    except OSError:
        return False
    return True


@pytest.fixture
def pipit(tmp_path: Path, redis_url: str) -> Iterator[Pipit]:
    with servers.pipit(tmp_path, redis_url) as pipit:
        yield pipit


def test_nothing_that_has_begun_is_lost_and_the_processes_are_soon_gone(pipit: Pipit) -> None:
    clients = [Busy(pipit.port, path) for path in PATHS]
    threads = [threading.Thread(target=client.run) for client in clients]
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(pipit.port)) for _ in range(IDLE)]
        for thread in threads:
            thread.start()
        wait_until(lambda: sum(client.statuses.total() for client in clients) > BEFORE, "the clients to be busy")
        pipit.process.send_signal(signal.SIGTERM)
        pipit.process.wait(PATIENCE)
        gone = time.monotonic()
        for thread in threads:
            thread.join(PATIENCE)
        farewells = Counter(connection.recv(1) for connection in idle)
    assert {client.end for client in clients} <= {"closed with an answer", "closed between two requests"}
    assert {status for client in clients for status in client.statuses} == {200}
    assert farewells == {b"": IDLE}  # an end, and no reset
    assert gone - max(client.last_answer for client in clients) < GONE_WITHIN
    assert "Traceback" not in pipit.log.read_text()


def test_a_form_that_is_still_coming_in_is_taken(pipit: Pipit) -> None:
    with visitors([Browser(pipit.port)]) as (ada,):
        ada.register("ada")
        form = urlencode({"csrf_token": ada.token("/home"), "body": "Sent slowly."}).encode()
        cookies = "; ".join(f"{name}={value}" for name, value in ada.cookies.items())
    head = f"POST /posts HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\nContent-Length: {len(form)}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(pipit.port)) for _ in range(IDLE)]
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", pipit.port), TIMEOUT))
        connection.sendall(head.encode() + form[:20])
        assert servers.answers(f"{pipit.url}/healthz")  # by now a process has it
        pipit.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(pipit.port), "Pipit to stop listening")
        assert {one.recv(1) for one in idle} == {b""}
        assert pipit.process.poll() is None
        connection.sendall(form[20:])
        answer = connection.makefile("rb").read()
        answered = time.monotonic()
        pipit.process.wait(PATIENCE)
        gone = time.monotonic()
    assert answer.startswith(b"HTTP/1.1 302")
    assert b"location: /home" in answer
    assert gone - answered < GONE_WITHIN
