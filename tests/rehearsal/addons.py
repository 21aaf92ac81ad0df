"""The add-ons of Heroku's smallest plans: a Redis that speaks only TLS, and a PostgreSQL; both on loopback."""

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from tests.servers import free_port, postgresql, postgresql_programs, wait_until

CONNECTIONS = 20  # that the smallest plan allows, of either

REDIS_CONF = """
bind 127.0.0.1
port 0
tls-port {port}
tls-cert-file {folder}/certificate.pem
tls-key-file {folder}/key.pem
tls-auth-clients no
requirepass {password}
maxclients {connections}
timeout 300
maxmemory 25mb
maxmemory-policy noeviction
save ""
dir {folder}
logfile {folder}/log
"""
# As Heroku's: no authority has signed it, and it names another host.
CERTIFICATE = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=redis.invalid"


@dataclass(frozen=True)
class RedisAddon:
    """A Redis with TLS and a self-signed certificate."""

    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"rediss://:{self.password}@127.0.0.1:{self.port}"

    def client(self) -> Redis:
        """Return an operator's client; one of the CONNECTIONS."""
        url = f"{self.url}?ssl_cert_reqs=none&decode_responses=True&socket_timeout=5"
        client: Redis = Redis.from_url(url)
        return client


@dataclass(frozen=True)
class PostgresAddon:
    """A PostgreSQL database whose owner has no other rights."""

    url: str = field(repr=False)  # as Heroku writes it: postgres://user:password@…
    admin_url: str = field(repr=False)  # for the rehearsal's own queries

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.admin_url) as connection:
            return connection.execute(statement.encode()).fetchall()


@contextmanager
def redis_addon(folder: Path) -> Iterator[RedisAddon]:
    """Run Debian's redis-server like Heroku's smallest plan: TLS only, 20 connections, 25 MB, nothing kept on disk."""
    folder.mkdir()
    addon = RedisAddon(free_port(), secrets.token_hex(16))
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*CERTIFICATE.split(), *files], check=True, capture_output=True)
    conf = folder / "redis.conf"
    conf.write_text(REDIS_CONF.format(folder=folder, port=addon.port, password=addon.password, connections=CONNECTIONS))
    process = subprocess.Popen(["redis-server", str(conf)], start_new_session=True)
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
        role = f"CREATE ROLE u1rehearsal LOGIN PASSWORD '{password}' CONNECTION LIMIT {CONNECTIONS}"
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(role.encode())
            connection.execute("CREATE DATABASE d1rehearsal OWNER u1rehearsal")
        address = admin_url.partition("@")[2].rpartition("/")[0]
        yield PostgresAddon(
            f"postgres://u1rehearsal:{password}@{address}/d1rehearsal", f"postgres://pipit@{address}/d1rehearsal"
        )


def _answers(addon: RedisAddon) -> bool:
    try:
        with addon.client() as client:
            return bool(client.ping())
    except RedisConnectionError:
        return False
