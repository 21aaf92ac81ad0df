"""One bounded connection pool from one URL: TLS, timeouts, retries, and a circuit breaker.

Sessions, cache and rate limiter all send their commands through `Store.commands()`. It turns every failure of Redis
into one exception, StoreUnavailableError; each caller decides what that means for a visitor. A circuit breaker
remembers a server that has stopped answering, so that the next visitors don't wait for the same time-out.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask, current_app
from redis import (
    BlockingConnectionPool,
    Connection,
    ConnectionError,
    Redis,
    RedisError,
    ResponseError,
    SSLConnection,
    TimeoutError,
)
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from app import costs
from app.config import Config
from app.fair_queue import FairQueue

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 0.4  # s; a TLS handshake within one data centre takes 0.01
COMMAND_TIMEOUT = 0.4  # s; a page from SQL is better than a page that waited longer than this for a cache
CONNECTION_WAIT = 1.0  # s for a free one; a command takes 0.0002, but the thread that has it may have to wait for a CPU
FAILURES_TO_OPEN = 2  # in a row: one may be a blip, and ends nobody's session
PROBE_INTERVAL = 0.25  # s between two probes of a dead server; "again within a second" leaves room for three
RUN_ID = re.compile(rb"run_id:(\w+)")  # in INFO
UNKNOWN_RUN_ID = "-"  # of a server that does not tell its run_id


@dataclass(frozen=True)
class Trouble:
    """A known reason why a Redis server can't be used."""

    state: str  # what Redis is or does, as in "is full"
    advice: str
    lasting: bool = True  # until a setting is changed


NO_CLUSTER = Trouble(
    "is a cluster", "set REDIS_PREFIX={pipit}: and let REDIS_URL name the node with those keys (docs/deploy.md)"
)
CLIENTS_USED_UP = Trouble(
    "has no free connection", "lower REDIS_MAX_CONNECTIONS or WEB_CONCURRENCY, or take a larger plan", lasting=False
)
MAYBE_TLS = Trouble("hangs up", "if it always does, this may be a TLS port, which needs rediss://", lasting=False)
MAYBE_PLAIN = Trouble(
    "does not answer in TLS", "if this is always so, the port may need redis:// instead", lasting=False
)
UNVERIFIED = Trouble(
    "has a certificate that can't be verified", "set REDIS_TLS_VERIFY=no if the server's owner signs it"
)
TROUBLES = {  # by a part of describe()'s text
    "ReadOnlyError": Trouble(
        "is read-only",
        "it is a replica, perhaps since a failover: REDIS_URL must name the primary, or nobody can log in",
    ),
    "OutOfMemoryError": Trouble(
        "is full", "take a larger plan, or set maxmemory-policy to volatile-ttl: nobody can log in", lasting=False
    ),
    "MISCONF": Trouble("can't save", "it refuses writes until its disk works again", lasting=False),
    "MovedError": NO_CLUSTER,
    "ClusterDownError": NO_CLUSTER,
    "ClusterCrossSlotError": NO_CLUSTER,
    "AskError": NO_CLUSTER,
    "AuthenticationError": Trouble("refuses the password", "the user or password in REDIS_URL is wrong or missing"),
    "NoPermissionError": Trouble("refuses this user", "the user in REDIS_URL needs +@all ~* &* (docs/deploy.md)"),
    "max number of clients": CLIENTS_USED_UP,
    "BusyLoadingError": Trouble("is loading", "it reads its data after a start; that ends by itself", lasting=False),
    "CERTIFICATE_VERIFY_FAILED": UNVERIFIED,
}
HUNG_UP = ("Connection closed by server", "Connection reset by peer", "Broken pipe")
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "Timeout connecting to server")


class CountingPipeline(Pipeline):
    """A pipeline that counts its commands in the current request's statistics."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands and return their results."""
        costs.current().redis += len(self.command_stack)
        return super().execute(raise_on_error)


