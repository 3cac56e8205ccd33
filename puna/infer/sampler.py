"""Logits -> the next token: pure functions, in the order of `adjusted` and then `possible`.

Logit bias, repetition penalty, frequency and presence penalties, temperature, top-k, top-p, min-p,
typical, one draw: the order of transformers, and of vLLM but for min-p, which stands before top-k
there. What changes single logits comes before what compares them, and each filter sees the
probabilities that the one before it left. The repetition penalty counts prompt and generated ids,
as in CTRL; frequency and presence penalties count generated ids alone, as OpenAI defines them.

From temperature to draw, but for typical, the C++ kernels (native/csrc/inference/draw.h) do the
same in a tenth of the time, inside a step or here, and take the same id bit for bit: weights are
whole numbers, made of multiplications and additions that are each rounded by themselves, and
their sums are exact in any order. So neither the way nor what else is in the step matters.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from puna import hardware
from puna.errors import CheckpointError
from puna.infer.backends.base import Draw
from puna.infer.sampling_params import SamplingParams
from puna.native import kernels

Logits = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32]  # whole numbers; 0: not to be drawn
Ids = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

LIKELIEST = 2.0**32  # the greatest weight: sums of 2^21 weights are exact in float64
LOG2_OF_E = 1.4426950408889634
# 2^x on [-1/2, 1/2], the nearest polynomial of degree 5 that is exact at 0
EXP2_FACTORS = (1.3264727e-3, 9.6715127e-3, 5.5507337e-2, 2.4022242e-1, 6.9314698e-1, 1.0)
LEAST_POWER = -40  # of 2, relative to the likeliest: below 2^-33 a weight is 0
COLDEST = 1e-30  # float32 divides by it; all but the likeliest are at 0 long before
TINY = 1e-38  # changes no weight that counts, and has a logarithm
MOST_PARTS = 64  # of a vocabulary, compared with each other


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
    draw = draw_for(params, len(logits), point)
    isa = None if params.typical_p != 1 else drawing_isa()
    if isa is None:
        return drawn_id(logits, draw, params.typical_p)
    token: int = kernels.extension().draw(
        isa, np.ascontiguousarray(logits, dtype=np.float32), np.array([draw], dtype=np.float64)
    )
    return token if token >= 0 else drawn_id(logits, draw)


def draw_for(params: SamplingParams, vocabulary_size: int, point: float) -> Draw:
    """What the settings ask of a row, but for what changes its logits before, and typical."""
    if params.temperature == 0:
        return Draw(vocabulary_size)
    temperature = max(params.temperature, COLDEST)
    return Draw(vocabulary_size, temperature, params.top_k, params.top_p, params.min_p, point)


@functools.cache
def drawing_isa() -> str | None:
    """The build of the C++ kernels that draws; None where NumPy does: PUNA_ISA=none, no kernels."""
    is_wanted = hardware.isa_wish() != kernels.NONE and kernels.inference_isas()
    return kernels.inference_isa() if is_wanted else None


def drawn_id(logits: Logits, draw: Draw, typical_p: float = 1.0) -> int:
    """The id that the draw takes, by NumPy. Raises CheckpointError as `next_token`."""
    best = int(logits.argmax())  # of a NaN, where there is one
    if not np.isfinite(logits[best]):
        raise CheckpointError(
            "the model's logits are not finite numbers",
            hint="its weights are damaged or its training diverged; try an earlier checkpoint",
        )
    return place_at(possible(logits, draw, typical_p), draw.point) if draw.temperature else best


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


def possible(logits: Logits, draw: Draw, typical_p: float = 1.0) -> Weights:
    """How likely each id is, against the others, after temperature and filters."""
    if 0 < draw.top_k < len(logits):
        kept = greatest(logits, int(draw.top_k))
        some = np.full_like(logits, -np.inf)
        some[kept] = logits[kept]
        logits = some
    weights = tempered(logits, draw.temperature)
    if draw.top_p != 1:
        weights = keep_top_p(weights, draw.top_p)
    if draw.min_p != 0:
        weights = np.where(weights >= np.float32(draw.min_p * LIKELIEST), weights, np.float32(0))
    return weights if typical_p == 1 else keep_typical(weights, typical_p)


def tempered(logits: Logits, temperature: float) -> Weights:
    """2^32 e^((logit - the greatest) / temperature), to the nearest whole number."""
    with np.errstate(over="ignore", under="ignore"):  # when cold, all but the best go to 0
        power = (logits - logits.max()) * np.float32(LOG2_OF_E / temperature)
    np.maximum(power, np.float32(LEAST_POWER), out=power)
    whole = np.rint(power)
    rest = power - whole
    weights: Weights = np.full_like(rest, EXP2_FACTORS[0])
    for factor in EXP2_FACTORS[1:]:
        weights *= rest
        weights += np.float32(factor)
    exponent_bits = (whole.astype(np.int32) + (127 + 32)) << 23
    weights *= exponent_bits.view(np.float32)
    np.rint(weights, out=weights)
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


def keep_top_p(weights: Weights, top_p: float) -> Weights:
    """The fewest most likely that together pass `top_p` of all weight (nucleus sampling).

    As the release does it: sort, sum up, drop where the sum before an id is above top_p.
    """
    running = np.cumsum(np.sort(weights)[::-1], dtype=np.float64)
    count = 1 + int(np.searchsorted(running[:-1], top_p * running[-1], side="right"))
    kept = np.zeros_like(weights)
    ids = greatest(weights, count)
    kept[ids] = weights[ids]
    return kept


def keep_typical(weights: Weights, mass: float) -> Weights:
    """The fewest of most typical surprise that together reach `mass` (Meister et al. 2022).

    An id is the more typical the closer its surprise, -log p, is to the mean one, the entropy.
    """
    total = weights.sum(dtype=np.float64)
    logs = np.log(weights + np.float32(TINY))  # from log p by the logarithm of the whole alone
    mean = (weights * logs).sum(dtype=np.float64) / total
    distance = np.abs(logs - np.float32(mean))
    order = np.argsort(distance)
    running = np.cumsum(weights[order], dtype=np.float64)
    last = min(int(np.searchsorted(running, mass * total)), len(order) - 1)
    return np.where(distance <= distance[order[last]], weights, np.float32(0))


def place_at(weights: Weights, point: float) -> int:
    """The place at which the running sum passes `point` in [0, 1) of all; never one of weight 0."""
    running = np.cumsum(weights, dtype=np.float64)
    place = int(np.searchsorted(running, point * running[-1], side="right"))
    return place if place < len(weights) else int(np.flatnonzero(weights)[-1])


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
