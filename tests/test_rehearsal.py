"""The parts of the rehearsal that would hide a mistake if they were wrong: its router, its build, its browser."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rehearsal import build, router
from tests.rehearsal.browser import Browser, Cookie, IdleConnection
from tests.rehearsal.platform import procfile
from tests.rehearsal.report import Report
from tests.rehearsal.router import Router
from tests.servers import ROOT, wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FakeDyno:
    """Answers each request with the next of its answers; None hangs up instead, "" never answers."""

    def __init__(self, *answers: bytes | None) -> None:
        self.requests: list[str] = []
        self._answers = iter(answers)
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
                answer = next(self._answers, OK)
                if answer is None:
                    return
                connection.sendall(answer)


@pytest.fixture
def front() -> Iterator[Router]:
    with Router() as running:
        yield running


def dyno(front: Router, *answers: bytes | None) -> FakeDyno:
    fake = FakeDyno(*answers)
    front.route(f"web.{fake.port}", fake.port)
    return fake


def test_the_router_says_who_came_and_how(front: Router) -> None:
    fake = dyno(front)
    visitor = Browser(front, "127.0.0.9")
    visitor.get("/", X_Forwarded_For="192.0.2.1", X_Forwarded_Proto="http")
    visitor.get("/", "http", X_Request_Id="too short")
    over_tls, plain = fake.requests
    assert "X-Forwarded-For: 192.0.2.1, 127.0.0.9\r\n" in over_tls
    assert "X-Forwarded-Proto: https\r\n" in over_tls
    assert over_tls.count("X-Forwarded-Proto") == 1
    assert "X-Forwarded-Proto: http\r\n" in plain
    assert "X-Forwarded-Port: 80\r\n" in plain
    assert "too short" not in plain
    assert "Via: 1.1 heroku-router\r\n" in plain


def test_a_dyno_that_closed_an_idle_connection_is_asked_again_but_never_to_do_a_thing_twice(front: Router) -> None:
    fake = dyno(front, OK, None, OK, None)
    visitor = Browser(front)
    assert visitor.get("/").status == 200
    assert visitor.get("/").status == 200
    assert (front.retried, len(fake.requests)) == (1, 3)
    posted = visitor.send("POST", "/", "body=once")
    assert posted.status == 503
    assert b"H13" in posted.body
    assert len(fake.requests) == 4


def test_a_dyno_that_does_not_answer_costs_the_visitor_a_503(front: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "FIRST_BYTE", 0.1)
    dyno(front, b"")
    assert b"H12" in Browser(front).get("/").body
    wait_until(lambda: front.log, "the router's log")
    assert [line.code for line in front.log] == ["H12"]


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
    assert b"H14" in visitor.get("/").body


def test_chunks_and_bodies_without_a_length_arrive_whole(front: Router) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n"
    dyno(front, chunked, chunked)
    visitor = Browser(front)
    assert [visitor.get("/").body, visitor.get("/").body] == [b"abcde", b"abcde"]


def test_an_idle_connection_that_was_closed_is_told_from_one_that_was_not() -> None:
    for answers, outcome in (((OK, OK), "200"), ((OK, None), "closed (RemoteDisconnected)")):
        idle = IdleConnection(FakeDyno(*answers).port, 0)
        idle.run()
        assert idle.outcome == outcome


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("__Host-session=1; Secure; HttpOnly; Path=/", True),
        ("__Host-session=1; HttpOnly; Path=/", False),
        ("__Host-session=1; Secure; Path=/; Domain=example.org", False),
        ("__Host-session=1; Secure; Path=/settings", False),
        ("visitor=1", True),
    ],
)
def test_a_cookie_is_kept_as_a_browser_would(line: str, kept: bool) -> None:
    assert Cookie.parse(line).is_acceptable("https") is kept


def test_a_secure_cookie_is_not_taken_without_tls() -> None:
    assert not Cookie.parse("session=1; Secure; Path=/").is_acceptable("http")


def test_this_checkout_would_be_built(tmp_path: Path) -> None:
    for name in ("requirements.txt", "runtime.txt", "Procfile"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    assert build.check(tmp_path) == (3, 13)
    assert set(procfile(tmp_path)) == {"release", "web"}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("poetry.lock", "", "Exactly one of"),
        ("lib/pyvenv.cfg", "", "virtual environment"),
        ("runtime.txt", "python-3", "runtime.txt must read like python-3.13"),
        ("Procfile", "release: flask db upgrade\n", "no web process"),
    ],
)
def test_a_tree_that_the_platform_would_refuse_is_refused(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    for good in ("requirements.txt", "runtime.txt", "Procfile"):
        (tmp_path / good).write_text((ROOT / good).read_text())
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(build.RefusedError, match=complaint):
        build.check(tmp_path)


@pytest.mark.parametrize("text", ["3.12\n", "# of production\n3.12.4\n"])
def test_python_version_is_read_where_there_is_no_runtime_txt(tmp_path: Path, text: str) -> None:
    (tmp_path / ".python-version").write_text(text)
    assert build.named_python(tmp_path) == (3, 12)
    (tmp_path / "runtime.txt").write_text("python-3.13\n")
    assert build.named_python(tmp_path) == (3, 13)


@pytest.mark.parametrize("text", ["python-3.12", "3.12\n3.13\n", "# 3.12\n", "3"])
def test_a_python_version_that_the_platform_would_not_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / ".python-version").write_text(text)
    with pytest.raises(build.RefusedError, match=r"\.python-version must read like 3\.13"):
        build.named_python(tmp_path)


def test_a_row_that_fails_is_told_and_the_next_is_still_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    with report.row("one"):
        assert 1 + 1 == 3, "it is 2"
    with report.row("other") as row:
        row.detail = "fine"
    assert not report.all_held
    assert "it is 2" in report.table()
    assert "1 of 2 held" in report.table()
    assert "FAILED" in capsys.readouterr().out
