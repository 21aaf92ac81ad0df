"""The parts of the rehearsal that would hide a mistake of Pipit's if they were wrong: its router and its build."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rehearsal import router
from tests.rehearsal.browser import Browser
from tests.rehearsal.build import RefusedError, check, named_python, procfile
from tests.rehearsal.router import Router
from tests.servers import ROOT

pytestmark = pytest.mark.server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FakeDyno:
    """Sends the same answer to each request, b"" for none."""

    def __init__(self, answer: bytes = OK) -> None:
        self.requests: list[str] = []
        self.answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(65536):
                self.requests.append(request.decode())
                connection.sendall(self.answer)


@pytest.fixture
def front() -> Iterator[Router]:
    with Router() as running:
        yield running


def dyno(front: Router, answer: bytes = OK) -> FakeDyno:
    fake = FakeDyno(answer)
    front.route(f"web.{fake.port}", fake.port)
    return fake


def test_the_router_tells_the_dyno_who_came_and_how(front: Router) -> None:
    fake = dyno(front)
    visitor = Browser(front, "127.0.0.9")
    visitor.get("/", X_Forwarded_For="192.0.2.1", X_Forwarded_Proto="http", X_Request_Id="a1b2" * 5)
    visitor.get("/", "http", X_Request_Id="too short")
    over_tls, plain = fake.requests
    assert "X-Forwarded-For: 192.0.2.1, 127.0.0.9\r\n" in over_tls
    assert "X-Forwarded-Proto: https\r\n" in over_tls
    assert over_tls.count("X-Forwarded-Proto") == 1
    assert f"X-Request-Id: {'a1b2' * 5}\r\n" in over_tls
    assert "X-Forwarded-Proto: http\r\n" in plain
    assert "X-Forwarded-Port: 80\r\n" in plain
    assert "too short" not in plain


def test_a_dyno_that_does_not_answer_costs_the_visitor_a_503(front: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "FIRST_BYTE", 0.1)
    with Router() as impatient:
        dyno(impatient, b"")
        answer = Browser(impatient).get("/")
        assert (answer.status, answer.text) == (503, "H12")
        assert [line.code for line in impatient.log] == ["H12"]


def test_dynos_take_turns_and_one_that_is_leaving_gets_nothing(front: Router) -> None:
    one, other = dyno(front), dyno(front)
    visitor = Browser(front)
    for _ in range(4):
        visitor.get("/")
    assert (len(one.requests), len(other.requests)) == (2, 2)
    front.unroute(f"web.{one.port}")
    for _ in range(4):
        visitor.get("/")
    assert (len(one.requests), len(other.requests)) == (2, 6)
    front.unroute(f"web.{other.port}")
    assert visitor.get("/").text == "H14"


def test_heroku_would_build_this_checkout(tmp_path: Path) -> None:
    for name in ("requirements.txt", "runtime.txt", "Procfile"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    check(tmp_path)
    assert named_python(tmp_path) == (3, 13)
    assert set(procfile(tmp_path)) == {"release", "web", "worker"}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("poetry.lock", "", "only the first may be there"),
        ("lib/pyvenv.cfg", "", "virtual environment"),
        ("runtime.txt", "python-3", "runtime.txt must read like python-3.13"),
        ("Procfile", "release: flask db upgrade\n", "no web process"),
    ],
)
def test_a_tree_that_heroku_would_refuse_is_refused(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    for good in ("requirements.txt", "runtime.txt", "Procfile"):
        (tmp_path / good).write_text((ROOT / good).read_text())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(RefusedError, match=complaint):
        check(tmp_path)
