"""`flask doctor` finds what an operator should know: each check by itself, then the command on real servers."""

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask_migrate import stamp
from redis import Redis
from sqlalchemy import text

from app.cli.doctor import Finding, as_lines, checks, examine
from app.cli.doctor.checks import Answer
from app.cli.doctor.facts import Facts
from app.config import Config, parse_redis_url, parse_smtp_url
from app.extensions import db
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
    memory=2000,
)
UNDER_SENTINEL = replace(LAPTOP, redis=parse_redis_url("redis+sentinel://:pw@a:1,b:2/m/0"))
DYNO = replace(
    LAPTOP,
    redis=parse_redis_url(f"rediss://:{PASSWORD}@redis.example.org:6380/0"),
    database_url=f"postgresql+psycopg://pipit:{PASSWORD}@db.example.org/pipit",
    on_heroku=True,
    redis_tls_verify=False,
    trusted_proxies=1,
    trusted_hosts=("pipit.example.org",),
    smtp=parse_smtp_url(f"smtps://pipit:{PASSWORD}@smtp.example.org"),
    mail_from="pipit@example.org",
    memory=512,
)
REDIS = {
    "seconds": 0.0008,
    "valkey_version": "8.1.3",
    "redis_version": "7.2.4",
    "cluster_enabled": 0,
    "primary": "10.0.0.7:6379",
    "connected_slaves": 2,
    "min_slaves_good_slaves": 2,
    "used_memory": 2_000_000,
    "maxmemory": 25_000_000,
    "maxmemory_policy": "volatile-ttl",
    "aof_enabled": 1,
    "maxclients": 20,
    "connected_clients": 9,
    "clock_lead": 0.01,
}
POSTGRESQL = {
    "server": "PostgreSQL 17.4",
    "seconds": 0.002,
    "at": {"0002"},
    "head": {"0002"},
    "known": {"0001", "0002"},
    "moderators": 1,
    "used": 3,
    "limit": 20,
}
MAIL: dict[str, Any] = {"waiting": 0, "failed": 0, "since": None}
FOLLOWER = {"follows": True, "lag": 0.2}
LONG_AGO = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
CLUSTER = {"cluster_enabled": 1, "min_slaves_good_slaves": None}
OLD = {"valkey_version": None}  # not a Valkey


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def facts(config: Config = DYNO, **changes: Any) -> Facts:
    """Return the facts of a good deployment, but for the changes; None takes a fact away."""

    def changed(good: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in (dict(good) | changes).items() if value is not None}

    mail = changed(MAIL) | {"error": changes.get("mail_error")}
    return Facts(config, changed(REDIS), changed(POSTGRESQL), mail, changed(FOLLOWER))


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["doctor", *arguments])


def findings(app: Flask) -> dict[str, Finding]:
    """Return what the command finds, by check."""
    return {each["check"]: Finding(**each) for each in json.loads(run(app, "--json").stdout)["findings"]}


# The checks


def test_a_good_deployment_has_nothing_but_ok() -> None:
    found = list(examine(facts()))
    assert len(found) == len(checks.CHECKS)
    assert [finding for finding in found if finding.level != "ok"] == []


