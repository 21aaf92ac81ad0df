"""`python -m bench.lab` measures the three strategies on the real Redis, shows each, and leaves nothing there."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from app.cache import STRATEGIES
from app.config import Config
from app.redis_client import Store
from bench.lab import replay
from bench.lab.__main__ import main
from bench.lab.redis_server import RedisServer
from bench.lab.replay import Outcome, Read, Stale, Workload, Write, arrivals, measure, percentile, staleness
from tests import servers
from tests.conftest import SECRET_KEY, finish
from tests.servers import wait_until

SHORT = ["--seconds", "0.5", "--readers", "80", "--writers", "8", "--pages", "5", "--build-ms", "5"]
WORKLOAD = Workload(readers=150, writers=12, pages=4, seconds=1.2, ttl=60, build_ms=10, bursts=False, seed=4)

Lab = Callable[..., Result]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Give the URL of a database that is never opened: the lab plays SQL itself."""
    return f"sqlite:///{tmp_path / 'pipit.db'}"


@pytest.fixture
def store(config: Config, redis: Redis) -> Iterator[Store]:
    with closing(Store(config)) as store:
        yield store


@pytest.fixture
def lab(database_url: str, redis_url: str, redis: Redis) -> Lab:
    """Give a function that runs the lab with these options on the tests' Redis, or another."""

    def run(*options: str, redis_url: str = redis_url) -> Result:
        environ = {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "SECRET_KEY": SECRET_KEY}
        return CliRunner().invoke(main, options, env=environ)

    return run


def test_the_table_and_the_report_tell_of_every_strategy_and_of_every_figure(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    result = lab(*SHORT, "--report", str(path))
    assert result.exit_code == 0, result.output
    assert "80 reads and 8 posts a second, 5 pages, 5 ms to build one, a time to live of 3 s" in result.output
    assert re.search(r"^ +invalidate +refresh +expire$", result.output, re.MULTILINE)
    html = path.read_text()
    for name in STRATEGIES:
        assert f'<th scope="col" class="{name}">{name}</th>' in html
    for label, unit in [("hit rate", "%"), ("read latency, p99", "ms"), ("Redis memory at the end", "kB")]:
        told = re.search(rf"^{label}, {unit} +([\d.,]+) +([\d.,]+) +([\d.,]+)$", result.output, re.MULTILINE)
        assert told, label
        assert "".join(f"<td>{value}</td>" for value in told.groups()) in html
    assert max(map(len, result.stdout.splitlines()[2:18])) <= 80
    assert f"The same with charts: {path}" in result.output
    assert "None" not in html


def test_the_report_needs_nothing_but_itself_and_names_no_place_of_this_machine(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    lab(*SHORT, "--profile", "spiky", "--report", str(path))
    html = path.read_text()
    page = Page()
    page.feed(html)
    assert page.fetched == []
    assert not re.search(r"url\(|@import|<script", html)
    assert page.open == []
    assert html.count('class="pygal-chart"') == 5
    assert "prefers-color-scheme: dark" in html
    assert str(tmp_path) not in html
    assert len(html) < 150_000


def test_its_keys_are_gone_afterwards_and_nobody_elses_are(lab: Lab, redis: Redis) -> None:
    redis.set("page:latest", "the town's")
    redis.set("cache-lab:", "somebody's")
    seen: set[str] = set()
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.02):
            seen.update(redis.scan_iter(match="cache-lab:*"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert lab(*SHORT).exit_code == 0
    watching.set()
    finish(watcher)
    assert any(re.fullmatch(r"cache-lab:[0-9a-f]{8}:page:latest", key) for key in seen)
    assert set(redis.keys()) == {"page:latest", "cache-lab:"}


def test_its_keys_have_the_apps_prefix_in_front(config: Config) -> None:
    with replay.laboratory(replace(config, redis_prefix="town*:")) as store:
        assert re.fullmatch(r"town\*:cache-lab:[0-9a-f]{8}:", store.prefix)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ZeroDivisionError])
def test_its_keys_are_gone_when_it_is_interrupted(
    lab: Lab, redis: Redis, monkeypatch: pytest.MonkeyPatch, ending: type[BaseException]
) -> None:
    before = threading.active_count()
    sent = 0

    def tick_then_stop(*_arguments: object) -> None:
        nonlocal sent
        sent += 1
        if sent == 20:
            wait_until(lambda: redis.exists(*redis.keys("cache-lab:*") or ["none"]), "a page in the cache")
            raise ending

    monkeypatch.setattr("click._termui_impl.ProgressBar.update", tick_then_stop)
    result = lab(*SHORT)
    assert result.exit_code == 1
    assert sent == 20
    assert redis.keys() == []
    assert threading.active_count() == before


def test_one_clear_line_says_that_redis_is_away(lab: Lab) -> None:
    result = lab(*SHORT, redis_url="redis://127.0.0.1:1/0")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"Error: Redis does not answer: .+\. Check REDIS_URL, and that the server runs\.\n", result.stderr
    )
    assert result.stdout == ""


