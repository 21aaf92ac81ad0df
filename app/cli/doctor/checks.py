"""The checks of `flask doctor`: one function a question. CHECKS lists them in the order of the report.

A check takes the facts and returns an Answer: a level, a fact in one line, and what to do if all is not well. It raises
KeyError if a fact that it needs is not known; then it is left out of the report.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from app.cli.doctor.facts import Facts
from app.config import Config
from app.follower import CATCH_UP

Level = Literal["ok", "note", "warning", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")  # from the mildest

SLOW_REDIS = 0.01  # s; within one data centre a round trip takes 0.001
SLOW_SQL = 0.05  # s
FULL = 0.8  # of memory or connections: there is still time to act
CONNECTIONS = 2  # that a process should have at least, to each server: the front has one of those to Redis
OTHERS = 3  # connections beside the web processes': one for `flask worker`, two for a release
SKEW = 2.0  # s; clocks that NTP keeps differ by far less
WORKER_MEMORY = 80  # MB; a worker after 120 logins, none of them at that moment
LOGIN_MEMORY = 20  # MB while a password is hashed (Argon2: 19 MiB), in each thread
MASTER_MEMORY = 30  # MB; gunicorn's first process
STRONG_KEY = 32  # characters; 32 of `secrets.token_hex` are 128 bits
LATE = timedelta(minutes=10)  # a mail waits; Pipit has tried to send it four times by then
DISTINCT = 8  # different characters; a random key of 32 hexadecimal digits has fewer once in a billion

# Parts of keys from tutorials and templates, letters and digits only. An attacker tries those keys first.
GUESSES = (
    "192b9bdd22ab9ed4", "5y2lf4q8z", "a0zr98j3yxr", "youwillneverguess", "hardtoguess", "keyboardcat", "12345678",
    "abcdefgh", "qwerty", "secret", "password", "changeme", "changethis", "replaceme", "example", "insecure", "default",
    "fortests",
)  # fmt: skip
MAKE_A_KEY = """"$(python3 -c 'import secrets; print(secrets.token_hex(32))')\""""
SCALING = "docs/scaling.md"
NEW_REDIS = "heroku addons:create heroku-redis:mini --wait"
LARGER_REDIS = "heroku addons:upgrade heroku-redis:premium-0"
NEW_POSTGRESQL = "heroku config:unset DATABASE_URL && heroku addons:create heroku-postgresql:essential-0 --wait"


class Answer(NamedTuple):
    """What a check found."""

    level: Level
    fact: str
    remedy: str | None = None


# Redis


def redis_reachable(facts: Facts) -> Answer:
    """Can Pipit use Redis, and how long does each page wait for it?"""
    address, redis = facts.config.redis, facts.redis
    if "error" in redis:
        remedy = redis["advice"] or _either(facts, "heroku redis:info", "redis-cli PING")
        return Answer("problem", f"{address} can't be used: {redis['error']}", remedy)
    fact = f"{address} takes writes, each within {_ms(redis['seconds'])}"
    if redis["seconds"] <= SLOW_REDIS:
        return Answer("ok", fact)
    look = _either(facts, "heroku redis:info", "redis-cli --latency")
    return Answer("warning", f"{fact}: slow for a server in the same data centre", look)


def redis_version(facts: Facts) -> Answer:
    """Is the server new enough?"""
    if "valkey_version" in facts.redis:
        return Answer("ok", f"Valkey {facts.redis['valkey_version']}")
    version = facts.redis["redis_version"]
    if [int(number) for number in version.split(".")[:2]] >= [6, 2]:
        return Answer("ok", f"Redis {version}")
    fact = f"Redis {version} has no GETEX, which came with 6.2: Pipit sends two commands instead"
    return Answer("warning", fact, _either(facts, NEW_REDIS, "see https://valkey.io/download"))


def redis_tls(facts: Facts) -> Answer:
    """Can anyone on the network read the sessions?"""
    address, config = facts.config.redis, facts.config
    if address.tls and config.redis_tls_verify:
        return Answer("ok", "TLS, and the server's certificate is verified")
    if address.tls and config.on_heroku:
        return Answer("ok", "TLS; the certificate is not verified, as Heroku signs its own")
    if address.tls:
        fact = "TLS, but the certificate is not verified: anyone could pretend to be the server"
        return Answer("warning", fact, _setting(config, "REDIS_TLS_VERIFY", "yes"))
    if address.host in ("localhost", "127.0.0.1", "::1"):
        return Answer("ok", "no TLS, and none needed: the server is on this machine")
    other = _setting(config, "REDIS_URL", str(address).replace("redis", "rediss", 1).replace("://", "://…@"))
    fact = "no TLS: sessions and Redis's password cross the network in clear text"
    return Answer("warning", fact, _either(facts, NEW_REDIS, other))


