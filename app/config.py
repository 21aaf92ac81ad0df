"""The environment, read once, checked and typed; all complaints come in one readable message.

Nothing else in Pipit reads an environment variable. README.md explains the variables to deployers.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, unquote, urlsplit

from dotenv import dotenv_values

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
DOTENV = ROOT / ".env"
INSTANCE = ROOT / "instance"  # local data: the SQLite file, Valkey's files
LOCAL_REDIS = "redis://127.0.0.1:6379/0"
REDIS_PORT = 6379
REDIS_PORTS = {"redis": REDIS_PORT, "rediss": REDIS_PORT, "redis+sentinel": 26379, "rediss+sentinel": 26379}
SMTP_PORTS = {"smtp": 587, "smtps": 465}  # RFC 6409 and RFC 8314
DAY = 24 * 3600  # s
SECRET_KEY_LENGTH = 16  # characters at least; `secrets.token_hex(32)` gives 64

# User names that hosting add-ons put into a Redis URL for decoration: their servers know no such user, and an AUTH
# that named one would be refused. Redis To Go writes "redistogo"; Heroku's own add-on used to write "h".
DECORATIVE_REDIS_USERS = {"redistogo", "h"}


class ConfigError(SystemExit):
    """The environment can't be used: ends the process with its message and status 1, without a traceback.

    SystemExit works the same under gunicorn, the flask command and a script.
    """

    def __init__(self, complaints: list[str]) -> None:
        self.complaints = complaints
        many = "1 setting needs" if len(complaints) == 1 else f"{len(complaints)} settings need"
        super().__init__(f"Pipit can't start: {many} your attention.\n" + "\n".join(f"  {line}" for line in complaints))


class InvalidSettingError(ValueError):
    """One variable is wrong; the text says what is wrong with it, and never quotes a secret."""


@dataclass(frozen=True)
class Sentinels:
    """Where the Sentinels are that watch over a Redis server, and what they call it."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RedisAddress:
    """Where the Redis server is, taken apart from its URL. With Sentinel, host and port are those of the first one."""

    scheme: str
    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    db: int
    sentinels: Sentinels | None = None

    @property
    def tls(self) -> bool:
        return self.scheme.startswith("rediss")

    def __str__(self) -> str:
        """Return the address without its password, fit for a log."""
        hosts = self.sentinels.hosts if self.sentinels else [(self.host, self.port)]
        named = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
        return f"{self.scheme}://{named}/{f'{self.sentinels.service}/' if self.sentinels else ''}{self.db}"


