"""Early answers: gunicorn's worker gets from Pipit what a whole request would get, and less only of gunicorn's ado."""

import gc
import json
import os
import re
import runpy
import socket
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import gunicorn.http.wsgi
import pytest
from flask import Flask
from gunicorn.config import Config as GunicornConfig
from gunicorn.http.parser import RequestParser
from redis import Redis

from app.config import parse_redis_url
from tests import servers
from tests.conftest import Log, Visitor
from tests.counting import commands_sent
from tests.servers import ROOT, clean_environ

CLIENT = ("127.0.0.1", 5)
CHANGES = {"date", "x-request-id"}  # from answer to answer
WHERE = re.compile(r"hit; .*")  # for how long still, and from which memory


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@dataclass(frozen=True)
class Reply:
    """What a browser gets, and how."""

    status: str
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes
    stays_open: bool
    early: bool  # it took no WSGI request

    @property
    def page(self) -> tuple[object, ...]:
        """Return what must be the same whichever way the answer took."""
        headers = sorted((name, "" if name in CHANGES else WHERE.sub("hit", value)) for name, value in self.headers)
        return self.status, headers, self.body, self.stays_open


@dataclass
class Server:
    """gunicorn's worker, with one app, in this process."""

    worker: Any
    made: int = 0  # WSGI requests
    last_body: Any = None  # of the last request, a weak reference

    def ask(self, path: str, *headers: str, method: str = "GET", version: str = "1.1") -> Reply:
        lines = [f"{method} {path} HTTP/{version}", *headers]
        if not any(header.startswith("Host:") for header in headers):
            lines.append("Host: pipit.example.org")
        raw = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
        made_before = self.made
        ours, browsers = socket.socketpair()
        with ours, browsers:
            connection = SimpleNamespace(sock=ours, client=CLIENT, server=("127.0.0.1", 80))
            request = next(RequestParser(self.worker.cfg, iter([raw]), CLIENT))
            self.last_body = weakref.ref(request.body)
            stays_open = self.worker.handle_request(request, connection)
            ours.close()
            received = b"".join(iter(lambda: browsers.recv(65536), b""))
        head, _, body = received.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        split = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in fields)]
        return Reply(status, split, body, stays_open, early=self.made == made_before)

    def ask_whole(self, path: str, *headers: str, method: str = "GET") -> Reply:
        """Ask with a header twice, which is nothing for an early answer."""
        reply = self.ask(path, *headers, "X-Odd: 1", "X-Odd: 2", method=method)
        assert not reply.early
        return reply


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Give a function that makes the worker of gunicorn.conf.py serve an app; keyword arguments are gunicorn's."""
    for name in os.environ.keys() - clean_environ().keys():
        monkeypatch.delenv(name)
    worker_class = runpy.run_path(str(ROOT / "gunicorn.conf.py"))["worker_class"]
    workers = []

    def make(app: Flask, **settings: object) -> Server:
        config = GunicornConfig()
        for name, value in settings.items():
            config.set(name, value)
        application = SimpleNamespace(wsgi=lambda: app)
        log = SimpleNamespace(access=ignored, debug=ignored, info=ignored)
        worker = worker_class(1, os.getpid(), [], application, 30, config, log)
        worker.load_wsgi()
        workers.append(worker)
        server = Server(worker)
        create = gunicorn.http.wsgi.create

        def note(*request: Any) -> Any:
            server.made += 1
            return create(*request)

        monkeypatch.setattr(gunicorn.http.wsgi, "create", note)
        return server

    yield make
    for worker in workers:
        worker.tmp.close()


def ignored(*_: object) -> None:
    """Take what gunicorn logs."""


@pytest.fixture
def server(serve: Callable[..., Server], app: Flask) -> Server:
    return serve(app)


def cookie(visitor: Visitor) -> str:
    return f"Cookie: session={visitor.session_id()}"


def header(reply: Reply, name: str) -> str:
    return dict(reply.headers)[name]


