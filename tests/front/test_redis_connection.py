"""The front's connection to Redis: every reply comes to whoever asked, or nobody's does."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any

import hiredis
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app import redis_client
from app.config import Config, RedisAddress, parse_redis_url
from app.front import redis_connection
from app.front.redis_connection import NAME, LostError, RedisConnection, RedisLink
from app.redis_client import FAILURES_TO_OPEN, UNKNOWN_RUN_ID, Store
from tests import servers
from tests.front.conftest import OLD_SERVER, Run


class Played(asyncio.Protocol):
    """A Redis that the test plays. Each time something comes, `answer` says what is sent back."""

    def __init__(self, answer: Callable[[list[list[bytes]]], bytes]) -> None:
        self.answer = answer
        self.came: list[list[list[bytes]]] = []  # the commands of each read
        self.reader = hiredis.Reader()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        commands: list[list[bytes]] = []
        while (command := self.reader.gets()) is not False:
            commands.append(command)
        self.came.append(commands)
        self.transport.write(self.answer(commands))


class Talk:
    """A connection to a played Redis, and what came of it in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.server: Played
        self.connection: RedisConnection

    def ask(self, *command: str) -> None:
        """Ask, and note the reply with the first argument of the command."""
        self.connection.ask(lambda reply: self.events.append((command[0], reply)), *command)

    def notes(self, push: list[Any]) -> None:
        self.events.append(list(push))

    async def until(self, events: int) -> None:
        """Wait until so much has come."""
        async with asyncio.timeout(servers.PATIENCE):
            while len(self.events) < events:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def talking(answer: Callable[[list[list[bytes]]], bytes]) -> AsyncIterator[Talk]:
    """Connect to a Redis that answers as the test says."""
    talk, loop = Talk(), asyncio.get_running_loop()

    def accept() -> Played:
        talk.server = Played(answer)
        return talk.server

    server = await loop.create_server(accept, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        _, talk.connection = await loop.create_connection(lambda: RedisConnection(talk.notes), "127.0.0.1", port)
        yield talk
    finally:
        talk.connection.close(LostError("the end of the test"))
        await asyncio.sleep(0)
        server.close()


def bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


def push(*parts: bytes) -> bytes:
    return b">%d\r\n" % len(parts) + b"".join(map(bulk, parts))


NEWS = push(b"invalidate", b"page:latest")


def answers(commands: list[list[bytes]]) -> list[bytes]:
    """Return what a Redis says that has "value of <key>" under each key."""
    return [bulk(command[1] if command[0] == b"PING" else b"value of " + command[1]) for command in commands]


def as_it_should(commands: list[list[bytes]]) -> bytes:
    return b"".join(answers(commands))


def replies_of(talk: Talk) -> list[Any]:
    return [event[1] for event in talk.events]


def value_of(key: str) -> tuple[str, bytes]:
    return "GET", f"value of {key}".encode()


# What is asked


def test_the_commands_of_one_turn_are_one_write_that_ends_with_a_ping(run: Run) -> None:
    async def test() -> None:
        async with talking(as_it_should) as talk:
            for key in ("a", "b", "c"):
                talk.ask("GET", key)
            await talk.until(3)
            talk.ask("GET", "d")
            await talk.until(4)
            assert talk.events == [value_of(key) for key in "abcd"]
            first, second = talk.server.came
            assert [command[:2] for command in first[:-1]] == [[b"GET", b"a"], [b"GET", b"b"], [b"GET", b"c"]]
            assert second[:-1] == [[b"GET", b"d"]]
            pings = [commands[-1] for commands in (first, second)]
            assert [ping[0] for ping in pings] == [b"PING", b"PING"]
            assert pings[0][1] != pings[1][1]
            assert talk.connection.written == 2

    run(test)


def test_two_connections_never_expect_the_same_ping(run: Run) -> None:
    async def test() -> None:
        tokens = set()
        for _ in range(3):
            async with talking(as_it_should) as talk:
                talk.ask("GET", "a")
                await talk.until(1)
                tokens.add(talk.server.came[0][-1][1])
        assert len(tokens) == 3

    run(test)


def test_batches_that_are_under_way_together_get_their_own_replies(run: Run) -> None:
    async def test() -> None:
        async with talking(as_it_should) as talk:
            for number in range(200):
                talk.ask("GET", str(number))
                if number % 3 == 0:
                    await asyncio.sleep(0)
            await talk.until(200)
            assert talk.events == [value_of(str(number)) for number in range(200)]

    run(test)


def test_nothing_is_given_out_before_the_ping_has_proven_its_place(run: Run) -> None:
    async def test() -> None:
        held = b""

        def hold_the_last(commands: list[list[bytes]]) -> bytes:
            nonlocal held
            *first, held = answers(commands)
            return b"".join(first) + held[:-1]

        async with talking(hold_the_last) as talk:
            talk.ask("GET", "a")
            talk.ask("GET", "b")
            while not talk.connection._events:
                await asyncio.sleep(0.001)
            assert talk.events == []
            talk.server.transport.write(held[-1:])
            await talk.until(2)
            assert talk.events == [value_of("a"), value_of("b")]

    run(test)


# What comes


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda good: [good[0], *good], "another reply than its own PING's"),  # doubled
        (lambda good: [good[0], good[1], good[1], good[2]], "another reply than its own PING's"),
        (lambda good: [*good, good[-1]], "nobody had asked"),  # the PING's doubled
        (lambda good: [*good, bulk(b"more")], "nobody had asked"),
        (lambda good: [good[2], good[0], good[1]], "too early"),
        (lambda good: [good[0], good[2]], "too early"),  # one is missing
        (lambda good: [good[2]], "too early"),
        (lambda good: [good[0], good[1], bulk(b"another token")], "another reply than its own PING's"),
        (lambda good: [good[0], good[1], bulk(None)], "another reply than its own PING's"),
        (lambda good: [good[0], good[1], b"-ERR no\r\n"], "another reply than its own PING's"),
        (lambda good: [good[0], b"?what\r\n", good[1], good[2]], "Protocol error"),
    ],
)
def test_a_wrong_count_closes_the_connection_and_gives_nothing_to_anybody(
    run: Run, caplog: pytest.LogCaptureFixture, spoil: Callable[[list[bytes]], list[bytes]], cause: str
) -> None:
    async def test() -> None:
        async with talking(lambda commands: b"".join(spoil(answers(commands)))) as talk:
            talk.ask("GET", "a")
            talk.ask("GET", "b")
            assert str(await asyncio.wait_for(talk.connection.lost, servers.PATIENCE)) == "out of step"
            assert not talk.connection.usable
            # A reply too many that comes after the PING can only be seen then: those before it were in order.
            kept = cause == "nobody had asked"
            assert talk.events == [value_of("a"), value_of("b")] or not kept
            assert all(isinstance(reply, LostError) for reply in replies_of(talk)) or kept
            assert len(talk.events) == 2

    run(test)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert cause in errors[0]
    assert "value of" not in caplog.text