@pytest.mark.parametrize(
    ("check", "changes", "level", "fact"),
    [
        (checks.redis_reachable, {"seconds": 0.0421}, "warning", "42.1 ms: slow"),
        (checks.redis_version, {}, "ok", "Valkey 8.1.3"),
        (checks.redis_version, OLD | {"redis_version": "7.4.1"}, "ok", "Redis 7.4.1"),
        (checks.redis_version, OLD | {"redis_version": "6.2.0"}, "ok", "Redis 6.2.0"),
        (checks.redis_version, OLD | {"redis_version": "6.0.16"}, "warning", "no GETEX"),
        (checks.redis_failover, {"connected_slaves": 0}, "ok", "10.0.0.7:6379 is the primary, with 0 replicas"),
        (checks.redis_failover, {"connected_slaves": 1}, "ok", "with 1 replica; cut off from them, it stops"),
        (checks.redis_failover, {"min_slaves_good_slaves": None}, "note", "takes writes that a failover undoes"),
        (checks.redis_failover, CLUSTER, "ok", "cut off from the cluster, it stops taking writes"),
        (checks.redis_failover, CLUSTER | {"connected_slaves": 0}, "warning", "nothing can take over"),
        (checks.redis_memory, {"maxmemory": 0}, "note", "2.0 MB used, no limit set"),
        (checks.redis_memory, {"used_memory": 19_900_000}, "ok", "19.9 MB of 25.0 MB used (80%)"),
        (checks.redis_memory, {"used_memory": 20_000_000}, "warning", "nearly full"),
        (checks.redis_memory, {"used_memory": 24_000_000}, "problem", "nearly full"),
        (checks.redis_eviction, {"maxmemory_policy": "noeviction"}, "note", "nobody can log in"),
        (checks.redis_eviction, {"maxmemory_policy": "allkeys-lru"}, "warning", "may drop sessions"),
        (checks.redis_eviction, {"maxmemory_policy": "volatile-lru"}, "warning", "may drop sessions"),
        (checks.redis_eviction, {"maxmemory_policy": "allkeys-lru", "maxmemory": 0}, "ok", "never full"),
        (checks.redis_persistence, {"aof_enabled": 0}, "note", "may log people out"),
        (checks.redis_connections, {}, "ok", "9 of 20 in use; "),
        (checks.redis_connections, {"connected_clients": 16}, "warning", "16 of 20 in use; "),
        (checks.redis_connections, {"maxclients": 6}, "problem", "= at most 4 a dyno, and 3 besides, so 0 can run"),
        (checks.redis_clock, {"clock_lead": -1.9}, "ok", "agree"),
        (checks.redis_clock, {"clock_lead": 5.0}, "warning", "5.0 s ahead of Redis's"),
        (checks.redis_clock, {"clock_lead": -61.0}, "warning", "61.0 s behind Redis's"),
        (checks.mail_server, {"mail_error": "535 wrong"}, "problem", "smtps://smtp.example.org:465 can't be used: 535"),
        (checks.mail_queue, {"waiting": 1, "since": datetime.now(UTC)}, "ok", "1 waiting, 0 failed"),
        (checks.mail_queue, {"waiting": 1, "since": LONG_AGO}, "warning", "waits since 2026-01-02 03:04 UTC"),
        (checks.mail_queue, {"failed": 2}, "note", "0 waiting, 2 failed"),
        (checks.database_reachable, {"seconds": 0.2}, "warning", "200.0 ms: slow"),
        (checks.database_migrations, {"at": {"0001"}}, "problem", "at 0001, and the code needs 0002"),
        (checks.database_migrations, {"at": set()}, "problem", "at no migration, and the code needs 0002"),
        (checks.database_migrations, {"at": {"0009"}}, "problem", "newer than the code"),
        (checks.database_connections, {"used": 17}, "warning", "17 of 20 in use; "),
        (checks.database_follower, {"lag": 2.5}, "ok", "follows, at most 2.5 s behind"),
        (checks.database_follower, {"lag": 11.0}, "warning", "11.0 s behind: people miss"),
        (checks.database_follower, {"follows": False}, "problem", "follows no other"),
        (checks.database_follower, {"error": "refused"}, "warning", "the primary answers for it: refused"),
        (checks.database_connections, {"limit": 6}, "problem", "= at most 4 a dyno, and 3 besides, so 0 can run"),
    ],
)
def test_what_the_servers_tell(
    check: Callable[[Facts], Answer], changes: dict[str, Any], level: str, fact: str
) -> None:
    answer = check(facts(**changes))
    assert answer.level == level
    assert fact in answer.fact


