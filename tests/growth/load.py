"""Readers and writers at two Pipits while something happens to Redis, and an account of what they noticed."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from redis import RedisError

from tests import servers
from tests.conftest import in_threads
from tests.faults.traffic import Answer, Browser, visitors
from tests.growth.topologies import Topology
from tests.servers import Pipit

ANONYMOUS, MEMBERS = 30, 10  # readers
AUTHORS, COMERS = 7, 3  # writers: who publish, and who log in and out
PAUSE = 0.5  # s between two requests of one of them
SHOWN = 5  # of the latest posts, which every page of latest posts shows
CALM = 2.0  # s before it happens
COMMON_KEY = "the same on both of them"


@dataclass
class Account:
    """What the visitors noticed. Moments are on the monotonic clock."""

    happened: float = 0.0  # when
    statuses: Counter[int] = field(default_factory=Counter)
    refused: list[float] = field(default_factory=list)  # when a 503 came
    broken: list[str] = field(default_factory=list)  # no answer at all
    published: list[tuple[float, str]] = field(default_factory=list)  # when it was answered, and what
    shown: list[tuple[float, float, Answer]] = field(default_factory=list)  # when / was asked for, and answered
    signed_out: list[str] = field(default_factory=list)  # members who were sent away
    logged_in: list[tuple[float, str]] = field(default_factory=list)  # session ids, when they were given
    logged_out: list[tuple[float, str]] = field(default_factory=list)  # and when they were ended

    @property
    def outage(self) -> float:
        """Return the time in s from the first 503 to the last."""
        return max(self.refused) - min(self.refused) if self.refused else 0.0

    @property
    def stale(self) -> list[float]:
        """Return how late (s) a page lacked a post that was published before the page was asked for."""
        return [
            asked - at
            for asked, _, answer in self.shown
            for at, body in [post for post in self.published if post[0] < asked][-SHOWN:]
            if body not in answer.text
        ]

    def __str__(self) -> str:
        return (
            f"503 for {self.outage:.1f} s ({len(self.refused)} of {self.statuses.total()} answers), "
            f"{len(self.stale)} stale of {len(self.shown)} pages (up to {max(self.stale, default=0):.2f} s), "
            f"{len(self.published)} posts, {len(self.logged_in)} logins, {len(self.logged_out)} logouts, "
            f"{len(self.signed_out)} sent away, {len(self.broken)} without an answer"
        )


@dataclass
class Site:
    """Two Pipits on one database and one Redis."""

    topology: Topology
    pipits: list[Pipit]
    people: dict[str, Browser]  # who are logged in

    def watch(self, seconds: float, event: Callable[[], object]) -> Account:
        """Let readers and writers go about their business, and something happen after CALM."""
        account = Account()
        end = time.monotonic() + CALM + seconds
        members = list(self.people)
        with ExitStack() as stack:
            stranger = [
                stack.enter_context(visitors([Browser(self.pipits[n % 2].port)]))[0] for n in range(ANONYMOUS + COMERS)
            ]

            def work(number: int) -> None:
                if number == 0:
                    self._let_it_happen(account, end, event)
                elif number <= ANONYMOUS:
                    self._read(account, stranger[number - 1], end)
                elif number <= ANONYMOUS + MEMBERS:
                    name = members[number - ANONYMOUS - 1]
                    self._visit_home(account, name, self.people[name], end)
                elif number <= ANONYMOUS + MEMBERS + AUTHORS:
                    name = members[number - ANONYMOUS - 1]
                    self._publish(account, name, self.people[name], end)
                else:
                    which = number - ANONYMOUS - MEMBERS - AUTHORS - 1
                    self._come_and_go(account, members[-1 - which], stranger[ANONYMOUS + which], end)

            in_threads(1 + ANONYMOUS + MEMBERS + AUTHORS + COMERS, work)
        return account

    def still_there(self, sids: list[str]) -> list[str]:
        """Return which of these sessions still are."""
        client = self.topology.primary().client
        return [sid for sid in sids if client.exists(f"{self.topology.prefix}session:{sid}")]

    def forget_attempts(self) -> None:
        """Let nobody be limited for what they have done so far."""
        with_limits = self.topology.find_primary()
        if with_limits:
            try:
                for key in with_limits.client.scan_iter("*limit:*"):
                    with_limits.client.delete(key)
            except RedisError:  # it fails over
                return

    def _let_it_happen(self, account: Account, end: float, event: Callable[[], object]) -> None:
        time.sleep(CALM)
        account.happened = time.monotonic()
        event()
        while time.monotonic() < end:
            self.forget_attempts()
            time.sleep(1)

    def _read(self, account: Account, browser: Browser, end: float) -> None:
        for asked in _moments(end):
            answer = _noted(account, lambda: browser.get("/"))
            if answer and answer.status == 200:
                account.shown.append((asked, time.monotonic(), answer))

    def _visit_home(self, account: Account, name: str, browser: Browser, end: float) -> None:
        for _ in _moments(end):
            answer = _noted(account, lambda: browser.get("/home"))
            if answer and (answer.status not in (200, 503) or "session" not in browser.cookies):
                account.signed_out.append(f"{name}: {answer.status}")
                return

    def _publish(self, account: Account, name: str, browser: Browser, end: float) -> None:
        token = browser.token("/home")
        for moment in _moments(end):
            body = f"{name} at {moment:.6f}"
            answer = _noted(account, lambda body=body: browser.send_form("/posts", token, body=body))  # type: ignore[misc]
            if answer and answer.status == 302:
                account.published.append((time.monotonic(), body))
                _noted(account, lambda: browser.get("/home"))  # shows the flash message about it
            elif answer and answer.status != 503:
                account.signed_out.append(f"{name}: {answer.status}")
                return

    def _come_and_go(self, account: Account, name: str, browser: Browser, end: float) -> None:
        for _ in _moments(end):
            form = _noted(account, lambda: browser.get("/login"))
            if not form or form.status != 200:
                continue
            answer = _noted(account, lambda: browser.log_in(name, browser.token("/login")))
            if not answer or answer.status != 302:
                continue
            sid = browser.cookies["session"]
            account.logged_in.append((time.monotonic(), sid))
            home = _noted(account, lambda: browser.get("/home"))
            if home and home.status == 200:
                answer = _noted(account, lambda: browser.post("/logout", "/home"))
                if answer and answer.status == 302:
                    account.logged_out.append((time.monotonic(), sid))
            browser.cookies.clear()


def _moments(end: float) -> Iterator[float]:
    """Yield the moments of one visitor's requests, with pauses in between."""
    pause = PAUSE * (0.8 + 0.4 * (threading.get_ident() % 97) / 97)  # not all in step
    while (now := time.monotonic()) < end:
        yield now
        time.sleep(pause)