def test_a_reply_too_many_reaches_nobody_who_asks_later(run: Run) -> None:
    async def test() -> None:
        pings = 0

        def answer(commands: list[list[bytes]]) -> bytes:
            nonlocal pings
            said = b""
            for command, reply in zip(commands, answers(commands), strict=True):
                said += reply
                pings += command[0] == b"PING"
                said += bulk(b"another's") if command[0] == b"PING" and pings == 1 else b""
            return said

        async with talking(answer) as talk:
            talk.ask("GET", "a")
            await asyncio.sleep(0)
            talk.ask("GET", "b")  # written before the answer to the first is read
            await talk.until(2)
            assert talk.events[0] == value_of("a")
            assert isinstance(talk.events[1][1], LostError)

    run(test)


def test_nothing_is_read_any_more_from_a_connection_that_is_out_of_step(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with talking(as_it_should) as talk:
            talk.ask("GET", "a")
            await talk.until(1)
            talk.server.transport.write(bulk(b"one") + NEWS + bulk(b"two"))
            await asyncio.wait_for(asyncio.shield(talk.connection.lost), servers.PATIENCE)
            assert talk.events == [value_of("a")]

    run(test)
    assert caplog.text.count("out of step") == 1
    caplog.clear()


def test_a_missing_reply_reaches_nobody_who_asks_later(run: Run) -> None:
    async def test() -> None:
        def answer(commands: list[list[bytes]]) -> bytes:
            return b"".join(answers(commands)[1:] if commands[0][1] == b"a" else answers(commands))

        async with talking(answer) as talk:
            for key in ("a", "b", "c"):
                talk.ask("GET", key)
                await asyncio.sleep(0)
            await talk.until(3)
            assert all(isinstance(reply, LostError) for reply in replies_of(talk))

    run(test)


def test_nothing_and_an_error_in_place_concern_nobody_else(run: Run) -> None:
    async def test() -> None:
        def answer(commands: list[list[bytes]]) -> bytes:
            good = answers(commands)
            return b"".join([good[0], bulk(None), b"-WRONGTYPE no\r\n", b"_\r\n", *good[4:]])

        async with talking(answer) as talk:
            for key in "abcde":
                talk.ask("GET", key)
            await talk.until(5)
            replies = replies_of(talk)
            assert (replies[0], replies[1], replies[3], replies[4]) == (b"value of a", None, None, b"value of e")
            assert isinstance(replies[2], hiredis.ReplyError)
            assert talk.connection.usable

    run(test)


@pytest.mark.parametrize("cut", [1, 8, -1])
def test_a_reply_that_is_cut_off_is_given_to_nobody(run: Run, cut: int) -> None:
    async def test() -> None:
        async with talking(lambda _commands: b"") as talk:
            talk.ask("GET", "a")
            while not getattr(talk, "server", None) or not talk.server.came:
                await asyncio.sleep(0.001)
            talk.server.transport.write(as_it_should(talk.server.came[0])[:cut])
            talk.server.transport.close()
            assert str(await asyncio.wait_for(talk.connection.lost, servers.PATIENCE)) == "the server hung up"
            (reply,) = replies_of(talk)
            assert isinstance(reply, LostError)

    run(test)


def test_replies_and_pushes_cut_anywhere_come_as_when_they_come_in_one_piece(run: Run) -> None:
    async def test() -> None:
        whole: list[Any] = []
        for cut in range(200):
            async with talking(lambda _commands: b"") as talk:
                talk.ask("GET", "a")
                talk.ask("GET", "b")
                while not getattr(talk, "server", None) or not talk.server.came:
                    await asyncio.sleep(0)
                good = answers(talk.server.came[0])
                data = NEWS + good[0] + NEWS + b"".join(good[1:]) + NEWS
                if cut > len(data):
                    break
                talk.connection.data_received(data[:cut])
                talk.connection.data_received(data[cut:])
                whole = whole or talk.events
                assert talk.events == whole
        assert whole.count(["invalidate"]) == 0
        assert len(whole) == 6

    run(test)


# Pushes among replies


def test_news_that_comes_between_a_reply_and_its_release_has_the_last_word(run: Run) -> None:
    news = [b"invalidate", b"page:latest"]

    async def test() -> None:
        async with talking(lambda commands: NEWS.join([b"", *answers(commands), b""])) as talk:
            talk.ask("GET", "a")
            talk.ask("GET", "b")
            await talk.until(8)
            # As soon as it is read; and once more after the reply that it followed, with which it may have crossed.
            assert talk.events == [news, news, news, value_of("a"), news, value_of("b"), news, news]

    run(test)


def test_news_comes_through_while_nobody_waits_for_anything(run: Run) -> None:
    async def test() -> None:
        async with talking(as_it_should) as talk:
            talk.ask("GET", "a")
            await talk.until(1)
            talk.server.transport.write(NEWS + NEWS)
            await talk.until(3)
            assert talk.events[1:] == [[b"invalidate", b"page:latest"]] * 2
            assert talk.connection.usable

    run(test)


# Ends


def test_a_connection_on_which_no_answer_comes_in_time_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_connection, "COMMAND_TIMEOUT", 0.05)

    async def test() -> None:
        async with talking(lambda commands: as_it_should(commands) if commands[0][1] == b"a" else b"") as talk:
            talk.ask("GET", "a")
            await talk.until(1)
            await asyncio.sleep(0.1)
            assert talk.connection.usable  # nobody waits
            asked = asyncio.get_running_loop().time()
            talk.ask("GET", "b")
            await asyncio.sleep(0)
            talk.ask("GET", "c")
            await talk.until(3)
            waited = asyncio.get_running_loop().time() - asked
            assert waited > 0.049  # uvloop counts milliseconds, and floats are rounded
            assert all(isinstance(reply, LostError) for reply in replies_of(talk)[1:])
            assert str(talk.connection.lost.result()) == "no answer within 0.05 s"

    run(test)