@pytest.mark.parametrize(
    ("check", "config", "level", "remedy"),
    [
        (checks.redis_tls, LAPTOP, "ok", None),
        (checks.redis_tls, replace(LAPTOP, redis=parse_redis_url("redis://a:1/0")), "warning", "rediss://…@a:1/0"),
        (checks.redis_tls, UNDER_SENTINEL, "warning", "rediss+sentinel://…@a:1,b:2/m/0"),
        (checks.redis_tls, replace(DYNO, redis=parse_redis_url("redis://a:1/0")), "warning", "heroku-redis:mini"),
        (checks.redis_tls, replace(DYNO, on_heroku=False, redis_tls_verify=True), "ok", None),
        (checks.redis_tls, replace(DYNO, on_heroku=False), "warning", "REDIS_TLS_VERIFY=yes"),
        (checks.redis_connections, replace(DYNO, redis_max_connections=9), "problem", "REDIS_MAX_CONNECTIONS=8"),
        (checks.redis_connections, replace(DYNO, workers=9), "problem", "heroku config:set WEB_CONCURRENCY=8"),
        (checks.redis_connections, replace(DYNO, workers=8), "ok", None),
        (checks.database_kind, LAPTOP, "ok", None),
        (checks.database_kind, replace(LAPTOP, on_heroku=True), "problem", "heroku-postgresql:essential-0"),
        (checks.database_connections, replace(DYNO, database_max_connections=10), "problem", "MAX_CONNECTIONS=8"),
        (checks.database_connections, replace(DYNO, workers=9), "problem", "heroku config:set WEB_CONCURRENCY=8"),
        (checks.settings_https, replace(DYNO, trusted_proxies=0), "problem", "config:unset TRUSTED_PROXIES"),
        (checks.settings_https, replace(DYNO, trusted_proxies=2), "warning", "config:unset TRUSTED_PROXIES"),
        (checks.settings_https, LAPTOP, "note", "TRUSTED_PROXIES=1"),
        (checks.settings_https, replace(LAPTOP, trusted_proxies=2), "ok", None),
        (checks.settings_hosts, LAPTOP, "ok", None),
        (checks.settings_hosts, replace(LAPTOP, trusted_proxies=1), "note", "TRUSTED_HOSTS="),
        (checks.settings_hosts, replace(DYNO, trusted_hosts=()), "note", "heroku config:set TRUSTED_HOSTS="),
        (checks.mail_server, LAPTOP, "ok", None),
        (checks.mail_server, replace(DYNO, smtp=None), "note", "heroku config:set SMTP_URL=smtps://…"),
        (checks.mail_server, replace(LAPTOP, smtp=DYNO.smtp), "warning", "echo TRUSTED_HOSTS=www.example.org >> .env"),
        (checks.settings_memory, replace(DYNO, workers=3), "warning", "heroku config:set WEB_CONCURRENCY=2"),
        (checks.settings_memory, replace(DYNO, workers=8), "problem", "heroku config:set WEB_CONCURRENCY=2"),
        (checks.settings_memory, replace(DYNO, memory=None), "note", "heroku ps"),
    ],
)
def test_what_the_settings_mean(
    check: Callable[[Facts], Answer], config: Config, level: str, remedy: str | None
) -> None:
    answer = check(facts(config))
    assert answer.level == level
    assert (remedy or "") in (answer.remedy or "")


def test_four_dynos_of_the_default_size_fit_on_the_smallest_plans_beside_a_worker_and_a_release() -> None:
    for check in (checks.redis_connections, checks.database_connections):
        assert check(facts(maxclients=20, limit=20)).fact.endswith("so 4 can run")


@pytest.mark.parametrize(
    ("key", "level"),
    [
        pytest.param(secrets.token_urlsafe(24), "ok", id="base64"),
        pytest.param(secrets.token_hex(10), "warning", id="short"),
        ("x" * 40, "problem"),
        ("0123456789" * 4 + "01", "problem"),
        ("aabbccddeeffaabcbdbefadbcfafefabcebf", "problem"),
        ("192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf", "problem"),  # Flask's quickstart
        ("django-insecure-8f$2k!q0x7v@3m#r9w", "problem"),
        (SECRET_KEY, "problem"),  # public, as these tests are
        ("Your-Secret-Key-Goes-Right-Here-1234", "problem"),
    ],
)
def test_a_key_that_can_be_guessed_is_a_problem(key: str, level: str) -> None:
    answer = checks.settings_secret_key(facts(replace(LAPTOP, secret_key=key)))
    assert answer.level == level
    assert key not in answer.fact + str(answer.remedy)


def test_a_random_key_is_never_called_weak() -> None:
    for make in (secrets.token_hex, secrets.token_urlsafe):
        for _number in range(500):
            assert checks.settings_secret_key(facts(replace(LAPTOP, secret_key=make(32)))).level == "ok"


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    bad = {"maxmemory_policy": "allkeys-lru", "aof_enabled": 0, "clock_lead": 90.0, "seconds": 1.0, "at": {"0001"}}
    for config in (LAPTOP, replace(DYNO, redis=LAPTOP.redis), replace(DYNO, trusted_proxies=3, trusted_hosts=())):
        weak = replace(config, secret_key="x" * 20, workers=50)
        for errors in ({}, {"error": "ConnectionError: refused", "advice": None}):
            for finding in examine(facts(weak, **bad, **OLD, used_memory=24_999_999, redis_version="5.0", **errors)):
                assert bool(finding.remedy) == (finding.level != "ok"), finding
                assert "\n" not in finding.fact + str(finding.remedy)
                assert (
                    not finding.remedy or not config.on_heroku or re.match(r"heroku |git push heroku", finding.remedy)
                )


