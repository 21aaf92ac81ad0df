"""One RESP3 connection to Redis, on which an event loop multiplexes the commands of all its requests.

The commands of one turn of the loop are written together as a batch, and their replies arrive in the same order. If
that order were ever lost (a proxy that repeats a reply, a bug), one visitor would get another's session. So every batch
ends with `PING <token>`, and its replies are released only when that token arrives after exactly the expected number of
replies. Otherwise the connection is closed, and each request of the batch goes on without a reply. A connection that
timed out is closed too, and never used again: reusing one is how redis-py once mixed up replies (CVE-2023-28858).

Threads use redis-py's pool instead (app/redis_client.py). The connection belongs to one process, which opens it after
the fork.
"""

import asyncio
import logging
import os
import secrets
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hiredis
from redis import RedisError

from app.config import Config
from app.redis_client import (
    COMMAND_TIMEOUT,
    CONNECT_TIMEOUT,
    NO_REPLICAS,
    PROBE_INTERVAL,
    UNKNOWN_RUN_ID,
    Store,
    describe,
    is_elsewhere,
)

log = logging.getLogger(__name__)

WATCH_INTERVAL = 0.5  # s between two looks whether the primary has moved while a connection to it still works
OPEN_TIMEOUT = 3 * CONNECT_TIMEOUT  # s: a handshake of TCP, one of TLS, a greeting
NAME = "pipit-front"  # in CLIENT LIST
NOT_ENOUGH = object()  # what the parser returns when the next reply is not complete

Callback = Callable[[Any], None]  # gets a reply; an exception where there is none


class LostError(Exception):
    """The connection was lost before the reply came."""


class MovedAwayError(LostError):
    """The server is not the primary any more."""


class TimedOutError(LostError):
    """A reply took too long, so the connection was closed."""


class OutOfStepError(Exception):
    """The replies don't match the commands."""


@dataclass(slots=True)
class Batch:
    """Commands that were written together."""

    callbacks: list[Callback]
    token: bytes | None  # of the PING that proves their count; None while the connection is being opened
    written_at: float