def test_whoever_does_not_wait_any_longer_leaves_their_place_in_the_queue(run: Run) -> None:
    async def test() -> None:
        async with talking(as_it_should) as talk:
            futures: list[asyncio.Future[Any]] = [asyncio.get_running_loop().create_future() for _ in range(3)]
            for key, future in zip("abc", futures, strict=True):
                talk.connection.ask(future.set_result, "GET", key)
            futures[1].cancel()
            assert await asyncio.wait_for(futures[2], servers.PATIENCE) == b"value of c"
            assert futures[0].result() == b"value of a"
            gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            talk.connection.ask(gone.set_result, "GET", "d")
            talk.ask("GET", "e")
            gone.cancel()
            talk.connection.close(LostError("the test says so"))
            assert isinstance(talk.events[0][1], LostError)

    run(test)


def test_a_connection_made_before_a_fork_refuses_to_be_used_after_it(run: Run) -> None:
    """Or one visitor's reply would go to another: both processes would read from the same connection."""

    async def test() -> None:
        async with talking(as_it_should) as talk:
            child = os.fork()
            if child == 0:
                try:
                    talk.ask("GET", "a")
                except RuntimeError as error:
                    os._exit(0 if "before the fork" in str(error) else 2)
                finally:
                    os._exit(1)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            talk.ask("GET", "b")
            await talk.until(1)
            assert replies_of(talk) == [b"value of b"]

    run(test)