def redis_failover(facts: Facts) -> Answer:
    """Is there a server that can take over from the primary, and what would be lost then?"""
    redis = facts.redis
    replicas, is_cluster = redis["connected_slaves"], redis["cluster_enabled"]
    fact = f"{redis['primary']} is the primary, with {replicas} replica{'' if replicas == 1 else 's'}"
    if not replicas:
        must_follow = is_cluster or facts.config.redis.sentinels
        return Answer("warning", f"{fact}: nothing can take over", SCALING) if must_follow else Answer("ok", fact)
    if is_cluster:
        return Answer("ok", f"{fact}; cut off from the cluster, it stops taking writes")
    if "min_slaves_good_slaves" in redis:  # INFO has it only with these settings
        return Answer("ok", f"{fact}; cut off from them, it stops taking writes")
    both = "redis-cli CONFIG SET min-replicas-to-write 1 min-replicas-max-lag 2"
    level: Level = "note" if facts.config.on_heroku else "warning"
    return Answer(
        level, f"{fact}; cut off from them, it takes writes that a failover undoes", _either(facts, SCALING, both)
    )


def redis_memory(facts: Facts) -> Answer:
    """How full is the server?"""
    used, limit = facts.redis["used_memory"], facts.redis["maxmemory"]
    more = f"redis-cli CONFIG SET maxmemory {2 * limit // 1_000_000 or 100}mb"
    larger = _either(facts, LARGER_REDIS, more)
    if not limit:
        return Answer("note", f"{_mb(used)} used, no limit set", larger)
    fact = f"{_mb(used)} of {_mb(limit)} used ({used / limit:.0%})"
    if used < FULL * limit:
        return Answer("ok", fact)
    return Answer("warning" if used < 0.95 * limit else "problem", f"{fact}: nearly full", larger)


def redis_eviction(facts: Facts) -> Answer:
    """Are sessions safe when the server is full?"""
    policy = facts.redis["maxmemory_policy"]
    better = "redis-cli CONFIG SET maxmemory-policy volatile-ttl"
    remedy = _either(facts, "heroku redis:maxmemory --policy volatile-ttl", better)
    if not facts.redis["maxmemory"]:
        return Answer("ok", f"{policy}, but without a limit the server is never full")
    if policy == "volatile-ttl":
        return Answer("ok", f"{policy}: a full Redis drops cached pages long before sessions")
    if policy == "noeviction":
        return Answer("note", f"{policy}: a full Redis refuses new sessions, so nobody can log in", remedy)
    return Answer("warning", f"{policy}: a full Redis may drop sessions, which logs those people out", remedy)


def redis_persistence(facts: Facts) -> Answer:
    """Are sessions still there after Redis restarts?"""
    if facts.redis["aof_enabled"]:
        return Answer("ok", "append-only file: everyone is still logged in after Redis restarts")
    remedy = _either(facts, LARGER_REDIS, "redis-cli CONFIG SET appendonly yes")
    return Answer("note", "no append-only file: a restart of Redis may log people out", remedy)


def redis_connections(facts: Facts) -> Answer:
    """How many dynos can connect?"""
    used, limit = facts.redis["connected_clients"], facts.redis["maxclients"]
    return _connections(facts, used, limit, "REDIS_MAX_CONNECTIONS", facts.config.redis_max_connections)


def redis_clock(facts: Facts) -> Answer:
    """Do this clock and the server's agree?"""
    lead = facts.redis["clock_lead"]
    if abs(lead) <= SKEW:
        return Answer("ok", f"this clock and Redis's agree within {SKEW:.0f} s")
    fact = (
        f"this clock is {abs(lead):,.1f} s {'ahead of' if lead > 0 else 'behind'} Redis's: dynos whose clocks differ"
        " count login attempts in different minutes, so that more guesses get through"
    )
    return Answer("warning", fact, _either(facts, "heroku ps:restart", "sudo timedatectl set-ntp true"))


# The database


def database_kind(facts: Facts) -> Answer:
    """Will the platform keep what the database writes?"""
    if not facts.config.database_url.startswith("sqlite"):
        return Answer("ok", "PostgreSQL, which keeps its own files")
    if not facts.config.on_heroku:
        return Answer("ok", "SQLite, in a file on this machine")
    fact = "SQLite on a dyno: its disk is wiped at each restart, at least daily, and all accounts and posts with it"
    return Answer("problem", fact, NEW_POSTGRESQL)


