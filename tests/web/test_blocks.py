"""Muting and blocking: who sees what of whom, on every page."""

import pytest
from flask import Flask

from app.front.hidden_people import without_hidden_people
from app.models import Block, BlockedError, Follow, Post, User
from app.models.blocks import block, mute
from app.models.post_text import PostText
from tests.conftest import Visitor
from tests.serving import FrontServer

# Every page on which a post or a name of bob's stands, once he has posted, answered and liked.
LISTS = (
    "/",
    "/?before=99",
    "/home",
    "/home?before=99",
    "/tags/tea",
    "/search?q=sencha",
    "/search?q=bob",
    "/people",
    "/@carol/1",
    "/@carol/1/likes",
    "/@carol/followers",
    "/feed.atom",
    "/tags/tea/feed.atom",
    "/notifications",
    "/likes",
)
ABOUT_HIM = (
    "/@bob",
    "/@bob?before=99",
    "/@bob/replies",
    "/@bob/2",
    "/@bob/2?after=1",
    "/@bob/2/likes",
    "/@bob/followers",
    "/@bob/following",
    "/@bob/feed.atom",
)


@pytest.fixture
def carol(app: Flask) -> Visitor:
    carol = Visitor(app.test_client())
    carol.register("carol")
    return carol


@pytest.fixture
def town(ada: Visitor, bob: Visitor, carol: Visitor) -> None:
    """Let bob be seen all over the place by ada."""
    carol.publish("first #tea")
    bob.publish("sencha #tea")
    bob.post("/posts", form_on="/@carol/1", body="sencha for everyone", reply_to="1")
    bob.post("/posts", form_on="/@carol/1", body="@ada, sencha?", reply_to="1")
    bob.post("/posts/1/like", form_on="/")
    bob.follow("carol")
    bob.follow("ada")
    ada.follow("bob")
    ada.post("/posts/2/like", form_on="/")


def says_bob(visitor: Visitor, path: str) -> bool:
    page = visitor.get(path).text
    typed = ("Search", "search-form", "“", 'value="')  # what one has typed is shown again
    lines = [line for line in page.splitlines() if not any(words in line for words in typed)]
    return any("sencha" in line or "bob" in line for line in lines)


def test_a_block_hides_each_from_the_other_on_every_page(
    town: None, ada: Visitor, bob: Visitor, carol: Visitor, visitor: Visitor
) -> None:
    assert all(says_bob(ada, path) for path in (*LISTS, *ABOUT_HIM)), [p for p in LISTS if not says_bob(ada, p)]
    ada.post("/@bob/block", form_on="/@bob")
    assert "You've blocked @bob" in ada.get("/settings/blocked").text.replace("&#39;", "'")
    assert [path for path in LISTS if says_bob(ada, path)] == []
    assert [path for path in ABOUT_HIM if ada.get(path).status_code != 403 or says_bob(ada, path)] == []
    assert bob.get("/@ada").status_code == bob.get("/@ada/followers").status_code == 403
    assert "@ada" not in bob.get("/people").text.replace("@ada, sencha?", "")
    for other in (carol, visitor):
        assert says_bob(other, "/")
        assert other.get("/@bob").status_code == 200


def test_a_block_ends_follows_and_forbids_following_answering_and_liking(
    app: Flask, town: None, ada: Visitor, bob: Visitor
) -> None:
    ada.publish("mine")
    ada.post("/@bob/block", form_on="/@bob")
    with app.app_context():
        assert not Follow.exists(1, 2)
        assert not Follow.exists(2, 1)
    assert bob.follow("ada").status_code == 403
    assert bob.post("/posts/5/like", form_on="/home").status_code == 403
    answer = bob.post("/posts", form_on="/home", body="but why?", reply_to="5")
    assert answer.status_code == 403
    assert "but why?" in answer.text  # so that it can be copied
    bob.publish("@ada can you hear me?")
    assert "can you hear me" not in ada.get("/notifications").text
    assert 'class="badge' not in ada.get("/").text


def test_an_unblocked_person_is_seen_again(town: None, ada: Visitor, bob: Visitor) -> None:
    ada.post("/@bob/block", form_on="/@bob")
    page = ada.get("/settings/blocked").text
    assert 'action="/@bob/unblock"' in page
    assert "/unblock" not in bob.get("/settings/blocked").text
    bob.post("/@ada/unblock", form_on="/settings/blocked")  # it is not his to end
    assert ada.get("/@bob").status_code == 403
    ada.post("/@bob/unblock", form_on="/settings/blocked")
    assert ada.get("/@bob").status_code == bob.get("/@ada").status_code == 200
    assert says_bob(ada, "/")
    assert "haven't blocked or muted anybody" in ada.get("/settings/blocked").text


