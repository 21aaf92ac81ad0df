"""What the cache lab found, as a table for the terminal and as one HTML page with charts.

Here is the arithmetic and the wording; report.html holds the markup. A chart's positions are percentages
of its width, so that its text keeps its size on a phone, which a scaled drawing's would not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from bench.lab.replay import (
    BURST_EVERY,
    BURST_FACTOR,
    BURST_LENGTH,
    PAGE_SIZE,
    Outcome,
    Stale,
    Workload,
    percentile,
)

NONE = "–"
NBSP = "\N{NO-BREAK SPACE}"  # keeps a number and its unit on one line
STEPS = 60  # in a chart over time
LATE = 0.02  # s from which it is worth saying that requests waited for a thread


@dataclass(frozen=True)
class Row:
    """A line of the table: what is measured, its unit, and a value for each strategy."""

    label: str
    unit: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float  # % of the axis
    text: str

    @property
    def anchor(self) -> str:
        """Return where its text begins, so that the first and the last stay inside the drawing."""
        return "start" if self.at < 2 else "end" if self.at > 98 else "middle"


@dataclass(frozen=True)
class Mark:
    """A strategy's bar or dot."""

    strategy: str
    at: float  # % of the axis
    text: str


@dataclass(frozen=True)
class Bars:
    """A chart with one bar for each strategy."""

    axis: str  # what it measures, with the unit
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Dots:
    """Groups of dots on one logarithmic axis."""

    axis: str
    scale: str
    ticks: tuple[Tick, ...]
    groups: tuple[tuple[str, tuple[Mark, ...]], ...]


@dataclass(frozen=True)
class Course:
    """How stale what a strategy served was, over time."""

    strategy: str
    path: str  # the data of an SVG path in a box of 100 by 100
    text: str
    posted: tuple[float, ...]  # % of the time axis


@dataclass(frozen=True)
class Courses:
    """One course for each strategy, on the same axes."""

    times: tuple[Tick, ...]
    ages: tuple[Tick, ...]
    courses: tuple[Course, ...]


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


