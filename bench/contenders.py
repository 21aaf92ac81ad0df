"""Who is measured: Pipit as shipped, and the smallest programs of other kinds that send a page of the same size.

All read the same Valkey and run as one process on the same core, those in Python under Pipit's own gunicorn settings.
The small WSGI programs run twice: on gunicorn's threads, as most people run them, and behind Pipit's bridge.
"""

import json
import re
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

from redis import Redis

from app.cli.seed import PASSWORD
from bench import wire
from bench.processes import Server, gthread, gunicorn, nginx, node, run_flask, running
from bench.wire import Answer

POSTS = 30  # on the page: what makes it a realistic one
MARKER = "<!--viewer-->"
SERVERS_OWN = {"server", "date", "connection"}  # headers


@dataclass(frozen=True)
class Measure:
    """A line of the table: a page, asked for in one way."""

    name: str
    path: str = "/"
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    status: int = 200
    length: int | None = None  # bytes of the body; None: as it comes
    shows: str = ""  # what must stand in the body
    hides: str = ""  # what must not
    stored: str | None = field(default=None, repr=False)  # what the peers find in Redis under bench:page
    sequence: Path | None = field(default=None, repr=False)  # of load.sequence_file(): pages asked for in its order

    def checked(self, port: int) -> Answer:
        """Return the server's answer. Raises WrongAnswerError if it is not what this line is about."""
        answer = _settled(port, self.path, self.headers)
        if answer.status != self.status:
            raise WrongAnswerError(f"{self.name}: {answer.status} instead of {self.status}")
        if self.length is not None and len(answer.body) != self.length:
            raise WrongAnswerError(f"{self.name}: a body of {len(answer.body)} bytes instead of {self.length}")
        if self.shows not in answer.text or (self.hides and self.hides in answer.text):
            raise WrongAnswerError(f"{self.name}: the page is not the one for this visitor")
        return answer


class WrongAnswerError(Exception):
    """A contender does not send what the others send: to compare them would mean nothing."""


@dataclass(frozen=True)
class Contender:
    """A server and what is asked of it; `part` is its name for --only."""

    part: str
    server: Server
    measures: list[Measure]


@dataclass(frozen=True)
class Site:
    """A seeded Pipit, and what it sends: the measure for all others."""

    environ: dict[str, str]
    name: str  # of who is signed in
    cookie: str = field(repr=False)
    anonymous: Answer
    signed_in: Answer
    unchanged: Answer

    @property
    def server(self) -> Server:
        return gunicorn(None, self.environ)

    @property
    def member(self) -> dict[str, str]:
        """Return the headers of the signed-in visitor's requests."""
        return {"Cookie": self.cookie}

    @property
    def shown(self) -> str:
        """Return what only a signed-in visitor's page has."""
        return f'class="menu-name">@{self.name}<'

    @property
    def returning(self) -> dict[str, str]:
        """Return the headers of an anonymous visitor who has the page already."""
        return {"If-None-Match": self.anonymous.header("ETag")}


def seeded_pipit(scratch: Path, redis_url: str, core: int) -> Site:
    """Make a database, seed it, sign somebody in, and keep what Pipit sends."""
    environ = {
        "DATABASE_URL": f"sqlite:///{scratch / 'pipit.db'}",
        "REDIS_URL": redis_url,
        "SECRET_KEY": "a key for benchmarks, and for benchmarks only",
    }
    run_flask(environ, "db", "upgrade")
    run_flask(environ, "seed")
    with running(gunicorn(None, environ), core, scratch) as pipit:
        anonymous = _settled(pipit.port, "/", {})
        if anonymous.text.count('<article class="post"') != POSTS:
            raise WrongAnswerError(f"the seeded page does not have {POSTS} posts")
        found = re.search(r'href="/@(\w+)"', anonymous.text)
        assert found is not None
        cookie = logged_in(pipit.port, found[1])
        signed_in = wire.get(pipit.port, "/", {"Cookie": cookie})
        unchanged = wire.get(pipit.port, "/", {"If-None-Match": anonymous.header("ETag")})
    return Site(environ, found[1], cookie, anonymous, signed_in, unchanged)


