"""One bounded connection pool from one URL: TLS, timeouts, retries, and a circuit breaker.

Sessions, cache and rate limiter all speak to Redis through `Store.commands()`. It turns every way in which Redis can
fail into one exception, StoreUnavailableError, so that each caller decides only what that means for a visitor, and it
remembers a server that has stopped answering, so that the next visitors don't wait for the same time-out.
"""

import logging
import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, Full, SimpleQueue
from typing import Any, cast

from flask import Flask, current_app
from redis import (
    BlockingConnectionPool,
    Connection,
    ConnectionError,
    ConnectionPool,
    Redis,
    RedisError,
    ResponseError,
    SSLConnection,
    TimeoutError,
)
from redis.backoff import NoBackoff
from redis.client import Pipeline, PubSub
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from app import costs
from app.config import Config

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 0.4  # s; a TLS handshake within one data centre takes 0.01
COMMAND_TIMEOUT = 0.4  # s; a page from SQL is better than a page that waited longer than this for a cache
FAILURES_TO_OPEN = 2  # in a row: one may be a blip, and ends nobody's session
PROBE_INTERVAL = 0.25  # s between two looks whether Redis is back; "again within a second" leaves room for both
PINGS = 5  # for a median that one slow answer does not move
SCAN_STEP = 500  # keys a SCAN looks at; the server does nothing else meanwhile
SCAN_LIMIT = 100_000  # keys looked at in all: some tenths of a second of round trips
MEASURED_KEYS = 200  # whose memory is asked for
RUN_ID = re.compile(rb"run_id:(\w+)")  # in INFO
UNKNOWN_RUN = "-"  # of a server that does not tell


class IdleConnections:
    """The queue of a pool's connections, in place of redis-py's: on Python's fast queues, which have no size.

    The pool fills it with None, for as many connections as it may make. One is only made while all others are busy.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._made: SimpleQueue[Connection] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()

    def made(self) -> Connection | None:
        """Return a connection that is made and idle, or None."""
        try:
            return self._made.get_nowait()
        except Empty:
            return None

    def get(self, *, block: bool, timeout: float) -> Connection | None:
        """Return a connection, or None for one to be made; wait for it so many seconds. Raises queue.Empty."""
        with suppress(Empty):
            return self.made() or self._room.get_nowait()
        return self._made.get(block, timeout)

    def put_nowait(self, connection: Connection | None) -> None:
        """Put a connection back, or the room for one. Raises queue.Full if there is no more room than there may be."""
        if connection is not None:
            self._made.put(connection)
        elif self._room.qsize() < self._size:
            self._room.put(None)
        else:
            raise Full


class CountingPipeline(Pipeline):
    """A pipeline that adds its commands to the costs of the request at hand."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the commands and return their results."""
        costs.current().redis += len(self.command_stack)
        return super().execute(raise_on_error)


