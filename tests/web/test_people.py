"""A user's page, who follows whom, following and unfollowing."""

import re
import time
from collections.abc import Callable, Sequence

import pytest
from flask import Flask
from redis import Redis

from app.cache import COUNTS_LAG, Page, PageCache
from app.extensions import db
from app.front.local_cache import COPY_LIFETIME
from app.models import Follow, Post, User, pagination
from app.models.follows import PER_PAGE
from app.models.post_text import PostText
from app.models.posts import PER_PAGE as POSTS
from app.models.writes import PROFILE_PAGE
from tests.conftest import PASSWORD, Visitor, id_of

COUNTS = re.compile(r"<b>([\d,]+)</b> (posts?|followers?|following)")
LISTED = re.compile(r'<li data-by="\d+"><a href="/@(\w+)">')


def counts(page: str) -> list[str]:
    return [" ".join(count) for count in COUNTS.findall(page)]


def crowd(app: Flask, count: int) -> list[int]:
    """Make people without going through the hasher; return their ids."""
    with app.app_context():
        users = [
            User(name=f"P{number}", name_key=f"p{number}", email=f"p{number}@example.org", password_hash="-")
            for number in range(count)
        ]
        db.session.add_all(users)
        db.session.commit()
        return [user.id for user in users]


def add_follows(app: Flask, pairs: list[tuple[int, int]]) -> None:
    with app.app_context():
        for follower, followed in pairs:
            db.session.add(Follow(follower_id=follower, followed_id=followed))
            db.session.flush()  # ids in this order
        db.session.commit()


# A user's page


