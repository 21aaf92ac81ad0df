"""The rehearsal itself, `make rehearse`. Ends with a table; status 1 if anything in it did not hold.

A push is refused where it should be; main is deployed and walked through; a release that fails changes nothing; then
master and a newer main are deployed under load, and nobody notices. At last it is started as on a laptop.
"""

import argparse
import re
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from types import FrameType

from tests.rehearsal import addons, ci, starters
from tests.rehearsal.browser import HOST, Browser, IdleConnection, SlowPost
from tests.rehearsal.platform import GRACE, Platform, Push, Stopped, git
from tests.rehearsal.report import Report
from tests.rehearsal.router import CLIENT_IDLE, Router
from tests.rehearsal.traffic import Crowd, log_in_often, lost_posts, missing_posts
from tests.rehearsal.walk import Walk
from tests.servers import ROOT, wait_until

RESULTS = ROOT / "bench/results/rehearsal.txt"
VISITORS = 8
SLOW = 8  # s that a slow visitor's post takes to arrive, in the midst of a deployment
STUCK = 300  # s: longer than any grace
DYNO_RAM = 512  # MB
WARM_UP = 3 * VISITORS  # posts before, between and after the deployments

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


@dataclass
class Rehearsal:
    """Everything that takes part."""

    platform: Platform
    router: Router
    redis: addons.RedisAddon
    database: addons.PostgresAddon
    report: Report

    def run(self) -> None:
        """Play all acts."""
        self.refusals()
        main = self.first_deployment()
        if main is None:
            return
        self.heroku_ci()
        spare = self.platform.start_web(main)  # nobody's but this connection's
        idle = IdleConnection(spare.port, CLIENT_IDLE + 1)
        idle.start()
        walk = Walk(self.router, self.report)
        walk.go()
        self.failing_releases(main)
        self.unknown_hosts(main)
        browsers = [*walk.browsers, *self.under_load()]
        browsers += self.last_stop()
        with self.report.row("a dyno keeps an idle connection longer than the router does, 90 s") as row:
            idle.join(CLIENT_IDLE + 10)
            assert idle.outcome == "200", idle.outcome
            row.detail = f"still there after {idle.seconds:.0f} s"
        self.logs(browsers)
        self.limits()
        starters.rehearse(self.platform.folder / "laptops", self.report)

    def refusals(self) -> None:
        """Push what the platform does not take."""
        cases: dict[str, tuple[dict[str, str], str]] = {
            "a second lock file": ({"uv.lock": ""}, "found: requirements.txt, uv.lock"),
            "a virtual environment": ({"venv/pyvenv.cfg": "home = /usr/bin\n"}, "virtual environment is in the tree"),
            "an unreadable runtime.txt": ({"runtime.txt": "3.13"}, "must read like python-3.13"),
            "requirements that can't be met": ({"requirements.txt": "flask==0.0.1\n"}, "No matching distribution"),
        }
        for what, (files, wanted) in cases.items():
            with self.report.row(f"a push with {what} is refused, readably") as row:
                self.platform.commit(files)
                push = self.platform.push("main")
                assert not push.accepted, push.said
                assert wanted in push.said, push.said
                assert "Traceback" not in push.said, push.said
                line = next(line for line in push.said.splitlines() if wanted in line)
                row.detail = line.removeprefix("remote:").strip(" !")
            self.platform.reset()
        with self.report.row("a push to another branch is taken, but not built") as row:
            push = self.platform.push("experiment")
            assert push.accepted, push.said
            assert push.slug is None
            assert not list((self.platform.folder / "slugs").iterdir()), "something was built all the same"

    def first_deployment(self) -> Path | None:
        """Push HEAD as main, release it and start it; return the build, or None if there is nothing to go on with."""
        with self.report.row("git push main: built as pushed, from requirements.txt alone") as row:
            push = self.platform.push("main")
            slug = self.built(push)
            listed = git("-C", str(self.platform.checkout), "ls-tree", "-r", "-z", "--name-only", self.platform.head)
            wanted = set(listed.split("\0")) - {""}
            app = slug / "app"
            found = {str(path.relative_to(app)) for path in app.rglob("*") if path.is_file()}
            assert found - wanted == set(), found - wanted
            row.detail = f"{_python(push)}, {len(found)} files, {push.seconds:.1f} s"
        if not self.report.rows[-1].held:
            return None
        with self.report.row("release, then web listens within 60 s") as row:
            began = time.monotonic()
            release, _ = self.platform.deploy(slug)
            assert release.succeeded, release.said
            booted = self.platform.dynos[0].boot
            answer = Browser(self.router).get("/")
            assert answer.status == 200, answer.text
            done = time.monotonic() - began
            row.detail = f"listens after {booted:.1f} s; released and the first page served after {done:.1f} s"
        return slug if self.report.rows[-1].held else None

    def heroku_ci(self) -> None:
        """Check HEAD as the platform's CI does, in a tree with the platform's Python in it."""
        checkout = self.platform.checkout
        python = ci.copyable_python(checkout)
        if python is None:
            self.report.note("Heroku CI was not rehearsed: the Python here is the system's and can't be copied.")
            return
        with self.report.row("Heroku CI: the checks of make test, and the tests that start programs") as row:
            began = time.monotonic()
            commands = ci.build_for_tests(checkout, self.platform.folder / "ci", python).check()
            row.detail = f"{len(commands)} commands, {time.monotonic() - began:.0f} s"

    def failing_releases(self, slug: Path) -> None:
        """Let releases fail in two ways; what serves must not notice."""
        serving = self.platform.dynos[0]
        with self.report.row("a release that can't use its database stops the deployment") as row:
            wrong = self.database.url.replace(self.database.password, "leak-me-not").replace("d1rehearsal", "nowhere")
            release = self.platform.run(slug, "release", DATABASE_URL=wrong)
            assert not release.succeeded
            assert "leak-me-not" not in release.said, "the log shows the database's password"
            said = release.said.splitlines()
            row.detail = next((line for line in said if "Error" in line and "File" not in line), said[-1])[:110]
            row.detail += f" ({len(said)} lines)"
        with self.report.row("a migration that fails stops the deployment and leaves the database as it was") as row:
            before = self.database.query("SELECT version_num FROM alembic_version")
            self.add_migration("broken", "SELECT no_such_column FROM users")
            broken = self.built(self.platform.push("main"))
            release, stopped = self.platform.deploy(broken)
            self.platform.reset()
            assert not release.succeeded, "it was deployed"
            assert not stopped
            assert "no_such_column" in release.said, release.said
            assert self.database.query("SELECT version_num FROM alembic_version") == before
            assert self.database.query("SELECT to_regclass('broken')") == [(None,)], "half of it stayed"
            assert self.platform.dynos == [serving]
            assert Browser(self.router).get("/").status == 200
            row.detail = f"{serving.name} serves on"

    def unknown_hosts(self, slug: Path) -> None:
        """Do `heroku config:set TRUSTED_HOSTS=…`, which is a release of the same build."""
        with self.report.row("with TRUSTED_HOSTS an unknown host is a 400; nobody is logged out by the restart") as row:
            visitor = Browser(self.router, "127.0.1.9")
            visitor.register("carol")
            self.platform.config["TRUSTED_HOSTS"] = HOST
            release, (stopped,) = self.platform.deploy(slug)
            assert release.succeeded, release.said
            for path in ("/", "/login", "/@ada"):
                assert Browser(self.router).get(path).status == 200, path
                assert Browser(self.router, host="evil.example.com").get(path).status == 400, path
            assert visitor.is_signed_in()
            assert (stopped.killed, stopped.status) == (False, 0), stopped
            row.detail = f"the older dyno ended {stopped.seconds:.1f} s after SIGTERM"

    def under_load(self) -> list[Browser]:
        """Deploy twice, and scale up and down between, while visitors read and post; return them."""
        rejected = self.redis_info("rejected_connections")
        logged = len(self.router.log)
        people: list[Browser] = []
        with Crowd(self.router, VISITORS) as crowd:
            slow_visitor = Browser(self.router, "127.0.1.10")
            slow_visitor.register("dora")
            slow_visitor.hang_up()  # before the router does: the visitor comes back later
            crowd.wait_for_posts(WARM_UP)
            with self.report.row("git push master, under load") as row:
                row.detail = self.redeploy("master", crowd)
            with self.report.row("scaled to two dynos and back, under load") as row:
                assert self.platform.slug
                self.platform.scale(self.platform.slug, 2)
                crowd.wait_for_posts(WARM_UP)
                row.detail = f"{self.redis_info('connected_clients') - 1} Redis connections"
                self.platform.scale(self.platform.slug, 1)
            with self.report.row("120 logins, 20 at once, under load: the dyno keeps within its 512 MB") as row:
                people = log_in_often(self.router, 20, 6)
                megabytes = self.platform.dynos[0].memory() / 2**20
                assert megabytes < DYNO_RAM * 0.6, f"{megabytes:.0f} MB"  # the rest is for the logins of a moment
                row.detail = f"{megabytes:.0f} MB afterwards, of all its processes"
            with self.report.row("a newer main with a migration and other pages, a slow post on its way") as row:
                layout = (self.platform.checkout / "app/templates/layout.html").read_text()
                self.platform.commit(
                    {"app/templates/layout.html": layout.replace("</footer>", "<p>newer</p></footer>")}
                )
                self.add_migration("newer", "ALTER TABLE newer ADD COLUMN more text")
                slow = SlowPost(slow_visitor, "Slow, but in one piece", SLOW)
                older = self.platform.slug
                row.detail = self.redeploy("main", crowd, slow)
                slow.join(SLOW + 30)
                assert slow.status == 302, f"the slow post was answered with {slow.status}"
                assert "Slow, but in one piece" in slow_visitor.get("/@dora").text
                assert self.database.query("SELECT version_num FROM alembic_version") == [("newer",)]
                assert "<p>newer</p>" in Browser(self.router).get("/").text
                assert older
                back = self.platform.run(older, "release")
                if not back.succeeded:
                    said = back.said.strip().splitlines()[-1]
                    self.report.note(f"heroku rollback to before the migration fails at its release: {said}")
            tally = crowd.stop()
        with self.report.row("requests failed under load: 0") as row:
            assert not tally.failed, f"{len(tally.failed)}: {tally.failed[:5]}"
            row.detail = f"{len(tally.seconds)} requests; {tally.latency()}"
        with self.report.row("visitors logged out: 0") as row:
            assert not tally.logged_out, f"{len(tally.logged_out)}: {tally.logged_out[:3]}"
            assert all(browser.is_signed_in() for browser in crowd.browsers)
            row.detail = f"{len(crowd.browsers)} visitors still signed in"
        with self.report.row("acknowledged posts lost or doubled: 0") as row:
            lost, missing = lost_posts(tally, self.database), missing_posts(tally, self.router)
            assert not lost, f"{len(lost)} not once in the database: {lost[:3]}"
            assert not missing, f"{len(missing)} not on their author's pages: {missing[:3]}"
            row.detail = f"{len(tally.posts)} posts in the database and on the pages"
        with self.report.row("posts not on the very next page, the author's and a stranger's: 0") as row:
            assert not tally.unseen, f"{len(tally.unseen)}: {tally.unseen[:5]}"
            row.detail = f"{2 * len(tally.posts)} looks"
        with self.report.row("the router had no error to log, and Redis turned nobody away") as row:
            errors = [
                f"{line.code} {line.method} {line.path} {line.dyno}" for line in self.router.log[logged:] if line.code
            ]
            assert not errors, errors[:5]
            turned_away = self.redis_info("rejected_connections") - rejected
            assert not turned_away, f"{turned_away} connections refused"
            row.detail = f"{self.router.reused} requests on a reused connection, {self.router.retried} retried"
        return [*crowd.browsers, *people, slow_visitor]

    def redeploy(self, branch: str, crowd: Crowd, slow: SlowPost | None = None) -> str:
        """Push and deploy while the crowd is at work, and return the figures."""
        push = self.platform.push(branch)
        slug = self.built(push)
        if slow:
            slow.start()
            slow.wait_until_begun()
        release, stopped = self.platform.deploy(slug)
        assert release.succeeded, release.said
        crowd.wait_for_posts(WARM_UP)
        for one in stopped:
            assert (one.killed, one.status) == (False, 0), one
        return f"built in {push.seconds:.0f} s; the older dyno ended {_seconds(stopped)} s after SIGTERM"

    def last_stop(self) -> list[Browser]:
        """Stop the last dyno while a post arrives that never ends; it has to go before it is killed."""
        visitor = Browser(self.router, "127.0.1.11")
        with self.report.row("with a post that never ends it still goes within 30 s of SIGTERM") as row:
            visitor.register("erin")
            slow = SlowPost(visitor, "Never " * 40, STUCK)
            slow.start()
            slow.wait_until_begun()
            stopped = self.platform.retire(self.platform.dynos[0])
            assert not stopped.killed, f"killed after {GRACE} s"
            wait_until(lambda: slow.request_id not in self.router.active, "the router to give the post up")
            (line,) = [line for line in self.router.log if line.request_id == slow.request_id]
            assert line.status == 408, f"its visitor was not told that it took too long: {line}"
            row.detail = f"{stopped.seconds:.1f} s, status {stopped.status}; the post's visitor got a 408"
        with self.report.row("every dyno ended by itself, with status 0") as row:
            assert all((one.killed, one.status) == (False, 0) for one in self.platform.stopped), self.platform.stopped
            row.detail = f"{_seconds(self.platform.stopped)} s after SIGTERM"
        with self.report.row("a dyno keeps nothing on its disk") as row:
            kept = list((self.platform.folder / "dynos").glob("*/app/instance/*"))
            assert not kept, kept
        return [visitor]

    def logs(self, browsers: list[Browser]) -> None:
        """Look at all that was logged, by releases and dynos alike."""
        log = self.platform.log()
        with self.report.row("every request's id in the router's log is in the dynos', once") as row:
            written = re.findall(r" request_id=\"?([^\s\"]+)\"? redis=", log)
            routed = [line.request_id for line in self.router.log if line.dyno and not line.code]
            without = set(routed) - set(written)
            assert not without, f"{len(without)} of {len(routed)} are not: {sorted(without)[:3]}"
            assert len(set(written)) == len(written), "some are there twice"
            row.detail = f"{len(routed)} requests"
        with self.report.row("no secret is in a log") as row:
            secrets = {*self.platform.config.values(), self.redis.password, self.database.password} - {HOST}
            secrets |= {secret for browser in browsers for secret in browser.secrets if len(secret) > 7}
            leaked = [secret for secret in secrets if secret in log]
            assert not leaked, [f"{secret[:4]}…, {len(secret)} characters" for secret in leaked][:5]
            row.detail = f"{len(secrets)} secrets, {len(log) // 1024} KB of log"
        with self.report.row("one line a request, without address or query string") as row:
            lines = log.splitlines()
            addresses = [line for line in lines if re.search(r"\b127\.0\.[12]\.\d+|198\.51\.100", line)]
            queries = [line for line in lines if re.search(r"\?before=\d", line)]
            others = [line for line in lines if re.search(r'"(GET|POST) /\S* HTTP/1', line)]
            assert not addresses + queries + others, (
                f"{len(addresses)} lines with an address, {len(queries)} with a query, "
                f"{len(others)} access lines that are not Pipit's: {(addresses + queries + others)[0]}"
            )
        with self.report.row("no dyno logged an error") as row:
            served = "".join(path.read_text() for path in self.platform.logs if path.name.startswith("web."))
            wrong = re.findall(
                r"^.*(?:Traceback|\[(?:ERROR|CRITICAL)\]|level=(?:error|warning)).*$", served, re.MULTILINE
            )
            busy = [line for line in wrong if "event loop was blocked" in line]  # by what else runs here
            assert len(wrong) == len(busy), wrong[:5]
            row.detail = f"{len(busy)} times the event loop was blocked for more than 50 ms"

    def limits(self) -> None:
        """Look at what the smallest plans allow."""
        with self.report.row("the smallest plans were large enough") as row:
            assert not self.redis_info("rejected_connections")
            row.detail = f"Redis: {self.redis_info('used_memory_peak') / 2**20:.1f} MB at most, of 25"

    def add_migration(self, revision: str, statement: str) -> None:
        """Commit a migration on top of the newest."""
        folder = self.platform.checkout / "migrations/versions"
        texts = [path.read_text() for path in folder.glob("*.py")]
        revisions = {found for text in texts for found in re.findall(r'^revision = "(\w+)"', text, re.MULTILINE)}
        below = {found for text in texts for found in re.findall(r'^down_revision = "(\w+)"', text, re.MULTILINE)}
        (newest,) = revisions - below
        text = MIGRATION.format(revision=revision, down=newest, statement=statement)
        self.platform.commit({f"migrations/versions/{revision}.py": text})

    def built(self, push: Push) -> Path:
        """Return the build of a push that should have been accepted."""
        assert push.accepted, push.said
        assert push.slug, push.said
        return push.slug

    def redis_info(self, name: str) -> int:
        """Return a figure of Redis's own."""
        with self.redis.client() as client:
            return int(client.info()[name])


