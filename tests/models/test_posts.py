"""Posts and their lists: who sees what, in which order, and for how many statements."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from sqlalchemy import delete, event, func, select
from sqlalchemy.exc import IntegrityError, InvalidRequestError

from app.config import parse_redis_url
from app.extensions import db
from app.models import Follow, Post, PostTag, User
from app.models import posts as posts_module
from app.models.follows import Person
from app.models.pagination import LARGEST_ID, Pagination
from app.models.post_text import PostText
from app.models.posts import Listed, ShownPost
from app.redis_client import StoreUnavailableError
from tests.conftest import PASSWORD

MakeUser = Callable[[str], User]
NOWHERE = parse_redis_url("redis://127.0.0.1:1/0")


def publish(author: User, *bodies: str) -> list[Post]:
    return [author.publish(PostText.parse(body)) for body in bodies]


def bodies(page: Pagination[Listed]) -> list[str]:
    return [post.body for post in posts_on(page)]


def posts_on(page: Pagination[Listed]) -> list[ShownPost]:
    posts = {post.id: post for post in Post.all_shown([listed.id for listed in page.items])}
    return [posts[listed.id] for listed in page.items]


def rows(model: type[Any]) -> int:
    return db.session.scalar(select(func.count()).select_from(model)) or 0


def all_pages(read: Callable[[int | None], Pagination[Any]]) -> list[Pagination[Any]]:
    """Follow a list from its newest page to its oldest."""
    pages = [read(None)]
    while pages[-1].older is not None:
        pages.append(read(pages[-1].older))
    return pages


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collect the SQL statements that are sent, by a session that knows nothing yet."""
    db.session.expunge_all()
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(db.engine, "before_cursor_execute", note)


# Publishing and deleting


def test_a_published_post_is_kept_as_it_was_written(make_user: MakeUser) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    [post] = publish(make_user("ada"), "Grüße 👨‍👩‍👧‍👦\nand <b>more</b>")
    db.session.expunge_all()
    found = Post.shown(post.id)
    assert found is not None
    assert (found.body, found.author.name) == ("Grüße 👨‍👩‍👧‍👦\nand <b>more</b>", "ada")
    assert before <= found.created_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert found.created_at.utcoffset() == timedelta(0)


def test_a_post_that_is_not_there_is_none(make_user: MakeUser) -> None:
    assert Post.shown(1) is None
    assert Post.shown(LARGEST_ID) is None


def test_an_author_can_delete_their_own_post(make_user: MakeUser) -> None:
    ada = make_user("ada")
    [post, other] = publish(ada, "one #tag", "two #tag")
    assert ada.delete(post) is True
    assert Post.shown(post.id) is None
    assert bodies(Post.latest()) == ["two #tag"]
    assert [tag.post_id for tag in db.session.scalars(select(PostTag))] == [other.id]


def test_nobody_can_delete_the_post_of_somebody_else(make_user: MakeUser) -> None:
    [post] = publish(make_user("ada"), "mine")
    assert make_user("bob").delete(post) is False
    assert bodies(Post.latest()) == ["mine"]


def test_a_post_that_was_deleted_meanwhile_is_as_good_as_deleted(app: Flask, make_user: MakeUser) -> None:
    ada = make_user("ada")
    post, _ = publish(ada, "one #tag", "two")
    with app.app_context():  # the other tab's request, with a session of its own
        same = Post.with_id(post.id)
        assert same is not None
        assert same is not post
        assert same.author.delete(same) is True
    assert ada.delete(post) is True
    assert bodies(Post.latest()) == ["two"]
    assert rows(PostTag) == 0


def test_the_id_of_a_deleted_post_is_never_given_again(make_user: MakeUser) -> None:
    ada = make_user("ada")
    [post] = publish(ada, "one")
    ada.delete(post)
    [next_post] = publish(ada, "two")
    assert next_post.id > post.id


