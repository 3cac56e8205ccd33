"""Charts as inline SVG that stay sharp at any width and are read by screen readers.

Curves lie in an inner picture of 1000 by 1000 units that stretches; text, dots and grid lines at
percentages of the outer one, so that they never stretch. What moves has an id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from puna.plan.report.axes import Axis

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """What a chart is called, says to those who do not see it, and has on its axes."""

    key: str
    title: str
    description: str  # HTML text, which may hold words that move
    x: Axis
    y: Axis
    x_words: str
    y_words: str
    x_ticks: Sequence[tuple[float, str]] | None = None  # the axis's own where None; HTML


def figure(chart: Chart, curves: str, marks: str) -> str:
    """The chart: `curves` are SVG paths of thousandths, `marks` whatever lies at percentages."""
    title, description = f"{chart.key}-title", f"{chart.key}-description"
    return (
        f'<figure class="chart {chart.key}"><figcaption><h3 id="{title}">{escape(chart.title)}</h3>'
        f'<p id="{description}">{chart.description}</p></figcaption>'
        f'<p class="axis">↑ {escape(chart.y_words)}</p><div class="plot">'
        f'<svg role="img" aria-labelledby="{title}" aria-describedby="{description}" width="100%" '
        f'height="100%">{_grid(chart)}'
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%" '
        f'overflow="hidden">{curves}</svg>{marks}</svg></div>'
        f'<p class="axis across">{escape(chart.x_words)} →</p></figure>'
    )


def path(key: str, points: Sequence[Point], kind: str) -> str:
    """A curve; one that moves has a key."""
    named = f' id="curve-{key}"' if key else ""
    return f'<path{named} class="{kind}" d="{drawn(points)}"/>'


def drawn(points: Sequence[Point]) -> str:
    """SVG path data of thousandths that are counted upwards."""
    return "".join(
        f"{'L' if number else 'M'}{x:g} {1000 - y:g}" for number, (x, y) in enumerate(points)
    )


def area(low: Sequence[Point], high: Sequence[Point]) -> str:
    """What lies between two curves."""
    return f'<path class="band" d="{drawn([*high, *reversed(low)])}Z"/>' if low else ""


def dot(key: str, point: Point | None, kind: str, inside: str) -> str:
    """Whatever lies around a point (0, 0): a circle, a label. One that moves has a key."""
    named = f' id="dot-{key}"' if key else ""
    if point is None:
        return f'<svg{named} class="{kind}" overflow="visible" display="none">{inside}</svg>'
    x, y = percent(point[0]), percent(1000 - point[1])
    return f'<svg{named} class="{kind}" x="{x}" y="{y}" overflow="visible">{inside}</svg>'


def label(words: str, dx: float = 9, dy: float = 4, anchor: str = "start") -> str:
    """Text beside a point; `words` is HTML."""
    return f'<text x="{dx:g}" y="{dy:g}" text-anchor="{anchor}">{words}</text>'


def circle(radius: float = 5) -> str:
    """A dot's circle."""
    return f'<circle r="{radius:g}"/>'


def whisker(key: str, low: Point | None, high: Point | None) -> str:
    """A vertical line from one point to another."""
    named = f' id="{key}"' if key else ""
    if low is None or high is None:
        return f'<line{named} class="whisker" display="none"/>'
    x = percent(low[0])
    ends = percent(1000 - low[1]), percent(1000 - high[1])
    return f'<line{named} class="whisker" x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}"/>'


def percent(thousandths: float) -> str:
    """`12.5%` of 125."""
    return f"{thousandths / 10:.2f}".rstrip("0").rstrip(".") + "%"


def _grid(chart: Chart) -> str:
    parts = []
    for value, words in chart.y.ticks():
        y = percent(1000 * (1 - chart.y.position(value)))
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="y" x="-8" y="{y}" dy="0.33em">{words}</text>')
    for value, words in chart.x.ticks() if chart.x_ticks is None else chart.x_ticks:
        x = percent(1000 * chart.x.position(value))
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="100%"/>')
        parts.append(f'<text class="x" x="{x}" y="100%" dy="1.5em">{words}</text>')
    return "".join(parts)
