"""The connection to Redis: its bounds, its time-outs, TLS, and the circuit breaker."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis, ResponseError

from app.config import Config, RedisAddress, parse_redis_url
from app.redis_client import (
    COMMAND_TIMEOUT,
    FAILURES_TO_OPEN,
    PROBE_INTERVAL,
    UNKNOWN_RUN,
    Store,
    StoreUnavailableError,
    describe,
    glob_escape,
)
from tests.conftest import in_threads
from tests.servers import free_port, valkey, wait_until


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


def test_it_opens_no_more_connections_than_it_may(redis: Redis, redis_url: str) -> None:
    store = store_at(redis_url, redis_max_connections=3)
    before = int(redis.info("clients")["connected_clients"])

    def ping_often(_number: int) -> None:
        for _ in range(20):
            ping(store)

    in_threads(20, ping_often)
    assert int(redis.info("clients")["connected_clients"]) - before <= 3
    store.close()


def test_a_reply_names_the_run_of_the_server_that_gave_it() -> None:
    runs = []
    with valkey(free_port()) as server:
        store = store_at(f"redis://127.0.0.1:{server.port}/0")
        for _ in range(2):
            with store.commands() as redis:
                reply, run = redis.ask("ECHO", "hello")
            assert reply == b"hello"
            assert run == store.run == store.client.info("server")["run_id"]
            runs.append(run)
            server.terminate()
            server.start()
        store.close()
    assert runs[0] != runs[1]


def test_a_server_that_may_not_be_asked_for_its_run_is_used_all_the_same(redis: Redis, redis_url: str) -> None:
    redis.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    try:
        store = store_at(redis_url.replace("redis://", "redis://mute:any@"))
        with store.commands() as client:
            assert client.ask("ECHO", "hello") == (b"hello", UNKNOWN_RUN)
        store.close()
    finally:
        redis.acl_deluser("mute")


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
        assert time.monotonic() - began < 0.5
        store.close()


def test_one_blip_opens_nothing(store: Store) -> None:
    for _ in range(3 * FAILURES_TO_OPEN):
        with pytest.raises(StoreUnavailableError), store.commands():
            raise RedisConnectionError("a blip")
        ping(store)
    assert not store.breaker.is_open


def test_a_server_that_returns_is_used_again_within_a_second(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    store = store_at(f"redis://127.0.0.1:{port}/0")
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(StoreUnavailableError):
            ping(store)
    assert store.breaker.is_open
    with valkey(port=port):
        back = time.monotonic()
        wait_until(lambda: not store.breaker.is_open, "the circuit to close")
        assert time.monotonic() - back < 1
        ping(store)
        store.close()
    assert "Redis does not answer" in caplog.text
    assert "Redis answers again" in caplog.text


def test_only_one_probe_runs_however_many_fail(caplog: pytest.LogCaptureFixture) -> None:
    store = store_at("redis://127.0.0.1:1/0")

    def fail(_number: int) -> None:
        with pytest.raises(StoreUnavailableError):
            ping(store)

    in_threads(20, fail)
    probes = [thread for thread in threading.enumerate() if thread.name == "redis-probe" and thread.is_alive()]
    assert caplog.text.count("Redis does not answer") == 1
    assert probes
    assert PROBE_INTERVAL < 1
    store.breaker._probe = lambda: None  # let the thread end


def test_what_is_said_of_an_error_is_short() -> None:
    assert len(describe(RedisConnectionError("x" * 10_000))) < 300


def test_a_pattern_matches_a_prefix_literally() -> None:
    assert glob_escape("a*b?[c]\\") == r"a\*b\?\[c\]\\"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a certificate signed by itself, as Heroku's are."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout"]
    command += [str(key), "-out", str(cert)]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    return key, cert


@pytest.fixture
def tls_terminator(redis_url: str, certificate: tuple[Path, Path]) -> Iterator[int]:
    """Give the port of a TLS end in front of the real server, as a hosted Redis has."""
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    target = parse_redis_url(redis_url)
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                client = context.wrap_socket(raw, server_side=True)
            except (ssl.SSLError, OSError):
                continue
            server = socket.create_connection((target.host, target.port))
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            threading.Thread(target=pump, args=(server, client), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


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
