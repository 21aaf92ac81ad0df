"""Reading a list for long: it says when there is more, grows at its end, and never moves what is being read."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Request, expect

from tests.e2e.conftest import Visit
from tests.e2e.test_comfort import COUNT_SHIFTS, DESKTOP, PHONE
from tests.servers import Pipit, wait_until

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]
PER_PAGE = 30
POLL = 40_000  # ms; longer than the script waits between two looks
LONGEST_POLL = 800_000  # ms; longer than it ever waits
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true})
    document.dispatchEvent(new Event("visibilitychange"))
}"""
PUBLISH = """async ([from, to]) => {
    const fields = new FormData(document.querySelector("form.compose"))
    for (let number = from; number <= to; number += 1) {
        fields.set("body", `Number ${number}`)
        await fetch("/posts", {method: "POST", body: new URLSearchParams(fields), redirect: "manual"})
    }
}"""


def have_joined_long_ago(site: Pipit) -> None:
    """Let all accounts be older than a day: who is new may post less."""
    with closing(sqlite3.connect(site.environ["DATABASE_URL"].removeprefix("sqlite:///"))) as database:
        database.execute("UPDATE users SET created_at = '2026-01-01 00:00:00.000000'")
        database.commit()


def publish_many(site: Pipit, person: Visit, count: int) -> None:
    have_joined_long_ago(site)
    person.open("/home")
    person.page.evaluate(PUBLISH, [1, count])
    person.open("/home")  # shows the message, so that no other page does


def shown(page: Page) -> list[str]:
    return page.locator(".post-body").all_inner_texts()


def top_of(post: Locator) -> float:
    box = post.bounding_box()
    assert box is not None
    return box["y"]


@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_new_posts_are_told_of_and_nothing_moves(site: Pipit, visit: Visits, screen: dict[str, int]) -> None:
    author = visit(site)
    name = f"busy{screen['width']}"
    author.register(name)
    publish_many(site, author, 12)
    reader = visit(site, viewport=screen)
    reader.page.clock.install()
    reader.page.add_init_script(COUNT_SHIFTS)
    news = reader.page.get_by_role("status").get_by_role("link")
    for path in (f"/@{name}", "/"):
        reader.open(path)
        read = reader.page.locator(".post").nth(5)
        read.evaluate("(element) => element.scrollIntoView({block: 'center', behavior: 'instant'})")
        before, scrolled = top_of(read), reader.page.evaluate("scrollY")
        reader.page.clock.run_for(POLL)
        expect(news).to_have_count(0)
        reader.page.evaluate("globalThis.shift = 0")
        for words in ("1 new post", "2 new posts"):
            author.publish(f"New: {words} for {path}")
            reader.page.clock.run_for(POLL)
            expect(news).to_have_text(words)
        assert (top_of(read), reader.page.evaluate("scrollY")) == (before, scrolled)
        assert reader.page.evaluate("shift") == 0
        news.click()
        expect(reader.page.locator(".post-body").first).to_have_text(f"New: 2 new posts for {path}")
        expect(reader.page).to_have_url(site.url + path)
        expect(news).to_have_count(0)
        assert reader.page.evaluate("scrollY") == 0


