"""The findings of the cache lab, as a table for the terminal and as an HTML page with charts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from bench.charts import COLOURS, grouped_bars, line_chart
from bench.lab.replay import BURST_EVERY, BURST_FACTOR, BURST_LENGTH, Outcome, Workload, percentile

NONE = "–"
STEPS = 60  # in a chart over time
LATE = 0.02  # s; a note says if requests waited longer for a thread


@dataclass(frozen=True)
class Row:
    """A line of the table: what is measured, its unit, and a value for each strategy."""

    label: str
    unit: str
    values: tuple[str, ...]


def terminal_table(workload: Workload, outcomes: Sequence[Outcome], others: int) -> str:
    """Return the findings for the terminal, in lines of at most 80 columns or so.

    others: how many other connections the server had.
    """
    table = rows(outcomes)
    label_width = max(len(_named(row)) for row in table)
    width = max(12, *(len(value) + 2 for row in table for value in row.values))
    lines = [described(workload), "", " " * label_width + "".join(f"{each.strategy:>{width}}" for each in outcomes)]
    lines += [f"{_named(row):<{label_width}}" + "".join(f"{value:>{width}}" for value in row.values) for row in table]
    remarks = notes(outcomes, others)
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def html_report(workload: Workload, outcomes: Sequence[Outcome], others: int, profile: str) -> str:
    """Return the findings as an HTML page that fetches nothing."""
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return jinja.get_template("report.html").render(
        profile=profile,
        described=described(workload),
        strategies=[each.strategy for each in outcomes],
        rows=rows(outcomes),
        notes=notes(outcomes, others),
        ttl=workload.ttl,
        hit_rate=_bars("Reads answered from Redis at once, %", outcomes, lambda each: 100 * each.hit_rate),
        rebuilds=_bars("Pages built from SQL a second", outcomes, lambda each: each.rebuild_rate),
        staleness=_staleness(outcomes),
        latency=_latency(outcomes),
        commands=_bars("Redis commands a request", outcomes, lambda each: each.commands_per_request),
        breakdown=[(each.strategy, _breakdown(each)) for each in outcomes],
    )


def described(workload: Workload) -> str:
    """Return the workload in a sentence."""
    bursts = (
        f" and {BURST_FACTOR} times that for {BURST_LENGTH:g} s in every {BURST_EVERY:g} s" if workload.bursts else ""
    )
    return (
        f"{workload.readers:g} reads and {workload.writers:g} posts a second{bursts}, {_count(workload.pages, 'page')},"
        f" {workload.build_ms} ms to build one, a time to live of {workload.ttl} s;"
        f" {workload.seconds:g} s for each strategy."
    )


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return the table."""

    def row(label: str, unit: str, value: Callable[[Outcome], str]) -> Row:
        return Row(label, unit, tuple(value(each) for each in outcomes))

    return [
        row("reads", "", lambda each: f"{each.reads:,}"),
        row("hit rate", "%", lambda each: f"{100 * each.hit_rate:.1f}"),
        row("pages built", "", lambda each: f"{each.rebuilds:,}"),
        row("pages built", "per second", lambda each: f"{each.rebuild_rate:.1f}"),
        row("reads that waited for another's", "", lambda each: f"{each.waited:,}"),
        row("reads served stale", "", lambda each: f"{len(each.stale):,}"),
        row("… median age", "s", lambda each: _number(percentile(each.stale_ages, 50), 1)),
        row("… worst age", "s", lambda each: _number(percentile(each.stale_ages, 100), 1)),
        row("read latency, p50", "ms", lambda each: _number(percentile(each.read_latency, 50), 1000)),
        row("read latency, p99", "ms", lambda each: _number(percentile(each.read_latency, 99), 1000)),
        row("posts", "", lambda each: f"{each.writes:,}"),
        row("post latency, p50", "ms", lambda each: _number(percentile(each.write_latency, 50), 1000)),
        row("Redis commands", "", lambda each: f"{each.commands.total():,}"),
        row("Redis commands", "per request", lambda each: f"{each.commands_per_request:.2f}"),
        row("Redis memory at the end", "kB", lambda each: _number(each.memory, 1 / 1000)),
    ]


def notes(outcomes: Sequence[Outcome], others: int) -> list[str]:
    """Return what a reader of the figures must know: what may have disturbed them."""
    said: list[str] = []
    if others > 0:
        said.append(
            f"Others share the server ({_count(others, 'connection')} at the start): their commands are counted too."
        )
    for each in outcomes:
        late = percentile(each.late, 99) or 0
        if late > LATE:
            said.append(f"{each.strategy}: 1 request in 100 waited {late * 1000:.0f} ms or more for a free thread.")
        if each.bypassed:
            said.append(f"{each.strategy}: Redis was away, slow or full for {_count(each.bypassed, 'read')}.")
    return said


def _bars(title: str, outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> str:
    bars = [{"value": value(each), "color": COLOURS[each.strategy]} for each in outcomes]
    return grouped_bars(title, [each.strategy for each in outcomes], {"": bars}, max(map(value, outcomes)))


def _staleness(outcomes: Sequence[Outcome]) -> str:
    lines = {each.strategy: _worst_ages(each) for each in outcomes}
    return line_chart("Age of the stalest page served, s, over time, s", outcomes[0].seconds, lines)


def _worst_ages(outcome: Outcome) -> list[tuple[float, float]]:
    """Return the age of the stalest page in each of STEPS parts of the time, with the part's middle: both in s."""
    worst = [0.0] * STEPS
    for read in outcome.stale:
        step = min(STEPS - 1, int(read.at / outcome.seconds * STEPS))
        worst[step] = max(worst[step], read.age)
    return [((step + 0.5) * outcome.seconds / STEPS, age) for step, age in enumerate(worst)]


def _latency(outcomes: Sequence[Outcome]) -> str:
    labels = ["half of the reads take at most", "99 of 100 reads take at most", "half of the posts take at most"]
    values = {
        each.strategy: [
            1000 * (percentile(seconds, percent) or 0)
            for seconds, percent in ((each.read_latency, 50), (each.read_latency, 99), (each.write_latency, 50))
        ]
        for each in outcomes
    }
    return grouped_bars("Latency, ms", labels, values, max(max(each) for each in values.values()))


def _breakdown(outcome: Outcome) -> str:
    return ", ".join(f"{name.upper()} {calls:,}" for name, calls in outcome.commands.most_common() if calls)


def _named(row: Row) -> str:
    return f"{row.label}, {row.unit}" if row.unit else row.label


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _number(value: float | None, factor: float) -> str:
    """Return the value in another unit, with the digits that say something."""
    if value is None:
        return NONE
    number = value * factor
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:,.0f}"
