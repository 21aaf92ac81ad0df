"""What a page costs, in counts that are the same on every machine: statements, commands, round trips, bytes.

The times are measured by bench/, which needs a machine of its own; docs/performance.md tells what for.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from redis import Connection, Redis

from app.daily_counts import DAYS, last_days
from app.extensions import db
from app.front.local_cache import COPY_LIFETIME
from app.front.redis_connection import Batch, RedisConnection
from app.models import Follow, Post, User
from app.web.post_html import PostHTML
from bench import growth
from bench.costs import visited
from bench.findings import RATES
from bench.wire import Client
from tests import servers
from tests.conftest import Log, Visitor
from tests.counting import commands_sent, statements_run
from tests.serving import FrontServer

FIRST_VISIT = 30_000  # bytes over the wire, for all it takes to show /
FIRST_VISIT_REQUESTS = 4  # the page, its style, its script, its icon
REPEAT_VISIT = 1_000  # bytes

PAGES = {  # and the statements that building each takes on a small site, with the HTML of the posts in its list known
    "anonymous": {
        "/": 2,  # what is pinned, and the latest
        "/@bob": 2,
        "/@bob/replies": 2,
        "/@bob/1": 4,  # the post, whom it mentions, the replies, who likes it
        "/tags/tea": 1,
        "/@bob/followers": 2,
        "/@bob/following": 2,
        "/@bob/1/likes": 3,
        "/feed.atom": 3,
        "/@bob/feed.atom": 4,
        "/tags/tea/feed.atom": 3,
        "/people": 1,
        "/tags": 1,
        "/rules": 1,
        "/search?q=tea": 2,  # posts, people
        "/search?q=tea+from:bob": 2,  # who that is, his posts
    },
    # Three more than for a stranger count the notifications, find what the viewer likes, and whom they don't see; they
    # are run again only when that has changed. On a short /home another one looks for people to follow.
    "signed in": {
        "/": 5,
        "/@bob": 6,
        "/@bob/1": 7,
        "/tags/tea": 4,
        "/home": 6,
        "/notifications": 6,
        "/likes": 4,
        "/search?q=tea": 5,
    },
}
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize(("who", "path"), [(who, path) for who, paths in PAGES.items() for path in paths])
def test_a_page_made_anew_takes_no_more_statements_however_large_the_site(
    app: Flask, redis: Redis, ada: Visitor, bob: Visitor, visitor: Visitor, who: str, path: str
) -> None:
    bob.publish("the only post there is, @ada #tea")
    ada.follow("bob")
    reader = ada if who == "signed in" else visitor
    small = statements_of_a_miss(app, redis, reader, path)
    grow(app)
    large = statements_of_a_miss(app, redis, reader, path)
    assert len(large) <= len(small) == PAGES[who][path]


@on_sqlite
@pytest.mark.parametrize(("says", "statements"), [("hello @ada and @bob", 2), ("write to bob@example.org", 1)])
def test_posts_whose_html_is_not_known_take_a_statement_more_and_one_for_whom_they_mention(
    app: Flask, redis: Redis, ada: Visitor, bob: Visitor, says: str, statements: int
) -> None:
    for number in range(3):
        bob.publish(f"{number}: {says} #tea")
    ada.follow("bob")
    for path in ("/", "/@bob", "/tags/tea", "/home"):
        known = statements_of_a_miss(app, redis, ada, path)
        assert len(known) == PAGES["signed in"][path]
        assert len(statements_of_a_miss(app, redis, ada, path, forgetful=True)) == len(known) + statements
    permalink = statements_of_a_miss(app, redis, ada, "/@bob/1")
    # Its replies, who likes it; notifications, what the reader likes, whom not to show.
    assert len(permalink) == statements + 5


def test_a_conversation_takes_as_many_statements_however_long_it_is(app: Flask, redis: Redis, bob: Visitor) -> None:
    bob.publish("tea?")
    for above in range(1, 11):
        answer = bob.post("/posts", form_on=f"/@bob/{above}", body="really?", reply_to=str(above))
        assert answer.status_code == 302
    # The post, what it replies to, its replies, who likes it; notifications, what the reader likes, whom not to show.
    for post_id, statements in ((1, 6), (2, 7), (6, 7), (11, 7)):
        assert len(statements_of_a_miss(app, redis, bob, f"/@bob/{post_id}")) == statements
        assert len(statements_of_a_miss(app, redis, bob, f"/@bob/{post_id}", forgetful=True)) <= statements + 2


def test_the_growth_benchmark_finds_its_pages(tmp_path: Path) -> None:
    with growth.site(f"sqlite:///{tmp_path / 'town.db'}", growth.SMALL) as town:
        found = {page.what: growth.statements_of(town, page) for page in growth.PAGES}
    assert max(found.values()) <= growth.MOST_STATEMENTS, found


@on_sqlite
def test_a_miss_looks_for_the_page_once_takes_the_lease_and_stores(
    app: Flask, visitor: Visitor, front: FrontServer
) -> None:
    looks: list[Callable[[], str]] = [
        lambda: visitor.get("/").headers["Cache-Status"],
        lambda: front.ask("/").header("cache-status"),
    ]
    for look in looks:
        look()  # opens connections
        with app.extensions["page_cache"].changing("latest"):
            pass
        with round_trips() as trips:
            assert look() == "Pipit; fwd=miss; stored"
        assert len(trips) == 3


@on_sqlite
@pytest.mark.server
def test_a_hit_takes_at_most_one_round_trip_and_no_statement(app: Flask, redis: Redis, front: FrontServer) -> None:
    front.ask("/")
    for unchanged in (False, True):
        headers = [f"If-None-Match: {front.ask('/').header('etag')}"] if unchanged else []
        with statements_run(app) as statements, commands_sent(redis) as commands, round_trips() as trips:
            reply = front.ask("/", *headers)
        assert reply.early
        assert "hit" in reply.header("cache-status")
        assert (reply.status, reply.body == b"") == ((304, True) if unchanged else (200, False))
        assert names(commands) in ([], ["GET"])
        assert len(trips) == len(commands)
        assert statements == []


@on_sqlite
@pytest.mark.server
def test_a_hundred_hits_take_a_command_a_second(redis: Redis, front: FrontServer) -> None:
    front.ask("/")
    front.wait_for_proof()
    front.ask("/")  # the front finds that the page exists; from the next question on Redis tells of its changes
    began = time.monotonic()
    with commands_sent(redis) as commands:
        for _ in range(100):
            front.ask("/")
        seconds = (time.monotonic() - began) / COPY_LIFETIME
    assert set(names(commands)) == {"GET"}
    assert len(commands) <= seconds + 1


@on_sqlite
@pytest.mark.server
def test_a_signed_in_hit_takes_one_round_trip_and_no_statement(
    app: Flask, redis: Redis, ada: Visitor, front: FrontServer
) -> None:
    ada.get("/home")  # shows the welcome, and forgets it
    cookie = f"Cookie: session={ada.session_id()}"
    for _ in range(2):  # Flask builds the page, then the front counts the notifications
        front.ask("/", cookie)
    with statements_run(app) as statements, commands_sent(redis) as commands, round_trips() as trips:
        assert front.ask("/", cookie).early
    assert names(commands)[0] == "GETEX"
    assert names(commands)[1:] in (
        [],
        ["GET"],
        2 * ["GET"],
        3 * ["GET"],
    )  # the page, the unread count, whom not to show
    assert len(trips) == 1
    assert statements == []
    front.wait_for_proof()
    servers.wait_until(lambda: front.has_copy("/", cookie), "a copy")
    with commands_sent(redis) as commands, round_trips() as trips:
        for _ in range(10):
            assert front.ask("/", cookie).early
    assert names(commands).count("GETEX") == 10
    assert names(commands).count("GET") <= 4
    assert len(trips) == 10


@on_sqlite
@pytest.mark.server
def test_home_takes_one_round_trip_and_no_statement_until_somebody_posts(
    app: Flask, redis: Redis, ada: Visitor, bob: Visitor, front: FrontServer, log: Log
) -> None:
    with app.app_context():
        follower, followed = User.named("ada"), User.named("bob")
        assert follower
        assert followed
        follower.follow(followed)
    ada.get("/home")
    cookie = f"Cookie: session={ada.session_id()}"
    front.ask("/home", cookie)
    bob.publish("the first one that has a like button")
    front.ask("/home", cookie)
    for says in ("hello #tea", "hello @bob"):
        bob.publish(says)
        with round_trips() as trips:
            reply = front.ask("/home", cookie)
        assert reply.early
        assert says.partition(" ")[0] in reply.text
        assert len(trips) == 1
        assert re.search(r" redis=\d sql=[45] cache=hit$", log.lines()[-1])
        with statements_run(app) as statements, commands_sent(redis) as commands, round_trips() as trips:
            assert front.ask("/home", cookie).early
        assert set(names(commands)) <= {"GETEX", "GET"}
        assert len(trips) == 1
        assert statements == []


@on_sqlite
@pytest.mark.server
@pytest.mark.parametrize(
    "path", ["/@bob", "/@bob/1", "/tags/tea", "/@bob/followers", "/@bob/following", "/feed.atom", "/people", "/tags"]
)
def test_every_page_is_a_hit_without_a_statement(
    app: Flask, ada: Visitor, bob: Visitor, front: FrontServer, path: str
) -> None:
    bob.publish("hello #tea")
    ada.get("/home")
    for cookie in ([], [f"Cookie: session={ada.session_id()}"]):
        front.ask(path, *cookie)
        front.ask(path, *cookie)
        with statements_run(app) as statements, round_trips() as trips:
            reply = front.ask(path, *cookie)
        assert reply.early
        assert reply.header("cache-status").startswith("Pipit; hit")
        assert len(trips) <= 1
        assert statements == []


@on_sqlite
@pytest.mark.server
def test_without_a_front_a_hit_takes_one_command_and_the_session_another(
    app: Flask, redis: Redis, ada: Visitor, visitor: Visitor
) -> None:
    """Under any other server than gunicorn."""
    ada.get("/home")
    ada.get("/")
    etag = visitor.get("/").headers["ETag"]
    for reader, headers, status, sent in (
        (visitor, {}, 200, ["GET"]),
        (visitor, {"If-None-Match": etag}, 304, ["GET"]),
        (ada, {}, 200, ["GETEX", "GET", "GET", "GET"]),  # session, page, number of notifications, whom not to show
    ):
        with statements_run(app) as statements, commands_sent(redis) as commands, round_trips() as trips:
            answer = reader.get("/", headers=headers)
        assert answer.status_code == status
        assert names(commands) == sent
        assert len(trips) == len(commands)
        assert statements == []


@pytest.mark.server
def test_a_first_visit_is_small_and_the_next_one_next_to_nothing(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    with servers.pipit(tmp_path, redis_url) as pipit:
        seed = [sys.executable, "-m", "flask", "seed"]
        subprocess.run(seed, cwd=servers.ROOT, env=pipit.environ, check=True, stdout=subprocess.DEVNULL)
        with Client(pipit.port) as client:
            visit = visited(client)
    assert visit.first_bytes <= FIRST_VISIT, visit.parts
    assert visit.first_requests <= FIRST_VISIT_REQUESTS, visit.parts
    assert visit.repeat_bytes <= REPEAT_VISIT


@pytest.mark.server
def test_the_moderators_page_of_numbers_takes_as_many_commands_and_statements_whatever_it_shows(
    app: Flask, redis: Redis, ada: Visitor, moderator: Visitor
) -> None:
    moderator.get("/home")
    for number in range(2):
        with commands_sent(redis) as commands, statements_run(app) as statements, round_trips() as trips:
            answer = moderator.get("/moderation/status")
        assert answer.status_code == 200
        assert "Cache-Status" not in answer.headers
        assert len(statements) == 5  # whether the reader moderates; accounts, posts, mails, reports
        # The session; what was counted on each day; sessions; memory and connections; what the menu shows.
        assert names(commands) == ["GETEX", *DAYS * ["HGETALL"], "SCAN", "DBSIZE", "INFO", "GET"]
        assert len(trips) == 5
        for day in last_days():
            redis.hset(f"count:{day}", "built", number + 1)
        ada.publish("hello")
        moderator.get("/home")


def test_the_documentation_says_what_the_kept_benchmark_found() -> None:
    results = json.loads((servers.ROOT / "bench/results/results.json").read_text())
    page = (servers.ROOT / "docs/performance.md").read_text()
    found = {target["what"]: target["found"] for target in results["targets"]}
    for _, _, aim, what in RATES:
        assert f"| {what} | {aim} | {found[what]:.2f} |" in page


def statements_of_a_miss(app: Flask, redis: Redis, reader: Visitor, path: str, *, forgetful: bool = False) -> list[str]:
    """Collect the statements that a page takes which is not cached. forgetful: the HTML of its posts isn't kept."""
    for _ in range(2):  # the first one opens connections, and renders the posts
        if forgetful:
            app.extensions["post_html"] = PostHTML(app)
        redis.delete(*redis.keys("page:*"), "-")
        with statements_run(app) as statements:
            assert reader.get(path).status_code == 200
    return statements


