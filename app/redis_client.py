"""One bounded connection pool from one URL: TLS, timeouts, retries, and a circuit breaker.

Sessions, cache and rate limiter all send their commands through `Store.commands()`. It turns every failure of Redis
into one exception, StoreUnavailableError; each caller decides what that means for a visitor. A circuit breaker
remembers a server that has stopped answering, so that the next visitors don't wait for the same time-out.
"""

import logging
import math
import re
import threading
import time
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
from redis.crc import key_slot
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from app import costs
from app.config import Config
from app.fair_queue import FairQueue
from app.redis_primary import ClusterPrimary, RedisPrimary, SentinelPrimary

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 0.4  # s; a TLS handshake within one data centre takes 0.01
COMMAND_TIMEOUT = 0.4  # s; a page from SQL is better than a page that waited longer than this for a cache
CONNECTION_WAIT = 1.0  # s for a free one; a command takes 0.0002, but the thread that has it may have to wait for a CPU
FAILURES_TO_OPEN = 2  # in a row: one may be a blip, and ends nobody's session
PROBE_INTERVAL = 0.25  # s between two probes of a dead server; "again within a second" leaves room for three
RUN_ID = re.compile(rb"run_id:(\w{1,16})")  # in INFO: its beginning, which is enough, as each cached page repeats it
IS_REPLICA = re.compile(rb"^role:slave", re.MULTILINE)
IS_CLUSTER = re.compile(rb"^cluster_enabled:1", re.MULTILINE)  # Valkey has no redis_mode
HASH_TAG = re.compile(r"[^{]*\{[^}]+\}")  # what a cluster computes a key's slot from, if a key begins so
ELSEWHERE = {"READONLY", "MOVED", "CLUSTERDOWN", "MASTERDOWN"}  # how such a reply begins
NO_REPLICAS = "NOREPLICAS"  # in the reply of a primary that has lost its replicas, perhaps to a new one
UNKNOWN_RUN_ID = "-"  # of a server that does not tell its run_id


@dataclass(frozen=True)
class Trouble:
    """A known reason why a Redis server can't be used."""

    state: str  # what Redis is or does, as in "is full"
    advice: str
    lasting: bool = True  # until a setting is changed


READ_ONLY = Trouble(
    "is read-only",
    "it is a replica, perhaps since a failover: REDIS_URL must name the primary, or what follows it (docs/scaling.md), "
    "or nobody can log in",
)
UNKNOWN_CLUSTER = Trouble(
    "is a cluster", "the user in REDIS_URL needs +info, which tells Pipit so; or its keys just move", lasting=False
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
    "ReadOnlyError": READ_ONLY,
    "is a replica": READ_ONLY,
    "NOREPLICAS": Trouble(
        "has no replica", "min-replicas-to-write has it refuse writes until one follows it again", lasting=False
    ),
    "OutOfMemoryError": Trouble(
        "is full", "take a larger plan, or set maxmemory-policy to volatile-ttl: nobody can log in", lasting=False
    ),
    "MISCONF": Trouble("can't save", "it refuses writes until its disk works again", lasting=False),
    "ClusterDownError": Trouble(
        "is a cluster that is down", "look at its nodes: redis-cli --cluster check", lasting=False
    ),
    "MovedError": UNKNOWN_CLUSTER,
    "ClusterCrossSlotError": UNKNOWN_CLUSTER,
    "DB index is out of range": Trouble("has no such database", "the number at the end of REDIS_URL is too high"),
    "SELECT is not allowed": Trouble("is a cluster", "a cluster has only one database: REDIS_URL must end in /0"),
    "AuthenticationError": Trouble("refuses the password", "the user or password in REDIS_URL is wrong or missing"),
    "NoPermissionError": Trouble("refuses this user", "the user in REDIS_URL needs +@all ~* &* (docs/deploy.md)"),
    "max number of clients": CLIENTS_USED_UP,
    "BusyLoadingError": Trouble("is loading", "it reads its data after a start; that ends by itself", lasting=False),
    "CERTIFICATE_VERIFY_FAILED": UNVERIFIED,
    "PrimaryUnknownError": Trouble(
        "has no primary",
        "a failover is under way; if it lasts, check hosts, TLS, service and user in REDIS_URL (docs/scaling.md)",
        lasting=False,
    ),
}
HUNG_UP = ("Connection closed by server", "Connection reset by peer", "Broken pipe")
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "Timeout connecting to server")


