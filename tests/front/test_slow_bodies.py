"""Bodies that trickle in: they are read within a deadline, and never keep a thread for longer."""

import io
from typing import Any

import pytest

from app.front.slow_bodies import LARGEST_REQUEST, PATIENCE, SlowBodies


class Trickle(io.RawIOBase):
    """A body of which each piece takes a while, and the connection it comes on."""

    def __init__(self, pieces: list[bytes], seconds: float, clock: list[float]) -> None:
        self.pieces, self.seconds, self.clock = pieces, seconds, clock
        self.timeout: float | None = 7.0

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds

    def read(self, size: int = -1) -> bytes:
        self.clock[0] += self.seconds
        if self.timeout is not None and self.seconds > self.timeout:
            raise TimeoutError
        return self.pieces.pop(0) if self.pieces else b""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("app.front.slow_bodies.time.monotonic", lambda: now[0])
    return now


def post(body: Trickle | None, **environ: Any) -> tuple[str, bytes]:
    """Send a body through the layer; return the status, and what the application read."""
    seen: list[bytes] = []
    statuses: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return []

    given = {"REQUEST_METHOD": "POST", "wsgi.input": body or io.BytesIO(b"as it is"), "PATH_INFO": "/", **environ}
    if body:
        given["gunicorn.socket"] = body
    list(SlowBodies(application)(given, lambda status, _headers, *_: statuses.append(status)))  # type: ignore[arg-type]  # no write()
    return statuses[0], b"".join(seen)


def test_a_body_that_comes_in_time_is_passed_on_whole(clock: list[float]) -> None:
    body = Trickle([b"one ", b"two"], 1, clock)
    assert post(body, CONTENT_LENGTH="7") == ("200 OK", b"one two")
    assert body.timeout == 7.0  # as it was


@pytest.mark.parametrize("seconds", [PATIENCE + 1, 2.0], ids=["one long pause", "a byte at a time"])
def test_a_body_that_trickles_gets_a_408(clock: list[float], seconds: float) -> None:
    body = Trickle([b"x"] * 100, seconds, clock)
    status, seen = post(body, CONTENT_LENGTH="100")
    assert status.startswith("408")
    assert seen == b""
    assert body.timeout == 7.0


def test_a_body_of_unknown_length_is_read_no_further_than_is_allowed(clock: list[float]) -> None:
    body = Trickle([b"x" * 8192] * 100, 0, clock)
    _, seen = post(body, HTTP_TRANSFER_ENCODING="chunked")
    assert LARGEST_REQUEST < len(seen) <= LARGEST_REQUEST + 8192


@pytest.mark.parametrize("length", ["", "0", str(LARGEST_REQUEST + 1), "nonsense"])
def test_what_the_application_would_not_read_is_left_alone(clock: list[float], length: str) -> None:
    body = Trickle([b"x"], PATIENCE + 1, clock)
    body.timeout = None
    assert post(body, CONTENT_LENGTH=length)[0] == "200 OK"


def test_under_another_server_nothing_changes() -> None:
    assert post(None, CONTENT_LENGTH="8") == ("200 OK", b"as it is")
