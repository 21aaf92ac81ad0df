"""Several dynos are one site; and Pipit on a Redis Cluster stays in one hash slot."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from flask import Flask
from redis import Redis
from redis.crc import key_slot

from app.config import parse_redis_url
from tests.conftest import PASSWORD, Visitor
from tests.counting import commands_sent
from tests.faults.traffic import Browser, get_anonymously
from tests.servers import free_port, pipit, valkey, wait_until


class Router:
    """One visitor's way to several dynos: each request goes to the next one, on a connection of its own."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = itertools.cycle(ports)
        self.browser = Browser(next(self.ports))

    def __call__(self) -> Browser:
        self.browser.hang_up()
        self.browser.port = next(self.ports)
        return self.browser

    def post(self, path: str, form_on: str, **fields: str) -> int:
        token = self().token(form_on)
        return self().send_form(path, token, **fields).status


@pytest.fixture
def ports(tmp_path: Path, redis: Redis, redis_url: str) -> Iterator[list[int]]:
    """Give the ports of two dynos that share a database and a Redis."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(pipit(tmp_path, redis_url, SECRET_KEY="the same on both of them")).port
            for _ in range(2)
        ]


def test_requests_that_alternate_between_two_dynos_meet_one_site(ports: list[int]) -> None:
    ada = Router(ports)
    fields = {"username": "ada", "password": PASSWORD}
    assert ada.post("/register", "/register", **fields) == 302  # a form from one, sent to the other
    assert "Welcome, @ada" in ada().get("/home").text  # a flash message, shown once
    assert all("Welcome, @ada" not in ada().get("/home").text for _ in range(4))
    assert all(ada().is_signed_in() for _ in range(4))

    for number in range(6):  # a post published through one is on the other's next page, cached before
        assert all(get_anonymously(port, "/").status == 200 for port in ports)
        assert ada.post("/posts", "/home", body=f"number {number}") == 302
        assert all(f"number {number}" in get_anonymously(port, path).text for port in ports for path in ("/", "/@ada"))

    assert ada.post("/logout", "/") == 302
    assert all("Log in" in ada().get("/").text for _ in range(4))


def test_guesses_spread_over_two_dynos_are_counted_together(ports: list[int]) -> None:
    stranger_ = Router(ports)
    guess = {"username": "ada", "password": "not this one"}
    assert [stranger_.post("/login", "/login", **guess) for _ in range(7)] == [422] * 5 + [429] * 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Redis]]:
    """Give clients of the three nodes of a Redis Cluster, each with a third of the slots."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            port = free_port()
            settings = {"cluster-enabled": "yes", "cluster-port": free_port(), "cluster-node-timeout": 2000}
            stack.enter_context(valkey(port=port, **settings))
            node = stack.enter_context(Redis(port=port, decode_responses=True))
            first, last = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            nodes.append(node)
        for node in nodes[1:]:
            kwargs = nodes[0].connection_pool.connection_kwargs
            bus = settings_port(nodes[0])
            node.execute_command("CLUSTER", "MEET", "127.0.0.1", kwargs["port"], bus)
        wait_until(lambda: all(is_up(node) for node in nodes), "the cluster to agree")
        yield nodes


def settings_port(node: Redis) -> int:
    return int(str(node.config_get("cluster-port")["cluster-port"]))


def is_up(node: Redis) -> bool:
    info = node.execute_command("CLUSTER", "INFO")
    return "cluster_state:ok" in str(info) and "cluster_known_nodes:3" in str(info)


PREFIX = "{pipit}:"


@pytest.mark.parametrize("strategy", ["invalidate", "refresh", "expire"])
def test_on_a_cluster_every_operation_stays_in_one_slot(
    cluster: list[Redis], make_app: Callable[..., Flask], sqlite_url: str, strategy: str
) -> None:
    slot = key_slot(PREFIX.encode())
    owner = cluster[slot * 3 // 16384]
    owner.flushall()
    another = cluster[(slot * 3 // 16384 + 1) % 3]  # whichever node the URL names
    url = f"redis://127.0.0.1:{another.connection_pool.connection_kwargs['port']}/0"
    app = make_app(redis=parse_redis_url(url), cache_strategy=strategy)
    ada, bob = Visitor(app.test_client()), Visitor(app.test_client())
    with commands_sent(owner) as sent:
        ada.register("ada")
        bob.register("bob")
        assert bob.follow("ada").status_code == 302
        assert ada.publish("on one shard").status_code == 302
        assert "on one shard" in ada.get("/").text
        change = {"current_password": PASSWORD, "new_password": "another good one"}
        assert ada.post("/settings/password", **change).status_code == 302
        assert ada.get("/settings/sessions").status_code == 200
        ada.post("/settings/sessions/end-others", form_on="/settings/sessions")
        ada.log_out()
        assert ada.log_in("ada", "wrong").status_code == 422
        assert ada.log_in("ada", "another good one").status_code == 302
        assert app.test_cli_runner().invoke(args=["sessions", "count"]).output == "2 sessions of 2 users\n"
    assert len(sent) > 50
    keys = set(re.findall(r"\S*(?:session|sessions|page|limit):\S*", " ".join(sent)))
    assert all(PREFIX in key for key in keys)
    assert sum(node.dbsize() for node in cluster) == owner.dbsize() > 0


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url
