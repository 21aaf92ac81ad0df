"""Nobody is shown what is another's: a timeline, a button, a form's token, a name. Sessions come, go and change hands.

One attacker tries at random what may confuse several web processes that remember what filled the holes of a page for a
session. Each answer is checked against what SQL and the session say at that moment.
"""

import random
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask
from itsdangerous import URLSafeTimedSerializer
from redis import Redis

from app.extensions import db
from app.models import Follow, Post
from app.models.post_text import PostText
from app.web.holes import CSRF_SALT
from tests.conftest import SECRET_KEY, finish
from tests.faults.town import (
    BUTTON,
    PROCESSES,
    TAGS,
    Person,
    Town,
    begin_session,
    one_more_process,
    posts_on,
    running_town,
    user,
)
from tests.servers import PATIENCE

SEED = 20240229
STEPS = 1500
SIDS = 8  # browsers; few, so that what is remembered for them is used
NAME = re.compile(r'class="menu-name">@(\w+)<')
TOKEN = re.compile(r'name="csrf_token"[^>]*value="([^"]+)"')
DELETES = re.compile(r'action="/posts/(\d+)/delete"')
tokens = URLSafeTimedSerializer(SECRET_KEY, salt=CSRF_SALT)


@dataclass
class Owner:
    """Who has a session now, and the secret of its forms."""

    person: Person
    secret: str


@dataclass(frozen=True)
class Reply:
    status: int
    etag: str
    length: int
    body: str


@dataclass
class Attacker:
    """Someone with all browsers of some people."""

    town: Town
    app: Flask
    redis: Redis
    chance: random.Random
    browsers: dict[str, Owner | None] = field(default_factory=dict)  # by session id; None: it has ended
    connections: list[HTTPConnection] = field(default_factory=list)
    etags: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # by path: each with whose page it was
    not_modified: int = 0
    done: int = 0

    def begin(self, person: Person) -> None:
        """Log somebody in on one more browser."""
        sid = begin_session(self.app, user(person.id))
        self.browsers[sid] = Owner(person, self._session(sid)["csrf_token"])

    def step(self) -> None:
        """Change something now and then, and look at a page."""
        dice = self.chance.random()
        if dice < 0.02:
            self.begin(self.chance.choice(self.town.people))
            if len(self.browsers) > SIDS:
                self.browsers.pop(self.chance.choice([*self.browsers]))
        elif dice < 0.04:
            self._end(self.chance.choice([*self.browsers]))
        elif dice < 0.07:
            self._hand_over(self.chance.choice([*self.browsers]), self.chance.choice(self.town.people))
        elif dice < 0.20:
            self._write()
        self._look(self.chance.choice([*self.browsers, ""]))
        self.done += 1

    # What is done to sessions

    def _end(self, sid: str) -> None:
        self.redis.delete(f"session:{sid}")
        self.browsers[sid] = None

    def _hand_over(self, sid: str, person: Person) -> None:
        """Let another session have the same id; with other content there, or with the same secret's owner renewed."""
        other = begin_session(self.app, user(person.id))
        content = self.redis.get(f"session:{other}")
        assert isinstance(content, bytes)
        self.redis.set(f"session:{sid}", content, ex=1000)
        self.browsers[sid] = Owner(person, self._session(sid)["csrf_token"])

    def _session(self, sid: str) -> dict[str, Any]:
        content = self.redis.get(f"session:{sid}")
        assert isinstance(content, bytes)
        found: dict[str, Any] = msgspec.json.decode(content)
        return found

    def _write(self) -> None:
        one, other = (user(person.id) for person in self.chance.sample(self.town.people, 2))
        post = Post.with_id(next((post.id for post in Post.by(one.id).items), 0))
        change = self.chance.choice(("publish", "delete", "follow", "unfollow"))
        if change == "delete" and post:
            one.delete(post)
        elif change == "follow":
            one.follow(other)
        elif change == "unfollow":
            one.unfollow(other)
        else:
            one.publish(PostText.parse(f"By {one.name} #{self.chance.choice(TAGS)}"))

    # What is looked at, and what must be there

    def _look(self, sid: str) -> None:
        owner = self.browsers.get(sid)
        page, about, path = self._page()
        process = self.chance.randrange(PROCESSES)
        method = self.chance.choice(("GET", "GET", "GET", "HEAD"))
        etags = self.etags.get(path, [])[-5:]
        known = self.chance.choice(etags)[0] if etags and self.chance.random() < 0.5 else ""
        reply = self.ask(process, method, path, sid, known)
        if reply.status == 304:
            self.not_modified += 1
            whose = owner.secret if owner else ""
            assert (known, whose) in self.etags[path], "it is another's page that has not changed"
            assert not owner or self.ask(process, "GET", path, sid).etag == known
        elif reply.status == 200:
            self.etags.setdefault(path, []).append((reply.etag, owner.secret if owner else ""))
        if reply.status == 200 and method == "HEAD":
            whole = self.ask(process, "GET", path, sid)
            if owner:  # to a browser whose session has ended Flask sends the page without the holes' markers
                assert (whole.etag, whole.length) == (reply.etag, reply.length)
            reply = whole
        if page == "home" and owner is None:
            assert reply.status == 302
            return
        if page == "post":
            assert (reply.status == 404) == (db.session.get(Post, about.id) is None)
        if reply.status == 200:
            self._check(reply.body, page, about, owner)

    def _page(self) -> tuple[str, Any, str]:
        page = self.chance.choice(("home", "home", "profile", "profile", "post", "post", "latest", "tag", "followers"))
        about: Any = self.chance.choice(self.town.people)
        if page == "tag":
            about = self.chance.choice(TAGS)
        elif page == "post":
            about = Post.shown(self.chance.choice(Post.latest().items).id)
            assert about
            return page, about, f"/@{about.author.name}/{about.id}"
        return page, about, self.town.path(page, about)

    def _check(self, body: str, page: str, about: Any, owner: Owner | None) -> None:
        assert NAME.findall(body) == ([owner.person.name] if owner else [])
        secrets = {tokens.loads(token) for token in TOKEN.findall(body)}
        assert secrets == ({owner.secret} if owner else set())
        own = page == "post" and owner and owner.person.id == about.author.id
        assert DELETES.findall(body) == ([str(about.id)] if own else [])
        buttons = BUTTON.findall(body)
        if page == "profile" and owner and owner.person.id != about.id:
            assert buttons == ["unfollow" if Follow.exists(owner.person.id, about.id) else "follow"]
        else:
            assert buttons == []
        if page == "home":
            assert owner
            shown = posts_on(body)
            assert shown == self.town.timeline(owner.person.id)

    def ask(self, process: int, method: str, path: str, sid: str, known: str = "") -> Reply:
        """Ask a process for a page."""
        headers = {"If-None-Match": known} if known else {}
        if sid:
            headers["Cookie"] = f"session={sid}"
        connection = self.connections[process]
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        assert not body or method == "GET"
        return Reply(
            response.status, response.headers["ETag"] or "", int(response.headers["Content-Length"] or 0), body
        )


