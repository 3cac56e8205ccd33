"""Logits -> the next token: pure functions, in the order of `adjusted` and then `candidates`.

Logit bias, repetition penalty, frequency and presence penalties, temperature, top-k, top-p, min-p,
typical, one draw: the order of transformers, and of vLLM but for min-p, which stands before top-k
there. What changes single logits comes before what compares them, and each filter sees the
probabilities that the one before it left. The repetition penalty counts prompt and generated ids,
as in CTRL; frequency and presence penalties count generated ids alone, as OpenAI defines them.

It runs between steps of a few milliseconds, so nothing here sorts a whole vocabulary: 49,152
logits take 3 us greedy and 160 with temperature and top-p.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError
from puna.infer.sampling_params import SamplingParams

Logits = npt.NDArray[np.floating]
Weights = npt.NDArray[np.floating]  # probabilities times any positive number
Ids = npt.NDArray[np.intp]

COLDEST = 1e-30  # float32 divides by it; all but the likeliest are at 0 long before
BLOCKS = 64  # of a vocabulary, compared with each other 64 numbers at a time
SUM_BLOCK = 512
STEPS_PER_NAT = 64


class Candidates(NamedTuple):
    """The ids, ascending, that may be drawn, and how likely each is against the others."""

    ids: Ids
    weights: Weights


class TokenCounts:
    """Which ids a sequence has so far, and how often each was generated: what penalties need.

    It is the same whether ids were added one by one or are given at once, after a preemption.
    """

    def __init__(self, prompt_ids: Iterable[int], generated_ids: Iterable[int] = ()) -> None:
        self._places = {token: place for place, token in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = np.fromiter(self._places, dtype=np.intp)
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        for token in generated_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Count a generated id."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(place + 64, dtype=np.intp)])
            self._counts = np.concatenate([self._counts, np.zeros(place + 64, dtype=np.float32)])
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> Ids:
        """Each id of prompt and generated text once."""
        return self._ids[: len(self._places)]

    @property
    def generated(self) -> npt.NDArray[np.float32]:
        """How often each of `ids` was generated; 0 for those of the prompt alone."""
        return self._counts[: len(self._places)]


def uniform(seed: int, index: int, choice: int = 0) -> float:
    """The random number in [0, 1) for generated token `index` of text `choice` of a request.

    A hash of the three and of nothing else: batch, speculation and preemption leave it alone.
    """
    digest = blake2b(struct.pack("<QQQ", seed, index, choice), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


def next_token(logits: Logits, params: SamplingParams, counts: TokenCounts, point: float) -> int:
    """The id that `point`, from `uniform`, draws from `logits` [vocabulary]; they stay as they are.

    `counts` matters only where `params.has_penalties`. Raises CheckpointError when the logits are
    no numbers to choose by, as those of a broken model are; a single -inf rules out its id.
    """
    if params.logit_bias or params.has_penalties:
        logits = adjusted(logits, params, counts)
    best = int(logits.argmax())  # of a NaN, where there is one
    if not np.isfinite(logits[best]):
        raise CheckpointError(
            "the model's logits are not finite numbers",
            hint="its weights are damaged or its training diverged; try an earlier checkpoint",
        )
    if params.temperature == 0:
        return best
    ids, weights = candidates(logits, params)
    return int(ids[draw(weights, point)])


def adjusted(logits: Logits, params: SamplingParams, counts: TokenCounts) -> Logits:
    """A copy of the logits with bias and penalties; c is how often an id was generated.

    logit += bias;  logit = logit / r if logit > 0 else logit r  for ids of prompt and text
    logit -= frequency c + presence [c > 0]
    """
    result = logits.copy()
    if params.logit_bias:
        bias = params.logit_bias
        biased = np.fromiter(bias.keys(), dtype=np.intp, count=len(bias))
        result[biased] += np.fromiter(bias.values(), dtype=result.dtype, count=len(bias))
    if params.has_penalties:
        ids, generated = counts.ids, counts.generated
        penalty = result.dtype.type(params.repetition_penalty)
        seen = result[ids]
        seen = np.where(seen > 0, seen / penalty, seen * penalty)
        seen -= generated * params.frequency_penalty + (generated > 0) * params.presence_penalty
        result[ids] = seen
    return result


def candidates(logits: Logits, params: SamplingParams) -> Candidates:
    """What temperature and filters leave of the logits; the likeliest id always stays."""
    ids: Ids | None = None
    if 0 < params.top_k < len(logits):
        ids = greatest(logits, params.top_k)
        logits = logits[ids]
    weights = tempered(logits, params.temperature)
    for name, off, keep in (
        ("top_p", 1, keep_top_p),
        ("min_p", 0, keep_min_p),
        ("typical_p", 1, keep_typical),
    ):
        value = getattr(params, name)
        if value != off:
            kept = keep(weights, value)
            ids, weights = (kept if ids is None else ids[kept]), weights[kept]
    return Candidates(np.arange(len(weights)) if ids is None else ids, weights)


def tempered(logits: Logits, temperature: float) -> Weights:
    """exp((logit - the greatest) / temperature): 1 for the likeliest."""
    shifted = logits - logits.max()
    with np.errstate(over="ignore", under="ignore"):  # when cold, all but the best go to 0
        shifted /= shifted.dtype.type(max(temperature, COLDEST))
        weights: Weights = np.exp(shifted, out=shifted)
    return weights


def greatest(values: Logits, count: int) -> Ids:
    """The places, ascending, of the `count` greatest values; of equals, the lower places."""
    count = min(count, len(values))
    width = len(values) // BLOCKS
    if count == 0:
        return np.zeros(0, dtype=np.intp)
    if 2 * count > width:
        return _at_least(values, np.partition(values, -count)[-count], count)
    # Of maxima of disjoint parts the count-th cannot lie above the count-th of all.
    maxima = values[: BLOCKS * width].reshape(BLOCKS, width).max(axis=0)
    few = np.flatnonzero(values >= np.partition(maxima, -count)[-count])
    return few[_at_least(values[few], np.partition(values[few], -count)[-count], count)]


def likeliest_ids(logits: Logits, count: int) -> Ids:
    """The `count` ids of the greatest logits, the greatest first; of equals, the lower first."""
    ids = greatest(logits, count)
    return ids[np.argsort(-logits[ids], kind="stable")]


def keep_top_p(weights: Weights, top_p: float) -> Ids:
    """The fewest most likely that together pass `top_p` of all weight (nucleus sampling).

    As the release does it: sort, sum up, drop where the sum before an id is above top_p.
    """
    total = float(weights.sum())
    # All weights below the last bound sum to less than the 1 - top_p that may be missing.
    for least in (float(weights.max()) * 2**-10, (1 - top_p) * total / len(weights)):
        likely = weights[np.flatnonzero(weights >= least)]  # 5 times as fast as by the booleans
        if float(likely.sum()) > top_p * total:
            break
    ordered = np.sort(likely)[::-1]
    count = min(1 + _passing(ordered, top_p * total), len(ordered))
    return _at_least(weights, ordered[count - 1], count)


def keep_min_p(weights: Weights, min_p: float) -> Ids:
    """Those at least `min_p` times as likely as the most likely one."""
    return np.flatnonzero(weights >= weights.max() * weights.dtype.type(min_p))


def keep_typical(weights: Weights, mass: float) -> Ids:
    """The fewest of most typical surprise that together reach `mass` (Meister et al. 2022).

    An id is the more typical the closer its surprise, -log p, is to the mean one, the entropy.
    """
    probabilities = weights / weights.sum()
    distance = np.maximum(probabilities, np.finfo(weights.dtype).tiny)
    np.log(distance, out=distance)  # in place: fresh arrays cost page faults
    distance -= np.dot(probabilities, distance)  # log p + entropy
    np.abs(distance, out=distance)
    # Summed up in steps first, so that only the step that reaches the mass has to be sorted.
    steps = (distance * STEPS_PER_NAT).astype(np.intp)
    running = np.cumsum(np.bincount(steps, weights=probabilities))
    step = min(int(np.searchsorted(running, mass)), len(running) - 1)
    inside = np.flatnonzero(steps == step)
    inside = inside[np.argsort(distance[inside])]
    before = running[step - 1] if step else 0.0
    last = int(np.searchsorted(before + np.cumsum(probabilities[inside]), mass))
    furthest = distance[inside[min(last, len(inside) - 1)]]
    return np.flatnonzero(distance <= furthest)


def draw(weights: Weights, point: float) -> int:
    """The place at which the running sum passes `point` in [0, 1) of all; never one of weight 0."""
    place = min(_passing(weights, point * float(weights.sum())), len(weights) - 1)
    if weights[place] == 0:  # rounding: past the last one that is possible
        place = int(np.flatnonzero(weights[:place])[-1])
    return place


def _passing(weights: Weights, target: float) -> int:
    """The first place where the running sum of weights is above `target`; their number if none.

    Block by block first: 27 us for 49,152 weights where one running sum takes 440.
    """
    sums = np.add.reduceat(weights, np.arange(0, len(weights), SUM_BLOCK))
    running = np.cumsum(sums, dtype=np.float64)
    block = int(np.searchsorted(running, target, side="right"))
    before = running[block - 1] if block else 0.0
    begin = block * SUM_BLOCK
    inside = before + np.cumsum(weights[begin : begin + SUM_BLOCK], dtype=np.float64)
    return begin + int(np.searchsorted(inside, target, side="right"))


def _at_least(values: Logits, threshold: np.floating, count: int) -> Ids:
    """The places of the `count` values from `threshold` on, which is the least of them."""
    found = np.flatnonzero(values >= threshold)
    surplus = len(found) - count
    if surplus <= 0:
        return found
    equal = np.flatnonzero(values[found] == threshold)
    return np.delete(found, equal[len(equal) - surplus :])
