"""What sessions cost in Redis: `python -m bench.session_memory`.

Signs in 50,000 users, each on one device, through the code that a login runs, and reads the server's own used_memory.
Then asks for the login form without cookies, over and over, to show what that leaves behind. The figures go to
bench/results/session_memory.txt.
"""

import sys
import tempfile
from pathlib import Path

import click
from flask import Flask
from redis import Redis

from app import create_app
from app.config import Config, parse_redis_url
from app.sessions import Session, SignIn, current_interface
from tests.servers import valkey

USERS = 50_000
PLAN = 25 * 1024 * 1024  # bytes of the smallest Redis plan on Heroku
FORMS = 20_000
RESULT = Path(__file__).parent / "results" / "session_memory.txt"
DEVICE, ADDRESS = "Samsung Internet on Android", "2001:db8:1234:5678:9abc:def0:1234:5678"  # the longest there are


def main() -> None:
    """Measure, print and keep the figures; exit with 1 if 50,000 sessions do not fit in the smallest plan."""
    with valkey() as server, tempfile.TemporaryDirectory() as folder, Redis(port=server.port) as redis:
        app = create_app(
            Config(parse_redis_url(f"redis://127.0.0.1:{server.port}/0"), f"sqlite:///{folder}/p.db", "x" * 32)
        )
        before = used_memory(redis)
        sign_everyone_in(app)
        taken = used_memory(redis) - before
        redis.flushall()
        before = used_memory(redis)
        ask_for_forms(app)
        left = used_memory(redis) - before
        version = redis.info("server")["redis_version"]
        lines = [
            f"server                                   Valkey, answering as Redis {version}",
            f"sessions, each indexed under its user    {USERS:,}",
            f"memory they take                         {taken / 2**20:.1f} MB",
            f"bytes a session                          {taken / USERS:.0f}",
            f"of the smallest plan's 25 MB             {taken / PLAN:.0%}",
            f"login forms asked for without a cookie   {FORMS:,}",
            f"keys they leave in Redis                 {redis.dbsize()}",
            f"memory they leave in use                 {max(0, left) / 1024:.0f} kB (buffers of the connection)",
        ]
    text = "\n".join(lines) + "\n"
    click.echo(text, nl=False)
    RESULT.write_text(text)
    sys.exit(taken > PLAN)


def sign_everyone_in(app: Flask) -> None:
    with app.test_request_context(), click.progressbar(range(1, USERS + 1), label="Signing in") as users:
        for user_id in users:
            current_interface().begin(Session(), SignIn(user_id, f"user_number_{user_id}", DEVICE, ADDRESS))


def ask_for_forms(app: Flask) -> None:
    with click.progressbar(range(FORMS), label="Asking for forms") as forms:
        for _ in forms:
            app.test_client().get("/login")


def used_memory(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


if __name__ == "__main__":
    main()
