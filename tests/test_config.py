"""The environment: what is understood, what is refused, and that no refusal ever tells a secret."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from app.config import (
    Config,
    ConfigError,
    InvalidSettingError,
    RedisAddress,
    Sentinels,
    SMTPAddress,
    load_or_create_secret_key,
    parse_database_url,
    parse_redis_url,
    parse_smtp_url,
)
from tests.servers import ROOT, clean_environ

SECRET = "s3cr3t-pw"
HEROKU = {
    "DYNO": "web.1",
    "REDIS_URL": "rediss://:pw@redis.example.org:6380",
    "DATABASE_URL": "postgres://pipit:pw@sql.example.org:5432/pipit",
    "SECRET_KEY": "0123456789abcdef0123456789abcdef",
}
OF_THE_PLATFORM = {"DYNO_RAM", "FLASK_RUN_FROM_CLI", "DYNO"}
OF_HONCHO = {"PROCFILE"}


def complaints(environ: dict[str, str], instance: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.from_environ(environ, instance)
    assert caught.value.complaints
    return caught.value.complaints


@pytest.mark.parametrize(("told", "memory"), [({"DYNO_RAM": "512"}, 512), ({}, None), ({"DYNO_RAM": "?"}, None)])
def test_a_dyno_has_the_memory_that_the_platform_tells(
    tmp_path: Path, told: dict[str, str], memory: int | None
) -> None:
    assert Config.from_environ(HEROKU | told, tmp_path).memory == memory


def test_another_machine_is_asked_for_its_memory(tmp_path: Path) -> None:
    assert (Config.from_environ({}, tmp_path).memory or 0) > 100


# Redis URLs


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1:6379/0", RedisAddress("redis", "127.0.0.1", 6379, None, None, 0)),
        ("redis://localhost", RedisAddress("redis", "localhost", 6379, None, None, 0)),
        ("redis://localhost/", RedisAddress("redis", "localhost", 6379, None, None, 0)),
        ("redis://localhost:7000/3", RedisAddress("redis", "localhost", 7000, None, None, 3)),
        ("redis://redis.example.org/15/", RedisAddress("redis", "redis.example.org", 6379, None, None, 15)),
        ("redis://:pw@h:1", RedisAddress("redis", "h", 1, None, "pw", 0)),
        ("redis://:a%2Fb%3Fc%23d%40e%25@h:65535/1", RedisAddress("redis", "h", 65535, None, "a/b?c#d@e%", 1)),
        ("redis://:caf%C3%A9@h", RedisAddress("redis", "h", 6379, None, "café", 0)),
        ("redis://:a+b@h", RedisAddress("redis", "h", 6379, None, "a+b", 0)),
        ("redis://[::1]:6380/2", RedisAddress("redis", "::1", 6380, None, None, 2)),
        ("redis://:pw@[2001:db8::7]", RedisAddress("redis", "2001:db8::7", 6379, None, "pw", 0)),
        ("rediss://:pw@h:6380", RedisAddress("rediss", "h", 6380, None, "pw", 0)),
        ("redis://redistogo:pw@angelfish.redistogo.com:9876/", RedisAddress(
            "redis", "angelfish.redistogo.com", 9876, None, "pw", 0
        )),
        ("redis://h:pw@ec2.example.org:6379", RedisAddress("redis", "ec2.example.org", 6379, None, "pw", 0)),
        ("redis://pipit:pw@h:6379", RedisAddress("redis", "h", 6379, "pipit", "pw", 0)),
        ("redis://pi%40pit:pw@h:6379", RedisAddress("redis", "h", 6379, "pi@pit", "pw", 0)),
        ("redis://h:6379/0?ssl_cert_reqs=none", RedisAddress("redis", "h", 6379, None, None, 0)),
    ],
)  # fmt: skip
def test_a_redis_url_is_taken_apart(url: str, address: RedisAddress) -> None:
    assert parse_redis_url(url) == address


def test_only_rediss_means_tls() -> None:
    for kind, service in (("", ""), ("+sentinel", "/mymaster")):
        assert parse_redis_url(f"rediss{kind}://h{service}").tls
        assert not parse_redis_url(f"redis{kind}://h{service}").tls


@pytest.mark.parametrize(
    ("url", "login", "db", "sentinels"),
    [
        ("redis+sentinel://a/mymaster", (None, None), 0, Sentinels((("a", 26379),), "mymaster")),
        ("redis+sentinel://a:1,b,[::1]:3/my-master.2/7", (None, None), 7, Sentinels(
            (("a", 1), ("b", 26379), ("::1", 3)), "my-master.2"
        )),
        ("rediss+sentinel://pi%40pit:p%2Cw@a:1,b:2/m/0", ("pi@pit", "p,w"), 0, Sentinels((("a", 1), ("b", 2)), "m")),
        ("redis+sentinel://:pw@a/m?sentinel_username=u&sentinel_password=s%26+", (None, "pw"), 0, Sentinels(
            (("a", 26379),), "m", "u", "s&+"
        )),
    ],
)  # fmt: skip
def test_a_url_with_sentinels_is_taken_apart(
    url: str, login: tuple[str | None, str | None], db: int, sentinels: Sentinels
) -> None:
    address = parse_redis_url(url)
    assert (address.username, address.password, address.db, address.sentinels) == (*login, db, sentinels)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://h", "redis:// or rediss://"),
        ("127.0.0.1:6379", "redis:// or rediss://"),
        ("localhost", "redis:// or rediss://"),
        ("unix:///tmp/redis.sock", "redis:// or rediss://"),
        ("redis://", "host"),
        ("redis://:6379/0", "host"),
        ("redis://:pw@/0", "host"),
        ("redis://h:port/0", "port"),
        ("redis://h:65536/0", "port"),
        ("redis://h:0/0", "port"),
        ("redis://h:-1/0", "port"),
        ("redis://h/zero", "database number"),
        ("redis://h/0/1", "database number"),
        ("redis://h/12345", "database number"),
        ("redis+sentinel://a:1,b:2", "service"),
        ("redis+sentinel://a:1,b:2/", "service"),
        ("redis+sentinel://a:1,b:2/0", "service"),
        ("redis+sentinel://a:1,b:2/my master/0", "service"),
        ("redis+sentinel://a:1,b:2/m/zero", "database number"),
        ("redis+sentinel://a:1,:2/m", "host"),
        ("redis+sentinel://a:1, b:2/m", "host"),
        (f"redis+sentinel://:{SECRET}@a,:{SECRET}@b/m", "one user and password"),
        ("redis://a,b/0", "only with Sentinel"),
        (f"redis+sentinel://a/m?sentinel_pasword={SECRET}", "parameter"),
        ("redis+sentinel://a:1,b:c/m", "port"),
        ("sentinel://a/m", "redis+sentinel://"),
    ],
)
def test_a_redis_url_that_is_not_one_is_refused(url: str, problem: str) -> None:
    with pytest.raises(InvalidSettingError, match=re.escape(problem)):
        parse_redis_url(url)


def test_an_address_in_a_log_has_no_user_and_no_password() -> None:
    address = parse_redis_url(f"rediss://pipit:{SECRET}@[::1]:6380/2")
    assert str(address) == "rediss://[::1]:6380/2"
    assert SECRET not in repr(address)
    address = parse_redis_url(f"redis+sentinel://pipit:{SECRET}@[::1],b:2/m/1?sentinel_password={SECRET}")
    assert str(address) == "redis+sentinel://[::1]:26379,b:2/m/1"
    assert SECRET not in repr(address)


def test_redis_url_goes_before_redistogo_url(tmp_path: Path) -> None:
    environ = {"REDIS_URL": "redis://first:1", "REDISTOGO_URL": "redis://redistogo:pw@second:2/"}
    assert Config.from_environ(environ, tmp_path).redis.host == "first"


@pytest.mark.parametrize("environ", [{}, {"REDIS_URL": ""}, {"REDIS_URL": "  "}])
def test_redistogo_url_is_read_where_redis_url_is_not_set(environ: dict[str, str], tmp_path: Path) -> None:
    config = Config.from_environ(environ | {"REDISTOGO_URL": "redis://redistogo:pw@second:2/"}, tmp_path)
    assert config.redis == RedisAddress("redis", "second", 2, None, "pw", 0)


def test_redistogo_alone_is_enough_on_heroku(tmp_path: Path) -> None:
    environ = {name: value for name, value in HEROKU.items() if name != "REDIS_URL"}
    config = Config.from_environ(environ | {"REDISTOGO_URL": "redis://redistogo:pw@second:2/"}, tmp_path)
    assert config.redis.host == "second"


def test_a_complaint_names_the_redis_variable_that_was_read(tmp_path: Path) -> None:
    [complaint] = complaints({"REDISTOGO_URL": "http://h"}, tmp_path)
    assert complaint.startswith("REDISTOGO_URL must begin with redis://")
    assert "Example: redis://" in complaint


# SQL


@pytest.mark.parametrize(
    ("url", "as_sqlalchemy_wants_it"),
    [
        ("postgres://u:p@h:5432/n", "postgresql+psycopg://u:p@h:5432/n"),
        ("postgresql://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("postgresql+psycopg://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("postgres://u:a%40b@h/n?sslmode=require", "postgresql+psycopg://u:a%40b@h/n?sslmode=require"),
        ("postgres:///n?host=/var/run/postgresql", "postgresql+psycopg:///n?host=/var/run/postgresql"),
        ("sqlite:///pipit.db", "sqlite:///pipit.db"),
        ("sqlite:////srv/pipit.db", "sqlite:////srv/pipit.db"),
    ],
)
def test_a_database_url_names_its_driver(url: str, as_sqlalchemy_wants_it: str) -> None:
    assert parse_database_url(url) == as_sqlalchemy_wants_it


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://u:p@h/n", "postgres:// or sqlite:///"),
        ("postgres", "postgres:// or sqlite:///"),
        ("sqlite://", "postgres:// or sqlite:///"),
        ("sqlite:///", "name a database or its file"),
        ("sqlite:///:memory:", "name a database or its file"),
        ("pipit.db", "postgres:// or sqlite:///"),
        ("postgres://u:p@h", "a database"),
        ("postgres://u:p@/n", "must name a host"),
        ("postgres://u:p@h:port/n", "port"),
        ("postgres://u:p@[::1/n", "must name a host"),
    ],
)
def test_a_database_url_that_is_not_one_is_refused(url: str, problem: str) -> None:
    with pytest.raises(InvalidSettingError, match=re.escape(problem)):
        parse_database_url(url)


# Secrets


@pytest.mark.parametrize(
    "url",
    [
        f"http://u:{SECRET}@h",
        f"redis//u:{SECRET}@h",
        f"redis://:{SECRET}@h:port",
        f"redis://:{SECRET}@h:99999/0",
        f"redis://:{SECRET}@h/zero",
        f"redis://:{SECRET}@",
        f"redis://:{SECRET}/x@h:6379/0",
        f"redis://:{SECRET}?x@h:6379/0",
        f"redis://:{SECRET}#x@h:6379/0",
        f"redis://:/{SECRET}@h:6379/0",
        f"redis://:?{SECRET}@h:6379/0",
        f"redis://:#{SECRET}@h:6379/0",
        f"redis://user:12/{SECRET}@h:6379",
        f"redis://user:12?{SECRET}@h:6379",
        f"redis://user:12#{SECRET}@h:6379",
        f"redis://:{SECRET}@[::1",
        f"redis://:{SECRET}@[not-an-address]:6379/0",
        f"redis://:[{SECRET}@h:6379/0",
        f"redis://:{SECRET}@h\u2100:6379/0",  # ℀ becomes a/c in a host name
    ],
)
def test_a_malformed_redis_url_is_refused_without_quoting_its_password(url: str, tmp_path: Path) -> None:
    [complaint] = complaints({"REDIS_URL": url}, tmp_path)
    assert complaint.startswith("REDIS_URL ")
    assert SECRET not in complaint


def test_an_at_sign_in_a_redis_password_is_understood_as_it_stands() -> None:
    address = parse_redis_url(f"redis://:a@{SECRET}@h:6379/0")
    assert (address.password, address.host) == (f"a@{SECRET}", "h")


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/n",
        f"postgres://u:{SECRET}@h",
        f"postgres://u:{SECRET}@h:port/n",
        f"postgres://u:{SECRET}/x@h/n",
        f"postgres://u:{SECRET}?x@h/n",
        f"postgres://u:{SECRET}#x@h/n",
        f"postgres://u:{SECRET}@[::1/n",
        f"postgres://u:{SECRET}@h\u2100/n",
        f"postgres://u:a@{SECRET}@h/n",  # SQLAlchemy would take the password's end for a part of the host
        f"u:{SECRET}@h/n",
    ],
)
def test_a_malformed_database_url_is_refused_without_quoting_its_password(url: str, tmp_path: Path) -> None:
    [complaint] = complaints({"DATABASE_URL": url}, tmp_path)
    assert complaint.startswith("DATABASE_URL ")
    assert SECRET not in complaint


def test_a_secret_key_that_is_too_short_is_refused_without_quoting_it(tmp_path: Path) -> None:
    [complaint] = complaints({"SECRET_KEY": SECRET}, tmp_path)
    assert "too short" in complaint
    assert SECRET not in complaint


def test_a_config_in_a_log_shows_no_secret(tmp_path: Path) -> None:
    environ = {
        "REDIS_URL": f"redis://:{SECRET}-redis@h",
        "DATABASE_URL": f"postgres://u:{SECRET}-sql@h/n",
        "SECRET_KEY": f"{SECRET}-and-some-more",
    }
    config = Config.from_environ(environ, tmp_path)
    assert config.redis.password == f"{SECRET}-redis"
    assert SECRET in config.database_url
    assert SECRET in config.secret_key
    assert SECRET not in repr(config)
    assert SECRET not in str(config)


# What there is without any variable


def test_a_laptop_needs_no_variable_at_all(tmp_path: Path) -> None:
    instance = tmp_path / "instance"
    config = Config.from_environ({}, instance)
    assert config == Config(
        redis=RedisAddress("redis", "127.0.0.1", 6379, None, None, 0),
        database_url=f"sqlite:///{instance / 'pipit.db'}",
        secret_key=load_or_create_secret_key(instance),
        mail_folder=instance / "mail",
        memory=config.memory,  # this machine's
        on_heroku=False,
        port=5000,
        workers=2,
        threads=5,
        redis_max_connections=2,
        database_max_connections=2,
        database_read_url=None,
        redis_prefix="",
        redis_tls_verify=True,
        cache_strategy="invalidate",
        cache_ttl=60,
        login_max_attempts=5,
        session_lifetime=14 * 24 * 3600,
        site_name="Pipit",
        trusted_hosts=(),
        trusted_proxies=0,
    )


def test_heroku_trusts_its_router_and_cannot_verify_its_certificates(tmp_path: Path) -> None:
    config = Config.from_environ(HEROKU, tmp_path)
    assert (config.on_heroku, config.trusted_proxies, config.redis_tls_verify) == (True, 1, False)


def test_heroku_forgets_its_files_so_nothing_is_kept_there(tmp_path: Path) -> None:
    Config.from_environ(HEROKU, tmp_path / "instance")
    assert not (tmp_path / "instance").exists()


@pytest.mark.parametrize("missing", ["REDIS_URL", "DATABASE_URL", "SECRET_KEY"])
def test_heroku_requires_what_a_laptop_makes_for_itself(missing: str, tmp_path: Path) -> None:
    [complaint] = complaints({name: value for name, value in HEROKU.items() if name != missing}, tmp_path)
    assert complaint.startswith(missing)
    assert "is not set, and Heroku needs it. Example: " in complaint


def test_a_complaint_about_no_redis_names_both_variables(tmp_path: Path) -> None:
    environ = {name: value for name, value in HEROKU.items() if name != "REDIS_URL"}
    assert complaints(environ, tmp_path)[0].startswith("REDIS_URL (or REDISTOGO_URL) is not set")


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    wrong = {
        "REDIS_URL": "localhost",
        "DATABASE_URL": "pipit.db",
        "SECRET_KEY": "short",
        "PORT": "http",
        "WEB_CONCURRENCY": "0",
        "WEB_THREADS": "many",
        "REDIS_MAX_CONNECTIONS": "-1",
        "DATABASE_MAX_CONNECTIONS": "0",
        "DATABASE_READ_URL": "sqlite:////tmp/pipit.db",
        "REDIS_PREFIX": "two words",
        "REDIS_TLS_VERIFY": "perhaps",
        "CACHE_STRATEGY": "hope",
        "CACHE_TTL": "1.5",
        "REGISTRATION": "friends",
        "READING": "nobody",
        "LOGIN_MAX_ATTEMPTS": "",
        "SESSION_LIFETIME": "14 days",
        "TRUSTED_HOSTS": "https://pipit.example.org",
        "TRUSTED_PROXIES": "yes",
    }
    said = complaints(wrong, tmp_path)
    del wrong["LOGIN_MAX_ATTEMPTS"]  # empty is as good as not set
    assert sorted(line.split()[0] for line in said) == sorted(wrong)
    assert all("Example: " in line for line in said)
    assert not (tmp_path / "secret_key").exists()


def test_the_message_counts_the_settings_and_says_each_on_its_own_line() -> None:
    assert str(ConfigError(["PORT is odd"])) == "Pipit can't start: 1 setting needs your attention.\n  PORT is odd"
    assert str(ConfigError(["a", "b"])) == "Pipit can't start: 2 settings need your attention.\n  a\n  b"


# Single settings


@pytest.mark.parametrize(
    ("name", "field", "low", "high"),
    [
        ("PORT", "port", 1, 65535),
        ("WEB_CONCURRENCY", "workers", 1, 100),
        ("WEB_THREADS", "threads", 1, 100),
        ("REDIS_MAX_CONNECTIONS", "redis_max_connections", 1, 1000),
        ("DATABASE_MAX_CONNECTIONS", "database_max_connections", 1, 1000),
        ("CACHE_TTL", "cache_ttl", 1, 86400),
        ("LOGIN_MAX_ATTEMPTS", "login_max_attempts", 1, 1000),
        ("SESSION_LIFETIME", "session_lifetime", 60, 315360000),
        ("TRUSTED_PROXIES", "trusted_proxies", 0, 10),
    ],
)
def test_a_number_keeps_within_its_bounds(name: str, field: str, low: int, high: int, tmp_path: Path) -> None:
    for value in (low, high):
        assert getattr(Config.from_environ({name: f" {value} "}, tmp_path), field) == value
    for text in (str(low - 1), str(high + 1), "1e3", "0x10", "1_0", "٣", "5,", "9" * 5000):
        [complaint] = complaints({name: text}, tmp_path)
        assert complaint.startswith(f"{name} must be a whole number from {low} to {high}, not ")
        assert len(complaint) < 200


def test_only_postgresql_has_followers(tmp_path: Path) -> None:
    follower = {"DATABASE_READ_URL": "postgres://me:hunter2@follower/pipit"}
    [complaint] = complaints(follower, tmp_path)
    assert "DATABASE_URL names no PostgreSQL" in complaint
    config = Config.from_environ(follower | {"DATABASE_URL": "postgres://me@primary/pipit"}, tmp_path)
    assert config.database_read_url == "postgresql+psycopg://me:hunter2@follower/pipit"
    assert "hunter2" not in repr(config)


def test_more_threads_share_the_same_connections_unless_one_says_otherwise(tmp_path: Path) -> None:
    config = Config.from_environ({"WEB_THREADS": "9", "DATABASE_MAX_CONNECTIONS": "4"}, tmp_path)
    assert (config.redis_max_connections, config.database_max_connections) == (2, 4)


@pytest.mark.parametrize("strategy", ["invalidate", "refresh", "expire"])
def test_there_are_three_ways_to_keep_the_cache_right(strategy: str, tmp_path: Path) -> None:
    assert Config.from_environ({"CACHE_STRATEGY": strategy}, tmp_path).cache_strategy == strategy


@pytest.mark.parametrize(
    ("registration", "may_register"), [("open", True), ("asked", True), ("invited", False), ("closed", False)]
)
def test_there_are_four_ways_to_join(registration: str, may_register: bool, tmp_path: Path) -> None:
    config = Config.from_environ({"REGISTRATION": registration}, tmp_path)
    assert (config.registration, config.may_register) == (registration, may_register)


@pytest.mark.parametrize(("reading", "members_only"), [("everyone", False), ("members", True), ("", False)])
def test_everyone_may_read_or_only_members(reading: str, members_only: bool, tmp_path: Path) -> None:
    assert Config.from_environ({"READING": reading}, tmp_path).members_only == members_only


@pytest.mark.parametrize(("text", "verify"), [("yes", True), ("NO", False), ("No", False)])
def test_certificates_are_verified_or_not_as_told(text: str, verify: bool, tmp_path: Path) -> None:
    for environ in ({}, HEROKU):
        assert Config.from_environ(environ | {"REDIS_TLS_VERIFY": text}, tmp_path).redis_tls_verify is verify


def test_a_prefix_and_a_name_are_taken_as_they_are(tmp_path: Path) -> None:
    config = Config.from_environ({"REDIS_PREFIX": "pipit:", "SITE_NAME": " Wendbridge täglich "}, tmp_path)
    assert (config.redis_prefix, config.site_name) == ("pipit:", "Wendbridge täglich")


@pytest.mark.parametrize("prefix", ["a b", "a\nb", "é", "x" * 65])
def test_a_prefix_that_is_no_plain_word_is_refused(prefix: str, tmp_path: Path) -> None:
    [complaint] = complaints({"REDIS_PREFIX": prefix}, tmp_path)
    assert complaint.startswith("REDIS_PREFIX must be at most 64 printable characters")


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("pipit.example.org", ("pipit.example.org",)),
        (" Pipit.Example.ORG , www.example.org,", ("pipit.example.org", "www.example.org")),
        (".example.org", (".example.org",)),
        ("[::1],127.0.0.1", ("[::1]", "127.0.0.1")),
    ],
)
def test_trusted_hosts_are_separated_by_commas(text: str, hosts: tuple[str, ...], tmp_path: Path) -> None:
    assert Config.from_environ({"TRUSTED_HOSTS": text}, tmp_path).trusted_hosts == hosts


@pytest.mark.parametrize("text", ["https://pipit.example.org", "pipit.example.org:5000", "a b", "*.example.org", "::1"])
def test_a_trusted_host_has_no_scheme_and_no_port(text: str, tmp_path: Path) -> None:
    [complaint] = complaints({"TRUSTED_HOSTS": text}, tmp_path)
    assert complaint.startswith("TRUSTED_HOSTS must be host names without scheme or port")


@pytest.mark.parametrize(
    ("hosts", "url"),
    [("", None), ("www.example.org,example.org", "https://www.example.org"), (".example.org", "https://example.org")],
)
def test_the_first_trusted_host_is_the_address_of_the_site(tmp_path: Path, hosts: str, url: str | None) -> None:
    assert Config.from_environ({"TRUSTED_HOSTS": hosts}, tmp_path).site_url == url


# The kept secret key


def test_the_secret_key_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    key = load_or_create_secret_key(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{64}", key)
    assert load_or_create_secret_key(tmp_path) == key
    assert Config.from_environ({}, tmp_path).secret_key == key
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_a_secret_key_of_ones_own_is_used_and_none_is_kept(tmp_path: Path) -> None:
    assert Config.from_environ({"SECRET_KEY": "x" * 16}, tmp_path).secret_key == "x" * 16
    assert not (tmp_path / "secret_key").exists()


@pytest.mark.server
def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    # Each tells that it is ready and waits for its input to end, so that all of them begin together.
    program = (
        "import sys; from pathlib import Path; from app.config import load_or_create_secret_key;"
        "print('ready', flush=True); sys.stdin.read(); print(load_or_create_secret_key(Path(sys.argv[1])))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    keys = set()
    for process in processes:
        assert process.stdout is not None
        with process.stdout as output:
            keys.add(output.read().decode().strip())
        assert process.wait() == 0
    assert keys == {(tmp_path / "secret_key").read_text()}
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_of_two_keys_made_at_the_same_moment_the_first_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token_hex(length: int) -> str:
        """Let another process finish its key while this one is at it."""
        (tmp_path / "secret_key").write_text("the other one's")
        return "a" * 2 * length

    monkeypatch.setattr("app.config.secrets.token_hex", token_hex)
    assert load_or_create_secret_key(tmp_path) == "the other one's"
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


# What a deployer sees


@pytest.mark.parametrize(
    "command",
    [["-c", "from app import create_app; create_app()"], ["-m", "flask", "routes"], ["-m", "gunicorn"]],
    ids=["python", "flask", "gunicorn"],
)
@pytest.mark.server
def test_a_bad_environment_ends_each_program_with_the_message_and_no_traceback(command: list[str]) -> None:
    environ = clean_environ() | HEROKU | {"FLASK_SKIP_DOTENV": "1", "PORT": "http", "SECRET_KEY": ""}
    environ["REDIS_URL"] = f"redis://:{SECRET}@[::1"
    ended = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1
    assert said.count("Pipit can't start: 3 settings need your attention.") == 1
    for name in ("REDIS_URL", "PORT", "SECRET_KEY"):
        assert f"\n  {name} " in said
    assert "Traceback" not in said
    assert SECRET not in said


# .env


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an .env that stands in for Pipit's own."""
    path = tmp_path / ".env"
    path.write_text("SITE_NAME=Wren\nCACHE_TTL=7\nSECRET_KEY\n")
    for name in ("SITE_NAME", "CACHE_TTL", "FLASK_SKIP_DOTENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("app.config.DOTENV", path)
    monkeypatch.setenv("SECRET_KEY", SECRET * 2)
    return path


def test_dotenv_says_what_the_environment_does_not(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_NAME", "Robin")
    config = Config.load()
    assert (config.site_name, config.cache_ttl) == ("Robin", 7)
    assert "CACHE_TTL" not in os.environ  # nothing else in this process sees it


def test_an_empty_variable_in_the_environment_wins_too(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_NAME", "")
    assert Config.load().site_name == "Pipit"


def test_a_dotenv_in_another_encoding_is_a_complaint(dotenv: Path) -> None:
    dotenv.write_bytes("SITE_NAME=Café\n".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        Config.load()
    assert caught.value.complaints == [f"{dotenv} can't be read: save it as UTF-8"]


def test_a_folder_that_can_not_be_written_is_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [complaint] = complaints({}, tmp_path / "file" / "instance")
    assert complaint.endswith("can't be written: Not a directory; make it writable, or set DATABASE_URL and SECRET_KEY")


def test_dotenv_may_be_left_out_or_missing(dotenv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_SKIP_DOTENV", "1")
    assert Config.load().site_name == "Pipit"
    monkeypatch.delenv("FLASK_SKIP_DOTENV")
    dotenv.unlink()
    assert Config.load().site_name == "Pipit"


# What a deployer reads


class Remembered(dict[str, str]):
    """An environment that remembers which of its variables were looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


@pytest.fixture
def variables(tmp_path: Path) -> set[str]:
    """Give the names of the variables that a deployer may set."""
    environ = Remembered()
    Config.from_environ(environ, tmp_path)
    assert {"PORT", "REDIS_URL", "REDISTOGO_URL", "SECRET_KEY"} <= environ.names
    return environ.names - OF_THE_PLATFORM


def test_env_example_shows_every_variable_and_no_other(variables: set[str]) -> None:
    shown = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert shown == variables | OF_HONCHO


def test_the_readme_explains_every_variable(variables: set[str]) -> None:
    text = (ROOT / "README.md").read_text()
    assert sorted(name for name in variables if not re.search(rf"\b{name}\b", text)) == []


def test_what_env_example_shows_are_the_defaults(tmp_path: Path) -> None:
    everything = tmp_path / "everything.env"
    everything.write_text(re.sub(r"^#([A-Z_]+=)", r"\1", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))
    shown = {name: value or "" for name, value in dotenv_values(everything).items()}
    del shown["DATABASE_URL"], shown["DATABASE_READ_URL"]  # PostgreSQL, for example
    assert Config.from_environ(shown, tmp_path) == Config.from_environ({}, tmp_path)


@pytest.fixture
def example() -> Callable[[str], str]:
    shown = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    return dict(shown).__getitem__


def test_the_examples_of_urls_are_urls(example: Callable[[str], str]) -> None:
    assert parse_redis_url(example("REDISTOGO_URL")).password == "password"
    assert parse_database_url(example("DATABASE_URL")).startswith("postgresql+psycopg://user:password@")


# Mail


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("smtps://smtp.example.org", SMTPAddress("smtps", "smtp.example.org", 465, None, None)),
        ("smtp://smtp.example.org", SMTPAddress("smtp", "smtp.example.org", 587, None, None)),
        ("smtp://localhost:1025/", SMTPAddress("smtp", "localhost", 1025, None, None)),
        ("smtp://[::1]:25", SMTPAddress("smtp", "::1", 25, None, None)),
        ("smtps://a%40b:p%2F%3A%40@h:2465", SMTPAddress("smtps", "h", 2465, "a@b", "p/:@")),
    ],
)
def test_an_smtp_url_is_understood(url: str, address: SMTPAddress) -> None:
    assert parse_smtp_url(url) == address
    assert "p/:@" not in repr(parse_smtp_url(url)) + str(parse_smtp_url(url))


@pytest.mark.parametrize(
    "url",
    [
        f"https://u:{SECRET}@h",
        f"smtp://u:{SECRET}@",
        f"smtp://u:{SECRET}@h:port",
        f"smtp://u:{SECRET}@h:99999",
        f"smtp://u:{SECRET}/x@h",
        f"smtp://u:{SECRET}#@h",
        f"smtp://u@x:{SECRET}@h",
        f"smtp://u:{SECRET}@h/folder",
        f"smtp://u:{SECRET}@h?tls=1",
        f"smtp://:{SECRET}@h",
        "smtp://u@h",
        f"smtp://u:{SECRET}é@h",
    ],
)
def test_a_malformed_smtp_url_is_explained_without_its_password(tmp_path: Path, url: str) -> None:
    (complaint,) = complaints({"SMTP_URL": url, "MAIL_FROM": "a@b.org"}, tmp_path)
    assert complaint.startswith("SMTP_URL ")
    assert "Example: smtps://user:password@smtp.example.org" in complaint
    assert SECRET not in complaint


SENDS = {"SMTP_URL": "smtps://h", "MAIL_FROM": "pipit@example.org", "TRUSTED_HOSTS": "pipit.example.org"}


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        (HEROKU | SENDS | {"MAIL_FROM": ""}, "MAIL_FROM"),
        (HEROKU | SENDS | {"TRUSTED_HOSTS": ""}, "TRUSTED_HOSTS"),
        (SENDS | {"TRUSTED_HOSTS": "", "TRUSTED_PROXIES": "1"}, "TRUSTED_HOSTS"),
        (HEROKU | {"CONFIRM_EMAIL": "yes"}, "SMTP_URL"),
        (SENDS | {"MAIL_FROM": "Pipit <pipit@example.org>"}, "MAIL_FROM"),
        (SENDS | {"MAIL_FROM": "pipit@example.org\nBcc: eve@example.org"}, "MAIL_FROM"),
    ],
)
def test_what_mail_needs_is_asked_for(tmp_path: Path, environ: dict[str, str], missing: str) -> None:
    (complaint,) = complaints(environ, tmp_path)
    assert complaint.startswith(missing)


@pytest.mark.parametrize(
    ("environ", "sends", "url"),
    [
        ({}, True, "http://localhost:5000"),  # into a folder
        ({"PORT": "8000", "CONFIRM_EMAIL": "yes"}, True, "http://localhost:8000"),
        ({"SMTP_URL": "smtp://localhost:1025", "MAIL_FROM": "a@b.org"}, True, "http://localhost:5000"),
        ({"TRUSTED_PROXIES": "1"}, False, None),
        ({"TRUSTED_HOSTS": "pipit.example.org"}, False, None),
        (HEROKU, False, None),
        (HEROKU | SENDS, True, "https://pipit.example.org"),
    ],
)
def test_a_laptop_needs_no_mail_server_and_a_site_without_one_sends_nothing(
    tmp_path: Path, environ: dict[str, str], sends: bool, url: str | None
) -> None:
    config = Config.from_environ(environ, tmp_path)
    assert config.sends_mail is sends
    assert not sends or config.mail_site_url == url
