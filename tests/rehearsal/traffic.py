"""Visitors in numbers, who read and post all the time while the site is deployed anew beneath them."""

import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.rehearsal.addons import PostgresAddon
from tests.rehearsal.browser import CSRF_TOKEN, Answer, Browser
from tests.rehearsal.router import Router

ROUND = 1.0  # s for what a visitor does over and over; 8 visitors then post 480 times a minute
STALE_AFTER = 2.0  # s; a look at the latest posts that took longer may have missed one for being pushed off the page


@dataclass
class Tally:
    """What the visitors lived through."""

    failed: list[str] = field(default_factory=list)
    logged_out: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)  # posts that were not on the very next page
    acknowledged: dict[str, list[str]] = field(default_factory=dict)  # each author's posts
    seconds: list[float] = field(default_factory=list)  # of every answer

    @property
    def posts(self) -> list[str]:
        return [body for bodies in self.acknowledged.values() for body in bodies]

    def latency(self) -> str:
        """Return the median, the 99th percentile and the worst in milliseconds."""
        ordered = sorted(self.seconds)
        figures = {
            "median": statistics.median(ordered),
            "p99": ordered[int(len(ordered) * 0.99)],
            "worst": ordered[-1],
        }
        return ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in figures.items())


class Crowd:
    """Visitors in threads; a context manager that ends them."""

    def __init__(self, router: Router, size: int) -> None:
        self.tally = Tally()
        self.browsers = [Browser(router, f"127.0.2.{number}") for number in range(1, size + 1)]
        self._router = router
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._visit, args=(f"visitor{number}", browser), daemon=True)
            for number, browser in enumerate(self.browsers, 1)
        ]

    def __enter__(self) -> "Crowd":
        for number, browser in enumerate(self.browsers, 1):
            answer = browser.register(f"visitor{number}")
            assert answer.status == 302, answer.text
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Tally:
        """Let everybody finish what they do, and return what they saw."""
        self._end.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(60)
        return self.tally

    def wait_for_posts(self, count: int) -> None:
        """Wait until so many more posts are acknowledged: the visitors are at work, whatever else goes on."""
        wanted = len(self.tally.posts) + count
        give_up = time.monotonic() + 30
        while len(self.tally.posts) < wanted:
            assert time.monotonic() < give_up, f"{len(self.tally.posts)} posts, {self.tally.failed[-3:]}"
            time.sleep(0.05)

    def _visit(self, name: str, browser: Browser) -> None:
        """Read the home page, post, look for the post where it has to be; again and again."""
        stranger = Browser(self._router, browser.address)
        mine = self.tally.acknowledged[name] = []
        number = 0
        while not self._end.is_set():
            began = time.monotonic()
            number += 1
            body = f"{name} says number {number} while you deploy"
            home = self._ask(browser, "GET", "/home")
            token = CSRF_TOKEN.search(home.text) if home and home.status == 200 else None
            if token and self._ask(browser, "POST", "/posts", f"csrf_token={token[1]}&body={body.replace(' ', '+')}"):
                mine.append(body)
                for reader, path in ((browser, f"/@{name}"), (stranger, "/")):
                    page = self._ask(reader, "GET", path)
                    if page and body not in page.text and page.seconds < STALE_AFTER:
                        self.tally.unseen.append(f"{body} on {path}: {page.headers.get('cache-status')}")
            self._end.wait(max(0.0, began + ROUND - time.monotonic()))
        browser.hang_up()
        stranger.hang_up()

    def _ask(self, browser: Browser, method: str, path: str, form: str | None = None) -> Answer | None:
        """Return the answer if it is the one that belongs to a visitor who is signed in; note it if not."""
        try:
            answer = browser.send(method, path, form)
        except (OSError, HTTPException) as error:
            self.tally.failed.append(f"{method} {path}: {type(error).__name__} {error}")
            return None
        self.tally.seconds.append(answer.seconds)
        if answer.location.startswith("/login"):
            self.tally.logged_out.append(f"{method} {path}: {answer.location}")
            return None
        if answer.status != (200 if form is None else 302):
            self.tally.failed.append(f"{method} {path}: {answer.status} {answer.text[:100]}")
            return None
        return answer


def log_in_often(router: Router, people: int, rounds: int) -> list[Browser]:
    """Let people register and then log in again and again, all at once; return every browser they used."""

    def visit(number: int) -> list[Browser]:
        name, address = f"worker{number}", f"127.0.3.{number}"
        browsers = [Browser(router, address) for _ in range(1 + rounds)]
        statuses = [browsers[0].register(name).status, *(browser.log_in(name).status for browser in browsers[1:])]
        assert set(statuses) == {302}, statuses
        for browser in browsers:
            browser.hang_up()
        return browsers

    with ThreadPoolExecutor(people) as pool:
        return [browser for browsers in pool.map(visit, range(1, people + 1)) for browser in browsers]


def lost_posts(tally: Tally, database: PostgresAddon) -> list[str]:
    """Return the acknowledged posts that are not in the database, or are there twice."""
    kept = Counter(row[0] for row in database.query("SELECT body FROM posts"))
    return [body for body in tally.posts if kept[body] != 1]


def missing_posts(tally: Tally, router: Router) -> list[str]:
    """Return the acknowledged posts that a stranger does not find on their authors' pages, older ones included."""
    stranger = Browser(router)
    gone = []
    for name, bodies in tally.acknowledged.items():
        pages = all_pages(stranger, f"/@{name}")
        gone += [body for body in bodies if f">{body}<" not in pages]
    stranger.hang_up()
    return gone


def all_pages(browser: Browser, path: str) -> str:
    """Return a page and, by its links, all the older ones."""
    text = page = browser.get(path).text
    while 'rel="next" href="' in page:
        page = browser.get(page.partition('rel="next" href="')[2].partition('"')[0]).text
        text += page
    return text
