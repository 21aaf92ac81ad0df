"""Two-factor authentication in a browser: on a phone, and without scripts."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pyotp
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from app.models.second_factor import STEP
from tests.conftest import PASSWORD
from tests.e2e.conftest import Visit
from tests.e2e.test_comfort import OVERFLOW, PHONE
from tests.servers import Pipit

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button).click()


def fits(page: Page) -> None:
    for text_size in ("200%", "100%"):
        page.evaluate("size => document.documentElement.style.fontSize = size", text_size)
        assert page.evaluate(OVERFLOW) == 0


def set_up(person: Visit) -> tuple[str, list[str]]:
    """Turn it on, and return the secret and the recovery codes."""
    page = person.page
    person.open("/settings/account")
    page.get_by_role("link", name="Set up").click()
    expect(page.get_by_role("img", name="QR code")).to_be_visible()
    fits(page)
    secret = "".join(page.locator(".key span").all_text_contents())
    page.get_by_label("Code", exact=True).fill(pyotp.TOTP(secret).now())
    press(page, "Turn on")
    expect(page.get_by_role("heading", level=1)).to_have_text("Your recovery codes")
    fits(page)
    return secret, page.locator(".codes li").all_text_contents()


def test_it_is_set_up_and_used_on_a_phone_without_scripts(site: Pipit, visit: Visits) -> None:
    person = visit(site, viewport={"width": 320, "height": 640}, java_script_enabled=False)
    person.register("careful")
    secret, codes = set_up(person)
    page = person.page
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_text().split() == codes
    page.context.clear_cookies()

    person.log_in("careful")
    code = page.get_by_label("Code", exact=True)
    expect(code).to_be_focused()
    expect(code).to_have_attribute("autocomplete", "one-time-code")
    fits(page)
    code.fill(pyotp.TOTP(secret).at(int(time.time()) + STEP))  # of the next step: the last one's was used
    press(page, "Log in")
    page.wait_for_url("**/home")
    page.context.clear_cookies()

    person.log_in("careful")
    page.get_by_role("link", name="Use a recovery code").click()
    page.get_by_label("Recovery code").fill(codes[0])
    press(page, "Log in")
    expect(page.get_by_text("You've used a recovery code. You have 9 left.")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(site: Pipit, visit: Visits, theme: str) -> None:
    person = visit(site, viewport=PHONE, color_scheme=theme)
    person.register(f"factor_{theme}")
    set_up(person)

    def check() -> None:
        results = Axe().run(person.page)
        assert results.violations_count == 0, results.generate_report()

    check()
    for path in ("", "/two-factor/recovery-codes", "/two-factor/off"):
        person.open(f"/settings/account{path}")
        check()
    person.log_out()
    person.log_in(f"factor_{theme}")
    for code in ("Code", "Recovery code"):
        person.page.get_by_label(code, exact=True).wait_for()
        check()
        if code == "Code":
            person.page.get_by_role("link", name="Use a recovery code").click()


def test_a_form_that_waited_for_the_password_is_sent_by_the_browser(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("patient")
    person.open("/confirm-password")
    page = person.page
    # As if the form on /settings/profile had been sent too late.
    fields = {"next": "/settings/profile", "resend": "yes", "display_name": "Pat & co", "about": "", "link": ""}
    page.evaluate(
        """(fields) => {
            const form = document.querySelector("main form")
            for (const [name, value] of Object.entries(fields)) {
                const field = form.appendChild(document.createElement("input"))
                Object.assign(field, {type: "hidden", name, value})
            }
        }""",
        fields,
    )
    page.get_by_label("Password").fill(PASSWORD)
    press(page, "Continue")
    page.wait_for_url(re.compile("/(@patient|settings/profile)$"))
    person.open("/@patient")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Pat & co")