@pytest.fixture
def attacker(tmp_path: Path) -> Iterator[Attacker]:
    url = f"sqlite:///{tmp_path / 'pipit.db'}"
    with running_town(tmp_path, url, "invalidate", SEED, writers=0) as town, ExitStack() as stack:
        app = stack.enter_context(one_more_process(town.config))
        redis = stack.enter_context(town.redis())
        attacker = Attacker(town, app, redis, town.chance)
        for pipit in town.pipits:
            attacker.connections.append(HTTPConnection("127.0.0.1", pipit.port, timeout=PATIENCE))
            stack.callback(attacker.connections[-1].close)
        for number in range(SIDS):
            attacker.begin(town.people[number % 4])  # two browsers each
        for person in town.people:
            user(person.id).publish(PostText.parse(f"By {person.name}"))
        yield attacker


@contextmanager
def hammering(attacker: Attacker) -> Iterator[None]:
    """Have other connections look at the same pages with the same sessions all the time, whoever has these now."""
    done = threading.Event()
    errors: list[BaseException] = []

    def hammer(number: int) -> None:
        chance = random.Random(SEED + number)
        connection = HTTPConnection("127.0.0.1", attacker.town.pipits[number % PROCESSES].port, timeout=PATIENCE)
        try:
            while not done.is_set():
                path = chance.choice(("/home", "/home", "/", *(f"/@{one.name}" for one in attacker.town.people)))
                connection.request("GET", path, headers={"Cookie": f"session={chance.choice([*attacker.browsers])}"})
                body = connection.getresponse().read().decode()
                secrets = {tokens.loads(token) for token in TOKEN.findall(body)}
                assert len(secrets) <= 1, "a page has the tokens of two sessions"
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(PROCESSES)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        finish(*threads)
    assert not errors, errors


def test_nobody_is_shown_what_is_anothers(attacker: Attacker) -> None:
    with hammering(attacker):
        for _ in range(STEPS):
            db.session.rollback()
            db.session.expunge_all()
            attacker.step()
    assert attacker.not_modified > 10
