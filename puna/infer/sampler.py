"""Logits -> the next token: pure functions, in the order of `adjusted` and then `candidates`.

Logit bias, repetition penalty, frequency and presence penalties, temperature, top-k, top-p, min-p,
typical, one draw: the order of transformers, and of vLLM but for min-p, which stands before top-k
there. What changes single logits comes before what compares them, and each filter sees the
probabilities that the one before it left. The repetition penalty counts prompt and generated ids,
as in CTRL; frequency and presence penalties count generated ids alone, as OpenAI defines them.

It runs between steps of a few milliseconds, so it sorts no whole vocabulary unless it must: 49,152
logits take 7 us greedy, 60 with temperature, and with top-p 100 where few ids are likely, 190 where
all are. A row is chosen from alone, in one order of adds: what else is in the step cannot matter.
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
Mask = npt.NDArray[np.bool_]

COLDEST = 1e-30  # float32 divides by it; all but the likeliest are at 0 long before
TINY = 1e-38  # changes no weight that counts, and has a logarithm
LIKELY = 2**-13  # of the greatest weight: of SmolLM2 100 ids, and hardly ever below 95 %
NEAR = 7.0  # nats of surprise from the mean: for a peaked distribution, as LIKELY
MANY = 6  # one in so many: from there on taking them out is the slower way
SORTED_AT_ONCE = 4096  # weights; of more a sample says which to sort
STRIDE, SPARE = 64, 6  # one weight of 64 is in the sample; places in it to go too far
MOST_PARTS = 64  # of a vocabulary, compared with each other
SUM_BLOCK = 512
STEPS_PER_NAT = 64


class Candidates(NamedTuple):
    """The ids, ascending, that may be drawn, and how likely each is against the others.

    Without ids, those of the whole vocabulary. One of weight 0 is not drawn.
    """

    ids: Ids | None
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
    place = draw(weights, point)
    return place if ids is None else int(ids[place])


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
    left = Candidates(ids, tempered(logits, params.temperature))
    if params.top_p != 1:
        left = keep_top_p(left, params.top_p)
    if params.min_p != 0:
        left = keep_min_p(left, params.min_p)
    if params.typical_p != 1:
        left = keep_typical(left, params.typical_p)
    return left


def tempered(logits: Logits, temperature: float) -> Weights:
    """exp((logit - the greatest) / temperature): 1 for the likeliest."""
    shifted = logits - logits.max()
    with np.errstate(over="ignore", under="ignore"):  # when cold, all but the best go to 0
        shifted /= shifted.dtype.type(max(temperature, COLDEST))
        weights: Weights = np.exp(shifted, out=shifted)
    return weights


def greatest(values: Logits, count: int) -> Ids:
    """The places, ascending, of the `count` greatest values; of equals, the lower places."""
    if count == 0:
        return np.zeros(0, dtype=np.intp)
    count = min(count, len(values))
    parts = min(MOST_PARTS, len(values) // (2 * count))
    if parts < 2:
        return _first(values, count)
    # Of maxima of disjoint parts the count-th cannot lie above the count-th of all.
    width = len(values) // parts
    maxima = values[: parts * width].reshape(parts, width).max(axis=0)
    few = np.flatnonzero(values >= np.partition(maxima, -count)[-count])
    return few[_first(values[few], count)]


def likeliest_ids(logits: Logits, count: int) -> Ids:
    """The `count` ids of the greatest logits, the greatest first; of equals, the lower first."""
    ids = greatest(logits, count)
    return ids[np.argsort(-logits[ids], kind="stable")]


def keep_top_p(given: Candidates, top_p: float) -> Candidates:
    """The fewest most likely that together pass `top_p` of all weight (nucleus sampling).

    As the release does it: sort, sum up, drop where the sum before an id is above top_p.
    """
    weights = given.weights
    whole = total = _sum(weights)
    few = _few(given, weights >= weights.max() * weights.dtype.type(LIKELY))
    if few is not None and (found := _sum(few.weights)) > top_p * whole:
        given, weights, total = few, few.weights, found
    # From the least on those go whose sum stays below what may be missing.
    missing = total - top_p * whole
    near, before = _near(weights, missing)
    near = np.sort(near)
    running = np.cumsum(near, dtype=np.float64)
    place = min(int(np.searchsorted(running, missing - before)), len(near) - 1)
    equals = place - int(np.searchsorted(near, near[place]))
    return _only(given, _from(weights, near[place], equals))


def keep_min_p(given: Candidates, min_p: float) -> Candidates:
    """Those at least `min_p` times as likely as the most likely one."""
    weights = given.weights
    return _only(given, weights >= weights.max() * weights.dtype.type(min_p))


def keep_typical(given: Candidates, mass: float) -> Candidates:
    """The fewest of most typical surprise that together reach `mass` (Meister et al. 2022).

    An id is the more typical the closer its surprise, -log p, is to the mean one, the entropy.
    """
    whole = _sum(given.weights)
    distance = np.log(given.weights + TINY)  # from log p by the logarithm of the whole alone
    mean = _sum(given.weights * distance) / whole
    distance -= mean
    np.abs(distance, out=distance)
    near = distance < mean + NEAR
    few = _few(given, near)
    if few is not None and _sum(few.weights) >= mass * whole:
        given, distance = few, distance[near]
    return _only(given, distance <= _radius(distance, given.weights, mass * whole))


def draw(weights: Weights, point: float) -> int:
    """The place at which the running sum passes `point` in [0, 1) of all; never one of weight 0."""
    # Block by block: one running sum of 49,152 takes 100 us.
    running = np.cumsum(_block_sums(weights), dtype=np.float64)
    target = point * float(running[-1])
    block = int(np.searchsorted(running, target, side="right"))
    before = running[block - 1] if block else 0.0
    begin = block * SUM_BLOCK
    inside = before + np.cumsum(weights[begin : begin + SUM_BLOCK], dtype=np.float64)
    place = begin + int(np.searchsorted(inside, target, side="right"))
    place = min(place, len(weights) - 1)
    if weights[place] == 0:  # rounding: past the last one that is possible
        place = int(np.flatnonzero(weights[:place])[-1])
    return place


def _radius(distance: Weights, weights: Weights, wanted: float) -> np.floating:
    """The least distance within which the weights reach the wanted sum."""
    # Summed up in steps first, so that only the step that reaches it has to be sorted.
    steps = (distance * STEPS_PER_NAT).astype(np.intp)
    running = np.cumsum(np.bincount(steps, weights=weights))
    step = min(int(np.searchsorted(running, wanted)), len(running) - 1)
    inside = np.flatnonzero(steps == step)
    inside = inside[np.argsort(distance[inside])]
    before = running[step - 1] if step else 0.0
    last = int(np.searchsorted(before + np.cumsum(weights[inside]), wanted))
    radius: np.floating = distance[inside[min(last, len(inside) - 1)]]
    return radius


def _only(given: Candidates, kept: Mask) -> Candidates:
    """Those kept; where they are many all, the others at 0: 10 us where taking them costs 50."""
    few = _few(given, kept)
    return few or Candidates(given.ids, given.weights * kept.astype(given.weights.dtype))


def _few(given: Candidates, kept: Mask) -> Candidates | None:
    """Those kept, if they are few."""
    if MANY * np.count_nonzero(kept) > len(kept):
        return None
    places = np.flatnonzero(kept)  # 5 times as fast as indexing by the booleans
    return Candidates(places if given.ids is None else given.ids[places], given.weights[places])


def _first(values: Logits, count: int) -> Ids:
    """As `greatest`, for all values alike."""
    least = np.partition(values, -count)[-count]
    return np.flatnonzero(_from(values, least, int(np.count_nonzero(values >= least)) - count))


def _from(values: Logits, least: np.floating, surplus: int) -> Mask:
    """Which are `least` or above, but for the last `surplus` of those that equal it."""
    kept: Mask = values >= least
    if surplus:
        kept[np.flatnonzero(values == least)[-surplus:]] = False
    return kept


def _near(weights: Weights, target: float) -> tuple[Weights, float]:
    """Some weights, among them the one with which the sum, from the least on, reaches `target`,
    and the sum of all below them: guessed from a sample, and all where the guess proves wrong.
    """
    if len(weights) < SORTED_AT_ONCE:
        return weights, 0.0
    sample = np.sort(weights[::STRIDE])
    running = np.cumsum(sample, dtype=np.float64) * STRIDE
    guess = min(int(np.searchsorted(running, target)), len(sample) - 1)
    before = _sum(weights * (weights < sample[guess]).astype(weights.dtype))
    # The sum is missed by so much: the place is as far from the guess, and somewhat farther.
    missed = target - before
    other = int(np.searchsorted(running, running[guess] + 1.5 * missed))
    low, high = (guess, other + SPARE) if missed > 0 else (other - SPARE, guess)
    inside = weights >= (sample[low] if low >= 0 else 0)
    inside &= weights < (sample[high] if high < len(sample) else np.inf)
    near = weights[np.flatnonzero(inside)]
    found = _sum(near)
    if missed <= 0:
        before -= found
    return (near, before) if before < target <= before + found else (weights, 0.0)


def _block_sums(weights: Weights) -> Weights:
    """Of each 512 weights; einsum, for whole blocks alone, takes half the time of reduceat."""
    if len(weights) % SUM_BLOCK:
        return np.add.reduceat(weights, np.arange(0, len(weights), SUM_BLOCK))
    sums: Weights = np.einsum("ij->i", weights.reshape(-1, SUM_BLOCK))
    return sums


def _sum(weights: Weights) -> float:
    return float(_block_sums(weights).sum(dtype=np.float64))
