"""REGISTRATION: who may join, as visitors, members and moderators see it."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from flask import Flask

from app.extensions import db
from app.models import Applicant, Invitation, User
from app.models.joining import INVITATION, MOST_OPEN
from app.models.moderation import COMMAND_LINE
from tests.conftest import PASSWORD, Visitor

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def site(make_app: Callable[..., Flask]) -> Callable[..., Flask]:
    """Give a function that makes a site whose first member is ada, who has written something."""

    def make(registration: str, **settings: str) -> Flask:
        app = make_app(registration=registration, **settings)
        with app.app_context():
            User.register("ada", None, PASSWORD)
        ada = member_of(app)
        ada.publish("hello")
        return app

    return make


def member_of(app: Flask, name: str = "ada") -> Visitor:
    member = Visitor(app.test_client())
    assert member.log_in(name).status_code == 302
    return member


def links_to_register(app: Flask) -> set[str]:
    """Return the pages on which a stranger is asked to join."""
    stranger = Visitor(app.test_client())
    pages = ("/", "/login", "/@ada", "/@ada/1", "/people", "/search")
    return {path for path in pages if 'href="/register' in stranger.get(path).text}


def invitation_of(member: Visitor, uses: int = 1, days: int = 1) -> str:
    """Make a link as a member does, and return its path."""
    answer = member.post("/settings/invitations", uses=str(uses), days=str(days))
    page = member.get(answer.location)
    assert "Link created." in page.text
    return unescape(re.findall(r'value="http://localhost(/join/[^"]+)"', page.text)[0])


def join(app: Flask, link: str, name: str) -> Visitor:
    guest = Visitor(app.test_client())
    assert guest.post(link, username=name, email="", password=PASSWORD).status_code == 302
    return guest


# Closed


def test_a_closed_site_says_so_and_asks_nobody_to_join(site: Callable[..., Flask]) -> None:
    app = site("closed")
    assert links_to_register(app) == set()
    assert "Log in to follow" in Visitor(app.test_client()).get("/@ada").text
    stranger = Visitor(app.test_client())
    page = stranger.get("/register")
    assert page.status_code == 403
    assert "isn&#39;t taking new members" in page.text or "isn't taking new members" in page.text
    assert stranger.post("/register", form_on="/login", username="eve", password=PASSWORD).status_code == 403
    with app.app_context():
        assert User.named("eve") is None


def test_an_open_site_asks_everyone_to_join(site: Callable[..., Flask]) -> None:
    assert links_to_register(site("open")) == {"/", "/login", "/@ada", "/@ada/1", "/people", "/search"}


@pytest.mark.parametrize("registration", ["open", "asked", "closed"])
def test_there_are_no_invitations_where_none_are_needed(site: Callable[..., Flask], registration: str) -> None:
    app = site(registration)
    member = member_of(app)
    assert member.get("/settings/invitations").status_code == 404
    assert "Invitations" not in member.get("/settings/profile").text
    assert Visitor(app.test_client()).get("/join/anything").location == "/register"


# Invited


def test_a_member_invites_somebody_who_joins_with_the_link(site: Callable[..., Flask]) -> None:
    app = site("invited")
    assert links_to_register(app) == set()
    stranger = Visitor(app.test_client())
    page = stranger.get("/register")
    assert (page.status_code, "You need an invitation" in page.text) == (403, True)
    ada = member_of(app)
    assert "You have no links" in ada.get("/settings/invitations").text
    assert 'aria-current="page">Invitations' in ada.get("/settings/invitations").text
    link = invitation_of(ada, uses=5, days=7)
    assert "5 of 5 uses left" in ada.get("/settings/invitations").text
    assert "@ada invites you to join." in stranger.get(link).text
    refused = stranger.post(link, username="ada", email="", password=PASSWORD)
    assert refused.status_code == 422
    assert "@ada invites you to join." in refused.text
    guest = join(app, link, "bob")
    assert guest.is_signed_in()
    assert "4 of 5 uses left" in ada.get("/settings/invitations").text
    shown = app.test_cli_runner().invoke(args=["user", "show", "bob"]).output
    assert re.search(r"invited_by +ada\n", shown)


def test_a_link_that_has_ended_says_why(site: Callable[..., Flask]) -> None:
    app = site("invited")
    ada = member_of(app)
    used, expired, revoked = (invitation_of(ada) for _ in range(3))
    join(app, used, "bob")
    with app.app_context():
        at = INVITATION.update().where(INVITATION.c.id == 2)
        db.session.execute(at.values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
        db.session.commit()
    ada.post("/settings/invitations/3/revoke", form_on="/settings/invitations")
    assert "You have no links" in ada.get("/settings/invitations").text
    stranger = Visitor(app.test_client())
    for link, why in (
        (used, "has been used up"),
        (expired, "has expired"),
        (revoked, "has been withdrawn"),
        (used[:-1], "isn&#39;t the whole link"),
    ):
        page = stranger.get(link)
        assert page.status_code == 410
        assert why in page.text
        assert stranger.post(link, form_on="/login", username="eve", password=PASSWORD).status_code == 410


def test_whoever_comes_too_late_for_the_last_use_is_told_so(site: Callable[..., Flask]) -> None:
    app = site("invited")
    link = invitation_of(member_of(app))
    late = Visitor(app.test_client())
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', late.get(link).text)
    join(app, link, "bob")
    assert token
    answer = late.client.post(link, data={"csrf_token": token[1], "username": "eve", "password": PASSWORD})
    assert answer.status_code == 410
    assert "used up" in answer.text


def test_nobody_revokes_the_link_of_another_member(site: Callable[..., Flask]) -> None:
    app = site("invited")
    link = invitation_of(member_of(app), uses=5)
    bob = join(app, link, "bob")
    bob.post("/settings/invitations/1/revoke", form_on="/settings/invitations")
    assert Visitor(app.test_client()).get(link).status_code == 200


def test_a_member_who_opens_a_link_stays_who_they_are(site: Callable[..., Flask]) -> None:
    ada = member_of(site("invited"))
    answer = ada.get(invitation_of(ada))
    assert answer.location == "/home"
    assert "already a member" in ada.get("/home").text


def test_too_many_links_and_odd_choices_are_refused(site: Callable[..., Flask]) -> None:
    app = site("invited")
    ada = member_of(app)
    assert ada.post("/settings/invitations", uses="1000", days="1").status_code == 422
    assert ada.post("/settings/invitations", uses="x", days="").status_code == 422
    with app.app_context():
        member = User.named("ada")
        assert member
        for _ in range(MOST_OPEN):
            Invitation.make(member, 1, timedelta(days=1))
    answer = ada.post("/settings/invitations", uses="1", days="1")
    assert answer.status_code == 422
    assert "You have 10 links already. Revoke one first." in answer.text


def test_a_link_opens_a_members_only_site_to_whom_it_is_for(site: Callable[..., Flask]) -> None:
    app = site("invited", reading="members")
    link = invitation_of(member_of(app))
    stranger = Visitor(app.test_client())
    assert stranger.get("/@ada").status_code == 302
    assert "@ada invites you" in stranger.get(link).text
    assert "hello" in join(app, link, "bob").get("/").text


def test_the_secret_part_of_a_link_is_not_logged(
    site: Callable[..., Flask], capsys: pytest.CaptureFixture[str]
) -> None:
    from app.front.log import output

    app = site("invited")
    link = invitation_of(member_of(app))
    Visitor(app.test_client()).get(link)
    output.flush()
    logged = capsys.readouterr().out
    assert "path=/join/" in logged
    assert link.rpartition(".")[2] not in logged


# Asked


def ask_to_join(app: Flask, name: str, why: str = "I like tea") -> Visitor:
    guest = Visitor(app.test_client())
    answer = guest.post("/register", username=name, email=f"{name}@example.org", password=PASSWORD, why=why)
    assert answer.location == "/login"
    assert f"Thanks, @{name}!" in guest.get("/login").text
    return guest


@pytest.fixture
def moderated(site: Callable[..., Flask]) -> Flask:
    """Give a site that ada moderates, and where eve asks to join."""
    app = site("asked")
    with app.app_context():
        ada = User.named("ada")
        assert ada
        COMMAND_LINE.promote(ada)
    ask_to_join(app, "eve")
    return app


def test_whoever_asks_waits_and_appears_nowhere(moderated: Flask) -> None:
    assert links_to_register(moderated)
    guest = Visitor(moderated.test_client())
    for login in ("eve", "@EVE"):
        assert "waiting for a moderator" in guest.log_in(login).text
    refused = guest.log_in("eve", password="not eve's password")
    assert "match" in refused.text
    assert "waiting" not in refused.text
    assert not guest.is_signed_in()
    assert guest.get("/@eve").status_code == 404
    ada = member_of(moderated)
    ada.publish("hello @eve")
    assert 'href="/@eve"' not in guest.get("/@ada/2").text
    for path in ("/people", "/search?q=eve"):
        assert 'href="/@eve"' not in guest.get(path).text


def test_where_no_mail_is_sent_one_asks_without_an_address(site: Callable[..., Flask]) -> None:
    guest = Visitor(site("asked", trusted_hosts=("localhost",)).test_client())
    page = guest.get("/register").text
    assert 'name="email"' not in page
    assert "you agree to these rules" in page
    assert guest.post("/register", username="eve", password=PASSWORD, why="I like tea").location == "/login"


def test_the_name_of_one_who_waits_is_taken_and_nobody_learns_their_address(moderated: Flask) -> None:
    visitor = Visitor(moderated.test_client())
    answer = visitor.post("/register", username="EVE", email="", password=PASSWORD)
    assert answer.status_code == 422
    assert "is taken" in answer.text
    assert visitor.post("/register", username="mallory", email="eve@example.org", password=PASSWORD).status_code == 302


def test_a_moderator_lets_somebody_in(moderated: Flask) -> None:
    ada = member_of(moderated)
    page = ada.get("/moderation/joining").text
    assert "@eve" in page
    assert "I like tea" in page
    ada.post("/moderation/joining/1/let-in", form_on="/moderation/joining")
    assert "@eve is a member now." in ada.get("/moderation/joining").text
    assert "Nobody is waiting" in ada.get("/moderation/joining").text
    eve = member_of(moderated, "eve")
    assert eve.get("/@eve").status_code == 200
    assert 'href="/@eve"' in eve.get("/people").text
    ada.post("/moderation/joining/1/let-in", form_on="/home")
    assert "already decided" in ada.get("/moderation/joining").text


def test_moderators_see_on_every_page_that_somebody_asks(moderated: Flask) -> None:
    ada = member_of(moderated)

    def menu() -> list[str]:
        return re.findall(r'/moderation">Moderation(?: <span class="badge">(\d+)<)?', ada.get("/").text)

    assert menu() == ["1"]
    ask_to_join(moderated, "mallory")
    assert menu() == ["2"]
    assert '<a href="/moderation/joining">2 people are asking to join</a>' in ada.get("/moderation").text
    ada.post("/moderation/joining/1/let-in", form_on="/moderation/joining")
    assert menu() == ["1"]
    assert "1 person is asking to join" in ada.get("/moderation").text
    ada.post("/moderation/joining/2/turn-away", form_on="/moderation/joining")
    assert menu() == [""]
    assert "person is asking" not in ada.get("/moderation").text


def test_a_moderator_turns_somebody_away(moderated: Flask) -> None:
    ada = member_of(moderated)
    ada.post("/moderation/joining/1/turn-away", form_on="/moderation/joining")
    assert "Nobody is waiting" in ada.get("/moderation/joining").text
    assert "match" in Visitor(moderated.test_client()).log_in("eve").text
    ask_to_join(moderated, "eve")


def test_nobody_else_has_such_a_page(moderated: Flask) -> None:
    with moderated.app_context():
        User.register("bob", None, PASSWORD)
    bob, stranger = member_of(moderated, "bob"), Visitor(moderated.test_client())
    for path in ("/moderation/joining", "/moderation/joining/1/let-in", "/moderation/joining/1/turn-away"):
        if path == "/moderation/joining":
            assert bob.get(path).status_code == 404
            assert stranger.get(path).location == f"/login?next={path}"
        else:
            assert bob.post(path, form_on="/home").status_code == 404
            assert stranger.post(path, form_on="/login").status_code == 403
    with moderated.app_context():
        assert Applicant.count() == 1


def test_why_is_one_line_and_not_too_long(moderated: Flask) -> None:
    guest = Visitor(moderated.test_client())
    answer = guest.post("/register", username="mallory", password=PASSWORD, why="x" * 201)
    assert answer.status_code == 422
    assert "Use at most 200 characters." in answer.text
    ask_to_join(moderated, "frank", why=" a\nb\0c ")
    with moderated.app_context():
        assert [waiting.why for waiting in Applicant.waiting()][-1] == "a bc"


def test_whoever_waits_still_does_after_the_site_has_opened(moderated: Flask, make_app: Callable[..., Flask]) -> None:
    guest = Visitor(make_app(registration="open").test_client())
    assert "waiting for a moderator" in guest.log_in("eve").text
    assert guest.register("eve").status_code == 422


# At the command line


def test_an_account_is_made_in_every_mode_and_its_owner_chooses_a_password(site: Callable[..., Flask]) -> None:
    app = site("closed", reading="members")
    run = app.test_cli_runner().invoke
    result = run(args=["user", "add", "bob", "--site", "https://pipit.example.org"])
    link, *_ = [line for line in result.output.splitlines() if line.startswith("https://pipit.example.org/reset/")]
    bob = Visitor(app.test_client())
    answer = bob.post(link.removeprefix("https://pipit.example.org"), new_password=PASSWORD)
    assert answer.location == "/login"
    assert member_of(app, "bob").is_signed_in()
    for name, why in (("BOB", "already"), ("not a name", "letters from a to z")):
        refused = run(args=["user", "add", name])
        assert (refused.exit_code, why in refused.output) == (1, True)


def test_those_who_wait_are_let_in_and_turned_away_at_the_command_line(moderated: Flask) -> None:
    run = moderated.test_cli_runner().invoke
    ask_to_join(moderated, "frank", why="")
    listed = run(args=["user", "waiting"]).output.splitlines()
    assert [line.split()[0] for line in listed] == ["eve", "frank"]
    assert listed[0].endswith("I like tea")
    assert "waiting to be let in" in run(args=["user", "add", "Eve"]).output
    assert run(args=["user", "let-in", "@Eve"]).output == "@eve can log in now.\n"
    assert run(args=["user", "turn-away", "frank"]).output == "@frank's request is deleted.\n"
    assert run(args=["user", "waiting", "--json"]).output == ""
    for command in ("let-in", "turn-away"):
        result = run(args=["user", command, "frank"])
        assert (result.exit_code, "Nobody named 'frank' is waiting" in result.output) == (1, True)
    assert member_of(moderated, "eve").is_signed_in()
