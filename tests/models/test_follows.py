"""Who follows whom."""

from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import func, select

from app.extensions import db
from app.models import Follow, User
from app.models.follows import PER_PAGE
from tests.conftest import PASSWORD, in_threads

MakeUser = Callable[[str], User]


def follows() -> int:
    return db.session.scalar(select(func.count()).select_from(Follow)) or 0


def test_to_follow_goes_one_way(make_user: MakeUser) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    ada.follow(bob)
    assert Follow.exists(ada.id, bob.id)
    assert not Follow.exists(bob.id, ada.id)


def test_to_follow_twice_is_to_follow_once(make_user: MakeUser) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    ada.follow(bob)
    ada.follow(bob)
    assert follows() == 1
    ada.unfollow(bob)
    assert not Follow.exists(ada.id, bob.id)


def test_two_clicks_at_the_same_moment_are_one_follow(app: Flask) -> None:
    with app.app_context():
        ada, bob = (User.register(name, f"{name}@example.org", PASSWORD) for name in ("ada", "bob"))

    def follow(_number: int) -> None:
        with app.app_context():
            db.session.get_one(User, ada.id).follow(db.session.get_one(User, bob.id))

    in_threads(4, follow)
    with app.app_context():
        assert follows() == 1


def test_nobody_follows_themselves(make_user: MakeUser) -> None:
    ada = make_user("ada")
    with pytest.raises(ValueError, match="themselves"):
        ada.follow(ada)
    assert follows() == 0


def test_to_unfollow_ends_this_follow_and_no_other(make_user: MakeUser) -> None:
    ada, bob, eve = make_user("ada"), make_user("bob"), make_user("eve")
    ada.follow(bob)
    ada.follow(eve)
    bob.follow(ada)
    ada.unfollow(bob)
    assert not Follow.exists(ada.id, bob.id)
    assert Follow.exists(ada.id, eve.id)
    assert Follow.exists(bob.id, ada.id)


def test_to_unfollow_whom_one_does_not_follow_changes_nothing(make_user: MakeUser) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    bob.follow(ada)
    ada.unfollow(bob)
    assert follows() == 1


def test_the_lists_show_the_newest_follow_first(make_user: MakeUser) -> None:
    ada, bob, eve = make_user("ada"), make_user("bob"), make_user("eve")
    bob.follow(ada)
    eve.follow(ada)
    bob.follow(eve)
    assert [person.name for person in Follow.followers_of(ada.id).items] == ["eve", "bob"]
    assert [person.name for person in Follow.followed_by(bob.id).items] == ["eve", "ada"]
    assert list(Follow.followed_by(ada.id).items) == []


def test_the_lists_have_pages_without_a_gap_or_an_overlap(make_user: MakeUser) -> None:
    ada = make_user("ada")
    others = [
        User(name=f"user{number}", name_key=f"user{number}", password_hash="") for number in range(2 * PER_PAGE + 1)
    ]
    db.session.add_all(others)
    db.session.flush()
    for other in others:
        db.session.add(Follow(follower_id=other.id, followed_id=ada.id))
        db.session.add(Follow(follower_id=ada.id, followed_id=other.id))
        db.session.flush()  # one after the other
    db.session.commit()
    for read in (Follow.followers_of, Follow.followed_by):
        pages = [read(ada.id)]
        while pages[-1].older:
            pages.append(read(ada.id, pages[-1].older))
        assert [len(page.items) for page in pages] == [PER_PAGE, PER_PAGE, 1]
        assert [person.name for page in pages for person in page.items] == [other.name for other in reversed(others)]
