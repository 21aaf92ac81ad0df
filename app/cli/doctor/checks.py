"""What `flask doctor` makes of what it was told: pure functions from facts to findings, one for each question.

A finding is a fact in one line; one that is not "ok" also says what to run. No finding quotes a secret, a URL or a
session id. Nothing here speaks to a server: facts.py asks, and this judges.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from app.cli.doctor.facts import PYTHON_FILES, DatabaseFacts, NamedPython, RedisFacts
from app.config import Config
from app.rate_limit import WINDOW
from app.redis_client import CLIENTS_USED_UP, MAYBE_PLAIN, MAYBE_TLS, UNVERIFIED, Trouble

Level = Literal["ok", "note", "warning", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")  # from the mildest

SLOW_REDIS = 0.01  # s; within one data centre a round trip takes 0.001, and a page of a signed-in reader two of them
WORKER_MEMORY = 80  # MB; a worker after 120 logins, none of them at that moment
LOGIN_MEMORY = 20  # MB while a password is hashed (Argon2: 19 MiB), in each thread
MASTER_MEMORY = 30  # MB; gunicorn's first process
SLOW_SQL = 0.05  # s
FULL = 0.8  # of memory or connections: time to act while it still works
SKEW = 2.0  # s between two clocks that NTP keeps stay below this by far
STRONG_KEY = 32  # characters; 32 of `secrets.token_hex` are 128 bits
GETEX = (6, 2)  # the first Redis that has it; every Valkey does
OLDEST_POSTGRESQL = (10,)  # https://www.psycopg.org/psycopg3/docs/basic/install.html
OLDEST_PYTHON = (3, 11)  # requires-python in pyproject.toml
DISTINCT = 8  # different characters at least; a random key of 32 hexadecimal digits has fewer once in a billion


# What a full Redis does, and what that means for sessions. All that Pipit keeps there has an expiry, so a volatile-*
# policy may choose among the same keys as its allkeys-* twin.
POLICIES: dict[str, tuple[Level, str]] = {
    "noeviction": ("note", "a full Redis keeps every session but refuses new ones: nobody else can log in"),
    "volatile-ttl": ("ok", "a full Redis drops what expires soonest: cached pages go long before sessions"),
    "volatile-lru": ("warning", "a full Redis may drop sessions not used lately, which logs those people out"),
    "volatile-lfu": ("warning", "a full Redis may drop sessions seldom used, which logs those people out"),
    "volatile-random": ("warning", "a full Redis drops any key at random, sessions too, which logs people out"),
    "allkeys-lru": ("warning", "a full Redis may drop sessions not used lately, which logs those people out"),
    "allkeys-lfu": ("warning", "a full Redis may drop sessions seldom used, which logs those people out"),
    "allkeys-random": ("warning", "a full Redis drops any key at random, sessions too, which logs people out"),
    "allkeys-lrm": ("warning", "a full Redis may drop sessions not written lately, which logs those people out"),
    "volatile-lrm": ("warning", "a full Redis may drop sessions not written lately, which logs those people out"),
}

# Keys that stand in tutorials, manuals and templates: an attacker tries them first. The first three are Flask's own.
KNOWN_KEYS = {
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
    "a0zr98j/3yx r~xhh!jmn]lwx/,?rt",
    '_5#y2l"f4q8z\\n\\xec]/',
    "you-will-never-guess",
    "hard to guess string",
    "keyboard cat keyboard cat",
}
KNOWN_WORDS = (
    "secret", "password", "changeme", "changethis", "replaceme", "example", "insecure", "default", "qwerty", "fortests"
)  # fmt: skip
ADD_POSTGRESQL = "heroku config:unset DATABASE_URL && heroku addons:create heroku-postgresql:essential-0 --wait"
MAKE_A_KEY = """"$(python3 -c 'import secrets; print(secrets.token_hex(32))')\""""


