"""`python -m bench.lab`: show what each invalidation strategy of the page cache costs."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from app.cache import STRATEGIES
from app.config import Config
from app.redis_client import StoreUnavailableError
from bench.lab.redis_server import RedisServer
from bench.lab.replay import Outcome, Workload, arrivals, laboratory, measure
from bench.lab.report import html_report, terminal_table
from bench.machine import end_cleanly

# name: reads a second, posts a second, whether they come in bursts. Chosen for what they show: a page that is read
# seldom, one that is read and written all the time, and what happens when everyone comes at once.
PROFILES = {"quiet": (20.0, 0.4, False), "busy": (250.0, 5.0, False), "spiky": (20.0, 0.4, True)}


@click.command()
@click.option("--profile", type=click.Choice(list(PROFILES)), default="busy", show_default=True, help="A usual load.")
@click.option("--readers", type=click.FloatRange(0, 2000), help="Reads a second, instead of the profile's.")
@click.option("--writers", type=click.FloatRange(0, 200), help="Posts a second, instead of the profile's.")
@click.option("--pages", type=click.IntRange(1, 1000), default=50, show_default=True, help="Pages of 20 kB each.")
@click.option(
    "--seconds", type=click.FloatRange(0, 600, min_open=True), default=10.0, show_default=True, help="Per strategy."
)
@click.option(
    "--ttl", type=click.IntRange(1, 3600), default=3, show_default=True, help="Seconds a page lives (CACHE_TTL)."
)
@click.option(
    "--build-ms", type=click.IntRange(0, 2000), default=40, show_default=True, help="Milliseconds to build a page."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed, other arrivals.")
@click.option(
    "--report",
    type=click.File("w", encoding="utf-8", lazy=False),
    help="Write an HTML page with charts, too.",
)
def main(
    profile: str,
    readers: float | None,
    writers: float | None,
    pages: int,
    seconds: float,
    ttl: int,
    build_ms: int,
    seed: int,
    report: TextIO | None,
) -> None:
    """Replay one load against each CACHE_STRATEGY on your Redis, and show what each of them costs.

    It uses keys of its own and deletes them at the end. The time to live is short by default, so that a short run
    sees pages expire.
    """
    usual_readers, usual_writers, bursts = PROFILES[profile]
    workload = Workload(
        readers=usual_readers if readers is None else readers,
        writers=usual_writers if writers is None else writers,
        pages=pages,
        seconds=seconds,
        ttl=ttl,
        build_ms=build_ms,
        bursts=bursts,
        seed=seed,
    )
    try:
        outcomes, others = _measured(workload)
    except StoreUnavailableError as error:
        raise click.ClickException(
            f"Redis does not answer: {error}. Check REDIS_URL, and that the server runs."
        ) from None
    click.echo(terminal_table(workload, outcomes, others))
    if report:
        report.write(html_report(workload, outcomes, others, profile))
        click.echo(f"\nThe same with charts: {report.name}")


def _measured(workload: Workload) -> tuple[list[Outcome], int]:
    """Return each strategy's outcome, and how many other connections the server had when the lab began."""
    outcomes: list[Outcome] = []
    requests = len(arrivals(workload))
    with _quiet(), laboratory(Config.load()) as store:
        others = RedisServer(store).connections() - 1
        with click.progressbar(length=requests * len(STRATEGIES), label="Cache lab", file=sys.stderr) as progress:
            for name, strategy in STRATEGIES.items():
                progress.label = f"Cache lab: {name:<10}"
                outcomes.append(measure(store, strategy(), workload, lambda: progress.update(1)))
    return outcomes, others


@contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing about the requests that Redis fails: the lab counts them, or ends with the reason."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    end_cleanly()
    main()