def _noted(account: Account, request: Callable[[], Answer]) -> Answer | None:
    """Note what came of a request; return the answer, or None if there was none."""
    try:
        answer = request()
    except (OSError, HTTPException, AssertionError) as error:  # a form without a token, on a page that says 503
        if not isinstance(error, AssertionError):
            account.broken.append(repr(error))
        return None
    account.statuses[answer.status] += 1
    if answer.status == 503:
        account.refused.append(time.monotonic())
    return answer


@contextmanager
def running_site(folder: Path, topology: Topology, members: int = MEMBERS + AUTHORS + COMERS) -> Iterator[Site]:
    """Run two Pipits on a set-up, with so many people who are logged in."""
    with ExitStack() as stack:
        settings = {"SECRET_KEY": COMMON_KEY, "WEB_CONCURRENCY": "1"}
        pipits = [stack.enter_context(servers.pipit(folder, topology.url, **settings)) for _ in range(2)]
        browsers = stack.enter_context(visitors([Browser(pipits[n % 2].port) for n in range(members)]))
        site = Site(topology, pipits, {f"member{n}": browser for n, browser in enumerate(browsers)})
        for name, browser in site.people.items():
            browser.register(name)
            browser.get("/home")
            site.forget_attempts()
        pipits[0].let_accounts_age()
        yield site
