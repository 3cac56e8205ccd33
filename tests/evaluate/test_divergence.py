"""KL divergence against a slow sum, closed forms, and what it may hold in memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from prefix_backend import PrefixBackend

from puna.errors import CheckpointError, TokenizerError
from puna.evaluate import divergence
from puna.evaluate.divergence import compare, joined, require_comparable, summarised
from puna.evaluate.window_perplexity import scored_nats

VOCABULARY, CONTEXT = 50, 40


def backends(*seeds: int, scale: float = 8.0) -> list[PrefixBackend]:
    found = [PrefixBackend(VOCABULARY, seed, scale) for seed in seeds]
    for backend in found:
        backend.reserve(2)
    return found


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.random.default_rng(5).integers(0, VOCABULARY, (3, CONTEXT))


def probabilities(backend: PrefixBackend, ids: np.ndarray) -> list[float]:
    weights = [math.exp(value) for value in backend.logits(ids).tolist()]
    return [weight / sum(weights) for weight in weights]


def test_the_numbers_are_those_of_a_slow_sum(windows):
    model, reference = backends(0, 1)
    found = summarised(joined([compare(model, reference, window) for window in windows]))
    divergences, ratios, same = [], [], []
    for window in windows:
        for position in range(CONTEXT // 2, CONTEXT - 1):
            own, other = (probabilities(one, window[: position + 1]) for one in (model, reference))
            divergences.append(sum(q * math.log(q / p) for p, q in zip(own, other, strict=True)))
            target = window[position + 1]
            ratios.append(math.log(other[target] / own[target]))
            same.append(own.index(max(own)) == other.index(max(other)))
    count = len(divergences)
    assert found.perplexity.tokens == found.reference_perplexity.tokens == count == 57
    assert found.mean == pytest.approx(sum(divergences) / count, rel=1e-6)
    assert found.mean_error == pytest.approx(np.std(divergences, ddof=1) / math.sqrt(count))
    assert found.median == pytest.approx(np.median(divergences), rel=1e-6)
    assert found.percentile_99 == pytest.approx(np.percentile(divergences, 99), rel=1e-6)
    assert found.maximum == pytest.approx(max(divergences), rel=1e-6)
    assert found.same_top == pytest.approx(sum(same) / count)
    assert found.log_ratio == pytest.approx(sum(ratios) / count, rel=1e-6)
    assert found.log_ratio_error == pytest.approx(np.std(ratios, ddof=1) / math.sqrt(count))


def test_both_perplexities_are_those_of_the_models_alone(windows):
    model, reference = backends(0, 1)
    found = compare(model, reference, windows[0])
    np.testing.assert_allclose(found.nats, scored_nats(model, windows[0]), rtol=1e-6)
    np.testing.assert_allclose(found.reference_nats, scored_nats(reference, windows[0]), rtol=1e-6)


def test_a_model_against_itself_diverges_by_nothing(windows):
    found = summarised(compare(*backends(3, 3), windows[0]))
    assert (found.mean, found.maximum, found.log_ratio, found.same_top) == (0, 0, 0, 1)


def test_a_divergence_of_1e_9_is_still_seen(windows):
    """To second order it is half the variance, under p, of what was added to the logits."""
    model, reference = backends(3, 3)
    added = np.random.default_rng(1).normal(0, 2**-14, VOCABULARY).astype(np.float32)
    model.table = np.round(model.table * 2**4) / 2**4  # so that the sums are exact
    reference.table, model.table = model.table, model.table + added
    window = np.full(4, 7)  # one scored row
    p = np.array(probabilities(reference, window[:3]))
    variance = p @ added.astype(np.float64) ** 2 - (p @ added) ** 2
    assert variance / 2 < 1e-8
    found = compare(model, reference, window)
    assert found.divergence[0] == pytest.approx(variance / 2, rel=0.02)


def test_few_rows_of_logits_are_held_at_a_time(windows, monkeypatch):
    model, reference = backends(0, 1)
    whole = compare(model, reference, windows[0])
    model.steps.clear()
    monkeypatch.setattr(divergence, "LOGITS_AT_ONCE", 7 * VOCABULARY)
    monkeypatch.setattr(divergence, "WIDENED_AT_ONCE", 2 * VOCABULARY)
    pieces = compare(model, reference, windows[0])
    assert max(len(chunk.ids) for step in model.steps for chunk in step) == 7
    np.testing.assert_allclose(pieces.divergence, whole.divergence, rtol=1e-6)
    np.testing.assert_array_equal(pieces.is_same_top, whole.is_same_top)


def test_only_models_of_one_tokenizer_and_vocabulary_are_compared(windows):
    model, reference = backends(0, 1)
    require_comparable(model, reference, windows, windows.copy())
    with pytest.raises(TokenizerError, match="as different tokens"):
        require_comparable(model, reference, windows, windows[:2])
    with pytest.raises(TokenizerError, match="as different tokens"):
        require_comparable(model, reference, windows, windows + 1)
    with pytest.raises(CheckpointError, match="one predicts 50 tokens, the other 51"):
        require_comparable(model, PrefixBackend(51), windows, windows)


def test_logits_that_are_not_finite_are_an_error(windows):
    model, reference = backends(0, 1)
    reference.table[:, 4] = np.inf
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(CheckpointError, match="not finite"),
    ):
        compare(model, reference, windows[0])
