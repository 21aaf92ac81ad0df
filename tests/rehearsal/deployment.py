"""The rehearsal, as tests that build upon each other: `make rehearse` runs them, and prints figures beside their names.

HEAD is deployed and used through the router; a release that fails changes nothing; then newer versions are deployed
under load, and no visitor notices. A million posts are migrated while people write. At the end Pipit is started as on a
laptop.
"""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, nullcontext
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_hex

import pytest

from tests.rehearsal import ci
from tests.rehearsal.addons import PostgresAddon, RedisAddon, postgres_addon, redis_addon
from tests.rehearsal.browser import HOST, PASSWORD, Browser
from tests.rehearsal.filled import filled
from tests.rehearsal.platform import Dyno, Platform, ReleaseFailedError, git
from tests.rehearsal.router import KEEPALIVE, Router
from tests.rehearsal.traffic import Crowd, log_in_often
from tests.servers import ROOT, postgresql_programs, valkey, wait_until
from tests.test_processes import PATIENCE, Laptop, Person, needs

VISITORS = 8
POSTS = 3 * VISITORS  # to wait for, before and after each deployment
SLOW = 8  # s that a slow visitor's post takes to arrive, during a deployment
ENDLESS = 300  # s: longer than any dyno has to stop
DYNO_RAM = 512  # MB
ADDRESS_ATTEMPTS = 20  # login attempts a minute from one address, by default
ROOM = 15  # s that those attempts may take; all must fall into one clock minute
# s that a write may wait while the database is migrated. SQLite builds an index in one step, which takes half a second
# on an idle machine, and has taken 1.8 on a busy one.
LONGEST_WAIT = {"sqlite": 3.0, "postgresql": 1.0}
SLOW_POST, ENDLESS_POST = "slow-post-" + 20 * "0", "endless-post-" + 20 * "0"  # request ids
STARTERS = ("honcho start", "foreman start", "heroku local --procfile Procfile.dev")
# Its updater would run in the clone, detached, whatever becomes of the command.
SILENT_HEROKU = {"HEROKU_SKIP_NEW_VERSION_CHECK": "1", "HEROKU_DISABLE_AUTOUPDATE": "1", "DISABLE_TELEMETRY": "true"}

MIGRATION = '''"""A migration of the rehearsal's."""

from alembic import op

revision = "{revision}"
down_revision = "{down}"


def upgrade() -> None:
    op.execute("CREATE TABLE {revision} (id integer)")
    op.execute("{statement}")


def downgrade() -> None:
    op.execute("DROP TABLE {revision}")
'''


@pytest.fixture(scope="module")
def addons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisAddon, PostgresAddon]]:
    missing = [program for program in ("git", "openssl", "redis-server") if not shutil.which(program)]
    missing += [] if postgresql_programs() else ["postgresql"]
    if missing:
        pytest.exit(f"A rehearsal needs more programs: apt-get install {' '.join(missing)}", returncode=2)
    with redis_addon(tmp_path_factory.mktemp("addons") / "redis") as redis, postgres_addon() as database:
        yield redis, database


@pytest.fixture(scope="module")
def redis(addons: tuple[RedisAddon, PostgresAddon]) -> RedisAddon:
    return addons[0]


@pytest.fixture(scope="module")
def database(addons: tuple[RedisAddon, PostgresAddon]) -> PostgresAddon:
    return addons[1]


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    with Router() as router:
        yield router


