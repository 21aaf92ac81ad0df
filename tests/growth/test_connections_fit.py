"""Four dynos on plans of 20 connections to Redis and 20 to SQL, and 40 people who never pause: nobody notices."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from redis import Redis
from sqlalchemy import Connection, create_engine, make_url, text

from app.config import parse_database_url
from tests import servers
from tests.conftest import finish, in_threads, unavailable
from tests.faults.traffic import Answer, Browser, visitors
from tests.servers import Pipit

PLAN = 20  # connections, to each of the two servers
DYNOS = 4
PROCESSES = 2 * DYNOS
CONNECTIONS = 2  # of a process, to each of the two servers
PEOPLE = 40
MEMBERS = 10  # accounts; several people may be one person in several tabs
TURNS = 5
REQUESTS = 6  # in a turn


@dataclass
class Plan:
    """Two servers that let Pipit have PLAN connections each."""

    redis: Redis
    database_url: str
    sql: Connection  # a superuser's, who is not counted

    def in_use(self) -> tuple[int, int, int]:
        """Return how many connections Pipit has to Redis, for threads and for the front, and how many to SQL."""
        names = Counter(client["name"] for client in self.redis.client_list())
        backends = text("SELECT count(*) FROM pg_stat_activity WHERE usename = 'site'")
        return names["pipit"], names["pipit-front"], self.sql.scalar(backends) or 0


@pytest.fixture(scope="module")
def plan() -> Iterator[Plan]:
    programs = servers.postgresql_programs()
    if programs is None:
        unavailable("PostgreSQL's programs are not installed")
    with ExitStack() as stack:
        url = make_url(parse_database_url(stack.enter_context(servers.postgresql(programs))))
        server = stack.enter_context(servers.valkey(maxclients=PLAN))
        redis = stack.enter_context(Redis(port=server.port, decode_responses=True))
        sql = stack.enter_context(create_engine(url, isolation_level="AUTOCOMMIT").connect())
        sql.execute(text(f"CREATE ROLE site LOGIN CONNECTION LIMIT {PLAN}"))  # as Heroku's plans are limited
        sql.execute(text("CREATE DATABASE site OWNER site"))
        yield Plan(redis, str(url.set(username="site", database="site")), sql)


@pytest.fixture(scope="module")
def dynos(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pipit]]:
    """Give dynos of the default size, which share both servers."""
    folder, redis_url = tmp_path_factory.mktemp("dynos"), f"redis://127.0.0.1:{_port(plan.redis)}/0"
    # All people come from one address here, which may only enter so many passwords a minute.
    settings = {"DATABASE_URL": plan.database_url, "LOGIN_MAX_ATTEMPTS": "100"}
    with ExitStack() as stack:
        yield [stack.enter_context(servers.pipit(folder, redis_url, **settings)) for _number in range(DYNOS)]


@pytest.fixture(scope="module")
def posts(dynos: list[Pipit]) -> int:
    """Have some people register and write; return how many posts there are."""
    for number in range(MEMBERS):
        browser = Browser(dynos[0].port)
        browser.register(f"member{number}")
        token = browser.token("/home")
        for count in range(5):
            assert browser.send_form("/posts", token, body=f"Post {count} of {number} #tea").status == 302
        browser.hang_up()
    dynos[0].let_accounts_age()
    return 5 * MEMBERS


def test_forty_people_who_never_pause_share_twenty_connections_without_an_error(
    plan: Plan, dynos: list[Pipit], posts: int
) -> None:
    answers: list[Answer] = []
    browsers = [Browser(dynos[number % DYNOS].port) for number in range(PEOPLE)]
    with visitors(browsers), most(plan.in_use) as at_most:
        in_threads(PEOPLE, lambda number: answers.extend(_come_and_go(browsers[number], number % MEMBERS, posts)))

    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 302}, statuses
    assert statuses.total() == PEOPLE * TURNS * REQUESTS
    of_threads, of_fronts, of_sql = at_most()
    assert PROCESSES < of_threads + of_fronts <= PROCESSES * CONNECTIONS
    assert PROCESSES < of_sql <= PROCESSES * CONNECTIONS
    assert plan.redis.info("stats")["rejected_connections"] == 0
    trouble = ("status=5", "does not answer", "can't be", "without the cache", "Traceback")
    said = [line for dyno in dynos for line in dyno.log.read_text().splitlines()]
    assert [line for line in said if any(word in line for word in trouble)] == []


def _come_and_go(browser: Browser, member: int, posts: int) -> Iterator[Answer]:
    """Log in, read what no cache has, write, and log out, again and again, without a pause."""
    for turn in range(TURNS):
        yield browser.log_in(f"member{member}", browser.token("/login"))
        yield browser.get(f"/?before={posts - turn}")
        yield browser.get(f"/@member{turn}?before={posts}")
        token = browser.token("/home")
        yield browser.send_form("/posts", token, body=f"{turn} of {id(browser)} #busy")
        yield browser.get("/search?q=tea")
        yield browser.send_form("/logout", token)


def _port(redis: Redis) -> int:
    return int(redis.connection_pool.connection_kwargs["port"])


@contextmanager
def most(look: Callable[[], tuple[int, ...]]) -> Iterator[Callable[[], list[int]]]:
    """Look every few milliseconds; give a function that returns the most that was seen of each number."""
    seen: list[tuple[int, ...]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(look())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: [max(numbers) for numbers in zip(*seen, strict=True)]
    finally:
        done.set()
        finish(thread)
