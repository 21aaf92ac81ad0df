"""The log as a deployer reads it, and HTTPS as the router sees to it."""

import io
import os
import re
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from flask import Flask
from redis import Redis
from werkzeug.test import create_environ, run_wsgi_app

from app.config import Config
from app.front.log import Output
from app.front.wsgi_middleware import FrontMiddleware
from tests.conftest import PASSWORD, Log, Visitor
from tests.servers import wait_until

HTTPS = {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_FOR": "192.0.2.1"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def test_a_request_is_one_line_that_says_what_it_cost(visitor: Visitor, log: Log) -> None:
    visitor.get("/")
    visitor.get("/")
    visitor.get("/healthz")
    built, hit, health = log.lines()
    assert re.fullmatch(
        r"method=GET path=/ status=200 ms=\d+ request_id=[0-9a-f]{32} redis=3 sql=2 cache=miss", built
    ), built
    assert re.search(r" redis=1 sql=0 cache=hit$", hit), hit
    assert re.search(r" redis=0 sql=0 cache=-$", health), health


def test_no_secret_is_ever_logged(visitor: Visitor, log: Log, redis: Redis, app: Flask) -> None:
    visitor.post("/register", username="ada", email="ada@example.org", password=PASSWORD)
    visitor.log_out()
    visitor.log_in("ada", "a wrong one")
    visitor.log_in("ada")
    visitor.get("/login?next=/home&token=in-the-query")
    visitor.publish("a private thought")
    written = "\n".join(log.lines())
    for secret in (PASSWORD, "a wrong one", str(visitor.session_id()), "in-the-query", "ada@example.org", "private"):
        assert secret not in written


def test_an_error_ahead_of_flask_has_its_line_too(log: Log, config: Config) -> None:
    def fails(_environ: object, _start_response: object) -> list[bytes]:
        raise RuntimeError("the cause")

    with pytest.raises(RuntimeError, match="the cause"):
        run_wsgi_app(FrontMiddleware(fails, config), create_environ("/odd"))
    (line,) = log.lines()
    assert line.startswith("method=GET path=/odd status=500 ")


def test_an_odd_path_stays_on_its_line(visitor: Visitor, log: Log) -> None:
    visitor.get("/a%20b%22c%0Astatus=200%00%E2%80%AE")
    (line,) = log.lines()
    assert "\n" not in line
    assert r'path="/a b' in line or r'path="/a b\"' in line
    assert line.isprintable()


class Stdout(io.StringIO):
    """Standard output that can be broken."""

    broken: type[Exception] | None = None

    def flush(self) -> None:
        if self.broken:
            self.truncate(0)
            self.seek(0)
            raise self.broken


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Stdout:
    stdout = Stdout()
    monkeypatch.setattr("app.front.log.sys", SimpleNamespace(stdout=stdout))
    return stdout


@pytest.mark.parametrize("error", [OSError, BrokenPipeError, ValueError])
def test_a_write_that_fails_ends_no_log_and_what_was_lost_is_counted(stdout: Stdout, error: type[Exception]) -> None:
    output = Output()
    stdout.broken = error
    output.put("lost", at_once=True)
    wait_until(lambda: not output._lines, "it to be tried")
    output.put("lost too", at_once=True)
    wait_until(lambda: not output._lines, "it to be tried")
    stdout.broken = None
    output.put("kept", at_once=True)
    wait_until(lambda: "kept" in stdout.getvalue(), "the thread to write")
    wait_until(lambda: "dropped" in stdout.getvalue(), "it to say what was lost")
    assert stdout.getvalue().count("dropped") == 1
    assert "2 lines of the log were dropped" in stdout.getvalue()


def test_a_log_that_nobody_reads_keeps_so_many_lines_and_counts_the_others(
    stdout: Stdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.front.log.MOST_LINES", 5)
    output = Output()
    output._has_thread = True  # it is stuck
    for number in range(12):
        output.put(f"line {number}")
    output.flush()
    output.put("line 12")
    output.flush()
    *kept, dropped, last = stdout.getvalue().splitlines()
    assert kept == [f"line {number}" for number in range(5)]
    assert 'event="7 lines of the log were dropped"' in dropped
    assert last == "line 12"


def test_a_log_without_a_thread_for_now_gets_one_with_a_later_line(
    stdout: Stdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    output = Output()
    with monkeypatch.context() as patched:
        patched.setattr("threading.Thread.start", refuse)
        output.put("one")
    output.put("two", at_once=True)
    wait_until(lambda: stdout.getvalue() == "one\ntwo\n", "both to be written")


def test_a_child_process_writes_its_own_lines_and_not_its_parents(stdout: Stdout) -> None:
    output = Output()
    output._has_thread = True  # it is slow
    output.put("the parent's")
    begin, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            output.put("the child's", at_once=True)
            wait_until(stdout.getvalue, "its own thread to write")
            os.write(end, stdout.getvalue().encode())
        finally:
            os._exit(0)
    os.close(end)
    with os.fdopen(begin) as pipe:
        assert pipe.read() == "the child's\n"
    os.waitpid(child, 0)
    output.flush()
    assert stdout.getvalue() == "the parent's\n"


def test_the_error_page_shows_the_id_that_the_log_has(app: Flask, visitor: Visitor, log: Log) -> None:
    def broken() -> str:
        raise RuntimeError("the cause")

    app.testing = False
    app.add_url_rule("/broken", view_func=broken)
    response = visitor.get("/broken")
    request_id = response.headers["X-Request-ID"]
    assert response.status_code == 500
    assert request_id in response.text
    assert "the cause" not in response.text
    written = "\n".join(log.lines())
    assert f"request_id={request_id}" in written
    assert "RuntimeError: the cause" in written
    assert "level=error" in written


def test_the_routers_id_is_kept_and_a_strangers_is_not(make_app: Callable[..., Flask]) -> None:
    for proxies, given, kept in (
        (1, "0a1b-2c", True),
        (0, "0a1b-2c", False),
        (1, "x y\n", False),
        (1, "a" * 201, False),
    ):
        visitor = Visitor(make_app(trusted_proxies=proxies).test_client(), HTTP_X_REQUEST_ID=given)
        assert (visitor.get("/healthz").headers["X-Request-ID"] == given) == kept


def test_behind_the_router_everyone_is_sent_to_https(make_app: Callable[..., Flask]) -> None:
    client = make_app(on_heroku=True, trusted_proxies=1).test_client()
    plain = client.get("/@ada?before=7", headers={"X-Forwarded-Proto": "http", "Host": "pipit.example.org"})
    assert plain.status_code == 308
    assert plain.headers["Location"] == "https://pipit.example.org/@ada?before=7"
    assert "Strict-Transport-Security" not in plain.headers
    secure = client.get("/", headers={"X-Forwarded-Proto": "https"})
    assert secure.status_code == 200
    assert secure.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_health_answers_without_a_redirect(make_app: Callable[..., Flask]) -> None:
    client = make_app(on_heroku=True, trusted_proxies=1).test_client()
    for path in ("/healthz", "/readyz"):
        assert client.get(path).status_code == 200


def test_off_heroku_nobody_is_redirected(visitor: Visitor) -> None:
    response = visitor.get("/")
    assert response.status_code == 200
    assert "Strict-Transport-Security" not in response.headers


def test_over_https_the_cookies_are_guarded_by_the_browser_itself(make_app: Callable[..., Flask]) -> None:
    visitor = Visitor(make_app(on_heroku=True, trusted_proxies=1).test_client(), **HTTPS)
    cookies = visitor.register("ada").headers.getlist("Set-Cookie")
    names = {cookie.split("=")[0] for cookie in cookies}
    assert names >= {"__Host-session", "__Host-device"}
    assert all("Secure;" in cookie and "Path=/" in cookie and "HttpOnly" in cookie for cookie in cookies)


def test_an_unknown_host_is_told_so(make_app: Callable[..., Flask]) -> None:
    client = make_app(trusted_hosts=("pipit.example.org",)).test_client()
    response = client.get("/", headers={"Host": "evil.example.org"})
    assert response.status_code == 400
    assert "TRUSTED_HOSTS" in response.text
    assert client.get("/", headers={"Host": "pipit.example.org"}).status_code == 200
