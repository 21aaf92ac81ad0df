"""The share button of a permalink, in a browser."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Visit
from tests.servers import Pipit

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]

WITH_SHARE = """navigator.share = async (what) => {
    globalThis.shared = what
    if (globalThis.refuse) throw new DOMException('', globalThis.refuse)
}"""
WITHOUT_SHARE = "delete Navigator.prototype.share"
WITHOUT_TLS = f"{WITHOUT_SHARE}; Object.defineProperty(navigator, 'clipboard', {{ value: undefined }})"


def open_post(person: Visit, name: str) -> str:
    """Register, publish a post, and open its permalink; return the URL."""
    person.register(name)
    person.publish(f"Share this, says {name}.")
    person.open(f"/@{name}")
    person.page.locator(".post-time").click()
    person.page.wait_for_url("**/@*/*")
    return person.page.url


def test_the_keyboard_copies_the_link_and_a_screen_reader_hears_so(site: Pipit, visit: Visits) -> None:
    person = visit(site, permissions=["clipboard-read", "clipboard-write"])
    person.page.add_init_script(WITHOUT_SHARE)
    url = open_post(person, "copier")
    person.page.goto(f"{url}#content")
    button = person.page.get_by_role("button", name="Copy link")
    status = person.page.locator(".share").get_by_role("status")
    expect(status).to_be_empty()
    for _ in range(2):
        button.focus()
        person.page.keyboard.press("Enter")
        expect(status).to_have_text("Link copied")
        expect(button).to_be_focused()
    assert person.page.evaluate("navigator.clipboard.readText()") == url


def test_a_link_that_may_not_be_copied_is_said_not_to_be(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.page.add_init_script(f"{WITHOUT_SHARE}; navigator.clipboard.writeText = () => Promise.reject(new Error())")
    open_post(person, "forbidden")
    person.page.get_by_role("button", name="Copy link").click()
    expect(person.page.locator(".share").get_by_role("status")).to_have_text("That didn’t work")


def test_a_device_with_a_dialog_of_its_own_opens_it(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.page.add_init_script(WITH_SHARE)
    url = open_post(person, "sharer")
    button, status = person.page.get_by_role("button", name="Share"), person.page.locator(".share output")
    for refusal, said in (("", ""), ("AbortError", ""), ("NotAllowedError", "That didn’t work")):
        person.page.evaluate("(refusal) => { globalThis.refuse = refusal }", refusal)
        button.click()
        expect(status).to_have_text(said)
        shared = person.page.evaluate("globalThis.shared")
        assert shared["url"] == url
        assert shared["title"].startswith("@sharer: Share this")


@pytest.mark.parametrize("scripts", [True, False], ids=["without TLS", "without scripts"])
def test_there_is_no_button_that_does_nothing(site: Pipit, visit: Visits, scripts: bool) -> None:
    person = visit(site, java_script_enabled=scripts)
    if scripts:
        person.page.add_init_script(WITHOUT_TLS)
    open_post(person, f"plain{scripts}")
    expect(person.page.get_by_text("More from")).to_be_visible()
    expect(person.page.locator(".share")).to_be_hidden()
