"""What sessions cost in Redis: `python -m bench.session_memory`.

Signs in 50,000 users, each on one device, through the code that a login runs, and reads the server's own used_memory.
Then asks for the login form without cookies, over and over, to show what that leaves behind. It measures the embedded
Valkey and, if a redis-server is installed, that too. The figures go to bench/results/session_memory.txt.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from flask import Flask
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from app import create_app
from app.config import Config, parse_redis_url
from app.sessions import Session, SignIn, current_interface
from tests.servers import free_port, valkey, wait_until

USERS = 50_000
PLAN = 25 * 1024 * 1024  # bytes of the smallest Redis plan on Heroku
FORMS = 20_000
RESULT = Path(__file__).parent / "results" / "session_memory.txt"
PLACES = [  # in equal parts; the middle one is as long as they get
    ("Chrome on Windows", "203.0.113.77"),
    ("Samsung Internet on Android", "2001:db8:1234:5678:9abc:def0:1234:5678"),
    ("Safari on iPhone", "198.51.100.7"),
]


def main() -> None:
    """Measure, print and keep the figures; exit with 1 if 50,000 sessions do not fit in the smallest plan."""
    text, fits = "", True
    with valkey() as server, Redis(port=server.port) as redis:
        taken = measure(redis)
        text += report(f"Valkey {redis.info('server')['valkey_version']}", taken)
        fits = taken <= PLAN
        redis.flushall()
        before = used_memory(redis)
        with pipit_on(redis) as app:
            ask_for_forms(app)
        left = max(0, used_memory(redis) - before)
        text += (
            f"\n{FORMS:,} login forms without a cookie leave {redis.dbsize()} keys and {left / 1024:.0f} kB in use\n"
        )
    if shutil.which("redis-server"):
        with redis_server() as redis:
            text += "\n" + report(f"Redis {redis.info('server')['redis_version']}", measure(redis))
    click.echo(text, nl=False)
    RESULT.write_text(text)
    sys.exit(not fits)


def measure(redis: Redis) -> int:
    """Return the bytes that the sessions take, indexes included."""
    before = used_memory(redis)
    with pipit_on(redis) as app:
        sign_everyone_in(app)
    return used_memory(redis) - before


def report(server: str, taken: int) -> str:
    return (
        f"{server}: {USERS:,} sessions, each indexed under its user, take {taken / 2**20:.1f} MB\n"
        f"    bytes a session                {taken / USERS:.0f}\n"
        f"    of the smallest plan's 25 MB   {taken / PLAN:.0%}\n"
    )


def sign_everyone_in(app: Flask) -> None:
    with app.test_request_context(), click.progressbar(range(1, USERS + 1), label="Signing in") as users:
        for user_id in users:
            device, address = PLACES[user_id % len(PLACES)]
            current_interface().begin(Session(), SignIn(user_id, f"user_number_{user_id}", device, address))


def ask_for_forms(app: Flask) -> None:
    with click.progressbar(range(FORMS), label="Asking for forms") as forms:
        for _ in forms:
            app.test_client().get("/login")


@contextmanager
def pipit_on(redis: Redis) -> Iterator[Flask]:
    """Give a Pipit that uses this server."""
    port = redis.connection_pool.connection_kwargs["port"]
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Config(parse_redis_url(f"redis://127.0.0.1:{port}/0"), f"sqlite:///{folder}/p.db", "x" * 32))
        yield app
        app.extensions["store"].close()


@contextmanager
def redis_server() -> Iterator[Redis]:
    """Run the machine's own redis-server on a free port."""
    port = free_port()
    process = subprocess.Popen(["redis-server", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        with Redis(port=port) as redis:
            wait_until(lambda: _answers(redis), "redis-server to answer")
            yield redis
    finally:
        process.terminate()
        process.wait()


def used_memory(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisConnectionError:
        return False


if __name__ == "__main__":
    main()
