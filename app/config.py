"""The environment, read once, checked and typed; every complaint is collected and told in one readable message.

Nothing else in Pipit reads an environment variable. What the variables mean to a deployer stands in README.md.
"""

import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
DOTENV = ROOT / ".env"
INSTANCE = ROOT / "instance"  # what a laptop keeps: SQLite, Valkey's files
LOCAL_REDIS = "redis://127.0.0.1:6379/0"
REDIS_PORT = 6379
SECRET_KEY_LENGTH = 16  # characters at least; `secrets.token_hex(32)` gives 64

# User names that hosting add-ons put into a Redis URL for decoration: their servers know no such user, and an AUTH
# that named one would be refused. Redis To Go writes "redistogo"; Heroku's own add-on used to write "h".
DECORATIVE_REDIS_USERS = {"redistogo", "h"}

EXAMPLES = {
    "REDIS_URL": "redis://:password@host:6379/0, or rediss:// for TLS",
    "REDISTOGO_URL": "redis://redistogo:password@host:9876/",
    "DATABASE_URL": "postgres://user:password@host:5432/name",
    "SECRET_KEY": 'what `python3 -c "import secrets; print(secrets.token_hex(32))"` prints',
    "PORT": "5000",
    "WEB_CONCURRENCY": "2",
    "WEB_THREADS": "5",
    "REDIS_MAX_CONNECTIONS": "5",
    "REDIS_PREFIX": "pipit:",
    "REDIS_TLS_VERIFY": "yes, or no",
    "CACHE_STRATEGY": "invalidate",
    "CACHE_TTL": "60 (seconds)",
    "LOGIN_MAX_ATTEMPTS": "5",
    "SESSION_LIFETIME": "1209600 (seconds, 14 days)",
    "TRUSTED_HOSTS": "pipit.example.org,www.pipit.example.org",
    "TRUSTED_PROXIES": "1",
}


class ConfigError(SystemExit):
    """The environment can't be used: ends the process with its message and status 1, without a traceback.

    It is a SystemExit so that this holds for whoever starts Pipit: gunicorn, the flask command or a script.
    """

    def __init__(self, complaints: list[str]) -> None:
        self.complaints = complaints
        many = "1 setting needs" if len(complaints) == 1 else f"{len(complaints)} settings need"
        super().__init__(f"Pipit can't start: {many} your attention.\n" + "\n".join(f"  {line}" for line in complaints))


class InvalidSettingError(ValueError):
    """One variable is wrong; the text says what is wrong with it, and never quotes a secret."""


