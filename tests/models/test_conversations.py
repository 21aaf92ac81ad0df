"""Conversations: replies, what is around a post, and what a deleted post leaves."""

import random
from collections.abc import Callable, Sequence

import pytest
from flask import Flask

from app.extensions import db
from app.models import Post, User, conversations
from app.models.conversations import LEVELS, Conversation, pages_above, pages_around
from app.models.post_text import PostText
from app.models.posts import Listed
from app.models.writes import POST_PAGE

MakeUser = Callable[[str], User]
Say = Callable[..., Post]


@pytest.fixture
def say(make_user: MakeUser) -> Say:
    """Give a function with which somebody says something, in reply to a post or not."""
    people: dict[str, User] = {}

    def publish(name: str, body: str, reply_to: Post | None = None) -> Post:
        author = people.get(name) or people.setdefault(name, make_user(name))
        return author.publish(PostText.parse(body), reply_to and Post.with_id(reply_to.id))

    return publish


def bodies(posts: Sequence[Listed | int]) -> list[str]:
    ids = [post if isinstance(post, int) else post.id for post in posts]
    shown = {post.id: post.body for post in Post.all_shown(ids)}
    return [shown[post_id] for post_id in ids]


def around(post_id: int, after: int | None = None) -> Conversation:
    post = Post.shown(post_id)
    assert post
    return Conversation.around(post, after)


def delete(post: Post) -> None:
    found = Post.with_id(post.id)
    assert found
    assert found.author.delete(found)


def test_a_page_has_what_a_post_replies_to_and_all_that_replies_to_it(say: Say) -> None:
    tea = say("ada", "tea?")
    yes = say("bob", "yes", tea)
    no = say("eve", "no", tea)
    black = say("ada", "black?", yes)
    say("bob", "with milk", black)
    say("eve", "something else")
    pages = {post.body: around(post.id) for post in (tea, yes, no, black)}
    assert {body: (bodies(found.above), bodies(found.below)) for body, found in pages.items()} == {
        "tea?": ([], ["yes", "no", "black?", "with milk"]),
        "yes": (["tea?"], ["black?", "with milk"]),
        "no": (["tea?"], []),
        "black?": (["tea?", "yes"], ["with milk"]),
    }
    assert [post.replies for post in pages["tea?"].below] == [1, 0, 1, 0]
    assert [post.id for post in pages["black?"].above] == [tea.id, yes.id]


def test_a_long_conversation_has_pages_without_a_gap_or_an_overlap(say: Say) -> None:
    tea = say("ada", "tea?")
    for number in range(2 * conversations.PER_PAGE + 1):
        say("bob", str(number), tea)
    found, after = [], None
    for size in (conversations.PER_PAGE, conversations.PER_PAGE, 1):
        page = around(tea.id, after)
        assert len(page.below) == size
        assert page.after == after
        found += bodies(page.below)
        after = page.newer
    assert after is None
    assert found == [str(number) for number in range(2 * conversations.PER_PAGE + 1)]


def test_a_page_shows_so_many_levels_and_a_reply_changes_no_page_beyond_them(say: Say) -> None:
    chain = [say("ada", "0")]
    for number in range(1, LEVELS + 6):
        chain.append(say("bob" if number % 2 else "ada", str(number), chain[-1]))
    pages = [POST_PAGE("bob" if number % 2 else "ada", post.id) for number, post in enumerate(chain)]
    last, middle = len(chain) - 1, 3
    assert bodies(around(chain[last].id).above) == [str(number) for number in range(last - LEVELS, last)]
    first = around(chain[0].id)
    second = around(chain[0].id, first.newer)
    assert bodies([*first.below, *second.below]) == [str(number) for number in range(1, LEVELS + 1)]
    assert pages_above([chain[last].id]) == set(pages[last - LEVELS :])
    assert pages_around([chain[middle].id]) == set(pages[: middle + LEVELS + 1])


def test_a_deleted_post_leaves_the_replies_to_it_where_they_were(say: Say) -> None:
    tea = say("ada", "tea?")
    yes = say("bob", "yes", tea)
    black = say("ada", "black?", yes)
    say("bob", "with milk", black)
    delete(yes)
    found = around(tea.id)
    assert bodies(found.below) == ["black?", "with milk"]
    assert bodies(around(black.id).above) == ["tea?"]
    shown = Post.shown(black.id)
    assert shown
    assert (shown.addressee, shown.replies_to_a_deleted_post) == ("bob", True)
    delete(tea)
    found = around(black.id)
    assert (found.above, bodies(found.below)) == ([], ["with milk"])


