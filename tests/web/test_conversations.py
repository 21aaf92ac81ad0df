"""Conversations, as people have them: replies, the page around a post, and what is never lost."""

import html
import re
from collections.abc import Callable

import pytest
from flask import Flask

from app.models import Post
from app.models.conversations import PER_PAGE
from tests.conftest import PASSWORD, Visitor, have_joined_long_ago, in_threads
from tests.web.test_posts import TEXTAREA, shown

ANSWERED = 'name="reply_to"[^>]*value="{}"'


def reply(visitor: Visitor, permalink: str, body: str) -> str:
    """Reply on a post's page; return the path of the reply."""
    answer = visitor.post("/posts", form_on=permalink, body=body, reply_to=permalink.rpartition("/")[2])
    assert answer.status_code == 302
    return str(answer.headers["Location"].partition("#")[0])


def replies_link(page: str, post_id: int) -> str:
    """Return what a post's link to its replies says on a page."""
    post = page.partition(f'id="post-{post_id}"')[2].partition("</article>")[0]
    link = re.search(r'class="post-replies" href="[^"]+#reply">([^<]+)<', post)
    assert link
    return link[1]


def test_two_people_talk(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("tea?")
    path = "/@ada/1"
    says = ["tea?"]
    for number in range(20):
        who = bob if number % 2 == 0 else ada
        path = reply(who, path, f"reply {number}")
        says.append(f"reply {number}")
        for reader in (ada, bob, visitor):  # each sees it on the next page load
            assert shown(reader.get(path).text) == says
            assert shown(reader.get("/@ada/1").text) == says
    page = visitor.get(path).text
    assert "Replying to <a" in page
    assert '<h1 class="visually-hidden">Reply by @ada</h1>' in page


def test_a_reply_leads_to_its_place_in_the_conversation(ada: Visitor, bob: Visitor) -> None:
    ada.publish("tea?")
    answer = bob.post("/posts", form_on="/@ada/1", body="yes", reply_to="1")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/@bob/2#post-2")
    assert "Published." in bob.get("/@bob/2").text


def test_the_number_of_replies_is_there_at_once_for_who_replied_and_for_others_soon(
    ada: Visitor, bob: Visitor, visitor: Visitor
) -> None:
    ada.publish("tea?")
    assert replies_link(bob.get("/").text, 1) == "Reply"
    reply(bob, "/@ada/1", "yes")
    assert replies_link(bob.get("/").text, 1) == "1 reply"
    assert replies_link(bob.get("/@ada").text, 1) == "1 reply"
    reply(ada, "/@ada/1", "biscuits, too")
    assert replies_link(visitor.get("/").text, 1) == "2 replies"  # a post to oneself is on / and drops it


def test_replies_are_on_a_page_of_their_own(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("tea?")
    assert "Nothing yet." in visitor.get("/@bob/replies").text
    reply(bob, "/@ada/1", "yes")
    assert shown(visitor.get("/").text) == ["tea?"]
    assert "Only replies so far." in visitor.get("/@bob").text
    page = visitor.get("/@bob/replies").text
    assert shown(page) == ["yes"]
    assert re.findall(r'<a href="([^"]+)" aria-current="page">Posts and replies</a>', page) == ["/@bob/replies"]
    assert visitor.get("/@BOB/replies").headers["Location"] == "/@bob/replies"
    assert visitor.get("/@nobody/replies").status_code == 404


def test_a_long_conversation_goes_on_where_it_stopped(app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    have_joined_long_ago(app)
    ada.publish("tea?")
    for number in range(PER_PAGE + 2):
        reply(bob, "/@ada/1", f"reply {number}")
    first = visitor.get("/@ada/1").text
    link = re.search(r'rel="next" href="([^"]+)"', first)
    assert link
    second = visitor.get(html.unescape(link[1])).text
    assert shown(first) == ["tea?", *(f"reply {number}" for number in range(PER_PAGE))]
    assert shown(second) == ["tea?", *(f"reply {number}" for number in range(PER_PAGE, PER_PAGE + 2))]
    assert "Back to the first replies" in second
    assert 'rel="next"' not in second
    assert visitor.get("/@ada/1?after=0").status_code == 404
    assert "all of them" in visitor.get("/@ada/1?after=9999").text


def test_who_deletes_a_reply_sees_the_number_change_at_once(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("tea?")
    yes = reply(bob, "/@ada/1", "yes")
    assert replies_link(bob.get("/").text, 1) == "1 reply"
    bob.post("/posts/2/delete", form_on=yes)
    assert replies_link(bob.get("/").text, 1) == "Reply"


def test_a_post_that_continued_a_deleted_one_says_so(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("tea?")
    more = reply(ada, "/@ada/1", "with biscuits")
    why = reply(bob, more, "why?")
    ada.post("/posts/2/delete", form_on=more)
    page = visitor.get(why).text
    assert shown(page) == ["tea?", "why?"]  # the other post above is by the same author
    assert "The post that this replies to was deleted." in page


def test_what_a_deleted_post_leaves_says_so(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("tea?")
    yes = reply(bob, "/@ada/1", "yes")
    black = reply(ada, yes, "black?")
    bob.post("/posts/2/delete", form_on=yes)
    assert visitor.get(yes).status_code == 404
    assert shown(visitor.get("/@ada/1").text) == ["tea?", "black?"]
    page = visitor.get(black).text
    assert shown(page) == ["tea?", "black?"]
    assert "The post that this replies to was deleted." in page


@pytest.mark.parametrize("body", ["", "x" * 281])
def test_a_reply_that_can_not_be_published_is_given_back(ada: Visitor, bob: Visitor, body: str) -> None:
    ada.publish("tea?")
    answer = bob.post("/posts", form_on="/@ada/1", body=body, reply_to="1")
    assert answer.status_code == 422
    assert "Reply to @ada" in answer.text
    assert shown(answer.text) == ["tea?"]
    assert re.search(ANSWERED.format(1), answer.text)
    assert TEXTAREA.findall(answer.text) == [body]


@pytest.mark.parametrize("post_id", ["99", "0", "-1", "tea", "9" * 40, "1\0"])
def test_a_reply_to_a_post_that_is_gone_can_be_sent_as_a_post(ada: Visitor, post_id: str) -> None:
    answer = ada.post("/posts", form_on="/home", body="yes", reply_to=post_id)
    assert answer.status_code == 422
    assert "has been deleted" in answer.text
    assert TEXTAREA.findall(answer.text) == ["yes"]
    assert not re.search('name="reply_to"', answer.text)


def test_who_is_not_logged_in_is_told_how_to_reply_and_comes_back(
    ada: Visitor, new_visitor: Callable[[], Visitor]
) -> None:
    ada.publish("tea?")
    visitor = new_visitor()
    page = visitor.get("/@ada/1").text
    assert "<textarea" not in page
    [login, join] = re.findall(r'<a href="([^"]+)">(?:Log in|join)</a>', page.partition('id="reply"')[2])
    assert visitor.get(html.unescape(login)).status_code == 200
    back = "/@ada/1#reply"
    assert f'name="next" type="hidden" value="{back}"' in visitor.get(html.unescape(join)).text
    answer = visitor.post(html.unescape(join), username="bob", password=PASSWORD, next=back)
    assert answer.headers["Location"] == "/@ada/1#reply"
    page = visitor.get("/@ada/1").text
    assert "Your reply" in page
    assert re.search(r'<div hidden>\s*<p class="aside">', page)


def test_home_says_which_replies_it_shows(ada: Visitor, bob: Visitor) -> None:
    ada.publish("tea?")
    bob.follow("ada")
    assert "their replies to each other and to you" in bob.get("/home").text


def test_a_reply_that_comes_while_its_post_is_deleted_does_not_go_on_showing_it(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada.publish("a secret")
    lock = Post.lock

    def reply_and_lock(posts: list[Post]) -> None:
        def reply_and_read(_number: int) -> None:
            assert "a secret" in visitor.get(reply(bob, "/@ada/1", "really?")).text

        in_threads(1, reply_and_read)
        lock(posts)

    monkeypatch.setattr(Post, "lock", reply_and_lock)
    assert ada.post("/posts/1/delete", form_on="/@ada/1").status_code == 302
    page = visitor.get("/@bob/2").text
    assert "a secret" not in page
    assert "The post that this replies to was deleted." in page
