"""The sampler against transformers' own processors, formulas and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import CheckpointError, ConfigError
from puna.infer.sampler import (
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token,
    penalise,
    softmax,
)
from puna.infer.sampling_params import SamplingParams

PROBABILITY_TOLERANCE = 1e-6  # transformers works in float32, the sampler in float64

logits_lists = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40)
NOTHING_SEEN = np.zeros(97, dtype=np.bool_)


def random_logits(seed: int, size: int = 97) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def peer_probabilities(processor_name: str, argument: float, logits: np.ndarray) -> np.ndarray:
    """What transformers' processor of that name leaves of the logits, as probabilities."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, processor_name)(argument)
    seen = torch.tensor([[3, 5, 5, 90]])
    return processor(seen, torch.from_numpy(logits)[None]).softmax(-1)[0].numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("ours", "peer", "argument"),
    [
        (keep_top_k, "TopKLogitsWarper", 1),
        (keep_top_k, "TopKLogitsWarper", 10),
        (keep_top_k, "TopKLogitsWarper", 1000),
        (keep_top_p, "TopPLogitsWarper", 0.05),
        (keep_top_p, "TopPLogitsWarper", 0.5),
        (keep_top_p, "TopPLogitsWarper", 0.95),
        (keep_min_p, "MinPLogitsWarper", 0.02),
        (keep_min_p, "MinPLogitsWarper", 1.0),
    ],
)
def test_filters_keep_what_transformers_keeps(ours, peer, argument, seed):
    logits = random_logits(seed)
    kept = ours(softmax(logits, 1.0), argument)
    wanted = peer_probabilities(peer, argument, logits)
    np.testing.assert_array_equal(kept > 0, wanted > 0)
    np.testing.assert_allclose(kept, wanted, atol=PROBABILITY_TOLERANCE)


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 2.5])
def test_temperature_equals_that_of_transformers(temperature):
    logits = random_logits(4)
    wanted = peer_probabilities("TemperatureLogitsWarper", temperature, logits)
    np.testing.assert_allclose(softmax(logits, temperature), wanted, atol=PROBABILITY_TOLERANCE)


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_equals_that_of_transformers(penalty):
    logits = random_logits(5)
    seen = NOTHING_SEEN.copy()
    seen[[3, 5, 90]] = True
    wanted = peer_probabilities("RepetitionPenaltyLogitsProcessor", penalty, logits)
    ours = softmax(penalise(logits, seen, penalty), 1.0)
    np.testing.assert_allclose(ours, wanted, atol=PROBABILITY_TOLERANCE)


def test_top_p_keeps_the_token_that_crosses_the_line_as_the_release_does():
    probabilities = np.array([0.1, 0.5, 0.15, 0.25])
    np.testing.assert_allclose(keep_top_p(probabilities, 0.6), [0, 2 / 3, 0, 1 / 3])
    # The sum before the third is 0.75, not above 0.75: it stays.
    np.testing.assert_allclose(keep_top_p(probabilities, 0.75), np.array([0, 10, 3, 5]) / 18)


def test_top_k_of_equals_keeps_the_lower_ids():
    np.testing.assert_allclose(keep_top_k(np.full(4, 0.25), 2), [0.5, 0.5, 0, 0])


@given(logits_lists, st.floats(0.01, 5))
def test_filtered_probabilities_sum_to_one_and_keep_the_best(values, temperature):
    logits = np.array(values, dtype=np.float32)
    probabilities = softmax(logits, temperature)
    for kept in (
        keep_top_k(probabilities, 3),
        keep_top_p(probabilities, 0.7),
        keep_min_p(probabilities, 0.3),
    ):
        assert kept.sum() == pytest.approx(1)
        assert kept.argmax() == probabilities.argmax()
        assert set(np.flatnonzero(kept)) <= set(np.flatnonzero(probabilities))


@given(logits_lists, st.floats(0, 1, exclude_max=True))
def test_draw_never_returns_an_impossible_token(values, uniform):
    probabilities = keep_top_k(softmax(np.array(values, dtype=np.float32), 1.0), 2)
    assert probabilities[draw(probabilities, uniform)] > 0


def test_draw_inverts_the_running_sum():
    probabilities = np.array([0.0, 0.25, 0.0, 0.5, 0.25])
    drawn = [draw(probabilities, u) for u in (0, 0.249, 0.25, 0.749, 0.75, 0.999)]
    assert drawn == [1, 1, 3, 3, 4, 4]


def test_drawn_tokens_follow_the_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.2]))
    params = SamplingParams(temperature=1, top_p=1)
    generator = np.random.default_rng(0)
    seen = np.zeros(3, dtype=np.bool_)
    drawn = [next_token(logits, params, seen, generator) for _ in range(4000)]
    # Four standard deviations of 4000 draws at probability 1/2 are 0.032.
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.5, 0.3, 0.2], atol=0.032)


def test_temperature_zero_takes_the_best_and_draws_nothing():
    generator = np.random.default_rng(0)
    logits = random_logits(6)
    assert next_token(logits, SamplingParams(temperature=0), NOTHING_SEEN, generator) == (
        logits.argmax()
    )
    assert generator.random() == np.random.default_rng(0).random()


def test_a_tiny_temperature_is_greedy_without_a_warning():
    params = SamplingParams(temperature=1e-300, top_p=1)
    logits = random_logits(7)
    token = next_token(logits, params, NOTHING_SEEN, np.random.default_rng(0))
    assert token == logits.argmax()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = random_logits(8)
    logits[3] = bad
    with pytest.raises(CheckpointError, match="not finite"):
        next_token(logits, SamplingParams(), NOTHING_SEEN, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("stop", ("",)),
        ("stop", "text"),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=f"^{name} should be .*, got "):
        SamplingParams(**{name: value})