@dataclass(frozen=True)
class Finding:
    """The answer to one question."""

    check: str  # "redis.latency": stable, for machines
    level: Level
    fact: str
    remedy: str | None = None  # what to run; there is one unless the level is ok

    @property
    def group(self) -> str:
        return self.check.partition(".")[0]


# Redis


def redis_away(why: str, trouble: Trouble | None, config: Config) -> Finding:
    """Say that Redis can't be used: nobody can log in, and every page comes from SQL."""
    address = config.redis
    remedy = "heroku redis:info" if config.on_heroku else redis_cli(config, "PING")
    if trouble is MAYBE_TLS:
        remedy = setting(config, "REDIS_URL", f"rediss://…@{address.host}:{address.port}/{address.db}")
    elif trouble is MAYBE_PLAIN:
        remedy = setting(config, "REDIS_URL", f"redis://…@{address.host}:{address.port}/{address.db}")
    elif trouble is CLIENTS_USED_UP:
        remedy = _fewer_connections(config)
    elif trouble is UNVERIFIED:
        remedy = setting(config, "REDIS_TLS_VERIFY", "no") + "   # only if its owner signs its certificate itself"
    advice = f"; it {trouble.state}: {trouble.advice}" if trouble else ""
    return Finding("redis.reachable", "problem", f"{address} can't be used ({why}){advice}", remedy)


def redis_findings(facts: RedisFacts, config: Config) -> Iterable[Finding]:
    """Judge a Redis server that answers."""
    yield Finding("redis.reachable", "ok", f"{config.redis} answers")
    yield redis_latency(facts, config)
    yield redis_version(facts, config)
    yield redis_tls(config)
    yield redis_role(facts, config)
    yield redis_memory(facts, config)
    yield redis_eviction(facts, config)
    yield redis_persistence(facts, config)
    yield redis_connections(facts, config)
    yield redis_formation(facts, config)
    yield redis_timeout(facts, config)
    yield redis_clock(facts, config)
    yield redis_sessions(facts, config)


def redis_latency(facts: RedisFacts, config: Config) -> Finding:
    """Tell how long a page waits for Redis, each time it asks."""
    fact = f"{_ms(facts.round_trip)}, the median of some PINGs"
    if facts.round_trip <= SLOW_REDIS:
        return Finding("redis.latency", "ok", fact)
    remedy = "heroku redis:info" if config.on_heroku else redis_cli(config, "--latency")
    return Finding("redis.latency", "warning", f"{fact}: slow for a server in the same data centre", remedy)


def redis_version(facts: RedisFacts, config: Config) -> Finding:
    """Tell whether the server can do what Pipit asks."""
    valkey = facts.info.get("valkey_version")
    version = str(valkey or facts.info.get("redis_version") or "")
    if not version:
        return _unreadable("redis.version", "the version", config)
    name = "Valkey" if valkey else "Redis"
    if valkey or numbers(version) >= GETEX:
        return Finding("redis.version", "ok", f"{name} {version}")
    new_server = "heroku addons:create heroku-redis:mini --wait"
    remedy = new_server if config.on_heroku else "upgrade Redis: https://valkey.io/download"
    fact = f"Redis {version} is older than 6.2: no GETEX, so Pipit sends two commands instead"
    return Finding("redis.version", "warning", fact, remedy)


def redis_tls(config: Config) -> Finding:
    """Tell whether others on the way can read sessions."""
    local = config.redis.host in ("localhost", "127.0.0.1", "::1")
    if not config.redis.tls:
        if local:
            return Finding("redis.tls", "ok", "no TLS, and none needed: the server is on this machine")
        remedy = "heroku addons:create heroku-redis:mini --wait" if config.on_heroku else None
        remedy = remedy or setting(config, "REDIS_URL", f"rediss://…@{config.redis.host}:{config.redis.port}/0")
        return Finding(
            "redis.tls", "warning", "no TLS: sessions cross the network in clear, and Redis's password", remedy
        )
    if config.redis_tls_verify:
        return Finding("redis.tls", "ok", "TLS, and the server's certificate is verified")
    if config.on_heroku:
        return Finding("redis.tls", "ok", "TLS; the certificate is not verified, as Heroku signs its own")
    remedy = setting(config, "REDIS_TLS_VERIFY", "yes")
    return Finding("redis.tls", "warning", "TLS, but not verified: anybody could pretend to be the server", remedy)


