"""The benchmarks' town: what is asked of it, and what came of it."""

from pathlib import Path

import pytest

from bench import town
from bench.building import Build
from bench.crawl import Crawl, Memory
from bench.findings import Findings, targets
from bench.home import BEFORE, NOW, Looks
from bench.load import sequence_file
from bench.publishing import Publishing
from bench.report import keep


def test_people_ask_for_the_second_page_half_as_often_as_for_the_first() -> None:
    paths = [f"/{number}" for number in range(5_000)]
    asked = [path for path, _ in town.as_people_do(paths, "")]
    assert 1.9 < asked.count("/0") / asked.count("/1") < 2.1
    assert 9 < asked.count("/0") / asked.count("/9") < 11
    assert town.as_people_do(paths, "") == town.as_people_do(paths, "")


def test_a_list_of_requests_has_a_path_and_a_cookie_in_each_line(tmp_path: Path) -> None:
    file = sequence_file(tmp_path / "requests.txt", [("/", ""), ("/home", "session=a")])
    assert file.read_text() == "/ \n/home session=a\n"


def test_a_commit_whose_history_is_missing_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert town.earlier("0123456789abcdef", tmp_path) is None
    assert "left out: commit 0123456789abcdef is not here" in capsys.readouterr().err


def test_what_was_found_in_the_town_is_compared_with_what_is_aimed_at(tmp_path: Path) -> None:
    findings = Findings(
        {},
        rounds=1,
        seconds=1,
        home={NOW: [Looks(2.0, 1.0)], BEFORE: [Looks(9.0, 8.0)]},
        builds={"/": {"known": Build([0.9], [1.7]), "unknown": Build([5.0], [5.0])}},
        processes={1: Publishing(4.0, 3.0, 5.0, 4), 32: Publishing(5.0, 4.0, 6.0, 128)},
        followers={10_000: Publishing(101.0, 90.0, 110.0, 4)},
        memory=Memory(70_000_000, 80_000_000, 80_500_000, 91_000_000),
        crawl=Crawl(100, 200.0, 7_000_000, 3, ["no session"]),
    )
    verdicts = {target.what: target.verdict for target in targets(findings) if target.found is not None}
    assert verdicts == {
        "/home, somebody has posted each time, of commit d10452f's": "reached",
        "building `/` with known posts, of commit 8637db1": "missed",
        "publishing with 32 web processes, of with one": "reached",
        "publishing with 10,000 followers who were here": "missed",
        "a worker's memory after 100,000 requests for all pages": "reached",
        "its growth over the last 50,000": "reached",
        "and after a stranger has asked for 100,000 pages": "missed",
        "cached pages in Redis, while a stranger asks for all": "reached",
        "logins that a full Redis refused meanwhile": "missed",
    }
    keep(findings, tmp_path)
    assert "| Pipit at d10452f | 9.0 | 8.0 |" in (tmp_path / "results.md").read_text()
    assert "web processes: 32" in (tmp_path / "publishing.svg").read_text()
