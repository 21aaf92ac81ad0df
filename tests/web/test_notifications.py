"""Notifications: who is told what, and how many are new to them."""

import re
from collections.abc import Callable

import pytest
from flask import Flask

from app.extensions import db
from app.models import Notification, User
from app.models.notifications import MOST_UNREAD, PER_PAGE
from app.web.post_html import PostHTML
from tests.conftest import Visitor, id_of
from tests.counting import statements_run
from tests.serving import FrontServer
from tests.web.test_conversations import reply
from tests.web.test_posts import shown

COUNT = re.compile(r'<span class="count">([\d+]+)')


def unread(visitor: Visitor, path: str = "/") -> str:
    """Return the number in the bar of a page."""
    found = COUNT.findall(visitor.get(path).text)
    return found[0] if found else ""


def told(visitor: Visitor, path: str = "/notifications") -> list[str]:
    """Return what is on the page of notifications, as sentences; this marks them as read."""
    event = r'<li class="event[^"]*">\s*<p>(.*?)<span class="event-time">'
    sentences = re.findall(event, visitor.get(path).text, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", "", sentence).split()) for sentence in sentences]


def test_who_is_replied_to_mentioned_or_followed_is_told_on_the_next_page(ada: Visitor, bob: Visitor) -> None:
    assert unread(bob) == ""
    bob.publish("tea?")
    reply(ada, "/@bob/1", "yes")
    assert unread(bob) == "1"
    ada.publish("hello @BOB and @nobody")
    ada.follow("bob")
    for path in ("/", "/home", "/@bob/1", "/@ada", "/settings/password"):
        assert unread(bob, path) == "3"
    assert unread(ada) == ""
    assert told(bob) == ["New @ada followed you", "New @ada mentioned you", "New @ada replied to you"]
    assert unread(bob) == ""
    assert told(bob) == ["@ada followed you", "@ada mentioned you", "@ada replied to you"]
    assert shown(bob.get("/notifications").text) == ['hello <a href="/@bob" dir="ltr">@BOB</a> and @nobody', "yes"]


def test_nobody_is_told_of_what_they_did_themselves_or_twice_of_one_post(ada: Visitor, bob: Visitor) -> None:
    ada.publish("I, @ada")
    reply(ada, "/@ada/1", "still me, @ada")
    reply(bob, "/@ada/1", "hello @ada")
    assert told(ada) == ["New @bob replied to you"]
    assert told(bob) == []


def test_follows_are_told_together(ada: Visitor, bob: Visitor, new_visitor: Callable[[], Visitor]) -> None:
    fans = [new_visitor() for _ in range(3)]
    for number, fan in enumerate(fans):
        fan.register(f"fan{number}")
        fan.follow("ada")
    bob.publish("welcome @ada")
    bob.follow("ada")
    fans[0].post("/@ada/unfollow", form_on="/home")
    assert told(ada) == ["New @bob and 2 others followed you", "New @bob mentioned you"]
    fans[0].follow("ada")
    assert unread(ada) == "1"
    assert told(ada)[0] == "New @fan0 and 3 others followed you"


def test_what_is_gone_is_not_told_any_more(app: Flask, ada: Visitor, bob: Visitor) -> None:
    bob.publish("tea?")
    yes = reply(ada, "/@bob/1", "yes")
    ada.publish("hello @bob")
    ada.follow("bob")
    assert unread(bob) == "3"
    ada.post("/posts/2/delete", form_on=yes)
    assert unread(bob) == "2"
    ada.post("/@bob/unfollow", form_on="/home")
    assert unread(bob) == "1"
    with app.app_context():
        author = User.named("ada")
        assert author
        author.delete_account()
    assert unread(bob) == ""
    assert told(bob) == []


def test_each_kind_can_be_turned_off(ada: Visitor, bob: Visitor) -> None:
    answer = bob.post("/settings/notifications", mention="y")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/notifications")
    checked = re.findall(r'<input checked id="(\w+)"', bob.get("/settings/notifications").text)
    assert checked == ["mention"]
    bob.publish("tea?")
    reply(ada, "/@bob/1", "yes")
    ada.follow("bob")
    ada.publish("hello @bob")
    assert told(bob) == ["New @ada mentioned you"]


def test_more_than_are_counted_are_said_to_be_more_and_older_ones_have_pages(
    app: Flask, ada: Visitor, bob: Visitor
) -> None:
    ada.publish("hello")
    with app.app_context():
        rows = [
            Notification(user_id=id_of(app, "bob"), kind="mention", actor_id=id_of(app, "ada"), post_id=1)
            for _ in range(MOST_UNREAD + 1)
        ]
        db.session.add_all(rows)
        db.session.commit()
    assert unread(bob) == f"{MOST_UNREAD}+"
    first = bob.get("/notifications").text
    older = re.search(r'rel="next" href="([^"]+)"', first)
    assert older
    assert len(told(bob, older[1])) == MOST_UNREAD + 1 - PER_PAGE
    assert unread(bob) == ""
    assert "There are no older ones." in bob.get("/notifications?before=1").text
    assert bob.get("/notifications?before=x").status_code == 404


def test_an_empty_page_says_what_will_be_there_and_a_stranger_is_asked_to_log_in(
    ada: Visitor, visitor: Visitor
) -> None:
    assert "Nothing yet." in ada.get("/notifications").text
    for path in ("/notifications", "/settings/notifications"):
        assert visitor.get(path).headers["Location"].startswith("/login?next=")
    assert "/notifications" not in visitor.get("/").text


@pytest.mark.server
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("strategy", ["invalidate", "refresh", "expire"])
def test_the_number_is_right_on_the_next_cached_page(
    make_app: Callable[..., Flask], serve: Callable[[Flask], FrontServer], strategy: str
) -> None:
    app = make_app(cache_strategy=strategy)
    ada, bob = Visitor(app.test_client()), Visitor(app.test_client())
    ada.register("ada")
    bob.register("bob")
    bob.publish("tea?")
    bob.get("/home")
    front = serve(app)
    cookie = f"Cookie: session={bob.session_id()}"
    front.ask("/@ada", cookie)
    for number in range(1, 4):
        ada.publish(f"{number}: hello @bob")
        reply = front.ask("/@ada", cookie)
        assert COUNT.findall(reply.text) == [str(number)]
    told(bob)
    assert COUNT.findall(front.ask("/@ada", cookie).text) == []


def test_a_page_of_notifications_takes_as_many_statements_however_many_there_are(
    app: Flask, ada: Visitor, bob: Visitor
) -> None:
    taken = []
    for number in range(12):
        ada.publish(f"{number}: hello @bob")
        app.extensions["post_html"] = PostHTML(app)
        with statements_run(app) as statements:
            bob.get("/notifications")
        taken.append(len(statements))
    assert taken[-1] <= taken[1]


@pytest.mark.server
@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_one_connection_to_sql_is_enough(make_app: Callable[..., Flask]) -> None:
    app = make_app(threads=1)
    ada, bob = Visitor(app.test_client()), Visitor(app.test_client())
    ada.register("ada")
    bob.register("bob")
    for _ in range(2):
        ada.publish("hello @bob")
        assert bob.get("/settings/notifications").status_code == 200  # it reads SQL, and then the number in the bar
