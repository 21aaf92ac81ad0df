"""Uploads on the wire: bodies larger than most, where a view takes them and from those who are signed in."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, request

from app.front import bridge, protocol
from app.web.uploads import init_uploads, takes_upload
from app.web.viewer import login_required
from tests.conftest import Log, Visitor
from tests.front import raw
from tests.servers import wait_until
from tests.serving import FrontServer

LARGEST = 2 * 2**20  # bytes, for the view of these tests
BODY = bytes(range(256)) * (LARGEST // 256)
DIGEST = hashlib.sha256(BODY).hexdigest()
NOT_LOGGED_IN = b"aren&#39;t logged in"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    """Give a Pipit with a view that takes uploads, and says what came."""
    app = make_app()
    app.config["WTF_CSRF_ENABLED"] = False

    @login_required
    @takes_upload(LARGEST)
    def upload() -> str:
        return hashlib.sha256(request.get_data()).hexdigest()

    app.add_url_rule("/upload", view_func=upload, methods=["POST"])
    init_uploads(app)
    return app


@pytest.fixture
def cookie(ada: Visitor) -> str:
    return f"Cookie: session={ada.session_id()}"


def head(size: int | None, *headers: str, version: str = "1.1") -> bytes:
    """Return the head of a request whose body has so many bytes; of one in chunks, if that is None."""
    length = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
    lines = [f"POST /upload HTTP/{version}", "Host: a", "Content-Type: image/png", length, *headers, "", ""]
    return "\r\n".join(lines).encode()


def newest(front: FrontServer) -> Any:
    """Return the newest request on the only connection, as its protocol sees it; None until there is one."""
    (connection,) = wait_until(lambda: front.connections, "a connection")
    return connection.cycle


def received(front: FrontServer) -> int:
    """Return how many bytes of its body have come."""
    request = newest(front)
    return request.received if request else 0


def on_time(front: FrontServer) -> int:
    """Return how many had come when its deadline was last put off."""
    request = newest(front)
    return request.on_time if request else 0


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_upload_reaches_its_view_whole_and_not_before_its_end(front: FrontServer, cookie: str, version: str) -> None:
    with raw.Connection(front.port) as client:
        client.send(head(len(BODY), cookie, "Connection: close", version=version) + BODY[:-1])
        wait_until(lambda: received(front) == len(BODY) - 1, "all but a byte")
        assert front.to_flask == 0
        assert front.on_loop(lambda: protocol.totals.buffered) <= protocol.MOST_RAW_BODY  # the rest is in a file
        client.send(BODY[-1:])
        answer = client.finish().last
    assert (answer.status, answer.body.decode()) == (200, DIGEST)
    assert not front.front._bridge._uploads


def test_after_an_upload_the_connection_serves_on(front: FrontServer, cookie: str) -> None:
    for _ in range(2):
        reply = front.ask("/upload", cookie, "Content-Type: image/png", method="POST", body=BODY)
        assert reply.text == DIGEST
        assert front.ask("/healthz").status == 200
    assert len(front.connections) == 1


@pytest.mark.parametrize("whose", ["nobody's", "forged", "ended"])
def test_an_upload_of_somebody_who_is_not_logged_in_is_answered_before_it_is_read(
    front: FrontServer, ada: Visitor, cookie: str, whose: str
) -> None:
    if whose == "ended":
        ada.log_out()
    headers = {"nobody's": [], "forged": ["Cookie: session=1." + "x" * 22], "ended": [cookie]}[whose]
    with raw.Connection(front.port) as client:
        client.send(head(len(BODY), *headers) + BODY[:1000])
        answer = client.finish().last
    assert answer.status == 403
    assert NOT_LOGGED_IN in answer.body
    assert answer.closes


def test_a_session_that_ends_while_an_upload_comes_in_opens_nothing(
    front: FrontServer, ada: Visitor, cookie: str
) -> None:
    with raw.Connection(front.port) as client:
        client.send(head(len(BODY), cookie, "Connection: close") + BODY[:-1])
        wait_until(lambda: received(front) == len(BODY) - 1, "all but a byte")
        ada.log_out()
        client.send(BODY[-1:])
        answer = client.finish().last
    assert answer.status == 403
    assert NOT_LOGGED_IN in answer.body


@pytest.mark.parametrize("size", [LARGEST + 1, 10**12])
def test_a_body_larger_than_its_view_takes_is_refused_before_it_is_read(
    front: FrontServer, cookie: str, size: int
) -> None:
    with raw.Connection(front.port) as client:
        client.send(head(size, cookie))
        answer = client.finish().last
    assert answer.status == 413
    assert answer.closes


def test_an_upload_says_beforehand_how_large_it_is(front: FrontServer, cookie: str) -> None:
    chunks = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
    assert raw.talk(front.port, head(None, cookie) + chunks).last.status == 413


def test_an_upload_that_comes_to_a_halt_is_let_go(
    front: FrontServer, cookie: str, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr(protocol, "BODY_TIMEOUT", 0.1)
    monkeypatch.setattr(protocol, "CHECK_INTERVAL", 0.01)
    with raw.Connection(front.port) as client:
        client.send(head(len(BODY), cookie) + BODY[: protocol.LEAST_RECEIVED - 1])
        assert client.finish().last.status == 408
    assert front.to_flask == 0
    wait_until(lambda: not front.front._bridge._uploads, "its place to be free")
    assert any("path=/upload status=408" in line for line in log.lines())


def test_an_upload_that_goes_on_fast_enough_may_take_longer_than_a_form(
    front: FrontServer, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_TIMEOUT", 0.1)
    monkeypatch.setattr(protocol, "CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(protocol, "LEAST_RECEIVED", 1000)
    with raw.Connection(front.port) as client:
        client.send(head(len(BODY), cookie, "Connection: close"))
        sent = 0
        for _ in range(3):  # deadlines
            client.send(BODY[sent : sent + 2000])
            sent += 2000
            wait_until(lambda: on_time(front) == sent, "another deadline")  # noqa: B023  # used at once
        client.send(BODY[sent:])
        answer = client.finish().last
    assert (answer.status, answer.body.decode()) == (200, DIGEST)


def test_an_upload_that_is_cut_off_reaches_no_view_and_frees_its_place(
    front: FrontServer, cookie: str, log: Log
) -> None:
    with raw.Connection(front.port) as client:
        client.send(head(len(BODY), cookie) + BODY[:-1])
        wait_until(lambda: received(front) == len(BODY) - 1, "all but a byte")
    wait_until(lambda: not front.front._bridge._uploads, "its place to be free")
    assert front.to_flask == 0
    assert any("path=/upload status=499" in line for line in log.lines())


@pytest.fixture
def halves(front: FrontServer, cookie: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[raw.Connection]]:
    """Give as many unfinished uploads as there may be, all by one member."""
    monkeypatch.setattr(bridge, "MOST_UPLOADS_EACH", bridge.MOST_UPLOADS + 1)
    clients = [raw.Connection(front.port) for _ in range(bridge.MOST_UPLOADS)]
    for client in clients:
        client.send(head(len(BODY), cookie, "Connection: close") + BODY[:-1])
    wait_until(lambda: front.front._bridge._uploads.total() == len(clients), "all of them")
    yield clients
    for client in clients:
        client.socket.close()


def test_so_many_uploads_may_come_in_at_once_and_others_are_served_beside_them(
    front: FrontServer, halves: list[raw.Connection], cookie: str
) -> None:
    assert raw.talk(front.port, head(len(BODY), cookie)).last.status == 503
    assert front.ask("/login").status == 200
    form = front.ask("/login", "Content-Type: application/x-www-form-urlencoded", method="POST", body=b"username=ada")
    assert form.status == 422  # the password is missing
    assert front.on_loop(lambda: protocol.totals.buffered) <= len(halves) * protocol.MOST_RAW_BODY
    for client in halves:
        client.send(BODY[-1:])
        assert client.finish().last.body.decode() == DIGEST
    assert front.ask("/upload", cookie, "Content-Type: image/png", method="POST", body=BODY).text == DIGEST


def test_a_member_uploads_two_things_at_once_and_leaves_room_for_others(
    front: FrontServer, cookie: str, bob: Visitor
) -> None:
    clients = [raw.Connection(front.port) for _ in range(bridge.MOST_UPLOADS_EACH)]
    for client in clients:
        client.send(head(len(BODY), cookie) + BODY[:-1])
    wait_until(lambda: front.front._bridge._uploads.total() == len(clients), "all of them")
    assert raw.talk(front.port, head(len(BODY), cookie)).last.status == 429
    bobs = f"Cookie: session={bob.session_id()}"
    assert front.ask("/upload", bobs, "Content-Type: image/png", method="POST", body=BODY).text == DIGEST
    for client in clients:
        client.socket.close()
    wait_until(lambda: not front.front._bridge._uploads, "their places to be free")


def test_without_a_front_the_same_bodies_are_read(app: Flask, ada: Visitor) -> None:
    for size, status in ((LARGEST, 200), (LARGEST + 1, 413)):
        answer = ada.client.post("/upload", data=bytes(size), content_type="image/png")
        assert answer.status_code == status


def test_a_route_that_takes_uploads_has_no_variable_parts(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    app.add_url_rule("/upload/<name>", view_func=takes_upload(LARGEST)(lambda name: name))
    with pytest.raises(ValueError, match="variable parts"):
        init_uploads(app)
