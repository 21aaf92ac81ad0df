"""What the pages are like to use: by keyboard, screen reader and finger, with large text, on paper, while they load."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Route, expect

from tests.e2e.conftest import Visit
from tests.servers import ROOT, Pipit

pytestmark = pytest.mark.browser

Visits = Callable[..., Visit]

PHONE = {"width": 360, "height": 640}
DESKTOP = {"width": 1280, "height": 800}
ZOOMED = {"width": 320, "height": 256}  # what 1280 × 1024 is at 400 %
LAND = {"width": 640, "height": 320}
MEMBERS_PAGES = [
    *["/", "/home", "/home?before=9999", "/@{name}", "/@{name}/{post}", "/@{name}/{post}/likes", "/posts/{post}/edit"],
    *["/likes", "/notifications", "/search", "/search?q=comfort", "/people", "/tags", "/tags/comfort"],
    *["/settings/profile", "/settings/picture", "/settings/notifications", "/settings/sessions", "/settings/password"],
    *["/settings/account", "/settings/account/two-factor", "/confirm-password"],
    *["/settings/blocked", "/settings/delete"],
    *[
        "/moderation",
        "/moderation/log",
        "/moderation/status",
        "/moderation/pages",
        "/moderation/pages/rules",
    ],  # they moderate, too
    *["/moderation/people/{other}", "/@{other}", "/@{other}/report"],
]
STRANGERS_PAGES = [
    *["/", "/@{name}", "/@{name}/{post}", "/@{name}/followers", "/search?q=nothing+found", "/search?q=from:nobody"],
    *["/login", "/register", "/about", "/rules", "/privacy", "/nowhere"],
]
MOST_SHIFT = 0.01  # a tenth of what the Core Web Vitals call good
SMALLEST_TARGET = 24  # px; WCAG 2.2, 2.5.8

HIDDEN_FOCUS = """() => {
    const focused = document.activeElement, box = focused.getBoundingClientRect()
    const covered = document.querySelector('.bar').getBoundingClientRect()
    if (!focused.closest('main') || box.height === 0) return null
    const isSticky = getComputedStyle(document.querySelector('.bar')).position === 'sticky'
    const top = isSticky ? covered.bottom : 0
    return box.top < top - 1 || box.top > innerHeight ? `${focused.outerHTML.slice(0, 80)} at ${box.top}` : null
}"""
SMALL_TARGETS = """() => [...document.querySelectorAll('a, button, summary, input:not([type=hidden]), textarea')]
    .filter((element) => element.checkVisibility() && !element.closest('.post-body') && element.className !== 'skip')
    .map((element) => [element.outerHTML.slice(0, 80), element.getBoundingClientRect()])
    .filter(([, box]) => box.width > 1 && (box.height < %s || box.width < %s))
    .map(([html, box]) => `${html}: ${Math.round(box.width)} × ${Math.round(box.height)}`)"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
COUNT_SHIFTS = """new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) globalThis.shift = (globalThis.shift ?? 0) + entry.value
}).observe({type: 'layout-shift', buffered: true})"""


def a_full_page(person: Visit, name: str) -> None:
    """Register, and publish enough for a page that scrolls."""
    person.register(name)
    for number in range(6):
        person.publish(f"Number {number} of {name}: https://example.org/{number} #comfort")


def a_thread(person: Visit, name: str) -> str:
    """Publish a post with an answer and a like, and return its id."""
    person.publish("Tea? #comfort")
    person.open(f"/@{name}")
    permalink = str(person.page.locator(".post-time").first.get_attribute("href"))
    person.open(permalink)
    person.page.get_by_label("Your reply").fill("Tea!")
    person.page.get_by_role("button", name="Reply").click()
    person.page.get_by_text("Published.").wait_for()
    person.open(permalink)
    person.page.locator(".single .like").click()
    person.page.get_by_text("Liked by").wait_for()
    return permalink.rpartition("/")[2]


def every_page(site: Pipit, person: Visit, stranger: Visit, name: str) -> Iterator[tuple[Visit, str]]:
    """Register that person, who moderates, and open the pages for members, then those for strangers."""
    person.register(name)
    post, other = a_thread(person, name), f"{name}z"
    promote = [sys.executable, "-m", "flask", "user", "promote", name]
    subprocess.run(promote, cwd=ROOT, env=site.environ, check=True, stdout=subprocess.DEVNULL)
    stranger.register(other)
    stranger.open(f"/posts/{post}/report")
    stranger.page.get_by_label("What's wrong?").fill("It's too comfortable.")
    stranger.page.get_by_role("button", name="Report").click()
    stranger.page.get_by_text("Thanks, the moderators will look at it.").wait_for()
    stranger.log_out()
    for someone, paths in ((person, MEMBERS_PAGES), (stranger, STRANGERS_PAGES)):
        for path in paths:
            someone.open(path.format(name=name, post=post, other=other))
            yield someone, path


