"""Pipit as people meet it: in a browser, with and without scripts, at a small screen, by keyboard."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from app.models.post_text import LENGTH, PostText, PostTextError, count_characters
from tests import servers
from tests.conftest import PASSWORD
from tests.e2e.conftest import Visit, started_again
from tests.servers import Pipit, wait_until

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"  # one character of seven code points

TRICKY_TEXTS = [
    "",
    "plain",
    " \t\n inside a lot of white space \n\t ",
    "\u00a0a no-break space on both sides\u00a0",
    "\ufeffa byte order mark in front",
    "\u3000\u2003\u2028wide spaces and a line separator\u2029\u202f",
    "\u200ba zero-width space is not white space\u200b",
    "\u0085a next line character is a control character\u0085",
    "one\r\ntwo\r\nthree",
    "one\rtwo\n\nthree\n",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 flags, and half of one \U0001f1e9",
    f"{FAMILY} a family",
    "\U0001f44d\U0001f3fd a skin tone, \U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f Scotland",
    "\u2764\ufe0f\u200d\U0001f525 and 1\ufe0f\u20e3 a keycap",
    "\ud55c\uad6d\uc5b4 and \u1112\u1161\u11ab\u1100\u116e\u11a8 Hangul, whole and in parts",
    "e\u0301e\u0301e\u0301 cafe\u0301 combining marks",
    "Z\u0351\u036b\u0343a\u0331\u0334l\u0488g\u0321o\u0328",
    "\u0301 a mark without a letter",
    "\u0e01\u0e33\u0e44\u0e17\u0e22 Thai, \u0b95\u0bcd\u0bb7 Tamil, \u0924\u094d\u0930 Devanagari",
    "\u0915\u094d\u0937\u093f \u0939\u093f\u0928\u094d\u0926\u0940 conjuncts",
    "\u0600\u0661 a prefixed number sign, \u200d\u200d joiners alone",
    "\u202eright to left\u202c",
    "x" * LENGTH,
    "x" * (LENGTH + 1),
    FAMILY * LENGTH,
    "\U0001f1e9\U0001f1ea" * (LENGTH + 7),
]

LONG_NAME = "W" * 30
LONG_WORD = "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft" + "x" * 60


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_a_newcomer_registers_posts_logs_out_and_comes_back(site: Pipit, visit: Visits, scripts: bool) -> None:
    name = "newcomer_js" if scripts else "newcomer_plain"
    person = visit(site, java_script_enabled=scripts)
    person.open("/")
    person.page.get_by_role("link", name="Join", exact=True).click()
    person.register(name)
    person.publish(f"Hello from {name}, <b>says</b> #hello")

    person.page.get_by_role("link", name="Latest").click()
    post = person.page.locator("article.post", has_text=name)
    expect(post.locator(".post-body")).to_have_text(f"Hello from {name}, <b>says</b> #hello")
    stranger = visit(site)
    stranger.open("/")
    expect(stranger.page.locator("article.post", has_text=name)).to_have_count(1)

    person.log_out()
    assert not person.is_signed_in()
    assert person.open("/home").url.endswith("/login?next=/home")
    person.log_in(name)
    expect(person.page.get_by_role("heading", name="Home")).to_be_visible()
    assert person.is_signed_in()


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_a_mistake_is_told_beside_its_field_and_loses_nothing(site: Pipit, visit: Visits, scripts: bool) -> None:
    person = visit(site, java_script_enabled=scripts)
    person.open("/register")
    person.page.get_by_label("Name", exact=True).fill("not a name")
    person.page.get_by_label("E-mail").fill("ada@example.org")
    person.page.get_by_label("Password").fill(PASSWORD)
    person.page.get_by_role("button", name="Join").click()
    name = person.page.get_by_label("Name", exact=True)
    expect(name).to_have_value("not a name")
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(name).to_be_focused()
    expect(person.page.locator("#username-error")).to_be_visible()
    expect(person.page.get_by_label("E-mail")).to_have_value("ada@example.org")


def test_the_live_counter_agrees_with_the_server(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("counter")
    field, counter = person.page.get_by_label("What's happening?"), person.page.locator("#body-count")
    disagreements = []
    for text in TRICKY_TEXTS:
        field.fill(text)
        left = LENGTH - _counted_by_the_server(text)
        shown = counter.inner_text()
        if shown != (f"{left} left" if left >= 0 else f"{-left} too many"):
            disagreements.append((text[:40], shown, left))
    assert not disagreements


def test_what_the_counter_lets_pass_is_published_and_what_it_does_not_comes_back(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("measure")
    person.publish(FAMILY * (LENGTH - 2) + "\nx")
    person.open("/home")
    field = person.page.get_by_label("What's happening?")
    field.fill(FAMILY * LENGTH + "x")
    expect(person.page.locator("#body-count")).to_have_text("1 too many")
    person.page.get_by_role("button", name="Publish").click()
    expect(person.page.locator("#body-error")).to_contain_text("That is 281 characters")
    expect(field).to_have_value(FAMILY * LENGTH + "x")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_on_a_small_screen(site: Pipit, visit: Visits, scheme: str) -> None:
    name = LONG_NAME if scheme == "light" else LONG_NAME.replace("W", "M")
    screen = {"width": 320, "height": 568}
    person = visit(site, viewport=screen, color_scheme=scheme)
    person.register(name)
    person.publish(f"@{name} {LONG_WORD} #{'m' * 90}")
    person.publish(f"https://example.org/{'a' * 200}\n{FAMILY * 40}")
    person.open(f"/@{name}")
    permalink = person.page.locator(".post-time").first.get_attribute("href")
    follower = visit(site, viewport=screen)
    follower.register(name[:-1] + "x")
    follower.open(f"/@{name}")
    follower.page.get_by_role("button", name="Follow").click()
    stranger = visit(site, viewport=screen)
    pages = [
        "/",
        f"/@{name}",
        permalink,
        f"/@{name}/followers",
        f"/@{name}/following",
        f"/tags/{'m' * 90}",
        "/nowhere",
        "/people",
        "/tags",
        "/search",
        f"/search?q={'m' * 90}",
        "/search?q=from:n",
    ]
    private = ["/home", "/settings/password", "/settings/sessions"]
    too_wide = {}
    for someone, paths in [(person, [*pages, *private]), (stranger, [*pages, "/login", "/register"])]:
        for path in paths:
            someone.open(str(path))
            if found := _wider_than_the_screen(someone):
                too_wide[path] = found
    assert not too_wide

    person.open("/")
    person.page.locator("details.menu summary").click()
    box = person.page.locator(".menu-items").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320
    assert not _wider_than_the_screen(person)


def test_everything_is_reached_by_keyboard_and_where_one_is_can_be_seen(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("keys")
    person.publish("Something to tab to: https://example.org #keys")
    person.open("/")
    press = person.page.keyboard.press
    press("Tab")
    focused = person.page.locator(":focus")
    expect(focused).to_have_text("Skip to the content")
    box = focused.bounding_box()
    assert box is not None
    assert box["y"] >= 0

    seen: list[str] = []
    while (place := _what_has_focus(focused)) and place not in seen:
        seen.append(place)
        assert _outline(focused), f"focus can't be seen on {place}"
        press("Tab")
    assert any("keys" in place for place in seen)
    assert len(seen) >= 8

    person.open("/")
    press("Tab")
    press("Enter")
    press("Tab")
    assert focused.evaluate("element => document.querySelector('main').contains(element)")


def test_the_menu_opens_with_enter_and_closes_with_escape(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("menu")
    person.open("/")
    menu, press = person.page.locator("details.menu"), person.page.keyboard.press
    menu.locator("summary").focus()
    press("Enter")
    expect(person.page.get_by_role("link", name="Your profile", exact=True)).to_be_visible()
    press("Tab")
    expect(person.page.get_by_role("link", name="Your profile", exact=True)).to_be_focused()
    press("Escape")
    expect(person.page.get_by_role("link", name="Your profile", exact=True)).to_be_hidden()
    expect(menu.locator("summary")).to_be_focused()
    press("Enter")
    person.page.get_by_role("heading", name="Latest posts").click()
    expect(person.page.get_by_role("link", name="Your profile", exact=True)).to_be_hidden()


def test_one_logs_in_and_posts_by_keyboard_alone(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("typist")
    person.log_out()
    person.open("/login")
    keyboard = person.page.keyboard
    _tab_to(person, person.page.get_by_label("Name or e-mail"))
    keyboard.type("typist")
    keyboard.press("Tab")
    keyboard.type(PASSWORD)
    keyboard.press("Enter")
    expect(person.page.get_by_role("heading", name="Home")).to_be_visible()
    _tab_to(person, person.page.get_by_label("What's happening?"))
    keyboard.type("By keyboard alone")
    keyboard.press("Control+Enter")
    expect(person.page.get_by_text("Published.")).to_be_visible()


def test_times_tell_how_long_ago_and_after_a_week_the_date(site: Pipit, visit: Visits) -> None:
    person = visit(site, timezone_id="Asia/Kathmandu")  # UTC+05:45
    person.register("clock")
    person.publish("What time is it?")
    page = person.page
    time = page.locator("article.post", has_text="What time is it?").locator("time")
    published = datetime.fromisoformat(time.get_attribute("datetime") or "")
    there = published.astimezone(timezone(timedelta(hours=5, minutes=45)))
    date = f"{there.day} {there:%b}"
    for later, shown, said in [
        (timedelta(seconds=30), "now", "now"),
        (timedelta(minutes=3, seconds=30), "3 min", "3 minutes ago"),
        (timedelta(hours=5, minutes=30), "5 h", "5 hours ago"),
        (timedelta(hours=30), "1 d", "1 day ago"),
        (timedelta(days=6, hours=23), "6 d", "6 days ago"),
        (timedelta(days=900), f"{date} {there.year}", None),
    ]:
        page.clock.set_fixed_time(published + later)
        person.open("/@clock")
        expect(time).to_have_text(shown)
        expect(time).to_have_attribute("title", f"{date} {there.year}, {there:%H:%M}")
        if said:
            expect(page.get_by_role("link", name=said)).to_be_visible()
    page.locator(".post-time").click()
    expect(page.locator("article.post time")).to_have_text(f"{date} {there.year}, {there:%H:%M}")

    plain = visit(site, java_script_enabled=False)
    plain.open("/@clock")
    expect(plain.page.locator("article.post time")).to_have_text(f"{published.day} {published:%b}")
    plain.page.locator(".post-time").click()
    in_utc = f"{published.day} {published:%b %Y, %H:%M} UTC"
    expect(plain.page.locator("article.post time")).to_have_text(in_utc)


def test_a_restart_of_every_web_process_logs_nobody_out(tmp_path: Path, visit: Visits) -> None:
    with (
        servers.valkey() as server,
        servers.pipit(tmp_path, f"redis://127.0.0.1:{server.port}/0") as pipit,
    ):
        person = visit(pipit)
        person.register("survivor")
        person.page.get_by_label("What's happening?").fill("Written before the restart, sent after it")
        with started_again(pipit):
            person.page.get_by_role("button", name="Publish").click()
            expect(person.page.get_by_text("Published.")).to_be_visible()
            assert person.is_signed_in()
            expect(person.page.locator("article.post")).to_contain_text("Written before the restart")


def test_who_guesses_passwords_is_told_when_to_try_again(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("guessed")
    person.log_out()
    wait_until(lambda: datetime.now(UTC).second < 50, "a minute with enough of it left")
    for _attempt in range(5):
        person.log_in("guessed", "a wrong password")
        expect(person.page.get_by_text("don't match")).to_be_visible()
    person.log_in("guessed")
    expect(person.page.get_by_role("heading", name="Too many attempts")).to_be_visible()
    expect(person.page.locator("main")).to_contain_text("Try again in")
    person.page.get_by_role("link", name="Back to the form").click()
    expect(person.page.get_by_role("heading", name="Log in")).to_be_visible()


def test_no_page_breaks_its_own_security_policy(site: Pipit, visit: Visits) -> None:
    """The `visit` fixture does the judging; here every page is opened at least once, signed in and not."""
    person = visit(site)
    stranger = visit(site)
    for path in ["/", "/login", "/register", "/nowhere", "/@nobody_at_all"]:
        stranger.open(path)
    person.register("policy")
    person.publish("Look: https://example.org @policy #policy <script>alert(1)</script>")
    person.open("/@policy")
    permalink = person.page.locator(".post-time").first.get_attribute("href")
    settings = ["/settings/password", "/settings/sessions"]
    for path in ["/", "/home", "/@policy/followers", "/@policy/following", "/tags/policy", *settings]:
        assert person.open(path).status == 200
        assert stranger.open(path).status == 200
    stranger.open(str(permalink))
    person.open(str(permalink))
    person.page.get_by_text("Delete…").click()
    person.page.get_by_role("button", name="Delete post").click()
    expect(person.page.get_by_text("Deleted.")).to_be_visible()


def _counted_by_the_server(text: str) -> int:
    sent = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")  # as a browser sends a textarea
    try:
        return count_characters(PostText.parse(sent).body)
    except PostTextError as error:
        words = str(error).split()
        return int(words[2]) if words[:2] == ["That", "is"] else 0


def _wider_than_the_screen(person: Visit) -> list[str]:
    """Return what makes the page scroll sideways: nothing, as a rule."""
    found: list[str] = person.page.evaluate("""() => {
        const root = document.documentElement
        if (root.scrollWidth <= root.clientWidth) return []
        const all = [...document.querySelectorAll("body, body *")]
        return all.filter((element) => element.getBoundingClientRect().right > root.clientWidth)
            .map((element) => `${root.scrollWidth} px: ${element.outerHTML.slice(0, 120)}`)
    }""")
    return found


def _what_has_focus(focused: Locator) -> str:
    """Return what tells the focused element from others, empty if none has it."""
    if focused.count() == 0:
        return ""
    return str(focused.evaluate("element => `${element.tagName} ${element.textContent.trim()} ${element.href ?? ''}`"))


def _outline(focused: Locator) -> bool:
    style = "element => { const s = getComputedStyle(element); return [s.outlineStyle, parseFloat(s.outlineWidth)] }"
    kind, width = focused.evaluate(style)
    return bool(kind != "none" and width >= 1)


def _tab_to(person: Visit, target: Locator) -> None:
    for _key in range(30):
        if target.evaluate("element => element === document.activeElement"):
            return
        person.page.keyboard.press("Tab")
    raise AssertionError("thirty presses of Tab don't lead there")
