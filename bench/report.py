"""What was found, as a table in Markdown, as JSON and as two charts."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path

from bench.building import BASE
from bench.charts import COLOURS, THEIRS, Bar, bar_chart
from bench.findings import PAGE_RATES, RATES, Findings, targets
from bench.publishing import Publishing


def table(findings: Findings) -> str:
    """Return everything as Markdown."""
    parts = [
        f"# Results\n\n{_conditions(findings)}",
        _targets_table(findings),
        _rates_table(findings),
        _costs_list(findings),
        _home_table(findings),
        _builds_table(findings),
        _publishing_table(findings),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def keep(findings: Findings, folder: Path) -> None:
    """Write results.md, results.json and the charts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text(table(findings))
    aims = [asdict(target) | {"verdict": target.verdict} for target in targets(findings)]
    content = asdict(findings) | {"targets": aims}
    (folder / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    charts = {
        "rates.svg": _rates_chart(findings),
        "ratios.svg": _ratios_chart(findings, RATES, "Pipit's rate as a multiple of another's"),
        "pages.svg": _ratios_chart(findings, PAGE_RATES, "The rate of other pages as a multiple of that of /"),
        "publishing.svg": _publishing_chart(findings),
    }
    for name, chart in charts.items():
        if chart:
            (folder / name).write_text(chart)


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
    return "## Rates\n\n" + "\n".join(lines)


def _costs_list(findings: Findings) -> str:
    lines = []
    if findings.misses:
        lines.append(
            f"- a miss of `/`, one at a time: {findings.misses.p50_ms:.1f} ms (p50), "
            f"{findings.misses.p99_ms:.1f} ms (p99)"
        )
    if findings.memory:
        lines.append(
            "- a worker's memory (RSS): {:.1f} MB at its start, {:.1f} after 50,000 requests for all pages of a town, "
            "{:.1f} after 100,000, {:.1f} after the stranger's".format(
                *(size / 1e6 for size in asdict(findings.memory).values())
            )
        )
    if findings.crawl:
        crawl = findings.crawl
        lines.append(
            f"- a stranger asked for {crawl.pages:,} different pages, {crawl.per_second:.0f} a second; Redis used "
            f"{crawl.peak / 1e6:.1f} MB more at most; of {crawl.logins} logins {len(crawl.refused)} were refused"
        )
    if findings.cold:
        lines.append(
            "- the first request to a page in a new process, p50 ms: in Redis {cached:.1f}, signed in "
            "{cached_signed_in:.1f}; not in Redis {built:.1f}, signed in {built_signed_in:.1f}".format(
                **asdict(findings.cold)
            )
        )
    if findings.kept_for_home is not None:
        lines.append(f"- Redis keeps {findings.kept_for_home:.0f} bytes for the `/home` of each person who was here")
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


def _home_table(findings: Findings) -> str:
    lines = ["| | p50 ms | CPU ms |", "|---|--:|--:|"]
    for name, rounds in findings.home.items():
        p50, cpu = (
            statistics.median(values) for values in zip(*((each.p50_ms, each.cpu_ms) for each in rounds), strict=True)
        )
        lines.append(f"| {name} | {p50:.1f} | {cpu:.1f} |")
    title = "## `/home`, following 1,000 people, when one of them has posted each time"
    return f"{title}\n\n" + "\n".join(lines) if findings.home else ""


def _builds_table(findings: Findings) -> str:
    if not findings.builds:
        return ""
    lines = [f"| a page of 30 posts | their HTML | CPU ms | at commit {BASE} | ratio |", "|---|---|--:|--:|--:|"]
    for path, by_html in findings.builds.items():
        for html, build in by_html.items():
            now, base = statistics.median(build.now), statistics.median(build.base)
            lines.append(f"| `{path}` | {html} | {now:.2f} | {base:.2f} | {build.ratio:.2f} |")
    return "## Building\n\n" + "\n".join(lines)


def _publishings(findings: Findings) -> dict[str, Publishing]:
    """Return what publishing took, by words that say how many there were."""
    by_processes = {f"web processes: {count}": found for count, found in (findings.processes or {}).items()}
    by_followers = {f"followers: {count:,}": found for count, found in (findings.followers or {}).items()}
    return by_processes | by_followers


def _publishing_table(findings: Findings) -> str:
    lines = ["| with | p50 ms | middle half | keys tracked |", "|---|--:|--:|--:|"]
    for words, each in _publishings(findings).items():
        lines.append(f"| {words} | {each.p50_ms:.1f} | {each.low_ms:.1f} to {each.high_ms:.1f} | {each.tracked:.0f} |")
    return "## Publishing\n\n" + "\n".join(lines) if len(lines) > 2 else ""


def _publishing_chart(findings: Findings) -> str:
    bars = [
        Bar(words, each.p50_ms, each.low_ms, each.high_ms, COLOURS["found"])
        for words, each in _publishings(findings).items()
    ]
    return bar_chart("Publishing, in ms: median, and the middle half", bars) if bars else ""


def _number(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _rates_chart(findings: Findings) -> str:
    bars = []
    for name, loads in findings.loads.items():
        if name.startswith("town:"):
            continue
        rates = [load.rate for load in loads]
        colour = COLOURS["found"] if name.startswith("Pipit") else THEIRS
        bars.append(Bar(name, statistics.median(rates), min(rates), max(rates), colour))
    return bar_chart("Requests a second on one core: median, and the range of the rounds", bars) if bars else ""


def _ratios_chart(findings: Findings, rates: list[tuple[str, str, float, str]], title: str) -> str:
    bars, aims = [], []
    for mine, other, aim, words in rates:
        ratios = findings.ratios(mine, other)
        if ratios:
            bars.append(Bar(words, statistics.median(ratios), min(ratios), max(ratios), COLOURS["found"]))
            aims.append(aim)
    return bar_chart(f"{title}: aimed at, and found (median and range)", bars, aims) if bars else ""