class CountingRedis(Redis):
    """A client that counts its commands in the current request's statistics."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its result."""
        costs.current().redis += 1
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # as super() hides whose it is

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline that counts too."""
        return CountingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


@dataclass(frozen=True)
class Usage:
    """How much of a Redis server is in use. A limit is 0 if there is none, or the server doesn't tell."""

    memory: int  # bytes
    most_memory: int
    connections: int
    most_connections: int


class StoreUnavailableError(Exception):
    """Redis did not carry out a command: it is away, slow, full, read-only or still loading."""


class CircuitBreaker:
    """Keeps a dead server from costing every visitor a time-out.

    After FAILURES_TO_OPEN failures in a row the circuit opens: commands fail at once. It is half open by time: every
    PROBE_INTERVAL one command is let through, and if the server answers it, the circuit closes. The pattern is Michael
    Nygard's ("Release It!", chapter 5).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._opened = 0.0  # when, on the monotonic clock
        self._next_probe = 0.0
        self.is_open = False

    def lets_through(self) -> bool:
        """Return whether a command may be tried now; while the circuit is open, one every PROBE_INTERVAL may."""
        if not self.is_open:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._next_probe:
                return False
            self._next_probe = now + PROBE_INTERVAL
            return True

    def succeeded(self) -> None:
        """Note that the server has answered."""
        self._failures = 0
        if not self.is_open:
            return
        with self._lock:
            was_open, self.is_open = self.is_open, False
        if was_open:
            log.warning("Redis answers again, after %.1f s", time.monotonic() - self._opened)

    def failed(self, cause: str) -> None:
        """Record a failure and its cause; open the circuit after FAILURES_TO_OPEN."""
        with self._lock:
            self._failures += 1
            now = time.monotonic()
            self._next_probe = now + PROBE_INTERVAL
            if self.is_open or self._failures < FAILURES_TO_OPEN:
                return
            self.is_open, self._opened = True, now
        log.error("Redis does not answer (%s): going on without it until it does", cause)


class Store:
    """The Redis server as the rest of Pipit sees it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.prefix = config.redis_prefix
        self.run_id = UNKNOWN_RUN_ID  # the server's, as the newest connection read it
        self.pool = _connection_pool(config, self._greet)
        self.client = CountingRedis(connection_pool=self.pool)
        self.breaker = CircuitBreaker()

    def commands(self, *, insist: bool = False) -> "Commands":
        """Return a context manager that gives the client and translates its errors.

        insist: try even while the circuit is open; for commands that must not be skipped.

        The context manager raises StoreUnavailableError, with the cause chained; at once, while the circuit is open.
        """
        return Commands(self, insist=insist)

    def ask(self, *command: str | bytes | int) -> tuple[Any, str]:
        """Send one command that may be sent twice; return the reply, and the run_id of the server that gave it.

        A run_id lasts from a server's start to its end. After a restart or a failover, the new run may lack
        the last writes.

        Raises StoreUnavailableError.
        """
        costs.current().redis += 1
        with self.commands():
            connection: Any = self.pool.get_connection()
            try:
                reply = connection.retry.call_with_retry(
                    lambda: _reply(connection, command), lambda _error: connection.disconnect()
                )
                return reply, connection.server_run_id
            finally:
                self.pool.release(connection)

    def check(self) -> None:
        """Check that Redis can be used: write a key that expires, and ask for two keys, which a cluster refuses.

        Raises StoreUnavailableError, whatever the circuit's state.
        """
        with self.commands(insist=True) as redis, redis.pipeline(transaction=False) as pipe:
            pipe.set(self.key("ready"), b"", ex=60)
            pipe.exists(self.key("ready"), self.key("ready:2"))
            pipe.execute()

    def usage(self) -> Usage:
        """Return how much of the server is in use. Raises StoreUnavailableError, also if this user may not run INFO."""
        with self.commands() as redis:
            info = redis.info()
        return Usage(
            info["used_memory"], info.get("maxmemory", 0), info["connected_clients"], info.get("maxclients", 0)
        )

    def trouble(self, error: StoreUnavailableError) -> Trouble | None:
        """Return the known trouble behind an error, or None."""
        why = str(error)
        for part, trouble in TROUBLES.items():
            if part in why:
                return trouble
        if self.config.redis.tls:
            return MAYBE_PLAIN if any(part in why for part in NO_TLS) else None
        return MAYBE_TLS if any(part in why for part in HUNG_UP) else None

    def report(self) -> None:
        """Log a warning if Redis can't be used; each web process calls this at startup."""
        try:
            self.check()
        except StoreUnavailableError as error:
            log.warning("Redis can't be used: %s", self.explain(error))

    def explain(self, error: StoreUnavailableError) -> str:
        """Return the error's text, and what to do about it if that is known."""
        trouble = self.trouble(error)
        return f"{error} (it {trouble.state}: {trouble.advice})" if trouble else str(error)

    def key(self, name: str) -> str:
        """Return the key as it stands in Redis, with REDIS_PREFIX in front."""
        return self.prefix + name

    def close(self) -> None:
        """Close all connections."""
        self.pool.disconnect()

    def _greet(self, connection: Any) -> None:
        """Open a connection as redis-py does, and ask for the server's run_id."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        try:
            found = RUN_ID.search(connection.read_response())
        except ResponseError:  # this user may not run INFO
            found = None
        self.run_id = connection.server_run_id = found[1].decode() if found else UNKNOWN_RUN_ID


class Commands:
    """What Store.commands() returns; a class, because a generator takes three times as long and this runs often."""

    __slots__ = ("insist", "store")

    def __init__(self, store: Store, *, insist: bool) -> None:
        self.store = store
        self.insist = insist

    def __enter__(self) -> CountingRedis:
        if not self.insist and not self.store.breaker.lets_through():
            raise StoreUnavailableError("the circuit to Redis is open")
        return self.store.client

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, ConnectionError | TimeoutError):
            self.store.breaker.failed(describe(error))
            raise StoreUnavailableError(describe(error)) from error
        if error is None or isinstance(error, RedisError):  # Redis answered, even if it refused
            self.store.breaker.succeeded()
        if isinstance(error, RedisError):
            raise StoreUnavailableError(describe(error)) from error


def glob_escape(text: str) -> str:
    """Return the text as a SCAN pattern that matches it literally."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def describe(error: RedisError) -> str:
    """Return what went wrong in a few words that are safe to log.

    No error's text holds the password, but a pipeline's quotes its command, which may hold a session.
    """
    text = re.sub(r"^Command # .*? of pipeline caused error: ", "", str(error), flags=re.DOTALL)
    return f"{type(error).__name__}: {text[:200]}"


