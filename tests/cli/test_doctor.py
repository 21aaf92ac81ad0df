"""`flask doctor` says what an operator would see: each judgment by itself, then the command on real servers."""

import json
import os
import pty
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask_migrate import stamp
from redis import Redis
from sqlalchemy import text

from app.cli.doctor import checks, server_stats
from app.cli.doctor.checks import Finding
from app.cli.doctor.facts import DatabaseFacts, NamedPython, RedisFacts, named_python
from app.cli.doctor.report import as_lines
from app.cli.doctor.server_stats import KeySample, ServerStats
from app.config import Config, parse_redis_url
from app.extensions import db
from app.redis_client import UNVERIFIED, Store, StoreUnavailableError
from tests import servers
from tests.conftest import SECRET_KEY, Visitor
from tests.servers import ROOT, clean_environ

pytestmark = pytest.mark.server

STRONG = secrets.token_hex(32)
PASSWORD = "hunter2-is-not-to-be-seen"
LAPTOP = Config(
    runs_commands=True,
    redis=parse_redis_url("redis://127.0.0.1:6379/0"),
    database_url="sqlite:////tmp/pipit.db",
    secret_key=STRONG,
)
DYNO = replace(
    LAPTOP,
    redis=parse_redis_url(f"rediss://:{PASSWORD}@redis.example.org:6380/0"),
    database_url=f"postgresql+psycopg://pipit:{PASSWORD}@db.example.org/pipit",
    on_heroku=True,
    redis_tls_verify=False,
    trusted_proxies=1,
    trusted_hosts=("pipit.example.org",),
    memory=512,
)
INFO = {
    "redis_version": "7.2.4",
    "valkey_version": "8.1.3",
    "role": "master",
    "used_memory": 2_000_000,
    "maxmemory": 25_000_000,
    "maxmemory_policy": "volatile-ttl",
    "aof_enabled": 1,
    "maxclients": 20,
    "connected_clients": 9,
}
REDIS = RedisFacts(
    round_trip=0.0008,
    info=INFO,
    refusal=None,
    settings={"timeout": "300", "save": "", "maxclients": "20"},
    connection_names=["pipit"] * 5,
    clock_lead=0.01,
    sessions=KeySample(1000, True, 360.0),
    indexes=KeySample(1000, True, 100.0),
)
POSTGRESQL = DatabaseFacts("PostgreSQL", "17.4", 0.002, ("0001",), ("0001",), 0, connections=3, limit=20)
REFUSED = RedisFacts(0.001, {}, None, {"timeout": None, "save": None, "maxclients": None}, None, None, None, None)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def run(app: Flask, *arguments: str, **options: Any) -> Result:
    return app.test_cli_runner().invoke(args=["doctor", *arguments], **options)


def findings(app: Flask, *arguments: str) -> dict[str, Finding]:
    """Return what the command finds, by check."""
    said = json.loads(run(app, "--json", *arguments).stdout)["findings"]
    return {each["check"]: Finding(each["check"], each["level"], each["fact"], each["remedy"]) for each in said}


def with_info(**changes: Any) -> RedisFacts:
    return replace(REDIS, info={name: value for name, value in (INFO | changes).items() if value is not None})


# The judgments


def test_a_good_deployment_has_nothing_but_ok() -> None:
    every = [
        *checks.redis_findings(REDIS, DYNO),
        checks.database_kind(DYNO),
        *checks.database_findings(POSTGRESQL, DYNO),
        *checks.settings_findings(DYNO),
        checks.python_version(DYNO, "3.13.5"),
        checks.python_runtime(DYNO, NamedPython("runtime.txt", "3.13"), "3.13.5"),
    ]
    assert [finding for finding in every if finding.level != "ok"] == []


@pytest.mark.parametrize(
    ("changes", "level", "fact"),
    [
        ({}, "ok", "Valkey 8.1.3"),
        ({"valkey_version": "9.9.0"}, "ok", "Valkey 9.9.0"),
        ({"valkey_version": None, "redis_version": "7.4.1"}, "ok", "Redis 7.4.1"),
        ({"valkey_version": None, "redis_version": "6.2.0"}, "ok", "Redis 6.2.0"),
        ({"valkey_version": None, "redis_version": "6.0.16"}, "warning", "older than 6.2: no GETEX"),
        ({"valkey_version": None, "redis_version": "2.8.24"}, "warning", "older than 6.2: no GETEX"),
        ({"valkey_version": None, "redis_version": None}, "note", "can't be read here"),
    ],
)
def test_a_server_without_getex_is_told_from_one_that_has_it(changes: dict[str, Any], level: str, fact: str) -> None:
    finding = checks.redis_version(with_info(**changes), LAPTOP)
    assert finding.level == level
    assert fact in finding.fact