def test_with_an_account_go_its_posts_their_tags_and_its_follows(make_user: MakeUser) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    publish(ada, "one #tag")
    publish(bob, "two #tag")
    ada.follow(bob)
    bob.follow(ada)
    db.session.delete(ada)
    db.session.commit()
    assert bodies(Post.tagged("tag")) == ["two #tag"]
    assert (rows(Post), rows(PostTag), rows(Follow)) == (1, 1, 0)


# Redis away


@pytest.mark.server
def test_what_the_cache_cannot_be_told_of_is_not_written(make_app: Callable[..., Flask]) -> None:
    with make_app().app_context():
        ada, bob, eve = (User.register(name, f"{name}@example.org", PASSWORD) for name in ("ada", "bob", "eve"))
        publish(ada, "before #tag")
        ada.follow(bob)
    writes: list[Callable[[User, User, User, Post], object]] = [
        lambda ada, _bob, _eve, _post: ada.publish(PostText.parse("lost #tag")),
        lambda ada, _bob, _eve, post: ada.delete(post),
        lambda ada, _bob, eve, _post: ada.follow(eve),
        lambda ada, bob, _eve, _post: ada.unfollow(bob),
    ]
    with make_app(redis=NOWHERE).app_context():
        for write in writes:
            post = Post.with_id(Post.latest().items[0].id)
            assert post
            people = [db.session.get_one(User, user.id) for user in (ada, bob, eve)]
            with pytest.raises(StoreUnavailableError):
                write(people[0], people[1], people[2], post)
            db.session.rollback()
            db.session.expunge_all()
            assert bodies(Post.latest()) == bodies(Post.tagged("tag")) == ["before #tag"]
            assert [person.name for person in Follow.followed_by(ada.id).items] == ["bob"]


@pytest.mark.server
def test_an_account_can_be_made_without_redis_but_not_locked(make_app: Callable[..., Flask]) -> None:
    """Its sessions could not be ended: the old password would go on counting."""
    make_app()
    with make_app(redis=NOWHERE).app_context():
        ada = User.register("ada", "ada@example.org", PASSWORD)
        for change in (lambda: ada.change_password("another password"), ada.suspend, ada.delete_account):
            with pytest.raises(StoreUnavailableError):
                change()
        assert User.authenticate("ada", PASSWORD)


def test_a_write_that_sql_refuses_leaves_neither_a_row_nor_a_mark(make_user: MakeUser, redis: Redis) -> None:
    ada = make_user("ada")
    db.session.delete(ada)
    db.session.commit()
    with pytest.raises(IntegrityError):
        publish(ada, "from nobody")
    assert rows(Post) == 0
    assert redis.keys("page:*:lease") == []


# Lists


def test_the_latest_posts_are_everyones_newest_first(make_user: MakeUser) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    publish(ada, "1")
    publish(bob, "2")
    publish(ada, "3")
    page = Post.latest()
    assert [(post.body, post.author.name) for post in posts_on(page)] == [("3", "ada"), ("2", "bob"), ("1", "ada")]
    assert page.older is None


def test_a_list_of_nothing_is_one_empty_page(make_user: MakeUser) -> None:
    ada = make_user("ada")
    for page in (Post.latest(), Post.by(ada.id), Post.timeline_of(ada.id), Post.tagged("tag")):
        assert (list(page.items), page.older) == ([], None)


def test_one_users_posts_are_theirs_alone(make_user: MakeUser) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    publish(ada, "1", "2")
    publish(bob, "3")
    assert bodies(Post.by(ada.id)) == ["2", "1"]


def test_a_timeline_has_the_posts_of_those_one_follows_and_ones_own(make_user: MakeUser) -> None:
    ada, bob, eve = make_user("ada"), make_user("bob"), make_user("eve")
    publish(ada, "ada 1")
    publish(bob, "bob 1")
    publish(eve, "eve 1")
    publish(bob, "bob 2")
    ada.follow(bob)
    bob.follow(ada)
    bob.follow(eve)
    assert bodies(Post.timeline_of(ada.id)) == ["bob 2", "bob 1", "ada 1"]
    assert bodies(Post.timeline_of(eve.id)) == ["eve 1"]
    ada.unfollow(bob)
    assert bodies(Post.timeline_of(ada.id)) == ["ada 1"]