def test_one_clear_line_says_that_redis_went_away_while_the_lab_ran(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent = 0
    with servers.valkey() as server:

        def tick(*_arguments: object) -> None:
            nonlocal sent
            sent += 1
            if sent == 20:
                server.stop()

        monkeypatch.setattr("click._termui_impl.ProgressBar.update", tick)
        result = lab(*SHORT, redis_url=f"redis://127.0.0.1:{server.port}/0")
    assert result.exit_code == 1
    assert sent >= 20
    assert result.stdout == ""
    assert re.search(r"^Error: Redis does not answer: .+\.$", result.stderr, re.MULTILINE)
    assert caplog.messages == []


def test_a_full_redis_is_told_of(lab: Lab, redis: Redis) -> None:
    redis.config_set("maxmemory", 1)
    try:
        result = lab("--seconds", "0.2", "--writers", "0")
    finally:
        redis.config_set("maxmemory", 0)
    assert result.exit_code == 0
    for name in STRATEGIES:
        assert re.search(rf"^{name}: Redis was away, slow or full for \d+ reads\.$", result.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--profile", "lazy"], "'lazy' is not one of 'quiet', 'busy', 'spiky'"),
        (["--readers", "-1"], "'--readers': -1.0 is not in the range 0<=x<=2000"),
        (["--writers", "many"], "'--writers': 'many' is not a valid float"),
        (["--pages", "0"], "'--pages': 0 is not in the range 1<=x<=1000"),
        (["--seconds", "0"], "'--seconds': 0.0 is not in the range 0<x<=600"),
        (["--readers", "inf"], "'--readers': inf is not in the range"),
        (["--ttl", "0"], "'--ttl': 0 is not in the range 1<=x<=3600"),
        (["--build-ms", "2001"], "'--build-ms': 2001 is not in the range 0<=x<=2000"),
        (["--report", "nowhere/at/all.html"], "'--report': 'nowhere/at/all.html': No such file or directory"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_runs(
    lab: Lab, redis: Redis, options: list[str], complaint: str
) -> None:
    result = lab(*options)
    assert result.exit_code == 2
    assert complaint in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["invalidate", "refresh"])
def test_nothing_stale_is_served_with(name: str, store: Store) -> None:
    outcome = measured(store, name)
    assert outcome.writes > 5
    assert outcome.reads > 100
    assert outcome.stale == ()


def test_expire_serves_what_is_stale_and_saves_the_work(store: Store) -> None:
    outcome = measured(store, "expire")
    assert outcome.stale
    assert 0 < outcome.stale_ages[-1] < WORKLOAD.seconds + 1
    assert outcome.rebuilds == WORKLOAD.pages  # each once, since none expires
    assert outcome.hit_rate > 0.9


def test_refresh_builds_for_the_readers_and_lets_the_writer_wait(store: Store) -> None:
    invalidate, refresh = measured(store, "invalidate"), measured(store, "refresh")
    assert refresh.hits > invalidate.hits
    assert refresh.rebuilds >= 2 * refresh.writes
    assert (percentile(refresh.write_latency, 50) or 0) > 2 * WORKLOAD.build_ms / 1000


def test_every_request_is_made_and_counted_once(store: Store) -> None:
    ticks: list[None] = []
    outcome = measured(store, "invalidate", lambda: ticks.append(None))
    schedule = arrivals(WORKLOAD)
    assert len(ticks) == len(schedule) == outcome.reads + outcome.writes
    assert outcome.writes == sum(arrival.is_write for arrival in schedule)
    assert outcome.hits + outcome.waited <= outcome.reads
    assert outcome.commands["get"] >= outcome.reads
    assert outcome.memory
    assert 4_000 < outcome.memory < WORKLOAD.pages * replay.PAGE_SIZE / 3  # kept compressed


def test_a_seed_repeats_its_arrivals_and_another_has_others() -> None:
    assert arrivals(WORKLOAD) == arrivals(WORKLOAD)
    other = replace(WORKLOAD, seed=5)
    assert arrivals(WORKLOAD) != arrivals(other)


def test_the_latest_posts_are_read_most_and_every_post_is_on_them_and_on_its_authors_page() -> None:
    schedule = arrivals(replace(WORKLOAD, seconds=60))
    reads = [arrival.pages for arrival in schedule if not arrival.is_write]
    assert abs(len(reads) - 60 * WORKLOAD.readers) < 400
    assert 1.7 < reads.count(("latest",)) / reads.count(("user:1",)) < 2.3
    assert {len(arrival.pages) for arrival in schedule if arrival.is_write} == {2}
    assert all(arrival.pages[0] == "latest" for arrival in schedule if arrival.is_write)
    assert [arrival.due for arrival in schedule] == sorted(arrival.due for arrival in schedule)


def test_a_burst_has_twenty_times_the_usual_arrivals() -> None:
    schedule = arrivals(replace(WORKLOAD, seconds=100, bursts=True, readers=10, writers=0))
    in_bursts = sum(arrival.due % 5 >= 4 for arrival in schedule)
    between = len(schedule) - in_bursts
    assert 4 < in_bursts / between < 6  # 20 times the rate, in a quarter of the time
    assert not any(arrival.is_write for arrival in schedule)


def test_a_read_is_stale_if_a_newer_version_was_acknowledged_before_it_began() -> None:
    def read(began: float, version: int) -> Read:
        return Read(began, began, began + 0.1, "latest", version, "Pipit; hit")

    writes = [Write(0.9, 1.0, (("latest", 1),)), Write(1.9, 4.0, (("latest", 2),)), Write(2.0, 3.0, (("latest", 3),))]
    reads = [read(0.5, 0), read(1.0, 0), read(1.5, 1), read(2.0, 0), read(3.5, 1), read(3.5, 2), read(9.0, 3)]
    # Version 3 was acknowledged before version 2: from then on both 1 and 2 are old.
    assert list(staleness(reads, writes)) == [Stale(2.0, 1.0), Stale(3.5, 0.5), Stale(3.5, 0.5)]


def test_the_lab_sees_what_a_cache_without_leases_would_serve(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove that "nothing stale" can fail: here a fill that began before a write is stored after it."""
    monkeypatch.setattr("app.cache.STORE", "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1")
    eager = replace(WORKLOAD, pages=2, writers=20, build_ms=60, seconds=1.5)
    with replay.laboratory(store.config) as own:
        assert measure(own, STRATEGIES["invalidate"](), eager, lambda: None).stale


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 2), (75, 3), (99, 4), (100, 4)])
def test_a_percentile_is_the_nearest_rank(percent: float, value: float) -> None:
    assert percentile([1, 2, 3, 4], percent) == value
    assert percentile([], percent) is None


def test_a_lab_without_writers_or_readers_has_a_report_all_the_same(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    result = lab("--seconds", "0.3", "--readers", "0", "--writers", "0", "--report", str(path))
    assert result.exit_code == 0, result.output
    assert re.search(r"^post latency, p50, ms +– +– +–$", result.output, re.MULTILINE)
    assert path.read_text().count('class="pygal-chart"') == 5


def test_others_on_the_server_are_told_of(lab: Lab, redis: Redis) -> None:
    redis.ping()
    assert "Others share the server (" in lab("--seconds", "0.1").output


def test_deleting_by_prefix_takes_the_prefix_literally_and_never_everything(store: Store, redis: Redis) -> None:
    redis.mset({"a*:1": "1", "a*:2": "2", "ab:1": "3"})
    assert RedisServer(store).delete("a*:") == 2
    assert redis.keys() == ["ab:1"]
    with pytest.raises(ValueError, match="every key"):
        RedisServer(store).delete("")


def test_memory_is_unknown_where_the_server_does_not_tell(store: Store, redis: Redis) -> None:
    redis.set("a:1", "x" * 1000)
    assert 1000 < (RedisServer(store).memory("a:") or 0) < 3000
    redis.execute_command("ACL", "SETUSER", "default", "-memory")
    try:
        assert RedisServer(store).memory("a:") is None
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "+memory")


def measured(store: Store, name: str, tick: Callable[[], None] = lambda: None) -> Outcome:
    with replay.laboratory(store.config) as own:
        return measure(own, STRATEGIES[name](), WORKLOAD, tick)


VOID = {"meta"}


class Page(HTMLParser):
    """What a page would fetch, and which elements it leaves open."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [
            f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "xlink:href", "data")
        ]
        if tag in ("link", "script", "iframe", "object", "embed", "img", "use", "base"):
            self.fetched.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.remove(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
