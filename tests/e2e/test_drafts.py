"""Nothing that somebody has typed is lost, whatever happens before it is published."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Locator, Route, expect

from app.models.post_text import LENGTH
from app.rate_limit import BY_ACCOUNT
from tests.conftest import PASSWORD
from tests.e2e.conftest import Visit
from tests.servers import Pipit, wait_until

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]
BACK = "Your draft is back."
FILL_STORAGE = """() => {
    let piece = "x".repeat(2 ** 20)
    while (piece) {
        try { localStorage.setItem("filler", (localStorage.getItem("filler") ?? "") + piece) }
        catch { piece = piece.slice(1, 1 + piece.length / 2) }
    }
}"""
FORBID_STORAGE = """for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(globalThis, name, {get() { throw new DOMException("forbidden", "SecurityError") }})
}"""
SEND_TOO_OFTEN = """async (times) => {
    const fields = new FormData(document.querySelector("form.compose"))
    fields.set("body", "another post")
    for (let time = 0; time < times; time += 1) {
        await fetch("/posts", {method: "POST", body: new URLSearchParams(fields), redirect: "manual"})
    }
}"""


def field(person: Visit) -> Locator:
    return person.page.locator("#body")


def publish(person: Visit) -> None:
    person.page.get_by_role("button", name="Publish").click()


def publish_too_often(person: Visit) -> None:
    """Send the form when the minute's posts are used up."""
    wait_until(lambda: datetime.now(UTC).second < 50, "a minute with enough of it left")
    person.page.evaluate(SEND_TOO_OFTEN, BY_ACCOUNT["post"][False])
    publish(person)
    expect(person.page.get_by_role("heading", name="Too many attempts")).to_be_visible()


