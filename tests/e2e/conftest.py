"""What the browser tests share: the machine's own Chromium, and a Pipit under gunicorn for it to visit.

Every page that a test opens is watched: a console error, a script error or a breach of the Content-Security-Policy
fails the test, whatever else it was about.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, sync_playwright

from tests import servers
from tests.conftest import PASSWORD, unavailable
from tests.servers import PATIENCE, Pipit, answers, wait_until

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",  # in a container, root has none to give
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REPORT_VIOLATIONS = """document.addEventListener("securitypolicyviolation", (event) =>
    console.error(`CSP: ${event.violatedDirective} refused ${event.blockedURI} ${event.sample}`))"""


@dataclass
class Visit:
    """A person at a browser window: what they do on Pipit, by what they can see."""

    page: Page
    url: str

    def open(self, path: str) -> Response:
        response = self.page.goto(self.url + path)
        assert response is not None
        return response

    def register(self, name: str) -> None:
        self.open("/register")
        self.page.get_by_label("Name", exact=True).fill(name)
        self.page.get_by_label("E-mail").fill(f"{name}@example.org")
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Join").click()
        self.page.get_by_text(f"Welcome, @{name}").wait_for()

    def log_in(self, name: str, password: str = PASSWORD) -> None:
        self.open("/login")
        self.page.get_by_label("Name or e-mail").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()

    def log_out(self) -> None:
        self.page.locator("details.menu summary").click()
        self.page.get_by_role("button", name="Log out").click()
        self.page.get_by_text("You're logged out.").wait_for()

    def publish(self, body: str) -> None:
        self.open("/home")
        self.page.get_by_label("What's happening?").fill(body)
        self.page.get_by_role("button", name="Publish").click()
        self.page.get_by_text("Published.").wait_for()

    def is_signed_in(self) -> bool:
        self.open("/")
        return self.page.locator("details.menu").count() == 1


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if program is None:
        unavailable(f"no browser is installed: looked for {', '.join(CHROMIUMS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipit]:
    """Give one Pipit for all browser tests: each of them brings accounts of its own."""
    with (
        servers.valkey() as server,
        servers.pipit(tmp_path_factory.mktemp("site"), f"redis://127.0.0.1:{server.port}/0") as running,
    ):
        yield running


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Give a function that opens a browser window of its own, with its own cookies, on a Pipit.

    Keyword arguments are Playwright's for a context, e.g. `java_script_enabled=False`.
    """
    contexts = []
    troubles: list[str] = []
    refused: list[str] = []  # URLs
    documents: set[str] = set()  # URLs of pages: that one answered 404, or not at all, is for the test to judge

    def open_window(pipit: Pipit, **settings: Any) -> Visit:
        context = browser.new_context(**settings)
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(REPORT_VIOLATIONS)
        contexts.append(context)
        page = context.new_page()

        def note_document(request: Request) -> None:
            if request.is_navigation_request():
                documents.add(request.url)

        def note_console(message: ConsoleMessage) -> None:
            if message.text.startswith("Failed to load resource"):
                refused.append(message.location["url"])
            elif message.type in ("error", "warning"):
                troubles.append(f"{page.url}: {message.text}")

        def note_failure(request: Request) -> None:
            is_page = request.is_navigation_request()
            if request.failure != "net::ERR_ABORTED" and not is_page:  # the visitor was faster than an icon
                troubles.append(f"{request.url}: {request.failure}")

        page.on("request", note_document)
        page.on("console", note_console)
        page.on("pageerror", lambda error: troubles.append(f"{page.url}: {error}"))
        page.on("requestfailed", note_failure)
        return Visit(page, pipit.url)

    yield open_window
    for context in contexts:
        context.close()
    assert not troubles
    assert set(refused) <= documents  # also if a script asked for the page first


@contextmanager
def started_again(pipit: Pipit) -> Iterator[None]:
    """Stop every web process, and start others in the same environment: same port, same database, same Redis."""
    pipit.process.terminate()
    pipit.process.wait(PATIENCE)
    with pipit.log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn"], cwd=servers.ROOT, env=pipit.environ, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: process.poll() is not None or answers(f"{pipit.url}/healthz"), "Pipit to answer again")
        assert process.poll() is None, pipit.log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
