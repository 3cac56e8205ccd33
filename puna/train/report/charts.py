"""Charts as inline SVG: sharp at any width, readable without a script and by screen readers.

Curves are drawn in an inner picture of 1000 by 1000 units that stretches with the page; text, dots
and grid lines lie in the outer one at percentages, so that they never stretch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from puna.train.report.series import Axis, Series

Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Chart:
    """A curve over steps and what stands beside it.

    `dots` are single measurements, `rules` horizontal lines with a label, `marks` vertical ones
    (step, label). `number` writes a value with its unit for the read-out, which says `resting`
    while no pointer is on the chart.
    """

    key: str
    title: str
    unit: str
    description: str
    x: Axis
    y: Axis
    number: Format
    resting: str
    series: Series | None = None
    smooth: list[float | None] = field(default_factory=list)
    dots: list[Point] = field(default_factory=list)
    rules: list[tuple[float, str]] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)  # (symbol class, words)
    is_large: bool = False
    factor: float = 1.0  # what a value is multiplied by before it meets the y axis (bytes to MiB)


@dataclass(frozen=True)
class Bar:
    """One bar of a comparison: its label, value, and whether it is the one to look at."""

    label: str
    value: float
    is_ours: bool = False


def figure(chart: Chart) -> str:
    """The chart with its title and read-out line, as a <figure>."""
    size = "large" if chart.is_large else "small"
    legend = "".join(
        f'<span><i class="{symbol}"></i>{escape(words)}</span>' for symbol, words in chart.legend
    )
    return f"""<figure class="chart {size}" data-chart="{chart.key}">