def test_whoever_asks_on_a_closed_connection_is_told_at_once(run: Run) -> None:
    async def test() -> None:
        async with talking(as_it_should) as talk:
            talk.ask("GET", "a")
            talk.connection.close(LostError("the test says so"))  # in the same turn: nothing is written
            talk.ask("GET", "b")
            assert [str(reply) for reply in replies_of(talk)] == ["the test says so"] * 2
            await asyncio.sleep(0.01)
            assert talk.connection.written == 0

    run(test)


# The real server


class Link:
    """A link to a real server, kept open as the front does it."""

    def __init__(self, store: Store) -> None:
        self.pushes: list[list[Any]] = []
        self.losses = 0
        self.tries = 0
        self.store = store
        self.link = RedisLink(store, self.pushes.append, self._lost)

    def _lost(self) -> None:
        self.losses += 1

    async def keep(self) -> None:
        while True:
            self.tries += 1
            await self.link.keep_open()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(servers.PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)

    async def opened(self) -> RedisConnection:
        await self.until(lambda: bool(self.link.connection and self.link.connection.usable))
        assert self.link.connection
        return self.link.connection

    async def ask(self, *command: str | bytes | int) -> Any:
        """Return the reply."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        (await self.opened()).ask(future.set_result, *command)
        return await asyncio.wait_for(future, servers.PATIENCE)

    async def told(self) -> dict[str, str]:
        """Return what the server says of this connection."""
        info = bytes(await self.ask("CLIENT", "INFO")).decode()
        return dict(field.split("=", 1) for field in info.split())


@pytest.fixture
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try to reach a lost server again a few milliseconds later."""
    for module in (redis_connection, redis_client):
        monkeypatch.setattr(module, "PROBE_INTERVAL", 0.01)
    monkeypatch.setattr(redis_connection, "OPEN_TIMEOUT", 0.3)


@asynccontextmanager
async def linked(url: str, **settings: Any) -> AsyncIterator[Link]:
    store = Store(replace(Config(parse_redis_url(url), "", ""), **settings))
    link = Link(store)
    task = asyncio.create_task(link.keep())
    try:
        yield link
    finally:
        task.cancel()
        link.link.close()
        with suppress(asyncio.CancelledError):
            await task
        store.close()


