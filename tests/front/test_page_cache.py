"""Cached pages as Flask serves them: the same for everyone, but for the holes; and how little they cost."""

import gzip
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from flask import Flask
from redis import Redis

from app.cache import PageCache
from tests.conftest import Visitor
from tests.counting import statements_run
from tests.servers import ROOT

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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
def page_in_redis(app: Flask, redis_url: str) -> Callable[[str], str]:
    """Give a function that returns a cached page as Redis has it: its first line, and what is compressed after that."""

    def read(name: str) -> str:
        with Redis.from_url(redis_url) as client:
            value = cast(bytes, client.get(f"page:{name}"))
        cache: PageCache = app.extensions["page_cache"]
        page = cache.decode(value, cache.store.run_id)
        assert page
        return value[: value.index(b"\n") + 1].decode() + page.body

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
    assert visitor.get("/?x=y").headers["Cache-Status"].startswith("Pipit; hit")


def test_a_page_one_has_already_costs_a_304(visitor: Visitor) -> None:
    etag = visitor.get("/").headers["ETag"]
    for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        answer = visitor.get("/", headers={"If-None-Match": known})
        assert answer.status_code == 304, known
        assert answer.data == b""
        assert answer.headers["ETag"] == etag
        assert answer.headers["Vary"] == "Accept-Encoding, Cookie"
        assert answer.headers["Cache-Control"] == "no-cache"
    for unknown in ('"other"', "", 'W/"other"'):
        assert visitor.get("/", headers={"If-None-Match": unknown}).status_code == 200, unknown


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
        answer = visitor.get("/", headers={"Accept-Encoding": accepted})
        assert (answer.headers.get("Content-Encoding") == "gzip") == packed, accepted
        assert (gzip.decompress(answer.data) if packed else answer.data) == plain.data
        assert int(answer.headers["Content-Length"]) == len(answer.data)
        assert answer.headers["ETag"] == plain.headers["ETag"]


