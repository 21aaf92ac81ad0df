"""A conversation in two browsers: on phones, by keyboard, and without scripts."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Visit
from tests.servers import Pipit

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]
PHONE = {"width": 320, "height": 640}


@pytest.mark.parametrize(("scripts", "replies"), [(True, 20), (False, 4)], ids=["with scripts", "without scripts"])
def test_two_people_talk_on_their_phones_and_each_is_told(
    site: Pipit, visit: Visits, scripts: bool, replies: int
) -> None:
    suffix = "js" if scripts else "plain"
    people = [visit(site, java_script_enabled=scripts, viewport=PHONE) for _ in range(2)]
    names = [f"{name}_{suffix}" for name in ("ann", "ben")]
    for person, name in zip(people, names, strict=True):
        person.register(name)
    ann, ben = (person.page for person in people)
    people[0].open("/home")
    ann.get_by_label("What's happening?").fill(f"Tea at four? ({suffix})")
    ann.get_by_role("button", name="Publish").click()
    people[1].open("/")
    ben.locator(".post", has_text=f"Tea at four? ({suffix})").get_by_role("link", name="Reply").click()
    for number in range(replies):
        talks, waits, told = (ben, ann, people[0]) if number % 2 == 0 else (ann, ben, people[1])
        talks.get_by_label("Your reply").fill(f"Reply {number}")
        if scripts:
            talks.keyboard.press("Control+Enter")
        else:
            talks.get_by_label("Your reply").press("Tab")
            talks.keyboard.press("Enter")
        expect(talks.locator(".posts.single .post-body")).to_have_text(f"Reply {number}")
        told.open("/")
        bell = waits.get_by_role("link", name="Notifications 1 new")
        expect(bell).to_be_visible()
        bell.click()
        expect(waits.locator(".event.new")).to_have_count(1)
        assert waits.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        waits.locator(".event.new .post-time").click()
        expect(waits.locator(".posts.single .post-body")).to_have_text(f"Reply {number}")
        expect(waits.get_by_role("link", name="Notifications", exact=True)).to_be_visible()
        assert waits.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert waits.locator(".posts.context .post").count() == replies