@dataclass(frozen=True)
class RedisAddress:
    """Where the Redis server is, taken apart from its URL."""

    scheme: str
    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    db: int

    @property
    def tls(self) -> bool:
        return self.scheme == "rediss"

    def __str__(self) -> str:
        """Return the address without its password, fit for a log."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.db}"


@dataclass(frozen=True)
class Config:
    """Everything a deployer decides. Times are in seconds."""

    redis: RedisAddress
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    on_heroku: bool = False
    port: int = 5000
    workers: int = 2
    threads: int = 5
    redis_max_connections: int = 4
    redis_prefix: str = ""
    redis_tls_verify: bool = True
    cache_strategy: str = "invalidate"
    cache_ttl: int = 60
    login_max_attempts: int = 5
    session_lifetime: int = 14 * 24 * 3600
    site_name: str = "Pipit"
    trusted_hosts: tuple[str, ...] = ()
    trusted_proxies: int = 0
    memory: int | None = None  # MB that this machine has, as far as it tells
    runs_commands: bool = False  # this process is a `flask` command, not a web process

    @classmethod
    def load(cls) -> "Config":
        """Read the environment, and Pipit's own .env for what is not set there.

        FLASK_SKIP_DOTENV=1, which the flask command knows as well, leaves .env out.

        Raises ConfigError, as from_environ() does.
        """
        skip = os.environ.get("FLASK_SKIP_DOTENV", "").lower() not in ("", "0", "false", "no")  # as Flask reads it
        try:
            dotenv = {} if skip else dotenv_values(DOTENV, interpolate=False)
        except OSError as error:
            raise ConfigError([f"{DOTENV} can't be read: {error.strerror}"]) from None
        return cls.from_environ({name: value or "" for name, value in dotenv.items()} | os.environ)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], instance: Path = INSTANCE) -> "Config":
        """Read and check every variable.

        Off Heroku what is missing is made: a SQLite file and a kept secret key in the folder `instance`.

        Raises ConfigError, which lists all that is missing or malformed.
        """
        reader = _Reader(environ)
        on_heroku = is_heroku(environ)
        threads = reader.read("WEB_THREADS", _integer(1, 100), 5)
        sqlite = f"sqlite:///{instance / 'pipit.db'}"
        no_hosts: tuple[str, ...] = ()
        config = cls(
            redis=reader.read(
                "REDIS_URL" if environ.get("REDIS_URL", "").strip() else "REDISTOGO_URL",
                parse_redis_url,
                None if on_heroku else parse_redis_url(LOCAL_REDIS),
            ),
            database_url=reader.read("DATABASE_URL", parse_database_url, None if on_heroku else sqlite),
            secret_key=reader.read("SECRET_KEY", _secret_key, None if on_heroku else ""),
            on_heroku=on_heroku,
            port=reader.read("PORT", _integer(1, 65535), 5000),
            workers=reader.read("WEB_CONCURRENCY", _integer(1, 100), 2),
            threads=threads,
            # A thread holds a connection only while a command runs. One less than the threads: two dynos of two
            # workers then open 16 of the 20 that the smallest plan allows, and leave some for an operator.
            redis_max_connections=reader.read("REDIS_MAX_CONNECTIONS", _integer(1, 1000), max(1, threads - 1)),
            redis_prefix=reader.read("REDIS_PREFIX", _redis_prefix, ""),
            # Heroku signs its servers' certificates itself, so there is nothing there to verify them against.
            redis_tls_verify=reader.read("REDIS_TLS_VERIFY", _yes_or_no, not on_heroku),
            cache_strategy=reader.read("CACHE_STRATEGY", _one_of("invalidate", "refresh", "expire"), "invalidate"),
            cache_ttl=reader.read("CACHE_TTL", _integer(1, 24 * 3600), 60),
            login_max_attempts=reader.read("LOGIN_MAX_ATTEMPTS", _integer(1, 1000), 5),
            session_lifetime=reader.read("SESSION_LIFETIME", _integer(60, 10 * 365 * 24 * 3600), 14 * 24 * 3600),
            site_name=reader.read("SITE_NAME", str, "Pipit"),
            trusted_hosts=reader.read("TRUSTED_HOSTS", _host_names, no_hosts),
            # Heroku's router is the one proxy that every request there has passed.
            trusted_proxies=reader.read("TRUSTED_PROXIES", _integer(0, 10), 1 if on_heroku else 0),
            memory=_memory(environ),
            runs_commands=environ.get("FLASK_RUN_FROM_CLI") == "true",  # set by the flask command itself
        )
        if reader.complaints:
            raise ConfigError(reader.complaints)
        if config.database_url == sqlite or not config.secret_key:
            instance.mkdir(exist_ok=True)
        return config if config.secret_key else replace(config, secret_key=kept_secret_key(instance))


def _memory(environ: Mapping[str, str]) -> int | None:
    """Return the MB of the dyno, which Heroku's build tells its processes (DYNO_RAM), or else of the machine."""
    told = environ.get("DYNO_RAM", "")
    if told.isdecimal():
        return int(told)
    if is_heroku(environ):
        return None  # the machine is shared with other dynos
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError):
        return None