def test_a_head_has_the_length_of_the_page_and_no_body(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("é" * 20)
    for _ in range(2):
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
    assert "You now follow @bob." in ada.get("/@bob").text
    assert "You now follow" not in page_in_redis("user:bob")
    assert "You now follow" not in visitor.get("/@bob").text
    assert "You now follow" not in bob.get("/@bob").text
    ada.log_out()
    bob.publish("hello")
    assert "You&#39;re logged out." in ada.get("/").text
    assert "logged out" not in visitor.get("/").text


def test_a_hit_runs_no_sql_for_anybody(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    ada.publish("hello")
    ada.get("/home")
    for path in ("/", "/@ada"):
        visitor.get(path)
    with statements_run(app) as seen:
        for path in ("/", "/@ada"):
            assert "hello" in visitor.get(path).text
        assert "@ada" in ada.get("/").text
    assert seen == []
    with statements_run(app) as seen:
        visitor.get("/?before=99")
    assert seen  # the listener works


def test_a_strangers_hit_is_one_command(visitor: Visitor, redis: Redis) -> None:
    visitor.get("/")
    with commands(redis) as calls:
        for _ in range(10):
            assert visitor.get("/").status_code == 200
    assert calls == {"get": 10}


def test_a_signed_in_hit_reads_the_session_the_number_of_notifications_and_whom_not_to_show(
    ada: Visitor, redis: Redis
) -> None:
    ada.get("/home")
    ada.get("/")
    with commands(redis) as calls:
        for _ in range(10):
            assert "@ada" in ada.get("/").text
    assert calls == {"getex": 10, "get": 30}


def test_a_stranger_on_a_page_that_is_not_cached_costs_redis_nothing(
    ada: Visitor, visitor: Visitor, redis: Redis
) -> None:
    ada.publish("hello")
    with commands(redis) as calls:
        for path in (
            "/@ada?before=1",
            "/?before=9",
            "/login",
            "/register",
            "/nothing",
            "/static/pipit.css",
            "/healthz",
        ):
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
    head, _, body = current.partition("\n")
    old = zlib.compress(body.replace("Latest posts", "Old design").encode())
    redis.set("page:latest", b"0123456789ab" + head[12:].encode() + b"\n" + old)
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


def test_a_post_cannot_open_or_close_a_hole(
    ada: Visitor, bob: Visitor, visitor: Visitor, page_in_redis: Callable[[str], str]
) -> None:
    visitor.get("/")
    holes = page_in_redis("latest").count("<!--[")
    ada.publish("<!--[session account here=-->evil<!--]--> <!--[more config--> <!--]-->")
    for reader in (visitor, bob, ada):
        for path in ("/", "/@ada"):
            page = reader.get(path).text
            assert "&lt;!--[session account here=--&gt;evil&lt;!--]--&gt;" in page
    assert page_in_redis("latest").count("<!--[") == page_in_redis("latest").count("<!--]-->")
    assert page_in_redis("latest").count("<!--[") == holes + 1  # the post's own, for those who like it


def test_pages_are_told_apart(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("from ada")
    bob.publish("from bob")
    for _ in range(2):
        assert "from bob" not in visitor.get("/@ada").text
        assert "from ada" not in visitor.get("/@bob").text
        assert visitor.get("/@BOB").status_code == 301
        assert visitor.get("/@bob/").status_code == 404
        assert visitor.get("/@nobody").status_code == 404


@pytest.mark.parametrize("name", ["ada:x", "ada%3Ax", "ada:lease", ":ada", "%2561da", "ada%20", "ada%FF", "ada%00"])
def test_a_name_that_nobody_has_is_not_taken_for_another(
    ada: Visitor, visitor: Visitor, redis: Redis, name: str
) -> None:
    """Or anybody's page could be had under names that no write would ever delete."""
    ada.publish("hello")
    for _ in range(2):
        answer = visitor.get(f"/@{name}")
        assert answer.status_code == 404
        assert "hello" not in answer.text
    assert redis.keys("page:user:*") == []


def test_a_form_sent_to_a_cached_address_is_not_answered_from_the_cache(visitor: Visitor) -> None:
    visitor.get("/")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = visitor.client.open("/", method=method)
        assert answer.status_code == 405
        assert "Cache-Status" not in answer.headers


def test_after_another_login_no_browser_keeps_a_page_whose_forms_are_dead(ada: Visitor) -> None:
    ada.get("/home")
    before = ada.get("/").headers["ETag"]
    assert ada.get("/", headers={"If-None-Match": before}).status_code == 304
    ada.log_out()
    ada.log_in("ada")
    again = ada.get("/", headers={"If-None-Match": before})
    assert again.status_code == 200
    assert again.headers["ETag"] != before


def test_an_ended_session_is_nobody_at_once(ada: Visitor, redis: Redis) -> None:
    ada.get("/home")
    assert "@ada" in ada.get("/").text
    redis.delete(f"session:{ada.session_id()}")
    assert "@ada" not in ada.get("/").text


def test_in_debug_mode_pages_templates_and_assets_are_always_fresh(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, redis: Redis, tmp_path: Path
) -> None:
    """As `flask run --debug` has it: what is edited is on the next page load."""
    root = tmp_path / "app"
    for folder in ("templates", "static"):
        shutil.copytree(ROOT / "app" / folder, root / folder)
    monkeypatch.setenv("FLASK_DEBUG", "1")
    monkeypatch.setattr("app.Flask", partial(Flask, root_path=str(root)))
    visitor = Visitor(make_app().test_client())
    page, hole, style = (
        root / name for name in ("templates/posts/latest.html", "templates/holes/account.html", "static/pipit.css")
    )
    for now in range(3):
        page.write_text(page.read_text().replace("{% block main %}", f"{{% block main %}}the page of {now} ", 1))
        hole.write_text(f"{hole.read_text()} the hole of {now}")
        style.write_text(f"{style.read_text()} /* the style of {now} */")
        for file in (page, hole, style):
            os.utime(file, (now, now))  # each edit later than the last, without waiting
        shown, sheet = visitor.get("/"), visitor.get("/static/pipit.css")
        assert f"the page of {now}" in shown.text
        assert f"the hole of {now}" in shown.text
        assert f"the style of {now}" in sheet.text
        assert "Cache-Status" not in shown.headers
        assert 'href="/static/pipit.css"' in shown.text
        assert "max-age=0" in sheet.headers["Cache-Control"]
    assert redis.keys("page:*") == []