class RedisConnection(asyncio.Protocol):
    """One connection, from its opening to its loss.

    on_push: called with each push message, as soon as it is read. If a push arrives between a command's reply and that
        reply's release, on_push is called again right after the reply, so that the invalidation wins.
    """

    def __init__(self, on_push: Callable[[list[Any]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_push = on_push
        self._reader = hiredis.Reader(notEnoughData=NOT_ENOUGH)
        self._transport: Any = None
        self._commands: list[bytes] = []  # to be written at the end of this turn of the loop
        self._callbacks: list[Callback] = []  # of these commands
        self._batches: deque[Batch] = deque()  # written, oldest first
        self._events: list[Any] = []  # of the oldest batch: its replies so far, and pushes in between
        self._replies = 0  # among the events
        self._salt = secrets.token_hex(8).encode()
        self._deadline: asyncio.TimerHandle | None = None
        self.written = 0  # batches
        self.lost: asyncio.Future[LostError] = self._loop.create_future()
        self._process = os.getpid()

    @property
    def usable(self) -> bool:
        """Return whether commands can be sent, and what was read on the connection can be trusted."""
        return not self.lost.done() and not self._transport.is_closing()

    def ask(self, callback: Callback, *command: str | bytes | int) -> None:
        """Send a command at the end of this turn; `callback` gets the reply, or an exception, once.

        Raises RuntimeError in a process other than the one that opened it: either might read the reply.
        """
        if os.getpid() != self._process:
            raise RuntimeError("the front's connection to Redis was made before the fork")
        if self.lost.done():
            _give(callback, self.lost.result())
            return
        if not self._commands:
            self._loop.call_soon(self._write)
        self._commands.append(packed(*command))
        self._callbacks.append(callback)

    def track_next(self) -> None:
        """Have Redis remember the keys of the next command, and push a message when one of them changes."""
        self.ask(_ignore, "CLIENT", "CACHING", "YES")

    async def greet(self, *commands: tuple[str | int, ...]) -> list[Any]:
        """Send the commands that open a connection, without a PING: some servers refuse one before AUTH.

        Returns the replies; errors are among them. Raises LostError.
        """
        replies: asyncio.Future[list[Any]] = self._loop.create_future()
        came: list[Any] = []

        def take(reply: Any) -> None:
            came.append(reply)
            if isinstance(reply, LostError) and not replies.done():
                replies.set_exception(reply)
            elif len(came) == len(commands) and not replies.done():
                replies.set_result(came)

        batch = Batch([take] * len(commands), None, self._loop.time())
        self._send(b"".join(packed(*command) for command in commands), batch)
        return await replies

    def close(self, cause: LostError) -> None:
        """Close the connection, and give the cause to every callback that waits for a reply."""
        if self.lost.done():
            return
        self.lost.set_result(cause)
        if self._transport is not None:
            self._transport.abort()
        if self._deadline:
            self._deadline.cancel()
        waiting = [callback for batch in self._batches for callback in batch.callbacks] + self._callbacks
        self._batches.clear()
        self._events, self._commands, self._callbacks = [], [], []
        for callback in waiting:
            _give(callback, cause)

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Note the loss."""
        self.close(LostError(f"connection lost: {type(error).__name__}" if error else "the server hung up"))

    def data_received(self, data: bytes) -> None:
        """Read replies and push messages."""
        self._reader.feed(data)
        try:
            while not self.lost.done() and (reply := self._reader.gets()) is not NOT_ENOUGH:
                if isinstance(reply, hiredis.PushNotification):
                    self._on_push(reply)
                    if self._events:
                        self._events.append(reply)
                else:
                    self._take(reply)
        except (OutOfStepError, hiredis.ProtocolError) as error:
            log.error("the connection to Redis is out of step (%s): closed, nothing it sent is used", error)  # noqa: TRY400  # the message says it all
            self.close(LostError("out of step"))

    # Details

    def _write(self) -> None:
        """Write the commands of this turn."""
        if not self._commands:  # the connection was lost meanwhile
            return
        self.written += 1
        token = b"%s-%d" % (self._salt, self.written)
        commands, callbacks = self._commands, self._callbacks
        self._commands, self._callbacks = [], []
        commands.append(packed("PING", token))
        self._send(b"".join(commands), Batch(callbacks, token, self._loop.time()))

    def _send(self, data: bytes, batch: Batch) -> None:
        self._batches.append(batch)
        if self._deadline is None:
            self._deadline = self._loop.call_later(COMMAND_TIMEOUT, self._check_deadline)
        self._transport.write(data)

    def _take(self, reply: Any) -> None:
        """Keep a reply until its batch is complete. Raises OutOfStepError."""
        if not self._batches:
            raise OutOfStepError("a reply came that nobody had asked for")
        if isinstance(reply, hiredis.ReplyError) and (is_elsewhere(reply) or NO_REPLICAS in str(reply)):
            self.close(MovedAwayError(f"{str(reply).partition(' ')[0]}: the server is not the primary any more"))
            return
        batch = self._batches[0]
        self._events.append(reply)
        self._replies += 1
        if self._replies < len(batch.callbacks) + (batch.token is not None):
            if batch.token is not None and reply == batch.token:
                raise OutOfStepError("a batch's PING was answered too early")
            return
        if batch.token is not None and not self._proves(reply, batch.token):
            raise OutOfStepError("a batch ended with another reply than its own PING's")
        self._release(batch)

    @staticmethod
    def _proves(reply: Any, token: bytes) -> bool:
        """Return whether the last reply of a batch shows that none is missing and none too many."""
        return bool(reply == token)

    def _release(self, batch: Batch) -> None:
        """Pass the replies to their callbacks, in order with the pushes."""
        self._batches.popleft()
        events, self._events, self._replies = self._events, [], 0
        callbacks = iter(batch.callbacks)
        for event in events:
            if isinstance(event, hiredis.PushNotification):
                self._on_push(event)
            elif callback := next(callbacks, None):
                _give(callback, event)

    def _check_deadline(self) -> None:
        """Close the connection if the oldest batch has waited too long."""
        self._deadline = None
        if not self._batches:
            return
        left = self._batches[0].written_at + COMMAND_TIMEOUT - self._loop.time()
        if left <= 0:
            self.close(TimedOutError(f"no answer within {COMMAND_TIMEOUT} s"))
        else:
            self._deadline = self._loop.call_later(left, self._check_deadline)


class RedisLink:
    """Keeps one RedisConnection open while the front runs, and reports failures to the circuit breaker.

    on_push, on_lost: called with each push message, and when a connection is lost.
    """

    def __init__(self, store: Store, on_push: Callable[[list[Any]], None], on_lost: Callable[[], None]) -> None:
        self._store = store
        self._on_push = on_push
        self._on_lost = on_lost
        self.connection: RedisConnection | None = None
        self.run_id = UNKNOWN_RUN_ID  # of the server
        self.tracks = False  # whether the server pushes invalidations
        self._refused = False  # so that it is logged once
        self._place = store.config.redis.host, store.config.redis.port  # of the newest connection
        self._epoch = store.epoch  # when it was opened
        self._tls = _tls_context(store.config) if store.config.redis.tls else None

    async def keep_open(self) -> None:
        """Open a connection, and return when it is lost and may be opened again."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):  # wait_for may swallow a cancellation, in Python 3.11
                self.connection = await self._open()
        except (OSError, TimeoutError, TimedOutError, RedisError) as error:
            self._store.breaker.failed(f"{type(error).__name__}: {error}")
        except LostError as error:  # refused: too many clients, a wrong password. The pool's connections may still work
            if not self._refused:
                self._refused = True
                log.warning("Redis refuses the front's connection (%s): every page is served by Flask", error)
        else:
            self._refused = False
            self._store.breaker.succeeded()
            cause = await self._watch(self.connection)
            self.connection = None
            self._on_lost()
            if isinstance(cause, MovedAwayError):
                self._store.distrust_primary()
            if isinstance(cause, TimedOutError):
                self._store.breaker.failed(str(cause))
        await asyncio.sleep(PROBE_INTERVAL)

    def close(self) -> None:
        """Close the connection."""
        if self.connection:
            self.connection.close(LostError("the front stops"))

    async def _watch(self, connection: RedisConnection) -> LostError:
        """Return why the connection is lost; close it when others have found that the primary is elsewhere."""
        while True:
            await asyncio.wait([connection.lost], timeout=WATCH_INTERVAL)
            if connection.lost.done():
                return connection.lost.result()
            if self._store.epoch != self._epoch:
                connection.close(LostError("the primary was found to be elsewhere"))
            elif await asyncio.to_thread(self._store.primary.has_moved, self._place):
                self._store.drop_connections()
                connection.close(LostError("another server is the primary now"))

    async def _open(self) -> RedisConnection:
        """Return a new connection to the primary, authenticated and tracking where the server can.

        Raises OSError, RedisError or LostError.
        """
        self._epoch, primary = self._store.epoch, self._store.primary
        self._place = await asyncio.to_thread(primary.locate)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: RedisConnection(self._on_push), *self._place, ssl=self._tls
        )
        try:
            await self._greet(connection)
        except BaseException:
            connection.close(LostError("not opened"))
            raise
        if self._store.primary is not primary:  # the greeting has found a cluster, and so whom to ask
            connection.close(LostError("a node of a cluster"))
            return await self._open()
        return connection

    async def _greet(self, connection: RedisConnection) -> None:
        address = self._store.config.redis
        user, password = address.username or "default", address.password or ""
        auth = ("AUTH", user, password) if address.username or password else ()
        select = ("SELECT", address.db) if address.db else ("PING",)
        server = ("INFO", "default")
        hello, selected, info, tracking = await connection.greet(
            ("HELLO", 3, *auth, "SETNAME", NAME), select, server, ("CLIENT", "TRACKING", "ON", "OPTIN")
        )
        if isinstance(hello, Exception):  # a server older than Redis 6: RESP2, no news of changes, no name needed
            if password:
                await connection.greet(("AUTH", password))
            selected, info = await connection.greet(select, server)
        if isinstance(selected, Exception):  # a wrong password, no such database: the pool reports the details
            raise LostError(str(selected)[:200])
        try:
            self.run_id = self._store.meet(info if isinstance(info, bytes) else b"")  # or this user may not run INFO
        except RedisError as error:
            raise LostError(describe(error)) from error
        self.tracks = not isinstance(hello, Exception) and not isinstance(tracking, Exception)


def _tls_context(config: Config) -> ssl.SSLContext:
    """Return the TLS settings. Made once: reading the system's certificates takes 20 ms."""
    context = ssl.create_default_context()
    if not config.redis_tls_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _ignore(_reply: Any) -> None:
    """Ignore a reply."""


def _give(callback: Callback, reply: Any) -> None:
    try:
        callback(reply)
    except asyncio.InvalidStateError:  # the waiting task was cancelled
        log.debug("nobody waits for this reply any more")
    except Exception:  # a bug; the others of the batch must get their replies all the same
        log.exception("a reply from Redis could not be used")


def packed(*command: str | bytes | int) -> bytes:
    """Return a command in the Redis protocol."""
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]  # declared as a tuple of one