<figcaption><h3>{escape(chart.title)} <small>{escape(chart.unit)}</small></h3>
<output>{escape(chart.resting)}</output></figcaption>
<div class="plot">{_svg(chart)}<div class="hit"></div></div>
{f'<p class="legend">{legend}</p>' if legend else ""}</figure>"""


def bars(rows: Sequence[Bar], title: str, description: str, number: Format) -> str:
    """Horizontal bars from zero, the label above each and its value at the end, as an <svg>."""
    pitch, height = 58, 24
    longest = max((row.value for row in rows), default=1.0) or 1.0
    parts = []
    for index, row in enumerate(rows):
        top = index * pitch
        width = 100 * row.value / longest * 0.82  # the rest is for the value's text
        kind = "ours" if row.is_ours else "theirs"
        parts.append(
            f'<g class="{kind}"><text x="0" y="{top + 13}">{escape(row.label)}</text>'
            f'<rect x="0" y="{top + 21}" width="{width:.2f}%" height="{height}" rx="3"/>'
            f'<text class="value" x="{width:.2f}%" dx="9" y="{top + 21 + height / 2}" '
            f'dy="0.36em">{escape(number(row.value))}</text></g>'
        )
    return (
        f'<svg class="bars" role="img" aria-labelledby="bars-title bars-description" width="100%" '
        f'height="{len(rows) * pitch - 12}"><title id="bars-title">{escape(title)}</title>'
        f'<desc id="bars-description">{escape(description)}</desc>{"".join(parts)}</svg>'
    )


def points(chart: Chart) -> dict[str, object]:
    """What the page's script needs to follow the pointer: positions in thousandths and texts.

    `x` is there only when the chart has points of its own instead of the steps of all charts.
    """
    if chart.series is None:
        return {
            "x": [round(1000 * chart.x.position(step)) for step, _ in chart.dots],
            "y": [round(1000 * _y(chart, value)) for _, value in chart.dots],
            "text": [f"step {step:,.0f} · {chart.number(value)}" for step, value in chart.dots],
        }
    shown = chart.series.mean
    return {
        "y": [None if value is None else round(1000 * _y(chart, value)) for value in shown],
        "text": ["not finite" if value is None else chart.number(value) for value in shown],
    }


def _y(chart: Chart, value: float) -> float:
    return chart.y.position(value * chart.factor)


def _svg(chart: Chart) -> str:
    title, description = f"{chart.key}-title", f"{chart.key}-description"
    dots = "".join(
        f'<circle class="dot" cx="{_percent(chart.x.position(step))}" '
        f'cy="{_percent(1 - _y(chart, value))}" r="{3.5 if len(chart.dots) < 60 else 2}"/>'
        for step, value in chart.dots
    )
    return (
        f'<svg role="img" aria-labelledby="{title} {description}" width="100%" height="100%">'
        f'<title id="{title}">{escape(chart.title)} over steps</title>'
        f'<desc id="{description}">{escape(chart.description)}</desc>'
        f"{_grid(chart)}{_marks(chart)}"
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
        f"{_curves(chart)}</svg>{dots}{_rules(chart)}"
        '<line class="cross" y1="0" y2="100%"/><circle class="cursor" r="4"/></svg>'
    )


def _grid(chart: Chart) -> str:
    parts = []
    for tick, label in zip(chart.y.ticks, chart.y.labels, strict=True):
        y = _percent(1 - chart.y.position(tick))
        kind = "base" if tick == chart.y.ticks[0] else "grid"
        parts.append(f'<line class="{kind}" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="y" x="0" dx="-8" y="{y}" dy="0.33em">{escape(label)}</text>')
    for tick, label in zip(chart.x.ticks, chart.x.labels, strict=True):
        x = _percent(chart.x.position(tick))
        parts.append(f'<text class="x" x="{x}" y="100%" dy="1.5em">{escape(label)}</text>')
    return "".join(parts)


def _marks(chart: Chart) -> str:
    parts = []
    for step, label in chart.marks:
        position = chart.x.position(step)
        side = "end" if position > 0.8 else "start"
        parts.append(
            f'<line class="mark" x1="{_percent(position)}" x2="{_percent(position)}" y1="0" '
            f'y2="100%"/><text class="mark {side}" x="{_percent(position)}" '
            f'dx="{-5 if side == "end" else 5}" y="0" dy="0.9em">{escape(label)}</text>'
        )
    return "".join(parts)


def _rules(chart: Chart) -> str:
    parts = []
    for value, label in chart.rules:
        y = _percent(1 - _y(chart, value))
        parts.append(
            f'<line class="rule" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
            f'<text class="rule" x="100%" y="{y}" dy="-0.5em">{escape(label)}</text>'
        )
    return "".join(parts)


def _curves(chart: Chart) -> str:
    """A bucketed curve's band, the curve and its smooth line; else a line through the dots."""
    parts = []
    series = chart.series
    if series is not None:
        xs = [1000 * chart.x.position(step) for step in series.steps]
        if series.bucket_size > 1:
            parts.append(f'<path class="band" d="{_band(chart, xs, series)}"/>')
        kind = "raw" if chart.smooth else "line" if len(xs) > 1 else "line lone"
        parts.append(f'<path class="{kind}" d="{_path(chart, xs, series.mean)}"/>')
        if chart.smooth:
            parts.append(f'<path class="line" d="{_path(chart, xs, chart.smooth)}"/>')
    else:
        xs = [1000 * chart.x.position(step) for step, _ in chart.dots]
        values = [value for _, value in chart.dots]
        parts.append(f'<path class="joined" d="{_path(chart, xs, values)}"/>')
    return "".join(parts)


def _path(chart: Chart, xs: Sequence[float], values: Sequence[float | None]) -> str:
    """SVG path data; a value that is not known leaves a gap, a lone one a dot."""
    parts, is_drawing = [], False
    for x, value in zip(xs, values, strict=True):
        if value is not None:
            place = f"{_short(x)} {_short(1000 * (1 - _y(chart, value)))}"
            parts.append(f"L{place}" if is_drawing else f"M{place}h0")
        is_drawing = value is not None
    return "".join(parts)


def _band(chart: Chart, xs: Sequence[float], series: Series) -> str:
    """The area between the lowest and the highest value; a bucket without values is left out."""
    known = [
        (x, 1000 * (1 - _y(chart, low)), 1000 * (1 - _y(chart, high)))
        for x, low, high in zip(xs, series.low, series.high, strict=True)
        if low is not None and high is not None
    ]
    there = [f"{_short(x)} {_short(high)}" for x, _, high in known]
    back = [f"{_short(x)} {_short(low)}" for x, low, _ in reversed(known)]
    return f"M{'L'.join(there + back)}Z" if known else ""


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _percent(share: float) -> str:
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"