@pytest.mark.parametrize(("version", "level"), [("9.6.24", "problem"), ("10.23", "ok"), ("19.0", "ok")])
def test_a_postgresql_that_is_too_old_is_a_problem(version: str, level: str) -> None:
    assert checks.database_version(replace(POSTGRESQL, version=version), DYNO).level == level


@pytest.mark.parametrize(("version", "level"), [("3.10.12", "problem"), ("3.11.0", "ok"), ("3.20.1", "ok")])
def test_a_python_that_is_too_old_is_a_problem(version: str, level: str) -> None:
    assert checks.python_version(DYNO, version).level == level


@pytest.mark.parametrize(
    ("policy", "level", "fact"),
    [
        ("noeviction", "note", "refuses new ones"),
        ("volatile-ttl", "ok", "cached pages go long before sessions"),
        ("volatile-lru", "warning", "logs those people out"),
        ("allkeys-lru", "warning", "logs those people out"),
        ("allkeys-random", "warning", "sessions too"),
        ("of-the-future", "warning", "may drop sessions"),
    ],
)
def test_what_an_eviction_policy_means_for_sessions(policy: str, level: str, fact: str) -> None:
    finding = checks.redis_eviction(with_info(maxmemory_policy=policy), LAPTOP)
    assert finding.level == level
    assert fact in finding.fact
    assert (finding.remedy is None) == (level == "ok")


def test_without_a_limit_no_policy_drops_a_session() -> None:
    assert checks.redis_eviction(with_info(maxmemory_policy="allkeys-lru", maxmemory=0), LAPTOP).level == "ok"
    memory = checks.redis_memory(with_info(maxmemory=0), LAPTOP)
    assert (memory.level, memory.fact) == ("note", "2.0 MB used, no limit set")


def test_keys_that_were_dropped_are_counted() -> None:
    finding = checks.redis_eviction(with_info(maxmemory_policy="allkeys-lru", evicted_keys=1234), LAPTOP)
    assert "1,234 keys were dropped" in finding.fact


@pytest.mark.parametrize(("used", "level"), [(19_900_000, "ok"), (20_000_000, "warning"), (24_000_000, "problem")])
def test_memory_is_judged_against_its_limit(used: int, level: str) -> None:
    finding = checks.redis_memory(with_info(used_memory=used), DYNO)
    assert finding.level == level
    assert "of 25.0 MB used" in finding.fact


@pytest.mark.parametrize(
    ("aof", "save", "level", "fact"),
    [
        (1, "", "ok", "everyone is still logged in"),
        (0, "3600 1", "note", "newer than the last one are gone"),
        (0, "", "note", "a restart of Redis logs everyone out"),
        (0, None, "note", "can't be read here"),
    ],
)
def test_what_a_restart_of_redis_costs(aof: int, save: str | None, level: str, fact: str) -> None:
    facts = replace(with_info(aof_enabled=aof), settings={"save": save})
    finding = checks.redis_persistence(facts, LAPTOP)
    assert finding.level == level
    assert fact in finding.fact


def test_a_server_that_takes_no_writes_is_a_problem() -> None:
    assert checks.redis_role(with_info(role="slave"), LAPTOP).level == "problem"
    assert checks.redis_role(with_info(rdb_last_bgsave_status="err"), LAPTOP).level == "problem"
    assert checks.redis_role(with_info(rdb_last_bgsave_status="ok"), LAPTOP).level == "ok"


def test_the_formation_is_counted_against_the_connections() -> None:
    two = checks.redis_formation(REDIS, DYNO)
    assert two.fact == "2 workers x REDIS_MAX_CONNECTIONS 4 = at most 8 a dyno; 2 such dynos fit into 20"
    others = checks.redis_formation(replace(REDIS, connection_names=["pipit", "", "sidekiq"]), DYNO)
    assert others.fact.endswith("2 such dynos fit into 20 beside 2 others")
    large = checks.redis_formation(REDIS, replace(DYNO, workers=6))
    assert large.level == "problem"
    assert large.remedy == "heroku config:set REDIS_MAX_CONNECTIONS=3"
    assert checks.redis_formation(REDIS, replace(DYNO, workers=6, redis_max_connections=3)).level == "ok"


def test_connections_are_judged_before_they_run_out() -> None:
    busy = checks.redis_connections(replace(REDIS, connection_names=["pipit"] * 15 + ["other"]), DYNO)
    assert busy.level == "warning"
    assert busy.fact.startswith("16 of 20 connections in use, 15 of them Pipit's")
    refused = checks.redis_connections(with_info(rejected_connections=7), LAPTOP)
    assert refused.level == "warning"
    assert "7 were refused" in refused.fact
    blind = checks.redis_connections(replace(REDIS, connection_names=None), DYNO)
    assert (blind.level, blind.fact) == ("ok", "9 of 20 connections in use")


