"""What a web process sets up for itself: buffers, files, the interpreter's switching."""

import resource
import socket
import sys
from collections.abc import Iterator

import pytest

from app.front.process import SEND_BUFFER, SPARE_FILES, SWITCH_INTERVAL, UNREAD, prepare
from app.front.protocol import MOST_CONNECTIONS, FrontProtocol

WANTED = MOST_CONNECTIONS + SPARE_FILES
NO_LIMIT = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Give the list of the limits that the process has set; the first is what it begins with."""
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _what: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limit: limits.append(limit))
    monkeypatch.setattr(FrontProtocol, "most_connections", MOST_CONNECTIONS)
    interval = sys.getswitchinterval()
    yield limits
    sys.setswitchinterval(interval)


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "raised_to"),
    [
        (1024, 1_000_000, MOST_CONNECTIONS, (WANTED, 1_000_000)),
        (256, NO_LIMIT, MOST_CONNECTIONS, (WANTED, NO_LIMIT)),  # macOS calls it infinite, and refuses to set it so
        (1024, 2048, 2048 - SPARE_FILES, (2048, 2048)),
        (WANTED, WANTED, MOST_CONNECTIONS, None),
        (1_000_000, 1_000_000, MOST_CONNECTIONS, None),
        (NO_LIMIT, NO_LIMIT, MOST_CONNECTIONS, None),
        (100, 100, 1, None),  # fewer than are spare: one visitor at a time is better than none
    ],
)
def test_there_are_as_many_visitors_as_the_system_allows_files_for(
    limits: list[tuple[int, int]], soft: int, hard: int, connections: int, raised_to: tuple[int, int] | None
) -> None:
    limits.append((soft, hard))
    prepare([])
    assert FrontProtocol.most_connections == connections
    assert limits[1:] == ([raised_to] if raised_to else [])


def test_a_listening_socket_gives_its_connections_small_buffers_and_a_deadline(limits: list[tuple[int, int]]) -> None:
    limits.append((NO_LIMIT, NO_LIMIT))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        prepare([listener])
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) in (SEND_BUFFER, 2 * SEND_BUFFER)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNREAD
        assert before != SEND_BUFFER
    assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL)