def parse_redis_url(url: str) -> RedisAddress:
    """Take a Redis URL apart. Raises InvalidSettingError; its text never quotes the URL, which holds a password.

    The form with Sentinels is that of https://github.com/exponea/redis-sentinel-url: user and password are Redis's, and
    those of the Sentinels, if they want any, are the parameters sentinel_username and sentinel_password.
    """
    scheme, separator, _ = url.partition("://")
    if scheme not in REDIS_PORTS or not separator:
        raise InvalidSettingError("must begin with redis:// or rediss:// (or redis+sentinel:// or rediss+sentinel://)")
    has_sentinels = scheme.endswith("+sentinel")
    try:
        each = [urlsplit(one) for one in (_urls_by_host(url) if has_sentinels else [url])]  # some errors quote the URL
        hosts = tuple((parts.hostname, REDIS_PORTS[scheme] if parts.port is None else parts.port) for parts in each)
    except ValueError:
        each, hosts = [], ()
    if not each or not all(port for _, port in hosts) or "@" in each[0].path + each[0].query + each[0].fragment:
        raise InvalidSettingError(
            "has a host or a port that can't be one (or a password with a / ? # [ or @ that is not percent-encoded)"
        )
    named = tuple((host, port) for host, port in hosts if host)
    if named != hosts:
        raise InvalidSettingError("names no host")
    if any(re.search(r"[\s,]", host) for host, _ in named):
        raise InvalidSettingError("has a space or a comma in a host (commas go between hosts, only with Sentinel)")
    path, sentinels = each[0].path.strip("/"), None
    if has_sentinels:
        if "@" in (each[0].password or ""):
            raise InvalidSettingError("must have one user and password, in front of all hosts, with each @ as %40")
        service, _, path = path.partition("/")
        if not re.fullmatch(r"(?![0-9]+$)[\w.-]+", service):  # a number alone is a database, and the service forgotten
            raise InvalidSettingError("must name the Sentinels' service after the hosts, as in /mymaster/0")
        query = parse_qs(each[0].query.replace("+", "%2B"), keep_blank_values=True)  # in a password, + is no space
        user, secret = (query.pop(f"sentinel_{what}", [""])[0] or None for what in ("username", "password"))
        if query:
            raise InvalidSettingError("has a parameter other than sentinel_username and sentinel_password")
        sentinels = Sentinels(named, service, user, secret)
    if not re.fullmatch(r"[0-9]{0,4}", path):
        raise InvalidSettingError("must end in a database number, as in /0")
    username = unquote(each[0].username or "") or None
    return RedisAddress(
        scheme,
        *named[0],
        username=None if username in DECORATIVE_REDIS_USERS else username,
        password=unquote(each[0].password or "") or None,
        db=int(path or 0),
        sentinels=sentinels,
    )


def _urls_by_host(url: str) -> Iterator[str]:
    """Yield a URL with several hosts once for each of them, as a URL with that one."""
    before, hosts, after = re.fullmatch(r"(\S+?://(?:[^/?#]*@)?)([^/?#]*)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]  # matches any
    yield from (f"{before}{host}{after}" for host in hosts.split(","))


@dataclass(frozen=True)
class SMTPAddress:
    """Where the mail server is, taken apart from its URL."""

    scheme: str
    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)

    @property
    def tls(self) -> bool:
        """Return whether the connection begins with TLS. With smtp:// it is encrypted if the server offers that."""
        return self.scheme == "smtps"

    @property
    def is_this_machine(self) -> bool:
        return self.host in ("localhost", "127.0.0.1", "::1")

    def __str__(self) -> str:
        """Return the address without user and password, fit for a log."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_smtp_url(url: str) -> SMTPAddress:
    """Take an SMTP URL apart. Raises InvalidSettingError; its text never quotes the URL, which holds a password."""
    if not url.startswith(("smtp://", "smtps://")):
        raise InvalidSettingError("must begin with smtp:// or smtps://")
    try:
        parts = urlsplit(url)
        port = SMTP_PORTS[parts.scheme] if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not port or parts.path.strip("/") or parts.query or parts.fragment or parts.netloc.count("@") > 1:
        raise InvalidSettingError(
            "must end with a host and perhaps a port (and percent-encode a / ? # [ or @ in user and password)"
        )
    if not parts.hostname:
        raise InvalidSettingError("names no host")
    username, password = unquote(parts.username or "") or None, unquote(parts.password or "") or None
    if (username is None) != (password is None):
        raise InvalidSettingError("must name both a user and a password, or neither")
    if not ((username or "") + (password or "")).isascii():
        raise InvalidSettingError("has a user or a password that is not ASCII, which SMTP can't send")
    return SMTPAddress(parts.scheme, parts.hostname, port, username, password)


def _mail_address(text: str) -> str:
    if not text.isascii() or not re.fullmatch(r"[^\s@<>,\"]+@[A-Za-z0-9.-]+", text):
        raise InvalidSettingError("must be an e-mail address and nothing else; people see SITE_NAME beside it")
    return text


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
    if scheme == "sqlite" and rest.startswith("/") and rest.strip("/") not in ("", ":memory:"):
        return url
    raise InvalidSettingError("must begin with postgres:// or sqlite:///, and name a database or its file")


def parse_read_url(url: str) -> str:
    """Return a follower's URL as SQLAlchemy wants it. Raises InvalidSettingError."""
    if url.startswith("sqlite"):
        raise InvalidSettingError("must begin with postgres://; SQLite has no followers")
    return parse_database_url(url)


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