@pytest.mark.parametrize(("seconds", "level"), [("0", "ok"), ("300", "ok"), ("10", "note"), (None, "note")])
def test_the_idle_timeout(seconds: str | None, level: str) -> None:
    assert checks.redis_timeout(replace(REDIS, settings={"timeout": seconds}), DYNO).level == level


@pytest.mark.parametrize(("lead", "level"), [(0.3, "ok"), (-1.9, "ok"), (5.0, "warning"), (-61.0, "problem")])
def test_a_clock_that_is_off_is_said_with_what_it_does(lead: float, level: str) -> None:
    finding = checks.redis_clock(replace(REDIS, clock_lead=lead), LAPTOP)
    assert finding.level == level
    if level != "ok":
        assert "login attempts" in finding.fact
        assert ("ahead of" if lead > 0 else "behind") in finding.fact


def test_sessions_are_counted_and_the_room_that_is_left() -> None:
    finding = checks.redis_sessions(REDIS, DYNO)
    assert finding.fact == "1,000 sessions, 460 bytes each with its place in the index; room for some 50,000 more"
    full = replace(with_info(used_memory=24_990_000), sessions=KeySample(50_000, False, 360.0))
    finding = checks.redis_sessions(full, DYNO)
    assert finding.level == "warning"
    assert finding.fact.startswith("50,000 sessions or more")
    assert checks.redis_sessions(replace(REDIS, sessions=KeySample(0, True, None)), DYNO).fact.startswith("0 sessions")


def test_a_certificate_that_can_not_be_verified_has_a_remedy_of_its_own() -> None:
    why = "ConnectionError: Error 1 connecting to redis.example.org:6380. [SSL: CERTIFICATE_VERIFY_FAILED]"
    assert "REDIS_TLS_VERIFY=no" in str(checks.redis_away(why, UNVERIFIED, LAPTOP).remedy)
    assert "REDIS_TLS_VERIFY" not in str(checks.redis_away("TimeoutError", None, LAPTOP).remedy)


@pytest.mark.parametrize(
    ("url", "verify", "on_heroku", "level"),
    [
        ("redis://127.0.0.1:6379/0", True, False, "ok"),
        ("redis://redis.example.org:6379/0", True, False, "warning"),
        ("redis://dory.redistogo.com:9876/", False, True, "warning"),
        ("rediss://redis.example.org:6379/0", True, False, "ok"),
        ("rediss://redis.example.org:6379/0", False, False, "warning"),
        ("rediss://redis.example.org:6379/0", False, True, "ok"),
    ],
)
def test_tls_and_whether_it_is_verified(url: str, verify: bool, on_heroku: bool, level: str) -> None:
    config = replace(LAPTOP, redis=parse_redis_url(url), redis_tls_verify=verify, on_heroku=on_heroku)
    assert checks.redis_tls(config).level == level


@pytest.mark.parametrize("finding", list(checks.redis_findings(REFUSED, DYNO)), ids=lambda finding: finding.check)
def test_what_may_not_be_asked_is_never_more_than_a_note(finding: Finding) -> None:
    assert finding.level in ("ok", "note")
    assert finding.level == "ok" or "can't be read here" in finding.fact


@pytest.mark.parametrize(
    ("key", "level"),
    [
        pytest.param(STRONG, "ok", id="hex"),
        pytest.param(secrets.token_urlsafe(24), "ok", id="base64"),
        pytest.param(secrets.token_hex(10), "warning", id="short"),
        ("x" * 40, "problem"),
        ("0123456789" * 4 + "01", "problem"),
        ("abcdefghijklmnopqrstuvwxyz0123456789", "problem"),
        ("aabbccddeeffaabcbdbefadbcfafefabcebf", "problem"),
        ("192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf", "problem"),
        ("django-insecure-8f$2k!q0x7v@3m#r9w", "problem"),
        (SECRET_KEY, "problem"),  # it is public: it stands in these tests
        ("Your-Secret-Key-Goes-Right-Here-1234", "problem"),
    ],
)
def test_a_key_that_can_be_guessed_is_told_from_one_that_can_not(key: str, level: str) -> None:
    finding = checks.secret_key(replace(LAPTOP, secret_key=key))
    assert finding.level == level
    assert key not in finding.fact + str(finding.remedy)