def main() -> int:
    """Rehearse; return 0 if everything held, 1 if something did not, 2 if it can't be rehearsed here."""
    parser = argparse.ArgumentParser(prog="make rehearse", description=__doc__)
    parser.add_argument("--keep", action="store_true", help=f"write the table to {RESULTS.relative_to(ROOT)} too")
    arguments = parser.parse_args()
    missing = addons.missing()
    if missing:
        print(
            f"A rehearsal needs servers of its own. Install them: apt-get install {' '.join(missing)}", file=sys.stderr
        )
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    report = Report()
    began = time.monotonic()
    changed = len(git("-C", str(ROOT), "status", "--porcelain").splitlines())
    if changed:
        report.note(f"{changed} files differ from HEAD or are new; what is rehearsed is HEAD.")
    try:
        with ExitStack() as stack:
            rehearsal = stage(stack, report)
            rehearsal.run()
    except KeyboardInterrupt:
        print("Interrupted; everything is stopped.", file=sys.stderr)
        return 130
    report.note(f"{time.monotonic() - began:.0f} s in all, at {rehearsal.platform.head[:7]}")
    print(f"\n{report.table()}")
    if arguments.keep:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(f"{report.table()}\n")
    return 0 if report.all_held else 1


def stage(stack: ExitStack, report: Report) -> Rehearsal:
    """Start the add-ons, the router and an empty platform; the stack ends them whatever happens."""
    folder = Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="pipit-rehearsal-", ignore_cleanup_errors=True))
    )
    redis = stack.enter_context(addons.redis_addon(folder / "redis"))
    database = stack.enter_context(addons.postgres_addon())
    router = stack.enter_context(Router())
    config = {"REDIS_URL": redis.url, "DATABASE_URL": database.url, "SECRET_KEY": token_hex(32)}
    platform = Platform(folder, router, config)
    stack.callback(platform.close)
    stack.callback(_ignore_signals)  # the first thing to happen at the end: a second Ctrl-C must not leave anything
    platform.create()
    return Rehearsal(platform, router, redis, database, report)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _python(push: Push) -> str:
    """Return which Python a build was made with, and what was said about it."""
    return " ".join(re.findall(r"Python 3\.\d+ is not .*|Building \w+ with Python 3\.\d+", push.said))


def _seconds(stopped: list[Stopped]) -> str:
    return ", ".join(f"{one.seconds:.1f}" for one in stopped)


if __name__ == "__main__":
    sys.exit(main())
