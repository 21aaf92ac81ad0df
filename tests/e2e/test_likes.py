"""Likes as people use them: with and without scripts, by keyboard, as a stranger."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Visit
from tests.servers import Pipit

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]


def heart(page: Page, post_id: int, name: str) -> None:
    """Expect a post's heart to be called that, and no other heart beside it."""
    hearts = page.locator(f"#post-{post_id}").get_by_role("button")
    expect(hearts).to_have_count(1)
    expect(hearts).to_have_accessible_name(name)


def test_a_like_is_sent_in_place_by_keyboard_and_is_there_after_a_reload(site: Pipit, visit: Visits) -> None:
    person = visit(site, viewport={"width": 320, "height": 640})
    person.register("likes_tea")
    for number in range(6):
        person.publish(f"Cup {number}")
    person.open("/@likes_tea")
    page = person.page
    post = page.locator(".posts .post").last
    post_id = int((post.get_attribute("id") or "").removeprefix("post-"))
    post.get_by_role("button", name="Like").focus()
    scrolled = page.evaluate("scrollY")
    with page.expect_response("**/like"):
        page.keyboard.press("Enter")
    heart(page, post_id, "Unlike")
    expect(post.get_by_role("button")).to_be_focused()
    expect(post.get_by_role("link", name="Likes: 1")).to_be_visible()
    assert page.evaluate("scrollY") == scrolled
    page.reload()
    heart(page, post_id, "Unlike")
    with page.expect_response("**/unlike"):
        post.get_by_role("button").click()
    heart(page, post_id, "Like")
    expect(post.locator(".post-likes")).to_have_text("")


def test_without_a_connection_a_heart_says_so_and_the_page_stays(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("on_a_train")
    person.publish("Tunnel")
    person.open("/@on_a_train")
    page = person.page
    page.route("**/like", lambda route: route.abort("aborted"))
    page.evaluate("console.error = () => {}")
    page.get_by_role("button", name="Like").click()
    expect(page.locator(".post output")).to_have_text("That didn’t work. Are you online?")
    expect(page).to_have_url(re.compile("/@on_a_train$"))
    page.unroute("**/like")
    with page.expect_response("**/like"):
        page.get_by_role("button", name="Like").click()
    expect(page.get_by_role("button", name="Unlike")).to_be_visible()
    expect(page.locator(".post output")).to_have_count(0)


def test_a_like_works_without_scripts_and_leads_back_to_the_post(site: Pipit, visit: Visits) -> None:
    person = visit(site, java_script_enabled=False)
    person.register("plain_likes")
    person.publish("Plain tea")
    person.open("/@plain_likes")
    page = person.page
    page.get_by_role("button", name="Like").click()
    expect(page).to_have_url(re.compile(r"/@plain_likes#post-[0-9]+$"))
    expect(page.get_by_role("button", name="Unlike")).to_be_visible()
    page.locator(".post-likes").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Liked by")
    expect(page.locator(".people")).to_contain_text("@plain_likes")


def test_a_post_above_a_reply_gets_no_number_by_a_like(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("above_likes")
    person.publish("Tea above")
    person.open("/@above_likes")
    page = person.page
    page.get_by_role("link", name="Reply").click()
    page.get_by_label("Your reply").fill("Tea below")
    page.get_by_role("button", name="Reply").click()
    page.get_by_text("Tea below").click()
    above = page.locator(".context .post")
    with page.expect_response("**/like"):
        above.get_by_role("button", name="Like").click()
    expect(above.get_by_role("button", name="Unlike")).to_be_visible()
    expect(above.get_by_role("link", name="Likes:")).to_have_count(0)


def test_a_like_that_cannot_be_sent_shows_why(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("lost_likes")
    person.publish("Tea for one")
    person.open("/@lost_likes")
    person.page.context.clear_cookies()
    person.page.get_by_role("button", name="Like").click()
    expect(person.page.get_by_role("heading", level=1)).to_have_text("Log in to do this")


def test_a_stranger_who_clicks_on_a_heart_is_asked_to_log_in(site: Pipit, visit: Visits) -> None:
    visit(site).register("someone_liked")
    author = visit(site)
    author.log_in("someone_liked")
    author.publish("Tea for strangers")
    stranger = visit(site)
    stranger.open("/@someone_liked")
    stranger.page.get_by_role("button", name="Like").click()
    expect(stranger.page.get_by_text("Log in to like posts.")).to_be_visible()


def test_a_double_click_on_a_heart_is_one_like(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("hasty_likes")
    person.publish("Tea, quickly")
    person.open("/@hasty_likes")
    post = person.page.locator(".post").first
    post.get_by_role("button", name="Like").dblclick()
    expect(post.get_by_role("button")).to_have_accessible_name("Unlike")
    expect(post.get_by_role("link", name="Likes: 1")).to_be_visible()