def test_a_mute_hides_posts_in_lists_and_the_muted_person_notices_nothing(
    town: None, ada: Visitor, bob: Visitor
) -> None:
    ada.post("/@bob/mute", form_on="/@bob")
    assert "You've muted @bob" in ada.get("/@bob").text.replace("&#39;", "'")
    for path in ("/", "/home", "/tags/tea", "/search?q=sencha", "/notifications"):
        assert not says_bob(ada, path), path
    page = ada.get("/@bob").text
    assert "sencha" in page
    assert "Unmute" in page
    assert "sencha" in ada.get("/@bob/2").text
    ada.publish("mine")
    assert bob.post("/posts/5/like", form_on="/").status_code == 302
    assert "mine" in bob.get("/home").text
    assert not says_bob(ada, "/notifications")
    assert 'class="badge' not in ada.get("/").text
    ada.post("/@bob/unmute", form_on="/@bob")
    assert says_bob(ada, "/home")


@pytest.mark.parametrize("verb", ["mute", "block"])
def test_nobody_can_mute_or_block_themselves_or_nobody(ada: Visitor, verb: str) -> None:
    assert ada.post(f"/@ada/{verb}", form_on="/home").status_code == 403
    assert ada.post(f"/@nobody/{verb}", form_on="/home").status_code == 404


def test_strangers_are_asked_to_log_in(ada: Visitor, visitor: Visitor) -> None:
    assert "Mute or block" not in visitor.get("/@ada").text
    assert visitor.post("/@ada/block", form_on="/login").status_code == 403
    assert visitor.get("/settings/blocked").headers["Location"].startswith("/login")


@pytest.mark.server
def test_the_front_leaves_out_the_blocked_without_asking_flask(
    app: Flask, carol: Visitor, ada: Visitor, bob: Visitor, front: FrontServer
) -> None:
    cookie = f"Cookie: session={ada.session_id()}"
    for path in ("/people", "/@bob"):
        front.ask(path, cookie)
        assert "@bob" in front.ask(path, cookie).text
    with app.app_context():
        block(_user("ada"), _user("bob"))
    front.ask("/people", cookie)
    reply = front.ask("/people", cookie)
    assert reply.early
    assert "@carol" in reply.text
    assert "@bob" not in reply.text
    assert front.ask("/@bob", cookie).status == 403
    assert "@bob" in front.ask("/people").text


def test_a_block_costs_the_cached_pages_nothing(town: None, ada: Visitor, visitor: Visitor) -> None:
    for path in ("/", "/tags/tea", "/people"):
        visitor.get(path)
        assert "hit" in visitor.get(path).headers["Cache-Status"]
    ada.post("/@bob/mute", form_on="/@bob")
    ada.post("/@bob/block", form_on="/home")
    for path in ("/", "/tags/tea", "/people"):
        assert "hit" in visitor.get(path).headers["Cache-Status"], path


def test_a_follow_that_comes_after_a_block_is_refused(app: Flask, ada: Visitor, bob: Visitor) -> None:
    with app.app_context():
        a, b = _user("ada"), _user("bob")
        mute(b, a)
        assert Block.lets_through(b.id, a.id)
        assert not Block.lets_through(a.id, b.id)
        block(a, b)
        for one, other in ((a, b), (b, a)):
            with pytest.raises(BlockedError):
                one.follow(other)
        answered = Post.with_id(a.publish(PostText.parse("mine")).id)
        with pytest.raises(BlockedError):
            b.publish(PostText.parse("hm"), reply_to=answered)


def _user(name: str) -> User:
    user = User.named(name)
    assert user is not None
    return user


PAGE = (
    b'<main data-about="5"><article class="post" data-by="7">x<li>y</li></article>'
    b' <li data-by="9">z</li><span data-by="5">me</span></main>'
)


@pytest.mark.parametrize(
    ("hidden", "left"),
    [
        (None, PAGE),
        (b"|", PAGE),
        (b"7|", b'<main data-about="5"><li data-by="9">z</li><span data-by="5">me</span></main>'),
        (b"9|7", b'<main data-about="5"><span data-by="5">me</span></main>'),
        (b"|77 79", PAGE),
        (b"5|", PAGE),
        (b"|5", None),
    ],
)
def test_elements_go_by_whom_they_are(hidden: bytes | None, left: bytes | None) -> None:
    comment = b"" if hidden is None else b"<!--hidden %s-->" % hidden
    assert without_hidden_people(comment + PAGE) == left
