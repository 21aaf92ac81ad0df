"""Do hits stay fast beside work? `python -m bench.beside` prints a table in Markdown.

One visitor asks for the cached `/` a hundred times a second, while the process's threads build pages without a pause,
or hash passwords for twenty logins at a time. All of Pipit is on one core, as in `make bench`. The interpreter's switch
interval decides how soon the event loop gets its turn beside a thread that computes; it is measured at several.
"""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from bench import machine, wire
from bench.contenders import Site, logged_in, seeded_pipit
from bench.processes import Server, gunicorn, running
from tests.servers import ROOT

HITS, EVERY = 600, 0.01  # s between two
BUILDERS, PEOPLE = 8, 20  # connections that ask for pages to be built; people who log in at a time
INTERVALS = (5.0, 1.0, 0.2)  # ms; 5 is Python's default
CONF = """
import runpy, sys
globals().update({{name: value for name, value in runpy.run_path({conf!r}).items() if not name.startswith("__")}})
def post_worker_init(worker):
    sys.setswitchinterval({seconds})
"""


@click.command()
@click.option("--hits", type=click.IntRange(100), default=HITS, show_default=True, help="of each line")
def main(hits: int) -> None:
    """Measure hits alone, beside builders and beside logins."""
    machine.end_cleanly()
    cores = machine.cores()
    machine.prepare(set())
    os.sched_setaffinity(0, {cores.load})
    click.echo("| switch interval | beside | p50 ms | p99 ms | worst ms | pages or logins a second |")
    click.echo("|--:|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder, machine.pinned_valkey(cores.redis) as valkey:
        site = seeded_pipit(Path(folder), f"redis://127.0.0.1:{valkey.port}/0", cores.server)
        for interval in INTERVALS:
            with running(_with_interval(site, interval, Path(folder)), cores.server, Path(folder)) as pipit:
                for words, beside in (("nothing", None), ("builders", _builds), ("logins", _logs_in)):
                    with _working(beside, pipit.port, site) if beside else nullcontext(lambda: 0.0) as rate:
                        took = _hits(pipit.port, hits)
                        done = rate()
                    quantiles = statistics.quantiles(took, n=100)
                    figures = f"{quantiles[49]:.1f} | {quantiles[98]:.1f} | {max(took):.1f} | {done:.0f}"
                    click.echo(f"| {interval:g} ms | {words} | {figures} |")


def _with_interval(site: Site, interval: float, folder: Path) -> Server:
    conf = folder / f"switch-{interval}.py"
    conf.write_text(CONF.format(conf=str(ROOT / "gunicorn.conf.py"), seconds=interval / 1000))
    environ = {**site.environ, "LOGIN_MAX_ATTEMPTS": "1000"}
    server = gunicorn(None, environ)
    return Server((*server.command, "--config", str(conf)), environ)


def _hits(port: int, count: int) -> list[float]:
    """Return the milliseconds that each hit took."""
    took = []
    with wire.Client(port) as client:
        for _ in range(count):
            began = time.perf_counter()
            answer = client.get("/")
            took.append((time.perf_counter() - began) * 1000)
            if answer.status != 200:
                raise RuntimeError(f"a hit was answered with {answer.status}")
            time.sleep(EVERY)
    return took


def _builds(port: int, _site: Site) -> None:
    with wire.Client(port) as client:
        client.get("/?before=1000000")


def _logs_in(port: int, site: Site) -> None:
    logged_in(port, site.name)


@contextmanager
def _working(work: Callable[[int, Site], None], port: int, site: Site) -> Iterator[Callable[[], float]]:
    """Do the work over and over beside the block; give a function that returns how often a second."""
    done = threading.Event()
    counts: list[float] = []

    def repeat() -> None:
        while not done.is_set():
            work(port, site)
            counts.append(time.monotonic())

    many = PEOPLE if work is _logs_in else BUILDERS
    threads = [threading.Thread(target=repeat, daemon=True) for _ in range(many)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    try:
        yield lambda: len(counts) / (time.monotonic() - began)
    finally:
        done.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