def test_random_keys_are_never_called_weak() -> None:
    for make in (secrets.token_hex, secrets.token_urlsafe):
        for _number in range(500):
            assert checks.secret_key(replace(LAPTOP, secret_key=make(32))).level == "ok"


@pytest.mark.parametrize(
    ("on_heroku", "proxies", "level"),
    [(True, 1, "ok"), (True, 0, "problem"), (True, 2, "warning"), (False, 0, "note"), (False, 1, "ok")],
)
def test_the_number_of_proxies(on_heroku: bool, proxies: int, level: str) -> None:
    assert checks.https(replace(LAPTOP, on_heroku=on_heroku, trusted_proxies=proxies)).level == level


@pytest.mark.parametrize(
    ("config", "hosts", "level"),
    [
        (DYNO, ("pipit.example.org",), "ok"),
        (DYNO, (), "note"),
        (DYNO, ("localhost", "127.0.0.1"), "problem"),
        (LAPTOP, (), "ok"),
        (LAPTOP, ("localhost",), "ok"),
        (replace(LAPTOP, trusted_proxies=1), (), "note"),
    ],
)
def test_the_names_that_pipit_answers_to(config: Config, hosts: tuple[str, ...], level: str) -> None:
    assert checks.trusted_hosts(replace(config, trusted_hosts=hosts)).level == level