def _web_address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", text):
        raise InvalidSettingError("must be a web address")
    return text


def _host_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if any(not re.fullmatch(r"\.?[a-z0-9.-]+|\[[0-9a-f:]+\]", name) for name in names):
        raise InvalidSettingError("must be host names without scheme or port, separated by commas")
    return names


@dataclass(frozen=True)
class Setting:
    """How one setting is read from the environment."""

    names: tuple[str, ...]  # of the variable; the first one that is set counts
    parse: Callable[[str], Any]
    example: str

    def read(self, environ: Mapping[str, str], default: Any) -> Any:
        """Return the parsed value, or the default. Raises InvalidSettingError if there is neither (MISSING)."""
        for name in self.names:
            text = environ.get(name, "").strip()
            if text:
                try:
                    return self.parse(text)
                except InvalidSettingError as problem:
                    raise InvalidSettingError(f"{name} {problem}. Example: {self.example}") from None
        if default is MISSING:
            name = " (or ".join(self.names) + ")" * (len(self.names) - 1)
            raise InvalidSettingError(f"{name} is not set, and Heroku needs it. Example: {self.example}")
        return default


def setting(
    *names: str, parse: Callable[[str], T], default: Any = MISSING, example: str = "", secret: bool = False
) -> T:
    """Declare a field of Config that is read from a variable; without an example, complaints show the default."""
    how = Setting(names, parse, example or str(default))
    return cast(T, field(default=default, repr=not secret, metadata={"setting": how}))


