"""Likes: the heart below a post, the number beside it, and who sees what."""

import re
from collections.abc import Callable

import pytest
from flask import Flask

from app.extensions import db
from app.models import Like, User
from app.models import likes as likes_module
from tests.conftest import Visitor
from tests.serving import FrontServer


def hearts(html: str) -> list[str]:
    """Return what the hearts on a page do that people see: one for each post."""
    # The style sheet hides what follows a button to unlike.
    shown = re.sub(r'(class="like mine".*?</button>)\s*<button class="like".*?</button>', r"\1", html, flags=re.DOTALL)
    return re.findall(r'formaction="/posts/(\d+/(?:un)?like)"', shown)


def numbers(html: str) -> list[str]:
    """Return the numbers beside the hearts."""
    return re.findall(r'class="post-likes"[^>]*>([^<]*)<', html)


def like(visitor: Visitor, post_id: int, *, back: bool = False, page: str = "/") -> str:
    """Click on a post's heart; return where that leads."""
    answer = visitor.post(
        f"/posts/{post_id}/{'unlike' if back else 'like'}", form_on=page, referrer=f"http://localhost{page}"
    )
    assert answer.status_code == 302
    return answer.headers["Location"]


def test_a_like_is_counted_wherever_the_post_is_shown_and_marked_for_oneself(
    ada: Visitor, bob: Visitor, visitor: Visitor
) -> None:
    bob.publish("tea? #tea")
    ada.follow("bob")
    assert like(ada, 1) == "/#post-1"
    for path in ("/", "/@bob", "/@bob/replies", "/tags/tea", "/home"):
        assert hearts(ada.get(path).text) == ["1/unlike"], path
        assert numbers(ada.get(path).text) == ["1"], path
    for reader in (bob, visitor):
        assert hearts(reader.get("/").text) == ["1/like"]
    page = bob.get("/@bob/1").text
    assert hearts(page) == ["1/like"]
    assert re.search(r'Liked by\s+<span data-by="1"><a href="/@ada">@ada</a>', page)
    assert like(ada, 1, back=True) == "/#post-1"
    assert hearts(ada.get("/").text) == ["1/like"]
    assert numbers(ada.get("/").text) == [""]
    for reader in (ada, visitor):
        assert "Liked by" not in reader.get("/@bob/1").text


def test_a_click_leads_back_to_the_page_it_was_made_on(ada: Visitor, bob: Visitor) -> None:
    bob.publish("tea?")
    assert like(ada, 1, page="/@bob?before=9") == "/@bob?before=9#post-1"
    for referrer in (
        "http://[",
        "http://localhost/posts",
        "http://elsewhere.example/@bob",
        "http://localhost//elsewhere.example",
        "",
    ):
        answer = ada.post("/posts/1/like", form_on="/", referrer=referrer)
        assert answer.headers["Location"] == "/@bob/1#post-1"


def test_liking_twice_is_one_like(ada: Visitor, bob: Visitor) -> None:
    bob.publish("tea?")
    like(ada, 1)
    like(ada, 1)
    assert numbers(ada.get("/").text) == ["1"]
    like(ada, 1, back=True)
    like(ada, 1, back=True)
    assert numbers(ada.get("/").text) == [""]


def test_who_likes_a_post_is_a_page_and_the_latest_are_named_on_the_permalink(
    bob: Visitor, visitor: Visitor, new_visitor: Callable[[], Visitor]
) -> None:
    bob.publish("tea?")
    assert "Nobody likes this post yet." in visitor.get("/@bob/1/likes").text
    for number in range(7):
        fan = new_visitor()
        fan.register(f"fan{number}")
        like(fan, 1)
    assert re.findall(r'href="/@(\w+)"><span', visitor.get("/@bob/1/likes").text) == [
        f"fan{n}" for n in range(6, -1, -1)
    ]
    said = re.search(r'<p class="liked">(.*?)</p>', visitor.get("/@bob/1").text, re.DOTALL)
    assert said
    assert " ".join(re.sub("<[^>]*>", "", said[1]).split()) == "Liked by @fan6, @fan5, @fan4, @fan3, @fan2 and 2 more"
    assert visitor.get("/@BOB/1/likes").headers["Location"] == "/@bob/1/likes"
    assert visitor.get("/@bob/2/likes").status_code == 404