def test_a_timeline_is_what_one_would_expect_whoever_wrote_how_much_when(make_user: MakeUser) -> None:
    """Read from the newest posts alone where they fill a page, or else from all: both are what a plain query finds."""
    rng = random.Random(18)
    people = [User(name=f"p{n}", name_key=f"p{n}", email=f"p{n}@example.org", password_hash="-") for n in range(12)]
    db.session.add_all(people)
    db.session.flush()
    ids = [person.id for person in people]
    for reader in ids:
        for followed in rng.sample(ids, rng.randrange(len(ids))):
            if followed != reader:
                db.session.add(Follow(follower_id=reader, followed_id=followed))
    for writers in (ids[:6], ids[5:]):  # who was busy long ago may be quiet now
        weights = [rng.choice((1, 9)) for _ in writers]
        for author in rng.choices(writers, weights, k=posts_module.RECENT + 200):
            addressee = rng.choice([None, None, *ids])
            db.session.add(Post(author_id=author, body="-", addressee_id=None if addressee == author else addressee))
    db.session.flush()
    db.session.execute(delete(Post).where(Post.id.in_(rng.sample(range(1, 1401), 300))))
    db.session.commit()
    ways = set()
    for reader in ids:
        followed_ids = select(Follow.followed_id).where(Follow.follower_id == reader)
        both = Post.addressee_id.is_(None) | Post.addressee_id.in_(followed_ids) | (Post.addressee_id == reader)
        theirs = select(Post.id).where((Post.author_id.in_(followed_ids) & both) | (Post.author_id == reader))
        for before in (None, *rng.sample(range(1, 1405), 12)):
            plain = theirs.where(Post.id < before) if before else theirs
            expected = list(db.session.scalars(plain.order_by(Post.id.desc()).limit(posts_module.PER_PAGE + 1)))
            older = expected[posts_module.PER_PAGE - 1] if len(expected) > posts_module.PER_PAGE else None
            shown = [Listed(post_id, replies=0) for post_id in expected[: posts_module.PER_PAGE]]
            with statements() as sent:
                assert Post.timeline_of(reader, before) == Pagination(shown, before, older)
            ways.add((len(sent), older is None))
            assert posts_module.TIMELINE.page(before, user_id=reader) == Pagination(shown, before, older)
    assert ways == {(1, False), (2, False), (2, True)}


def test_posts_are_found_by_their_tag_in_whatever_case_and_spelling(make_user: MakeUser) -> None:
    publish(make_user("ada"), "#Café", "#cafe\u0301 #CAFÉ", "#cafés", "café", "#日本語")
    for tag in ("café", "CAFÉ", "cafe\u0301"):
        assert bodies(Post.tagged(tag)) == ["#cafe\u0301 #CAFÉ", "#Café"]
    assert bodies(Post.tagged("日本語")) == ["#日本語"]
    assert bodies(Post.tagged("nothing")) == []


