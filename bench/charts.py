"""Bar charts as SVG files that need nothing but themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABELS, FIGURES = 760, 270, 90  # px: the drawing, and what its labels and its figures take
ROW, TOP = 30, 48
OURS, THEIRS = "#2f6f4f", "#9aa5b1"


@dataclass(frozen=True)
class Bar:
    """A bar, with the range it stands for and, where there is one, what was aimed at."""

    label: str
    value: float
    low: float
    high: float
    aim: float | None = None
    ours: bool = False


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Return a chart with one horizontal bar a line, all on one scale that begins at 0."""
    longest = max(max(bar.high, bar.aim or 0) for bar in bars)
    scale = (WIDTH - LABELS - FIGURES) / longest
    height = TOP + ROW * len(bars) + 10
    rows = "".join(_row(bar, TOP + ROW * number, scale) for number, bar in enumerate(bars))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="14">\n<title>{escape(title)}</title>\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="12" y="28" font-weight="600">{escape(title)}</text>\n{rows}</svg>\n'
    )


def _row(bar: Bar, top: int, scale: float) -> str:
    middle = top + ROW / 2
    end = LABELS + bar.value * scale
    colour, ends = OURS if bar.ours else THEIRS, f"{middle - 4}v8"
    low, high = LABELS + bar.low * scale, LABELS + bar.high * scale
    parts = [
        f'<text x="{LABELS - 8}" y="{middle + 5}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect x="{LABELS}" y="{top + 6}" width="{end - LABELS:.1f}" height="{ROW - 12}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {ends}M{high:.1f} {ends}" stroke="#222" fill="none"/>',
        f'<text x="{WIDTH - 12}" y="{middle + 5}" text-anchor="end">{_figure(bar.value)}</text>',
    ]
    if bar.aim is not None:
        aim = LABELS + bar.aim * scale
        parts.append(f'<path d="M{aim:.1f} {top + 2}v{ROW - 4}" stroke="#c2410c" stroke-width="3"/>')
    return "\n".join(parts) + "\n"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