class CountingRedis(Redis):
    """A client that adds its commands to the costs of the request at hand."""

    connection_pool: Any  # with IdleConnections as its queue

    def ask(self, *command: str | bytes | int) -> tuple[Any, str]:
        """Send one command that may be sent twice; return the reply, and the run of the server that gave it.

        A server is one run from its start to its end. What it held before a restart, or what its replica held before
        a failover, may lack what was written last.

        This is the way of nearly every request, so it leaves out what redis-py does besides: metrics, replies parsed
        by command, a look at each connection before its use. Should the server have hung up, a fresh one is tried.
        """
        costs.current().redis += 1
        idle: IdleConnections = self.connection_pool.pool
        connection = idle.made() or self.connection_pool.get_connection()
        try:
            return _reply(connection, command)
        except ConnectionError:
            return _reply(connection, command)
        finally:
            idle.put_nowait(connection)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its result."""
        costs.current().redis += 1
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # as super() hides whose it is

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline that counts too."""
        return CountingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


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
        self.config = config
        self.prefix = config.redis_prefix
        self.run = UNKNOWN_RUN  # of the server, as the newest connection knows it
        self.pool = _connection_pool(config, self._greet)
        self.client = CountingRedis(connection_pool=self.pool)
        self.breaker = CircuitBreaker(self.client.ping)
        self.closed = False
        self.may_listen = config.redis_max_connections > 1  # or there is no connection for it
        self._listeners: list[ConnectionPool] = []

    def commands(self, *, insist: bool = False) -> "Commands":
        """Return a context manager that gives the client, for as long as Redis answers.

        insist: try even while the circuit is open, for what must not be left undone if it can be done at all.

        It raises StoreUnavailableError, at once while the circuit is open, whatever the cause; the cause is chained.
        """
        return Commands(self, insist=insist)

    @contextmanager
    def listener(self) -> Iterator[PubSub]:
        """Give a connection for messages, of its own, beside the pool's; it is closed at the end."""
        pool = ConnectionPool(
            connection_class=self.pool.connection_class, **{**self.pool.connection_kwargs, "max_connections": 1}
        )
        pubsub = Redis(connection_pool=pool).pubsub()
        self._listeners.append(pool)
        try:
            yield pubsub
        finally:
            self._listeners.remove(pool)
            pubsub.close()
            pool.disconnect()

    def key(self, name: str) -> str:
        """Return the key as it stands in Redis, with REDIS_PREFIX in front."""
        return self.prefix + name

    def close(self) -> None:
        """Hang up, for good."""
        self.closed = True
        for pool in (self.pool, *self._listeners):
            pool.disconnect()

    def _greet(self, connection: Any) -> None:
        """Open a connection as redis-py does, and ask which run of the server it leads to."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        try:
            found = RUN_ID.search(connection.read_response())
        except ResponseError:  # this user may not ask
            found = None
        self.run = connection.server_run = found[1].decode() if found else UNKNOWN_RUN


class Commands:
    """What Store.commands() returns; a class, because a generator takes three times as long and this runs often."""

    __slots__ = ("insist", "store")

    def __init__(self, store: Store, *, insist: bool) -> None:
        self.store = store
        self.insist = insist

    def __enter__(self) -> CountingRedis:
        if self.store.breaker.is_open and not self.insist:
            raise StoreUnavailableError("the circuit to Redis is open")
        return self.store.client

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, ConnectionError | TimeoutError):
            self.store.breaker.failed(error)
            raise StoreUnavailableError(describe(error)) from error
        if error is None or isinstance(error, RedisError):  # it answered; with a refusal: full, read-only, not allowed
            self.store.breaker.succeeded()
        if isinstance(error, RedisError):
            raise StoreUnavailableError(describe(error)) from error


@dataclass(frozen=True)
class KeySample:
    """How many keys of a family there are, and what one of them takes."""

    count: int
    complete: bool  # False: the server holds more keys than were looked at
    bytes_each: float | None  # the mean; None if there are none, or from a server older than MEMORY USAGE (4.0)


class ServerStats:
    """What the server says of itself and of a family of keys, for `flask doctor`; an end to one, for `flask cache lab`.

    Every method raises StoreUnavailableError.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def calls(self) -> Counter[str]:
        """Return how often each command was called since the server started, by anyone, in a script or not.

        What a connection says of itself at its start is left out, and INFO, so that asking does not change the answer.
        """
        with self.store.commands() as redis:
            stats = redis.info("commandstats")
        counted = {name.removeprefix("cmdstat_"): int(numbers["calls"]) for name, numbers in stats.items()}
        aside = {"info", "auth", "hello", "select", "client"}
        return Counter({name: calls for name, calls in counted.items() if name.partition("|")[0] not in aside})

    def connections(self) -> int:
        """Return how many clients are connected, this one included."""
        with self.store.commands() as redis:
            return int(redis.info("clients")["connected_clients"])

    def memory(self, prefix: str) -> int | None:
        """Return the bytes that the keys with this prefix take; None from a server older than MEMORY USAGE (4.0)."""
        with self.store.commands() as redis, redis.pipeline(transaction=False) as pipe:
            for key in self._keys(redis, prefix):
                pipe.memory_usage(key)
            sizes = cast(list[int | ResponseError | None], pipe.execute(raise_on_error=False))
        known = [size or 0 for size in sizes if not isinstance(size, Exception)]  # None: the key has expired meanwhile
        return sum(known) if len(known) == len(sizes) else None

    def round_trip(self) -> float:
        """Return the seconds a PING takes on an open connection: the median of PINGS."""
        with self.store.commands() as redis:
            redis.ping()  # opens the connection
            times = []
            for _number in range(PINGS):
                began = time.perf_counter()
                redis.ping()
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    def info(self) -> dict[str, Any]:
        """Return what INFO says; nothing if this user may not ask."""
        with self.store.commands() as redis:
            try:
                return dict(redis.info())
            except ResponseError:
                return {}

    def setting(self, name: str) -> str | None:
        """Return a setting of the server; None if it does not tell, as hosted ones often don't, or has none such."""
        with self.store.commands() as redis:
            try:
                value = cast(dict[str, str], redis.config_get(name)).get(name)
            except ResponseError:
                return None
        return None if value is None else str(value)

    def connection_names(self) -> list[str] | None:
        """Return the name of each connection to the server, "" where it has none; None if this user may not ask."""
        with self.store.commands() as redis:
            try:
                clients = redis.client_list()
            except ResponseError:
                return None
        return [client.get("name", "") for client in clients]

    def clock_lead(self) -> float | None:
        """Return by how many seconds this machine's clock is ahead of the server's; None if it can't be asked.

        The server's answer is taken to be from the middle of the round trip (Cristian's algorithm), of the fastest one.
        """
        seen = []
        with self.store.commands() as redis:
            for _number in range(PINGS):
                began, before = time.perf_counter(), time.time()
                try:
                    seconds, microseconds = redis.time()
                except ResponseError:
                    return None
                took = time.perf_counter() - began
                seen.append((took, before + took / 2 - seconds - microseconds / 1e6))
        return min(seen)[1]

    def sample(self, pattern: str) -> KeySample | None:
        """Count the keys that match, looking at no more than SCAN_LIMIT keys; None if this user may not ask."""
        found: set[bytes] = set()
        cursor = -1
        with self.store.commands() as redis:
            try:
                for _number in range(SCAN_LIMIT // SCAN_STEP):
                    cursor, keys = cast(
                        tuple[int, list[bytes]], redis.scan(max(0, cursor), match=pattern, count=SCAN_STEP)
                    )
                    found.update(keys)
                    if cursor == 0:
                        break
                return KeySample(len(found), cursor == 0, self._bytes_each(redis, list(found)[:MEASURED_KEYS]))
            except ResponseError:
                return None

    @staticmethod
    def _bytes_each(redis: Redis, keys: list[bytes]) -> float | None:
        with redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.memory_usage(key)
            sizes = [size for size in pipe.execute(raise_on_error=False) if isinstance(size, int)]
        return statistics.mean(sizes) if sizes else None

    def delete(self, prefix: str) -> int:
        """Delete the keys with this prefix; return how many there were. Raises ValueError if that meant every key."""
        if not prefix:
            raise ValueError("an empty prefix is every key there is")
        with self.store.commands() as redis:
            return sum(redis.delete(key) for key in self._keys(redis, prefix))

    @staticmethod
    def _keys(redis: Redis, prefix: str) -> list[bytes]:
        found = cast(Iterator[bytes], redis.scan_iter(match=glob_escape(prefix) + "*", count=500))
        return list(set(found))  # SCAN may name a key twice


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


def _reply(connection: Any, command: tuple[str | bytes | int, ...]) -> tuple[Any, str]:
    """Return a command's reply and the server's run; a connection that may hold the rest of a reply is closed."""
    try:
        connection.send_command(*command)
        return connection.read_response(), connection.server_run
    except ResponseError:  # a reply like any other, and read to its end
        raise
    except BaseException:
        connection.disconnect()
        raise


def _connection_pool(config: Config, greet: Callable[[Any], None]) -> BlockingConnectionPool:
    address = config.redis
    tls: dict[str, Any] = {}
    if address.tls and not config.redis_tls_verify:
        tls = {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return BlockingConnectionPool(
        queue_class=IdleConnections,
        connection_class=SSLConnection if address.tls else Connection,
        host=address.host,
        port=address.port,
        username=address.username,
        password=address.password,
        db=address.db,
        max_connections=max(1, config.redis_max_connections - 1),  # one is the listener's
        timeout=COMMAND_TIMEOUT,  # for a free connection
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=COMMAND_TIMEOUT,
        # Heroku hangs up on a connection that was idle for 300 s, and a failover on all of them. One new try on a
        # fresh connection hides that from the visitor; a time-out is not tried again, it has taken long enough.
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        protocol=2,  # Redis To Go's servers are older than HELLO, and nothing here needs RESP3
        driver_info=None,  # no CLIENT SETINFO: two commands less for each new connection
        # Operators see in CLIENT LIST who is connected. It also makes sure that a new connection has read a reply:
        # after a TLS 1.3 handshake the server's session tickets lie on the socket, and redis-py 8.1 with hiredis
        # would take them for a reply left over from another command, and refuse the connection.
        client_name="pipit",
        redis_connect_func=greet,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **tls,
    )
