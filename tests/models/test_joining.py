"""Invitations are used as often as they allow, also by two at once; whoever asks to join has no account before."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from flask import Flask

from app.extensions import db
from app.models import Applicant, Invitation, NameTakenError, User
from app.models.joining import MOST_OPEN, InvitationEndedError, TooManyInvitationsError
from app.models.mail import Mail
from tests.conftest import PASSWORD, SECRET_KEY, in_threads

DAY = timedelta(days=1)


@pytest.fixture
def inviter(make_user: Callable[[str], User]) -> User:
    return make_user("ada")


def invited(name: str, invitation: Invitation) -> User:
    return User.register(name, None, PASSWORD, invitation=invitation)


def read(invitation: Invitation) -> Invitation:
    """Return an invitation as somebody finds it who opens its link."""
    token = invitation.token(SECRET_KEY)
    db.session.remove()
    found = Invitation.with_token(token, SECRET_KEY)
    assert found
    return found


def why_ended(invitation: Invitation) -> str:
    found = read(invitation)
    with pytest.raises(InvitationEndedError) as refused:
        invited("late", found)
    assert User.named("late") is None
    with pytest.raises(InvitationEndedError) as told:
        read(invitation).check()
    assert str(refused.value)
    return str(told.value)


def test_an_invitation_lets_in_as_many_as_it_says_and_it_is_kept_who_invited_them(inviter: User) -> None:
    invitation = Invitation.make(inviter, 2, DAY)
    read(invitation).check()
    for name in ("bob", "cyd"):
        assert invited(name, invitation).invited_by == inviter.id
    assert "used up" in why_ended(invitation)
    assert Invitation.open_of(inviter.id) == []


def test_two_at_once_on_the_last_use_are_one_member_more(app: Flask, inviter: User) -> None:
    invitation = Invitation.make(inviter, 3, DAY)
    let_in = []

    def join(number: int) -> None:
        with app.app_context(), suppress(InvitationEndedError):
            let_in.append(invited(f"guest{number}", invitation).name)

    in_threads(6, join)
    assert len(let_in) == 3
    assert sorted(person.name for person in User.everyone()) == sorted(["ada", *let_in])
    assert read(invitation).uses == 3


def test_a_name_that_is_taken_costs_no_use(inviter: User) -> None:
    invitation = Invitation.make(inviter, 1, DAY)
    with pytest.raises(NameTakenError):
        invited("ada", invitation)
    assert read(invitation).uses == 0


def test_an_invitation_expires(inviter: User) -> None:
    invitation = Invitation.make(inviter, 1, -DAY)
    assert "expired" in why_ended(invitation)
    assert Invitation.open_of(inviter.id) == []


def test_only_its_maker_can_revoke_an_invitation(inviter: User, make_user: Callable[[str], User]) -> None:
    invitation = Invitation.make(inviter, 1, DAY)
    Invitation.revoke(make_user("bob").id, invitation.id)
    read(invitation).check()
    Invitation.revoke(inviter.id, invitation.id)
    assert "withdrawn" in why_ended(invitation)


def test_the_invitations_of_a_suspended_member_stop_working_and_come_back_with_them(inviter: User) -> None:
    invitation = Invitation.make(inviter, 1, DAY)
    inviter.suspend()
    assert "withdrawn" in why_ended(invitation)
    member = User.named("ada")
    assert member
    member.reinstate()
    assert invited("bob", invitation).name == "bob"


def test_the_invitations_of_a_deleted_member_are_gone_and_whom_they_invited_keeps_their_id(inviter: User) -> None:
    invitation, inviter_id = Invitation.make(inviter, 2, DAY), inviter.id
    token = invitation.token(SECRET_KEY)
    invited("bob", invitation)
    inviter.delete_account()
    db.session.remove()
    assert Invitation.with_token(token, SECRET_KEY) is None
    bob = User.named("bob")
    assert bob
    assert bob.invited_by == inviter_id


def test_a_member_has_only_so_many_invitations_that_can_be_used(inviter: User) -> None:
    made = [Invitation.make(inviter, 1, DAY) for _ in range(MOST_OPEN)]
    with pytest.raises(TooManyInvitationsError):
        Invitation.make(inviter, 1, DAY)
    Invitation.revoke(inviter.id, made[0].id)
    Invitation.make(inviter, 1, DAY)
    assert len(Invitation.open_of(inviter.id)) == MOST_OPEN


@pytest.mark.parametrize("token", ["", "x", "Nw", "MQ.aaaaaaaaaaaaaaaaaaaaaaaaaaa", "\0"])
def test_a_token_that_somebody_made_up_leads_to_no_invitation(inviter: User, token: str) -> None:
    invitation = Invitation.make(inviter, 1, DAY)
    assert Invitation.with_token(token, SECRET_KEY) is None
    assert Invitation.with_token(invitation.token("another key, of another site"), SECRET_KEY) is None


def test_whoever_asks_is_nobody_until_they_are_let_in(context: None) -> None:
    applicant = Applicant.ask("Eve", "Eve@example.org", PASSWORD, "I like tea")
    assert User.named("eve") is None
    assert User.authenticate("eve", PASSWORD) is None
    assert [(waiting.name, waiting.why) for waiting in Applicant.waiting()] == [("Eve", "I like tea")]
    for login in ("eve", "@EVE"):
        assert Applicant.named(login)
    assert applicant.let_in()
    assert Applicant.waiting() == []
    assert User.authenticate("eve", PASSWORD)
    user = User.named("eve")
    assert user
    assert (user.name, user.email, user.new_email) == ("Eve", None, "eve@example.org")
    assert [(mail.kind, mail.recipient) for mail in Mail.unsent()] == [("let-in", "eve@example.org")]


@pytest.mark.parametrize("login", ["", "@", "nobody", "eve\0", "x" * 300, "nobody@example.org"])
def test_nobody_waits_under_another_name(context: None, login: str) -> None:
    Applicant.ask("eve", "", PASSWORD)
    assert Applicant.named(login) is None


def test_two_who_wait_have_different_names(context: None) -> None:
    Applicant.ask("eve", "eve@example.org", PASSWORD)
    with pytest.raises(NameTakenError):
        Applicant.ask("EVE", "", PASSWORD)
    assert Applicant.ask("mallory", "eve@example.org", PASSWORD)  # nobody learns who has given an address


def test_whoever_is_turned_away_is_forgotten_and_may_ask_again(context: None) -> None:
    Applicant.ask("eve", "", PASSWORD).turn_away()
    assert Applicant.waiting() == []
    assert User.named("eve") is None
    assert Applicant.ask("eve", "", PASSWORD)


def test_of_two_moderators_one_decides(app: Flask, context: None) -> None:
    applicant_id = Applicant.ask("eve", "", PASSWORD).id
    made = []

    def let_in(_number: int) -> None:
        with app.app_context():
            applicant = Applicant.with_id(applicant_id)
            if applicant and applicant.let_in():
                made.append(applicant.name)

    in_threads(4, let_in)
    assert made == ["eve"]
    assert Applicant.count() == 0


def test_an_account_made_meanwhile_goes_before_one_who_waits(context: None) -> None:
    applicant = Applicant.ask("eve", "eve@example.org", PASSWORD)
    User.register("eve", None, "another password")
    with pytest.raises(NameTakenError):
        applicant.let_in()
    assert Applicant.count() == 1
