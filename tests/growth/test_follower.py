"""A follower that is two seconds behind: what may be stale is, what must not be is not, and it may die."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from app.config import parse_database_url
from tests import servers
from tests.conftest import unavailable
from tests.faults.traffic import Browser, visitors
from tests.servers import ROOT, Pipit, wait_until

BEHIND = 2.0  # s
OLDER = "?before=1000000"  # below which all posts are, and which is no cached page


@dataclass
class Site:
    """A Pipit with two processes that has a follower, and both its databases."""

    pipit: Pipit
    primary: Engine
    follower: Engine

    def wait_for_follower(self) -> None:
        """Wait until the follower has repeated all that has been written by now."""
        now = self.ask(self.primary, "SELECT pg_current_wal_lsn()")
        wait_until(lambda: self.ask(self.follower, f"SELECT pg_last_wal_replay_lsn() >= '{now}'"), "the follower")

    def run(self, *command: str) -> str:
        """Run a `flask` command; return what it prints."""
        arguments = [sys.executable, "-m", "flask", *command]
        ran = subprocess.run(arguments, cwd=ROOT, env=self.pipit.environ, check=False, capture_output=True, text=True)
        return ran.stdout

    @staticmethod
    def ask(engine: Engine, sql: str) -> object:
        with engine.connect() as connection:
            return connection.scalar(text(sql))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    programs = servers.postgresql_programs()
    if programs is None:
        unavailable("PostgreSQL's programs are not installed")
    with ExitStack() as stack:
        primary = stack.enter_context(servers.postgresql(programs))
        follower = stack.enter_context(servers.follower(programs, primary, BEHIND))
        redis = stack.enter_context(servers.valkey())
        urls = [parse_database_url(url) for url in (primary, follower)]
        folder, redis_url = tmp_path_factory.mktemp("site"), f"redis://127.0.0.1:{redis.port}/0"
        settings = {"DATABASE_URL": urls[0], "DATABASE_READ_URL": urls[1]}
        pipit = stack.enter_context(servers.pipit(folder, redis_url, **settings))
        engines = [create_engine(make_url(url), isolation_level="AUTOCOMMIT") for url in urls]
        yield Site(pipit, *engines)
        for engine in engines:
            engine.dispose()


@pytest.fixture
def people(site: Site, request: pytest.FixtureRequest) -> Iterator[list[Browser]]:
    """Give a writer and a reader who have just joined, and a stranger. The first writes, but nobody else has yet."""
    number = len(request.node.name)  # a name of their own in each test
    names = [f"writer{number}", f"reader{number}"]
    with visitors([Browser(site.pipit.port) for _ in range(3)]) as browsers:
        for name, browser in zip(names, browsers, strict=False):
            browser.register(name)
        site.wait_for_follower()
        yield browsers


def publish(site: Site, writer: Browser, body: str) -> int:
    """Publish a post; return its id."""
    assert writer.publish(body).status == 302
    return int(str(site.ask(site.primary, "SELECT max(id) FROM posts")))


def pages(writer: str, word: str) -> list[str]:
    """Return the pages that may come from the follower."""
    lists = ["/", f"/@{writer}", f"/@{writer}/replies", f"/tags/{word}"]
    return [*(path + OLDER for path in lists), f"/search?q={word}"]


def shows(browser: Browser, path: str, what: str) -> bool:
    answer = browser.get(path)
    assert answer.status == 200, (path, answer.text)
    return what in answer.text


def name_of(browser: Browser) -> str:
    found = re.search(r'href="/@(\w+)"', browser.get("/home").text)
    assert found
    return found[1]


def test_others_see_a_post_late_on_pages_that_may_be_stale_and_at_once_on_all_others(
    site: Site, people: list[Browser]
) -> None:
    writer, _, stranger = people
    name = name_of(writer)
    publish(site, writer, "About #ferns, written just now")
    for path in ("/", f"/@{name}", "/tags/ferns", "/feed.atom"):
        assert shows(stranger, path, "written just now"), path
    assert [path for path in pages(name, "ferns") if shows(stranger, path, "written just now")] == []
    site.wait_for_follower()
    assert [path for path in pages(name, "ferns") if not shows(stranger, path, "written just now")] == []


def test_nobody_misses_their_own_write(site: Site, people: list[Browser]) -> None:
    writer = people[0]
    name = name_of(writer)
    for number in range(3):
        publish(site, writer, f"Number {number} about #moss")
        for path in (*pages(name, "moss"), f"/home{OLDER}"):
            assert shows(writer, path, f"Number {number} about"), path


def test_a_deleted_post_is_gone_at_once_and_an_edit_shows_at_once(site: Site, people: list[Browser]) -> None:
    writer, _, stranger = people
    name = name_of(writer)
    gone = publish(site, writer, "To be deleted #peat")
    edited = publish(site, writer, "To be edited #peat")
    site.wait_for_follower()
    assert all(shows(stranger, path, "To be deleted") for path in pages(name, "peat"))
    assert writer.post(f"/posts/{gone}/delete", f"/@{name}/{gone}").status == 302
    body = {"body": "Put right #peat"}
    assert writer.post(f"/posts/{edited}/edit", f"/posts/{edited}/edit", **body).status == 302
    for path in pages(name, "peat"):
        assert not shows(stranger, path, "To be"), path
        assert shows(stranger, path, "Put right"), path


def test_whom_somebody_blocks_they_see_no_more_at_once(site: Site, people: list[Browser]) -> None:
    writer, reader, _ = people
    name = name_of(writer)
    publish(site, writer, "Not for everyone #bog")
    site.wait_for_follower()
    lists = [path for path in pages(name, "bog") if not path.startswith("/@")]
    assert all(shows(reader, path, "Not for everyone") for path in lists)
    assert reader.post(f"/@{name}/block", f"/@{name}").status == 302
    for browser in (reader, writer):
        shown = [shows(browser, path, "Not for everyone") for path in lists]
        assert shown == [browser is writer] * len(lists)
    assert reader.get(f"/@{name}{OLDER}").status == 403


def test_whoever_deletes_their_account_is_found_no_more_at_once(site: Site, people: list[Browser]) -> None:
    writer, _, stranger = people
    name = name_of(writer)
    publish(site, writer, "Farewell #heath")
    site.wait_for_follower()
    assert shows(stranger, f"/search?q={name}", f"/@{name}")
    site.run("user", "delete", name, "--yes")
    assert not shows(stranger, f"/search?q={name}", f"/@{name}")
    assert not shows(stranger, f"/tags/heath{OLDER}", "Farewell")


def test_what_is_read_from_the_follower_is_not_what_fills_the_cache(site: Site, people: list[Browser]) -> None:
    writer, _, stranger = people
    name = name_of(writer)
    publish(site, writer, "First about #lichen")
    for path in pages(name, "lichen"):
        stranger.get(path)
    publish(site, writer, "Second about #lichen")
    for path in ("/", f"/@{name}", "/tags/lichen", "/tags"):
        text_of = stranger.get(path).text
        assert "Second about" in text_of or (path == "/tags" and "lichen" in text_of), path


def test_the_doctor_tells_how_far_the_follower_is_behind(site: Site) -> None:
    site.wait_for_follower()
    found = {finding["check"]: finding for finding in json.loads(site.run("doctor", "--json"))["findings"]}
    assert re.match(r"follows, at most [0-9.]+ s behind", found["database.follower"]["fact"])
    assert found["database.follower"]["level"] == "ok"


def test_without_its_follower_the_site_reads_from_the_primary_and_says_so_once(
    site: Site, people: list[Browser]
) -> None:
    writer, _, stranger = people
    name = name_of(writer)
    publish(site, writer, "About #sedge, all alone")
    data = Path(str(site.ask(site.follower, "SHOW data_directory")))
    os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)  # as in a crash
    wait_until(lambda: not (data / "postmaster.pid").exists(), "the follower to end")
    for _ in range(5):
        assert all(shows(stranger, path, "all alone") for path in pages(name, "sedge"))
    said = [line for line in site.pipit.log.read_text().splitlines() if "the follower" in line]
    assert 1 <= len(said) <= 2, said  # once in each process
    assert all("reading from the primary" in line for line in said)
