"""Interpolated modified Kneser-Ney from counts (Chen and Goodman 1999, section 3), as lmplz has it.

With h a history, h' the same without its first word, and c the adjusted counts (how often, for the
longest n-grams and those that begin a line; else how many different words come before):
  p(w | h) = max(c(hw) - D(c(hw)), 0) / sum_v c(hv) + b(h) p(w | h')
  b(h) = (D1 N1(h) + D2 N2(h) + D3 N3+(h)) / sum_v c(hv)
  D_k = k - (k + 1) Y n_(k+1) / n_k,  Y = n1 / (n1 + 2 n2),  n_k n-grams that have the count k
and 1 / V below single words. Everything is held in memory: about 300 bytes a token at the peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.data.quality.ngram_model import BEGIN, NgramModel, Order, joined
from puna.errors import DataError

FALLBACK = (0.5, 1.0, 1.5)  # lmplz's --discount_fallback
_NEVER = -99.0  # log10 of what cannot come: the begin of a line
Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one length, sorted by history, then word; each a number from 0."""

    history: Integers  # number of the n-gram without its last word, among those one shorter
    word: Integers
    shorter: Integers  # number of the n-gram without its first word
    adjusted: Integers


def train(
    lines: Sequence[npt.NDArray[np.integer]],
    vocabulary_size: int,
    order: int = 5,
    fallback: Sequence[float] | None = FALLBACK,
    fixed: Sequence[Sequence[float]] | None = None,
) -> NgramModel:
    """The model of lines of word numbers from 3 (UNKNOWN, BEGIN and END are 0 to 2).

    `fallback` are the discounts where the counts of counts give none; None refuses instead.
    `fixed` are D1, D2 and D3+ of each length, to use whatever the counts say.
    Raises DataError where there is no line, or no discount and no fallback.
    """
    if not lines:
        raise DataError("an n-gram model needs lines of text, found none")
    tokens, starts = joined(lines)
    lengths = np.diff(starts, append=len(tokens))
    places = np.arange(len(tokens)) - np.repeat(starts, lengths)
    counts = _counted(tokens, places, vocabulary_size, order)
    probabilities = np.full(vocabulary_size, 1 / (vocabulary_size - 1))  # BEGIN never comes
    orders: list[Order] = []
    for number, one in enumerate(counts, start=1):
        discounts = fixed[number - 1] if fixed else discounts_of(one.adjusted, fallback)
        probabilities, backoff = _smoothed(one, discounts, probabilities, number)
        if number > 1:
            orders[-1] = _with_backoff(orders[-1], backoff)
        log = np.log10(probabilities, where=probabilities > 0, out=np.full(len(one.word), _NEVER))
        keys = one.history.astype(np.uint64) * np.uint64(vocabulary_size)
        keys += one.word.astype(np.uint64)
        orders.append(Order(keys, log.astype(np.float32), np.zeros(0, np.float32)))
    orders[-1] = _with_backoff(orders[-1], np.ones(len(orders[-1].keys)))
    return NgramModel(vocabulary_size, tuple(orders))


def discounts_of(adjusted: Integers, fallback: Sequence[float] | None) -> Numbers:
    """D1, D2 and D3+ of n-grams with these adjusted counts; Chen and Goodman's equation 26.

    Raises DataError where the counts give none between 0 and k, and there is no fallback.
    """
    n = np.bincount(np.minimum(adjusted, 5), minlength=6)[1:5].astype(np.float64)
    if n.all():
        y = n[0] / (n[0] + 2 * n[1])
        found = np.array([k - (k + 1) * y * n[k] / n[k - 1] for k in (1, 2, 3)])
        if (found >= 0).all() and (found <= [1, 2, 3]).all():
            return found
    if fallback is None:
        raise DataError(
            f"n-grams that occur 1, 2, 3 and 4 times are {', '.join(f'{x:.0f}' for x in n)}: "
            "no discounts follow from these",
            hint="give more text, or fixed discounts",
        )
    return np.array(fallback, np.float64)


def _counted(tokens: Integers, places: Integers, size: int, order: int) -> list[_Counts]:
    """The n-grams of every length with their adjusted counts."""
    numbers = tokens  # of the n-gram that ends at each token
    seen = np.arange(size)
    raw = np.bincount(tokens, minlength=size)
    found = [_Counts(np.zeros(size, np.int64), seen, np.zeros(size, np.int64), raw)]
    begins = seen == BEGIN
    for length in range(2, order + 1):
        inside = np.flatnonzero(places >= length - 1)
        keys = numbers[inside - 1].astype(np.uint64) * np.uint64(size)
        keys += tokens[inside].astype(np.uint64)
        keys, first, inverse, raw = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        history, word = (part.astype(np.int64) for part in np.divmod(keys, np.uint64(size)))
        shorter = numbers[inside[first]]
        before = found[-1]
        different = np.bincount(shorter, minlength=len(before.word))
        adjusted = np.where(begins, before.adjusted, different)
        found[-1] = _Counts(before.history, before.word, before.shorter, adjusted)
        found.append(_Counts(history, word, shorter, raw))
        begins = begins[history]
        longer = np.full(len(tokens), -1)
        longer[inside] = inverse
        numbers = longer
    found[0].adjusted[BEGIN] = 0
    return found


def _smoothed(
    one: _Counts, discounts: Sequence[float] | Numbers, below: Numbers, length: int
) -> tuple[Numbers, Numbers]:
    """The n-grams' probabilities, and how much each history leaves to the shorter one."""
    histories = 1 if length == 1 else int(one.history[-1]) + 1
    count = one.adjusted.astype(np.float64)
    discount = np.concatenate(([0], discounts))[np.minimum(one.adjusted, 3)]
    total = np.bincount(one.history, count, histories)
    left = np.bincount(one.history, discount, histories)
    backoff = np.divide(left, total, out=np.ones(histories), where=total > 0)
    lower = below if length == 1 else below[one.shorter]
    own = (count - discount) / np.where(total > 0, total, 1)[one.history]
    probabilities = own + backoff[one.history] * lower
    if length == 1:
        probabilities[BEGIN] = 0
    return probabilities, backoff


def _with_backoff(order: Order, backoff: Numbers) -> Order:
    """The order with its backoffs; those of n-grams that are no history are 1."""
    whole = np.ones(len(order.keys))
    whole[: len(backoff)] = backoff
    return Order(order.keys, order.log_probability, np.log10(whole).astype(np.float32))
