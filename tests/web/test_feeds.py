"""Feeds, as a feed reader gets them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

import feedparser
import pytest
from flask import Flask
from redis import Redis

from app.extensions import db
from app.models import User
from app.models.post_text import PostText
from app.models.posts import PER_PAGE
from tests.conftest import PASSWORD, Visitor
from tests.web.test_posts import publish_many

ATOM = "{http://www.w3.org/2005/Atom}"
PATHS = ("/feed.atom", "/@ada/feed.atom", "/tags/tea/feed.atom")
SITE = "https://pipit.example.org"

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Feed:
    """A feed that was checked for what RFC 4287 demands (sections 4.1.1 and 4.1.2)."""

    root: ET.Element

    def __init__(self, reader: Visitor, path: str, **request: Any) -> None:
        answer = reader.get(path, **request)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/atom+xml; charset=utf-8"
        self.root = ET.fromstring(answer.data)  # noqa: S314  # our own
        assert self.root.tag == f"{ATOM}feed"
        for element in (self.root, *self.entries):
            for name in ("id", "title", "updated"):
                assert len(element.findall(f"{ATOM}{name}")) == 1
                assert text(element, name)
            assert text(element, "id").startswith("urn:uuid:")
            assert datetime.fromisoformat(text(element, "updated")).tzinfo
            assert link(element, "alternate")
        assert link(self.root, "self").endswith(quote(path, safe="/@%"))
        for entry in self.entries:
            assert text(entry, f"author/{ATOM}name")
        ids = [text(entry, "id") for entry in self.entries]
        assert len({*ids, text(self.root, "id")}) == len(ids) + 1

    @property
    def entries(self) -> list[ET.Element]:
        return self.root.findall(f"{ATOM}entry")

    @property
    def titles(self) -> list[str]:
        return [text(entry, "title") for entry in self.entries]


def write(app: Flask, body: str) -> None:
    with app.app_context():
        User.register("ada", None, PASSWORD).publish(PostText.parse(body))


def text(element: ET.Element, name: str) -> str:
    return element.findtext(f"{ATOM}{name}") or ""


def link(element: ET.Element, rel: str) -> str:
    (found,) = [one.get("href") or "" for one in element.findall(f"{ATOM}link") if one.get("rel") == rel]
    return found


@pytest.mark.parametrize("path", PATHS)
def test_a_feed_has_the_latest_posts_newest_first(ada: Visitor, bob: Visitor, visitor: Visitor, path: str) -> None:
    assert Feed(visitor, path).titles == []
    ada.publish("one #tea")
    bob.publish("someone else's")
    ada.publish("two #Tea")
    bobs = ["someone else's"] if path == "/feed.atom" else []
    feed = Feed(visitor, path)
    assert feed.titles == ["two #Tea", *bobs, "one #tea"]
    assert text(feed.root, "updated") == text(feed.entries[0], "updated")
    ada.post("/posts/1/delete", form_on="/@ada/1")
    assert Feed(visitor, path).titles == ["two #Tea", *bobs]


@on_sqlite
def test_a_feed_is_as_long_as_its_page(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    publish_many(app, "ada", PER_PAGE + 1)
    for path in PATHS[:2]:
        assert len(Feed(visitor, path).entries) == PER_PAGE


@on_sqlite
@pytest.mark.parametrize("path", ["/", "/@ada", "/@ada/1", "/tags/tea"])
def test_a_page_names_its_feed(ada: Visitor, visitor: Visitor, path: str) -> None:
    ada.publish("hello #tea")
    feed = "/@ada/feed.atom" if path == "/@ada/1" else f"{path.rstrip('/')}/feed.atom"
    assert '<link rel="alternate" type="application/atom+xml" title="' in visitor.get(path).text
    assert f'href="{feed}"' in visitor.get(path).text
    assert link(Feed(visitor, feed).root, "alternate") == (path if path != "/@ada/1" else "/@ada")


@on_sqlite
def test_an_entry_has_the_post_as_html(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish('<b> & "x"\n@bob #tea ]]> https://example.org/?a&b')
    (entry,) = Feed(visitor, "/feed.atom").entries
    content = entry.find(f"{ATOM}content")
    assert content is not None
    assert content.get("type") == "html"
    assert content.text == (
        '<p dir="auto">&lt;b&gt; &amp; &#34;x&#34;<br><a href="/@bob" dir="ltr">@bob</a> '
        '<a href="/tags/tea" rel="nofollow" dir="auto">#tea</a> ]]&gt; '
        '<a href="https://example.org/?a&amp;b" rel="nofollow ugc noopener" dir="ltr">https://example.org/?a&amp;b</a></p>'
    )
    assert text(entry, "title").startswith('<b> & "x" @bob')
    assert link(entry, "alternate") == "/@ada/1"
    assert text(entry, f"author/{ATOM}name") == "@ada"


@on_sqlite
def test_links_are_absolute_where_the_site_has_a_name(make_app: Callable[..., Flask]) -> None:
    app = make_app(trusted_hosts=("pipit.example.org", "www.pipit.example.org"))
    write(app, "hello @ada #tea")
    for host in ("www.pipit.example.org", "pipit.example.org"):
        for path in PATHS:
            feed = Feed(Visitor(app.test_client(), HTTP_HOST=host), path)
            links = [one.get("href") or "" for one in feed.root.iter(f"{ATOM}link")]
            links += [one.text or "" for name in ("uri", "icon") for one in feed.root.iter(ATOM + name)]
            links += [part.partition('"')[0] for part in text(feed.entries[0], "content").split('href="')[1:]]
            assert len(links) == 7
            assert all(one.startswith(f"{SITE}/") for one in links), links


@on_sqlite
@pytest.mark.parametrize("path", [*PATHS, *(f"{path}?before=9" for path in PATHS), f"/tags/{'x' * 250}/feed.atom"])
def test_nobody_puts_a_forged_host_into_a_feed(ada: Visitor, new_visitor: Callable[..., Visitor], path: str) -> None:
    ada.publish("hello @ada #tea")
    visitor = new_visitor(HTTP_HOST="evil.example")
    for _ in range(2):
        answer = visitor.get(path)
        assert answer.status_code == 200
        assert answer.mimetype == "application/atom+xml"
        assert "evil" not in answer.text


@on_sqlite
def test_the_ids_of_people_and_posts_stay_when_the_site_moves(make_app: Callable[..., Flask], redis: Redis) -> None:
    found: list[tuple[str, list[str]]] = []
    for host in ("localhost", "old.example.org", "new.example.org"):
        app = make_app(trusted_hosts=() if host == "localhost" else (host,))
        if not found:
            write(app, "hello")
        redis.flushall()
        feed = Feed(Visitor(app.test_client(), HTTP_HOST=host), "/@ada/feed.atom")
        assert host in link(feed.root, "self") or host == "localhost"
        found.append((text(feed.root, "id"), [text(entry, "id") for entry in feed.entries]))
    assert found[0] == found[1] == found[2]


@on_sqlite
@pytest.mark.parametrize("odd", ["\uffff", "\ufffe", "\x01", "\U0001f375", "\u2028"])
def test_no_character_breaks_a_feed(ada: Visitor, visitor: Visitor, odd: str) -> None:
    ada.publish(f"a{odd}b")
    assert Feed(visitor, "/feed.atom").titles
    Feed(visitor, f"/tags/x{odd}/feed.atom")


@on_sqlite
@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/@ADA/feed.atom", "/@ada/feed.atom"),
        ("/tags/CAFÉ/feed.atom", "/tags/caf%C3%A9/feed.atom"),
        ("/@nobody/feed.atom", None),
        ("/tags/a%00/feed.atom", None),
    ],
)
def test_a_feed_has_one_address(ada: Visitor, visitor: Visitor, path: str, right: str | None) -> None:
    answer = visitor.get(path)
    assert answer.status_code == (301 if right else 404)
    assert answer.headers.get("Location") == right


def test_the_feed_of_a_deleted_account_is_gone(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    ada.publish("hello #tea")
    for path in PATHS:
        assert Feed(visitor, path).titles == ["hello #tea"]
    with app.app_context():
        user = User.named("ada")
        assert user
        user.delete_account()
        db.session.remove()
    assert visitor.get("/@ada/feed.atom").status_code == 404
    assert Feed(visitor, "/feed.atom").titles == []
    assert Feed(visitor, "/tags/tea/feed.atom").titles == []


@on_sqlite
def test_a_reader_that_has_the_feed_gets_no_more(ada: Visitor, visitor: Visitor) -> None:
    for path in PATHS:
        etag = visitor.get(path).headers["ETag"]
        answer = visitor.get(path, headers={"If-None-Match": etag})
        assert (answer.status_code, answer.data) == (304, b"")
        ada.publish("news #tea")
        assert visitor.get(path, headers={"If-None-Match": etag}).status_code == 200


@on_sqlite
def test_a_feed_reader_reads_what_was_written_and_when_it_was_edited(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("one #tea")
    ada.publish("two <b> & “three” #tea\nhttps://example.org/?a=1&b=2")
    ada.post("/posts/1/edit", form_on="/home", body="one, corrected #tea")
    for path in PATHS:
        read = feedparser.parse(visitor.get(path).data)
        assert not read.bozo
        assert read.version == "atom10"
        newest, oldest = read.entries
        assert newest.summary.startswith('<p dir="auto">two &lt;b&gt; &amp; “three” <a dir="auto" href="/tags/tea"')
        assert '<br /><a dir="ltr" href="https://example.org/?a=1&amp;b=2"' in newest.summary
        assert oldest.title == "one, corrected #tea"
        assert newest.author == "@ada"
        assert newest.published_parsed == newest.updated_parsed
        assert oldest.updated_parsed >= newest.updated_parsed >= oldest.published_parsed
        assert read.feed.updated_parsed == oldest.updated_parsed