def init_store(app: Flask, config: Config) -> Store:
    """Give the app its one Store."""
    store = Store(config)
    app.extensions["store"] = store
    return store


def current_store() -> Store:
    """Return the Store of the current app."""
    store: Store = current_app.extensions["store"]
    return store


def _reply(connection: Any, command: tuple[str | bytes | int, ...]) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def _connection_pool(config: Config, greet: Callable[[Any], None]) -> BlockingConnectionPool:
    address = config.redis
    tls: dict[str, Any] = {}
    if address.tls and not config.redis_tls_verify:
        tls = {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return BlockingConnectionPool(
        connection_class=SSLConnection if address.tls else Connection,
        host=address.host,
        port=address.port,
        username=address.username,
        password=address.password,
        db=address.db,
        max_connections=max(1, config.redis_max_connections - 1),  # one is the front's
        timeout=CONNECTION_WAIT,
        queue_class=FairQueue,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=COMMAND_TIMEOUT,
        # Heroku hangs up on a connection that was idle for 300 s, and a failover on all of them. One retry on a
        # fresh connection hides that from the visitor; a time-out is not retried: it has taken long enough.
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        protocol=2,  # Redis To Go's servers are older than HELLO, and nothing here needs RESP3
        driver_info=None,  # no CLIENT SETINFO: two commands less for each new connection
        # Operators see in CLIENT LIST who is connected. Setting the name also makes a new connection read a reply:
        # after a TLS 1.3 handshake the server's session tickets lie on the socket, and redis-py 8.1 with hiredis
        # would take them for a reply left over from another command, and refuse the connection.
        client_name="pipit",
        redis_connect_func=greet,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **tls,
    )