def test_a_draft_survives_leaving_the_page_and_a_reload(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("leaving")
    expect(person.page.get_by_text(BACK)).to_have_count(0)
    field(person).press_sequentially("half a thought")
    person.page.get_by_role("link", name="Latest").click()
    person.page.get_by_role("link", name="Home").click()
    expect(field(person)).to_have_value("half a thought")
    expect(person.page.get_by_text(BACK)).to_be_visible()
    expect(person.page.locator("#body-count")).to_have_text(f"{LENGTH - 14} left")
    field(person).press_sequentially(", and the other half")
    person.page.reload()
    expect(field(person)).to_have_value(re.compile("half"))
    assert sorted(field(person).input_value().split(", ")) == ["and the other half", "half a thought"]


def test_what_is_typed_before_the_script_has_loaded_is_newer_than_the_draft(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("quick")
    field(person).fill("An old draft")
    held: list[Route] = []
    person.page.route("**/*.js", lambda route: held.append(route))
    person.page.goto(person.page.url, wait_until="commit")
    field(person).fill("Typed before the script came")
    for route in held:
        route.continue_()
    person.page.wait_for_load_state()
    expect(field(person)).to_have_value("Typed before the script came")
    person.page.unroute("**/*.js")
    person.page.reload()
    expect(field(person)).to_have_value("Typed before the script came")


def test_a_published_draft_is_gone(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("done")
    field(person).fill("now or never")
    person.page.reload()
    expect(person.page.get_by_text(BACK)).to_be_visible()
    publish(person)
    expect(person.page.get_by_text("Published.")).to_be_visible()
    for _time in range(2):
        expect(field(person)).to_have_value("")
        expect(person.page.get_by_text(BACK)).to_have_count(0)
        person.page.reload()


def test_a_discarded_draft_is_gone_and_the_field_has_focus(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("discarder")
    field(person).fill("better not")
    person.page.reload()
    person.page.get_by_role("button", name="Discard").click()
    expect(field(person)).to_be_focused()
    expect(field(person)).to_have_value("")
    expect(person.page.get_by_text(BACK)).to_have_count(0)
    expect(person.page.locator("#body-count")).to_have_text(f"{LENGTH} left")
    person.page.reload()
    expect(person.page.get_by_role("heading", name="Home")).to_be_visible()
    expect(field(person)).to_have_value("")


def test_what_is_too_long_to_publish_comes_back_from_the_server_and_stays(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("verbose")
    field(person).fill("x" * (LENGTH + 1))
    publish(person)
    expect(person.page.locator("#body-error")).to_be_visible()
    expect(field(person)).to_have_value("x" * (LENGTH + 1))
    expect(person.page.get_by_text(BACK)).to_have_count(0)
    person.open("/home")
    expect(field(person)).to_have_value("x" * (LENGTH + 1))


@pytest.mark.parametrize("replies", [False, True], ids=["a post", "a reply"])
def test_whose_session_has_ended_logs_in_and_the_draft_is_there_to_send(
    site: Pipit, visit: Visits, replies: bool
) -> None:
    person = visit(site)
    name = "alone" if replies else "loser"
    person.register(name)
    if replies:
        person.publish("Anyone?")
        person.page.locator(".post").get_by_role("link", name="Reply").click()
    field(person).fill("I am here")
    person.page.context.clear_cookies()
    person.page.get_by_role("button", name="Reply" if replies else "Publish").click()
    expect(person.page.get_by_role("heading", name="Log in to send this")).to_be_visible()
    expect(person.page.get_by_label("What you wrote")).to_have_value("I am here")
    person.page.locator("main").get_by_role("link", name="Log in").click()
    person.page.get_by_label("Name or e-mail").fill(name)
    person.page.get_by_label("Password").fill(PASSWORD)
    person.page.get_by_role("button", name="Log in").click()
    expect(person.page.get_by_text(BACK)).to_be_visible()
    expect(field(person)).to_have_value("I am here")
    expect(person.page).to_have_url(re.compile(rf"/@{name}/\d+#reply$" if replies else "/home$"))
    person.page.get_by_role("button", name="Reply" if replies else "Publish").click()
    expect(person.page.get_by_text("Published.")).to_be_visible()
    expect(person.page.locator(".post-body", has_text="I am here")).to_have_count(1)


def test_who_publishes_too_often_finds_the_draft_in_the_form(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("hasty")
    field(person).fill("one more")
    publish_too_often(person)
    person.page.get_by_role("link", name="Back to the form").click()
    expect(field(person)).to_have_value("one more")
    expect(person.page.get_by_text(BACK)).to_be_visible()


def test_going_back_to_an_earlier_message_does_not_take_a_draft_for_published(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("returner")
    person.publish("the first")
    field(person).fill("the second")
    publish_too_often(person)
    person.page.go_back()
    expect(person.page.get_by_text("Published.")).to_be_visible()
    expect(field(person)).to_have_value("the second")


def test_what_was_published_although_the_answer_was_lost_is_not_published_twice(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("tunnel")
    field(person).fill("said once")

    def lose_the_answer(route: Route) -> None:
        route.fetch(max_redirects=0)
        route.abort()

    person.page.route("**/posts", lose_the_answer)
    publish(person)
    person.page.wait_for_url("chrome-error://**")
    person.page.unroute("**/posts")
    other = visit(site, storage_state=person.page.context.storage_state())
    other.publish("something else, so that forms have another key")
    person.open("/home")
    expect(field(person)).to_have_value("said once")
    publish(person)
    expect(person.page.get_by_text("Published.")).to_be_visible()
    person.open("/@tunnel")
    expect(person.page.locator(".post-body", has_text="said once")).to_have_count(1)


def test_nobody_sees_the_draft_of_another_account_and_its_author_does_after_a_logout(
    site: Pipit, visit: Visits
) -> None:
    person = visit(site)
    person.register("first_of_two")
    field(person).fill("for my eyes")
    person.log_out()
    person.register("second_of_two")
    expect(field(person)).to_have_value("")
    expect(person.page.get_by_text(BACK)).to_have_count(0)
    person.log_out()
    person.log_in("first_of_two")
    expect(field(person)).to_have_value("for my eyes")


def test_each_reply_has_a_draft_of_its_own(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("juggler")
    permalinks = []
    for number in range(2):
        person.publish(f"Question {number}")
        permalinks.append(str(person.page.locator(".post-time").first.get_attribute("href")))
        person.open(permalinks[-1])
        field(person).fill(f"Answer {number}")
    for number, permalink in enumerate(permalinks):
        person.open(permalink)
        expect(field(person)).to_have_value(f"Answer {number}")
    person.open("/home")
    expect(field(person)).to_have_value("")


def test_an_edit_has_a_draft_until_it_is_saved(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("corrector")
    person.publish("tee?")
    person.open("/@corrector")
    person.page.locator(".post-time").first.click()
    person.page.get_by_role("link", name="Edit", exact=True).click()
    form = person.page.url
    expect(person.page.locator("#body-count")).to_have_text(f"{LENGTH - 4} left")
    expect(person.page.get_by_text(BACK)).to_have_count(0)
    field(person).fill("tea?")
    person.page.get_by_role("link", name="Home").click()
    expect(field(person)).to_have_value("")
    person.page.goto(form)
    expect(field(person)).to_have_value("tea?")
    expect(person.page.get_by_text(BACK)).to_be_visible()
    person.page.get_by_role("button", name="Discard").click()
    expect(field(person)).to_have_value("tee?")
    field(person).fill("tea!")
    person.page.keyboard.press("Control+Enter")
    expect(person.page.get_by_text("Saved.")).to_be_visible()
    expect(person.page.locator(".post-body")).to_have_text("tea!")
    person.page.goto(form)
    expect(field(person)).to_have_value("tea!")
    expect(person.page.get_by_text(BACK)).to_have_count(0)


def test_a_draft_is_forgotten_after_a_month(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("sleeper")
    field(person).fill("tomorrow")
    for days, kept in ((29, 1), (31, 0)):
        person.page.clock.set_fixed_time(datetime.now(UTC) + timedelta(days=days))
        person.page.reload()
        expect(person.page.get_by_text(BACK)).to_have_count(kept)


@pytest.mark.parametrize("trouble", ["full", "forbidden"])
def test_storage_that_is_full_or_forbidden_breaks_nothing(site: Pipit, visit: Visits, trouble: str) -> None:
    person = visit(site)
    if trouble == "forbidden":
        person.page.add_init_script(FORBID_STORAGE)
    person.register(f"storage_{trouble}")
    if trouble == "full":
        person.page.evaluate(FILL_STORAGE)
    field(person).fill("typed all the same")
    expect(person.page.locator("#body-count")).to_have_text(f"{LENGTH - 18} left")
    publish(person)
    expect(person.page.get_by_text("Published.")).to_be_visible()