def test_the_real_server_gives_everyone_their_own(
    run: Run, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One turn of a loop in debug mode, with so many tasks under coverage, may take longer than a command may.
    monkeypatch.setattr(redis_connection, "COMMAND_TIMEOUT", servers.PATIENCE)
    redis.mset({f"key:{number}": f"value {number}" for number in range(200)})
    redis.lpush("a list", "x")

    async def test() -> None:
        async with linked(redis_url) as link:

            async def look(number: int) -> None:
                for _ in range(3):
                    assert await link.ask("GET", f"key:{number}") == f"value {number}".encode()
                    assert await link.ask("GET", f"nothing:{number}") is None
                    assert isinstance(await link.ask("GET", "a list"), hiredis.ReplyError)
                    await asyncio.sleep(0)

            await asyncio.gather(*(look(number) for number in range(200)))
            assert link.losses == 0

    run(test)


def test_the_real_server_says_what_has_changed(run: Run, redis: Redis, redis_url: str) -> None:
    async def test() -> None:
        async with linked(redis_url) as link:
            assert link.link.run_id == UNKNOWN_RUN_ID
            await link.ask("ECHO", "first")
            assert link.link.connection is not None
            link.link.connection.track_next()
            await link.ask("MGET", "one", "two")
            assert link.link.tracks
            assert link.link.run_id == redis.info("server")["run_id"][:16]
            for key in ("one", "three", "two"):
                redis.set(key, "changed")
            assert await link.ask("GET", "one") == b"changed"
            assert link.pushes == [[b"invalidate", [b"one"]], [b"invalidate", [b"two"]]]
            redis.flushall()
            await link.ask("ECHO", "later")
            assert link.pushes[-1] == [b"invalidate", None]

    run(test)


@contextmanager
def locked(port: int, password: str = "s3cret") -> Iterator[Redis]:
    """Have a server ask for a password meanwhile; give a client that is in already."""
    with Redis(port=port, protocol=2) as admin:
        admin.config_set("requirepass", password)
        yield admin
        admin.config_set("requirepass", "")


def test_it_opens_with_the_password_the_user_and_the_database_of_the_url(run: Run) -> None:
    with servers.valkey() as server, locked(server.port) as admin:
        admin.acl_setuser("ada", enabled=True, passwords=["+p@ss w%rd"], keys=["*"], commands=["+@all"])

        async def test() -> None:
            for credentials, user in (
                (":s3cret", "default"),
                ("redistogo:s3cret", "default"),
                ("ada:p%40ss%20w%25rd", "ada"),
            ):
                async with linked(f"redis://{credentials}@127.0.0.1:{server.port}/3") as link:
                    told = await link.told()
                    assert (told["name"], told["user"], told["db"], told["resp"]) == (NAME, user, "3", "3")
                    assert "t" in told["flags"]  # it is told of changes
                    assert link.link.tracks

        run(test)


@pytest.mark.usefixtures("quick_probes")
@pytest.mark.parametrize(
    "url", ["redis://:wr0ng@{}/0", "redis://nobody:wr0ng@{}/0", "redis://{}/0", "redis://:s3cret@{}/99"]
)
def test_what_the_server_refuses_is_logged_once_without_a_password(
    run: Run, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    with servers.valkey() as server, locked(server.port):

        async def test() -> None:
            async with linked(url.format(f"127.0.0.1:{server.port}")) as link:
                await link.until(lambda: link.tries > FAILURES_TO_OPEN + 1)
                assert link.link.connection is None
                assert not link.store.breaker.is_open

        run(test)
    assert caplog.text.count("Redis refuses the front's connection") == 1
    assert "wr0ng" not in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.usefixtures("quick_probes")
def test_a_server_that_has_become_a_replica_is_left_and_used_again_as_a_primary(run: Run) -> None:
    with servers.valkey() as server, Redis(port=server.port) as admin:

        async def test() -> None:
            async with linked(f"redis://127.0.0.1:{server.port}/0") as link:
                first = await link.opened()
                admin.replicaof("127.0.0.1", "1")
                assert isinstance(await link.ask("SET", "a", "1"), LostError)
                assert not first.usable
                tries = link.tries
                await link.until(lambda: link.tries > tries + 2)
                assert link.link.connection is None
                admin.replicaof("NO", "ONE")
                assert await link.ask("SET", "a", "1") == b"OK"

        run(test)


def test_a_connection_is_given_up_when_others_have_found_the_primary_elsewhere(run: Run, redis_url: str) -> None:
    async def test() -> None:
        async with linked(redis_url) as link:
            first = await link.opened()
            link.store.drop_connections()
            await asyncio.wait_for(asyncio.shield(first.lost), servers.PATIENCE)
            assert await link.opened() is not first

    run(test)


@pytest.mark.usefixtures("quick_probes")
def test_a_server_that_refuses_the_front_is_still_there_for_the_threads(run: Run, redis_url: str) -> None:
    """As when all connections of a plan are taken: those that the pool has open go on working."""
    with servers.valkey() as server, Redis(port=server.port) as admin:

        async def test() -> None:
            async with linked(f"redis://127.0.0.1:{server.port}/0") as link:
                store = link.store
                first = await link.opened()
                with store.commands() as client:
                    client.ping()
                admin.config_set("maxclients", 2)
                first.close(LostError("the test says so"))
                for tries in range(FAILURES_TO_OPEN + 2, 10):
                    await link.until(lambda: link.tries > tries)  # noqa: B023  # called in this very round
                    with store.commands() as client:
                        client.ping()
                assert link.link.connection is None
                admin.config_set("maxclients", 100)
                await link.opened()

        run(test)


@pytest.mark.parametrize("password", ["", "s3cret"])
def test_a_server_older_than_resp3_is_spoken_to_as_it_understands(run: Run, password: str) -> None:
    with servers.valkey(**OLD_SERVER) as server, locked(server.port, password) as admin:

        async def test() -> None:
            async with linked(f"redis://redistogo:{password}@127.0.0.1:{server.port}/3") as link:
                told = await link.told()
                assert (told["db"], told["resp"]) == ("3", "2")
                assert not link.link.tracks
                assert link.link.run_id == admin.info("server")["run_id"][:16]
                await link.ask("SET", "a", "1")
                assert await link.ask("GET", "a") == b"1"
                assert await link.ask("GET", "b") is None
                assert await link.ask("MGET", "a", "b") == [b"1", None]

        run(test)


@pytest.mark.parametrize(
    ("forbidden", "tracks", "knows_run"), [("client|tracking", False, True), ("info", True, False)]
)
def test_what_a_user_may_not_ask_is_done_without(
    run: Run, redis: Redis, redis_url: str, forbidden: str, tracks: bool, knows_run: bool
) -> None:
    redis.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], commands=["+@all", f"-{forbidden}"])

    async def test() -> None:
        async with linked(redis_url.replace("redis://", "redis://mute:any@")) as link:
            assert await link.ask("ECHO", "hello") == b"hello"
            assert link.link.tracks == tracks
            assert (link.link.run_id != UNKNOWN_RUN_ID) == knows_run

    try:
        run(test)
    finally:
        redis.acl_deluser("mute")