# What is answered


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("known", [None, "*", "other"])
@pytest.mark.parametrize("encodings", [None, "gzip, br", "gzip;q=0"])
@pytest.mark.parametrize("signed_in", [False, True])
def test_an_early_answer_is_what_the_whole_request_gets(
    server: Server, ada: Visitor, signed_in: bool, encodings: str | None, known: str | None, method: str
) -> None:
    ada.publish("hello")
    headers = [cookie(ada)] if signed_in else []
    for path in ("/", "/@ada"):
        for _ in range(3):  # a message that is shown once, and what the layers learn
            server.ask_whole(path, *headers)
    headers += [f"Accept-Encoding: {encodings}"] if encodings else []
    headers += [f'If-None-Match: "{known}"' if known == "other" else f"If-None-Match: {known}"] if known else []
    for path in ("/", "/@ada") if not signed_in else ("/",):
        early = server.ask(path, *headers, method=method)
        assert early.early
        assert early.page == server.ask_whole(path, *headers, method=method).page
        assert early.status == ("HTTP/1.1 304 NOT MODIFIED" if known == "*" else "HTTP/1.1 200 OK")
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", header(early, "date"))
        assert re.fullmatch(r"[0-9a-f]{32}", header(early, "x-request-id"))
        if method == "GET" and known != "*":
            assert int(header(early, "content-length")) == len(early.body)
        else:
            assert early.body == b""


@pytest.mark.parametrize("wish", ["close", "Close", "keep-alive", "Keep-Alive, Upgrade", "close, TE", ""])
def test_a_connection_is_kept_or_closed_as_the_browser_wishes(server: Server, wish: str) -> None:
    server.ask("/")
    server.ask("/")
    early = server.ask("/", f"Connection: {wish}")
    assert early.early
    assert early.page == server.ask_whole("/", f"Connection: {wish}").page
    assert early.stays_open == (wish.lower() != "close")
    assert header(early, "connection") == ("keep-alive" if early.stays_open else "close")


def test_what_is_not_a_plain_look_at_a_page_goes_gunicorns_way(server: Server, ada: Visitor) -> None:
    for path in ("/", "/@ada"):
        server.ask(path)
        assert server.ask(path).early
    for odd in (
        server.ask("/?before=5"),
        server.ask("/login"),
        server.ask("/%40ada"),
        server.ask("/", method="POST"),
        server.ask("/", method="OPTIONS"),
        server.ask("/", version="1.0"),
        server.ask("/", "Connection: keep-alive", version="1.0"),
        server.ask("/", "Expect: 100-continue"),
        server.ask("/", "Accept: text/html", "Accept: */*"),
        server.ask("/", "Cookie: " + "a" * 1001),
    ):
        assert not odd.early


def test_a_connection_that_has_to_be_closed_is_left_to_gunicorn(serve: Callable[..., Server], app: Flask) -> None:
    last = serve(app, max_requests=4)
    stopping, crowded, hasty = serve(app), serve(app, threads=5, worker_connections=6), serve(app, keepalive=0)
    last.ask("/")
    assert [last.ask("/").stays_open for _ in range(3)] == [True, True, False]
    stopping.worker.alive = False
    crowded.worker.keepalived_conns.append("a connection")
    for server in (stopping, crowded, hasty):
        reply = server.ask("/")
        assert (reply.early, reply.stays_open, header(reply, "connection")) == (False, False, "close")


def test_nobody_asks_early_for_what_no_cached_page_is_known_for(app: Flask, server: Server) -> None:
    app.extensions["early_answers"].answer = None  # calling that would raise
    for path in ("/login", "/"):  # nobody has looked at the latest posts yet
        assert server.ask(path).status == "HTTP/1.1 200 OK"


def test_an_application_without_early_answers_is_served_as_ever(serve: Callable[..., Server]) -> None:
    other = Flask("other")
    other.get("/")(lambda: "hello")
    server = serve(other)
    for _ in range(2):
        reply = server.ask("/")
        assert (reply.early, reply.body, reply.stays_open) == (False, b"hello", True)


def test_the_date_goes_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.ask("/")
    for moment in (1_800_000_000.9, 1_800_000_001.0, 1_800_000_060.0):
        monkeypatch.setattr("time.time", lambda: moment)  # noqa: B023  # called in this very round
        reply = server.ask("/")
        assert reply.early
        assert parsedate_to_datetime(header(reply, "date")).timestamp() == int(moment)


def test_a_change_is_seen_early_too(server: Server, ada: Visitor) -> None:
    server.ask("/")
    assert server.ask("/").early
    ada.publish("news")
    assert b"news" in server.ask("/").body


# What needs the whole request after all


def test_a_session_is_read_once_though_its_early_look_was_in_vain(server: Server, ada: Visitor, redis: Redis) -> None:
    server.ask("/", cookie(ada))
    server.ask("/", cookie(ada))
    key = f"session:{ada.session_id()}"
    stored = json.loads(str(redis.get(key)))
    redis.set(key, json.dumps({**stored, "seen": 0}))  # so it is time to write down that it is in use
    with commands_sent(redis) as commands:
        reply = server.ask("/", cookie(ada))
    assert not reply.early
    assert b"@ada" in reply.body
    assert [command.split()[0] for command in commands].count("GETEX") == 1
    with commands_sent(redis) as commands:
        assert server.ask("/", cookie(ada)).early
    assert [command.split()[0] for command in commands].count("GETEX") == 1