def test_a_check_whose_facts_are_not_known_is_left_out() -> None:
    found = {finding.check for finding in examine(Facts(DYNO, {"seconds": 0.001}, {}))}
    assert {"redis.reachable", "redis.tls", "settings.memory"} < found
    assert not found & {"redis.memory", "redis.clock", "database.migrations"}


# The command


def test_the_report_has_its_facts_in_one_column_and_ends_with_the_counts(make_app: Callable[..., Flask]) -> None:
    result = run(make_app(secret_key=STRONG))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Redis"
    assert re.fullmatch(
        r"  ok       reachable    redis://127\.0\.0\.1:\d+/0 takes writes, each within [\d.]+ ms", lines[1]
    )
    assert re.fullmatch(r"0 problems, 0 warnings, \d notes?, \d+ ok", lines[-1])
    assert result.stdout.count("→") == len(re.findall(r"(?m)^  (?:note|warning|problem) ", result.stdout))
    columns = as_lines([Finding("settings.secret_key", "settings", "problem", "A", "B")])
    assert list(columns)[1:3] == ["  problem  secret key   A", "                        → B"]


def test_the_json_has_the_keys_that_the_documentation_promises(make_app: Callable[..., Flask]) -> None:
    document = json.loads(run(make_app(secret_key=STRONG), "--json").stdout)
    assert list(document) == ["status", "counts", "findings"]
    assert list(document["counts"]) == ["ok", "note", "warning", "problem"]
    assert sum(document["counts"].values()) == len(document["findings"])
    assert document["status"] == "note"
    for finding in document["findings"]:
        assert list(finding) == ["check", "group", "level", "fact", "remedy"]


def test_every_check_stands_in_the_documentation() -> None:
    documented = re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert documented == [finding.check for finding in examine(facts())]


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        ("replica", "ElsewhereError: the server is a replica; it is read-only"),
        ("crowded", "; it has no free connection"),
        ("locked", "; it refuses the password"),
    ],
)
def test_a_redis_in_which_nobody_can_log_in_is_a_problem(make_app: Callable[..., Flask], kind: str, fact: str) -> None:
    with servers.unfit_redis(kind) as url:
        result = run(make_app(secret_key=STRONG, redis=parse_redis_url(url)), "--json")
    found = {each["check"]: each for each in json.loads(result.stdout)["findings"]}
    assert result.exit_code == 1
    assert found["redis.reachable"]["level"] == "problem"
    assert fact in found["redis.reachable"]["fact"]
    assert found["redis.reachable"]["remedy"]
    assert "redis.memory" not in found
    assert found["database.migrations"]["level"] == found["settings.secret_key"]["level"] == "ok"
    assert "hunter2" not in result.output


@pytest.mark.parametrize("prefix", ["", "{ours}:"])
def test_a_cluster_is_ok_and_needs_no_setting(make_app: Callable[..., Flask], prefix: str) -> None:
    with servers.cluster_of_one() as url:
        app = make_app(redis=parse_redis_url(url), redis_prefix=prefix)
        assert findings(app)["redis.reachable"].level == "ok"
        assert app.extensions["store"].key("x") == f"{prefix or '{pipit}:'}x"


