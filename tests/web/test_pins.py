"""Pinned posts: up to three above everyone's latest ones, and one on top of a person's own page."""

import re

import pytest

from tests.conftest import Visitor
from tests.web.test_conversations import reply
from tests.web.test_posts import shown


def pinned(page: str) -> list[str]:
    """Return the texts of the posts that are pinned to a page."""
    found = re.search(r'<section class="pinned".*?</section>', page, re.DOTALL)
    return shown(found[0]) if found else []


def test_one_pins_a_post_of_ones_own_to_ones_page(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    for text in ("first", "second", "third"):
        ada.publish(text)
    assert pinned(visitor.get("/@ada").text) == []
    assert ada.post("/posts/1/pin", form_on="/@ada/1").location == "/@ada"
    for reader in (visitor, bob, ada):
        page = reader.get("/@ada").text
        assert pinned(page) == ["first"]
        assert shown(page) == ["first", "third", "second"]  # not a second time below
    assert shown(visitor.get("/").text) == ["third", "second", "first"]
    assert pinned(visitor.get("/@ada/replies").text) == pinned(visitor.get("/@ada?before=3").text) == []
    ada.post("/posts/2/pin", form_on="/@ada/2")
    assert pinned(visitor.get("/@ada").text) == ["second"]
    assert ">Pin to profile</button>" in ada.get("/@ada/1").text
    assert ">Unpin from profile</button>" in ada.get("/@ada/2").text
    ada.post("/posts/2/unpin", form_on="/@ada/2")
    assert pinned(visitor.get("/@ada").text) == []
    assert ">Pin to profile</button>" in ada.get("/@ada/2").text


def test_nobody_pins_what_somebody_else_wrote(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    ada.publish("hers")
    assert bob.post("/posts/1/pin", form_on="/home").status_code == 403
    assert bob.post("/posts/2/pin", form_on="/home").status_code == 404
    assert visitor.post("/posts/1/pin", form_on="/login").status_code == 403
    ada.post("/posts/1/pin", form_on="/@ada/1")
    bob.post("/posts/1/unpin", form_on="/home")
    assert pinned(visitor.get("/@ada").text) == ["hers"]
    assert ">Pin to profile</button>" not in bob.get("/@ada/1").text


def test_a_pinned_post_that_is_deleted_is_gone_and_one_that_is_edited_is_new(ada: Visitor, visitor: Visitor) -> None:
    ada.publish("only")
    ada.post("/posts/1/pin", form_on="/@ada/1")
    assert pinned(visitor.get("/@ada").text) == ["only"]
    assert "No posts yet." not in visitor.get("/@ada").text
    ada.post("/posts/1/edit", body="edited")
    assert pinned(visitor.get("/@ada").text) == ["edited"]
    ada.post("/posts/1/delete", form_on="/@ada/1")
    assert pinned(visitor.get("/@ada").text) == []


def test_moderators_pin_three_posts_above_the_latest_ones(
    ada: Visitor, bob: Visitor, visitor: Visitor, moderator: Visitor
) -> None:
    for number in range(1, 6):
        ada.publish(f"number {number}")
    reply(bob, "/@ada/1", "well")
    visitor.get("/")
    for number in (1, 3, 2):
        path = f"/moderation/people/ada?post={number}"
        answer = moderator.post(f"/moderation/posts/{number}/pin", form_on=path)
        assert (answer.status_code, answer.location) == (302, path)
        assert pinned(visitor.get("/").text)[0] == f"number {number}"
    moderator.post("/moderation/posts/2/pin", form_on="/moderation/people/ada?post=1")
    assert moderator.get("/moderation/log").text.count("pinned post 2") == 1
    page = visitor.get("/").text
    assert pinned(page) == ["number 2", "number 3", "number 1"]
    assert shown(page) == ["number 2", "number 3", "number 1", "number 5", "number 4"]
    assert pinned(visitor.get("/?before=5").text) == []
    refused = moderator.post("/moderation/posts/4/pin", form_on="/moderation/people/ada?post=4")
    assert "There are 3 pinned posts already." in moderator.get(refused.location or "").text
    answer = moderator.post("/moderation/posts/6/pin", form_on="/moderation/people/ada?post=4")
    assert "A reply to somebody else can" in moderator.get(answer.location or "").text
    for _ in range(2):
        moderator.post("/moderation/posts/3/unpin", form_on="/moderation/people/ada?post=3")
    assert moderator.get("/moderation/log").text.count("unpinned post 3") == 1
    ada.post("/posts/1/delete", form_on="/@ada/1")
    assert pinned(visitor.get("/").text) == ["number 2"]


@pytest.mark.parametrize("verb", ["pin", "unpin"])
def test_only_moderators_do(ada: Visitor, bob: Visitor, visitor: Visitor, verb: str) -> None:
    ada.publish("look at me")
    assert ada.post(f"/moderation/posts/1/{verb}", form_on="/home").status_code == 404
    assert visitor.post(f"/moderation/posts/1/{verb}", form_on="/login").status_code == 403
    assert pinned(visitor.get("/").text) == []