@pytest.mark.parametrize("count", [0, 1, 29, 30, 31, 60, 61, 95])
def test_pages_have_no_gap_and_no_overlap_whatever_the_number_of_posts(make_user: MakeUser, count: int) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    ada.follow(bob)
    for number in range(count):
        author = bob if number % 3 else ada
        db.session.add(Post(author_id=author.id, body=f"{number} #tag", tags=[PostTag(tag="tag")]))
    db.session.commit()
    newest_first = [f"{number} #tag" for number in reversed(range(count))]
    readers: list[Callable[[int | None], Pagination[Listed]]] = [
        Post.latest,
        lambda before: Post.timeline_of(ada.id, before),
        lambda before: Post.tagged("tag", before),
    ]
    for read in readers:
        pages = all_pages(read)
        assert [body for page in pages for body in bodies(page)] == newest_first
        assert len(pages) == max(1, -(-count // posts_module.PER_PAGE))
        assert all(len(page.items) == posts_module.PER_PAGE for page in pages[:-1])
    mine = [body for page in all_pages(lambda before: Post.by(ada.id, before)) for body in bodies(page)]
    assert mine == [f"{number} #tag" for number in reversed(range(count)) if number % 3 == 0]


def test_a_page_stays_as_it_is_while_new_posts_come_and_old_ones_go(
    make_user: MakeUser,
) -> None:
    ada = make_user("ada")
    posts = publish(ada, *(str(number) for number in range(1, 63)))
    first = Post.latest()
    assert bodies(first) == [str(number) for number in range(62, 32, -1)]
    publish(ada, "63")
    ada.delete(posts[32])  # the one that the next page is older than
    second = Post.latest(first.older)
    assert bodies(second) == [str(number) for number in range(32, 2, -1)]
    assert bodies(Post.latest(second.older)) == ["2", "1"]
    assert Post.latest(1).items == []
    assert bodies(Post.latest(LARGEST_ID))[0] == "63"


# What a list costs


@pytest.mark.parametrize("read", ["latest", "by", "timeline_of", "tagged", "followers_of", "followed_by"])
def test_a_list_takes_as_many_statements_however_many_posts_and_people_are_on_it(
    make_user: MakeUser, read: str
) -> None:
    people = [make_user(f"user{number}") for number in range(4)]
    for person in people:
        publish(person, "one #tag", "two #tag")
        for other in people:
            if other is not person:
                person.follow(other)
    ids = [person.id for person in people]
    readers: dict[str, Callable[[], Pagination[Any]]] = {
        "latest": Post.latest,
        "by": lambda: Post.by(ids[0]),
        "timeline_of": lambda: Post.timeline_of(ids[0]),
        "tagged": lambda: Post.tagged("tag"),
        "followers_of": lambda: Follow.followers_of(ids[0]),
        "followed_by": lambda: Follow.followed_by(ids[0]),
    }
    with statements() as sent:
        items = readers[read]().items
        assert all(item.name for item in items if isinstance(item, Person))
    assert len(items) >= 2
    assert len(sent) == (2 if read == "timeline_of" else 1)  # two, as the newest posts don't fill a page
    assert not any(private in sql for sql in sent for private in ("password_hash", "email"))


def test_posts_come_with_their_authors_in_one_statement(make_user: MakeUser) -> None:
    ids = [post.id for number in range(3) for post in publish(make_user(f"user{number}"), "one", "two")]
    with statements() as sent:
        assert {post.author.name for post in Post.all_shown(ids)} == {"user0", "user1", "user2"}
    assert len(sent) == 1
    assert not any(private in sent[0] for private in ("password_hash", "email"))


def test_a_full_page_of_the_newest_posts_takes_one_statement(make_user: MakeUser) -> None:
    ada = make_user("ada")
    db.session.add_all(Post(author_id=ada.id, body="one") for _ in range(posts_module.PER_PAGE + 1))
    db.session.commit()
    reader = ada.id
    with statements() as sent:
        assert len(Post.timeline_of(reader).items) == posts_module.PER_PAGE
    assert len(sent) == 1


def test_a_user_and_their_counts_are_one_statement(make_user: MakeUser) -> None:
    make_user("ada")
    db.session.expunge_all()
    with statements() as sent:
        assert User.with_counts("ada")
    assert len(sent) == 1


def test_a_post_whose_author_was_not_loaded_says_so_instead_of_asking_for_it(make_user: MakeUser) -> None:
    [post] = publish(make_user("ada"), "one")
    db.session.expunge_all()
    bare = db.session.get_one(Post, post.id)
    with pytest.raises(InvalidRequestError):
        _ = bare.author
