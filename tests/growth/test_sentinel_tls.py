"""Sentinel and Redis in TLS, each with a password of its own, and what is said when one of them refuses Pipit."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Config, parse_redis_url
from app.redis_client import Store, StoreUnavailableError
from tests.growth.topologies import SERVICE, RedisServer
from tests.servers import free_port, wait_until


@pytest.fixture(scope="module")
def ports(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Give the ports of two Sentinels in TLS; the first one can't be reached."""
    key, cert = certificate
    tls = {"tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert, "tls-auth-clients": "no"}
    folder, secure, watching = tmp_path_factory.mktemp("redis"), free_port(), free_port()
    with ExitStack() as stack:
        primary = RedisServer(folder, **tls, **{"tls-port": secure, "user": "pipit on >s3cret ~* &* +@all"})
        stack.callback(primary.close)
        watch = [f"sentinel monitor {SERVICE} 127.0.0.1 {secure} 1", f"sentinel auth-user {SERVICE} pipit"]
        watch += [f"sentinel auth-pass {SERVICE} s3cret", "user watcher on >w4tch ~* &* +@all", "user default off"]
        sentinel = RedisServer(folder, *watch, "--sentinel", **tls, **{"tls-port": watching, "tls-replication": "yes"})
        stack.callback(sentinel.close)
        yield free_port(), watching


def store_at(ports: tuple[int, int], login: str, watcher: str, *, verify: bool = False) -> Store:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    url = f"rediss+sentinel://{login}@{hosts}/{SERVICE}/0?sentinel_username=watcher&sentinel_password={watcher}"
    return Store(replace(Config(parse_redis_url(url), "", ""), redis_tls_verify=verify))


def test_both_are_reached_over_tls_with_their_own_passwords(ports: tuple[int, int]) -> None:
    store = store_at(ports, "pipit:s3cret", "w4tch")
    wait_until(lambda: _trouble(store) is None, "the Sentinel to see the primary")
    store.close()


@pytest.mark.parametrize(
    ("login", "watcher", "verify", "state"),
    [
        ("pipit:wr0ng", "w4tch", False, "refuses the password"),
        ("pipit:s3cret", "wr0ng", False, "refuses the password"),
        ("pipit:s3cret", "w4tch", True, "has no primary"),  # that it can trust
    ],
)
def test_what_is_wrong_is_said_without_a_password(
    ports: tuple[int, int], login: str, watcher: str, verify: bool, state: str
) -> None:
    store = store_at(ports, login, watcher, verify=verify)
    wait_until(lambda: (_trouble(store) or "").partition(" (it ")[2].startswith(state), f"it {state}")
    assert not any(secret in (_trouble(store) or "") for secret in ("s3cret", "w4tch", "wr0ng"))
    store.close()


def _trouble(store: Store) -> str | None:
    try:
        store.check()
    except StoreUnavailableError as error:
        return store.explain(error)
    return None