def redis_role(facts: RedisFacts, config: Config) -> Finding:
    """Tell whether the server takes writes."""
    if facts.refusal:
        tagged = re.fullmatch(r".*\{[^}]+\}.*", config.redis_prefix)
        owner = facts.refusal.rpartition(" ")[2] if "MovedError" in facts.refusal else "the-owner:6379"
        remedy = setting(config, "REDIS_PREFIX", "{pipit}:")
        if tagged:
            remedy = setting(config, "REDIS_URL", f"{config.redis.scheme}://…@{owner}/0")
        fact = f"a Redis Cluster, and this node doesn't have all of Pipit's keys ({facts.refusal}): nobody can log in"
        return Finding("redis.role", "problem", fact, remedy)
    role = facts.info.get("role")
    if role is None:
        return _unreadable("redis.role", "whether it takes writes", config)
    failed = [name for name in ("rdb_last_bgsave_status", "aof_last_write_status") if facts.info.get(name) == "err"]
    if role == "slave":
        remedy = "heroku redis:info" if config.on_heroku else setting(config, "REDIS_URL", "redis://the-primary:6379/0")
        return Finding("redis.role", "problem", "a read-only replica: nobody can log in", remedy)
    if failed:
        remedy = "heroku redis:info" if config.on_heroku else redis_cli(config, "BGSAVE")
        return Finding("redis.role", "problem", f"it can't save to disk ({failed[0]}), so it may refuse writes", remedy)
    return Finding("redis.role", "ok", "a primary: it takes writes")


def redis_memory(facts: RedisFacts, config: Config) -> Finding:
    """Tell how near the server is to being full."""
    used, limit = facts.info.get("used_memory"), facts.info.get("maxmemory")
    if used is None or limit is None:
        return _unreadable("redis.memory", "the memory", config)
    if not limit:
        remedy = "heroku redis:info" if config.on_heroku else redis_cli(config, "CONFIG SET maxmemory 100mb")
        return Finding("redis.memory", "note", f"{_mb(used)} used, no limit set", remedy)
    fact = f"{_mb(used)} of {_mb(limit)} used ({used / limit:.0%})"
    if used < FULL * limit:
        return Finding("redis.memory", "ok", fact)
    bigger = redis_cli(config, f"CONFIG SET maxmemory {2 * limit // 1_000_000}mb")
    remedy = "heroku addons:upgrade heroku-redis:premium-0" if config.on_heroku else bigger
    return Finding("redis.memory", "warning" if used < 0.95 * limit else "problem", f"{fact}: nearly full", remedy)


def redis_eviction(facts: RedisFacts, config: Config) -> Finding:
    """Tell what happens to sessions when the server is full."""
    policy = facts.info.get("maxmemory_policy")
    if policy is None:
        return _unreadable("redis.eviction", "the eviction policy", config)
    level, meaning = POLICIES.get(policy, ("warning", "not known to Pipit, so it may drop sessions"))
    fact = f"{policy}: {meaning}"
    if facts.info.get("maxmemory") == 0:
        return Finding("redis.eviction", "ok", f"{policy}, but without a limit it is never full")
    evicted = int(facts.info.get("evicted_keys", 0))
    if level == "ok":
        return Finding("redis.eviction", "ok", fact)
    if evicted:
        fact += f"; {evicted:,} keys were dropped since it started"
    best = redis_cli(config, "CONFIG SET maxmemory-policy volatile-ttl")
    remedy = "heroku redis:maxmemory --policy volatile-ttl" if config.on_heroku else best
    return Finding("redis.eviction", level, fact, remedy)