def contenders(site: Site, scratch: Path, redis_url: str, core: int, parts: set[str]) -> list[Contender]:
    """Return who is measured, in the order of each round."""
    size = len(site.anonymous.body)
    page = _answer_file(scratch / "page.json", "200 OK", site.anonymous)
    unchanged = _answer_file(scratch / "unchanged.json", "304 NOT MODIFIED", site.unchanged)
    peer_environ = {"REDIS_URL": redis_url, "SECRET_KEY": site.environ["SECRET_KEY"]}
    found = []
    answer, answer_304 = {"BENCH_ANSWER": str(page)}, {"BENCH_ANSWER": str(unchanged)}
    if "asgi" in parts:
        bare = Measure("bare ASGI", length=size)
        bare_304 = Measure("bare ASGI, 304", headers=site.returning, status=304, length=0)
        stock = Measure("bare ASGI, stock uvicorn", length=size)
        stock_worker = {"GUNICORN_CMD_ARGS": "--worker-class uvicorn_worker.UvicornWorker"}
        for environ, measure in ((answer, bare), (answer | stock_worker, stock), (answer_304, bare_304)):
            found.append(Contender("asgi", gunicorn("bench.peers.bare_asgi:application", environ), [measure]))
    if "nginx" in parts:
        found.append(Contender("nginx", nginx(site.anonymous, scratch), [Measure("nginx", length=size)]))
    for part, name, module in (
        ("limit", "WSGI function", "bench.peers.limit"),
        ("flask", "Flask view", "bench.peers.bare_flask"),
    ):
        if part in parts:
            threads = gthread(f"{module}:application", answer)
            bridged = gunicorn("bench.peers.bridged:application", {**answer, "BENCH_WSGI": module})
            found.append(Contender(part, threads, [Measure(f"{name}, gthread", length=size)]))
            found.append(Contender(part, bridged, [Measure(f"{name}, bridged", length=size)]))
    for part, name, server in (
        ("express", "Express", node(peer_environ)),
        ("plain", "plain Flask way", gthread("bench.peers.plain_flask:application", peer_environ)),
    ):
        if part in parts:
            found.append(Contender(part, server, _peer_measures(name, server, site, redis_url, scratch, core)))
    if "holes" in parts:
        holes = gunicorn("bench.peers.holes:create_front()", site.environ)
        member = Measure("30 holes more, signed in", headers=site.member, shows=site.shown)
        found.append(Contender("holes", holes, [member]))
    if "pipit" in parts:
        found.append(Contender("pipit", site.server, _pipits_measures("Pipit", site)))
    return found


def _settled(port: int, path: str, headers: dict[str, str]) -> Answer:
    """Return a server's third answer: the first ones may fill caches."""
    with wire.Client(port) as client:
        return [client.get(path, headers) for _ in range(3)][-1]


def _pipits_measures(name: str, site: Site) -> list[Measure]:
    """Return the three looks at / that a Pipit is measured by."""
    return [
        Measure(name, length=len(site.anonymous.body), hides=site.shown),
        Measure(f"{name}, signed in", headers=site.member, length=len(site.signed_in.body), shows=site.shown),
        Measure(f"{name}, 304", headers=site.returning, status=304, length=0),
    ]


def _peer_measures(name: str, server: Server, site: Site, redis_url: str, scratch: Path, core: int) -> list[Measure]:
    """Return what is asked of a peer that reads its page and its session from Redis; signs its visitor in."""
    text = site.anonymous.text.replace(">Log in<", f">{MARKER}<", 1)
    member = site.signed_in.text.replace(site.shown, site.shown.replace(f"@{site.name}", MARKER), 1)
    with Redis.from_url(redis_url) as redis:
        redis.set("bench:page", text)
    with running(server, core, scratch) as peer:
        cookie = wire.get(peer.port, f"/login/{site.name}").header("Set-Cookie").partition(";")[0]
    return [
        Measure(name, length=len(site.anonymous.body), hides=site.shown, stored=text),
        Measure(
            f"{name}, signed in",
            headers={"Cookie": cookie},
            length=len(site.signed_in.body),
            shows=site.shown,
            stored=member,
        ),
    ]


def _answer_file(path: Path, status: str, answer: Answer) -> Path:
    """Keep an answer for the limit to send again: all but what the server adds."""
    headers = [header for header in answer.headers if header[0].lower() not in SERVERS_OWN]
    path.write_text(json.dumps({"status": status, "headers": headers, "body": answer.body.decode()}))
    return path


def logged_in(port: int, name: str) -> str:
    """Log in as a browser does, and return the session's cookie."""
    form = wire.get(port, "/login")
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', form.text)
    assert token is not None
    fields = {"csrf_token": unescape(token[1]), "username": name, "password": PASSWORD}
    visitor = form.header("Set-Cookie").partition(";")[0]
    with wire.Client(port) as client:
        answer = client.send("POST", "/login", {"Cookie": visitor}, urlencode(fields).encode())
    cookies = [value.partition(";")[0] for key, value in answer.headers if key.lower() == "set-cookie"]
    session = next((cookie for cookie in cookies if cookie.startswith("session=")), None)
    if session is None:
        raise WrongAnswerError(f"logging in as @{name} gave no session: {answer.status}")
    return session