@dataclass(frozen=True)
class Config:
    """Everything a deployer decides. Times are in seconds."""

    redis: RedisAddress = setting(  # noqa: RUF009  # it makes a dataclass field
        "REDIS_URL",
        "REDISTOGO_URL",
        parse=parse_redis_url,
        example="redis://:password@host:6379/0, or rediss:// for TLS",
    )
    database_url: str = setting(
        "DATABASE_URL", parse=parse_database_url, example="postgres://user:password@host:5432/name", secret=True
    )
    secret_key: str = setting(
        "SECRET_KEY",
        parse=_secret_key,
        example='what `python3 -c "import secrets; print(secrets.token_hex(32))"` prints',
        secret=True,
    )
    on_heroku: bool = False
    port: int = setting("PORT", parse=_integer(1, 65535), default=5000)
    workers: int = setting("WEB_CONCURRENCY", parse=_integer(1, 100), default=2)
    threads: int = setting("WEB_THREADS", parse=_integer(1, 100), default=5)
    database_read_url: str | None = setting(
        "DATABASE_READ_URL",
        parse=parse_read_url,
        default=None,
        example="postgres://user:password@host:5432/name",
        secret=True,
    )
    # In each web process. With 2 and 2, four dynos of two processes take 16 of the 20 that the smallest plans allow.
    redis_max_connections: int = setting("REDIS_MAX_CONNECTIONS", parse=_integer(1, 1000), default=2)
    database_max_connections: int = setting("DATABASE_MAX_CONNECTIONS", parse=_integer(1, 1000), default=2)
    redis_prefix: str = setting("REDIS_PREFIX", parse=_redis_prefix, default="", example="pipit:")
    redis_tls_verify: bool = setting("REDIS_TLS_VERIFY", parse=_yes_or_no, default=True, example="yes, or no")
    cache_strategy: str = setting(
        "CACHE_STRATEGY", parse=_one_of("invalidate", "refresh", "expire"), default="invalidate"
    )
    cache_ttl: int = setting("CACHE_TTL", parse=_integer(1, DAY), default=60, example="60 (seconds)")
    login_max_attempts: int = setting("LOGIN_MAX_ATTEMPTS", parse=_integer(1, 1000), default=5)
    session_lifetime: int = setting(
        "SESSION_LIFETIME", parse=_integer(60, 3650 * DAY), default=14 * DAY, example="1209600 (seconds, 14 days)"
    )
    registration: str = setting("REGISTRATION", parse=_one_of("open", "invited", "asked", "closed"), default="open")
    reading: str = setting("READING", parse=_one_of("everyone", "members"), default="everyone")
    site_name: str = setting("SITE_NAME", parse=str, default="Pipit")
    source_url: str | None = setting(
        "SOURCE_URL", parse=_web_address, default=None, example="https://git.example.org/pipit"
    )
    trusted_hosts: tuple[str, ...] = setting(
        "TRUSTED_HOSTS", parse=_host_names, default=(), example="pipit.example.org,www.pipit.example.org"
    )
    trusted_proxies: int = setting("TRUSTED_PROXIES", parse=_integer(0, 10), default=0, example="1")
    smtp: SMTPAddress | None = setting(  # noqa: RUF009  # it makes a dataclass field
        "SMTP_URL",
        parse=parse_smtp_url,
        default=None,
        example="smtps://user:password@smtp.example.org (percent-encode both)",
    )
    mail_from: str = setting("MAIL_FROM", parse=_mail_address, default="", example="pipit@example.org")
    confirm_email: bool = setting("CONFIRM_EMAIL", parse=_yes_or_no, default=False, example="yes, or no")
    mail_folder: Path = INSTANCE / "mail"  # for mails that a laptop does not send
    memory: int | None = None  # MB of this machine or dyno; None if unknown
    runs_commands: bool = False  # this process is a `flask` command, not a web process

    @property
    def members_only(self) -> bool:
        """Return whether only members may read."""
        return self.reading == "members"

    @property
    def may_register(self) -> bool:
        """Return whether anyone may fill in the form to register; a moderator may still have to let them in."""
        return self.registration in ("open", "asked")

    @property
    def site_url(self) -> str | None:
        """Return where the site is, without a path: the first name in TRUSTED_HOSTS, or None if that is not set.

        What everyone gets from the cache must not repeat the Host header of whoever asked first.
        """
        return f"https://{self.trusted_hosts[0].lstrip('.')}" if self.trusted_hosts else None

    @property
    def is_laptop(self) -> bool:
        """Return whether this is a developer's machine, not a site: no platform, no proxy, no name of its own."""
        return not _is_site(self.on_heroku, self.trusted_proxies, self.trusted_hosts)

    @property
    def sends_mail(self) -> bool:
        """Return whether mail can be sent; on a laptop without a mail server, to the terminal and a folder."""
        return self.smtp is not None or self.is_laptop

    @property
    def mail_site_url(self) -> str:
        """Return what links in mails begin with. A request's Host header is never used: anybody can forge it."""
        return self.site_url or f"http://localhost:{self.port}"

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
        except UnicodeDecodeError:
            raise ConfigError([f"{DOTENV} can't be read: save it as UTF-8"]) from None
        return cls.from_environ({name: value or "" for name, value in dotenv.items()} | os.environ)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], instance: Path = INSTANCE) -> "Config":
        """Read and check every variable.

        Off Heroku, a missing database is a SQLite file and a missing secret key is made and kept, both in `instance`.

        Raises ConfigError, which lists everything that is missing or malformed.
        """
        on_heroku = is_heroku(environ)
        sqlite = f"sqlite:///{instance / 'pipit.db'}"
        defaults: dict[str, Any] = {}
        if on_heroku:
            # Every request has passed one proxy, the router. Heroku signs its servers' certificates itself, so there
            # is nothing to verify them against.
            defaults |= {"trusted_proxies": 1, "redis_tls_verify": False}
        else:
            defaults |= {"redis": parse_redis_url(LOCAL_REDIS), "database_url": sqlite, "secret_key": ""}
        values: dict[str, Any] = {}
        complaints = []
        for declared in fields(cls):
            if "setting" in declared.metadata:
                default = defaults.get(declared.name, declared.default)
                try:
                    values[declared.name] = declared.metadata["setting"].read(environ, default)
                except InvalidSettingError as complaint:
                    complaints.append(str(complaint))
        if not complaints:
            complaints = [*_mail_complaints(values, on_heroku), *_follower_complaints(values)]
        if complaints:
            raise ConfigError(complaints)
        try:
            if values["database_url"] == sqlite or not values["secret_key"]:
                instance.mkdir(exist_ok=True)
            values["secret_key"] = values["secret_key"] or load_or_create_secret_key(instance)
        except OSError as error:
            remedy = "make it writable, or set DATABASE_URL and SECRET_KEY"
            raise ConfigError([f"{instance} can't be written: {error.strerror}; {remedy}"]) from None
        runs_commands = environ.get("FLASK_RUN_FROM_CLI") == "true"  # set by the flask command itself
        about: dict[str, Any] = {"on_heroku": on_heroku, "memory": _memory(environ), "runs_commands": runs_commands}
        return cls(**values, **about, mail_folder=instance / "mail")