def test_it_starts_and_says_so_where_nothing_answers(redis_url: str) -> None:
    environ = clean_environ() | {
        "REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0",
        "DATABASE_URL": f"postgres://p:{PASSWORD}@127.0.0.1:1/p",
        "SECRET_KEY": STRONG,
    }
    command = [sys.executable, "-m", "flask", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    problems = [found for found in json.loads(done.stdout)["findings"] if found["level"] == "problem"]
    assert [problem["check"] for problem in problems] == ["redis.reachable", "database.reachable"]
    assert all("refused" in problem["fact"] for problem in problems)
    assert PASSWORD not in done.stdout + done.stderr


def test_looking_for_a_database_does_not_make_one(make_app: Callable[..., Flask], tmp_path: Path) -> None:
    found = findings(make_app(database_url=f"sqlite:///{tmp_path / 'none.db'}"))["database.reachable"]
    assert (found.level, found.remedy) == ("problem", "flask db upgrade")
    assert not (tmp_path / "none.db").exists()


def test_the_only_remedy_for_sqlite_on_heroku_is_postgresql(make_app: Callable[..., Flask]) -> None:
    app = make_app(secret_key=STRONG, on_heroku=True, trusted_proxies=1)
    found = [finding for finding in findings(app).values() if finding.group == "database"]
    assert [finding.level for finding in found] == ["problem"]
    assert str(found[0].remedy).endswith("heroku addons:create heroku-postgresql:essential-0 --wait")
    assert run(app).exit_code == 1


def test_a_database_behind_or_ahead_of_the_code_is_a_problem(make_app: Callable[..., Flask]) -> None:
    app = make_app(secret_key=STRONG)
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


def test_strict_fails_for_a_warning_too(make_app: Callable[..., Flask]) -> None:
    settings: dict[str, Any] = {"maxmemory": "25mb", "maxmemory-policy": "allkeys-lru", "maxclients": 30}
    with servers.valkey(**settings) as server:
        app = make_app(secret_key=STRONG, redis=parse_redis_url(f"redis://127.0.0.1:{server.port}/0"))
        found = findings(app)
        assert found["redis.eviction"].level == "warning"
        assert (
            found["redis.memory"].fact.endswith(" of 25.0 MB used (4%)") or "of 26.2 MB" in found["redis.memory"].fact
        )
        assert found["redis.connections"].fact.startswith("1 of 30 in use; ")
        assert run(app).exit_code == 0
        assert run(app, "--strict").exit_code == 1


def test_a_redis_that_tells_nothing_about_itself_is_no_problem(make_app: Callable[..., Flask], redis_url: str) -> None:
    address = parse_redis_url(redis_url)
    with closing(Redis(port=address.port)) as admin:
        rules = ["+@all", "-@dangerous", "-@admin"]
        admin.acl_setuser("limited", enabled=True, passwords=[f"+{PASSWORD}"], commands=rules, keys=["*"])
        limited = replace(address, username="limited", password=PASSWORD)
        found = findings(make_app(secret_key=STRONG, redis=limited))
        admin.acl_deluser("limited")
    assert [finding.check for finding in found.values() if finding.group == "redis"] == ["redis.reachable", "redis.tls"]
    assert found["redis.reachable"].level == "ok"


def test_a_clock_that_is_ahead_of_redis_is_seen(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    assert findings(app)["redis.clock"].level == "ok"
    monkeypatch.setattr(time, "time", lambda: real() + 30)
    found = findings(app)["redis.clock"]
    assert found.level == "warning"
    assert re.match(r"this clock is (29\.9|30\.0|30\.1) s ahead of Redis's", found.fact)


def test_it_shows_no_secret_and_changes_nothing(make_app: Callable[..., Flask], redis: Redis) -> None:
    app = make_app(secret_key=STRONG)
    ada = Visitor(app.test_client())
    ada.register("ada")
    before = {key: redis.dump(key) for key in redis.keys("*")}
    said = run(app).output + run(app, "--json").output
    assert 0 < redis.ttl("ready") <= 60
    assert {key: redis.dump(key) for key in redis.keys("*") if key != "ready"} == before
    for secret in (STRONG, ada.session_id()):
        assert secret
        assert secret not in said


@pytest.mark.postgresql
def test_the_limits_of_postgresql_are_read(make_app: Callable[..., Flask], postgresql_url: str) -> None:
    app = make_app(secret_key=STRONG, database_url=postgresql_url)
    found = findings(app)
    assert re.match(r"[12] of 57 in use; ", found["database.connections"].fact)  # 60, less 3 for superusers
    assert "PostgreSQL" in found["database.reachable"].fact
    with app.app_context():
        db.session.execute(text("ALTER ROLE CURRENT_USER CONNECTION LIMIT 6"))  # as Heroku's plans are limited
        db.session.commit()
    try:
        found = findings(app)
        assert " of 6 in use; " in found["database.connections"].fact
        assert found["database.connections"].level == "problem"
    finally:
        with app.app_context():
            db.session.execute(text("ALTER ROLE CURRENT_USER CONNECTION LIMIT -1"))
            db.session.commit()