@pytest.mark.usefixtures("quick_probes")
def test_a_connection_that_is_lost_is_replaced_and_the_loss_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    port = servers.free_port()

    async def test() -> None:
        with servers.valkey(port):
            async with linked(f"redis://127.0.0.1:{port}/0") as link:
                first = await link.opened()
                before = link.link.run_id
                with Redis(port=port) as admin:
                    admin.client_kill_filter(_type="normal", skipme=True)
                await asyncio.wait_for(first.lost, servers.PATIENCE)
                assert await link.opened() is not first
                assert link.losses == 1
                assert not link.store.breaker.is_open  # servers close idle connections
                with Redis(port=port, retry=Retry(NoBackoff(), 0)) as admin, suppress(Exception):
                    admin.shutdown(nosave=True)
                await link.until(lambda: link.store.breaker.is_open)
                with servers.valkey(port):
                    assert await link.ask("ECHO", "hello") == b"hello"
                    assert not link.store.breaker.is_open
                    assert link.link.run_id != before

    run(test)
    assert caplog.text.count("Redis does not answer") == caplog.text.count("Redis answers again") == 1


def test_a_link_ends_at_whichever_instant_it_is_cancelled(run: Run) -> None:
    """The front cancels it to stop. In Python 3.11 `asyncio.wait_for` may swallow that."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        refusing = Played(lambda commands: b"-ERR max number of clients reached\r\n" * len(commands))
        server = await loop.create_server(lambda: refusing, "127.0.0.1", 0)
        store = Store(Config(parse_redis_url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"), "", ""))
        for turns in range(60):
            link = Link(store)
            task = asyncio.create_task(link.keep())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=5)
            assert task.cancelled(), f"cancelled after {turns} turns of the loop"
        store.close()
        server.close()

    run(test)


@pytest.mark.usefixtures("quick_probes")
def test_a_server_that_accepts_and_says_nothing_opens_the_circuit(run: Run) -> None:
    async def test() -> None:
        kept: list[asyncio.StreamWriter] = []  # one that nobody holds closes its connection
        silent = await asyncio.start_server(lambda _reader, writer: kept.append(writer), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        async with linked(f"redis://127.0.0.1:{port}/0") as link:
            await link.until(lambda: link.store.breaker.is_open)
        for writer in kept:
            writer.close()
        silent.close()

    run(test)


def test_it_speaks_tls_as_hosted_servers_do(run: Run, tls_terminator: int, redis: Redis) -> None:
    address = RedisAddress("rediss", "127.0.0.1", tls_terminator, None, None, 0)

    async def test() -> None:
        async with linked("redis://127.0.0.1/0", redis=address, redis_tls_verify=False) as link:
            assert await link.ask("ECHO", "hello") == b"hello"
            assert link.link.tracks
        async with linked("redis://127.0.0.1/0", redis=address, redis_tls_verify=True) as link:
            await link.until(lambda: link.store.breaker.is_open)  # its certificate signs itself
            assert link.link.connection is None

    run(test)
