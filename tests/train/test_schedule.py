"""The learning rate: the paper's schedule by golden values and by what always holds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.train.schedule import learning_rate

# The 7B recipe: peak 3e-4, 2,000 warm-up steps; 1.0T tokens in batches of 4M are 250,000 steps.
# Worked out by hand: peak · (0.1 + 0.9 · (1 + cos(pi · progress)) / 2).
GOLDEN = {
    1: 1.5e-7,
    1_000: 1.5e-4,
    2_000: 3.0e-4,
    64_000: 3.0e-4 * (0.1 + 0.9 * (1 + 0.5**0.5) / 2),  # a quarter of the way down
    126_000: 3.0e-4 * 0.55,  # half of it
    188_000: 3.0e-4 * (0.1 + 0.9 * (1 - 0.5**0.5) / 2),
    250_000: 3.0e-5,  # a tenth
}


@pytest.mark.parametrize("step", GOLDEN)
def test_golden_values_of_the_papers_7b_run(step):
    rate = learning_rate(step, peak=3e-4, warmup_steps=2_000, steps=250_000)
    assert rate == pytest.approx(GOLDEN[step], rel=1e-12)


@st.composite
def schedules(draw):
    steps = draw(st.integers(1, 400))
    return {
        "peak": draw(st.floats(1e-6, 1.0)),
        "warmup_steps": draw(st.integers(1, steps)),
        "steps": steps,
        "final_fraction": draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
    }


@given(schedules())
def test_it_rises_evenly_to_the_peak_and_falls_to_the_last_step(options):
    peak, warmup, steps = options["peak"], options["warmup_steps"], options["steps"]
    rates = [learning_rate(step, **options) for step in range(1, steps + 1)]
    assert rates[warmup - 1] == peak == max(rates)
    for step in range(1, warmup + 1):
        assert rates[step - 1] == pytest.approx(peak * step / warmup)
    falling = rates[warmup - 1 :]
    assert all(one >= other for one, other in itertools.pairwise(falling))
    if warmup < steps:
        assert rates[-1] == pytest.approx(options["final_fraction"] * peak, rel=1e-12)


@given(schedules(), st.integers(1, 400))
def test_it_is_a_function_of_the_step_alone(options, step):
    assert learning_rate(step, **options) == learning_rate(step, **options)


def test_the_rate_is_never_zero_while_the_run_lasts():
    """A first step at rate 0 would be thrown away (an off-by-one of other stacks)."""
    assert learning_rate(1, peak=1.0, warmup_steps=100, steps=1000) == pytest.approx(0.01)
    assert learning_rate(1, peak=1.0, warmup_steps=1, steps=1) == 1.0