def is_heroku(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this is a Heroku dyno: the platform sets DYNO in every one."""
    return bool(environ.get("DYNO"))


def is_started_with_others(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether honcho or foreman started this process, and stops all the others when it ends."""
    return not is_heroku(environ) and bool(environ.get("HONCHO_PROCESS_NAME") or environ.get("PS"))


def parse_redis_url(url: str) -> RedisAddress:
    """Take a Redis URL apart. Raises InvalidSettingError; its text never quotes the URL, which holds a password."""
    if not url.startswith(("redis://", "rediss://")):
        raise InvalidSettingError("must begin with redis:// or rediss://")
    try:
        parts = urlsplit(url)  # some of its errors quote the URL
        port = REDIS_PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not port or "@" in parts.path + parts.query + parts.fragment:
        raise InvalidSettingError(
            "has a host or a port that can't be one (or a password with a / ? # [ or @ that is not percent-encoded)"
        )
    if not parts.hostname:
        raise InvalidSettingError("names no host")
    path = parts.path.strip("/")
    if not re.fullmatch(r"[0-9]{0,4}", path):
        raise InvalidSettingError("must end in a database number, as in /0")
    username = unquote(parts.username or "") or None
    return RedisAddress(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        username=None if username in DECORATIVE_REDIS_USERS else username,
        password=unquote(parts.password or "") or None,
        db=int(path or 0),
    )


def parse_database_url(url: str) -> str:
    """Return the URL as SQLAlchemy wants it, with its driver named. Raises InvalidSettingError."""
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql", "postgresql+psycopg") and separator:
        try:
            parts = urlsplit(url)
            named = (parts.hostname or "host=" in parts.query) and parts.path.strip("/") and (parts.port or True)
            named = named and parts.netloc.count("@") < 2  # SQLAlchemy takes the first one for the password's end
        except ValueError:
            named = False
        if not named:
            raise InvalidSettingError(
                "must name a host, a port that is a number, and a database (and percent-encode a / ? # or @ in the "
                "password)"
            )
        return f"postgresql+psycopg://{rest}"
    if scheme == "sqlite" and rest.startswith("/"):
        return url
    raise InvalidSettingError("must begin with postgres:// or sqlite:///")


def kept_secret_key(instance: Path) -> str:
    """Return the secret key kept in the folder `instance`; the first call makes it.

    Only for machines other than Heroku's, which forget their files: there it would log everyone out each day.
    """
    path = instance / "secret_key"
    fresh = path.with_suffix(f".{os.getpid()}")
    if not path.exists():
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_hex(32))
        # A link fails where a file is there already, so of two processes that start at once, one key wins.
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


class _Reader:
    """Reads variables and remembers what was wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.complaints: list[str] = []

    def read(self, name: str, parse: Callable[[str], T], default: T | None) -> T:
        """Return the parsed variable or its default; where there is neither, complain.

        After a complaint the value is of no use; from_environ() raises before anyone sees it.
        """
        text = self.environ.get(name, "").strip()
        if text:
            try:
                return parse(text)
            except InvalidSettingError as problem:
                self.complaints.append(f"{name} {problem}. Example: {EXAMPLES[name]}")
        elif default is None:
            named = "REDIS_URL (or REDISTOGO_URL)" if name == "REDISTOGO_URL" else name
            example = EXAMPLES["REDIS_URL" if name == "REDISTOGO_URL" else name]
            self.complaints.append(f"{named} is not set, and Heroku needs it. Example: {example}")
        return default  # type: ignore[return-value]  # None only after a complaint


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise InvalidSettingError(f"must be a whole number from {low} to {high}, not {text[:20]!r}")
        return int(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise InvalidSettingError(f"must be {' or '.join(words)}, not {text[:20]!r}")
        return text

    return parse


def _yes_or_no(text: str) -> bool:
    return _one_of("yes", "no")(text.lower()) == "yes"


def _secret_key(text: str) -> str:
    if len(text) < SECRET_KEY_LENGTH:
        raise InvalidSettingError(f"is too short to keep a secret: {SECRET_KEY_LENGTH} characters at least")
    return text


def _redis_prefix(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,64}", text):
        raise InvalidSettingError("must be at most 64 printable characters without spaces")
    return text


def _host_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if any(not re.fullmatch(r"\.?[a-z0-9.-]+|\[[0-9a-f:]+\]", name) for name in names):
        raise InvalidSettingError("must be host names without scheme or port, separated by commas")
    return names
