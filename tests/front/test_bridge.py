"""The bridge to Flask: only complete requests reach a thread, and only whole answers come back."""

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from flask import Flask, Response, request

from app import costs
from app.front import bridge as bridge_module
from app.front.bridge import IN_MEMORY, MAX_CONTENT_LENGTH, Bridge, DisconnectedError, Visit
from app.front.responses import Response as FrontResponse
from tests.conftest import Log
from tests.front import raw
from tests.front.conftest import Run
from tests.servers import PATIENCE, wait_until
from tests.serving import FrontServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

FORM = b"application/x-www-form-urlencoded"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def visit(*headers: tuple[bytes, bytes], method: str = "GET", path: bytes = b"/", query: bytes = b"") -> Visit:
    scope = {
        "http_version": "1.1",
        "raw_path": path,
        "query_string": query,
        "headers": list(headers),
        "server": ("127.0.0.1", 5000),
    }
    return Visit(scope, method, dict(headers), "https", "192.0.2.1", costs.RequestStats("an-id", 0.0))


def body(*parts: bytes, more: bool = False) -> Callable[[], Awaitable[Any]]:
    """Return what ASGI calls `receive`: the body's parts, then the end; or a client that hangs up before it."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if more:
        messages.append({"type": "http.disconnect"})
    else:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    left = iter(messages)

    async def receive() -> Any:
        return next(left)

    return receive


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


class Seen:
    """An application that notes the environments it is called with, and what it reads there."""

    def __init__(self) -> None:
        self.environs: list[WSGIEnvironment] = []
        self.bodies: list[bytes] = []

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        self.environs.append(environ)
        self.bodies.append(environ["wsgi.input"].read())
        start_response("200 OK", [("Content-Type", "text/plain"), ("X-Two", "1"), ("X-Two", "2")])
        return [b"hello ", b"there"]


class Held:
    """An application whose requests wait until they may finish."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.may_finish = threading.Event()

    def __call__(self, _environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        self.began.release()
        assert self.may_finish.wait(PATIENCE)
        start_response("200 OK", [])
        return [b"done"]


def bridged(
    run: Run, application: "WSGIApplication", test: Callable[[Bridge], Awaitable[None]], threads: int = 1
) -> None:
    """Run a test with a bridge to an application."""

    async def main() -> None:
        bridge = Bridge(application, threads)
        try:
            await asyncio.wait_for(test(bridge), PATIENCE)
        finally:
            bridge.close()
            for thread in bridge._threads:
                await asyncio.to_thread(thread.join, PATIENCE)
                assert not thread.is_alive()

    run(main)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


# Answers


def test_an_answer_comes_back_whole(run: Run) -> None:
    async def test(bridge: Bridge) -> None:
        answer = await bridge.answer(visit(), body())
        assert answer.status == 200
        assert answer.body == b"hello there"
        assert answer.headers[:3] == [(b"content-type", b"text/plain"), (b"x-two", b"1"), (b"x-two", b"2")]

    bridged(run, Seen(), test)


def test_the_application_is_called_as_the_standard_has_it(run: Run) -> None:
    """PEP 3333; the standard library's own checker sees to that."""

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        read = environ["wsgi.input"].read(10)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([read])

    async def test(bridge: Bridge) -> None:
        sent = visit((b"content-type", FORM), (b"host", b"a"), length(4), method="POST", query=b"b=%20")
        answer = await bridge.answer(sent, body(b"four"))
        assert (answer.status, answer.body) == (200, b"four")

    bridged(run, validator(application), test)


def test_what_an_application_writes_comes_before_what_it_returns(run: Run) -> None:
    def application(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"one ")
        write(b"two ")
        return [b"three"]

    async def test(bridge: Bridge) -> None:
        assert (await bridge.answer(visit(), body())).body == b"one two three"

    bridged(run, application, test)


@pytest.mark.parametrize("parts", [1, 3, 500])
def test_a_long_answer_waits_for_its_reader_on_the_disk(run: Run, parts: int) -> None:
    size = IN_MEMORY * 3 // parts

    def application(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [])
        return (bytes([number % 256]) * size for number in range(parts))

    async def test(bridge: Bridge) -> None:
        answer = await bridge.answer(visit(), body())
        assert not isinstance(answer.body, bytes)
        with answer.body as spooled:
            assert spooled.fileno() > 0  # a file
            assert spooled.read() == b"".join(bytes([number % 256]) * size for number in range(parts))

    bridged(run, application, test)


class Closing:
    """An iterable that notes that it was closed, and may fail on the way."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield b"half"
        if self.fails:
            raise LookupError("the cause")
        yield b" and half"

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("fails", [False, True])
def test_what_an_application_returns_is_closed_once_whatever_happens(
    run: Run, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    content = Closing(fails=fails)

    def application(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [])
        return content

    async def test(bridge: Bridge) -> None:
        answer = await bridge.answer(visit(), body())
        assert (answer.status, b"half" in bytes_of(answer)) == ((500, False) if fails else (200, True))
        assert content.closed == 1

    bridged(run, application, test)
    assert ("LookupError: the cause" in caplog.text) == fails


def bytes_of(answer: FrontResponse) -> bytes:
    assert isinstance(answer.body, bytes)
    return answer.body


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_an_error_is_a_500_that_tells_nothing_and_the_thread_goes_on(
    run: Run, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    seen = Seen()

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/broken":
            raise error("the cause")
        return seen(environ, start_response)

    async def test(bridge: Bridge) -> None:
        for _ in range(2):
            broken = await bridge.answer(visit(path=b"/broken"), body())
            assert broken.status == 500
            assert b"cause" not in bytes_of(broken)
            assert dict(broken.headers)[b"content-length"] == b"%d" % len(bytes_of(broken))
            assert (await bridge.answer(visit(), body())).status == 200

    bridged(run, application, test)
    assert f"{error.__name__}: the cause" in caplog.text


# Threads


def test_as_many_requests_run_at_once_as_there_are_threads(run: Run) -> None:
    together = threading.Barrier(4)

    def application(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        together.wait(PATIENCE)
        start_response("200 OK", [])
        return []

    async def test(bridge: Bridge) -> None:
        answers = await asyncio.gather(*(bridge.answer(visit(), body()) for _ in range(4)))
        assert [answer.status for answer in answers] == [200] * 4

    bridged(run, application, test, threads=4)


def test_beyond_those_who_may_wait_the_answer_is_a_503_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge_module, "MOST_WAITING", 2)
    held = Held()

    async def test(bridge: Bridge) -> None:
        waiting = [asyncio.ensure_future(bridge.answer(visit(), body())) for _ in range(3)]  # one runs, two wait
        await asyncio.sleep(0)
        refused = await bridge.answer(visit(), body())
        assert refused.status == 503
        assert dict(refused.headers)[b"retry-after"] == b"5"
        assert dict(refused.headers)[b"content-length"] == b"%d" % len(bytes_of(refused))
        held.may_finish.set()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * 3
        assert (await bridge.answer(visit(), body())).status == 200

    bridged(run, held, test)
    assert "wait for a thread already" in caplog.text


def test_a_request_counts_until_its_thread_is_done_though_nobody_waits_for_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or those who hang up could keep all threads busy, and the queue would seem empty."""
    monkeypatch.setattr(bridge_module, "MOST_WAITING", 1)
    held = Held()

    async def test(bridge: Bridge) -> None:
        gone = [asyncio.ensure_future(bridge.answer(visit(), body())) for _ in range(2)]
        await until(lambda: held.began.acquire(blocking=False))
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
        assert bridge._under_way == 2
        assert (await bridge.answer(visit(), body())).status == 503
        held.may_finish.set()
        await until(lambda: bridge._under_way == 0)
        assert (await bridge.answer(visit(), body())).status == 200

    bridged(run, held, test)


def test_each_request_has_a_context_of_its_own(run: Run) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    seen: list[str] = []

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        seen.append(name.get())
        name.set(environ["PATH_INFO"])
        start_response("200 OK", [])
        return []

    async def test(bridge: Bridge) -> None:
        name.set("the loop")
        for path in (b"/ada", b"/bob"):
            await bridge.answer(visit(path=path), body())

    bridged(run, application, test)
    assert seen == ["nobody", "nobody"]


def test_what_a_request_costs_is_counted_for_that_request(run: Run) -> None:
    def application(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        costs.current().sql += 1
        start_response("200 OK", [])
        return []

    async def test(bridge: Bridge) -> None:
        for _ in range(2):
            looked = visit()
            await bridge.answer(looked, body())
            assert looked.request.sql == 1

    bridged(run, application, test)


def test_a_thread_keeps_nothing_of_a_request_that_is_done(run: Run) -> None:
    bodies: list[weakref.ref[IO[bytes]]] = []

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        bodies.append(weakref.ref(environ["wsgi.input"]))
        start_response("200 OK", [])
        return []

    async def test(bridge: Bridge) -> None:
        await bridge.answer(visit(length(4), method="POST"), body(b"four"))
        await until(lambda: bodies[0]() is None)

    bridged(run, application, test)


def test_what_is_queued_is_answered_before_the_threads_end(run: Run) -> None:
    held = Held()

    async def test(bridge: Bridge) -> None:
        waiting = [asyncio.ensure_future(bridge.answer(visit(), body())) for _ in range(5)]
        await asyncio.sleep(0)
        bridge.close()
        held.may_finish.set()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * 5

    bridged(run, held, test, threads=2)


# Requests


def test_the_application_gets_the_request_as_it_came(run: Run) -> None:
    seen = Seen()

    async def test(bridge: Bridge) -> None:
        headers = [
            (b"host", b"pipit.example.org"),
            (b"content-type", FORM),
            length(7),
            (b"accept", b"text/html"),
            (b"accept", b"*/*"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2; c=3"),
            (b"x-odd", b"caf\xe9"),
        ]
        sent = visit(*headers, method="POST", path=b"/%40ada/caf%C3%A9/%FF%2F%00", query=b"a=%20&b=+")
        sent.scope["http_version"] = "1.0"
        await bridge.answer(sent, body(b"one", b"=two"))
        (environ,) = seen.environs
        expected = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/@ada/caf\xc3\xa9/\xff/\x00",  # bytes, as latin-1
            "QUERY_STRING": "a=%20&b=+",
            "SERVER_PROTOCOL": "HTTP/1.0",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "5000",
            "REMOTE_ADDR": "192.0.2.1",
            "CONTENT_TYPE": FORM.decode(),
            "CONTENT_LENGTH": "7",
            "HTTP_HOST": "pipit.example.org",
            "HTTP_ACCEPT": "text/html,*/*",
            "HTTP_COOKIE": "a=1; b=2; c=3",
            "HTTP_X_ODD": "caf\xe9",
            "wsgi.url_scheme": "https",
        }
        assert {name: environ[name] for name in expected} == expected
        assert "HTTP_CONTENT_LENGTH" not in environ
        assert environ[costs.ENVIRON_KEY] is sent.request
        assert seen.bodies == [b"one=two"]

    bridged(run, seen, test)


def test_a_body_of_unknown_length_has_its_length_when_it_is_there(run: Run) -> None:
    seen = Seen()

    async def test(bridge: Bridge) -> None:
        await bridge.answer(visit((b"transfer-encoding", b"chunked"), method="POST"), body(b"one", b"two", b"three"))
        assert seen.bodies == [b"onetwothree"]
        assert seen.environs[0]["CONTENT_LENGTH"] == "11"
        assert "HTTP_TRANSFER_ENCODING" not in seen.environs[0]

    bridged(run, seen, test)


@pytest.mark.parametrize("size", [MAX_CONTENT_LENGTH + 1, 10**12])
def test_of_a_body_that_is_too_large_the_application_learns_only_the_size(run: Run, size: int) -> None:
    seen = Seen()

    async def nothing() -> Any:
        raise AssertionError("nobody reads it")

    async def test(bridge: Bridge) -> None:
        await bridge.answer(visit(length(size), method="POST"), nothing)
        assert seen.bodies == [b""]
        assert seen.environs[0]["CONTENT_LENGTH"] == str(size)

    bridged(run, seen, test)


def test_a_body_of_unknown_length_is_read_no_further_than_is_allowed(run: Run) -> None:
    seen = Seen()
    part = b"x" * 8192
    read = 0

    async def endless() -> Any:
        nonlocal read
        read += len(part)
        return {"type": "http.request", "body": part, "more_body": True}

    async def test(bridge: Bridge) -> None:
        await bridge.answer(visit((b"transfer-encoding", b"chunked"), method="POST"), endless)
        assert seen.bodies == [b""]
        assert MAX_CONTENT_LENGTH < int(seen.environs[0]["CONTENT_LENGTH"]) == read <= MAX_CONTENT_LENGTH + len(part)

    bridged(run, seen, test)


@pytest.mark.parametrize("head", [length(100), (b"transfer-encoding", b"chunked")])
def test_a_form_that_is_cut_off_never_reaches_the_application(run: Run, head: tuple[bytes, bytes]) -> None:
    seen = Seen()

    async def test(bridge: Bridge) -> None:
        with pytest.raises(DisconnectedError) as error:
            await bridge.answer(visit(head, method="POST"), body(b"name=a", b"da", more=True))
        assert error.value.status == 499
        assert bridge._under_way == 0
        assert (await bridge.answer(visit(), body())).status == 200
        assert seen.bodies == [b""]

    bridged(run, seen, test)


# On the wire


def test_a_request_that_is_too_large_is_a_413_and_reaches_no_view(app: Flask, front: FrontServer) -> None:
    for size, status in ((MAX_CONTENT_LENGTH - 100, 400), (MAX_CONTENT_LENGTH + 1, 413), (5 * MAX_CONTENT_LENGTH, 413)):
        form = f"Content-Type: {FORM.decode()}"
        reply = front.ask("/login", form, method="POST", body=b"username=" + b"x" * (size - 9))
        assert reply.status == status, size
        front.hang_up()


def test_a_form_cut_off_on_the_wire_reaches_no_view_and_has_its_line(app: Flask, front: FrontServer, log: Log) -> None:
    before = len(log.lines())
    with raw.Connection(front.port) as client:
        client.send(b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nusername=ada")
    (line,) = wait_until(lambda: log.lines()[before:], "the line")
    assert line.startswith("method=POST path=/login status=499 ")
    assert front.to_flask == 0


def test_a_long_answer_arrives_whole_and_the_next_one_after_it(
    make_app: Callable[..., Flask], serve: Callable[[Flask], FrontServer]
) -> None:
    app = make_app()
    text = b"".join(b"%08d" % number for number in range(IN_MEMORY // 2))
    app.add_url_rule("/long", view_func=lambda: Response(text, mimetype="text/plain"))
    app.add_url_rule("/piecemeal", "piecemeal", lambda: Response(iter([text[:9], text[9:]]), mimetype="text/plain"))
    app.add_url_rule("/short", "short", lambda: Response(iter([b"one ", b"two"]), mimetype="text/plain"))
    app.add_url_rule("/none", "none", lambda: Response(status=204))
    front = serve(app)
    for _ in range(2):
        for path, whole in (("/long", text), ("/piecemeal", text), ("/short", b"one two"), ("/none", b"")):
            reply = front.ask(path)
            assert reply.body == whole
            assert reply.header("content-length") == (str(len(whole)) if whole else "")
            assert front.ask(path, method="HEAD").body == b""


def test_a_view_sees_whole_paths_and_forms(
    make_app: Callable[..., Flask], serve: Callable[[Flask], FrontServer]
) -> None:
    app = make_app()
    app.config["WTF_CSRF_ENABLED"] = False
    app.add_url_rule(
        "/echo/<path:rest>",
        "echo",
        lambda rest: f"{rest} {request.query_string!r} {request.form['a']}",
        methods=["POST"],
    )
    reply = serve(app).ask(
        "/echo/caf%C3%A9%2Fx?q=%2B", f"Content-Type: {FORM.decode()}", method="POST", body="a=☕".encode()
    )
    assert reply.text == "café/x b'q=%2B' ☕"
