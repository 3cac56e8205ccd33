"""Log-probabilities against scipy's definition of log-softmax, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest

from puna.infer.logprobs import token_logprob

TOLERANCE = 2e-6  # of a float32 sum


@pytest.mark.parametrize("size", [1, 5, 1000, 128_256])
@pytest.mark.parametrize("spread", [0.1, 3, 40])
def test_logprobs_are_those_of_a_log_softmax_in_float64(size, spread):
    logits = np.random.default_rng(size).normal(5, spread, size).astype(np.float32)
    exact = logits.astype(np.float64)
    exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
    for token in {0, size // 2, size - 1}:
        found = token_logprob(logits, token, 20)
        order = np.argsort(-exact, kind="stable")[:20]
        assert found.token == token
        assert found.logprob == pytest.approx(exact[token], rel=TOLERANCE, abs=TOLERANCE)
        assert [one for one, _ in found.alternatives] == order.tolist()
        values = [value for _, value in found.alternatives]
        assert values == pytest.approx(exact[order], rel=TOLERANCE, abs=TOLERANCE)


def test_no_alternatives_are_given_where_none_are_asked_for():
    found = token_logprob(np.zeros(4, dtype=np.float32), 2)
    assert found.alternatives == ()
    assert found.logprob == pytest.approx(-np.log(4))
