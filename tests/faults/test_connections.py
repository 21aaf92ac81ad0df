"""Two dynos on the smallest Redis plan, and more visitors than it has connections: nobody notices."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from tests import servers
from tests.conftest import finish, in_threads
from tests.faults.traffic import Browser, visitors
from tests.servers import Pipit, wait_until

PLAN = 20  # connections that Heroku's smallest plan allows
PROCESSES = 4  # two dynos of two
REDIS_MAX_CONNECTIONS = 2  # in each, which is the default: the front's, and one for its threads
VISITORS = 200
REQUESTS = 10  # of each visitor
MEMBERS = 5  # accounts; many visitors may be one person in many tabs
LEFT_IDLE = 1  # s after which the server hangs up


@pytest.fixture(scope="module")
def small_plan() -> Iterator[Redis]:
    with servers.valkey(maxclients=PLAN) as server, Redis(port=server.port, decode_responses=True) as redis:
        yield redis


@pytest.fixture(scope="module")
def dynos(small_plan: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pipit]]:
    """Give two dynos at default settings, which share SQL and Redis."""
    folder, url = tmp_path_factory.mktemp("dynos"), redis_url(small_plan)
    with servers.pipit(folder, url) as one, servers.pipit(folder, url) as other:
        yield [one, other]


@pytest.fixture(scope="module")
def members(dynos: list[Pipit]) -> list[dict[str, str]]:
    """Give the cookies of some people who are signed in and have posted."""
    jars = []
    for number in range(MEMBERS):
        browser = Browser(dynos[0].port)
        browser.register(f"member{number}")
        assert browser.publish(f"Hello from number {number}").status == 302
        jars.append(dict(browser.hang_up().cookies))
    return jars


def redis_url(redis: Redis) -> str:
    return f"redis://127.0.0.1:{redis.connection_pool.connection_kwargs['port']}/0"


def crowd(dynos: list[Pipit], members: list[dict[str, str]]) -> list[Browser]:
    """Return the visitors, half at each dyno; every second is signed in."""
    browsers = [Browser(dynos[number % len(dynos)].port) for number in range(VISITORS)]
    for number, browser in enumerate(browsers):
        if number // len(dynos) % 2:
            browser.cookies.update(members[number % MEMBERS])
    return browsers


def test_two_hundred_visitors_share_the_twenty_connections_of_the_smallest_plan(
    small_plan: Redis, dynos: list[Pipit], members: list[dict[str, str]]
) -> None:
    anonymous, signed_in = ("/", "/@member1", "/login"), ("/home", "/", "/@member2", "/settings/sessions")
    statuses: Counter[int] = Counter()

    with visitors(crowd(dynos, members)) as browsers, most_connected(small_plan) as most:

        def visit(number: int) -> None:
            browser = browsers[number]
            paths = signed_in if "session" in browser.cookies else anonymous
            for count in range(REQUESTS):
                answer = browser.get(paths[count % len(paths)])
                statuses[answer.status] += 1

        in_threads(VISITORS, visit)  # raises what a visitor's connection raised

    assert statuses == {200: VISITORS * REQUESTS}
    assert most()["pipit"] == PROCESSES * (REDIS_MAX_CONNECTIONS - 1)
    assert most()["pipit-front"] == PROCESSES
    assert most()["all"] <= PROCESSES * REDIS_MAX_CONNECTIONS + 1 <= PLAN  # one is this test's
    assert small_plan.info("stats")["rejected_connections"] == 0
    assert said_of_redis(dynos) == []


def test_two_hundred_readers_of_a_page_that_has_just_expired_cause_one_rebuild(
    small_plan: Redis, dynos: list[Pipit], members: list[dict[str, str]]
) -> None:
    with visitors([Browser(dynos[number % 2].port) for number in range(VISITORS)]) as browsers:
        in_threads(VISITORS, lambda number: browsers[number].get("/"))  # all are connected, and the page is there
        small_plan.pexpire("page:latest", 1)
        wait_until(lambda: not small_plan.exists("page:latest"), "the page to expire")
        statuses: list[str] = []
        in_threads(VISITORS, lambda number: statuses.append(browsers[number].get("/").cache_status))
    how = Counter(status.split("; ttl")[0] for status in statuses)
    assert how["Pipit; fwd=miss; stored"] == 1, how
    assert set(how) <= {"Pipit; fwd=miss; stored", "Pipit; fwd=miss; collapsed", "Pipit; hit"}, how


def test_connections_that_the_server_closed_as_idle_cost_nobody_an_error(
    small_plan: Redis, dynos: list[Pipit], members: list[dict[str, str]]
) -> None:
    with visitors(crowd(dynos, members)[:40]) as browsers:
        in_threads(len(browsers), lambda number: browsers[number].get("/"))
        in_use = connections(small_plan)
        assert len(in_use) > len(dynos)
        # With copies to keep true, a process would use its connections once a second.
        small_plan.delete(*small_plan.scan_iter("page:*"))
        small_plan.config_set("timeout", LEFT_IDLE)
        try:
            wait_until(lambda: not connections(small_plan) & in_use, "Redis to close what is idle")
            paths = ("/", "/home", "/@member3", "/settings/sessions")
            answers: list[int] = []
            in_threads(
                len(browsers), lambda number: answers.extend(browsers[number].get(path).status for path in paths)
            )
        finally:
            small_plan.config_set("timeout", 0)
    assert set(answers) <= {200, 302}  # an anonymous visitor is sent from their home to the login
    assert said_of_redis(dynos) == []


@contextmanager
def most_connected(redis: Redis) -> Iterator[Callable[[], Counter[str]]]:
    """Look every few milliseconds who is connected; give a function that returns the most there were, by name.

    A connection that is being opened has no name yet.
    """
    most: Counter[str] = Counter()
    done = threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.005):
            clients = Counter(client["name"] for client in redis.client_list())
            most |= clients | Counter(all=clients.total())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: most
    finally:
        done.set()
        finish(thread)


def connections(redis: Redis) -> set[str]:
    """Return the ids of Pipit's connections."""
    return {client["id"] for client in redis.client_list() if client["name"].startswith("pipit")}


def said_of_redis(dynos: list[Pipit]) -> list[str]:
    """Return what the logs say of trouble with Redis, so far."""
    trouble = ("does not answer", "can't be", "without the cache", "status=503", "Traceback")
    return [
        line for dyno in dynos for line in dyno.log.read_text().splitlines() if any(word in line for word in trouble)
    ]
