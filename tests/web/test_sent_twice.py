"""The same form sent twice is one post: by an impatient click, by the back button, at once."""

import html
import re

from flask import Flask
from sqlalchemy import func, select

from app.extensions import db
from app.models import Post
from tests.conftest import Visitor, in_threads
from tests.web.test_posts import shown


def form_on(visitor: Visitor, path: str) -> dict[str, str]:
    """Return the hidden fields of the form to write a post on a page."""
    page = visitor.get(path).text
    found = re.findall(r'<input[^>]*type="hidden"[^>]*>', page.partition('class="compose"')[2])
    fields = (re.findall(r'(?:name|value)="([^"]*)"', field) for field in found)
    return {name: html.unescape(value) for name, value in fields}


def count(app: Flask) -> int:
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(Post)) or 0


def test_a_form_that_is_sent_again_is_one_post(app: Flask, ada: Visitor) -> None:
    form = form_on(ada, "/home") | {"body": "hello"}
    assert form["form_key"]
    answers = [ada.client.post("/posts", data=form) for _ in range(3)]
    assert {(answer.status_code, answer.headers["Location"]) for answer in answers} == {(302, "/home")}
    assert shown(ada.get("/home").text) == ["hello"]
    assert count(app) == 1


def test_a_reply_that_is_sent_again_leads_to_the_same_reply(app: Flask, ada: Visitor, bob: Visitor) -> None:
    ada.publish("tea?")
    form = form_on(bob, "/@ada/1") | {"body": "yes"}
    answers = [bob.client.post("/posts", data=form) for _ in range(2)]
    assert {answer.headers["Location"] for answer in answers} == {"/@bob/2#post-2"}
    assert count(app) == 2


def test_another_text_or_another_form_is_another_post(app: Flask, ada: Visitor, bob: Visitor) -> None:
    two_tabs = [form_on(ada, "/home") for _ in range(2)]
    for form, body in zip(two_tabs, ("one", "two"), strict=True):
        assert ada.client.post("/posts", data=form | {"body": body}).status_code == 302
    ada.client.post("/posts", data=form_on(ada, "/home") | {"body": "two"})  # who says it again means it
    bob.client.post("/posts", data=form_on(bob, "/home") | {"form_key": two_tabs[0]["form_key"], "body": "one"})
    assert shown(ada.get("/").text) == ["one", "two", "two", "one"]


def test_a_form_that_is_sent_many_times_at_once_is_one_post(app: Flask, ada: Visitor) -> None:
    form = form_on(ada, "/home") | {"body": "hello"}
    cookie = ada.session_id()
    statuses = []

    def send(_number: int) -> None:
        client = app.test_client()
        client.set_cookie("session", str(cookie))
        statuses.append(client.post("/posts", data=form).status_code)

    in_threads(8, send)
    assert statuses == [302] * 8
    assert count(app) == 1


def test_a_form_without_a_key_is_a_post_each_time(app: Flask, ada: Visitor) -> None:
    """As browsers send that got their page from the version before."""
    for _ in range(2):
        ada.publish("hello")
    form = form_on(ada, "/home") | {"body": "hello", "form_key": "x" * 101}
    assert ada.client.post("/posts", data=form).status_code == 422
    assert count(app) == 2
