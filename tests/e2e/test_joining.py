"""A site that only its members may read, and where members invite others, in a browser."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import servers
from tests.conftest import PASSWORD
from tests.e2e.conftest import Visit
from tests.servers import Pipit

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]
WITHOUT_SHARE = "delete Navigator.prototype.share"


@pytest.fixture
def club(tmp_path: Path) -> Iterator[Pipit]:
    """Give a site that strangers can neither read nor join."""
    closed = {"READING": "members", "REGISTRATION": "invited"}
    with servers.valkey() as server, servers.pipit(tmp_path, f"redis://127.0.0.1:{server.port}/0", **closed) as running:
        yield running


def first_link(club: Pipit, name: str) -> str:
    """Make an account at the command line, and return the path of the link for its password."""
    command = [sys.executable, "-m", "flask", "user", "add", name]
    made = subprocess.run(command, cwd=servers.ROOT, env=club.environ, check=True, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip()


def test_the_first_member_invites_a_friend(club: Pipit, visit: Visits) -> None:
    member = visit(club, permissions=["clipboard-read", "clipboard-write"])
    member.page.add_init_script(WITHOUT_SHARE)
    member.open(first_link(club, "ada"))
    member.page.get_by_label("New password").fill(PASSWORD)
    member.page.get_by_role("button", name="Change password").click()
    member.page.get_by_text("Log in with the new one.").wait_for()
    member.log_in("ada")
    member.publish("Only members can read this.")
    member.page.locator("details.menu summary").click()
    member.page.get_by_role("link", name="Settings").click()
    member.page.get_by_role("link", name="Invitations").click()
    for people in ("5 people", "1 person"):
        member.page.get_by_label("How many can join with it").select_option(people)
        member.page.get_by_role("button", name="Create link").click()
        member.page.get_by_text("Link created.").wait_for()
    oldest = member.page.locator(".place").nth(1)
    oldest.get_by_role("button", name="Copy link").click()
    expect(oldest.get_by_role("status")).to_have_text("Link copied")
    link = member.page.evaluate("navigator.clipboard.readText()")
    assert link == member.page.get_by_label("5 of 5 uses left").input_value()

    friend = visit(club, viewport={"width": 320, "height": 600}, java_script_enabled=False)
    friend.open("/@ada")
    expect(friend.page.get_by_role("heading", name="Log in")).to_be_visible()
    assert friend.page.get_by_role("link", name="Latest").count() == 0
    friend.page.goto(link)
    friend.page.get_by_text("@ada invites you to join.").wait_for()
    friend.page.get_by_label("Name", exact=True).fill("bob")
    friend.page.get_by_label("Password").fill(PASSWORD)
    friend.page.get_by_role("button", name="Join").click()
    friend.open("/")
    friend.page.get_by_text("Only members can read this.").wait_for()
    member.page.reload()
    member.page.get_by_label("4 of 5 uses left").wait_for()
    member.page.get_by_role("button", name="Revoke").first.click()
    member.page.get_by_text("That link doesn't work any more.").wait_for()
    assert member.page.locator(".place").count() == 1