def test_a_profile_counts_posts_followers_and_following(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    assert counts(visitor.get("/@ada").text) == ["0 posts", "0 followers", "0 following"]
    ada.publish("one")
    bob.follow("ada")
    assert counts(visitor.get("/@ada").text) == ["1 post", "1 follower", "0 following"]
    assert counts(visitor.get("/@bob").text) == ["0 posts", "0 followers", "1 following"]


def test_a_profile_says_more_than_are_counted(ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagination, "MOST_COUNTED", 2)
    for number in range(3):
        ada.publish(f"number {number}")
    assert "<b>2+</b> posts" in visitor.get("/@ada").text


def test_a_profile_without_posts_says_so(ada: Visitor, visitor: Visitor) -> None:
    assert "No posts yet." in visitor.get("/@ada").text


@pytest.mark.parametrize("query", ["", "?before=9"])
def test_a_profile_in_another_case_leads_to_the_name_as_its_owner_writes_it(visitor: Visitor, query: str) -> None:
    visitor.register("AdaL")
    answer = visitor.get(f"/@adal{query}")
    assert (answer.status_code, answer.headers["Location"]) == (301, "/@AdaL")
    assert visitor.get("/@AdaL").status_code == 200


def test_a_profile_of_nobody_is_a_404_that_names_them(visitor: Visitor) -> None:
    answer = visitor.get("/@Nobody_1")
    assert answer.status_code == 404
    assert "There&#39;s nobody called “Nobody_1” here." in answer.text


def test_a_404_shows_markup_in_a_name_as_text_and_not_all_of_a_long_one(visitor: Visitor) -> None:
    assert "“&lt;b&gt;”" in visitor.get("/@<b>").text
    assert "x" * 41 not in visitor.get("/@" + "x" * 500).text


@pytest.mark.parametrize("kind", ["", "/followers", "/following"])
@pytest.mark.parametrize(
    "name",
    ["%00", "ada%00", "%0A", "ada%0A", "%20ada", "é", "ａｄａ", "%FF", "%ED%A0%80", "a'--", "K", "ſ", "%E2%80%AE"],
)
def test_a_name_that_nobody_can_have_is_a_404(ada: Visitor, name: str, kind: str) -> None:
    assert ada.get(f"/@{name}{kind}").status_code == 404


@pytest.mark.parametrize("verb", ["follow", "unfollow"])
@pytest.mark.parametrize("name", ["nobody", "%00", "ada%00", "é"])
def test_nobody_follows_a_name_that_nobody_has(ada: Visitor, name: str, verb: str) -> None:
    assert ada.post(f"/@{name}/{verb}", form_on="/home").status_code == 404


def test_older_posts_of_somebody_are_a_link_away(app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    user_id = id_of(app, "ada")
    with app.app_context():
        db.session.add_all(Post(author_id=user_id, body=f"number {number}") for number in range(POSTS + 2))
        db.session.commit()
    bob.publish("his")
    link = re.search(r'rel="next" href="([^"]+)"', visitor.get("/@ada").text)
    assert link
    older = visitor.get(link[1]).text
    assert "number 1<" in older
    assert "number 0<" in older
    assert "number 2<" not in older
    assert "his" not in older
    assert 'href="/@ada">Back to the latest' in older
    assert counts(older)[0] == f"{POSTS + 2} posts"
    assert "There are no older posts." in visitor.get("/@ada?before=1").text


def test_an_older_page_has_the_follow_button_too(ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    path = "/@ada?before=99"
    assert ">Follow</button>" in bob.get(path).text
    bob.follow("ada")
    assert ">Unfollow</button>" in bob.get(path).text
    assert "Join to follow" in visitor.get(path).text


# Lists of people


@pytest.mark.parametrize(
    ("kind", "words"), [("followers", "No followers yet."), ("following", "Not following anyone yet.")]
)
def test_a_list_of_nobody_says_so(ada: Visitor, visitor: Visitor, kind: str, words: str) -> None:
    page = visitor.get(f"/@ada/{kind}")
    assert page.status_code == 200
    assert words in page.text


@pytest.mark.parametrize("kind", ["followers", "following"])
def test_long_lists_of_people_are_paged_newest_first_without_a_gap(
    app: Flask, ada: Visitor, visitor: Visitor, kind: str
) -> None:
    me, people = id_of(app, "ada"), crowd(app, PER_PAGE + 3)
    add_follows(app, [(person, me) if kind == "followers" else (me, person) for person in people])
    first = visitor.get(f"/@ada/{kind}").text
    link = re.search(r'rel="next" href="([^"]+)"', first)
    assert link
    second = visitor.get(link[1]).text
    assert f'href="/@ada/{kind}">Back to the latest' in second
    assert "<title>More " in second
    assert len(LISTED.findall(first)) == PER_PAGE
    assert LISTED.findall(first) + LISTED.findall(second) == [f"P{number}" for number in range(PER_PAGE + 2, -1, -1)]
    assert 'rel="next"' not in second


def test_large_counts_are_readable(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    me = id_of(app, "ada")
    add_follows(app, [(person, me) for person in crowd(app, 1001)])
    assert counts(visitor.get("/@ada").text)[1] == "1,001 followers"


# Following


def test_who_follows_sees_the_new_counts_at_once_and_everyone_else_within_five_seconds(
    redis: Redis, ada: Visitor, bob: Visitor, visitor: Visitor
) -> None:
    def seen_by(reader: Visitor) -> list[str]:
        return [count for name in ("bob", "ada") for count in counts(reader.get(f"/@{name}").text)[1:]]

    assert seen_by(visitor) == seen_by(ada) == ["0 followers", "0 following", "0 followers", "0 following"]
    for change, followers, following in (
        ("follow", "1 follower", "1 following"),
        ("unfollow", "0 followers", "0 following"),
    ):
        answer = ada.post(f"/@bob/{change}", form_on="/@bob")
        assert (answer.status_code, answer.headers["Location"]) == (302, "/@bob")
        assert seen_by(ada) == [followers, "0 following", "0 followers", following]
        assert visitor.get("/@bob").headers["Cache-Status"].startswith("Pipit; hit")
        for name in ("ada", "bob"):
            assert 0 < redis.pttl(f"page:user:{name}") <= (COUNTS_LAG - COPY_LIFETIME) * 1000
            redis.delete(f"page:user:{name}")  # what time does
        assert seen_by(visitor) == seen_by(bob) == [followers, "0 following", "0 followers", following]


def test_a_page_that_was_being_built_when_a_count_changed_is_kept_for_a_moment_only(app: Flask, redis: Redis) -> None:
    cache: PageCache = app.extensions["page_cache"]
    name = PROFILE_PAGE("ada")
    _, token, run_id = cache._take_lease(name, b"f1")
    with cache.changing(counted_on=[name]):
        pass
    assert cache.store_if_ours(name, token, Page(b"-", "-" * 32, time.time()), run_id)
    assert 0 < redis.pttl(f"page:{name}") <= (COUNTS_LAG - COPY_LIFETIME) * 1000
    assert not redis.exists(f"page:{name}:lease")


def test_to_follow_twice_is_to_follow_once(ada: Visitor, bob: Visitor) -> None:
    for _ in range(2):
        assert ada.follow("bob").status_code == 302
        assert "You now follow @bob." in ada.get("/@bob").text
    assert counts(ada.get("/@bob").text)[1] == "1 follower"
    for _ in range(2):
        assert ada.post("/@bob/unfollow", form_on="/home").status_code == 302
    assert counts(ada.get("/@bob").text)[1] == "0 followers"


def test_one_follows_by_the_name_in_any_case(ada: Visitor, bob: Visitor) -> None:
    assert ada.follow("BOB").headers["Location"] == "/@bob"
    for page in ("followers", "following"):
        assert ada.get(f"/@BOB/{page}").headers["Location"] == f"/@bob/{page}"
    assert LISTED.findall(ada.get("/@bob/followers").text) == ["ada"]


def test_nobody_follows_themselves(ada: Visitor) -> None:
    answer = ada.follow("ada")
    assert answer.status_code == 403
    assert "You can&#39;t follow yourself." in answer.text
    assert "/@ada/follow" not in ada.get("/@ada").text.replace("/@ada/followers", "").replace("/@ada/following", "")


@pytest.mark.parametrize("verb", ["follow", "unfollow"])
def test_following_needs_a_login_and_a_token(ada: Visitor, bob: Visitor, visitor: Visitor, verb: str) -> None:
    answer = visitor.post(f"/@bob/{verb}", form_on="/login")
    assert answer.status_code == 403
    assert '<a class="button" href="/login">Log in</a>' in answer.text
    assert ada.client.post(f"/@bob/{verb}").status_code == 400
    assert ada.get(f"/@bob/{verb}").status_code == 405


def test_each_viewer_sees_their_own_button_on_one_cached_page(
    ada: Visitor, bob: Visitor, visitor: Visitor, new_visitor: Callable[[], Visitor]
) -> None:
    eve = new_visitor()
    eve.register("eve")
    ada.follow("bob")
    for _ in range(2):
        anonymous, follower, stranger, self = (reader.get("/@bob") for reader in (visitor, ada, eve, bob))
        assert 'href="/register?next=/@bob">Join to follow' in anonymous.text
        assert 'href="/login?next=/@bob">log in' in anonymous.text
        assert 'action="/@bob/unfollow"' in follower.text
        assert ">Unfollow</button>" in follower.text
        assert 'action="/@bob/follow"' in stranger.text
        assert ">Follow</button>" in stranger.text
        assert ">Write a post</a>" in self.text
        assert "<form class=" not in self.text
    for page in (anonymous, stranger, self):
        assert page.headers["Cache-Status"].startswith("Pipit; hit")
    assert follower.headers["Cache-Status"] == "Pipit; fwd=request; detail=own-write"


def test_the_follow_button_works_as_it_stands_on_the_page(ada: Visitor, bob: Visitor) -> None:
    assert ada.post("/@bob/follow", form_on="/@bob").status_code == 302
    assert LISTED.findall(ada.get("/@bob/followers").text) == ["ada"]


def test_a_stranger_who_joins_to_follow_comes_back_to_that_page(bob: Visitor, visitor: Visitor) -> None:
    answer = visitor.post("/register", next="/@bob", username="ada", email="ada@example.org", password=PASSWORD)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/@bob")
    assert ">Follow</button>" in visitor.get("/@bob").text


@pytest.mark.parametrize("form", ["register", "login"])
def test_the_way_from_one_form_to_the_other_keeps_where_one_wanted_to_go(visitor: Visitor, form: str) -> None:
    page = visitor.get(f"/{form}?next=/@bob").text
    assert f'href="/{"login" if form == "register" else "register"}?next=/@bob">' in page
    assert 'name="next" type="hidden" value="/@bob"' in page
    assert "elsewhere" not in visitor.get(f"/{form}?next=https://elsewhere.example.org/").text


def test_what_comes_while_an_account_is_being_deleted_is_gone_with_it(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was under way when the account was suspended; and anyone may follow it until it is gone."""
    ids = id_of(app, "ada"), id_of(app, "bob")
    ada.publish("first words")
    some_by = Post.some_by

    def some_by_and_meanwhile_more(user_id: int) -> Sequence[Post]:
        found = some_by(user_id)
        if "first words" in [post.body for post in found]:
            with app.app_context():
                gone, bob = (db.session.get_one(User, user_id) for user_id in ids)
                gone.publish(PostText.parse("last words #tag"))
                bob.follow(gone)
            for path in ("/", "/tags/tag", "/@bob/following"):
                visitor.get(path)
        return found

    monkeypatch.setattr(Post, "some_by", some_by_and_meanwhile_more)
    with app.app_context():
        db.session.get_one(User, ids[0]).delete_account()
    for path in ("/", "/tags/tag", "/@bob/following"):
        assert "@ada" not in visitor.get(path).text, path
