"""Accounts: who may register, who is let in, and what it costs."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask
from sqlalchemy import func, select

from app.extensions import db
from app.models import EmailTakenError, NameTakenError, User, accounts, pagination
from app.models.post_text import PostText
from tests.conftest import PASSWORD, in_threads

MakeUser = Callable[[str], User]


class Counting:
    """A password hasher that counts what it is asked, and otherwise is the real one."""

    def __init__(self, real: PasswordHasher) -> None:
        self.real = real
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.real, name)


@pytest.fixture
def hasher(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting(accounts.hasher)
    monkeypatch.setattr(accounts, "hasher", counting)
    return counting


def accounts_in_the_database() -> int:
    return db.session.scalar(select(func.count()).select_from(User)) or 0


# Registering


def test_an_account_is_kept_as_it_was_registered(context: None) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    made = User.register("Ada_L", "Ada@Example.org", PASSWORD)
    db.session.expunge_all()
    found = User.named("Ada_L")
    assert found is not None
    assert (found.id, found.name, found.email) == (made.id, "Ada_L", "ada@example.org")
    assert before <= found.created_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert found.created_at.tzinfo is not None


@pytest.mark.usefixtures("real_passwords")
def test_a_password_is_kept_as_an_argon2id_hash_of_its_own(make_user: MakeUser) -> None:
    ada, bob = make_user("ada"), make_user("bob")
    assert ada.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert ada.password_hash != bob.password_hash
    assert PASSWORD not in ada.password_hash


@pytest.mark.parametrize("name", ["ada", "Ada", "ADA"])
def test_a_name_can_be_taken_once_in_whatever_case(make_user: MakeUser, name: str) -> None:
    make_user("Ada")
    with pytest.raises(NameTakenError):
        User.register(name, "somebody@example.org", PASSWORD)
    assert accounts_in_the_database() == 1


@pytest.mark.parametrize("email", ["ada@example.org", "Ada@EXAMPLE.org"])
def test_an_email_address_can_be_registered_once_in_whatever_case(make_user: MakeUser, email: str) -> None:
    make_user("ada")
    with pytest.raises(EmailTakenError):
        User.register("somebody", email, PASSWORD)
    assert accounts_in_the_database() == 1


def test_whoever_takes_both_is_told_about_the_name(make_user: MakeUser) -> None:
    make_user("ada")
    with pytest.raises(NameTakenError):
        make_user("ada")


def test_after_a_refusal_the_next_one_can_register(make_user: MakeUser) -> None:
    make_user("ada")
    with pytest.raises(NameTakenError):
        make_user("ada")
    assert make_user("bob").id


def test_of_those_who_want_a_name_at_the_same_moment_one_gets_it(app: Flask) -> None:
    outcomes: list[str] = []

    def register(number: int) -> None:
        with app.app_context():
            try:
                User.register("Ada" if number % 2 else "ada", f"{number}@example.org", PASSWORD)
                outcomes.append("registered")
            except NameTakenError:
                outcomes.append("taken")

    in_threads(4, register)
    assert sorted(outcomes) == ["registered", "taken", "taken", "taken"]
    with app.app_context():
        assert accounts_in_the_database() == 1


# Finding


def test_an_account_is_found_by_its_name_or_its_address_in_whatever_case(make_user: MakeUser) -> None:
    ada = make_user("Ada")
    assert User.named("aDA") is ada
    assert User.with_email("ADA@example.ORG") is ada
    assert User.named("bob") is None
    assert User.with_email("bob@example.org") is None


@pytest.mark.parametrize("name", ["", "a b", "ada\0", "ada\n", "ада", "a" * 31, "%", "\ud800"])
def test_what_cannot_be_a_name_is_nobodys(make_user: MakeUser, name: str) -> None:
    make_user("ada")
    assert User.named(name) is None


# Logging in


def test_the_right_password_and_no_other_lets_in(make_user: MakeUser) -> None:
    ada = make_user("Ada")
    password_hash = ada.password_hash
    for name in ("ada", "Ada"):
        found = User.authenticate(name, PASSWORD)
        assert found
        assert found.id == ada.id
    for wrong in ("", PASSWORD + " ", PASSWORD.upper(), PASSWORD[:-1], password_hash):
        assert User.authenticate("ada", wrong) is None


def test_a_password_may_be_in_any_script(context: None) -> None:
    User.register("ada", "ada@example.org", "пароль 密码 🔑\0x")
    assert User.authenticate("ada", "пароль 密码 🔑\0x")
    assert User.authenticate("ada", "пароль 密码 🔑") is None


@pytest.mark.parametrize("name", ["nobody", "not a name"])
def test_an_unknown_account_costs_as_many_hashes_as_a_known_one(
    make_user: MakeUser, hasher: Counting, name: str
) -> None:
    make_user("ada")
    User.authenticate(name, "wrong")  # the first one in a process makes the hash to compare with
    hasher.calls.clear()
    assert User.authenticate("ada", "wrong") is None
    known = hasher.calls.copy()
    hasher.calls.clear()
    assert User.authenticate(name, "wrong") is None
    assert hasher.calls == known == ["verify"]


def test_nobody_gets_in_with_the_password_that_unknown_accounts_are_compared_with(context: None) -> None:
    assert User.authenticate("unknown", "nobody") is None


@pytest.mark.usefixtures("real_passwords")
def test_an_old_hash_is_made_anew_when_its_owner_logs_in(make_user: MakeUser) -> None:
    ada = make_user("ada")
    old = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    ada.password_hash = old
    db.session.commit()
    assert User.authenticate("ada", "wrong") is None
    assert ada.password_hash == old
    assert User.authenticate("ada", PASSWORD) is ada
    db.session.expunge_all()
    again = User.named("ada")
    assert again is not None
    assert again.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert again.has_password(PASSWORD)


def test_a_hash_that_is_new_enough_stays(make_user: MakeUser, hasher: Counting) -> None:
    kept = make_user("ada").password_hash
    hasher.calls.clear()
    user = User.authenticate("ada", PASSWORD)
    assert user is not None
    assert user.password_hash == kept
    assert hasher.calls == ["verify", "check_needs_rehash"]


def test_a_changed_password_is_the_only_one(make_user: MakeUser) -> None:
    ada = make_user("ada")
    ada.change_password("another password")
    db.session.expunge_all()
    assert User.authenticate("ada", PASSWORD) is None
    assert User.authenticate("ada", "another password")


# What there is of them


def counts(name: str) -> accounts.Counts:
    found = User.with_counts(name)
    assert found is not None
    user, counts = found
    assert user.name.lower() == name.lower()
    return counts


def test_the_counts_of_a_user_are_their_own(make_user: MakeUser) -> None:
    ada, bob, eve = make_user("ada"), make_user("bob"), make_user("eve")
    assert counts("ada") == accounts.Counts(posts=0, followers=0, following=0)
    for body in ("one", "two", "three"):
        ada.publish(PostText.parse(body))
    bob.publish(PostText.parse("mine"))
    bob.follow(ada)
    eve.follow(ada)
    ada.follow(eve)
    assert counts("ada") == counts("Ada") == accounts.Counts(posts=3, followers=2, following=1)
    assert counts("bob") == accounts.Counts(posts=1, followers=0, following=1)
    assert counts("eve") == accounts.Counts(posts=0, followers=1, following=1)


@pytest.mark.parametrize("name", ["eve", "", "a-b", "a" * 31])
def test_there_are_no_counts_of_somebody_who_is_not_there(make_user: MakeUser, name: str) -> None:
    make_user("ada")
    assert User.with_counts(name) is None


def test_counting_stops_where_it_would_take_long(make_user: MakeUser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagination, "MOST_COUNTED", 2)
    ada = make_user("ada")
    for count, counted in ((1, 1), (2, 2), (3, 3), (4, 3)):
        ada.publish(PostText.parse(f"number {count}"))
        assert counts("ada").posts == counted
