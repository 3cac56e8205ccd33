"""Curves for the page: few points that keep the extremes, axes with round ticks around them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.train.report.series import (
    MOST_POINTS,
    axis,
    downsample,
    log_axis,
    moving_average,
    spaced,
    steps_axis,
)

numbers = st.floats(-1e12, 1e12, allow_nan=False)


@given(st.lists(st.none() | numbers, max_size=3000))
def test_downsampling_keeps_the_extremes_and_the_last_step(values: list[float | None]) -> None:
    series = downsample(range(1, len(values) + 1), values)
    known = [value for value in values if value is not None]
    assert len(series.steps) <= MOST_POINTS
    assert max(series.values, default=None) == max(known, default=None)
    assert min(series.values, default=None) == min(known, default=None)
    assert series.steps[-1:] == [len(values)][: len(values)]


@given(st.lists(numbers, min_size=1), st.booleans())
def test_an_axis_holds_all_values_between_round_ticks(values: list[float], zero: bool) -> None:
    scale = axis(values, from_zero=zero)
    slack = 1e-6 * (scale.high - scale.low)
    assert scale.low - slack <= min(values)
    assert max(values) <= scale.high + slack
    assert 2 <= len(scale.ticks) <= 12
    gaps = [b - a for a, b in zip(scale.ticks, scale.ticks[1:], strict=False)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-5)
    assert not zero or scale.low <= 0 <= scale.high


@given(st.lists(st.floats(1e-9, 1e9), min_size=1))
def test_a_logarithmic_axis_holds_all_values(values: list[float]) -> None:
    scale = log_axis(values)
    assert all(-1e-6 <= scale.position(value) <= 1 + 1e-6 for value in values)
    assert len(scale.ticks) >= 2


@pytest.mark.parametrize("last", [1, 2, 7, 10, 100, 437, 900, 12_345, 1_000_000])
def test_the_axis_of_steps_has_whole_distinct_ticks(last: int) -> None:
    scale = steps_axis(last)
    assert scale.high == last
    assert all(tick == int(tick) <= last for tick in scale.ticks)
    assert len(set(scale.labels)) == len(scale.labels)


def test_a_moving_average_is_the_mean_around_and_does_not_move_the_first_point() -> None:
    assert moving_average([8.0, 4.0, 3.0, None, 1.0], 3) == pytest.approx([8.0, 5.0, 3.5, 2.0, 1.0])
    constant = moving_average([math.pi] * 50, 9)
    assert constant == pytest.approx([math.pi] * 50)


@given(st.integers(0, 500), st.integers(2, 50))
def test_spacing_keeps_both_ends(count: int, most: int) -> None:
    chosen = spaced(count, most)
    assert len(chosen) == min(count, most)
    assert chosen[:1] == list(range(count))[:1]
    assert chosen[-1:] == list(range(count))[-1:]