@pytest.mark.parametrize(
    ("files", "config", "level", "fact"),
    [
        ({"runtime.txt": "python-3.13\n"}, DYNO, "ok", "runtime.txt says 3.13, and this is it"),
        ({"runtime.txt": "python-3.13.5"}, DYNO, "ok", "runtime.txt says 3.13.5, and this is it"),
        ({".python-version": "# of production\n3.13\n"}, DYNO, "ok", ".python-version says 3.13, and this is it"),
        ({"runtime.txt": "python-3.12", ".python-version": "3.13"}, DYNO, "warning", "runtime.txt says 3.12, this is"),
        ({"runtime.txt": "python-3.1"}, DYNO, "warning", "runtime.txt says 3.1, this is 3.13.5"),
        ({".python-version": "3.12"}, LAPTOP, "note", ".python-version says 3.12, this is 3.13.5"),
        ({".python-version": ""}, DYNO, "warning", ".python-version says nothing, this is 3.13.5"),
        ({}, DYNO, "note", "there is no runtime.txt and no .python-version"),
    ],
)
def test_the_python_that_the_tree_names(
    tmp_path: Path, files: dict[str, str], config: Config, level: str, fact: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    finding = checks.python_runtime(config, named_python(tmp_path), "3.13.5")
    assert finding.level == level
    assert finding.fact.startswith(fact)


@pytest.mark.parametrize(
    ("at", "missing", "level", "fact"),
    [
        (("0003",), 0, "ok", "as the code needs"),
        (("0001",), 2, "problem", "2 migrations behind: at 0001, and the code needs 0003"),
        ((), 3, "problem", "no tables yet"),
        (("9999",), None, "problem", "newer than the code"),
    ],
)
def test_tables_that_do_not_fit_the_code(at: tuple[str, ...], missing: int | None, level: str, fact: str) -> None:
    finding = checks.database_migrations(replace(POSTGRESQL, at=at, head=("0003",), missing=missing), DYNO)
    assert finding.level == level
    assert fact in finding.fact


def test_the_formation_is_counted_against_the_connections_of_postgresql() -> None:
    assert checks.database_formation(POSTGRESQL, DYNO).fact.endswith("at most 10 a dyno; 2 such dynos fit into 20")
    large = checks.database_formation(POSTGRESQL, replace(DYNO, workers=8))
    assert (large.level, large.remedy) == ("problem", "heroku config:set WEB_THREADS=2")
    assert checks.database_connections(replace(POSTGRESQL, connections=17), DYNO).level == "warning"
    assert checks.database_latency(replace(POSTGRESQL, round_trip=0.2), DYNO).level == "warning"


def test_slow_is_said_in_milliseconds() -> None:
    assert checks.redis_latency(REDIS, DYNO).fact.startswith("0.80 ms")
    slow = checks.redis_latency(replace(REDIS, round_trip=0.0421), DYNO)
    assert slow.level == "warning"
    assert slow.fact.startswith("42.1 ms")


def test_every_finding_that_is_not_ok_says_what_to_run() -> None:
    bad = with_info(role="slave", used_memory=24_999_999, maxmemory_policy="allkeys-lru", aof_enabled=0)
    for config in (LAPTOP, replace(LAPTOP, on_heroku=True), replace(DYNO, trusted_proxies=3, trusted_hosts=())):
        weak = replace(config, secret_key="x" * 20, workers=50)
        for facts in (REDIS, REFUSED, replace(bad, clock_lead=90.0, round_trip=1.0, connection_names=[""] * 20)):
            every = [
                checks.redis_away("away", None, weak),
                checks.database_away("away", weak),
                checks.database_kind(weak),
                *checks.redis_findings(facts, weak),
                *checks.database_findings(replace(POSTGRESQL, at=(), version="9.6.1"), weak),
                *checks.settings_findings(weak),
                checks.python_version(weak, "3.9.1"),
                checks.python_runtime(weak, None, "3.9.1"),
            ]
            for finding in every:
                assert bool(finding.remedy) == (finding.level != "ok"), finding
                assert "\n" not in finding.fact + str(finding.remedy)
                if finding.remedy and config.on_heroku:
                    assert re.match(r"heroku |git push heroku|echo (python-)?3", finding.remedy), finding


@pytest.mark.parametrize(
    ("why", "address", "remedy"),
    [
        ("max number of clients reached", "redis://a:1/0", "echo 'REDIS_MAX_CONNECTIONS=3' >> .env"),
        ("(104, 'Connection reset by peer')", "redis://a:1/0", "echo 'REDIS_URL=rediss://…@a:1/0' >> .env"),
        ("Connection closed by server.", "redis://a:1/0", "echo 'REDIS_URL=rediss://…@a:1/0' >> .env"),
        ("Timeout connecting to server", "rediss://a:1/0", "echo 'REDIS_URL=redis://…@a:1/0' >> .env"),
        ("Connection reset by peer", "rediss://a:1/0", "redis-cli -h a -p 1 --tls PING"),
        ("Connection refused", "redis://a:1/0", "redis-cli -h a -p 1 PING"),
    ],
)
def test_a_redis_that_can_not_be_used_has_the_remedy_of_its_likely_cause(why: str, address: str, remedy: str) -> None:
    config = replace(LAPTOP, redis=parse_redis_url(address))
    trouble = Store(config).trouble(StoreUnavailableError(f"ConnectionError: {why}"))
    found = checks.redis_away(why, trouble, config)
    assert (found.level, found.remedy) == ("problem", remedy)
    assert (trouble is None) == ("; it " not in found.fact)


@pytest.mark.parametrize(
    ("memory", "workers", "level", "remedy"),
    [
        (512, 2, "ok", None),
        (512, 3, "warning", "heroku config:set WEB_CONCURRENCY=2"),
        (512, 8, "problem", "heroku config:set WEB_CONCURRENCY=2"),
        (None, 2, "note", "heroku ps"),
    ],
)
def test_the_memory_of_all_workers_is_compared_with_the_dynos(
    memory: int | None, workers: int, level: str, remedy: str | None
) -> None:
    found = checks.memory(replace(DYNO, memory=memory, workers=workers))
    assert (found.level, found.remedy) == (level, remedy)


# The command


def test_a_healthy_pipit_is_told_so(make_app: Callable[..., Flask]) -> None:
    result = run(make_app(secret_key=STRONG))
    assert result.exit_code == 0
    assert re.search(r"^Redis$", result.stdout, re.MULTILINE)
    assert re.search(r"^  ok       reachable +redis://127\.0\.0\.1:\d+/0 answers$", result.stdout, re.MULTILINE)
    assert re.search(r"^0 problems, 0 warnings, \d notes?, \d+ ok$", result.stdout, re.MULTILINE)
    assert result.stdout.count("→") == len(re.findall(r"(?m)^  (?:note|warning|problem) ", result.stdout))


def test_the_facts_stand_in_one_column() -> None:
    lines = as_lines([Finding("redis.tls", "ok", "A"), Finding("settings.secret_key", "problem", "B", "C")], None)
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    places = [line.index(letter) for line, letter in ((plain[1], "A"), (plain[4], "B"), (plain[5], "→"))]
    assert len(set(places)) == 1


def test_the_json_has_the_keys_that_the_documentation_promises(make_app: Callable[..., Flask]) -> None:
    result = run(make_app(secret_key=STRONG), "--json")
    document = json.loads(result.stdout)
    assert set(document) == {"status", "counts", "findings"}
    assert list(document["counts"]) == ["ok", "note", "warning", "problem"]
    assert sum(document["counts"].values()) == len(document["findings"])
    assert document["status"] == "note"
    for finding in document["findings"]:
        assert list(finding) == ["check", "group", "level", "fact", "remedy"]
        assert finding["check"].startswith(f"{finding['group']}.")


def test_every_check_stands_in_the_documentation() -> None:
    emitted = {
        *(finding.check for finding in checks.redis_findings(REDIS, DYNO)),
        *(finding.check for finding in checks.database_findings(POSTGRESQL, DYNO)),
        *(finding.check for finding in checks.settings_findings(DYNO)),
        checks.database_kind(DYNO).check,
        checks.python_version(DYNO, "3.13.1").check,
        checks.python_runtime(DYNO, None, "3.13.1").check,
    }
    documented = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(emitted)


def test_redis_away_is_a_problem_and_the_rest_is_checked_all_the_same(make_app: Callable[..., Flask]) -> None:
    make_app()
    away = make_app(secret_key=STRONG, redis=parse_redis_url(f"redis://:{PASSWORD}@127.0.0.1:1/0"))
    result = run(away, "--json")
    assert result.exit_code == 1
    found = findings(away)
    assert found["redis.reachable"].level == "problem"
    assert "redis.latency" not in found
    assert {found["database.migrations"].level, found["settings.secret_key"].level} == {"ok"}
    assert "level=error" not in run(away).output


def test_a_wrong_password_is_a_problem_and_is_not_shown(make_app: Callable[..., Flask]) -> None:
    with servers.valkey() as server, locked(server.port, "the right one"):
        wrong = parse_redis_url(f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0")
        found = findings(make_app(redis=wrong))["redis.reachable"]
    assert found.level == "problem"
    assert "AuthenticationError" in found.fact
    assert PASSWORD not in str(found)


@pytest.mark.parametrize(
    ("kind", "check", "fact"),
    [
        ("replica", "redis.role", "a read-only replica: nobody can log in"),
        ("cluster", "redis.role", "a Redis Cluster, and this node doesn't have all of Pipit's keys"),
        ("crowded", "redis.reachable", "it has no free connection"),
        ("locked", "redis.reachable", "it refuses the password"),
    ],
)
def test_a_redis_in_which_nobody_can_log_in_is_a_problem(
    make_app: Callable[..., Flask], kind: str, check: str, fact: str
) -> None:
    with servers.unfit_redis(kind) as url:
        found = findings(make_app(redis=parse_redis_url(url)))[check]
    assert found.level == "problem"
    assert fact in found.fact
    assert "hunter2" not in str(found)


def test_a_cluster_whose_node_has_all_of_the_keys_is_well(make_app: Callable[..., Flask]) -> None:
    with servers.unfit_redis("cluster") as url:
        app = make_app(redis=parse_redis_url(url), redis_prefix="{pipit}:")
        assert findings(app)["redis.role"].level == "ok"
        assert app.test_client().get("/readyz").status_code == 200


def test_a_node_of_a_cluster_names_the_node_that_has_the_keys() -> None:
    facts = replace(REDIS, refusal="MovedError: 14489 10.0.0.7:6379")
    assert checks.redis_role(facts, DYNO).remedy == "heroku config:set REDIS_PREFIX={pipit}:"
    tagged = checks.redis_role(facts, replace(DYNO, redis_prefix="{pipit}:"))
    assert tagged.remedy == "heroku config:set REDIS_URL=rediss://…@10.0.0.7:6379/0"


def test_sql_away_is_a_problem_and_the_rest_is_checked_all_the_same(make_app: Callable[..., Flask]) -> None:
    make_app()
    away = make_app(secret_key=STRONG, database_url=f"postgresql+psycopg://pipit:{PASSWORD}@127.0.0.1:1/pipit")
    assert run(away).exit_code == 1
    found = findings(away)
    assert found["database.reachable"].level == "problem"
    assert "refused" in found["database.reachable"].fact
    assert PASSWORD not in str(found)
    assert found["redis.latency"].level == "ok"


def test_a_database_that_is_not_there_is_not_made_by_looking(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    found = findings(make_app(database_url=f"sqlite:///{tmp_path / 'none.db'}"))["database.reachable"]
    assert (found.level, found.remedy) == ("problem", "flask db upgrade")
    assert not (tmp_path / "none.db").exists()


def test_no_remedy_for_sqlite_on_heroku_writes_to_a_disk_that_vanishes() -> None:
    dyno = replace(DYNO, database_url="sqlite:////app/pipit.db")
    empty = replace(POSTGRESQL, kind="SQLite", at=(), missing=1)
    for finding in (checks.database_away("no such file", dyno), checks.database_migrations(empty, dyno)):
        assert "heroku run" not in str(finding.remedy)
        assert str(finding.remedy).endswith("heroku addons:create heroku-postgresql:essential-0 --wait")


def test_sqlite_on_heroku_is_a_problem(make_app: Callable[..., Flask]) -> None:
    app = make_app(secret_key=STRONG, on_heroku=True, trusted_proxies=1)
    found = findings(app)["database.kind"]
    assert found.level == "problem"
    assert str(found.remedy).endswith("heroku addons:create heroku-postgresql:essential-0 --wait")
    assert run(app).exit_code == 1


def test_a_database_behind_the_code_is_a_problem(make_app: Callable[..., Flask]) -> None:
    app = make_app(secret_key=STRONG)
    assert findings(app)["database.migrations"].level == "ok"
    with app.app_context():
        stamp(revision="base")
    found = findings(app)["database.migrations"]
    assert (found.level, found.remedy) == ("problem", "flask db upgrade")
    with app.app_context():
        db.session.execute(text("INSERT INTO alembic_version VALUES ('of_the_future')"))
        db.session.commit()
    found = findings(app)["database.migrations"]
    assert found.level == "problem"
    assert "newer than the code" in found.fact


def test_a_weak_key_is_a_problem_and_is_not_shown(make_app: Callable[..., Flask]) -> None:
    app = make_app(secret_key="changeme" * 5)
    result = run(app)
    assert result.exit_code == 1
    assert "SECRET_KEY" in result.stdout
    assert "changeme" not in result.output


@pytest.mark.parametrize(("policy", "level"), [("noeviction", "note"), ("allkeys-lru", "warning")])
def test_the_policy_of_a_real_server_and_exit_codes(make_app: Callable[..., Flask], policy: str, level: str) -> None:
    settings: dict[str, Any] = {"maxmemory": "25mb", "maxmemory-policy": policy, "appendonly": "yes"}
    with servers.valkey(**settings) as server:
        app = make_app(secret_key=STRONG, redis=parse_redis_url(f"redis://127.0.0.1:{server.port}/0"))
        found = findings(app)
        assert found["redis.eviction"].level == level
        assert found["redis.memory"].level == "ok"
        assert found["redis.persistence"].level == "ok"
        assert run(app).exit_code == 0
        assert run(app, "--strict").exit_code == (1 if level == "warning" else 0)


def test_a_server_with_too_few_connections_is_a_problem(make_app: Callable[..., Flask]) -> None:
    with servers.valkey(maxclients=6, timeout=30) as server:
        app = make_app(redis=parse_redis_url(f"redis://127.0.0.1:{server.port}/0"))
        with closing(Redis(port=server.port)) as other:
            other.ping()
            found = findings(app)
    assert found["redis.formation"].level == "problem"
    assert found["redis.formation"].remedy == "echo 'REDIS_MAX_CONNECTIONS=2' >> .env"
    assert found["redis.connections"].fact == "2 of 6 connections in use, 1 of them Pipit's, this one included"
    assert found["redis.timeout"].level == "note"


@pytest.mark.parametrize("commands", [["+@all", "-config"], ["+@all", "-@dangerous", "-@admin", "-time", "-scan"]])
def test_a_redis_that_tells_little_is_no_crash(make_app: Callable[..., Flask], commands: list[str]) -> None:
    with servers.valkey() as server:
        with closing(Redis(port=server.port)) as admin:
            admin.acl_setuser("limited", enabled=True, passwords=[f"+{PASSWORD}"], commands=commands, keys=["*"])
        url = f"redis://limited:{PASSWORD}@127.0.0.1:{server.port}/0"
        app = make_app(secret_key=STRONG, redis=parse_redis_url(url))
        result = run(app)
        found = findings(app)
    assert result.exit_code == 0
    assert "can't be read here" in found["redis.timeout"].fact
    assert {finding.level for check, finding in found.items() if check.startswith("redis.")} == {"ok", "note"}
    if len(commands) == 2:  # INFO tells what CONFIG does not
        assert "no limit set" in found["redis.memory"].fact
        assert "10,000" in found["redis.connections"].fact
    else:
        assert "can't be read here" in found["redis.sessions"].fact


def test_a_clock_that_is_ahead_of_redis_is_seen(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    assert findings(app)["redis.clock"].level == "ok"
    monkeypatch.setattr("app.redis_client.time.time", lambda: real() + 30)
    found = findings(app)["redis.clock"]
    assert found.level == "warning"
    assert found.fact.startswith("this clock is 30.0 s ahead of Redis's")


def test_sessions_are_counted_by_their_keys(make_app: Callable[..., Flask], redis: Redis) -> None:
    app = make_app(redis_prefix="p[1]*:")
    for name in ("ada", "bob"):
        assert Visitor(app.test_client()).register(name).status_code == 302
    redis.set("session:of-somebody-else", "{}")
    fact = findings(app)["redis.sessions"].fact
    assert re.fullmatch(r"2 sessions, [1-9][0-9]{2} bytes each with its place in the index", fact)


def test_a_large_server_is_not_read_to_its_end(
    make_app: Callable[..., Flask], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_stats, "SCAN_LIMIT", 1000)
    with redis.pipeline() as pipe:
        for number in range(5000):
            pipe.set(f"session:{number}", "{}")
        pipe.execute()
    store: Store = make_app().extensions["store"]
    sample = ServerStats(store).sample("session:*")
    assert sample is not None
    assert not sample.complete
    assert 900 <= sample.count <= 1500


def test_nothing_that_is_secret_is_shown(make_app: Callable[..., Flask]) -> None:
    with servers.valkey() as server, locked(server.port, PASSWORD):
        app = make_app(secret_key=STRONG, redis=parse_redis_url(f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"))
        ada = Visitor(app.test_client())
        ada.register("ada")
        said = run(app).output + run(app, "--json").output
        assert findings(app)["redis.sessions"].fact.startswith("1 session,")
        session_id = ada.session_id()
    assert session_id
    for secret in (PASSWORD, STRONG, session_id):
        assert secret not in said


def test_it_reads_and_changes_nothing(app: Flask, redis: Redis, ada: Visitor) -> None:
    before = {key: redis.dump(key) for key in redis.keys("*")}
    run(app)
    assert {key: redis.dump(key) for key in redis.keys("*")} == before


@pytest.mark.parametrize(
    ("arguments", "variable", "coloured"),
    [
        ([], None, True),
        ([], "", True),  # no-color.org: "when present and not an empty string"
        ([], "1", False),
        ([], "0", False),
        ([], "any text", False),
        (["--no-color"], None, False),
    ],
)
def test_colours_can_be_switched_off(app: Flask, arguments: list[str], variable: str | None, coloured: bool) -> None:
    result = run(app, *arguments, color=True, env={"NO_COLOR": variable})
    assert ("\x1b[" in result.stdout) == coloured
    assert result.exit_code in (0, 1)


def test_in_a_pipe_there_are_no_colours(app: Flask) -> None:
    assert "\x1b[" not in run(app).stdout


@pytest.fixture
def environ(redis_url: str, sqlite_url: str) -> dict[str, str]:
    return clean_environ() | {"REDIS_URL": redis_url, "DATABASE_URL": sqlite_url, "SECRET_KEY": STRONG, "COLUMNS": "90"}


def test_on_a_terminal_it_is_coloured_and_fits(environ: dict[str, str]) -> None:
    environ.pop("NO_COLOR", None)
    said = b"".join(on_a_terminal([sys.executable, "-m", "flask", "doctor"], environ)).decode()
    assert "\x1b[32mok" in said
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said).replace("\r", "")
    assert all(len(line) <= 90 for line in plain.splitlines() if "→" not in line)


def test_it_starts_and_says_so_where_nothing_answers(environ: dict[str, str]) -> None:
    away = {"REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0", "DATABASE_URL": f"postgres://p:{PASSWORD}@127.0.0.1:1/p"}
    command = [sys.executable, "-m", "flask", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environ | away, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert json.loads(done.stdout)["counts"]["problem"] == 2
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.postgresql
def test_the_limits_of_postgresql_are_read(make_app: Callable[..., Flask], postgresql_url: str) -> None:
    app = make_app(secret_key=STRONG, database_url=postgresql_url)
    found = findings(app)
    assert found["database.connections"].fact.startswith(("1 of 57 ", "2 of 57 "))  # 60, less 3 for superusers
    assert found["database.formation"].level == "ok"
    assert "PostgreSQL" in found["database.version"].fact
    with app.app_context():
        db.session.execute(text("ALTER ROLE CURRENT_USER CONNECTION LIMIT 8"))  # as Heroku's plans are limited
        db.session.commit()
    try:
        found = findings(app)
        assert " of 8 connections" in found["database.connections"].fact
        assert found["database.formation"].level == "problem"
    finally:
        with app.app_context():
            db.session.execute(text("ALTER ROLE CURRENT_USER CONNECTION LIMIT -1"))
            db.session.commit()


@contextmanager
def locked(port: int, password: str) -> Iterator[None]:
    """Have a server ask for a password for a while: one that did so from the start could not be seen to start."""
    with Redis(port=port) as admin:
        admin.config_set("requirepass", password)
        yield
        admin.config_set("requirepass", "")


def on_a_terminal(command: list[str], environ: dict[str, str]) -> Iterator[bytes]:
    """Run a command on a terminal of its own, and give what it writes."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        try:
            while chunk := os.read(ours, 4096):
                yield chunk
        except OSError:  # Linux's way to say that the other side is closed
            pass
        finally:
            os.close(ours)