def test_with_an_account_go_its_posts_and_replies_and_not_those_of_others(say: Say) -> None:
    tea = say("ada", "tea?")
    yes = say("bob", "yes", tea)
    really = say("bob", "really", yes)
    black = say("ada", "black?", really)
    say("eve", "milk", black)
    bob = User.named("bob")
    assert bob
    bob.delete_account()
    assert bodies(around(tea.id).below) == ["black?", "milk"]
    shown = Post.shown(black.id)
    assert shown
    assert shown.addressee is None
    assert shown.replies_to_a_deleted_post


def test_a_reply_to_a_post_that_is_deleted_at_that_moment_stands_alone(app: Flask, say: Say) -> None:
    tea = say("ada", "tea?")
    eve = say("eve", "hello").author_id
    db.session.expunge_all()
    known, author = Post.with_id(tea.id), User.with_id(eve)
    assert known
    assert author
    with app.app_context():  # another request
        delete(tea)
    reply = author.publish(PostText.parse("yes"), known)
    shown = Post.shown(reply.id)
    assert shown
    assert shown.replies_to_a_deleted_post
    assert around(reply.id) == Conversation([], [], None, None)


def test_replies_to_others_are_on_their_authors_second_page_and_not_among_everyones_posts(say: Say) -> None:
    tea = say("ada", "tea? #tea")
    say("bob", "yes #tea", tea)
    say("ada", "I have biscuits, too", tea)
    ada, bob = User.named("ada"), User.named("bob")
    assert ada
    assert bob
    assert bodies(list(Post.latest().items)) == ["I have biscuits, too", "tea? #tea"]
    assert bodies(list(Post.by(ada.id).items)) == ["I have biscuits, too", "tea? #tea"]
    assert bodies(list(Post.by(bob.id).items)) == []
    assert bodies(list(Post.by(bob.id, replies=True).items)) == ["yes #tea"]
    assert bodies(list(Post.tagged("tea").items)) == ["yes #tea", "tea? #tea"]
    assert [post.replies for post in Post.latest().items] == [0, 2]


def test_a_timeline_has_a_reply_if_the_reader_follows_both_or_is_one_of_them(say: Say) -> None:
    tea = say("ada", "tea?")
    say("bob", "yes", tea)
    say("eve", "no", tea)
    ada, bob, eve = (User.named(name) for name in ("ada", "bob", "eve"))
    assert ada
    assert bob
    assert eve

    def timeline(person: User) -> list[str]:
        return bodies(list(Post.timeline_of(person.id).items))

    assert timeline(ada) == ["tea?"]
    assert timeline(bob) == ["yes"]
    ada.follow(bob)
    assert timeline(ada) == ["yes", "tea?"]
    eve.follow(bob)
    assert timeline(eve) == ["no"]
    eve.follow(ada)
    assert timeline(eve) == ["no", "yes", "tea?"]


def test_conversations_stay_in_one_piece_whatever_is_deleted(say: Say) -> None:
    """Compared with a plain walk along the links, of which a deletion takes one out."""
    chance = random.Random(19)
    posts = [say("ada", "0")]
    parents: dict[int, int | None] = {posts[0].id: None}
    for number in range(1, 120):
        if chance.random() < 0.3 and len(posts) > 5:
            gone = posts.pop(chance.randrange(len(posts)))
            delete(gone)
            above = parents.pop(gone.id)
            parents = {post: above if parent == gone.id else parent for post, parent in parents.items()}
        parent = chance.choice([None, *posts[-4:], *posts[-4:]])
        posts.append(say(chance.choice(["ada", "bob", "eve"]), str(number), parent))
        parents[posts[-1].id] = parent.id if parent else None
    for post in posts:
        found = around(post.id)
        assert [one.id for one in found.above] == list(reversed(_above(parents, post.id)))
        below = [one for one in parents if post.id in _above(parents, one)]
        assert [one.id for one in found.below] == sorted(below)[: conversations.PER_PAGE]
        assert all(one.replies == list(parents.values()).count(one.id) for one in found.below)


def _above(parents: dict[int, int | None], post_id: int) -> list[int]:
    found = []
    parent = parents[post_id]
    while parent is not None:
        found.append(parent)
        parent = parents[parent]
    return found
