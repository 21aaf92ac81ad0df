"""Cached pages: the same for everyone, but for the holes; and how little they cost."""

import gzip
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from flask import Flask
from redis import Redis
from sqlalchemy import event

from app.cache import PageCache
from app.extensions import db
from app.front import page_cache
from tests.conftest import Visitor
from tests.servers import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@contextmanager
def statements(app: Flask) -> Iterator[list[str]]:
    """Collect the SQL statements that run meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def commands(redis: Redis) -> Iterator[dict[str, int]]:
    """Count the commands that reach Redis meanwhile."""
    calls: dict[str, int] = {}
    redis.config_resetstat()
    yield calls
    for name, stats in cast(dict[str, dict[str, int]], redis.info("commandstats")).items():
        command = name.removeprefix("cmdstat_")
        if not command.startswith("config"):
            calls[command] = stats["calls"]


@pytest.fixture
def page_in_redis(redis: Redis) -> Callable[[str], str]:
    def read(name: str) -> str:
        return cast(str, redis.get(f"page:{name}"))

    return read


def test_the_second_look_is_a_hit(ada: Visitor, visitor: Visitor) -> None:
    for path in ("/", "/@ada"):
        first, second = visitor.get(path), visitor.get(path)
        assert first.headers["Cache-Status"] == "Pipit; fwd=miss; stored"
        assert re.fullmatch(r"Pipit; hit; ttl=(60|59)", second.headers["Cache-Status"])
        assert second.data == first.data
        assert second.headers["ETag"] == first.headers["ETag"]
        for answer in (first, second):
            assert answer.headers["Vary"] == "Accept-Encoding, Cookie"
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_page_with_a_query_is_not_a_cached_one(ada: Visitor, visitor: Visitor) -> None:
    visitor.get("/")
    assert "Cache-Status" not in visitor.get("/?before=5").headers
    assert "Cache-Status" not in visitor.get("/@ada?before=5").headers
    assert visitor.get("/?x=y").headers["Cache-Status"].startswith("Pipit; hit")  # Flask's hit, not the layer's


def test_a_page_one_has_already_costs_a_304(app: Flask, visitor: Visitor, new_visitor: Callable[[], Visitor]) -> None:
    etag = visitor.get("/").headers["ETag"]
    flask_only = {"query_string": "x=y"}  # the layer leaves URLs with a query to Flask
    for kwargs in ({}, flask_only):
        for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
            answer = visitor.get("/", headers={"If-None-Match": known}, **kwargs)
            assert answer.status_code == 304, (known, kwargs)
            assert answer.data == b""
            assert answer.headers["ETag"] == etag
            assert answer.headers["Vary"] == "Accept-Encoding, Cookie"
            assert answer.headers["Cache-Control"] == "no-cache"
        for unknown in ('"other"', "", 'W/"other"'):
            assert visitor.get("/", headers={"If-None-Match": unknown}, **kwargs).status_code == 200, unknown


def test_a_304_ends_when_the_page_changes(ada: Visitor, visitor: Visitor) -> None:
    etag = visitor.get("/").headers["ETag"]
    ada.publish("news")
    answer = visitor.get("/", headers={"If-None-Match": etag})
    assert answer.status_code == 200
    assert "news" in answer.text


def test_a_page_with_ones_name_in_it_costs_a_304_too(ada: Visitor, bob: Visitor) -> None:
    ada.get("/home")
    ada.get("/")
    first = ada.get("/")
    etag = first.headers["ETag"]
    assert etag.startswith("W/")
    assert first.headers["Cache-Control"] == "private, no-cache"
    answer = ada.get("/", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.data) == (304, b"")
    assert bob.get("/", headers={"If-None-Match": etag}).status_code == 200  # another name
    bob.publish("news")
    assert ada.get("/", headers={"If-None-Match": etag}).status_code == 200


def test_a_stranger_does_not_get_a_304_for_a_signed_in_page(ada: Visitor, visitor: Visitor) -> None:
    etag = ada.get("/").headers["ETag"]
    assert visitor.get("/", headers={"If-None-Match": etag}).status_code == 200
    ada_etag_after_logout = ada.get("/").headers["ETag"]
    ada.log_out()
    answer = ada.get("/", headers={"If-None-Match": ada_etag_after_logout})
    assert answer.status_code == 200
    assert "@ada" not in answer.text


def test_a_browser_that_takes_gzip_gets_the_page_in_it(visitor: Visitor) -> None:
    plain = visitor.get("/")
    for accepted, packed in (("gzip, deflate, br", True), ("gzip;q=0, br", False), ("br", False)):
        for kwargs in ({}, {"query_string": "x=y"}):  # from the layer, and from Flask
            answer = visitor.get("/", headers={"Accept-Encoding": accepted}, **kwargs)
            assert (answer.headers.get("Content-Encoding") == "gzip") == packed, accepted
            assert (gzip.decompress(answer.data) if packed else answer.data) == plain.data
            assert int(answer.headers["Content-Length"]) == len(answer.data)
            assert answer.headers["ETag"] == plain.headers["ETag"]


def test_a_head_has_the_length_of_the_page_and_no_body(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("é" * 20)
    for _ in range(2):  # through Flask, then through the layer
        head = visitor.client.head("/")
        assert head.data == b""
        assert int(head.headers["Content-Length"]) == len(visitor.get("/").data)


def test_a_stranger_can_warm_the_page_with_a_head(visitor: Visitor, page_in_redis: Callable[[str], str]) -> None:
    visitor.client.head("/")
    assert "Latest posts" in page_in_redis("latest")
    assert visitor.get("/").headers["Cache-Status"].startswith("Pipit; hit")


# Everyone's page and one's own part of it


def test_a_viewer_sees_their_name_on_a_page_that_holds_nobodys(
    ada: Visitor, bob: Visitor, visitor: Visitor, page_in_redis: Callable[[str], str]
) -> None:
    for reader, own, other in ((ada, "@ada", "@bob"), (bob, "@bob", "@ada")):
        page = reader.get("/").text
        assert own in page
        assert other not in page
        assert 'action="/logout"' in page
    for page in (page_in_redis("latest"), visitor.get("/").text):
        assert "@ada" not in page
        assert "@bob" not in page
        assert "csrf_token" not in page
        assert 'href="/login"' in page


def test_a_page_first_built_for_somebody_with_a_message_keeps_it_from_everyone_else(
    ada: Visitor, bob: Visitor, visitor: Visitor, page_in_redis: Callable[[str], str]
) -> None:
    ada.follow("bob")  # now /@bob is not cached, and a message waits for ada
    assert "You follow @bob." in ada.get("/@bob").text
    assert "You follow" not in page_in_redis("user:2")
    assert "You follow" not in visitor.get("/@bob").text
    assert "You follow" not in bob.get("/@bob").text
    ada.log_out()
    bob.publish("hello")
    assert "You&#39;re logged out." in ada.get("/").text
    assert "logged out" not in visitor.get("/").text


def test_a_hit_runs_no_sql_for_anybody(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    ada.publish("hello")
    ada.get("/home")
    for path in ("/", "/@ada"):
        visitor.get(path)
    with statements(app) as seen:
        for path in ("/", "/@ada"):
            assert "hello" in visitor.get(path).text
        assert "@ada" in ada.get("/").text
    assert seen == []
    with statements(app) as seen:
        visitor.get("/?before=99")
    assert seen  # the listener works


def copied(app: Flask, visitor: Visitor, path: str = "/") -> None:
    """Look at a page until the process serves its own copy."""
    cache: PageCache = app.extensions["page_cache"]
    visitor.get(path)
    wait_until(lambda: cache.broadcast.listening, "the process to listen")
    wait_until(lambda: "detail=memory" in visitor.get(path).headers["Cache-Status"], "a copy")


def test_a_strangers_hit_is_one_command_a_second_at_most(app: Flask, visitor: Visitor, redis: Redis) -> None:
    copied(app, visitor)
    with commands(redis) as calls:
        for _ in range(10):
            assert visitor.get("/").status_code == 200
    assert calls.get("get", 0) <= 1
    assert calls.keys() <= {"get"}


def test_a_signed_in_hit_is_one_command_that_reads_the_session(app: Flask, ada: Visitor, redis: Redis) -> None:
    ada.get("/home")
    copied(app, ada)
    with commands(redis) as calls:
        for _ in range(10):
            assert "@ada" in ada.get("/").text
    assert calls["getex"] == 10
    assert calls.get("get", 0) <= 1


def test_a_stranger_on_a_page_that_is_not_cached_costs_redis_nothing(
    ada: Visitor, visitor: Visitor, redis: Redis
) -> None:
    ada.publish("hello")
    with commands(redis) as calls:
        for path in ("/@ada/1", "/?before=9", "/login", "/register", "/nothing", "/static/pipit.css", "/healthz"):
            visitor.get(path)
    assert calls == {}


def test_somebody_elses_cookie_does_not_cost_a_stranger_the_fast_way(visitor: Visitor, redis: Redis) -> None:
    visitor.get("/")
    visitor.client.set_cookie("_ga", "GA1.2.3")
    with commands(redis) as calls:
        answer = visitor.get("/")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert calls == {"get": 1}


# What must never be served


def test_another_versions_page_is_not_served(
    visitor: Visitor, redis: Redis, page_in_redis: Callable[[str], str]
) -> None:
    visitor.get("/")
    current = page_in_redis("latest")
    redis.set("page:latest", "0123456789ab" + current[12:].replace("Latest posts", "Old design"))
    answer = visitor.get("/")
    assert "Old design" not in answer.text
    assert answer.headers["Cache-Status"] == "Pipit; fwd=miss; stored"
    assert page_in_redis("latest")[:12] == current[:12]


def test_bytes_that_are_not_a_page_are_not_served(visitor: Visitor, redis: Redis) -> None:
    visitor.get("/")
    for junk in (b"", b"junk", b"\xff\xfe\n\x80", b"a b c\n"):
        redis.set("page:latest", junk)
        answer = visitor.get("/")
        assert answer.status_code == 200
        assert "Nobody has posted yet" in answer.text


def test_a_post_cannot_open_or_close_a_hole(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("<!--[account-->evil<!--account]--> <!--[config--> <!--flashes]-->")
    for reader in (visitor, bob, ada):
        for path in ("/", "/@ada"):
            page = reader.get(path).text
            assert "&lt;!--[account--&gt;evil&lt;!--account]--&gt;" in page
            assert page.count("<!--[flashes-->") == page.count("<!--flashes]-->") <= 1


def test_the_layer_tells_pages_apart(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("from ada")
    bob.publish("from bob")
    for _ in range(2):
        assert "from bob" not in visitor.get("/@ada").text
        assert "from ada" not in visitor.get("/@bob").text
        assert visitor.get("/@BOB").status_code == 301
        assert visitor.get("/@bob/").status_code == 404
        assert visitor.get("/@nobody").status_code == 404


def test_a_form_sent_to_a_cached_address_is_not_answered_from_the_cache(visitor: Visitor) -> None:
    visitor.get("/")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = visitor.client.open("/", method=method)
        assert answer.status_code == 405
        assert "Cache-Status" not in answer.headers


def test_a_full_memory_of_paths_starts_anew_and_serves_on(
    ada: Visitor, bob: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    monkeypatch.setattr(page_cache, "REMEMBERED_PATHS", 2)
    paths = ("/", "/@ada", "/@bob")
    for _ in range(3):
        for path in paths:
            assert visitor.get(path).status_code == 200
    assert visitor.get("/@bob").headers["Cache-Status"].startswith("Pipit; hit")


def test_after_another_login_no_browser_keeps_a_page_whose_forms_are_dead(ada: Visitor) -> None:
    ada.get("/home")
    before = ada.get("/").headers["ETag"]
    assert ada.get("/", headers={"If-None-Match": before}).status_code == 304
    ada.log_out()
    ada.log_in("ada")
    again = ada.get("/", headers={"If-None-Match": before})
    assert again.status_code == 200
    assert again.headers["ETag"] != before


def test_a_signed_in_look_ahead_of_flask_is_what_flask_shows(app: Flask, ada: Visitor, bob: Visitor) -> None:
    ada.get("/home")
    bob.get("/home")
    token = re.compile(r'name="csrf_token" value="[^"]+"')
    for visitor, name in ((ada, "@ada"), (bob, "@bob")):
        copied(app, visitor)
        ahead = visitor.get("/")
        flask = visitor.get("/", query_string="x=y")  # the layer leaves URLs with a query to Flask
        assert token.sub("", ahead.text) == token.sub("", flask.text)
        assert name in ahead.text
        assert ahead.headers["ETag"] == flask.headers["ETag"]
        assert ahead.headers["Cache-Control"] == "private, no-cache"
        assert visitor.client.post("/logout", data={"csrf_token": _token(ahead.text)}).status_code == 302


def _token(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


def test_a_message_is_shown_by_flask_though_the_layer_knows_the_page(app: Flask, ada: Visitor) -> None:
    ada.get("/home")
    copied(app, ada)
    ada.publish("hello")
    assert "Published." in ada.get("/").text
    assert "Published." not in ada.get("/").text
    assert "hello" in ada.get("/").text


def test_an_ended_session_is_nobody_at_once(app: Flask, ada: Visitor, redis: Redis) -> None:
    ada.get("/home")
    copied(app, ada)
    redis.delete(f"session:{ada.session_id()}")
    assert "@ada" not in ada.get("/").text
