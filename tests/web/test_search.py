"""The search page, the directory of people and the hashtags in use, as visitors see them."""

import re
from html import unescape

import pytest
from flask import Flask

from app import rate_limit
from app.extensions import db
from app.models import Post, User
from app.models.follows import PER_PAGE
from app.models.posts import PER_PAGE as POSTS
from tests.conftest import Visitor, id_of
from tests.serving import FrontServer

PEOPLE = re.compile(r'<li data-by="\d+"><a href="/@(\w+)">')
TAGS = re.compile(r'<bdi>#(\w+)</bdi> <span class="used">(\d+ posts?)<')
OLDER = re.compile(r'rel="next" href="([^"]+)"')
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def search(visitor: Visitor, typed: str) -> str:
    answer = visitor.get("/search", query_string={"q": typed})
    assert answer.status_code == 200
    return unescape(answer.text)


# Searching


def test_a_stranger_finds_posts_and_people(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("Ada's Café is open")
    page = search(visitor, "ADA")
    assert PEOPLE.findall(page) == ["ada"]
    assert "Ada's Café is open" in page
    assert 'value="ADA"' in page
    assert "<title>“ADA” · Pipit</title>" in page


@on_sqlite
def test_the_empty_page_says_how_to_search_and_where_else_to_look(visitor: Visitor) -> None:
    for path in ("/search", "/search?q=", "/search?q=+"):
        page = visitor.get(path)
        assert page.status_code == 200
        assert "from:ada ferry" in page.text
        assert 'href="/people"' in page.text
        assert 'href="/tags"' in page.text
        assert "RateLimit" not in page.headers


@on_sqlite
def test_a_search_engine_keeps_no_search_page(visitor: Visitor) -> None:
    for path in ("/search", "/search?q=tea"):
        assert '<meta name="robots" content="noindex">' in visitor.get(path).text


@on_sqlite
@pytest.mark.parametrize("typed", ["tea", "😀", '"', "<b>"])
def test_who_finds_nothing_is_told_so(visitor: Visitor, typed: str) -> None:
    assert f"No posts found for “<bdi>{typed}</bdi>”." in search(visitor, typed)


@on_sqlite
def test_what_is_typed_is_shown_as_text(visitor: Visitor) -> None:
    page = visitor.get("/search", query_string={"q": '"><script>'}).text
    assert "<script>" not in page
    assert 'value="&#34;&gt;&lt;script&gt;"' in page


@on_sqlite
@pytest.mark.parametrize(
    ("typed", "words"), [("from:nobody tea", "There's nobody called “nobody” here."), ("x" * 201, "That's too long")]
)
def test_a_query_that_cannot_be_answered_says_why_beside_the_field(visitor: Visitor, typed: str, words: str) -> None:
    answer = visitor.get("/search", query_string={"q": typed})
    assert answer.status_code == 422
    assert words in unescape(answer.text)
    assert 'aria-describedby="q-error"' in answer.text
    assert "No posts found" not in answer.text


def test_older_results_are_a_link_away(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    author_id = id_of(app, "ada")
    with app.app_context():
        db.session.add_all(Post(author_id=author_id, body=f"ada & I {number}") for number in range(POSTS + 1))
        db.session.commit()
    first = search(visitor, '"ada"')
    link = OLDER.search(first)
    assert link
    older = visitor.get(link[1]).text
    assert "ada &amp; I 0<" in older
    assert "ada &amp; I 1<" not in older
    assert PEOPLE.findall(first) == ["ada"]
    assert PEOPLE.findall(older) == []
    assert "Back to the latest" in older
    assert "There are no older posts for" in visitor.get("/search?q=tea&before=1").text
    assert visitor.get("/search?q=tea&before=x").status_code == 404


def test_a_deleted_post_is_found_no_more(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("tea")
    assert "No posts found" not in search(visitor, "tea")
    ada.post("/posts/1/delete", form_on="/@ada/1")
    assert "No posts found" in search(visitor, "tea")


@on_sqlite
def test_too_many_searches_have_to_wait(ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "SEARCHES", 1)
    for reader, searches in ((visitor, 4), (ada, 1)):  # at one address, but only a stranger is counted by that
        found = [reader.get("/search?q=tea").status_code for _ in range(searches + 1)]
        assert found == [*searches * [200], 429]
        assert reader.get("/search").status_code == 200
    answer = visitor.get("/search?q=tea")
    assert "Too many attempts" in answer.text
    assert 'href="/search?q=tea">Back to the form' in answer.text


@on_sqlite
def test_every_page_has_a_way_to_search(ada: Visitor, visitor: Visitor) -> None:
    for reader in (ada, visitor):
        assert '<a class="icon" href="/search">' in reader.get("/").text
        assert '<a class="icon" href="/search" aria-current="page">' in reader.get("/search").text


# Everyone


@pytest.mark.server
def test_everyone_is_listed_newest_first_until_they_leave(app: Flask, visitor: Visitor, front: FrontServer) -> None:
    assert "Nobody has joined yet." in front.ask("/people").text
    for name in ("ada", "bob"):
        assert name not in PEOPLE.findall(front.ask("/people").text)
        visitor.register(name)
        visitor.log_out()
    front.ask("/people")
    reply = front.ask("/people")
    assert reply.early
    assert PEOPLE.findall(reply.text) == ["bob", "ada"]
    with app.app_context():
        bob = User.named("bob")
        assert bob
        bob.delete_account()
    assert PEOPLE.findall(front.ask("/people").text) == ["ada"]


@on_sqlite
def test_more_people_are_a_link_away(app: Flask, visitor: Visitor) -> None:
    with app.app_context():
        db.session.add_all(User(name=f"p{n}", name_key=f"p{n}", password_hash="-") for n in range(PER_PAGE + 1))
        db.session.commit()
    link = OLDER.search(visitor.get("/people").text)
    assert link
    assert PEOPLE.findall(visitor.get(link[1]).text) == ["p0"]
    assert "That&#39;s everyone." in visitor.get("/people?before=1").text


# Hashtags


@pytest.mark.server
def test_hashtags_in_use_come_and_go_with_their_posts(ada: Visitor, front: FrontServer) -> None:
    assert "No hashtags lately." in front.ask("/tags").text
    ada.publish("#tea")
    ada.publish("#Café #tea")
    front.ask("/tags")
    reply = front.ask("/tags")
    assert reply.early
    assert TAGS.findall(reply.text) == [("café", "1 post"), ("tea", "2 posts")]
    assert 'href="/tags/caf%C3%A9"' in reply.text
    ada.post("/posts/2/delete", form_on="/@ada/2")
    assert TAGS.findall(front.ask("/tags").text) == [("tea", "1 post")]
    assert "There are no more." in front.ask("/tags?before=1").text


@pytest.mark.server
def test_a_post_without_a_hashtag_leaves_the_hashtags_cached(ada: Visitor, front: FrontServer) -> None:
    front.ask("/tags")
    ada.publish("no hashtag")
    assert front.ask("/tags").early


# Older posts


def test_older_posts_are_indexed_by_a_command(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    ada.publish("tea")
    with app.app_context():
        db.session.execute(db.text("DELETE FROM post_search"))
        db.session.commit()
    assert "No posts found" in search(visitor, "tea")
    index = app.test_cli_runner().invoke(args=["post", "index"])
    assert (index.exit_code, index.output) == (0, "Search: 1 older posts indexed.\n")
    assert "No posts found" not in search(visitor, "tea")
    assert app.test_cli_runner().invoke(args=["post", "index"]).output == ""


def test_a_query_with_too_many_hashtags_says_so(visitor: Visitor) -> None:
    answer = visitor.get("/search", query_string={"q": " ".join(f"#t{letter}" for letter in "abcdef")})
    assert answer.status_code == 422
    assert "Look for 5 at most." in answer.text
