"""The add-ons of the smallest plans: a Redis that speaks TLS only, and a PostgreSQL; both private, both on loopback."""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from redis import Redis

from tests.servers import free_port, postgresql, postgresql_programs, wait_until

REDIS_CLIENTS = 20  # connections that the smallest plan allows
POSTGRESQL_CLIENTS = 20  # and that of PostgreSQL, essential-0


@dataclass(frozen=True)
class RedisAddon:
    """A Redis with TLS and a self-signed certificate."""

    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"rediss://:{self.password}@127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """Return an operator's client; one connection of the REDIS_CLIENTS."""
        return Redis(
            port=self.port,
            password=self.password,
            ssl=True,
            ssl_cert_reqs="none",
            decode_responses=True,
            socket_timeout=5,
        )


@dataclass(frozen=True)
class PostgresAddon:
    """A PostgreSQL database, and its owner who may do nothing else."""

    url: str = field(repr=False)  # as Heroku writes it: postgres://user:password@…
    password: str = field(repr=False)
    admin_url: str = field(repr=False)  # for the rehearsal's own eyes

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Return the rows of a query, asked beside the application."""
        with psycopg.connect(self.admin_url) as connection:
            return connection.execute(statement.encode()).fetchall()


def missing() -> list[str]:
    """Return the Debian packages without which there is no rehearsal here."""
    wanted = {"git": "git", "openssl": "openssl", "redis-server": "redis-server"}
    packages = [package for program, package in wanted.items() if not shutil.which(program)]
    return packages if postgresql_programs() else [*packages, "postgresql"]


@contextmanager
def redis_addon(folder: Path) -> Iterator[RedisAddon]:
    """Run Debian's redis-server as Heroku's smallest plan is: TLS only, 20 connections, 25 MB, nothing kept."""
    folder.mkdir()
    _certificate(folder)
    addon = RedisAddon(free_port(), secrets.token_hex(16))
    settings = {
        "bind": "127.0.0.1",
        "port": 0,
        "tls-port": addon.port,
        "tls-cert-file": folder / "certificate.pem",
        "tls-key-file": folder / "key.pem",
        "tls-auth-clients": "no",
        "requirepass": addon.password,
        "maxclients": REDIS_CLIENTS,
        "timeout": 300,
        "maxmemory": "25mb",
        "maxmemory-policy": "noeviction",
        "save": '""',
        "dir": folder,
        "logfile": folder / "log",
    }
    configuration = folder / "redis.conf"
    configuration.touch(mode=0o600)
    configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    process = subprocess.Popen(["redis-server", str(configuration)], start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or _answers(addon), "Redis to answer")
        if process.poll() is not None:
            raise RuntimeError(f"redis-server ended:\n{(folder / 'log').read_text()}")
        yield addon
    finally:
        process.kill()
        process.wait()


@contextmanager
def postgres_addon() -> Iterator[PostgresAddon]:
    """Run a private PostgreSQL with a database whose owner is no superuser and may open 20 connections."""
    programs = postgresql_programs()
    assert programs
    with postgresql(programs) as admin_url:
        password = secrets.token_hex(16)
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(
                f"CREATE ROLE u1rehearsal LOGIN PASSWORD '{password}' CONNECTION LIMIT {POSTGRESQL_CLIENTS}".encode()
            )
            connection.execute("CREATE DATABASE d1rehearsal OWNER u1rehearsal")
        address = admin_url.partition("@")[2].rpartition("/")[0]
        yield PostgresAddon(
            f"postgres://u1rehearsal:{password}@{address}/d1rehearsal",
            password,
            f"postgres://pipit@{address}/d1rehearsal",
        )


def _certificate(folder: Path) -> None:
    """Make a certificate that no authority has signed and that names another host, as Heroku's do."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command, *files, "-subj", "/CN=redis.invalid"], check=True, capture_output=True)


def _answers(addon: RedisAddon) -> bool:
    try:
        with addon.client() as client:
            return bool(client.ping())
    except OSError:
        return False
    except Exception as error:  # redis-py's own ConnectionError is no OSError
        if type(error).__module__.startswith("redis"):
            return False
        raise
