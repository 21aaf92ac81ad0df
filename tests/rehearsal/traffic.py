"""Visitors in numbers: they read and post without a pause while new versions are deployed."""

import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.rehearsal.addons import PostgresAddon
from tests.rehearsal.browser import Answer, Browser
from tests.rehearsal.router import Router
from tests.servers import wait_until

ROUND = 3.5  # s between two posts of a visitor; who has just joined may post 20 times a minute
STALE_AFTER = 2.0  # s; in a slower look at the latest posts, newer ones may have pushed a post off the page


@dataclass
class Crowd:
    """Visitors in threads, and what they saw; a context manager."""

    router: Router
    size: int
    failed: list[str] = field(default_factory=list)
    logged_out: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)  # posts that were not on the very next page
    posts: list[str] = field(default_factory=list)  # all that were acknowledged
    seconds: list[float] = field(default_factory=list)  # of every answer

    def __enter__(self) -> "Crowd":
        self.browsers = {f"visitor{n}": Browser(self.router, f"127.0.2.{n}") for n in range(1, self.size + 1)}
        for name, browser in self.browsers.items():
            assert browser.register(name).status == 302
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._visit, args=visitor, daemon=True) for visitor in self.browsers.items()
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every visitor finish the current round."""
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for_posts(self, count: int) -> None:
        """Wait until so many more posts are acknowledged."""
        wanted = len(self.posts) + count
        wait_until(lambda: len(self.posts) >= wanted, f"{count} posts; failures so far: {self.failed[-3:]}", 30)

    def latency(self) -> str:
        """Return the median, the 99th percentile and the maximum in words."""
        quantiles = statistics.quantiles(self.seconds, n=100)
        figures = {"median": quantiles[49], "p99": quantiles[98], "maximum": max(self.seconds)}
        return ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in figures.items())

    def lost_posts(self, database: PostgresAddon) -> list[str]:
        """Return the acknowledged posts that are not in the database, or are there twice."""
        kept = Counter(row[0] for row in database.query("SELECT body FROM posts"))
        return [body for body in self.posts if kept[body] != 1]

    def _visit(self, name: str, browser: Browser) -> None:
        """Read the home page, post, and look for the post on the pages that must show it; again and again."""
        stranger = Browser(self.router, browser.address)
        number = 0
        while not self._end.is_set():
            began = time.monotonic()
            number += 1
            try:
                self._post(name, browser, stranger, f"{name} says number {number} while you deploy")
            except (AssertionError, OSError, HTTPException) as error:
                self.failed.append(f"{name}, number {number}: {type(error).__name__} {error}")
            self._end.wait(max(0.0, began + ROUND - time.monotonic()))

    def _post(self, name: str, browser: Browser, stranger: Browser, body: str) -> None:
        form = browser.filled_in("/home", body=body)
        if self._answered(browser.submit("/posts", form), 302):
            self.posts.append(body)
            for reader, path in ((browser, f"/@{name}"), (stranger, "/")):
                page = reader.get(path)
                if self._answered(page, 200) and body not in page.text and page.seconds < STALE_AFTER:
                    self.unseen.append(f"{body} on {path}: {page.headers['Cache-Status']}")

    def _answered(self, answer: Answer, status: int) -> bool:
        """Return whether a visitor who is signed in got the expected answer; note it if not."""
        self.seconds.append(answer.seconds)
        if "/login" in answer.headers.get("Location", ""):
            self.logged_out.append(answer.headers["Location"])
        elif answer.status != status:
            self.failed.append(f"{answer.status} instead of {status}: {answer.text[:100]}")
        else:
            return True
        return False


def log_in_often(router: Router, people: int, rounds: int) -> None:
    """Let people register, then log in again and again with new browsers, all at once."""

    def visit(number: int) -> set[int]:
        name, address = f"worker{number}", f"127.0.3.{number}"
        statuses = {Browser(router, address).register(name).status}
        return statuses | {Browser(router, address).log_in(name).status for _ in range(rounds)}

    with ThreadPoolExecutor(people) as pool:
        assert list(pool.map(visit, range(1, people + 1))) == [{302}] * people