def test_the_menu_has_a_name_on_a_phone_too(site: Pipit, visit: Visits) -> None:
    person = visit(site, viewport=PHONE)
    person.register("pocket")
    for path in ("/", "/home", "/settings/sessions"):
        person.open(path)
        expect(person.page.locator("details.menu summary")).to_have_accessible_name("@pocket")


def test_the_menu_closes_when_focus_leaves_it(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("leaver")
    person.open("/")
    menu, press = person.page.locator("details.menu"), person.page.keyboard.press
    menu.locator("summary").focus()
    press("Enter")
    expect(menu).to_have_attribute("open", "")
    for _item in menu.locator(".menu-items").locator("a, button").all():
        press("Tab")
        expect(menu).to_have_attribute("open", "")
    press("Tab")
    expect(menu).not_to_have_attribute("open", "")


@pytest.mark.parametrize("screen", [PHONE, ZOOMED, LAND], ids=["phone", "400 %", "low"])
def test_everything_in_the_menu_can_be_reached(site: Pipit, visit: Visits, screen: dict[str, int]) -> None:
    person = visit(site, viewport=screen)
    person.register(f"menu{screen['width']}x{screen['height']}")
    person.open("/")
    person.page.locator("details.menu summary").click()
    assert person.page.evaluate(OVERFLOW) == 0
    last = person.page.get_by_role("button", name="Log out")
    last.scroll_into_view_if_needed()
    expect(last).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("screen", [PHONE, ZOOMED, LAND, DESKTOP], ids=["phone", "400 %", "low", "desktop"])
def test_focus_is_never_hidden(site: Pipit, visit: Visits, screen: dict[str, int]) -> None:
    person = visit(site, viewport=screen)
    a_full_page(person, f"focus{screen['width']}x{screen['height']}")
    hidden = []
    for path in ("/", "/home"):
        person.open(path)
        for key in ["Tab"] * 40 + ["Shift+Tab"] * 40:
            person.page.keyboard.press(key)
            hidden.append(person.page.evaluate(HIDDEN_FOCUS))
    assert not list(filter(None, hidden))


def test_the_skip_link_leads_to_a_heading_that_can_be_seen(site: Pipit, visit: Visits) -> None:
    person = visit(site, viewport=PHONE)
    a_full_page(person, "skipper")
    person.open("/")
    person.page.keyboard.press("Tab")
    person.page.keyboard.press("Enter")
    heading, bar = (
        person.page.get_by_role("heading", level=1).bounding_box(),
        person.page.locator(".bar").bounding_box(),
    )
    assert heading is not None
    assert bar is not None
    assert heading["y"] >= bar["y"] + bar["height"]


@pytest.mark.parametrize("site_name", ["Pipit", "The Lower Sandwich-upon-Thames Allotment and Gardening Society"])
@pytest.mark.parametrize("text_size", ["100%", "200%"])
def test_large_text_and_a_long_name_fit_a_small_screen(
    site: Pipit, visit: Visits, site_name: str, text_size: str
) -> None:
    person, stranger = (visit(site, viewport={"width": 320, "height": 640}) for _ in range(2))
    for someone, path in every_page(site, person, stranger, f"large{len(site_name)}x{text_size[:3]}"):
        someone.page.evaluate("size => document.documentElement.style.fontSize = size", text_size)
        someone.page.evaluate("name => document.querySelector('.brand span').textContent = name", site_name)
        assert someone.page.evaluate(OVERFLOW) == 0, path


@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_every_target_is_large_enough_for_a_finger(site: Pipit, visit: Visits, screen: dict[str, int]) -> None:
    small = {}
    for someone, path in every_page(
        site, visit(site, viewport=screen), visit(site, viewport=screen), f"finger{screen['width']}"
    ):
        found = someone.page.evaluate(SMALL_TARGETS % (SMALLEST_TARGET, SMALLEST_TARGET))
        if found:
            small[path] = found
    assert not small


# A theme changes colours only.
@pytest.mark.parametrize(("theme", "rules"), [("light", None), ("dark", ["color-contrast"])], ids=["light", "dark"])
def test_axe_finds_nothing(site: Pipit, visit: Visits, theme: str, rules: list[str] | None) -> None:
    person, stranger = (visit(site, viewport=PHONE, color_scheme=theme) for _ in range(2))
    options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
    for someone, path in every_page(site, person, stranger, f"axe_{theme}"):
        results = Axe().run(someone.page, options=options)
        assert not results.violations_count, f"{path}: {results.generate_report()}"


@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_moves_while_a_page_loads(site: Pipit, visit: Visits, screen: dict[str, int]) -> None:
    person = visit(site, viewport=screen)
    name = f"still{screen['width']}_with_a_long_name"
    a_full_page(person, name)
    thread = f"/@{name}/{a_thread(person, name)}"
    person.page.add_init_script(COUNT_SHIFTS)
    painted = "() => performance.getEntriesByName('first-contentful-paint').length > 0"

    def after_the_first_paint(route: Route) -> None:
        person.page.wait_for_function(painted)
        route.continue_()

    person.page.route("**/pipit.*.js", after_the_first_paint)
    for path in ("/", "/home", f"/@{name}", thread):
        person.page.goto(person.url + path, wait_until="load")
        expect(person.page.locator("article.post time:not(.full)").first).to_have_text("now")
        person.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert person.page.evaluate("globalThis.shift ?? 0") < MOST_SHIFT, path


def test_the_counter_speaks_only_near_the_limit(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("quiet")
    field = person.page.get_by_label("What's happening?")
    person.page.evaluate("""() => {
        globalThis.said = []
        for (const live of document.querySelectorAll("output, [aria-live], [role=status]")) {
            new MutationObserver(() => said.push(live.textContent)).observe(live, {childList: true, subtree: true})
        }
    }""")
    field.fill("x" * 200)
    field.press_sequentially("y" * 90)
    expect(person.page.locator("#body-count")).to_have_text("10 too many")
    assert person.page.evaluate("said") == [
        "20 characters left",
        "10 characters left",
        "5 characters left",
        "0 characters left",
        "1 character too many",
    ]
    expect(field).to_have_accessible_description(re.compile("10 too many Ctrl.Enter publishes"))


def test_write_a_post_puts_the_cursor_into_the_field_and_that_grows(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("writer")
    person.open("/")
    person.page.get_by_role("link", name="Write a post").click()
    field = person.page.get_by_label("What's happening?")
    expect(field).to_be_focused()
    small = height(field)
    person.page.keyboard.type("one\ntwo\nthree\nfour\nfive\nsix")
    assert height(field) > small
    assert field.evaluate("element => element.scrollHeight <= element.clientHeight")
    expect(person.page.get_by_text("Ctrl+Enter publishes")).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_a_tap_on_a_post_opens_it(site: Pipit, visit: Visits, scripts: bool) -> None:
    name = "tapped_js" if scripts else "tapped_plain"
    person = visit(site, viewport=PHONE, java_script_enabled=scripts)
    person.register(name)
    person.publish("short #tapped")
    permalink = re.compile(rf"/@{name}/\d+$")

    def post() -> Locator:
        person.open(f"/@{name}")
        return person.page.locator("article.post").first

    box = post().bounding_box()
    assert box is not None
    person.page.mouse.click(box["x"] + 20, box["y"] + box["height"] - 6)  # below the avatar
    expect(person.page).to_have_url(permalink)
    if scripts:
        post().locator(".post-body").click(position={"x": 10, "y": 10})
        expect(person.page).to_have_url(permalink)
    post().get_by_role("link", name="#tapped").click()
    expect(person.page).to_have_url(re.compile("/tags/tapped$"))


def test_the_text_of_a_post_can_be_selected(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("selector")
    person.publish("a text to select and to copy")
    person.open("/@selector")
    box = person.page.locator(".post-body").first.bounding_box()
    assert box is not None
    mouse = person.page.mouse
    mouse.move(box["x"] + 2, box["y"] + 12)
    mouse.down()
    mouse.move(box["x"] + 120, box["y"] + 12, steps=5)
    mouse.up()
    assert person.page.evaluate("getSelection().toString()").startswith("a text to")
    expect(person.page).to_have_url(re.compile("/@selector$"))


def test_a_link_reads_as_it_is_whatever_stands_before_it(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("turner")
    person.publish("\u202esee https://example.org/abc @turner")
    person.open("/@turner")
    for link in person.page.locator(".post-body a").all():
        first, last = link.evaluate("""element => [0, element.textContent.length - 1].map((start) => {
            const range = document.createRange()
            range.setStart(element.firstChild, start)
            range.setEnd(element.firstChild, start + 1)
            return range.getBoundingClientRect().left
        })""")
        assert first < last, link.inner_text()


def test_paper_gets_the_posts_and_no_forms(site: Pipit, visit: Visits) -> None:
    person = visit(site)
    person.register("printer")
    person.publish("for the fridge")
    person.page.emulate_media(media="print")
    for path in ("/home", "/@printer", "/"):
        person.open(path)
        expect(person.page.get_by_text("for the fridge").first).to_be_visible()
        for what in (".bar", "form", "button", "nav", ".button"):
            for element in person.page.locator(what).all():
                expect(element).to_be_hidden()


def test_the_list_of_sessions_begins_with_this_device(site: Pipit, visit: Visits) -> None:
    here, there = (
        visit(site),
        visit(site, user_agent="Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Safari/605"),
    )
    here.register("twice")
    there.log_in("twice")
    expect(there.page.get_by_role("heading", name="Home")).to_be_visible()
    here.open("/settings/sessions")
    first, second = here.page.locator(".place").all()
    expect(first).to_contain_text("This device")
    expect(first).to_contain_text("Active now")
    expect(second).to_contain_text("Last active")
    second.get_by_role("button", name="Log out Safari on iPhone").click()
    expect(here.page.get_by_text("Logged out of Safari on iPhone.")).to_be_visible()
    assert not there.is_signed_in()


def height(element: Locator) -> float:
    box = element.bounding_box()
    assert box is not None
    return box["height"]
