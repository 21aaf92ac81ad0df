"""`make bench`, or `python -m bench`: Pipit side by side with what one would pick instead.

Each contender runs alone on a core of its own, in interleaved rounds (A B C A B C …), so that what the machine does
besides falls on all alike; ratios are taken within one round. docs/performance.md tells the rest.
"""

import os
import tempfile
from pathlib import Path

import click
from redis import Redis

from bench import costs, load, machine
from bench.contenders import Contender, Site, WrongAnswerError, contenders, seeded_pipit
from bench.findings import Findings
from bench.load import Load
from bench.machine import Cores
from bench.processes import running
from bench.report import keep, table

CONTENDERS = ("asgi", "nginx", "limit", "flask", "express", "plain", "holes", "pipit")
COSTS = ("miss", "memory", "logins", "visit", "start")
RESULTS = Path(__file__).resolve().parent / "results"
WARM_UP = 1  # s
TOLERANCE = 64  # bytes by which an answer may differ during the run: a header counts the seconds


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=4, show_default=True, help="of each run under load")
@click.option("--only", type=click.Choice(CONTENDERS + COSTS), multiple=True, help="measure only this; repeatable")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="a folder; with --only, none by default")
def main(rounds: int, seconds: int, only: tuple[str, ...], out: Path | None) -> None:
    """Measure everything, print the table, and keep it in bench/results/ with its charts."""
    parts = set(only or CONTENDERS + COSTS)
    machine.end_cleanly()
    cores = machine.cores()
    machine.prepare(parts)
    findings = Findings(machine.described(cores, with_express="express" in parts), rounds, seconds)
    os.sched_setaffinity(0, {cores.load})  # what is started for another core leaves this one
    with tempfile.TemporaryDirectory() as folder, machine.pinned_valkey(cores.redis) as valkey:
        scratch, redis_url = Path(folder), f"redis://127.0.0.1:{valkey.port}/0"
        site = seeded_pipit(scratch, redis_url, cores.server)
        measured = contenders(site, scratch, redis_url, cores.server, parts)
        findings.page_bytes = len(site.anonymous.body)
        for number in range(1, rounds + 1):
            for contender in measured:
                for name, came in under_load(contender, cores, scratch, redis_url, seconds):
                    click.echo(f"round {number} of {rounds}: {name:<28}{came.rate:>9,.0f} requests/s")
                    findings.loads.setdefault(name, []).append(came)
        measure_costs(findings, site, cores, scratch, parts)
    click.echo("\n" + table(findings))
    if out or not only:
        keep(findings, out or RESULTS)


def under_load(
    contender: Contender, cores: Cores, scratch: Path, redis_url: str, seconds: int
) -> list[tuple[str, Load]]:
    """Start a contender, check that it sends what it should, and measure each of its lines after a warm-up."""
    found = []
    with running(contender.server, cores.server, scratch) as server, Redis.from_url(redis_url) as redis:
        for measure in contender.measures:
            if measure.stored is not None:
                redis.set("bench:page", measure.stored)
            answer = measure.checked(server.port)
            load.run(cores.load, server.port, measure.path, measure.headers, WARM_UP)
            came = load.run(cores.load, server.port, measure.path, measure.headers, seconds)
            if abs(came.bytes_each - answer.wire_bytes) > TOLERANCE:
                was = f"{came.bytes_each:.0f} bytes an answer, not {answer.wire_bytes}"
                raise WrongAnswerError(f"{measure.name}: {was}")
            found.append((measure.name, came))
    return found


def measure_costs(findings: Findings, site: Site, cores: Cores, scratch: Path, parts: set[str]) -> None:
    """Measure what is not a rate."""
    if "miss" in parts:
        findings.misses = costs.misses(site, cores, scratch)
    if "visit" in parts:
        findings.visit = costs.visit(site, cores, scratch)
    if "start" in parts:
        findings.starts = costs.starts(site, cores, scratch, findings.rounds)
    if "logins" in parts:
        findings.logins = costs.logins(site, cores, scratch)
    if "memory" in parts:
        findings.memory = costs.memory(site, cores, scratch)


if __name__ == "__main__":
    main()
