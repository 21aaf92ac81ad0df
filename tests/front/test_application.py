"""The front as visitors meet it: an early answer is what Flask would give, and the rest is Flask's, asked only once."""

import gc
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
from flask import Flask, request
from redis import Redis

from app import costs
from app.config import parse_redis_url
from app.front.bridge import Visit
from app.front.early_responses import EarlyResponses
from app.front.protocol import Exchange
from app.front.redis_connection import NAME
from app.front.security import HEADERS
from tests import servers
from tests.conftest import PASSWORD, Log, Visitor
from tests.counting import commands_sent, statements_run
from tests.servers import wait_until
from tests.serving import HOST, FrontServer, Reply, serving

Serve = Callable[[Flask], FrontServer]
MIMETYPES = {"atom": "application/atom+xml", "xml": "application/xml"}  # by extension
SECURE = ("X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1", "X-Request-ID: 0a1b-2c")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def cookie(visitor: Visitor) -> str:
    return f"Cookie: session={visitor.session_id()}"


def signed_in(app: Flask, name: str) -> Visitor:
    """Return somebody who has registered, and has read the message that welcomed them."""
    visitor = Visitor(app.test_client())
    assert visitor.register(name).status_code == 302
    visitor.get("/home")
    return visitor


def names(commands: list[str]) -> list[str]:
    return [command.split()[0] for command in commands]


# What is answered


@pytest.mark.parametrize("who", ["a stranger", "ada"])
def test_an_early_answer_is_what_flask_gives(make_app: Callable[..., Flask], serve: Serve, who: str) -> None:
    app = make_app(trusted_hosts=(HOST, "localhost"))
    front = serve(app)
    ada = signed_in(app, "ada")
    ada.publish("hello <you> #tea ☕")
    ada.get("/home")
    identity = [cookie(ada)] if who == "ada" else []
    paths = (
        "/",
        "/@ada",
        "/@ada/1",
        "/tags/tea",
        "/@ada/followers",
        "/@ada/following",
        "/feed.atom",
        "/@ada/feed.atom",
        "/tags/tea/feed.atom",
        "/sitemap.xml",
        *(["/home"] if identity else []),
    )
    for path in paths:
        front.ask(path, *identity)
        etag = front.ask(path, *identity).header("etag")
        for method, encodings, known in product(
            ("GET", "HEAD"), (None, "gzip, br", "gzip;q=0"), (None, "*", etag, f'"a", {etag}', '"other"')
        ):
            headers = [*identity]
            headers += [f"Accept-Encoding: {encodings}"] if encodings else []
            headers += [f"If-None-Match: {known}"] if known else []
            reply, flasks = (front.ask(f"{path}{query}", *headers, method=method) for query in ("", "?x=y"))
            case = f"{method} {path} {headers}"
            assert (reply.early, flasks.early) == (True, False), case
            assert reply.page == flasks.page, case
            unchanged = known is not None and known != '"other"'
            assert reply.status == (304 if unchanged else 200), case
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", reply.header("date"))
            assert re.fullmatch(r"[0-9a-f]{32}", reply.header("x-request-id"))
            mimetype = MIMETYPES.get(path.rpartition(".")[2], "text/html")
            assert reply.header("content-type") == ("" if unchanged else f"{mimetype}; charset=utf-8"), case
            packed = encodings == "gzip, br" and not identity and not unchanged
            assert (reply.header("content-encoding") == "gzip") == packed, case


def test_what_is_not_a_plain_look_at_a_cached_page_goes_to_flask(front: FrontServer, ada: Visitor) -> None:
    for path in ("/", "/@ada", "/%40ada"):
        front.ask(path)
        assert front.ask(path).early
    odd = [
        front.ask("/?before=5"),
        front.ask("/login"),
        front.ask("/static/pipit.css"),
        front.ask("/", method="POST"),
        front.ask("/", method="OPTIONS"),
        front.ask("/", "Accept: text/html", "Accept: */*"),
        front.ask("/", "Cookie: session=" + "a" * 1001),
        front.ask("/", "Cookie: visitor=x"),  # it may hold a message to show
        front.ask("/@" + "a" * 300),
        front.ask("/@ada/"),
        front.ask("/@ADA"),
        front.ask("/", body=b"a body"),
    ]
    assert not any(reply.early for reply in odd)


