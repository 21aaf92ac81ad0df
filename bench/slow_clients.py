"""What slow clients cost everyone else: `python -m bench.slow_clients`, some three minutes.

A thousand clients of each kind (tests/faults/slow.py) come to one worker, kind by kind and then all together, and do
what they can to be in the way. Beside them an ordinary visitor asks for pages, one after the other. The table shows how
long the visitor waits, with and without the slow clients, and when the server lets go of each kind.
"""

import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import click

from bench import machine, wire
from bench.contenders import Site, seeded_pipit
from bench.processes import running
from tests.faults.slow import Fate, SlowClients, slow_clients

KINDS = {
    "a head, a byte a second": {"head": 400, "fields": 300, "second head": 300},
    "a form, a byte a second": {"form": 1000},
    "a body of a GET": {"body of a GET": 1000},
    "a body that is refused": {"refused body": 1000},
    "silence": {"silent": 1000},
    "300 requests, and no answer read": {"unread": 100},
    "hanging up in mid-answer, again and again": {"hang-ups": 100},
}
ALL = {kind: count for numbers in KINDS.values() for kind, count in numbers.items()}
NOBODY_FOR = 12.0  # s: as long as most slow clients stay
REST = 0.005  # s a visitor waits before the next request
COLUMNS = ["slow clients", "connected", "let go after", "answered", "`/`", "signed in", "`/login`", "failures"]


@dataclass
class Visits:
    """What ordinary visitors saw."""

    ms: dict[str, list[float]] = field(default_factory=dict)  # by visitor
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def cells(self) -> list[str]:
        """Return p50 and p99 for each visitor, and the failures."""
        quantiles = [statistics.quantiles(ms, n=100, method="inclusive") for ms in self.ms.values()]
        failures = ", ".join(f"{count} × {what}" for what, count in self.failures.items())
        return [*(f"{each[49]:.1f} / {each[98]:.1f}" for each in quantiles), failures or "none"]


@click.command()
def main() -> None:
    """Measure, and print the table."""
    machine.end_cleanly()
    cores = machine.cores()
    facts = machine.described(cores, with_express=False)
    os.sched_setaffinity(0, {cores.load})  # the slow clients too
    lines = []
    with tempfile.TemporaryDirectory() as folder, machine.pinned_valkey(cores.redis) as valkey:
        site = seeded_pipit(Path(folder), f"redis://127.0.0.1:{valkey.port}/0", cores.server)
        with running(site.server, cores.server, Path(folder)) as pipit:
            for name, numbers in {"nobody": {}, **KINDS, "all of these": ALL, "nobody, afterwards": {}}.items():
                lines.append(line(name, numbers, pipit.port, site))
                click.echo(f"{len(lines)} of {len(KINDS) + 3}: {name}")
    click.echo(f"\nOne worker on a core of its own; {facts['machine']}; load average {facts['load average before']}.")
    click.echo("What everyone else waits for `/`, `/` signed in and `/login`: p50 / p99 in ms.\n")
    click.echo(table([COLUMNS, ["---", *["--:"] * (len(COLUMNS) - 1)], *lines]))


def line(name: str, numbers: dict[str, int], port: int, site: Site) -> list[str]:
    """Let slow clients come, visit beside them until they are gone, and return a line of the table."""
    visits = Visits()
    with slow_clients(port, numbers) if numbers else nullcontext() as clients:
        end = time.monotonic() + NOBODY_FOR
        for _ in visit(port, site, visits):
            if clients.are_over() if clients else time.monotonic() > end:
                break
            time.sleep(REST)
        return [name, *fates_cells(clients), *visits.cells]


def visit(port: int, site: Site, visits: Visits) -> Iterator[None]:
    """Ask for one page after the other, for ever; yield after each."""
    with wire.Client(port) as client:
        for path, headers in cycle([("/", {}), ("/", site.member), ("/login", {})]):
            began = time.perf_counter()
            try:
                status = str(client.get(path, headers).status)
            except OSError as error:
                status = type(error).__name__
                client.connection.close()
            if status != "200":
                visits.failures[status] += 1
            visits.ms.setdefault(f"{path} {headers}", []).append((time.perf_counter() - began) * 1000)
            yield


def fates_cells(clients: SlowClients | None) -> list[str]:
    """Return how many connections were made, after how long the server let go of them, and what it answered."""
    if clients is None:
        return ["", "", ""]
    fates = clients.fates()
    seconds = [fate.seconds for fate in fates if fate.seconds is not None]
    held = sum(fate.how == "held" for fate in fates)
    times = [f"{min(seconds):.1f} to {max(seconds):.1f} s"] if seconds else []
    times += [f"{held} never"] if held else []
    return [f"{sum(fate.connections for fate in fates):,}", ", ".join(times), answers(fates)]


def answers(fates: list[Fate]) -> str:
    """Return the last status that each client got, and how many got it; those who hang up don't wait for theirs."""
    last = Counter(str(fate.statuses[-1]) if fate.statuses else "none" for fate in fates if fate.how != "hung up")
    return ", ".join(f"{count:,} × {status}" for status, count in last.most_common())


def table(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