def test_a_page_is_looked_for_once_though_in_vain_and_the_log_has_one_line_of_it(
    app: Flask, server: Server, log: Log
) -> None:
    server.ask("/")
    with app.extensions["page_cache"].changing("latest"):
        pass
    before = len(log.lines())
    missed, hit = server.ask("/"), server.ask("/")
    assert (missed.early, hit.early) == (False, True)
    lines = log.lines()[before:]
    assert len(lines) == 2
    for line, reply, costs in (
        (lines[0], missed, "redis=3 sql=1 cache=miss"),  # a look, the lease, the page
        (lines[1], hit, "redis=[01] sql=0 cache=hit"),
    ):
        request_id = header(reply, "x-request-id")
        assert re.fullmatch(rf"method=GET path=/ status=200 ms=\d+ request_id={request_id} {costs}", line), line


def test_what_was_found_in_vain_comes_into_nobody_elses_request(app: Flask, server: Server, ada: Visitor) -> None:
    server.ask_whole("/")
    early = app.extensions["early_answers"]
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "", "wsgi.url_scheme": "http"}
    lost = SimpleNamespace()  # a request that ends here: its connection broke
    assert early.answer({**environ, "HTTP_COOKIE": f"session={ada.session_id()}"}, lost) is None
    assert "pipit.session" in lost.found_early
    assert b"@ada" not in server.ask("/").body
    assert b"@ada" not in server.ask_whole("/").body


def test_while_redis_is_away_the_view_serves_the_page(
    serve: Callable[..., Server], make_app: Callable[..., Flask], log: Log
) -> None:
    with servers.valkey() as valkey:
        app = make_app(redis=parse_redis_url(f"redis://127.0.0.1:{valkey.port}/0"))
        ada, server = Visitor(app.test_client()), serve(app)
        ada.register("ada")
        for _ in range(3):
            reply = server.ask("/", cookie(ada))
        assert reply.early
    before = len(log.lines())
    reply = server.ask("/", cookie(ada))
    assert (reply.status, reply.early) == ("HTTP/1.1 200 OK", False)
    assert header(reply, "cache-status") == "Pipit; fwd=bypass; detail=store-unavailable"
    lines = [line for line in log.lines()[before:] if line.startswith("method=")]
    assert len(lines) == 1


def test_a_request_leaves_nothing_for_the_garbage_collector(server: Server, ada: Visitor) -> None:
    for path in ("/", "/@ada"):
        server.ask(path)
    gc.disable()
    try:
        for path, headers, early in (("/", (), True), ("/@ada", (cookie(ada),), False), ("/login", (), False)):
            reply = server.ask(path, *headers)
            assert reply.early == early
            body = server.last_body
            server.ask("/healthz")  # a thread keeps its last request for the log
            assert body() is None, path
    finally:
        gc.enable()


# On Heroku


def test_behind_a_router_the_scheme_and_the_id_are_the_routers(
    serve: Callable[..., Server], make_app: Callable[..., Flask]
) -> None:
    server = serve(make_app(on_heroku=True, trusted_proxies=1))
    secure = ("X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1", "X-Request-ID: 0a1b-2c")
    server.ask("/", *secure)
    reply = server.ask("/", *secure)
    assert reply.early
    assert header(reply, "x-request-id") == "0a1b-2c"
    assert header(reply, "strict-transport-security") == "max-age=31536000"
    assert reply.page == server.ask_whole("/", *secure).page
    plain = server.ask("/", "X-Forwarded-Proto: http", "X-Forwarded-For: 192.0.2.1")
    assert (plain.status, plain.early) == ("HTTP/1.1 308 PERMANENT REDIRECT", False)
    assert header(plain, "location") == "https://pipit.example.org/"


def test_an_unknown_host_gets_no_early_answer(serve: Callable[..., Server], make_app: Callable[..., Flask]) -> None:
    server = serve(make_app(trusted_hosts=("pipit.example.org",)))
    server.ask("/")
    assert server.ask("/").early
    reply = server.ask("/", "Host: evil.example.org")
    assert (reply.status, reply.early) == ("HTTP/1.1 400 BAD REQUEST", False)
