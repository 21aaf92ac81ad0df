"""One bounded connection pool from one URL: TLS, timeouts, retries, and a circuit breaker.

Sessions, cache and rate limiter all speak to Redis through `Store.commands()`. It turns every way in which Redis can
fail into one exception, StoreUnavailableError, so that each caller decides only what that means for a visitor, and it
remembers a server that has stopped answering, so that the next visitors don't wait for the same time-out.
"""

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, current_app
from redis import BlockingConnectionPool, Connection, ConnectionError, Redis, RedisError, SSLConnection, TimeoutError
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from app.config import Config

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 0.4  # s; a TLS handshake within one data centre takes 0.01
COMMAND_TIMEOUT = 0.4  # s; a page from SQL is better than a page that waited longer than this for a cache
FAILURES_TO_OPEN = 2  # in a row: one may be a blip, and ends nobody's session
PROBE_INTERVAL = 0.25  # s between two looks whether Redis is back; "again within a second" leaves room for both


class StoreUnavailableError(Exception):
    """Redis did not do what it was asked: away, slow, full, read-only or still loading."""


class CircuitBreaker:
    """Keeps a dead server from costing every visitor a time-out.

    After FAILURES_TO_OPEN failures in a row the circuit opens: commands fail at once. While it is open a thread of
    its own asks every PROBE_INTERVAL whether the server is back, so that no visitor has to be the one who finds out.
    The pattern is Michael Nygard's ("Release It!", chapter 5).
    """

    def __init__(self, probe: Any) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        self._failures = 0
        self.is_open = False

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, error: RedisError) -> None:
        with self._lock:
            self._failures += 1
            if self.is_open or self._failures < FAILURES_TO_OPEN:
                return
            self.is_open = True
        log.error("Redis does not answer (%s): going on without it until it does", describe(error))
        threading.Thread(target=self._close_when_back, name="redis-probe", daemon=True).start()

    def _close_when_back(self) -> None:
        opened = time.monotonic()
        while True:
            time.sleep(PROBE_INTERVAL)
            try:
                self._probe()
            except RedisError:
                continue
            break
        self._failures = 0
        self.is_open = False
        log.warning("Redis answers again, after %.1f s", time.monotonic() - opened)


class Store:
    """The Redis server as the rest of Pipit sees it."""

    def __init__(self, config: Config) -> None:
        self.prefix = config.redis_prefix
        self.pool = _connection_pool(config)
        self.client = Redis(connection_pool=self.pool)
        self.breaker = CircuitBreaker(self.client.ping)

    @contextmanager
    def commands(self) -> Iterator[Redis]:
        """Give the client, for as long as Redis answers.

        Raises StoreUnavailableError, at once while the circuit is open, whatever the cause; the cause is chained.
        """
        if self.breaker.is_open:
            raise StoreUnavailableError("the circuit to Redis is open")
        try:
            yield self.client
        except (ConnectionError, TimeoutError) as error:
            self.breaker.failed(error)
            raise StoreUnavailableError(describe(error)) from error
        except RedisError as error:  # it answered, but with a refusal: full, read-only, not allowed
            self.breaker.succeeded()
            raise StoreUnavailableError(describe(error)) from error
        else:
            self.breaker.succeeded()

    def key(self, name: str) -> str:
        """Return the key as it stands in Redis, with REDIS_PREFIX in front."""
        return self.prefix + name

    def close(self) -> None:
        self.pool.disconnect()


def glob_escape(text: str) -> str:
    """Return the text as a SCAN pattern that matches it literally."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def describe(error: RedisError) -> str:
    """Return what went wrong in a few words that are safe to log: an error's text never holds the password."""
    return f"{type(error).__name__}: {str(error)[:200]}"


def init_store(app: Flask, config: Config) -> Store:
    """Give the app its one Store."""
    store = Store(config)
    app.extensions["store"] = store
    return store


def current_store() -> Store:
    """Return the Store of the current app."""
    store: Store = current_app.extensions["store"]
    return store


def _connection_pool(config: Config) -> BlockingConnectionPool:
    address = config.redis
    tls: dict[str, Any] = {}
    if address.tls and not config.redis_tls_verify:
        tls = {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return BlockingConnectionPool(  # type: ignore[no-untyped-call]
        connection_class=SSLConnection if address.tls else Connection,
        host=address.host,
        port=address.port,
        username=address.username,
        password=address.password,
        db=address.db,
        max_connections=config.redis_max_connections,
        timeout=COMMAND_TIMEOUT,  # for a free connection
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=COMMAND_TIMEOUT,
        # Heroku hangs up on a connection that was idle for 300 s, and a failover on all of them. One new try on a
        # fresh connection hides that from the visitor; a time-out is not tried again, it has taken long enough.
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        protocol=2,  # Redis To Go's servers are older than HELLO, and nothing here needs RESP3
        driver_info=None,  # no CLIENT SETINFO: two commands less for each new connection
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **tls,
    )