def redis_persistence(facts: RedisFacts, config: Config) -> Finding:
    """Tell what a restart of the server costs."""
    aof, snapshots = facts.info.get("aof_enabled"), facts.settings.get("save")
    if aof is None:
        return _unreadable("redis.persistence", "the persistence", config)
    plan = "heroku addons:upgrade heroku-redis:premium-0"
    remedy = plan if config.on_heroku else redis_cli(config, "CONFIG SET appendonly yes")
    if aof:
        fact = "append-only file: after a restart of Redis everyone is still logged in"
        return Finding("redis.persistence", "ok", fact)
    if snapshots is None:
        fact = "no append-only file, and snapshots can't be read here: Heroku's mini plan keeps nothing over a restart"
        return Finding("redis.persistence", "note", fact, remedy)
    if snapshots:
        fact = "snapshots: after a crash of Redis, sessions newer than the last one are gone"
        return Finding("redis.persistence", "note", fact, remedy)
    return Finding("redis.persistence", "note", "none: a restart of Redis logs everyone out", remedy)


def redis_connections(facts: RedisFacts, config: Config) -> Finding:
    """Tell how near the server is to refusing connections."""
    limit, used = _connection_limit(facts), facts.info.get("connected_clients")
    if facts.connection_names is not None:
        used = len(facts.connection_names)
    if used is None:
        return _unreadable("redis.connections", "the connections", config)
    of = f"of {limit:,} connections in use" if limit else "connections in use (their limit can't be read here)"
    fact = f"{used} {of}"
    if facts.connection_names is not None:
        fact += f", {facts.connection_names.count('pipit')} of them Pipit's, this one included"
    rejected = int(facts.info.get("rejected_connections", 0))
    remedy = _fewer_connections(config)
    if limit and used >= FULL * limit:
        return Finding("redis.connections", "warning", f"{fact}: nearly all", remedy)
    if rejected:
        fact += f"; {rejected:,} were refused since it started"
        return Finding("redis.connections", "warning", fact, remedy)
    if not limit:
        return Finding("redis.connections", "note", fact, _look(config))
    return Finding("redis.connections", "ok", fact)


