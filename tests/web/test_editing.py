"""Editing: for a quarter of an hour, wherever the post is shown, and nobody is told twice."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from flask import Flask
from sqlalchemy import update

from app.extensions import db
from app.models import Post, User
from app.models.post_text import PostText
from app.models.posts import EDITABLE
from tests.conftest import Visitor, in_threads
from tests.serving import FrontServer


def edit(visitor: Visitor, post_id: int, body: str) -> int:
    """Change a post's text; return the answer's status."""
    return visitor.post(f"/posts/{post_id}/edit", form_on="/home", body=body).status_code


def make_older(app: Flask, post_id: int) -> None:
    with app.app_context():
        db.session.execute(update(Post).where(Post.id == post_id).values(created_at=datetime.now(UTC) - EDITABLE))
        db.session.commit()


def unread(visitor: Visitor) -> str:
    found = re.search(r'class="count">(\d+)', visitor.get("/").text)
    return found[1] if found else "0"


def test_an_edit_shows_wherever_the_post_is_shown_and_says_so(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("tee? #tee")
    bob.follow("ada")
    bob.post("/posts", form_on="/@ada/1", body="yes", reply_to="1")
    paths = ("/", "/@ada", "/@ada/replies", "/@ada/1", "/@bob/2", "/feed.atom", "/@ada/feed.atom", "/tags/tee")
    for path in paths:
        assert "edited" not in visitor.get(path).text
        assert "tee?" in visitor.get(path).text, path
    assert "tee?" in bob.get("/home").text
    answer = ada.post("/posts/1/edit", body="tea? #tea")
    assert answer.headers["Location"] == "/@ada/1"
    assert "Saved." in ada.get("/@ada/1").text
    for path in paths[:5]:
        page = visitor.get(path).text
        assert ("tea? " in page, "tee?" in page) == (True, False), path
        assert ">edited" in page
        assert ("edited <time" in page) == (path == "/@ada/1"), path  # in a list, the word is enough
    for path in paths[5:7]:
        assert "tea? " in visitor.get(path).text
        assert "tee?" not in visitor.get(path).text
    assert "No posts with this hashtag yet." in visitor.get("/tags/tee").text
    assert "tea? " in visitor.get("/tags/tea").text
    assert "tea? " in bob.get("/home").text


def test_a_post_can_be_edited_again_and_keeps_the_tags_it_still_has(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("one #tea #cake")
    assert edit(ada, 1, "two #tea #coffee") == 302
    assert edit(ada, 1, "three #tea") == 302
    assert "three" in visitor.get("/tags/tea").text
    for tag in ("cake", "coffee"):
        assert "No posts with this hashtag yet." in visitor.get(f"/tags/{tag}").text


def test_what_cannot_be_a_post_is_not_saved_and_not_lost(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("tea?")
    answer = ada.post("/posts/1/edit", body="x" * 281)
    assert answer.status_code == 422
    assert "Shorten it by 1." in answer.text
    assert "x" * 281 in answer.text
    assert "tea?" in visitor.get("/@ada/1").text


def test_the_link_and_the_right_to_edit_end_after_a_quarter_of_an_hour(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor
) -> None:
    ada.publish("tea?")
    assert 'href="/posts/1/edit"' in ada.get("/@ada/1").text
    for other in (bob, visitor):
        assert "/posts/1/edit" not in other.get("/@ada/1").text
    assert edit(bob, 1, "coffee!") == 403
    assert visitor.get("/posts/1/edit").headers["Location"].startswith("/login")
    assert ada.get("/posts/2/edit").status_code == 404
    make_older(app, 1)
    answer = ada.post("/posts/1/edit", form_on="/home", body="coffee, if you like")
    assert answer.status_code == 403
    assert "A post can be edited for 15 minutes." in answer.text
    assert "coffee, if you like" in answer.text  # to copy
    assert "tea?" in visitor.get("/@ada/1").text
    ada.publish("another one, so that no page is as it was")
    assert ada.get("/posts/1/edit").status_code == 403


def test_a_mention_that_an_edit_adds_is_told_and_one_that_was_there_is_not_told_again(
    ada: Visitor, bob: Visitor, new_visitor: Callable[[], Visitor]
) -> None:
    mira = new_visitor()
    mira.register("mira")
    ada.publish("tea, @bob?")
    assert unread(bob) == "1"
    bob.get("/notifications")
    assert edit(ada, 1, "tea, @bob and @mira?") == 302
    assert (unread(bob), unread(mira)) == ("0", "1")
    assert edit(ada, 1, "tea?") == 302
    assert edit(ada, 1, "tea, @bob and @mira?") == 302
    assert (unread(bob), unread(mira)) == ("0", "1")
    assert "tea, " in mira.get("/notifications").text


@pytest.mark.server
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_post_above_a_reply_is_the_edited_one_early(ada: Visitor, bob: Visitor, front: FrontServer) -> None:
    ada.publish("tee?")
    bob.post("/posts", form_on="/@ada/1", body="yes", reply_to="1")
    assert "tee?" in front.ask("/@bob/2").text
    assert edit(ada, 1, "tea?") == 302
    front.ask("/@bob/2")
    reply = front.ask("/@bob/2")
    assert reply.early
    assert ("tea?" in reply.text, "tee?" in reply.text) == (True, False)


def test_an_edit_that_changes_nothing_is_none(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("tea?")
    assert edit(ada, 1, "  tea?  ") == 302
    assert "edited" not in visitor.get("/@ada/1").text


def test_a_deletion_knows_the_tags_of_an_edit_that_came_between(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    ada.publish("tea #one")
    with app.app_context():
        author, known = User.named("ada"), Post.with_id(1)
        assert author
        assert known
        db.session.expunge_all()  # what another process knows
        db.session.rollback()
        assert edit(ada, 1, "tea #two") == 302
        assert "tea " in visitor.get("/tags/two").text
        assert author.delete(known)
    assert "No posts with this hashtag yet." in visitor.get("/tags/two").text


def test_edits_at_once_tell_somebody_once(app: Flask, ada: Visitor, bob: Visitor) -> None:
    ada.publish("tea?")

    def add_mention(_number: int) -> None:
        with app.app_context():
            author, post = User.named("ada"), Post.with_id(1)
            assert author
            assert post
            assert author.edit(post, PostText.parse("tea, @bob?"))

    in_threads(4, add_mention)
    assert unread(bob) == "1"