def names(commands: list[str]) -> list[str]:
    return [command.split()[0] for command in commands]


def grow(app: Flask) -> None:
    """Make fifty people who all write, and follow ada and bob, who follow them."""
    with app.app_context():
        ada, bob = User.named("ada"), User.named("bob")
        assert ada is not None
        assert bob is not None
        people = [User(name=f"p{n}", name_key=f"p{n}", email=f"p{n}@example.org", password_hash="-") for n in range(50)]
        db.session.add_all(people)
        db.session.flush()
        for person in people:
            for author in (person, bob):
                db.session.add(Post(author_id=author.id, body="hello @bob #again"))
            for known in (ada, bob):
                db.session.add(Follow(follower_id=known.id, followed_id=person.id))
                db.session.add(Follow(follower_id=person.id, followed_id=known.id))
        db.session.commit()


@contextmanager
def round_trips() -> Iterator[list[bytes]]:
    """Collect what is sent to Redis in one go, but not how the front proves that it hears of changes.

    Nor how a connection is opened: the pool needs another one whenever that proof is under way.
    """
    sent: list[bytes] = []
    send: Callable[..., None] = Connection.send_packed_command
    write = RedisConnection._send

    def note(data: bytes) -> None:
        if b"front:" not in data and b"SETINFO" not in data:
            sent.append(data)

    def note_and_send(connection: Connection, command: Any, check_health: bool = True) -> None:
        note(command if isinstance(command, bytes) else b"".join(command))
        send(connection, command, check_health)

    def note_and_write(connection: RedisConnection, data: bytes, batch: Batch) -> None:
        note(data)
        write(connection, data, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "send_packed_command", note_and_send)
        patch.setattr(RedisConnection, "_send", note_and_write)
        yield sent
