"""Charts as SVG, drawn by pygal, with light and dark colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pygal
from pygal.style import Style

THEIRS = "#9aa5b1"
COLOURS = {
    "found": "#2f8f63",
    "aimed at": "#d97706",
    "invalidate": "#4c84e0",
    "refresh": "#2a9d86",
    "expire": "#d9782d",
}
LIGHT_AND_DARK = """inline:
svg { --ink: #26221a; --paper: #fffdf9; }
@media (prefers-color-scheme: dark) { svg { --ink: #ece5d8; --paper: #1b1916; } }
.background { fill: var(--paper) !important; }
text { fill: var(--ink) !important; }
.ci { stroke: var(--ink) !important; }
.guides .line { stroke: var(--ink) !important; stroke-dasharray: none !important; opacity: 0.15; }
.text-overlay text { text-anchor: start !important; transform: translate(12px); }
"""


@dataclass(frozen=True)
class Bar:
    """A bar, and the range of the values that it stands for."""

    label: str
    value: float
    low: float
    high: float
    colour: str = THEIRS


def bar_chart(title: str, bars: Sequence[Bar], aims: Sequence[float] = ()) -> str:
    """Return a chart of horizontal bars, each with its target above it if `aims` are given."""
    series: dict[str, list[Any]] = {"aimed at": list(aims)} if aims else {}
    series["found"] = [
        {"value": bar.value, "color": bar.colour, "ci": {"low": bar.low, "high": bar.high}} for bar in bars
    ]
    return grouped_bars(title, [bar.label for bar in bars], series, max(bar.high for bar in bars))


def grouped_bars(title: str, labels: Sequence[str], series: dict[str, list[Any]], top: float) -> str:
    """Return a chart of horizontal bars: a group for each label, and in each group a bar for each series.

    A value is a number, or a dict as pygal takes it. `top` is the largest of them.
    """
    chart = pygal.HorizontalBar(
        **_options(title, list(series), height=100 + len(labels) * (10 + 20 * len(series))),
        print_values=True,
        print_values_position="top",
        truncate_label=-1,
        formatter=_figure,
        range=(0, (top or 1) * 1.15),
        show_x_labels=False,
        show_x_guides=False,
    )
    chart.x_labels = labels[::-1]  # pygal begins at the bottom
    for name, values in series.items():
        chart.add(name, values[::-1])
    return _drawn(chart)


def line_chart(title: str, seconds: float, series: dict[str, list[tuple[float, float]]]) -> str:
    """Return a chart with a line for each series of moments (s) and values, over that many seconds."""
    chart = pygal.XY(
        **_options(title, list(series), height=320),
        show_dots=False,
        fill=True,
        max_scale=6,
        xrange=(0, seconds),
        formatter=_figure,
    )
    for name, points in series.items():
        chart.add(name, points)
    return _drawn(chart)


def _options(title: str, series: Sequence[str], height: int) -> dict[str, Any]:
    style = Style(
        background="transparent",
        plot_background="transparent",
        font_family="system-ui, sans-serif",
        title_font_size=17,
        label_font_size=13,
        value_font_size=12,
        legend_font_size=13,
        opacity="0.85",
        colors=[COLOURS.get(name, THEIRS) for name in series],
    )
    return {
        "title": title,
        "width": 800,
        "height": height,
        "style": style,
        "css": ["file://style.css", "file://graph.css", LIGHT_AND_DARK],
        "js": [],
        "disable_xml_declaration": True,
        "show_legend": len(series) > 1,
        "legend_at_bottom": True,
    }


def _drawn(chart: Any) -> str:
    chart.add_xml_filter(_without_script)
    return str(chart.render(is_unicode=True))


def _without_script(root: Any) -> Any:
    """Take out what would show a value under the mouse pointer: the values are printed."""
    for element in list(root.iter()):
        for script in element.findall("script"):
            element.remove(script)
    return root


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}".removesuffix(".00")