@pytest.fixture(scope="module")
def platform(
    router: Router, redis: RedisAddon, database: PostgresAddon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    config = {"REDIS_URL": redis.url, "DATABASE_URL": database.url, "SECRET_KEY": token_hex(32)}
    with ExitStack() as stack:
        platform = Platform(tmp_path_factory.mktemp("heroku"), router, config)
        stack.callback(platform.close)
        yield platform


@pytest.fixture(scope="module")
def slug(platform: Platform) -> Path:
    """Give the build of HEAD, released and serving."""
    slug = platform.build()
    platform.deploy(slug)
    return slug


@pytest.fixture(scope="module")
def spare(slug: Path, platform: Platform) -> Dyno:
    """Give a dyno to which the router sends nothing."""
    return platform.start_web(slug)


@pytest.fixture(scope="module")
def idle(spare: Dyno) -> "Future[int]":
    """Leave a connection to the spare dyno idle for longer than the router does, then use it again."""
    connection = HTTPConnection("127.0.0.1", spare.port, timeout=PATIENCE)

    def ask() -> int:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        response.read()
        return response.status

    def ask_twice() -> int:
        ask()
        connection.auto_open = 0  # or http.client would quietly connect again
        time.sleep(KEEPALIVE + 1)
        return ask()

    return in_background(ask_twice)


@pytest.fixture(scope="module")
def crowd(slug: Path, router: Router) -> Iterator[Crowd]:
    with Crowd(router, VISITORS) as crowd:
        crowd.wait_for_posts(POSTS)
        yield crowd


@pytest.fixture
def visitor(slug: Path, router: Router, idle: object) -> Iterator[Browser]:
    visitor = Browser(router, "127.0.1.3")
    yield visitor
    visitor.hang_up()


def test_a_push_is_built_and_released_and_serves_its_first_page(platform: Platform, visitor: Browser) -> None:
    assert "Latest posts" in visitor.get("/").text
    assert visitor.get("/readyz").text == "sql ok\nredis ok\n"
    assert git("-C", str(platform.checkout), "status", "--porcelain") == ""


def test_the_doctor_finds_no_problem_on_a_dyno(platform: Platform, slug: Path) -> None:
    status, output = platform.run(slug, "flask doctor")
    assert status == 0, output
    print(output.strip().splitlines()[-1], end=" ")


@pytest.mark.timeout(900)  # s, for all tests of `make test`
def test_make_test_runs_on_heroku_ci(platform: Platform) -> None:
    python = ci.copyable_python(platform.checkout)
    if python is None:
        pytest.skip("the Python here belongs to the system and can't be copied")
    print(f"{ci.make_test(platform.checkout, platform.folder / 'ci', python)} commands", end=" ")


def test_http_is_redirected_to_https_and_health_checks_are_not(visitor: Browser) -> None:
    answer = visitor.get("/@ada?before=7", "http", X_Forwarded_Proto="https")
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{HOST}/@ada?before=7")
    assert visitor.get("/healthz", "http").status == 200
    assert visitor.get("/").headers["Strict-Transport-Security"]


def test_static_files_are_immutable_and_compressed(visitor: Browser) -> None:
    paths = re.findall(r'"(/static/[^"]+\.(?:css|js))"', visitor.get("/").text)
    assert len(paths) >= 2
    for path in paths:
        answer = visitor.get(path, Accept_Encoding="gzip")
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Encoding"] == "gzip"


def test_registering_signs_in_with_a_cookie_for_https_only(router: Router, visitor: Browser) -> None:
    answer = visitor.register("ada")
    assert (answer.status, answer.headers["Location"]) == (302, "/home")
    (cookie,) = (line for line in answer.headers.get_all("Set-Cookie") or [] if line.startswith("__Host-session="))
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert visitor.is_signed_in()


def test_a_post_is_on_the_front_page_at_once_and_then_in_the_cache(visitor: Browser) -> None:
    assert visitor.log_in("ada").status == 302
    stranger = Browser(visitor.router, "127.0.1.4")
    stranger.get("/")
    assert visitor.publish("Hello from the rehearsal").status == 302
    assert "Hello from the rehearsal" in stranger.get("/").text
    assert "hit" in stranger.get("/").headers["Cache-Status"]


def test_addresses_are_those_that_the_router_saw(visitor: Browser) -> None:
    assert visitor.log_in("ada").status == 302
    page = visitor.get("/settings/sessions", X_Forwarded_For="192.0.2.77").text
    assert f"From {visitor.address}<" in page
    wait_for_room()
    forger = Browser(visitor.router, "127.0.1.7")
    statuses = []
    for number in range(ADDRESS_ATTEMPTS + 1):
        form = forger.filled_in("/login", username=f"nobody{number}", password="guess")
        statuses.append(forger.submit("/login", form, X_Forwarded_For=f"198.51.100.{number}").status)
    assert statuses == [422] * ADDRESS_ATTEMPTS + [429]
    assert Browser(visitor.router, "127.0.1.8").log_in("nobody", "guess").status == 422


def test_a_dyno_keeps_an_idle_connection_longer_than_the_router(spare: Dyno, idle: "Future[int]") -> None:
    assert idle.result(KEEPALIVE + PATIENCE) == 200
    spare.stop()  # its connections to Redis and PostgreSQL are needed below


def test_a_migration_that_fails_stops_the_deployment_and_leaves_the_database_as_it_was(
    platform: Platform, database: PostgresAddon, visitor: Browser
) -> None:
    before, serving = database.query("SELECT version_num FROM alembic_version"), list(platform.dynos)
    commit_migration(platform, "broken", "SELECT no_such_column FROM users")
    broken = platform.build()
    platform.undo_commit()
    with pytest.raises(ReleaseFailedError, match="no_such_column"):
        platform.deploy(broken)
    assert database.query("SELECT version_num FROM alembic_version") == before
    assert database.query("SELECT to_regclass('broken')") == [(None,)]
    assert platform.dynos == serving
    assert visitor.get("/").status == 200


def test_a_version_is_deployed_under_load(platform: Platform, crowd: Crowd) -> None:
    slug = platform.build()
    (seconds,) = platform.deploy(slug)
    crowd.wait_for_posts(POSTS)
    print(f"the older dyno ended {seconds:.1f} s after SIGTERM", end=" ")


def test_a_second_dyno_comes_and_goes_under_load(
    platform: Platform, slug: Path, redis: RedisAddon, crowd: Crowd
) -> None:
    platform.scale_up(slug)
    crowd.wait_for_posts(POSTS)
    connections = redis_info(redis, "connected_clients") - 1
    platform.retire(platform.dynos[-1])
    print(f"{connections} Redis connections", end=" ")


def test_120_logins_under_load_fit_into_a_dynos_memory(platform: Platform, router: Router, crowd: Crowd) -> None:
    log_in_often(router, 20, 6)
    megabytes = platform.dynos[0].memory() / 2**20
    assert megabytes < DYNO_RAM * 0.6  # the rest is for the moment of the logins
    print(f"{megabytes:.0f} MB", end=" ")


def test_a_version_with_a_migration_is_deployed_under_load_while_a_slow_post_arrives(
    platform: Platform, router: Router, database: PostgresAddon, crowd: Crowd
) -> None:
    layout = "app/templates/layout.html"
    text = (platform.checkout / layout).read_text()
    platform.commit(layout, text.replace("</footer>", "<p>newer</p></footer>"))
    commit_migration(platform, "newer", "ALTER TABLE newer ADD COLUMN more text")
    newer = platform.build()
    dora = Browser(router, "127.0.1.10")
    slow = post_slowly(dora, "dora", "Slow, but in one piece", SLOW, SLOW_POST)
    (seconds,) = platform.deploy(newer)
    crowd.wait_for_posts(POSTS)
    assert slow.result(PATIENCE) == 302
    assert "Slow, but in one piece" in Browser(router).get("/@dora").text
    assert "<p>newer</p>" in Browser(router).get("/").text
    assert database.query("SELECT version_num FROM alembic_version") == [("newer",)]
    print(f"the older dyno ended {seconds:.1f} s after SIGTERM", end=" ")


def test_no_request_failed_under_load_and_nobody_was_logged_out(crowd: Crowd, router: Router) -> None:
    crowd.stop()
    assert crowd.failed == []
    assert crowd.logged_out == []
    assert all(browser.is_signed_in() for browser in crowd.browsers.values())
    assert [line for line in router.log if line.code] == []
    print(f"{len(crowd.seconds)} requests: {crowd.latency()}", end=" ")


def test_every_acknowledged_post_is_kept_and_was_on_the_very_next_page(crowd: Crowd, database: PostgresAddon) -> None:
    assert crowd.lost_posts(database) == []
    assert crowd.unseen == []
    print(f"{len(crowd.posts)} posts", end=" ")


def test_the_smallest_plan_of_redis_is_large_enough(redis: RedisAddon, crowd: Crowd) -> None:
    assert redis_info(redis, "rejected_connections") == 0
    print(f"{redis_info(redis, 'used_memory_peak') / 2**20:.1f} MB of 25 at most", end=" ")


def test_a_dyno_with_an_endless_post_still_stops_before_it_is_killed(platform: Platform, router: Router) -> None:
    post_slowly(Browser(router, "127.0.1.11"), "erin", "Never " * 40, ENDLESS, ENDLESS_POST)
    print(f"{platform.retire(platform.dynos[0]):.1f} s after SIGTERM", end=" ")


def test_the_dynos_logged_every_request_once_and_no_error_and_no_secret(platform: Platform, router: Router) -> None:
    log = "".join(dyno.log.read_text() for dyno in platform.started)
    written = re.findall(r" request_id=\"?([^\s\"]+)\"? redis=", log)
    routed = {line.request_id for line in router.log if line.dyno and not line.code}
    assert routed - set(written) == set()
    assert len(set(written)) == len(written)
    served = "".join(dyno.log.read_text() for dyno in platform.started if dyno.name.startswith("web."))
    wrong = re.findall(r"^.*(?:Traceback|\[(?:ERROR|CRITICAL)\]|level=(?:error|warning)).*$", served, re.MULTILINE)
    assert [line for line in wrong if "event loop was blocked" not in line] == []  # that depends on this machine
    assert [name for name, secret in platform.config.items() if secret in log] == []
    assert PASSWORD not in log
    assert not re.search(r"127\.0\.[12]\.\d|198\.51\.100|\?before=", log), "an address or a query string is in the log"


@pytest.mark.parametrize(
    ("kind", "slow_reader"),
    [("sqlite", False), ("postgresql", False), ("postgresql", True)],
    ids=["sqlite", "postgresql", "postgresql beside a slow reader"],
)
def test_a_million_posts_are_migrated_while_people_write(kind: str, slow_reader: bool, tmp_path: Path) -> None:
    with filled(kind, tmp_path) as database:
        with database.in_use(), database.read_slowly() if slow_reader else nullcontext():
            seconds = database.migrate()
        writes, reads = database.writes, database.reads
        slowest = max(writes)
        print(f"{seconds:.1f} s; of {len(writes)} writes the slowest took {slowest:.2f} s", end=" ")
        print(f"and of {len(reads)} reads {max(reads):.2f} s", end=" ")
        assert slowest < LONGEST_WAIT[kind]


@pytest.mark.parametrize("fresh", [True, False], ids=["on a fresh clone", "after the first make run"])
@pytest.mark.parametrize("starter", STARTERS)
def test_it_starts_on_a_laptop_and_serves_until_ctrl_c(starter: str, fresh: bool, tmp_path: Path) -> None:
    needs(starter.split()[0])
    clone = tmp_path / "pipit"
    git("clone", "--quiet", "--no-tags", str(ROOT), str(clone))
    laptop = Laptop(clone)
    laptop.environ |= SILENT_HEROKU
    with ExitStack() as stack:
        if fresh:
            laptop.environ |= {"PORT": str(laptop.port), "REDIS_URL": f"redis://127.0.0.1:{laptop.redis_port}/0"}
        else:
            laptop.write_dotenv()
        if fresh and starter == "honcho start":  # without an .env it runs the Procfile, which starts no Redis
            stack.enter_context(valkey(laptop.redis_port))
        running = stack.enter_context(laptop.running(*starter.split()))
        running.wait_to_say(f"Pipit is ready at http://localhost:{laptop.port}")
        person = Person(laptop.port)
        person.register("ada")
        assert person.is_signed_in()
        os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does
        running.process.wait(PATIENCE)
        try:
            wait_until(lambda: not laptop.processes(), "every process to end", PATIENCE)
        except TimeoutError:
            pytest.fail("\n".join(["Still there:", *map(described, laptop.processes()), running.output]))
        assert "Traceback" not in running.output


def described(process: int) -> str:
    """Return what /proc says of a process: its command, its state, and which signals it blocks, ignores or catches."""
    folder = Path(f"/proc/{process}")
    try:
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        status = (folder / "status").read_text()
    except OSError:
        return f"{process} has just ended"
    facts = re.findall(r"^(?:State|PPid|NSpgid|NSsid|SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt):.*", status, re.MULTILINE)
    return " ".join([str(process), command, *facts]).replace("\t", " ")


def commit_migration(platform: Platform, revision: str, statement: str) -> None:
    """Commit a migration on top of the newest."""
    folder = platform.checkout / "migrations/versions"
    texts = "".join(path.read_text() for path in folder.glob("*.py"))
    revisions = set(re.findall(r'^revision = "(\w+)"', texts, re.MULTILINE))
    (newest,) = revisions - set(re.findall(r'^down_revision = "(\w+)"', texts, re.MULTILINE))
    text = MIGRATION.format(revision=revision, down=newest, statement=statement)
    platform.commit(f"migrations/versions/{revision}.py", text)


def post_slowly(browser: Browser, name: str, body: str, seconds: float, request_id: str) -> "Future[int]":
    """Register somebody whose post takes that long to arrive; return when a dyno is working on it."""
    assert browser.register(name).status == 302
    form = browser.filled_in("/home", body=body)
    status = in_background(lambda: browser.submit_slowly("/posts", form, seconds, request_id))
    wait_until(lambda: request_id in browser.router.active, "the slow post to reach a dyno")
    return status


def in_background(work: Callable[[], int]) -> "Future[int]":
    """Work in a thread that does not keep the process alive."""
    future: Future[int] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  # raised by future.result()
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def redis_info(redis: RedisAddon, name: str) -> int:
    """Return a figure of Redis's INFO."""
    with redis.client() as client:
        return int(client.info()[name])


def wait_for_room() -> None:
    """Wait for the next clock minute if too little of this one is left."""
    left = 60 - time.time() % 60
    if left < ROOM:
        time.sleep(left + 0.1)
