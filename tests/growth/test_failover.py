"""Redis on several servers is one Redis to Pipit: before a failover, during one, and after a crash."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from redis import Redis

from app.cache import WRITE_LEASE
from app.config import parse_redis_url
from tests.conftest import Visitor
from tests.faults.traffic import Browser, get_anonymously, visitors
from tests.growth.load import Account, Site, running_site
from tests.growth.topologies import BehindProxy, Cluster, Topology, WithSentinel, running
from tests.servers import ROOT, wait_until
from tests.serving import FrontServer
from tests.test_costs import round_trips

OUTAGE = 5.0  # s of 503 at most
LOSS = (
    4.0  # s around a failover, in which what was acknowledged may be lost: the lag of a replica, and Sentinel's delay
)
WATCHED = 8.0  # s after it


@pytest.fixture(scope="module", params=[WithSentinel, Cluster, BehindProxy], ids=["sentinel", "cluster", "proxy"])
def topology(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with running(request.param, tmp_path_factory.mktemp("redis")) as topology:
        yield topology


@pytest.fixture(scope="module")
def site(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), topology) as site:
        yield site


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def test_people_register_write_read_and_leave_as_on_one_server(site: Site) -> None:
    here, there = (pipit.port for pipit in site.pipits)
    with visitors([Browser(here), Browser(there), Browser(there)]) as (ada, second, guesser):
        ada.register("ada")
        ada.get("/home")
        assert get_anonymously(there, "/").status == 200  # cached there, before the post
        assert ada.publish("from one process to the other").status == 302
        assert all(
            "from one process" in get_anonymously(port, path).text for port in (here, there) for path in ("/", "/@ada")
        )
        assert second.log_in("ada", second.token("/login")).status == 302
        assert second.get("/settings/sessions").text.count("<time") >= 2
        assert ada.post("/logout", "/").status == 302
        assert not ada.is_signed_in()
        assert second.is_signed_in()
        guesses = [guesser.post("/login", "/login", username="ada", password="not this one").status for _ in range(6)]
        assert guesses == [422] * 5 + [429]
    site.forget_attempts()
    assert all(get_anonymously(port, "/readyz").status == 200 for port in (here, there))


def test_every_key_is_where_it_belongs(site: Site) -> None:
    primary = site.topology.primary()
    keys = list(primary.client.scan_iter())
    assert len(keys) > len(site.people)
    assert all(str(key).startswith(site.topology.prefix) for key in keys)
    if isinstance(site.topology, Cluster):
        others = [server for server in site.topology.servers if server not in site.topology.owners]
        assert [server.client.dbsize() for server in others] == [0] * 4


def test_requests_take_as_many_round_trips_as_on_one_server(
    topology: Topology,
    redis: Redis,
    make_app: Callable[..., Flask],
    serve: Callable[[Flask], FrontServer],
    sqlite_template: Path,
    tmp_path: Path,
) -> None:
    def trips(name: str, **settings: Any) -> list[int]:
        database = shutil.copy(sqlite_template, tmp_path / f"{name}.db")
        app = make_app(database_url=f"sqlite:///{database}", **settings)
        person, stranger = Visitor(app.test_client()), Visitor(app.test_client())
        person.register("ada")
        person.get("/home")
        requests: list[Callable[[], Any]] = [
            lambda: person.publish("hello"),
            lambda: person.get("/home"),
            lambda: stranger.get("/"),
            lambda: stranger.get("/"),
            person.log_out,
            lambda: person.log_in("ada"),
            lambda: person.get("/settings/sessions"),
        ]
        counts = [_count(request) for request in requests]
        front, cookie = serve(app), f"Cookie: session={person.session_id()}"
        front.wait_for_proof()
        wait_until(lambda: front.has_copy("/", cookie), "a copy")
        return [*counts, _count(lambda: front.ask("/", cookie))]

    on_one = trips("one")
    assert trips("several", redis=parse_redis_url(topology.url)) == on_one
    assert on_one[-1] == 1


def _count(request: Callable[[], object]) -> int:
    with round_trips() as sent:
        request()
    # Not by the request: who asks Sentinel, and a front that proves once a second that pushes arrive.
    return sum(b"SENTINEL" not in one and b"front:" not in one for one in sent)


def test_the_doctor_says_where_the_primary_is(site: Site) -> None:
    place = f"127.0.0.1:{site.topology.primary().port}"
    if isinstance(site.topology, BehindProxy):  # it can't look behind a proxy
        place = f"127.0.0.1:{site.topology.proxy.port}"
    command = [sys.executable, "-m", "flask", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=site.pipits[0].environ, capture_output=True, text=True, check=False)
    found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert found["redis.reachable"]["level"] == found["redis.failover"]["level"] == "ok"
    assert f"{place} is the primary" in found["redis.failover"]["fact"]


def test_a_planned_failover_is_hardly_noticed(site: Site) -> None:
    site.topology.wait_until_whole()
    old = site.topology.primary()
    account = site.watch(WATCHED, site.topology.fail_over)
    new = site.topology.primary()
    assert new is not old
    report(site, "planned", account)
    check(site, account)


def test_a_crash_of_the_primary_is_survived_in_seconds(site: Site) -> None:
    wait_until(lambda: [server.role() for server in site.topology.servers].count("none") == 0, "all to be there")
    site.topology.wait_until_whole()
    ready: list[int] = []

    def crash() -> None:
        site.topology.crash()
        ready.append(get_anonymously(site.pipits[0].port, "/readyz").status)
        wait_until(lambda: get_anonymously(site.pipits[0].port, "/readyz").status == 200, "it to be ready again")

    account = site.watch(WATCHED, crash)
    report(site, "crash", account)
    check(site, account)
    if not isinstance(site.topology, BehindProxy):  # there the test itself has promoted a replica by then
        assert ready == [503]


def report(site: Site, what: str, account: Account) -> None:
    """Print what docs/scaling.md says of this set-up: `pytest -s` shows it."""
    print(f"\n{site.topology.name}, {what}: {account}; lost: {lost(site, account)}")


def lost(site: Site, account: Account) -> list[float]:
    """Return when logins and logouts were acknowledged that are undone, in s from the failover."""
    ended = {sid for _, sid in account.logged_out}
    open_ = {sid: at for at, sid in account.logged_in if sid not in ended}
    gone = open_.keys() - set(site.still_there(list(open_)))
    risen = set(site.still_there(list(ended)))
    return sorted(
        round(at - account.happened, 2)
        for at, sid in account.logged_in + account.logged_out
        if sid in gone or sid in risen
    )


def check(site: Site, account: Account) -> None:
    """Check what docs/scaling.md promises of every failover."""
    assert account.broken == []
    assert account.signed_out == []
    assert account.outage <= OUTAGE
    assert account.stale == []
    assert all(abs(moment) <= LOSS for moment in lost(site, account))
    assert len(account.published) > 20
    assert all(browser.is_signed_in() for browser in site.people.values())
    for pipit in site.pipits:
        wait_until(
            lambda pipit=pipit: "hit" in get_anonymously(pipit.port, "/").cache_status,  # type: ignore[misc]
            "the marks of writers whom it interrupted to expire",
            WRITE_LEASE / 1000 + 10,
        )
