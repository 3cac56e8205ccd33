"""Numbers made ready to draw: few enough points, a smooth line through them, round axis ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from puna.console import human_count

MOST_POINTS = 1000  # more are not seen on a screen, and each costs about 60 bytes in the page
_BUCKETS = MOST_POINTS // 2  # a bucket is drawn as two points, its lowest and its highest


@dataclass(frozen=True)
class Series:
    """A curve over steps. A point stands for `bucket_size` steps: their lowest, highest and mean
    value, None where no value was finite; `steps` has the last step of each."""

    steps: list[int]
    low: list[float | None]
    high: list[float | None]
    mean: list[float | None]
    bucket_size: int

    @property
    def values(self) -> list[float]:
        """All that is drawn, for the range of an axis."""
        return [value for value in (*self.low, *self.high) if value is not None]


def downsample(steps: Sequence[int], values: Sequence[float | None]) -> Series:
    """At most 1,000 points that keep every peak and dip: the envelope of equal buckets."""
    finite = [value if value is not None and math.isfinite(value) else None for value in values]
    size = 1 if len(steps) <= MOST_POINTS else math.ceil(len(steps) / _BUCKETS)
    lows, highs, means = [], [], []
    for start in range(0, len(steps), size):
        bucket = [value for value in finite[start : start + size] if value is not None]
        lows.append(min(bucket, default=None))
        highs.append(max(bucket, default=None))
        means.append(math.fsum(bucket) / len(bucket) if bucket else None)
    ends = [steps[min(start + size, len(steps)) - 1] for start in range(0, len(steps), size)]
    return Series(ends, lows, highs, means, size)


def moving_average(values: Sequence[float | None], window: int) -> list[float | None]:
    """The mean over `window` points around each; fewer at the start, so that a steep first drop
    stays where it is."""
    half = window // 2
    result: list[float | None] = []
    for i in range(len(values)):
        near = values[max(0, i - half) : i + min(half, i) + 1]
        known = [value for value in near if value is not None]
        result.append(math.fsum(known) / len(known) if known else None)
    return result


@dataclass(frozen=True)
class Axis:
    """A range of values with its ticks; `position` tells where a value lies, 0 to 1."""

    low: float
    high: float
    ticks: list[float]
    labels: list[str]
    is_log: bool = False

    def position(self, value: float) -> float:
        """0 at the low end, 1 at the high end, outside when the value is."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def axis(values: Sequence[float], *, from_zero: bool = False, count: int = 5) -> Axis:
    """A linear axis whose ends are ticks at round numbers, about `count` of them."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        spread = abs(high) / 10 or 1.0
        low, high = low - (0.0 if from_zero and low == 0 else spread), high + spread
    step = round_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks, [tick_label(tick, step) for tick in ticks])


def steps_axis(last_step: int, count: int = 6) -> Axis:
    """The axis of optimizer steps, from 0 to the last step exactly."""
    last = max(last_step, 1)
    step = max(1.0, round_step(last / count))
    step = 5.0 if step == 2.5 else step  # there is no half step
    ticks = [index * step for index in range(int(last / step + 1e-9) + 1)]
    labels = [human_count(tick) if tick >= 10_000 else tick_label(tick, step) for tick in ticks]
    return Axis(0, last, ticks, labels)


def log_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis from 1, 2 or 5 times a power of ten to another; values above zero."""
    marks = [
        mantissa * 10.0**exponent
        for exponent in range(
            math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1
        )
        for mantissa in (1, 2, 5)
    ]
    low = max(mark for mark in marks if mark <= min(values) * (1 + 1e-9))
    high = min((mark for mark in marks if mark >= max(values) and mark > low), default=10 * low)
    ticks = [mark for mark in marks if low <= mark <= high]
    if len(ticks) > 6:
        ticks = [mark for mark in ticks if mark in (low, high) or _is_power_of_ten(mark)]
    return Axis(low, high, ticks, [f"{tick:g}" for tick in ticks], is_log=True)


def needs_log(values: Sequence[float]) -> bool:
    """Whether the values span so much (50 times) that a linear axis would flatten most of them."""
    return bool(values) and min(values) > 0 and max(values) > 50 * min(values)


def round_step(size: float) -> float:
    """The nearest of 1, 2, 2.5 and 5 times a power of ten at or above `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= size * 0.999)


def tick_label(value: float, step: float) -> str:
    """A tick as short text, with the decimals that its step needs: 0.25, 1.5, 12,000, 100k."""
    if abs(value) >= 100_000:
        return human_count(value)
    decimals = next((n for n in range(9) if abs(round(step, n) - step) < 1e-6 * step), 9)
    return f"{value:,.{decimals}f}" if abs(value) > step * 1e-9 else "0"


def power_of_ten(values: Sequence[float]) -> int:
    """The exponent to take out of small values (0.0003 -> -4) so that ticks stay short, else 0."""
    largest = max((abs(value) for value in values), default=0.0)
    return math.floor(math.log10(largest)) if 0 < largest < 0.01 else 0


def superscript(exponent: int) -> str:
    """`10⁻⁴` for -4."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def spaced(count: int, most: int) -> list[int]:
    """At most `most` indices out of `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def _is_power_of_ten(value: float) -> bool:
    return math.isclose(math.log10(value), round(math.log10(value)), abs_tol=1e-9)