def database_reachable(facts: Facts) -> Answer:
    """Can Pipit use the database, and how long does each query take?"""
    database = facts.database
    look = _either(facts, "heroku pg:diagnose", 'psql "$DATABASE_URL" -c "SELECT * FROM pg_stat_activity"')
    if "error" in database:
        remedy = "flask db upgrade" if facts.config.database_url.startswith("sqlite") else look
        return Answer("problem", f"the database can't be used: {database['error']}", remedy)
    fact = f"{database['server']} answers within {_ms(database['seconds'])}"
    if database["seconds"] <= SLOW_SQL:
        return Answer("ok", fact)
    return Answer("warning", f"{fact}: slow for a server in the same data centre", look)


def database_migrations(facts: Facts) -> Answer:
    """Do the tables fit the code?"""
    at, head = facts.database["at"], facts.database["head"]
    here, needed = ", ".join(sorted(at)) or "no migration", ", ".join(sorted(head))
    if at == head:
        return Answer("ok", f"at {needed}, as the code needs")
    if at - facts.database["known"]:
        fact = f"at {here}, which this code does not know: the database is newer than the code"
        return Answer("problem", fact, _either(facts, "git push heroku master", "git pull"))
    upgrade = _either(facts, "heroku run -- flask db upgrade", "flask db upgrade")
    return Answer("problem", f"at {here}, and the code needs {needed}", upgrade)


def database_connections(facts: Facts) -> Answer:
    """How many dynos can connect? (PostgreSQL only.)"""
    used, limit, each = facts.database["used"], facts.database["limit"], facts.config.database_max_connections
    return _connections(facts, used, limit, "DATABASE_MAX_CONNECTIONS", each)


def database_follower(facts: Facts) -> Answer:
    """How far is the follower behind, if it answers? (With DATABASE_READ_URL only.)"""
    follower = facts.follower
    unset = _either(facts, "heroku config:unset DATABASE_READ_URL", "remove DATABASE_READ_URL from .env")
    if "error" in follower:
        return Answer("warning", f"can't be used, so the primary answers for it: {follower['error']}", unset)
    if not follower["follows"]:
        return Answer("problem", "DATABASE_READ_URL names a server that follows no other", unset)
    fact = f"follows, at most {follower['lag']:,.1f} s behind"
    if follower["lag"] <= CATCH_UP:
        return Answer("ok", fact)
    return Answer("warning", f"{fact}: people miss on older pages what they have just written", unset)


# The site


def site_moderators(facts: Facts) -> Answer:
    """Is there somebody who reads what people report?"""
    count = facts.database["moderators"]
    if count:
        return Answer("ok", f"{count} moderator{'' if count == 1 else 's'}")
    promote = _either(facts, "heroku run -- flask user promote NAME", "flask user promote NAME")
    return Answer("note", "there is no moderator: nobody reads what people report", promote)


# Settings


def settings_secret_key(facts: Facts) -> Answer:
    """Could someone guess the key, and so forge form tokens and device cookies?"""
    key = facts.config.secret_key
    plain = "".join(character for character in key.lower() if character.isalnum())
    remedy = _setting(facts.config, "SECRET_KEY", MAKE_A_KEY)
    if len(set(key)) < DISTINCT or any(guess in plain for guess in GUESSES):
        return Answer("problem", "SECRET_KEY can be guessed: it is an example, a common word or a pattern", remedy)
    if len(key) < STRONG_KEY:
        return Answer("warning", f"SECRET_KEY has {len(key)} characters; {STRONG_KEY} can't be guessed", remedy)
    return Answer("ok", f"SECRET_KEY has {len(key)} characters")


def settings_https(facts: Facts) -> Answer:
    """Is it the right proxy that tells Pipit a visitor's address, and whether they use HTTPS?"""
    proxies, on_heroku = facts.config.trusted_proxies, facts.config.on_heroku
    unset = "heroku config:unset TRUSTED_PROXIES"
    if on_heroku and not proxies:
        fact = "TRUSTED_PROXIES is 0 on Heroku: Pipit takes every visit for plain HTTP, and redirects without end"
        return Answer("problem", fact, unset)
    if on_heroku and proxies > 1:
        fact = f"TRUSTED_PROXIES is {proxies}, right only behind a CDN: else visitors can forge their address"
        return Answer("warning", fact, unset)
    if not proxies:
        fact = "TRUSTED_PROXIES is 0: right without a proxy; behind one, all visitors would share one address"
        return Answer("note", fact, _setting(facts.config, "TRUSTED_PROXIES", "1"))
    return Answer("ok", f"TRUSTED_PROXIES is {proxies}: visitors' addresses and HTTPS come from X-Forwarded-*")


