"""What was found, as a table in Markdown, as JSON and as two charts."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path

from bench.charts import COLOURS, THEIRS, Bar, bar_chart
from bench.findings import RATES, Findings, targets


def table(findings: Findings) -> str:
    """Return everything as Markdown."""
    parts = [
        f"# Results\n\n{_conditions(findings)}",
        _targets_table(findings),
        _rates_table(findings),
        _costs_list(findings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def keep(findings: Findings, folder: Path) -> None:
    """Write results.md, results.json and the charts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text(table(findings))
    aims = [asdict(target) | {"verdict": target.verdict} for target in targets(findings)]
    content = asdict(findings) | {"targets": aims}
    (folder / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if findings.loads:
        (folder / "rates.svg").write_text(_rates_chart(findings))
    if any(findings.ratios(mine, other) for mine, other, _, _ in RATES):
        (folder / "ratios.svg").write_text(_ratios_chart(findings))


def _conditions(findings: Findings) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in findings.facts.items())
    return (
        f"{findings.rounds} interleaved rounds of {findings.seconds} s, wrk with keep-alive; a page of "
        f"{findings.page_bytes:,} bytes with 30 posts. Ratios are taken within a round.\n\n{facts}"
    )


def _targets_table(findings: Findings) -> str:
    lines = ["| aim | aimed at | found (median) | spread | |", "|---|--:|--:|--:|---|"]
    for target in targets(findings):
        found = "–" if target.found is None else f"{_number(target.found)} {target.unit}"
        verdict = "**missed**" if target.verdict == "missed" else target.verdict
        aim = f"{target.sense} {target.aim:g} {target.unit}"
        lines.append(f"| {target.what} | {aim} | {found} | {target.spread or '–'} | {verdict} |")
    return "## Aims\n\n" + "\n".join(lines)


def _rates_table(findings: Findings) -> str:
    if not findings.loads:
        return ""
    lines = ["| | requests/s (median) | min to max | p50 ms | p99 ms |", "|---|--:|--:|--:|--:|"]
    for name, loads in findings.loads.items():
        rates = [load.rate for load in loads]
        p50 = statistics.median(load.p50_ms for load in loads)
        p99 = statistics.median(load.p99_ms for load in loads)
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        lines.append(f"| {name} | {statistics.median(rates):,.0f} | {spread} | {p50:.1f} | {p99:.1f} |")
    note = "For information: /@name is cached as / is; /home is built each time."
    return "## Rates\n\n" + "\n".join(lines) + (f"\n\n{note}" if "Pipit" in findings.loads else "")


def _costs_list(findings: Findings) -> str:
    lines = []
    if findings.misses:
        lines.append(
            f"- a miss of `/`, one at a time: {findings.misses.p50_ms:.1f} ms (p50), "
            f"{findings.misses.p99_ms:.1f} ms (p99)"
        )
    if findings.memory:
        sizes = (findings.memory.at_start, findings.memory.halfway, findings.memory.at_end)
        lines.append(
            "- a worker's memory (RSS): {:.1f} MB at its start, {:.1f} after 50,000 mixed requests, "
            "{:.1f} after 100,000".format(*(size / 1e6 for size in sizes))
        )
    if findings.visit:
        parts = ", ".join(f"`{path}` {size:,}" for path, size in findings.visit.parts.items())
        lines.append(
            f"- the first visit to `/`, bytes with gzip accepted: {parts}; "
            f"the second: {findings.visit.repeat_bytes:,} in {findings.visit.repeat_requests} request"
        )
    if findings.starts:
        mine, bare = statistics.median(findings.starts.pipit), statistics.median(findings.starts.flask)
        lines.append(f"- start to first answer: {mine:.2f} s; bare Flask with the same libraries {bare:.2f} s")
    return "## Costs\n\n" + "\n".join(lines) if lines else ""


def _number(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _rates_chart(findings: Findings) -> str:
    bars = []
    for name, loads in findings.loads.items():
        rates = [load.rate for load in loads]
        colour = COLOURS["found"] if name.startswith("Pipit") else THEIRS
        bars.append(Bar(name, statistics.median(rates), min(rates), max(rates), colour))
    return bar_chart("Requests a second on one core: median, and the range of the rounds", bars)


def _ratios_chart(findings: Findings) -> str:
    bars, aims = [], []
    for mine, other, aim, words in RATES:
        ratios = findings.ratios(mine, other)
        if ratios:
            bars.append(Bar(words, statistics.median(ratios), min(ratios), max(ratios), COLOURS["found"]))
            aims.append(aim)
    return bar_chart("Pipit's rate as a multiple of another's: aimed at, and found (median and range)", bars, aims)