def test_the_server_answers_a_look_that_finds_nothing_without_a_page(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("thrifty")
    person.publish("all there is")
    person.page.clock.install()
    for path in ("/@thrifty", "/home"):
        person.open("/")
        person.open(path)
        unchanged = f"path={path} status=304"
        before = site.log.read_text().count(unchanged)
        person.page.clock.run_for(POLL)
        wait_until(lambda: site.log.read_text().count(unchanged) > before, "a 304 in the log")  # noqa: B023


def test_nobody_looks_for_new_posts_in_a_hidden_tab_but_at_once_when_it_is_seen_again(
    site: Pipit, visit: Visits
) -> None:
    person = visit(site)
    person.register("hider")
    person.publish("here")
    person.page.clock.install()
    person.open("/@hider")
    looks = looks_of(person)
    person.page.evaluate(HIDE, True)
    person.page.clock.run_for(10 * POLL)
    person.page.evaluate("fetch('/healthz')")  # comes after any look that there was
    assert looks == [f"{site.url}/healthz"]
    with person.page.expect_request("**/@hider"):
        person.page.evaluate(HIDE, False)
        person.page.clock.run_for(1)


@pytest.mark.parametrize(
    ("answer", "pauses"),
    [(None, [30, 60, 120, 240, 480, 600, 600]), ({"status": 503, "headers": {"Retry-After": "900"}}, [30, 900, 900])],
    ids=["no network", "told to wait"],
)
def test_after_an_error_the_next_look_comes_later(
    site: Pipit, visit: Visits, answer: dict[str, Any] | None, pauses: list[int]
) -> None:
    person = visit(site)
    name = "refused" if answer else "offline"
    person.register(name)
    person.publish("here")
    page = person.page
    page.clock.install()
    page.add_init_script("Math.random = () => 0.5")  # so that a look comes after the pause, not up to a fifth sooner
    person.open(f"/@{name}")
    page.route(f"**/@{name}", lambda route: route.fulfill(**answer) if answer else route.abort("aborted"))
    page.evaluate("console.error = () => {}")
    looks = looks_of(person)
    for number, pause in enumerate(pauses):
        page.clock.run_for(int(0.75 * pause * 1000))
        page.evaluate("fetch('/healthz')")  # comes after any look that there was
        assert len(looks) == 2 * number + 1
        with page.expect_response(f"**/@{name}") if answer else page.expect_event("requestfailed"):
            page.clock.run_for(int(0.3 * pause * 1000))  # the next pause begins when the answer comes, in these 5 %


def test_a_message_for_the_next_page_is_not_taken_by_a_look(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("listener")
    person.publish("first")
    person.page.clock.install()
    person.open("/@listener")
    other = visit(site, storage_state=person.page.context.storage_state())
    other.open("/home")
    other.page.evaluate(PUBLISH, [1, 1])  # and the page that says "Published." is not asked for yet
    person.page.clock.run_for(POLL)
    expect(person.page.get_by_role("link", name="1 new post")).to_be_visible()
    other.open("/home")
    expect(other.page.get_by_text("Published.")).to_be_visible()


def test_older_posts_are_appended_and_back_returns_to_the_one_that_was_read(site: Pipit, visit: Visits) -> None:
    author = visit(site)
    author.register("prolific")
    publish_many(site, author, 2 * PER_PAGE + 5)
    reader = visit(site)
    page = reader.page
    reader.open("/@prolific")
    older = page.get_by_role("link", name="Older posts")
    for appended in (PER_PAGE, 5):
        count = page.locator(".post").count()
        older.scroll_into_view_if_needed()
        scrolled = page.evaluate("scrollY")
        older.click()
        expect(page.locator(".post")).to_have_count(count + appended)
        expect(page.get_by_role("status").filter(has_text=f"{appended} more")).to_have_count(1)
        expect(page.locator(".post").nth(count).locator(".post-author")).to_be_focused()
        assert page.evaluate("scrollY") == scrolled
    expect(older).to_have_count(0)
    assert shown(page) == [f"Number {number}" for number in range(2 * PER_PAGE + 5, 0, -1)]
    expect(page.locator("article.post time", has_text=re.compile("^now$|min$"))).to_have_count(2 * PER_PAGE + 5)

    read = page.locator(".post", has_text=re.compile(r"Number 20\b"))
    read.evaluate("(element) => element.scrollIntoView({block: 'center', behavior: 'instant'})")
    expect(page).to_have_url(re.compile(r"/@prolific\?before=\d+$"))
    was_at = top_of(read)
    read.locator(".post-time").click()
    expect(page).to_have_url(re.compile(r"/@prolific/\d+$"))
    page.go_back()
    expect(read).to_be_in_viewport(ratio=1)
    assert abs(top_of(read) - was_at) <= 1
    page.reload()
    expect(read).to_be_in_viewport(ratio=1)


def test_the_address_is_that_of_the_page_whose_posts_are_read(site: Pipit, visit: Visits) -> None:
    author = visit(site)
    author.register("addressed")
    publish_many(site, author, PER_PAGE + 20)
    reader = visit(site)
    page = reader.page
    reader.open("/@addressed")
    page.get_by_role("link", name="Older posts").click()
    expect(page.locator(".post")).to_have_count(PER_PAGE + 20)
    page.keyboard.press("End")
    expect(page).to_have_url(re.compile(r"\?before="))
    without_script = visit(site, java_script_enabled=False)
    without_script.page.goto(page.url)
    assert shown(without_script.page) == [f"Number {number}" for number in range(20, 0, -1)]
    page.keyboard.press("Home")
    expect(page).to_have_url(f"{site.url}/@addressed")


def test_where_older_posts_cannot_be_appended_the_link_is_followed(site: Pipit, visit: Visits) -> None:
    author = visit(site)
    author.register("followed")
    publish_many(site, author, PER_PAGE + 1)
    reader = visit(site)
    page = reader.page
    reader.open("/@followed")
    older = page.get_by_role("link", name="Older posts")
    with page.context.expect_page() as opened:
        older.click(modifiers=["Control"])
    expect(opened.value.locator(".post")).to_have_count(1)
    expect(page.locator(".post")).to_have_count(PER_PAGE)
    page.route("**/@followed?before=*", lambda route: route.abort("aborted"), times=1)
    older.click()
    expect(page.get_by_role("heading", name="@followed")).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?before="))
    expect(page.locator(".post")).to_have_count(1)


def test_more_replies_are_appended_and_none_is_shown_twice(site: Pipit, visit: Visits) -> None:
    author = visit(site)
    author.register("talkative")
    have_joined_long_ago(site)
    author.publish("Who is coming?")
    author.page.locator(".post-replies").first.click()
    author.page.evaluate(PUBLISH, [1, PER_PAGE + 3])
    author.page.reload()
    expect(author.page.locator(".conversation .post")).to_have_count(PER_PAGE)
    author.page.get_by_role("link", name="More replies").click()
    expect(author.page.locator(".conversation .post")).to_have_count(PER_PAGE + 3)
    assert shown(author.page)[1:] == [f"Number {number}" for number in range(1, PER_PAGE + 4)]


def test_a_list_that_muting_has_emptied_says_so(site: Pipit, visit: Visits) -> None:
    author, reader = visit(site), visit(site)
    author.register("chatty")
    author.publish("one two three")
    reader.register("prefers_quiet")
    reader.open("/@chatty")
    reader.page.get_by_role("button", name="Follow").click()
    reader.open("/home")
    note = reader.page.get_by_text("Everything here is by people you've muted or blocked.")
    expect(note).to_be_hidden()
    reader.open("/@chatty")
    reader.page.get_by_text("Mute or block").click()
    reader.page.get_by_role("button", name="Mute").click()
    for path in ("/home", "/search?q=from%3Achatty", "/search?q=%40chatty"):
        reader.open(path)
        expect(note).to_be_visible()


def test_no_post_takes_more_than_its_place(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("shouts")
    person.publish("a" + "\u0301" * 2_700)
    person.publish("top" + "\n" * 250 + "bottom")
    person.open("/@shouts")
    body = person.page.locator(".post-body")
    assert all(body.nth(number).evaluate("(post) => post.clientHeight") < 1_000 for number in range(2))
    assert body.nth(1).evaluate("(post) => getComputedStyle(post).overflowY") == "hidden"
    person.page.locator(".post-time").first.click()
    assert person.page.locator(".posts.single .post-body").evaluate("(post) => post.clientHeight") > 5_000


def looks_of(person: Visit) -> list[str]:
    """Return a list that grows by the URL of each request that the page's script sends."""
    looks: list[str] = []

    def note(request: Request) -> None:
        if request.resource_type == "fetch":
            looks.append(request.url)

    person.page.on("request", note)
    return looks