def test_what_one_likes_is_a_list_for_oneself(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    assert "Nothing yet." in ada.get("/likes").text
    for text in ("one", "two", "three"):
        bob.publish(text)
    like(ada, 3)
    like(ada, 1)
    assert re.findall(r'id="post-(\d)"', ada.get("/likes").text) == ["1", "3"]
    assert visitor.get("/likes").headers["Location"].startswith("/login")
    assert "Nothing yet." in bob.get("/likes").text


def test_a_stranger_who_clicks_is_asked_to_log_in_and_finds_the_post(bob: Visitor, visitor: Visitor) -> None:
    bob.publish("tea?")
    assert '<form id="act" hidden></form>' in visitor.get("/").text
    answer = visitor.get("/posts/1/like")
    assert answer.headers["Location"] == "/login?next=/@bob/1"
    assert "Log in to like posts." in visitor.get("/login").text
    assert bob.get("/posts/1/like").headers["Location"] == "/@bob/1"
    assert visitor.get("/posts/2/like").status_code == 404


def test_a_like_is_told_once_together_with_others_and_not_when_it_is_ones_own(
    ada: Visitor, bob: Visitor, new_visitor: Callable[[], Visitor]
) -> None:
    bob.publish("tea?")
    bob.publish("coffee?")
    like(bob, 1)
    like(ada, 1)
    like(ada, 2)
    for name in ("mira", "noor"):
        fan = new_visitor()
        fan.register(name)
        like(fan, 1)
    told = re.findall(
        r'<li class="event.*?</a>(.*?)<span class="event-time"', bob.get("/notifications").text, re.DOTALL
    )
    assert [" ".join(text.split()) for text in told] == ["and 2 others liked your post", "liked your post"]
    like(ada, 2, back=True)
    assert bob.get("/notifications").text.count("liked your post") == 1


def test_likes_can_be_turned_off(ada: Visitor, bob: Visitor) -> None:
    bob.publish("tea?")
    bob.post("/settings/notifications", form_on="/settings/notifications", reply="y", mention="y", follow="y")
    like(ada, 1)
    assert "Nothing yet." in bob.get("/notifications").text
    assert numbers(ada.get("/").text) == ["1"]


def test_what_a_deleted_account_liked_is_no_longer_counted(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor
) -> None:
    bob.publish("tea?")
    like(ada, 1)
    for path in ("/", "/@bob/1", "/@bob/1/likes"):
        visitor.get(path)
    with app.app_context():
        gone = User.named("ada")
        assert gone
        gone.delete_account()
    assert numbers(visitor.get("/").text) == [""]
    assert "Liked by" not in visitor.get("/@bob/1").text
    assert "@ada" not in visitor.get("/@bob/1/likes").text


def test_a_deleted_post_takes_its_likes_along(app: Flask, ada: Visitor, bob: Visitor) -> None:
    bob.publish("tea?")
    like(ada, 1)
    ada.get("/@bob/1/likes")
    bob.post("/posts/1/delete", form_on="/@bob/1")
    assert ada.get("/@bob/1/likes").status_code == 404
    assert "Nothing yet." in ada.get("/likes").text
    with app.app_context():
        assert db.session.query(Like).count() == 0


def test_a_post_older_than_what_redis_holds_of_ones_likes_is_marked_all_the_same(
    app: Flask, ada: Visitor, bob: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likes_module, "MOST_HELD", 2)
    likes_module._newest.cache_clear()
    for number in range(6):
        bob.publish(f"number {number}")
    for post_id in (1, 3, 4, 6):
        like(ada, post_id)
    assert hearts(ada.get("/").text) == ["6/unlike", "5/like", "4/unlike", "3/unlike", "2/like", "1/unlike"]
    with app.app_context():
        reader = User.named("ada")
        assert reader
        assert re.fullmatch("4[+][0-9a-f]{8}: 6 4 ", Like.held(reader.id))
    likes_module._newest.cache_clear()


@pytest.mark.server
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_ones_like_is_marked_early_and_at_once(ada: Visitor, bob: Visitor, front: FrontServer) -> None:
    bob.publish("tea?")
    ada.get("/home")
    cookie = f"Cookie: session={ada.session_id()}"
    for _ in range(2):
        assert hearts(front.ask("/", cookie).text) == ["1/like"]
    like(ada, 1)
    reply = front.ask("/", cookie)
    assert (hearts(reply.text), numbers(reply.text)) == (["1/unlike"], ["1"])
    like(ada, 1, back=True)
    reply = front.ask("/", cookie)
    assert (hearts(reply.text), numbers(reply.text)) == (["1/like"], [""])


@pytest.mark.server
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_redis_does_not_hold_is_marked_anew_in_every_session(
    ada: Visitor, bob: Visitor, front: FrontServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likes_module, "MOST_HELD", 2)
    likes_module._newest.cache_clear()
    for number in range(4):
        bob.publish(f"number {number}")
    for post_id in (1, 3, 4):
        like(ada, post_id)
    first_session = ada.session_id()
    ada.client.delete_cookie("session")
    ada.log_in("ada")
    cookie = f"Cookie: session={first_session}"
    for _ in range(2):
        front.ask("/@bob/1", cookie)
    like(ada, 1, back=True)  # the two newest stay the same
    assert hearts(front.ask("/@bob/1", cookie).text) == ["1/like"]
    likes_module._newest.cache_clear()
