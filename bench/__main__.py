"""`make bench`, or `python -m bench`: Pipit side by side with what one would pick instead.

Each contender runs alone on a core of its own, in interleaved rounds (A B C A B C …), so that what the machine does
besides falls on all alike; ratios are taken within one round. docs/performance.md tells the rest.
"""

import os
import tempfile
from pathlib import Path

import click
from redis import Redis

from bench import building, cold, costs, crawl, home, load, machine, publishing, town, wire
from bench.contenders import Contender, Site, WrongAnswerError, contenders, seeded_pipit
from bench.findings import Findings
from bench.load import Load
from bench.machine import Cores
from bench.processes import running
from bench.report import keep, table

CONTENDERS = ("asgi", "nginx", "limit", "flask", "express", "plain", "holes", "pipit")
COSTS = ("miss", "logins", "visit", "start")
TOWN = ("town", "home", "builds", "publishing", "memory", "cold")
PARTS = CONTENDERS + COSTS + TOWN
RESULTS = Path(__file__).resolve().parent / "results"
WARM_UP = 1  # s
TOLERANCE = 64  # bytes by which an answer may differ during the run: a header counts the seconds


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=4, show_default=True, help="of each run under load")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="measure only this; repeatable")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="a folder; with --only, none by default")
@click.option("--crawl", "crawled", type=click.IntRange(1), default=100_000, help="pages that a stranger asks for")
def main(rounds: int, seconds: int, only: tuple[str, ...], out: Path | None, crawled: int) -> None:
    r"""Measure everything, print the table, and keep it in bench/results/ with its charts. Takes half an hour:

    \b
    asgi … pipit    5 min   a cached page, beside peers
    miss … start    1 min   what is not a rate
    town            5 min   the rates of all kinds of pages
    home            1 min   /home, when somebody has posted each time
    builds          1 min   building pages, beside an earlier commit
    publishing      3 min   with many web processes, with many followers
    memory         10 min   of a web process, and of Redis during a crawl
    cold            1 min   the first requests to a new process
    """
    parts = set(only or PARTS)
    machine.end_cleanly()
    cores = machine.cores()
    machine.prepare(parts)
    findings = Findings(machine.described(cores, with_express=bool(parts & machine.ON_NODE)), rounds, seconds)
    os.sched_setaffinity(0, {cores.load})  # what is started for another core leaves this one
    with tempfile.TemporaryDirectory() as folder, machine.pinned_valkey(cores.redis) as valkey:
        scratch, redis = Path(folder), f"redis://127.0.0.1:{valkey.port}"
        redis_url = f"{redis}/0"
        site = seeded_pipit(scratch, redis_url, cores.server)
        settled = town.built(scratch, f"{redis}/1")
        measured = contenders(site, scratch, redis_url, cores.server, parts)
        if "town" in parts:
            measured += [
                town.contender(settled, scratch),
                home.express_contender(settled, cores, scratch, f"{redis}/2"),
            ]
        findings.page_bytes = len(site.anonymous.body)
        for number in range(1, rounds + 1):
            for contender in measured:
                for name, came in under_load(contender, cores, scratch, redis_url, seconds):
                    click.echo(f"round {number} of {rounds}: {name:<28}{came.rate:>9,.0f} requests/s")
                    findings.loads.setdefault(name, []).append(came)
        measure_costs(findings, site, cores, scratch, parts)
        measure_town(findings, settled, cores, scratch, redis, parts, crawled)
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
            if measure.sequence:
                visit_each(measure.sequence, server.port)
                found.append((measure.name, load.run_sequence(cores.load, server.port, measure.sequence, seconds)))
                continue
            answer = measure.checked(server.port)
            load.run(cores.load, server.port, measure.path, measure.headers, WARM_UP)
            came = load.run(cores.load, server.port, measure.path, measure.headers, seconds)
            uncounted = load.CONNECTIONS * answer.wire_bytes / came.requests  # wrk ends in the middle of answers
            if abs(came.bytes_each - answer.wire_bytes) > TOLERANCE + uncounted:
                was = f"{came.bytes_each:.0f} bytes an answer, not {answer.wire_bytes}"
                raise WrongAnswerError(f"{measure.name}: {was}")
            found.append((measure.name, came))
    return found


def visit_each(sequence: Path, port: int) -> None:
    """Ask once for each page of a sequence."""
    with wire.Client(port) as client:
        for line in dict.fromkeys(sequence.read_text().splitlines()):
            path, _, cookie = line.partition(" ")
            client.get(path, {"Cookie": cookie} if cookie else {})


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


def measure_town(
    findings: Findings,
    settled: town.Settings,
    cores: Cores,
    scratch: Path,
    redis: str,
    parts: set[str],
    crawled: int,
) -> None:
    """Measure what all pages of a town cost, apart from their rates."""
    if "home" in parts:
        findings.home = home.posted_each_time(settled, cores, scratch, redis)
    if "builds" in parts:
        findings.builds = building.builds(settled, cores, scratch, findings.rounds)
    if "publishing" in parts:
        findings.processes = publishing.with_processes(settled, scratch, f"{redis}/6")
        findings.followers = publishing.with_followers(settled, cores, scratch, f"{redis}/7")
    if "cold" in parts:
        findings.cold = cold.cold(settled, cores, scratch)
        findings.kept_for_home = cold.kept_for_home(settled, cores, scratch)
    if "memory" in parts:
        click.echo("a worker's memory, and a crawl: some ten minutes")
        findings.memory, findings.crawl = crawl.crawl(settled, cores, scratch, crawled)


if __name__ == "__main__":
    main()