def _is_site(on_heroku: bool, trusted_proxies: int, trusted_hosts: tuple[str, ...]) -> bool:
    """Return whether this serves others: on a platform, behind a proxy, or under a name of its own."""
    return on_heroku or trusted_proxies > 0 or bool(trusted_hosts)


def _mail_complaints(values: Mapping[str, Any], on_heroku: bool) -> Iterator[str]:
    """Yield what is missing for sending mail."""
    is_site = _is_site(on_heroku, values["trusted_proxies"], values["trusted_hosts"])
    if values["smtp"] and not values["mail_from"]:
        yield "MAIL_FROM is not set, and SMTP_URL needs it. Example: pipit@example.org"
    if values["smtp"] and is_site and not values["trusted_hosts"]:
        yield (
            "TRUSTED_HOSTS is not set, and SMTP_URL needs it: its first name is where the links in mails lead. "
            "Example: pipit.example.org"
        )
    if values["confirm_email"] and is_site and not values["smtp"]:
        yield "SMTP_URL is not set, and CONFIRM_EMAIL=yes needs it. Example: smtps://user:password@smtp.example.org"


def _follower_complaints(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a follower whose primary has none."""
    if values["database_read_url"] and not values["database_url"].startswith("postgresql"):
        yield "DATABASE_READ_URL is set, but DATABASE_URL names no PostgreSQL, and only that has followers: unset one"


def _memory(environ: Mapping[str, str]) -> int | None:
    """Return the memory in MB: of the dyno, which Heroku announces in DYNO_RAM, or else of the machine."""
    dyno_ram = environ.get("DYNO_RAM", "")
    if dyno_ram.isdecimal():
        return int(dyno_ram)
    if is_heroku(environ):
        return None  # the machine is shared with other dynos
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError):
        return None


def environment_for_python() -> dict[str, str]:
    """Return what Python needs of the environment to start, and none of its secrets.

    LD_LIBRARY_PATH alone says where Heroku's Python has its shared library.
    """
    return {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}


def is_heroku(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this is a Heroku dyno: the platform sets DYNO in every one."""
    return bool(environ.get("DYNO"))


def runs_under_process_manager() -> bool:
    """Return whether honcho or foreman started this process; either stops all its processes when one ends."""
    return not is_heroku() and bool(os.environ.get("HONCHO_PROCESS_NAME") or os.environ.get("PS"))


def load_or_create_secret_key(instance: Path) -> str:
    """Return the secret key in the folder `instance`; the first call creates it.

    Not for Heroku: its files are lost each day, and a new key would log everyone out.
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