def settings_hosts(facts: Facts) -> Answer:
    """Is Pipit limited to its own names?"""
    config = facts.config
    if config.trusted_hosts:
        return Answer("ok", f"answers to {', '.join(config.trusted_hosts)} only")
    if not config.trusted_proxies:
        return Answer("ok", "TRUSTED_HOSTS is not set, which is right on a laptop")
    fact = "TRUSTED_HOSTS is not set: Pipit answers to any name that a request gives, and repeats it in redirects"
    return Answer("note", fact, _setting(config, "TRUSTED_HOSTS", "www.example.org"))


def settings_memory(facts: Facts) -> Answer:
    """Do the workers fit into this machine, even if every thread checks a password at the same moment?"""
    config = facts.config
    if config.memory is None:
        return Answer("note", "how much memory this machine has is not known", _either(facts, "heroku ps", "free -m"))
    each = WORKER_MEMORY + config.threads * LOGIN_MEMORY
    need = MASTER_MEMORY + config.workers * each
    fact = f"WEB_CONCURRENCY {config.workers} takes at most some {need:,} of {config.memory:,} MB in a flood of logins"
    if need <= config.memory:
        return Answer("ok", fact)
    level: Level = "problem" if MASTER_MEMORY + config.workers * WORKER_MEMORY > config.memory else "warning"
    fits = max(1, (config.memory - MASTER_MEMORY) // each)
    return Answer(level, fact, _setting(config, "WEB_CONCURRENCY", str(fits)))


# Mail


def mail_server(facts: Facts) -> Answer:
    """Can people get a link if they forget their password?"""
    config = facts.config
    if config.smtp is None and config.is_laptop:
        return Answer("ok", "SMTP_URL is not set: on a laptop, mails are printed and kept in instance/mail/")
    if config.smtp is None:
        fact = "SMTP_URL is not set: nobody can add an e-mail address, or choose a new password by mail"
        return Answer("note", fact, _setting(config, "SMTP_URL", "smtps://…"))
    if facts.mail["error"]:
        return Answer("problem", f"{config.smtp} can't be used: {facts.mail['error']}", "docs/mail.md")
    if not config.trusted_hosts:
        fact = f"{config.smtp} lets Pipit in, but links in mails lead to {config.mail_site_url}"
        return Answer("warning", fact, _setting(config, "TRUSTED_HOSTS", "www.example.org"))
    return Answer("ok", f"{config.smtp} lets Pipit in; mails come from {config.mail_from}")


def mail_queue(facts: Facts) -> Answer:
    """Are mails sent?"""
    waiting, failed, since = facts.mail["waiting"], facts.mail["failed"], facts.mail.get("since")
    fact = f"{waiting} waiting, {failed} failed in the last days"
    see = _either(facts, "heroku run -- flask mail list", "flask mail list")
    if since and datetime.now(UTC) - since > LATE:
        return Answer("warning", f"{fact}; the oldest one waits since {since:%Y-%m-%d %H:%M} UTC", see)
    return Answer("note", fact, see) if failed else Answer("ok", fact)


CHECKS: tuple[Callable[[Facts], Answer], ...] = (
    redis_reachable,
    redis_version,
    redis_tls,
    redis_failover,
    redis_memory,
    redis_eviction,
    redis_persistence,
    redis_connections,
    redis_clock,
    database_kind,
    database_reachable,
    database_migrations,
    database_connections,
    database_follower,
    site_moderators,
    settings_secret_key,
    settings_https,
    settings_hosts,
    settings_memory,
    mail_server,
    mail_queue,
)


def _either(facts: Facts, on_heroku: str, elsewhere: str) -> str:
    return on_heroku if facts.config.on_heroku else elsewhere


def _setting(config: Config, name: str, value: str) -> str:
    """Return the command that changes a setting."""
    return f"heroku config:set {name}={value}" if config.on_heroku else f"echo {name}={value} >> .env"


def _connections(facts: Facts, used: int, limit: int, name: str, each: int) -> Answer:
    """Compare a server's limit with its connections, and with those that a dyno may open: `each` in each process."""
    workers, dyno = facts.config.workers, _either(facts, "dyno", "machine")
    left = max(0, limit - OTHERS)
    fits = left // (workers * each)
    product = f"WEB_CONCURRENCY {workers} x {name} {each} = at most {workers * each} a {dyno}"
    fact = f"{used} of {limit:,} in use; {product}, and {OTHERS} besides, so {fits:,} can run"
    if fits and used < FULL * limit:
        return Answer("ok", fact)
    level: Level = "warning" if fits else "problem"
    if each > CONNECTIONS:
        return Answer(level, fact, _setting(facts.config, name, str(max(CONNECTIONS, left // workers))))
    return Answer(level, fact, _setting(facts.config, "WEB_CONCURRENCY", str(max(1, min(left // each, workers - 1)))))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _mb(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
