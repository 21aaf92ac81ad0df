"""The HTML of posts that a process keeps: for whom, for how long, and how much of it."""

import random
import re
from collections.abc import Callable

import pytest
from flask import Flask
from jinja2 import ChoiceLoader, DictLoader

from app.extensions import db
from app.models import Post, User
from app.models.posts import Listed
from app.web import post_html
from app.web.post_html import PostHTML
from tests.conftest import Visitor, in_threads

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

LIKE = '{% if viewer %}<input name="csrf_token" value="{{ csrf_token() }}">{% else %}Log in to like{% endif %}'


def publish_many(app: Flask, *bodies: str) -> list[int]:
    """Publish posts by ada; return their ids."""
    with app.app_context():
        ada = User.named("ada")
        assert ada
        posts = [Post(author_id=ada.id, body=body) for body in bodies]
        db.session.add_all(posts)
        db.session.commit()
        return [post.id for post in posts]


def html_of(app: Flask, kept: PostHTML, ids: list[int]) -> list[str]:
    with app.test_request_context("/"):
        return [str(html) for html in kept.by_id([Listed(post_id) for post_id in ids]).values()]


def test_a_mention_of_a_new_account_is_a_link_within_a_minute(
    ada: Visitor, new_visitor: Callable[[], Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("app.web.post_html.time.monotonic", lambda: now[0])
    ada.publish("where is @bob?")
    link = '<a href="/@bob" dir="ltr">@bob</a>'
    assert link not in ada.get("/home").text
    new_visitor().register("bob")
    assert link in ada.get("/@ada/1").text
    now[0] += post_html.LIFETIME - 1
    assert link not in ada.get("/home").text
    now[0] += 1
    assert link in ada.get("/home").text


def test_posts_come_in_the_order_asked_for_without_those_that_are_gone(app: Flask, ada: Visitor) -> None:
    one, two, three = publish_many(app, "one", "two", "three")
    kept = PostHTML(app)
    for known in ([], [two], [one, two, three]):
        html_of(app, kept, known)
        found = html_of(app, kept, [three, 99, one, two])
        assert [re.findall("one|two|three", html) for html in found] == [["three"], ["one"], ["two"]]


def test_a_post_that_is_deleted_while_its_page_is_built_is_left_out(
    app: Flask, ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_many(app, *(f"number {number}" for number in range(31)))
    load = Post.all_shown

    def delete_and_load(ids: list[int]) -> object:
        return load([post_id for post_id in ids if post_id != 20])

    monkeypatch.setattr(Post, "all_shown", delete_and_load)
    page = visitor.get("/").text
    assert page.count('<article class="post"') == 29
    assert "?before=2" in page


def test_what_is_kept_is_bounded_in_bytes_and_the_least_recently_shown_goes_first(
    app: Flask, ada: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_html, "MOST_BYTES", 20_000)
    ids = publish_many(app, *("x" * 200 for _ in range(50)))
    kept = PostHTML(app)
    for post_id in ids:
        html_of(app, kept, [ids[0]])
        html_of(app, kept, [post_id])
    assert ids[0] in kept._kept
    assert 8 < len(kept._kept) < 30
    assert list(kept._kept)[-3:] == [ids[-2], ids[0], ids[-1]]
    assert sum(rendered.size for rendered in kept._kept.values()) == kept._bytes <= 20_000


def test_threads_may_render_and_drop_the_same_posts(app: Flask, ada: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_html, "MOST_BYTES", 20_000)
    ids = publish_many(app, *(f"[{number}]" for number in range(60)))
    kept = PostHTML(app)

    def read(number: int) -> None:
        rng = random.Random(number)
        for _ in range(20):
            some = rng.sample(ids, 20)
            found = "".join(html_of(app, kept, some))
            assert [int(number) for number in re.findall(r"\[(\d+)\]", found)] == [ids.index(post) for post in some]

    in_threads(6, read)
    assert sum(rendered.size for rendered in kept._kept.values()) == kept._bytes <= 20_000


@pytest.mark.parametrize("first", ["/home", "/?before=99", "/"])
def test_a_hole_in_a_post_is_nobodys_whoever_asked_for_the_post_first(
    make_app: Callable[..., Flask], first: str
) -> None:
    app = make_app()
    loader = app.jinja_env.loader
    assert loader is not None
    post, _, _ = loader.get_source(app.jinja_env, "_post.html")
    with_hole = post.replace("</article>", '{{ hole("like", post_id=post.id) }}</article>')
    app.jinja_env.loader = ChoiceLoader([DictLoader({"_post.html": with_hole, "holes/like.html": LIKE}), loader])
    ada, visitor = Visitor(app.test_client()), Visitor(app.test_client())
    ada.register("ada")
    publish_many(app, "hello")
    ada.get(first)
    article = r'<article class="post".*?</article>'
    for path in ("/", "/?before=99"):
        [shown] = re.findall(article, visitor.get(path).text, re.DOTALL)
        assert "Log in to like" in shown
        assert "csrf_token" not in shown
    [shown] = re.findall(article, ada.get("/").text, re.DOTALL)
    assert "csrf_token" in shown