def html_report(workload: Workload, outcomes: Sequence[Outcome], others: int, profile: str, command: str) -> str:
    """Return the findings as an HTML page that needs nothing but itself.

    command: what repeats the measurement.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return jinja.get_template("report.html").render(
        profile=profile,
        command=command,
        described=described(workload),
        strategies=[each.strategy for each in outcomes],
        rows=rows(outcomes),
        notes=notes(outcomes, others),
        hit_rate=_hit_rate(outcomes),
        hit_rate_says=_hit_rate_says(outcomes),
        rebuilds=_rebuilds(outcomes),
        rebuilds_says=_rebuilds_says(workload, outcomes),
        staleness=_staleness(outcomes),
        staleness_says=_staleness_says(workload, outcomes),
        latency=_latency(outcomes),
        latency_says=_latency_says(workload, outcomes),
        commands=_commands(outcomes),
        commands_says=_commands_says(outcomes),
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


# Charts, each with what it says


def _hit_rate(outcomes: Sequence[Outcome]) -> Bars:
    return _bars(
        "reads answered from Redis at once, %",
        outcomes,
        lambda each: 100 * each.hit_rate,
        lambda each: f"{100 * each.hit_rate:.1f}{NBSP}%",
        top=100,
    )


def _hit_rate_says(outcomes: Sequence[Outcome]) -> str:
    shares = _listed(_ranked(outcomes, lambda each: -each.hit_rate), lambda each: f"{100 * each.hit_rate:.1f}")
    waits = _listed(outcomes, lambda each: f"{each.waited:,}")
    return (
        f"Of 100 reads, so many found their page in Redis: {shares}. The others built it from SQL, or waited while"
        f" somebody else did ({waits})."
    )


def _rebuilds(outcomes: Sequence[Outcome]) -> Bars:
    return _bars(
        "pages built from SQL a second",
        outcomes,
        lambda each: each.rebuild_rate,
        lambda each: f"{each.rebuild_rate:.1f} /s, {each.rebuilds:,} in all",
    )


def _rebuilds_says(workload: Workload, outcomes: Sequence[Outcome]) -> str:
    least, *_, most = _ranked(outcomes, lambda each: each.rebuilds)
    reads = max(each.reads for each in outcomes)
    busy = _listed(outcomes, lambda each: f"{100 * each.rebuild_rate * workload.build_ms / 1000:.0f}{NBSP}%")
    return (
        f"What SQL still has to do. Without a cache it would build {_count(reads, 'page')}; with {least.strategy} it"
        f" built {least.rebuilds:,}, with {most.strategy} {most.rebuilds:,}. As a share of one database connection's"
        f" time: {busy}. Readers build what expired or was deleted; with refresh, posting builds too."
    )


def _staleness(outcomes: Sequence[Outcome]) -> Courses:
    seconds = outcomes[0].seconds
    worst = max((stale.age for each in outcomes for stale in each.stale), default=0)
    top, ages = _axis(worst, " s", most=3)
    return Courses(
        times=_ticks_within(seconds),
        ages=ages,
        courses=tuple(
            Course(
                each.strategy,
                _steps(each.stale, seconds, top),
                f"{_count(len(each.stale), 'stale read')}, worst {_time(percentile(each.stale_ages, 100))}"
                if each.stale
                else "nothing stale",
                tuple(round(100 * min(1, posted / seconds), 2) for posted in each.posted),
            )
            for each in outcomes
        ),
    )


def _staleness_says(workload: Workload, outcomes: Sequence[Outcome]) -> str:
    stale = [each for each in outcomes if each.stale]
    fresh = [each.strategy for each in outcomes if not each.stale]
    course = (
        "How far behind the stalest page served at each moment was: 0 means that everyone saw every post that had been"
        " acknowledged. The small marks below each line are posts."
    )
    said = [course]
    if fresh:
        said.append(f"With {_and(fresh)} no read was stale.")
    said += [
        f"With {each.strategy} {100 * len(each.stale) / each.reads:.1f}{NBSP}% of all reads were, half of them by more"
        f" than {_time(percentile(each.stale_ages, 50))}, the worst by {_time(percentile(each.stale_ages, 100))}."
        for each in stale
    ]
    if any(each.strategy == "expire" for each in stale):
        said.append(
            f"A page that nobody deletes is behind for up to its time to live, here {workload.ttl} s. Pipit spares the"
            " author of a post this: what is drawn is what everyone else sees."
        )
    return " ".join(said)


def _latency(outcomes: Sequence[Outcome]) -> Dots:
    measures: list[tuple[str, Callable[[Outcome], float | None]]] = [
        ("Half of the reads take at most", lambda each: percentile(each.read_latency, 50)),
        ("99 of 100 reads take at most", lambda each: percentile(each.read_latency, 99)),
        ("Half of the posts take at most", lambda each: percentile(each.write_latency, 50)),
    ]
    found = [(label, [(each.strategy, value(each)) for each in outcomes]) for label, value in measures]
    values = [value * 1000 for _, group in found for _, value in group if value]
    low = math.floor(math.log10(min(values, default=1)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=1))))

    def at(value: float) -> float:
        return round(100 * (math.log10(value * 1000) - low) / (high - low), 2)

    return Dots(
        axis="ms from when the request was due",
        scale="(each line is ten times the one before)",
        ticks=tuple(Tick(100 * (step - low) / (high - low), f"{10.0**step:g}") for step in range(low, high + 1)),
        groups=tuple(
            (label, tuple(Mark(strategy, at(value), _time(value)) for strategy, value in group if value))
            for label, group in found
        ),
    )


def _latency_says(workload: Workload, outcomes: Sequence[Outcome]) -> str:
    ranked = _ranked(outcomes, lambda each: percentile(each.read_latency, 99) or 0)
    slowest = _listed(ranked, lambda each: _time(percentile(each.read_latency, 99)))
    writers = _ranked(
        [each for each in outcomes if each.write_latency], lambda each: percentile(each.write_latency, 50) or 0
    )
    posts = _listed(writers, lambda each: _time(percentile(each.write_latency, 50)))
    says = (
        f"A hit costs a round trip to Redis; a miss costs {workload.build_ms} ms of building besides, or the wait for"
        f" whoever builds. 99 of 100 reads take at most {slowest}."
    )
    if posts:
        says += (
            f" Half of the posts take at most {posts}: expire has nothing to tell the cache, and refresh builds the new"
            " pages before a post is acknowledged."
        )
    return says


def _commands(outcomes: Sequence[Outcome]) -> Bars:
    return _bars(
        "Redis commands a request",
        outcomes,
        lambda each: each.commands_per_request,
        lambda each: f"{each.commands_per_request:.2f}, {each.commands.total():,} in all",
    )


def _commands_says(outcomes: Sequence[Outcome]) -> str:
    memory = [each for each in outcomes if each.memory is not None]
    held = _listed(memory, lambda each: f"{(each.memory or 0) / 1000:,.0f} kB")
    says = (
        "A hit is one GET; what is above 1 is what misses and posts cost. The commands that run inside a script are"
        " counted as well as the script."
    )
    if held:
        size = PAGE_SIZE // 1000
        says += f" At the end the pages, {size} kB each and kept in gzip, took this much of Redis's memory: {held}."
    return says


# Their parts


def _bars(
    axis: str,
    outcomes: Sequence[Outcome],
    value: Callable[[Outcome], float],
    text: Callable[[Outcome], str],
    top: float | None = None,
) -> Bars:
    end, ticks = _axis(top or max(map(value, outcomes)))
    marks = tuple(Mark(each.strategy, round(100 * value(each) / end, 2), text(each)) for each in outcomes)
    return Bars(axis, ticks, marks)


def _axis(top: float, unit: str = "", most: int = 5) -> tuple[float, tuple[Tick, ...]]:
    """Return where an axis from 0 ends, a round number not less than `top`, and its ticks."""
    step = _step(top or 1, most)
    count = math.ceil(round((top or 1) / step, 6))
    return count * step, tuple(Tick(100 * n / count, f"{round(n * step, 6):g}{unit}") for n in range(count + 1))


def _ticks_within(top: float) -> tuple[Tick, ...]:
    """Return ticks for a time axis that ends where the run does: seconds."""
    step = _step(top, 5)
    return tuple(Tick(100 * n * step / top, f"{round(n * step, 6):g} s") for n in range(math.floor(top / step) + 1))


def _step(top: float, most: int) -> float:
    """Return the least of 1, 2, 2.5, 5 times a power of ten that reaches `top` in so many steps."""
    unit: float = 10.0 ** math.floor(math.log10(top / most))
    return next(factor * unit for factor in (1, 2, 2.5, 5, 10, 20) if factor * unit * most >= top * 0.999999)


def _steps(stale: Sequence[Stale], seconds: float, top: float) -> str:
    """Return an area under steps, each as high as the worst age in its part of the time."""
    worst = [0.0] * STEPS
    for read in stale:
        step = min(STEPS - 1, int(read.at / seconds * STEPS))
        worst[step] = max(worst[step], read.age)
    path = ["M0 100"]
    path += [f"V{100 - 100 * age / top:.1f}H{100 * (step + 1) / STEPS:.2f}" for step, age in enumerate(worst)]
    return "".join(path) + "V100"


def _breakdown(outcome: Outcome) -> str:
    return ", ".join(f"{name.upper()} {calls:,}" for name, calls in outcome.commands.most_common() if calls)


# Words


def _named(row: Row) -> str:
    return f"{row.label}, {row.unit}" if row.unit else row.label


def _ranked(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> list[Outcome]:
    return sorted(outcomes, key=value)


def _listed(outcomes: Sequence[Outcome], text: Callable[[Outcome], str]) -> str:
    return _and([f"{text(each)} with {each.strategy}" for each in outcomes])


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    return f"{_number(seconds, 1000)}{NBSP}ms" if seconds < 1 else f"{_number(seconds, 1)}{NBSP}s"


def _number(value: float | None, factor: float) -> str:
    """Return the value in another unit, with the digits that say something."""
    if value is None:
        return NONE
    number = value * factor
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:,.0f}"