def redis_formation(facts: RedisFacts, config: Config) -> Finding:
    """Tell how many dynos of this kind the server can take."""
    each = config.workers * config.redis_max_connections
    sum_ = f"{_count(config.workers, 'worker')} x REDIS_MAX_CONNECTIONS {config.redis_max_connections} = at most {each}"
    limit = _connection_limit(facts)
    if not limit:
        return Finding("redis.formation", "note", f"{sum_} a dyno; how many fit can't be read here", _look(config))
    others = sum(name != "pipit" for name in facts.connection_names or [])
    lower = setting(config, "REDIS_MAX_CONNECTIONS", str(max(1, (limit - others) // config.workers)))
    return _formation("redis.formation", sum_, each, limit, others, config, lower=lower)


def redis_timeout(facts: RedisFacts, config: Config) -> Finding:
    """Tell when the server hangs up on a connection that is idle."""
    seconds = facts.settings.get("timeout")
    if seconds is None:
        usual = "; Heroku's usual is 300 s, and Pipit connects anew" if config.on_heroku else ""
        return Finding("redis.timeout", "note", f"the idle timeout can't be read here{usual}", _look(config))
    if seconds == "0":
        return Finding("redis.timeout", "ok", "idle connections are kept for good")
    fact = f"idle connections are closed after {seconds} s, and Pipit opens new ones"
    if int(seconds) >= WINDOW:
        return Finding("redis.timeout", "ok", fact)
    longer = redis_cli(config, "CONFIG SET timeout 300")
    remedy = "heroku redis:timeout --seconds 300" if config.on_heroku else longer
    return Finding("redis.timeout", "note", f"{fact}: more often than need be", remedy)


def redis_clock(facts: RedisFacts, config: Config) -> Finding:
    """Tell whether this clock and the server's agree."""
    lead = facts.clock_lead
    if lead is None:
        return _unreadable("redis.clock", "its clock", config)
    if abs(lead) <= SKEW:
        return Finding("redis.clock", "ok", f"this clock and Redis's agree to {max(0.1, round(abs(lead), 1))} s")
    fact = (
        f"this clock is {abs(lead):,.1f} s {'ahead of' if lead > 0 else 'behind'} Redis's:"
        " dynos whose clocks differ count login attempts in different minutes, so that more guesses get through"
    )
    remedy = "heroku ps:restart" if config.on_heroku else "sudo timedatectl set-ntp true"
    return Finding("redis.clock", "problem" if abs(lead) >= WINDOW else "warning", fact, remedy)


def redis_sessions(facts: RedisFacts, config: Config) -> Finding:
    """Tell how many sessions there are, and how many more there is room for."""
    sample = facts.sessions
    if sample is None:
        return _unreadable("redis.sessions", "the keys", config)
    fact = f"{_count(sample.count, 'session')}{'' if sample.complete else ' or more'}"
    each = (sample.bytes_each or 0) + (facts.indexes.bytes_each or 0 if facts.indexes else 0)
    used, limit = facts.info.get("used_memory"), facts.info.get("maxmemory")
    if not each:
        return Finding("redis.sessions", "ok", fact)
    fact += f", {each:,.0f} bytes each with its place in the index"
    if not limit or used is None:
        return Finding("redis.sessions", "ok", fact)
    room = int(max(0, limit - used) / each)
    fact += f"; room for some {float(f'{room:.2g}'):,.0f} more"
    if room >= max(100, sample.count // 5):
        return Finding("redis.sessions", "ok", fact)
    shorter = setting(config, "SESSION_LIFETIME", str(max(60, config.session_lifetime // 2)))
    return Finding("redis.sessions", "warning", fact, shorter + "   # or a larger Redis")


# The database


def database_away(why: str, config: Config) -> Finding:
    """Say that the database does not answer: nothing but cached pages can be shown."""
    remedy = "heroku pg:info" if config.on_heroku else 'psql "$DATABASE_URL" -c "SELECT 1"'
    if config.database_url.startswith("sqlite"):
        remedy = _migrate(config)
    return Finding("database.reachable", "problem", f"the database can't be used: {why}", remedy)


def database_kind(config: Config) -> Finding:
    """Tell whether the platform keeps what the database writes."""
    if not config.database_url.startswith("sqlite"):
        return Finding("database.kind", "ok", "PostgreSQL, which keeps its own files")
    if config.on_heroku:
        fact = "SQLite on a dyno: its disk is wiped at each restart, at least daily, and all accounts and posts with it"
        return Finding("database.kind", "problem", fact, ADD_POSTGRESQL)
    return Finding("database.kind", "ok", "SQLite, in a file on this machine: right for one machine, and back it up")


def database_findings(facts: DatabaseFacts, config: Config) -> Iterable[Finding]:
    """Judge a database that answers."""
    yield Finding("database.reachable", "ok", f"{facts.kind} answers")
    yield database_latency(facts, config)
    yield database_version(facts, config)
    yield database_migrations(facts, config)
    if facts.limit is not None:
        yield database_connections(facts, config)
        yield database_formation(facts, config)


def database_latency(facts: DatabaseFacts, config: Config) -> Finding:
    """Tell how long a page waits for each query."""
    fact = f"{_ms(facts.round_trip)}, the median of some SELECT 1"
    if facts.round_trip <= SLOW_SQL:
        return Finding("database.latency", "ok", fact)
    remedy = "heroku pg:diagnose" if config.on_heroku else 'psql "$DATABASE_URL" -c "SELECT * FROM pg_stat_activity"'
    return Finding("database.latency", "warning", f"{fact}: slow for a server in the same data centre", remedy)


def database_version(facts: DatabaseFacts, config: Config) -> Finding:
    """Tell whether Pipit runs with this server."""
    if facts.kind == "SQLite":
        return Finding("database.version", "ok", f"SQLite {facts.version}")
    local = "pg_upgrade --help   # https://www.postgresql.org/docs/current/pgupgrade.html"
    remedy = "heroku pg:upgrade" if config.on_heroku else local
    return _at_least(OLDEST_POSTGRESQL, "database.version", facts.kind, facts.version, remedy)


def database_migrations(facts: DatabaseFacts, config: Config) -> Finding:
    """Tell whether the tables fit the code."""
    upgrade = _migrate(config)
    if set(facts.at) == set(facts.head):
        return Finding("database.migrations", "ok", f"at {', '.join(facts.head)}, as the code needs")
    if not facts.at:
        return Finding("database.migrations", "problem", "the database has no tables yet", upgrade)
    if facts.missing is None:
        fact = f"at {', '.join(facts.at)}, which this code does not know: the database is newer than the code"
        newer = "git push heroku master" if config.on_heroku else "git pull"
        return Finding("database.migrations", "problem", fact, newer)
    behind = f"{_count(facts.missing, 'migration')} behind"
    fact = f"{behind}: at {', '.join(facts.at)}, and the code needs {', '.join(facts.head)}"
    return Finding("database.migrations", "problem", fact, upgrade)


def database_connections(facts: DatabaseFacts, config: Config) -> Finding:
    """Tell how near the server is to refusing connections."""
    used, limit = facts.connections or 0, facts.limit or 0
    fact = f"{used} of {limit} connections in use, this one included"
    if used < FULL * limit:
        return Finding("database.connections", "ok", fact)
    remedy = "heroku pg:ps" if config.on_heroku else 'psql "$DATABASE_URL" -c "SELECT * FROM pg_stat_activity"'
    return Finding("database.connections", "warning", f"{fact}: nearly all", remedy)


def database_formation(facts: DatabaseFacts, config: Config) -> Finding:
    """Tell how many dynos of this kind the server can take."""
    each = config.workers * config.threads
    sum_ = f"{_count(config.workers, 'worker')} x {_count(config.threads, 'thread')} = at most {each}"
    lower = setting(config, "WEB_THREADS", str(max(1, (facts.limit or 0) // config.workers)))
    return _formation("database.formation", sum_, each, facts.limit or 0, 0, config, lower=lower)


# Settings


def settings_findings(config: Config) -> Iterable[Finding]:
    """Judge what a deployer decided."""
    yield secret_key(config)
    yield https(config)
    yield trusted_hosts(config)
    yield memory(config)


def secret_key(config: Config) -> Finding:
    """Tell whether somebody could guess the key, and so forge form tokens and device cookies."""
    key = config.secret_key
    plain = key.lower()
    words = "".join(character for character in plain if character.isalnum())
    weakness = None
    if plain in KNOWN_KEYS or any(word in words for word in KNOWN_WORDS):
        weakness = "an example value, or has a word in it that attackers try first"
    elif any(key[period:] == key[:-period] for period in range(1, len(key) // 2 + 1)):
        weakness = "one piece, repeated"
    elif len(set(key)) < DISTINCT:
        weakness = f"made of {_count(len(set(key)), 'different character')}"
    elif 2 * sum(abs(ord(a) - ord(b)) == 1 for a, b in pairwise(key)) > len(key):
        weakness = "a row of neighbours, as in abcdef"
    if weakness:
        fact = f"SECRET_KEY is {weakness}: it can be guessed"
        return Finding("settings.secret_key", "problem", fact, _new_key(config))
    if len(key) < STRONG_KEY:
        fact = f"SECRET_KEY has {len(key)} characters; {STRONG_KEY} random ones can't be guessed"
        return Finding("settings.secret_key", "warning", fact, _new_key(config))
    return Finding("settings.secret_key", "ok", f"SECRET_KEY has {len(key)} characters, {len(set(key))} different ones")


def https(config: Config) -> Finding:
    """Tell whether Pipit learns from the router how a visitor came, and from where."""
    proxies = config.trusted_proxies
    if config.on_heroku:
        unset = "heroku config:unset TRUSTED_PROXIES"
        if proxies == 0:
            fact = "TRUSTED_PROXIES is 0 on Heroku: Pipit takes every visit for plain HTTP, and redirects without end"
            return Finding("settings.https", "problem", fact, unset)
        if proxies > 1:
            fact = f"TRUSTED_PROXIES is {proxies} on Heroku, whose router is 1: addresses and HTTPS may be mistaken"
            return Finding("settings.https", "warning", fact, unset)
        return Finding("settings.https", "ok", "everyone is sent to HTTPS; addresses come from Heroku's router")
    if proxies == 0:
        fact = "plain HTTP, no proxy is believed: right on a laptop; behind a proxy all visitors would be one address"
        return Finding(
            "settings.https", "note", fact, setting(config, "TRUSTED_PROXIES", "1") + "   # behind one proxy"
        )
    fact = f"X-Forwarded-For and -Proto of {'one proxy is' if proxies == 1 else f'{proxies} proxies are'} believed"
    return Finding("settings.https", "ok", fact)


def trusted_hosts(config: Config) -> Finding:
    """Tell whether Pipit answers to any name that a request gives it."""
    hosts = config.trusted_hosts
    public = config.on_heroku or config.trusted_proxies > 0
    remedy = setting(config, "TRUSTED_HOSTS", "your-app.herokuapp.com" if config.on_heroku else "pipit.example.org")
    if config.on_heroku:
        remedy += "   # `heroku domains` lists the names"
    if not hosts:
        fact = "TRUSTED_HOSTS is not set: Pipit answers to any name"
        if not public:
            return Finding("settings.hosts", "ok", f"{fact}, which is right on a laptop")
        return Finding("settings.hosts", "note", f"{fact} that a request gives it, and repeats it in redirects", remedy)
    if public and all(host.startswith(("localhost", "127.", "[")) for host in hosts):
        return Finding("settings.hosts", "problem", "TRUSTED_HOSTS names this machine only: visitors get a 400", remedy)
    return Finding("settings.hosts", "ok", f"answers to {', '.join(hosts)} only")


def memory(config: Config) -> Finding:
    """Tell whether the workers fit into this machine, with every thread checking a password at the same moment."""
    if config.memory is None:
        remedy = "heroku ps" if config.on_heroku else "ask your host how much memory this machine has"
        return Finding("settings.memory", "note", "how much memory this machine has can't be read here", remedy)
    each = WORKER_MEMORY + config.threads * LOGIN_MEMORY
    need = MASTER_MEMORY + config.workers * each
    fact = (
        f"{_count(config.workers, 'worker')} take at most some {need:,} of {config.memory:,} MB, in a flood of logins"
    )
    if need <= config.memory:
        return Finding("settings.memory", "ok", fact)
    fits = max(1, (config.memory - MASTER_MEMORY) // each)
    level: Level = "problem" if MASTER_MEMORY + config.workers * WORKER_MEMORY > config.memory else "warning"
    return Finding("settings.memory", level, fact, setting(config, "WEB_CONCURRENCY", str(fits)))


# Python


def python_version(config: Config, running: str) -> Finding:
    """Tell whether Pipit runs with this Python."""
    remedy = "echo python-3.13 > runtime.txt && git commit -am 'Python 3.13' && git push heroku master"
    if not config.on_heroku:
        remedy = "make clean && make run PYTHON=python3.13   # keep a copy of instance/ first"
    return _at_least(OLDEST_PYTHON, "python.version", "Python", running, remedy)


def python_runtime(config: Config, named: NamedPython | None, running: str) -> Finding:
    """Tell whether this Python is the one that the tree names for the platform."""
    if named is None:
        write = "echo 3.13 > .python-version && git add .python-version"
        fact = f"there is no {' and no '.join(PYTHON_FILES)}: Heroku chooses a Python"
        return Finding("python.runtime", "note", fact, write)
    if f"{running}.".startswith(f"{named.version}."):
        return Finding("python.runtime", "ok", f"{named.file} says {named.version}, and this is it")
    fact = f"{named.file} says {named.version}, this is {running}"
    if config.on_heroku:
        return Finding("python.runtime", "warning", fact, "git push heroku master")
    minor = ".".join(named.version.split(".")[:2])
    remedy = f"make test PYTHON=python{minor}   # in a fresh clone, to test what production runs"
    return Finding("python.runtime", "note", f"{fact}: production runs another Python than this machine", remedy)


# What remedies are made of


def setting(config: Config, name: str, value: str) -> str:
    """Return the command that changes a setting."""
    return f"heroku config:set {name}={value}" if config.on_heroku else f"echo '{name}={value}' >> .env"


def redis_cli(config: Config, command: str) -> str:
    """Return a redis-cli command for this server; it asks for the password, if there is one."""
    address = config.redis
    words = ["redis-cli", "-h", address.host, "-p", str(address.port)]
    words += ["--tls"] if address.tls else []
    words += ["--user", address.username] if address.username else []
    words += ["--askpass"] if address.password else []
    return " ".join([*words, command])


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers to compare by, as far as it has some."""
    found = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)


def _migrate(config: Config) -> str:
    if not config.on_heroku:
        return "flask db upgrade"
    # A SQLite file that `heroku run` migrates is gone with the one-off dyno that it was on.
    return ADD_POSTGRESQL if config.database_url.startswith("sqlite") else "heroku run -- flask db upgrade"


def _fewer_connections(config: Config) -> str:
    if config.on_heroku:
        return "heroku addons:upgrade heroku-redis:premium-0"
    return setting(config, "REDIS_MAX_CONNECTIONS", str(max(1, config.redis_max_connections - 1)))


def _new_key(config: Config) -> str:
    if config.on_heroku:
        return f"heroku config:set SECRET_KEY={MAKE_A_KEY}"
    return f"echo SECRET_KEY={MAKE_A_KEY} >> .env"


def _look(config: Config) -> str:
    return "heroku redis:info" if config.on_heroku else "ask your host for the limits of your plan"


def _unreadable(check: str, what: str, config: Config) -> Finding:
    return Finding(check, "note", f"{what} can't be read here: this Redis user may not ask", _look(config))


def _at_least(oldest: tuple[int, ...], check: str, name: str, version: str, remedy: str) -> Finding:
    """Judge a version by the oldest that Pipit runs with."""
    if numbers(version) >= oldest:
        return Finding(check, "ok", f"{name} {version}")
    needed = ".".join(map(str, oldest))
    return Finding(
        check, "problem", f"{name} {version} is older than {needed}, the oldest that Pipit runs with", remedy
    )


def _formation(check: str, sum_: str, each: int, limit: int, others: int, config: Config, *, lower: str) -> Finding:
    """Say how many dynos fit, each opening so many connections, beside `others` that are not Pipit's."""
    fits = max(0, limit - others) // each
    beside = f" beside {_count(others, 'other')}" if others else ""
    kind = "dyno" if config.on_heroku else "machine"
    many = {0: f"not even one {kind} fits", 1: f"1 such {kind} fits"}.get(fits, f"{fits:,} such {kind}s fit")
    fact = f"{sum_} a {kind}; {many} into {limit:,}{beside}"
    if fits == 0:
        return Finding(check, "problem", f"{fact}: under load visitors get errors", lower)
    return Finding(check, "ok", fact)


def _connection_limit(facts: RedisFacts) -> int | None:
    limit = facts.info.get("maxclients") or facts.settings.get("maxclients")
    return int(limit) if limit else None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.001 else f"{seconds * 1000:.1f} ms"


def _mb(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
