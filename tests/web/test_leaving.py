"""Deleting one's own account: what is asked, what goes, and what is left of it."""

import io
import re

from flask import Flask
from redis import Redis
from sqlalchemy import select

from app.cache import PageCache
from app.extensions import Base, db
from tests.conftest import PASSWORD, Visitor, csrf_token

NAME = "gertrude"


def leave(visitor: Visitor, password: str = PASSWORD) -> int:
    return visitor.post("/settings/delete", password=password).status_code


def test_it_takes_the_password(ada: Visitor, visitor: Visitor) -> None:
    answer = ada.post("/settings/delete", password="a guess")
    assert answer.status_code == 422
    assert "That&#39;s not your password." in answer.text
    assert leave(ada, "") == 422
    assert visitor.get("/@ada").status_code == 200
    assert [leave(ada, "another guess") for _ in range(4)] == [422, 422, 422, 429]


def test_whoever_left_is_gone_everywhere_and_at_once(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    elsewhere = Visitor(ada.client.application.test_client())
    elsewhere.log_in("ada")
    ada.publish("sencha? #tea")
    bob.post("/posts", form_on="/@ada/1", body="yes", reply_to="1")
    bob.publish("hm")
    for verb in ("/@bob/follow", "/posts/3/like"):
        ada.post(verb, form_on="/home")
    bob.follow("ada")
    paths = ("/", "/tags/tea", "/people", "/@bob/followers", "/@bob/3", "/@bob/2", "/feed.atom", "/search?q=sencha")
    for path in paths:
        visitor.get(path)
    assert leave(ada) == 302
    assert "Your account and everything in it have been deleted." in ada.get("/").text
    for path in paths:
        page = visitor.get(path).text
        assert "sencha?" not in page, path
        assert not re.search(r"\bada\b", page), path
    assert visitor.get("/@ada").status_code == visitor.get("/@ada/1").status_code == 404
    assert "Replying to a deleted account" in visitor.get("/@bob/2").text
    assert "<b>0</b> followers" in bob.get("/@bob").text
    assert not ada.is_signed_in()
    assert not elsewhere.is_signed_in()
    assert ada.log_in("ada").status_code == 422


def test_a_name_that_was_somebodys_is_taken_for_ever(ada: Visitor, visitor: Visitor) -> None:
    leave(ada)
    answer = visitor.post("/register", username="ADA", email="", password=PASSWORD)
    assert answer.status_code == 422
    assert "is taken" in answer.text


def test_nothing_of_an_account_is_left_in_the_database_or_in_redis(app: Flask, redis: Redis) -> None:
    """What may stay: a bare number where others answered, a hash of the name, counters for two minutes."""
    leaver = Visitor(app.test_client())
    leaver.register(NAME)
    bob = Visitor(app.test_client())
    bob.register("bob")
    leaver.post("/settings/profile", display_name="Gertrude G.", about="about gertrude", link="gertrude.example.org")
    leaver.publish("gertrude was here #gertrude")
    bob.follow(NAME)
    bob.post("/posts", form_on=f"/@{NAME}/1", body="hello", reply_to="1")
    bob.post("/posts/1/like", form_on="/")
    for verb in ("/@bob/follow", "/posts/2/like", "/@bob/mute"):
        leaver.post(verb, form_on="/@bob")
    for path in ("/", f"/@{NAME}", "/tags/gertrude", "/home", "/people", "/notifications", f"/@{NAME}/1/likes"):
        leaver.get(path)
        bob.get(path)
    leaver.post("/settings/export")
    app.extensions["background"].work_off()
    content = leaver.get("/settings/export/download").data
    form = {"csrf_token": csrf_token(leaver, "/settings/import"), "file": (io.BytesIO(content), "pipit.zip")}
    assert leaver.client.post("/settings/import", data=form).status_code == 302
    assert leave(leaver) == 302
    with app.app_context():
        rows = [
            f"{table.name}: {row}" for table in Base.metadata.sorted_tables for row in db.session.execute(select(table))
        ]
        cache: PageCache = app.extensions["page_cache"]
        kept = [key for key in redis.scan_iter("*") if not key.startswith("limit:")]
        pages = [cache.decode(*cache.store.ask("GET", key)) for key in kept if redis.type(key) == "string"]
    assert [row for row in rows if "gertrude" in row.lower()] == []
    assert len([row for row in rows if row.startswith("users")]) == 1
    left = {key for key in kept if "gertrude" in key or re.search(r":1(:|$)", key)}
    assert left <= {"page:stamp:follows:1", "page:stamp:posts-by:1"}  # random values, for a minute
    assert pages
    assert not any("gertrude" in page.body.lower() for page in pages if page)
