"""Logits -> the next token: pure functions, applied in the order of `next_token`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError
from puna.infer.sampling_params import SamplingParams

Logits = npt.NDArray[np.floating]
Probabilities = npt.NDArray[np.float64]
Seen = npt.NDArray[np.bool_]


def next_token(
    logits: Logits, params: SamplingParams, seen: Seen, generator: np.random.Generator
) -> int:
    """The id drawn from `logits` [vocabulary]; `seen` marks the ids of the text so far.

    Order: repetition penalty, temperature, top-k, top-p, min-p, one draw. Raises CheckpointError
    when the logits are not finite, as those of a broken model are.
    """
    if not np.isfinite(logits).all():
        raise CheckpointError(
            "the model's logits are not finite numbers",
            hint="its weights are damaged or its training diverged; try an earlier checkpoint",
        )
    if params.repetition_penalty != 1:
        logits = penalise(logits, seen, params.repetition_penalty)
    if params.temperature == 0:
        return int(logits.argmax())
    probabilities = softmax(logits, params.temperature)
    if params.top_k:
        probabilities = keep_top_k(probabilities, params.top_k)
    if params.top_p < 1:
        probabilities = keep_top_p(probabilities, params.top_p)
    if params.min_p:
        probabilities = keep_min_p(probabilities, params.min_p)
    return draw(probabilities, generator.random())


def penalise(logits: Logits, seen: Seen, penalty: float) -> Logits:
    """Seen ids made less likely: positive logits divided by `penalty`, negative ones multiplied.

    (Keskar et al. 2019, CTRL.)
    """
    penalised = np.where(logits > 0, logits / penalty, logits * penalty)
    return np.where(seen, penalised, logits)


def softmax(logits: Logits, temperature: float) -> Probabilities:
    """exp(logit / temperature), normalised, in float64."""
    shifted = logits.astype(np.float64) - float(logits.max())
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to exp(-inf) = 0
        weights = np.exp(shifted / temperature)
    result: Probabilities = weights / weights.sum()
    return result


def keep_top_k(probabilities: Probabilities, count: int) -> Probabilities:
    """The `count` most likely, renormalised; of equals, those of lower id."""
    order = np.argsort(-probabilities, kind="stable")
    return _keep(probabilities, order[:count])


def keep_top_p(probabilities: Probabilities, top_p: float) -> Probabilities:
    """The fewest most likely ids that together pass `top_p`, renormalised (nucleus sampling).

    As the release does it: sort, sum up, drop where the sum before an id is above top_p.
    """
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    before = np.cumsum(ordered) - ordered
    return _keep(probabilities, order[before <= top_p])


def keep_min_p(probabilities: Probabilities, min_p: float) -> Probabilities:
    """The ids at least `min_p` times as likely as the most likely one, renormalised."""
    return _keep(probabilities, np.flatnonzero(probabilities >= min_p * probabilities.max()))


def _keep(probabilities: Probabilities, ids: npt.NDArray[np.intp]) -> Probabilities:
    kept = np.zeros_like(probabilities)
    kept[ids] = probabilities[ids]
    result: Probabilities = kept / kept.sum()
    return result


def draw(probabilities: Probabilities, uniform: float) -> int:
    """The id at which the running sum passes `uniform` (in [0, 1)); never one of probability 0."""
    running = np.cumsum(probabilities)
    found = int(np.searchsorted(running, uniform * running[-1], side="right"))
    return min(found, int(np.flatnonzero(probabilities)[-1]))