class CountingPipeline(Pipeline):
    """A pipeline that counts its commands in the current request's statistics."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands and return their results."""
        costs.current().redis += len(self.command_stack)
        return super().execute(raise_on_error)

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command that is not queued, as after WATCH, and return its result."""
        costs.current().redis += 1
        return super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]


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


class ElsewhereError(ConnectionError):
    """The server at the other end is not the primary: a connection that is opened now may find it elsewhere."""


class FollowingConnection(Connection):
    """A connection of the pool's: it goes to where the primary is, each time it is opened."""

    def __init__(self, *, store: "Store", **options: Any) -> None:
        self._store = store
        self._epoch = store.epoch
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def connect(self) -> None:
        """Open the connection if need be; the pool calls this before it hands one out."""
        if self._epoch != self._store.epoch:
            self.disconnect()  # type: ignore[no-untyped-call]
        super().connect()  # type: ignore[no-untyped-call]

    def _connect(self) -> Any:
        """Open the socket: redis-py does so here, whoever asks for a new connection, and whenever."""
        self._epoch = self._store.epoch
        self.host, self.port = self._store.primary.locate()
        return super()._connect()  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Return a reply; a refusal that another server would not have given is a lost connection, and tried again."""
        try:
            return super().read_response(*args, **options)
        except ResponseError as error:
            if not is_elsewhere(error):
                raise
            self._store.distrust_primary()
            self.disconnect()  # type: ignore[no-untyped-call]
            raise ElsewhereError(describe(error)) from error


class FollowingSSLConnection(FollowingConnection, SSLConnection):
    """The same with TLS."""


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
        self.run_id = UNKNOWN_RUN_ID  # the server's, as the newest connection read it
        self.moved_at = -math.inf  # when another run of the server was met, on the monotonic clock
        self._lock = threading.Lock()
        self.epoch = 0  # rises when the primary turns out to be elsewhere: older connections are not used again
        self.primary = RedisPrimary((config.redis.host, config.redis.port))
        if config.redis.sentinels:
            self.primary = SentinelPrimary(config.redis.sentinels, _options(config))
        self._prefix: str | None = None  # not known until a connection has told whether this is a cluster
        self.pool = _connection_pool(self)
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

    @property
    def is_known(self) -> bool:
        """Return whether a connection has told yet what kind of server this is."""
        return self._prefix is not None

    @property
    def prefix(self) -> str:
        """What all keys begin with: REDIS_PREFIX, and on a cluster a hash tag, so that they are in one slot.

        Raises StoreUnavailableError if Redis has never answered yet: a key without the tag would be lost on a cluster.
        """
        if self._prefix is None:
            with self.commands():  # opens a connection, which tells
                pass
        return self._prefix or ""

    def key(self, name: str) -> str:
        """Return the key as it stands in Redis. Raises StoreUnavailableError, as `prefix` says."""
        return self.prefix + name

    def drop_connections(self) -> None:
        """Have every connection that is open now closed instead of used again: the primary is elsewhere."""
        with self._lock:
            self.epoch += 1

    def distrust_primary(self) -> None:
        """Drop all connections, and ask somebody else where the primary is."""
        self.primary.distrust()
        self.drop_connections()

    def meet(self, info: bytes) -> str:
        """Return the run_id of the server that a new connection has reached, given its INFO.

        If it is a node of a cluster, `primary` is another one from now on. Raises ElsewhereError if it is a replica.
        """
        if IS_CLUSTER.search(info) and not isinstance(self.primary, ClusterPrimary):
            address, prefix = self.config.redis, self.config.redis_prefix
            self._prefix = prefix if HASH_TAG.match(prefix) else "{pipit}:" + prefix
            options = _options(self.config) | {"username": address.username, "password": address.password}
            self.primary = ClusterPrimary((address.host, address.port), key_slot(self._prefix.encode()), options)
            return UNKNOWN_RUN_ID  # the caller connects again, to the owner of the keys
        if IS_REPLICA.search(info):
            self.primary.distrust()
            raise ElsewhereError("the server is a replica")
        if self._prefix is None:
            self._prefix = self.config.redis_prefix
        found = RUN_ID.search(info)
        run_id = found[1].decode() if found else UNKNOWN_RUN_ID
        if self.run_id not in (UNKNOWN_RUN_ID, run_id):
            self.moved_at = time.monotonic()
        self.run_id = run_id
        return run_id

    def close(self) -> None:
        """Close all connections."""
        self.pool.disconnect()

    def greet(self, connection: Any) -> None:
        """Open a connection as redis-py does, and look at the server that it has reached. Raises ElsewhereError."""
        primary = self.primary
        connection.on_connect()
        connection.send_command("INFO", "default")
        try:
            info = connection.read_response()
        except ResponseError:  # this user may not run INFO
            info = b""
        connection.server_run_id = self.meet(info)
        if self.primary is not primary:
            raise ElsewhereError("the server is a node of a cluster, and another one may own the keys")


class Commands:
    """What Store.commands() returns; a class, because a generator takes three times as long and this runs often."""

    __slots__ = ("insist", "store")

    def __init__(self, store: Store, *, insist: bool) -> None:
        self.store = store
        self.insist = insist

    def __enter__(self) -> CountingRedis:
        if not self.insist and not self.store.breaker.lets_through():
            raise StoreUnavailableError("the circuit to Redis is open")
        if not self.store.is_known:
            try:
                self.store.pool.release(self.store.pool.get_connection())
            except RedisError as error:
                self.__exit__(None, error, None)
        return self.store.client

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, ConnectionError | TimeoutError):
            self.store.breaker.failed(describe(error))
            raise StoreUnavailableError(describe(error)) from error
        if error is None or isinstance(error, RedisError):  # Redis answered, even if it refused
            self.store.breaker.succeeded()
        if isinstance(error, RedisError):
            if NO_REPLICAS in str(error):  # there may be a primary that has some
                self.store.distrust_primary()
            raise StoreUnavailableError(describe(error)) from error


def glob_escape(text: str) -> str:
    """Return the text as a SCAN pattern that matches it literally."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def is_elsewhere(error: Exception) -> bool:
    """Return whether an error reply says that the server is not the primary, or is not one any more."""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    return code in ELSEWHERE


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


def _options(config: Config) -> dict[str, Any]:
    """Return time-outs and TLS for those who know where the primary is, as redis-py's Redis wants them."""
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": COMMAND_TIMEOUT,
        "protocol": 2,
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "ssl": config.redis.tls,
        **_tls(config),
    }


def _tls(config: Config) -> dict[str, Any]:
    if config.redis.tls and not config.redis_tls_verify:
        return {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return {}


def _connection_pool(store: Store) -> BlockingConnectionPool:
    config, address = store.config, store.config.redis
    return BlockingConnectionPool(
        connection_class=FollowingSSLConnection if address.tls else FollowingConnection,
        store=store,
        host=address.host,  # until the first connection asks
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
        redis_connect_func=store.greet,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **_tls(config),
    )
