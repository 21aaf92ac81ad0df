"""The connection to Redis: its bounds, its time-outs, TLS, and the circuit breaker."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from redis import Connection, Redis, ResponseError
from redis import ConnectionError as RedisConnectionError

from app.config import Config, RedisAddress, parse_redis_url
from app.redis_client import (
    COMMAND_TIMEOUT,
    FAILURES_TO_OPEN,
    PROBE_INTERVAL,
    UNKNOWN_RUN_ID,
    Store,
    StoreUnavailableError,
    describe,
    glob_escape,
)
from app.redis_primary import PrimaryUnknownError, RedisPrimary
from tests.conftest import in_threads
from tests.servers import PATIENCE, cluster_of_one, free_port, unfit_redis, valkey, wait_until
from tests.serving import FrontServer

pytestmark = pytest.mark.server


def store_at(url: str, **settings: Any) -> Store:
    return Store(replace(Config(parse_redis_url(url), "", ""), **settings))


def ping(store: Store) -> None:
    with store.commands() as redis:
        redis.ping()


@pytest.fixture
def store(redis: Redis, redis_url: str) -> Iterator[Store]:
    store = store_at(redis_url)
    yield store
    store.close()


@pytest.mark.parametrize(("allowed", "opened"), [(1, 1), (2, 1), (3, 2)])  # one is the front's, if there are two
def test_it_opens_no_more_connections_than_it_may(redis: Redis, redis_url: str, allowed: int, opened: int) -> None:
    store = store_at(redis_url, redis_max_connections=allowed)
    before = {client["id"] for client in redis.client_list()}

    def ping_often(_number: int) -> None:
        for _ in range(20):
            ping(store)

    in_threads(20, ping_often)
    assert len({client["id"] for client in redis.client_list()} - before) == opened
    store.close()


def test_a_reply_names_the_run_of_the_server_that_gave_it() -> None:
    runs = []
    with valkey(free_port()) as server:
        store = store_at(f"redis://127.0.0.1:{server.port}/0")
        for _ in range(2):
            reply, run = store.ask("ECHO", "hello")
            assert reply == b"hello"
            assert run == store.run_id == store.client.info("server")["run_id"][:16]
            runs.append(run)
            server.terminate()
            server.start()
        store.close()
    assert runs[0] != runs[1]


def test_a_server_that_may_not_be_asked_for_its_run_is_used_all_the_same(redis: Redis, redis_url: str) -> None:
    redis.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    try:
        store = store_at(redis_url.replace("redis://", "redis://mute:any@"))
        assert store.ask("ECHO", "hello") == (b"hello", UNKNOWN_RUN_ID)
        store.close()
    finally:
        redis.acl_deluser("mute")


def test_what_a_replica_refuses_is_tried_again_where_the_primary_is_by_then() -> None:
    with valkey() as old, valkey() as new, Redis(port=old.port) as admin, Redis(port=new.port) as reader:
        store = store_at(f"redis://127.0.0.1:{old.port}/0")
        ping(store)
        admin.replicaof("127.0.0.1", "1")
        store.primary = RedisPrimary(("127.0.0.1", new.port))
        with store.commands() as redis:
            redis.set(store.key("a"), "1")
        assert reader.get("a") == b"1"
        assert not store.breaker.is_open
        store.close()


def test_no_key_is_made_before_it_is_known_whether_the_server_is_a_cluster() -> None:
    """Without its hash tag, it would be written to another node, and never found again."""
    store = store_at(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreUnavailableError):
        store.key("a")
    with cluster_of_one() as url:
        for prefix, key in (("", "{pipit}:a"), ("two:", "{pipit}:two:a"), ("{two}:", "{two}:a"), ("{}", "{pipit}:{}a")):
            store = store_at(url, redis_prefix=prefix)
            assert store.key("a") == key
            store.check()
            store.close()


def test_a_node_of_a_cluster_that_has_no_slots_is_no_primary() -> None:
    settings: dict[str, Any] = {"cluster-enabled": "yes", "cluster-port": free_port()}
    with valkey(**settings) as server:
        store = store_at(f"redis://127.0.0.1:{server.port}/0")
        with pytest.raises(StoreUnavailableError, match="no node of the cluster names the owner of slot"):
            store.check()
        store.close()


def test_a_host_that_is_no_sentinel_does_not_hide_the_others() -> None:
    with valkey() as server, socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(PATIENCE)
        store = store_at(f"redis+sentinel://127.0.0.1:{server.port},127.0.0.1:{other.getsockname()[1]}/mymaster")
        for _ in range(2):
            with pytest.raises(PrimaryUnknownError, match="a Sentinel refuses to name a primary: unknown command"):
                store.primary.locate()
        other.accept()[0].close()
        store.close()


def test_a_service_that_no_sentinel_knows_is_no_primary() -> None:
    store = store_at(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/mymaster")
    with pytest.raises(
        StoreUnavailableError, match="no Sentinel names a primary of 'mymaster': ConnectionError"
    ) as caught:
        store.check()
    trouble = store.trouble(caught.value)
    assert trouble
    assert trouble.state == "has no primary"


def test_a_connection_that_the_server_closed_costs_nobody_an_error(store: Store, redis: Redis) -> None:
    for _ in range(3):
        ping(store)
        redis.client_kill_filter(_type="normal", skipme=True)
    ping(store)
    assert not store.breaker.is_open


def test_a_server_that_closes_idle_connections_costs_nobody_an_error() -> None:
    with valkey(timeout=1) as server:
        store = store_at(f"redis://127.0.0.1:{server.port}/0")
        ping(store)
        with Redis(port=server.port) as other:
            wait_until(lambda: len(other.client_list()) == 1, "the server to close the idle connection")
        ping(store)
        store.close()


def test_refusals_are_failures_that_do_not_open_the_circuit(store: Store, redis: Redis) -> None:
    for _ in range(FAILURES_TO_OPEN + 1):
        with pytest.raises(StoreUnavailableError), store.commands():
            raise ResponseError("NOPERM")
    assert not store.breaker.is_open


def test_a_dead_server_costs_a_few_visitors_a_time_out_and_the_rest_nothing() -> None:
    with socket.socket() as silent:  # accepts, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = store_at(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        for _ in range(FAILURES_TO_OPEN):
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError):
                ping(store)
            assert time.monotonic() - began < COMMAND_TIMEOUT + 0.3
        assert store.breaker.is_open
        began = time.monotonic()
        for _ in range(1000):
            with pytest.raises(StoreUnavailableError):
                ping(store)
        assert time.monotonic() - began < COMMAND_TIMEOUT + 0.5  # time for one that looks whether the server is back
        store.close()


def test_one_blip_opens_nothing(store: Store) -> None:
    for _ in range(3 * FAILURES_TO_OPEN):
        with pytest.raises(StoreUnavailableError), store.commands():
            raise RedisConnectionError("a blip")
        ping(store)
    assert not store.breaker.is_open


def open_circuit(store: Store) -> None:
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(StoreUnavailableError):
            ping(store)
    assert store.breaker.is_open


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the circuit breaker's clock, and give a function that moves it on."""
    now = 1000.0

    def move(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("app.redis_client.time", SimpleNamespace(monotonic=lambda: now))
    return move


def test_while_the_circuit_is_open_one_command_every_so_often_looks_whether_the_server_is_back(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(f"redis://127.0.0.1:{free_port()}/0")
    open_circuit(store)
    tried: list[None] = []
    connect: Callable[[Connection], None] = Connection.connect

    def note_and_connect(connection: Connection) -> None:
        tried.append(None)
        connect(connection)

    monkeypatch.setattr(Connection, "connect", note_and_connect)

    def fail(_number: int) -> None:
        with pytest.raises(StoreUnavailableError):
            ping(store)

    in_threads(20, fail)
    assert tried == []
    for _ in range(3):
        clock(PROBE_INTERVAL)
        in_threads(20, fail)
        assert 1 <= len(tried) <= 2  # one command, with its one new try
        tried.clear()
    assert store.breaker.is_open


def test_one_that_looks_and_fails_in_another_way_leaves_the_next_its_turn(clock: Callable[[float], None]) -> None:
    port = free_port()
    store = store_at(f"redis://127.0.0.1:{port}/0")
    open_circuit(store)
    with valkey(port=port):
        clock(PROBE_INTERVAL)
        with pytest.raises(KeyError), store.commands():
            raise KeyError
        with pytest.raises(StoreUnavailableError, match="circuit"):
            ping(store)
        clock(PROBE_INTERVAL)
        ping(store)
        assert not store.breaker.is_open
        store.close()


def test_an_outage_takes_no_thread(clock: Callable[[float], None]) -> None:
    store = store_at(f"redis://127.0.0.1:{free_port()}/0")
    before = threading.enumerate()
    open_circuit(store)
    clock(PROBE_INTERVAL)
    with pytest.raises(StoreUnavailableError):
        ping(store)
    store.close()
    assert threading.enumerate() == before


def test_a_child_process_gets_connections_and_replies_of_its_own(store: Store, redis: Redis) -> None:
    """In a connection of its parent's it would read the parent's replies, and the parent the child's."""
    ping(store)
    parents = {client["id"] for client in redis.client_list()}
    begin, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            reply, _ = store.ask("CLIENT", "ID")
            with store.commands() as own:
                os.write(end, f"{reply} {own.client_id()}".encode())
        finally:
            os._exit(0)
    os.close(end)
    with os.fdopen(begin) as pipe:
        told = pipe.read().split()
    os.waitpid(child, 0)
    assert len(told) == 2
    assert not {*told} & parents
    ping(store)


def test_a_server_that_returns_is_used_again_within_a_second(
    clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    store = store_at(f"redis://127.0.0.1:{port}/0")
    open_circuit(store)
    with valkey(port=port):
        with pytest.raises(StoreUnavailableError, match="the circuit to Redis is open"):
            ping(store)
        assert 3 * PROBE_INTERVAL < 1
        clock(PROBE_INTERVAL)
        ping(store)
        assert not store.breaker.is_open
        ping(store)
        store.close()
    assert "Redis does not answer" in caplog.text
    assert f"Redis answers again, after {PROBE_INTERVAL:.1f} s" in caplog.text


def test_what_must_not_be_left_undone_is_tried_while_the_circuit_is_open(clock: Callable[[float], None]) -> None:
    port = free_port()
    store = store_at(f"redis://127.0.0.1:{port}/0")
    open_circuit(store)
    with valkey(port=port):
        with store.commands(insist=True) as redis:
            redis.ping()
        assert not store.breaker.is_open
        ping(store)
        store.close()


def test_an_outage_is_logged_once_however_many_fail(
    clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = store_at("redis://127.0.0.1:1/0")

    def fail(_number: int) -> None:
        with pytest.raises(StoreUnavailableError):
            ping(store)

    for _ in range(3):
        in_threads(20, fail)
        clock(PROBE_INTERVAL)
    assert caplog.text.count("Redis does not answer") == 1


def test_what_is_said_of_an_error_is_short() -> None:
    assert len(describe(RedisConnectionError("x" * 10_000))) < 300


def test_a_pattern_matches_a_prefix_literally() -> None:
    assert glob_escape("a*b?[c]\\") == r"a\*b\?\[c\]\\"


def tls_store(port: int, *, verify: bool) -> Store:
    address = RedisAddress("rediss", "127.0.0.1", port, None, None, 0)
    return Store(Config(address, "", "", redis_tls_verify=verify))


def test_a_certificate_that_signs_itself_is_refused_unless_told_otherwise(tls_terminator: int) -> None:
    with pytest.raises(StoreUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        ping(tls_store(tls_terminator, verify=True))
    ping(tls_store(tls_terminator, verify=False))


def test_on_heroku_certificates_are_not_verified_and_elsewhere_they_are(tmp_path: Path) -> None:
    heroku = {"DYNO": "web.1", "REDIS_URL": "rediss://:x@h:1", "DATABASE_URL": "postgres://h/d", "SECRET_KEY": "x" * 16}
    assert not Config.from_environ(heroku).redis_tls_verify
    assert Config.from_environ(heroku | {"REDIS_TLS_VERIFY": "yes"}).redis_tls_verify
    assert Config.from_environ({"REDIS_URL": "rediss://h:1"}, tmp_path).redis_tls_verify


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_web_process_says_at_its_start_that_nobody_can_log_in(
    make_app: Callable[..., Flask], serve: Callable[[Flask], FrontServer], caplog: pytest.LogCaptureFixture
) -> None:
    with unfit_redis("replica") as url:
        serve(make_app(redis=parse_redis_url(url)))
        wait_until(lambda: "Redis can't be used" in caplog.text, "the log to say so")
    assert "it is read-only: it is a replica, perhaps since a failover: REDIS_URL must name the primary" in caplog.text


def test_a_check_closes_the_circuit_of_a_redis_that_is_back() -> None:
    port = free_port()
    store = store_at(f"redis://127.0.0.1:{port}/0")
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(StoreUnavailableError):
            store.check()
    with valkey(port):
        store.check()
        ping(store)  # at once, without waiting for the next probe
        store.close()