def test_a_change_is_seen_early_too(front: FrontServer, ada: Visitor) -> None:
    front.ask("/")
    assert front.ask("/").early
    ada.publish("news")
    assert b"news" in front.ask("/").body
    reply = front.ask("/")
    assert reply.early
    assert b"news" in reply.body


def test_somebody_elses_cookie_does_not_cost_a_stranger_the_fast_way(front: FrontServer, redis: Redis) -> None:
    front.ask("/")
    with commands_sent(redis) as commands:
        reply = front.ask("/", "Cookie: _ga=GA1.2.3; odd\x80; =; session-not=x")
    assert reply.early
    assert reply.header("cache-control") == "no-cache"
    assert "GETEX" not in names(commands)


def test_a_full_memory_of_paths_starts_anew_and_serves_on(
    make_app: Callable[..., Flask], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.caching.REMEMBERED_PATHS", 2)
    app = make_app()
    for name in ("ada", "bob"):
        signed_in(app, name)
    front = serve(app)
    for number in range(3):
        for path in ("/", "/@ada", "/@bob"):
            reply = front.ask(path)
            assert (reply.status, reply.early) == (200, number > 0)


def test_in_debug_mode_no_page_is_served_early(
    make_app: Callable[..., Flask], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    front = serve(make_app())
    for _ in range(3):
        reply = front.ask("/")
        assert (reply.status, reply.early, reply.header("cache-status")) == (200, False, "")


# Who is signed in


def test_each_sees_their_own_page_early(app: Flask, front: FrontServer) -> None:
    ada, bob = signed_in(app, "ada"), signed_in(app, "bob")
    front.ask("/")
    for _ in range(2):
        for headers, own, others in (
            ((cookie(ada),), b"@ada", b"@bob"),
            ((cookie(bob),), b"@bob", b"@ada"),
            ((), b"/login", b'class="menu-name"'),
        ):
            reply = front.ask("/", *headers)
            assert reply.early
            assert own in reply.body
            assert others not in reply.body
            assert reply.header("cache-control") == ("private, no-cache" if headers else "no-cache")


def test_what_fills_the_holes_is_drawn_once_for_each_visitor_and_page_and_the_oldest_is_forgotten(
    app: Flask, front: FrontServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = [signed_in(app, name) for name in ("ada", "bob", "cyd")]
    early: Any = front.front._early
    drawn: list[str] = []
    draw = early._pages.draw

    def note_and_draw(markers: Sequence[bytes], session: Any, stamps: Any) -> Any:
        drawn.extend(session["name"] for marker in markers if marker.startswith(b"account"))
        return draw(markers, session, stamps)

    monkeypatch.setattr(early._pages, "draw", note_and_draw)
    front.ask("/")
    assert front.ask("/", cookie(everyone[0])).early
    monkeypatch.setattr("app.front.early_responses.MOST_BYTES", early._bytes * 5 // 2)
    for number in (0, 1, 1, 0, 2, 2, 1, 0):
        assert front.ask("/", cookie(everyone[number])).early
        assert early._bytes == sum(remembered.size for remembered in early._remembered.values())
        assert len(early._remembered) <= 2
    assert drawn == ["ada", "bob", "cyd", "bob", "ada"]


def test_the_log_says_what_an_early_hit_has_asked_of_redis(app: Flask, front: FrontServer, log: Log) -> None:
    header = cookie(signed_in(app, "ada"))
    front.ask("/", header)
    front.wait_for_proof()
    wait_until(lambda: front.has_copy("/", header), "a copy")
    front.ask("/", header)
    assert log.lines()[-1].endswith(" redis=1 sql=0 cache=hit")  # the session; the rest were copies
    front.on_loop(front.local_cache.drop_all)
    front.ask("/", header)
    assert log.lines()[-1].endswith(
        " redis=4 sql=0 cache=hit"
    )  # the page, the number of notifications, whom not to show


def test_the_forms_on_an_early_page_work(app: Flask, front: FrontServer) -> None:
    ada = signed_in(app, "ada")
    front.ask("/")
    page = front.ask("/", cookie(ada))
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert page.early
    assert token
    sent = front.ask(
        "/logout",
        cookie(ada),
        "Content-Type: application/x-www-form-urlencoded",
        method="POST",
        body=f"csrf_token={token[1]}".encode(),
    )
    assert (sent.status, sent.header("location")) == (302, "/")
    assert not ada.is_signed_in()


def test_after_another_login_no_browser_keeps_a_page_whose_forms_are_dead(app: Flask, front: FrontServer) -> None:
    ada = signed_in(app, "ada")
    front.ask("/")
    before = front.ask("/", cookie(ada)).header("etag")
    assert front.ask("/", cookie(ada), f"If-None-Match: {before}").status == 304
    ada.log_out()
    ada.log_in("ada")
    ada.get("/home")
    again = front.ask("/", cookie(ada), f"If-None-Match: {before}")
    assert (again.status, again.early) == (200, True)
    assert again.header("etag") != before


@pytest.mark.parametrize("ended", ["deleted", "never there", "not a session"])
def test_a_browser_with_a_dead_session_is_a_stranger_on_the_fast_way(
    app: Flask, front: FrontServer, redis: Redis, ended: str
) -> None:
    ada = signed_in(app, "ada")
    front.ask("/")
    stranger = front.ask("/")
    assert "@ada" in front.ask("/", cookie(ada)).text
    key = f"session:{ada.session_id()}"
    header = cookie(ada)
    if ended == "deleted":
        redis.delete(key)
    elif ended == "not a session":
        redis.set(key, "[1]")
    else:
        header = f"Cookie: session={'A' * 22}"
    reply = front.ask("/", header)
    assert reply.early
    assert reply.page == stranger.page
    assert reply.header("set-cookie") == ""


def test_a_message_is_shown_by_flask_and_once(app: Flask, front: FrontServer) -> None:
    ada = signed_in(app, "ada")
    front.ask("/")
    assert front.ask("/", cookie(ada)).early
    ada.publish("hello")
    shown = front.ask("/", cookie(ada))
    assert not shown.early
    assert "Published." in shown.text
    again = front.ask("/", cookie(ada))
    assert again.early
    assert "Published." not in again.text
    assert "hello" in again.text


@pytest.mark.parametrize(
    "cookies", ["session={ada}; session={bob}", 'session="{ada}"', " session = {ada} ;", "a=1; session={ada}; b"]
)
def test_odd_cookies_are_read_early_as_flask_reads_them(app: Flask, front: FrontServer, cookies: str) -> None:
    ids = {name: signed_in(app, name).session_id() for name in ("ada", "bob")}
    front.ask("/")
    header = f"Cookie: {cookies.format(**ids)}"
    reply = front.ask("/", header)
    assert reply.early
    assert reply.page == front.ask("/?x=y", header).page
    assert '"menu-name">@ada<' in reply.text


def test_an_error_on_the_fast_way_leaves_the_page_to_flask(
    front: FrontServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    front.ask("/")
    monkeypatch.setattr(EarlyResponses, "answer", lambda *_: 1 / 0)
    reply = front.ask("/")
    assert (reply.status, reply.early) == (200, False)
    assert "ZeroDivisionError" in caplog.text


# What Flask has to answer after all is asked for only once


def test_a_session_is_read_once_whoever_answers(app: Flask, front: FrontServer, redis: Redis) -> None:
    ada = signed_in(app, "ada")
    front.ask("/")
    key = f"session:{ada.session_id()}"
    stored = json.loads(str(redis.get(key)))
    redis.set(key, json.dumps({**stored, "seen": 0}))  # so it is time to write down that it is in use
    with commands_sent(redis) as commands:
        reply = front.ask("/", cookie(ada))
    assert not reply.early
    assert "@ada" in reply.text
    assert names(commands).count("GETEX") == 1
    with commands_sent(redis) as commands:
        assert front.ask("/", cookie(ada)).early
    assert names(commands).count("GETEX") == 1
    with commands_sent(redis) as commands:
        assert not front.ask("/@ada", cookie(ada)).early
    assert names(commands).count("GETEX") == 1


def test_a_page_is_looked_for_once_on_a_miss_and_each_request_has_one_line(
    app: Flask, front: FrontServer, log: Log, redis: Redis
) -> None:
    front.ask("/")
    with app.extensions["page_cache"].changing("latest"):
        pass
    before = len(log.lines())
    with commands_sent(redis) as commands:
        missed = front.ask("/")
    hit = front.ask("/")
    assert (missed.early, hit.early) == (False, True)
    assert sum(command.startswith("GET page:latest") for command in commands) == 1
    lines = log.lines()[before:]
    assert len(lines) == 2
    for line, reply, cost in (
        (lines[0], missed, "redis=3 sql=2 cache=miss"),  # a look, the lease, the page
        (lines[1], hit, "redis=[01] sql=0 cache=hit"),
    ):
        request_id = reply.header("x-request-id")
        assert re.fullmatch(rf"method=GET path=/ status=200 ms=\d+ request_id={request_id} {cost}", line), line


def test_what_was_found_out_comes_into_nobody_elses_request(make_app: Callable[..., Flask], serve: Serve) -> None:
    app = make_app(threads=1)
    ada = signed_in(app, "ada")
    front = serve(app)
    for path in ("/@ada", "/?x=y"):  # with her session, on the one thread that there is
        assert 'class="menu-name">@ada<' in front.ask(path, cookie(ada)).text
        for seen in (front.ask("/?x=y"), front.ask("/login"), front.ask("/")):
            assert "menu-name" not in seen.text


def test_a_request_leaves_nothing_for_the_garbage_collector(app: Flask, front: FrontServer) -> None:
    ada = signed_in(app, "ada")

    def visit() -> None:
        for path, headers in (("/", ()), ("/", (cookie(ada),)), ("/@ada", (cookie(ada),)), ("/login", ())):
            front.ask(path, *headers)

    def left() -> Counter[str]:
        kinds = (costs.RequestStats, Visit, Exchange)
        return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))

    visit()
    gc.collect()
    gc.disable()
    try:
        before = left()
        for _ in range(5):
            visit()
        after = left()
        kept = {kind: after[kind] - before[kind] for kind in after}
        assert all(number <= 6 for number in kept.values()), kept  # each thread, and the connection, keeps its last
    finally:
        gc.enable()


# Without Redis


def test_while_redis_is_away_flask_builds_the_pages_and_then_they_are_early_again(
    make_app: Callable[..., Flask], serve: Serve, log: Log
) -> None:
    port = servers.free_port()
    with servers.valkey(port):
        app = make_app(redis=parse_redis_url(f"redis://127.0.0.1:{port}/0"))
        ada, front = signed_in(app, "ada"), serve(app)
        wait_until(lambda: front.ask("/", cookie(ada)).early, "an early answer")
    wait_until(lambda: front.local_cache.link.connection is None, "the loss to be noticed")
    before = len(log.lines())
    for headers in ((), (cookie(ada),)):
        reply = front.ask("/", *headers)
        assert (reply.status, reply.early) == (200, False)
        assert reply.header("cache-status") == "Pipit; fwd=bypass; detail=store-unavailable"
        assert reply.header("set-cookie") == ""
    assert front.ask("/home", cookie(ada)).status == 503
    assert len([line for line in log.lines()[before:] if line.startswith("method=")]) == 3
    with servers.valkey(port):
        wait_until(lambda: front.ask("/").early, "an early answer")


def test_a_redis_that_refuses_leaves_the_answer_to_flask(app: Flask, front: FrontServer, redis: Redis) -> None:
    ada = signed_in(app, "ada")
    front.ask("/")
    redis.delete(f"session:{ada.session_id()}")
    redis.lpush(f"session:{ada.session_id()}", "not a string")
    reply = front.ask("/", cookie(ada))
    assert (reply.status, reply.early) == (200, False)
    assert "@ada" not in reply.text


def test_a_front_that_may_have_one_connection_serves_all_the_same(make_app: Callable[..., Flask], serve: Serve) -> None:
    front = serve(make_app(redis_max_connections=1))
    for _ in range(2):
        reply = front.ask("/")
        assert (reply.status, reply.early) == (200, False)
    assert reply.header("cache-status").startswith("Pipit; hit")


# Its end


def test_a_front_that_stops_leaves_no_connection_and_no_thread(app: Flask, redis: Redis) -> None:
    def left() -> tuple[int, set[str]]:
        named = [client["name"] for client in redis.client_list()]
        return named.count(NAME), {thread.name for thread in threading.enumerate() if thread.name.startswith("flask-")}

    with serving(app) as front:
        front.ask("/")
        front.wait_for_proof()
        connections, threads = left()
        assert connections >= 1
        assert len(threads) == app.extensions["config"].threads
    wait_until(lambda: left() == (0, set()), "everything to end")


# On Heroku


def test_behind_a_router_the_scheme_and_the_id_are_the_routers(make_app: Callable[..., Flask], serve: Serve) -> None:
    front = serve(make_app(on_heroku=True, trusted_proxies=1))
    for path, early in (("/", True), ("/login", False)):
        front.ask(path, *SECURE)
        reply = front.ask(path, *SECURE)
        assert (reply.status, reply.early) == (200, early)
        assert reply.header("x-request-id") == "0a1b-2c"
        assert reply.header("strict-transport-security") == "max-age=31536000"
    assert front.ask("/", *SECURE).page == front.ask("/?x=y", *SECURE).page
    plain = front.ask("/@ada?b=%C3%A9&c", "X-Forwarded-Proto: http", "X-Forwarded-For: 192.0.2.1")
    assert (plain.status, plain.early, plain.body) == (308, True, b"")
    assert plain.header("location") == "https://pipit.example.org/@ada?b=%C3%A9&c"
    assert plain.header("strict-transport-security") == ""
    for path in ("/healthz", "/readyz"):
        assert front.ask(path).status == 200


def test_what_a_visitor_forges_ahead_of_the_router_changes_nothing(
    make_app: Callable[..., Flask], serve: Serve
) -> None:
    app = make_app(on_heroku=True, trusted_proxies=1)
    seen: list[tuple[str, str]] = []
    app.before_request(lambda: note(seen))
    front = serve(app)
    front.ask("/login", "X-Forwarded-For: 198.51.100.7, 192.0.2.1", "X-Forwarded-Proto: http, https")
    front.ask("/login", "X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
    front.ask("/login", "X_Forwarded_For: 198.51.100.7", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https")
    assert seen == [("192.0.2.1", "https")] * 3


def note(seen: list[tuple[str, str]]) -> None:
    seen.append((request.remote_addr or "", request.scheme))


def test_without_a_router_nobodys_headers_are_believed(app: Flask, serve: Serve) -> None:
    seen: list[tuple[str, str]] = []
    app.before_request(lambda: note(seen))
    front = serve(app)
    reply = front.ask("/login", *SECURE)
    assert seen == [("127.0.0.1", "http")]
    assert reply.header("x-request-id") != "0a1b-2c"
    assert reply.header("strict-transport-security") == ""


def test_an_unknown_host_gets_no_early_answer(make_app: Callable[..., Flask], serve: Serve) -> None:
    front = serve(make_app(trusted_hosts=("pipit.example.org",)))
    front.ask("/")
    assert front.ask("/").early
    assert front.ask("/", "Host: pipit.example.org:8000").early
    for host in ("evil.example.org", "pipit.example.org.evil.example", "evil@pipit.example.org"):
        for path in ("/", "/login"):
            reply = front.ask(path, f"Host: {host}")
            assert reply.status == 400
            assert reply.header("cache-status") == ""
            assert reply.header("x-content-type-options") == "nosniff"


def test_nobody_is_redirected_to_a_host_that_is_not_ours(make_app: Callable[..., Flask], serve: Serve) -> None:
    front = serve(make_app(on_heroku=True, trusted_proxies=1, trusted_hosts=("pipit.example.org",)))
    for host in ("evil.example.org", "pipit.example.org@evil.example.org", "[", "a b"):
        reply = front.ask("/x", f"Host: {host}", "X-Forwarded-Proto: http")
        assert (reply.status, reply.header("location")) == (400, "")


# What every answer has


def test_every_kind_of_answer_has_the_headers_and_no_more_than_once(
    make_app: Callable[..., Flask], serve: Serve
) -> None:
    app = make_app(on_heroku=True, trusted_proxies=1)
    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    app.add_url_rule("/broken", view_func=lambda: str(1 / 0))
    front = serve(app)
    ada = Visitor(app.test_client(), HTTP_X_FORWARDED_PROTO="https")
    ada.register("ada")
    ada.get("/home")
    value = ada.client.get_cookie("__Host-session")
    assert value
    identity = f"Cookie: __Host-session={value.value}"
    etag = front.ask("/", *SECURE).header("etag")
    answers: dict[str, tuple[int, bool, Reply]] = {
        "a cached page": (200, True, front.ask("/", *SECURE)),
        "a cached page with a name in it": (200, True, front.ask("/", identity, *SECURE)),
        "a page one has already": (304, True, front.ask("/", f"If-None-Match: {etag}", *SECURE)),
        "a page": (200, False, front.ask("/login", *SECURE)),
        "a redirect": (302, False, front.ask("/home", *SECURE)),
        "a permanent redirect": (301, False, front.ask("/@ADA", *SECURE)),
        "an error": (404, False, front.ask("/nothing", *SECURE)),
        "a method not allowed": (405, False, front.ask("/logout", *SECURE)),
        "an error of ours": (500, False, front.ask("/broken", *SECURE)),
        "a static file": (200, False, front.ask("/static/pipit.css", *SECURE)),
        "health": (200, False, front.ask("/healthz", *SECURE)),
        "readiness": (200, False, front.ask("/readyz", *SECURE)),
        "a head": (200, True, front.ask("/", *SECURE, method="HEAD")),
    }
    for kind, (status, early, reply) in answers.items():
        assert (reply.status, reply.early) == (status, early), kind
        for name, value_ in HEADERS:
            assert reply.header(name.decode()) == value_.decode(), kind
        assert reply.header("strict-transport-security") == "max-age=31536000", kind
        assert reply.header("x-request-id") == "0a1b-2c", kind
        assert reply.header("server") == "", kind
        assert reply.header("date"), kind
        again = Counter(name for name, _ in reply.headers if name != "set-cookie")
        assert max(again.values()) == 1, (kind, again)


def test_an_odd_path_stays_on_its_line(front: FrontServer, log: Log) -> None:
    before = len(log.lines())
    front.ask("/a%20b%22c%0Astatus=200%00%E2%80%AE%FF")
    (line,) = log.lines()[before:]
    assert r'path="/a b\"c\nstatus=200' in line
    assert line.isprintable()


def test_the_error_page_shows_the_id_that_the_log_has(
    make_app: Callable[..., Flask], serve: Serve, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    app.add_url_rule("/broken", view_func=lambda: str(1 / 0))
    reply = serve(app).ask("/broken")
    request_id = reply.header("x-request-id")
    assert reply.status == 500
    assert request_id in reply.text
    assert sum(f"request_id={request_id}" in line for line in log.lines()) == 2  # the error, and the request
    assert "ZeroDivisionError" in caplog.text


def test_no_secret_is_ever_logged(app: Flask, front: FrontServer, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    ada = Visitor(app.test_client())
    ada.post("/register", username="ada", email="ada@example.org", password=PASSWORD)
    ada.publish("a private thought")
    for path in ("/", "/@ada", "/?token=in-the-query", "/home?token=in-the-query", "/nothing"):
        front.ask(path, cookie(ada), "X-Secret: a-header")
        front.ask(path)
    form = f"username=ada&password={PASSWORD}&csrf_token=forged".encode()
    front.ask("/login", "Content-Type: application/x-www-form-urlencoded", method="POST", body=form)
    written = "\n".join(log.lines()) + caplog.text
    assert written.count("path=/home ") >= 2
    for secret in (PASSWORD, "forged", str(ada.session_id()), "in-the-query", "a-header", "private", "ada@example.org"):
        assert secret not in written


def test_an_early_hit_runs_no_sql(app: Flask, front: FrontServer) -> None:
    ada = signed_in(app, "ada")
    for path in ("/", "/@ada"):
        front.ask(path)
    front.ask("/", cookie(ada))
    with statements_run(app) as statements:
        assert front.ask("/").early
        assert front.ask("/@ada").early
        assert front.ask("/", cookie(ada)).early
    assert statements == []
