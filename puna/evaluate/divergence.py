"""How far one model's predictions lie from another's: what a quantisation or a kernel changed.

    KL(reference || model) = sum over tokens of p_reference (log p_reference - log p_model)

at every scored position of window_perplexity.py's windows, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError, TokenizerError
from puna.evaluate.window_perplexity import (
    ROWS_AT_ONCE,
    Estimate,
    Values,
    error_of_mean,
    estimate,
    require_finite,
    window_chunks,
)
from puna.infer.backends.base import Backend, FloatArray, IdArray

LOGITS_AT_ONCE = 1 << 24  # 64 MiB of float32 of each model
WIDENED_AT_ONCE = 1 << 20  # of them in float64, which a core's cache nearly holds


@dataclass(frozen=True)
class Comparison:
    """Both models at each scored position: nats for the text's token [rows], the divergence
    [rows], and whether both think the same token likeliest [rows]."""

    nats: Values
    reference_nats: Values
    divergence: Values
    is_same_top: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Divergence:
    """What the comparisons of all windows come to; divergences are in nats.

    `log_ratio` is the log of the model's perplexity over the reference's; its error is that of
    the paired differences, so much smaller than either perplexity's own.
    """

    perplexity: Estimate
    reference_perplexity: Estimate
    log_ratio: float
    log_ratio_error: float
    mean: float
    mean_error: float
    median: float
    percentile_99: float
    maximum: float
    same_top: float  # share of the positions


def require_comparable(model: Backend, reference: Backend, ids: IdArray, others: IdArray) -> None:
    """Raise TokenizerError unless both read the text as the same ids, CheckpointError unless
    both predict the same number of tokens."""
    if ids.shape != others.shape or not np.array_equal(ids, others):
        raise TokenizerError(
            "two models with one tokenizer are wanted, these read the text as different tokens",
            hint="compare their bits per byte instead: puna evaluate perplexity",
        )
    if model.vocabulary_size != reference.vocabulary_size:
        raise CheckpointError(
            f"two models of one vocabulary are wanted, one predicts {model.vocabulary_size} "
            f"tokens, the other {reference.vocabulary_size}"
        )


def compare(
    model: Backend, reference: Backend, window: IdArray, rows: int = ROWS_AT_ONCE
) -> Comparison:
    """Both models on the second half of one window; at most 64 MiB of logits of each at a time.

    At most `rows` tokens make a step. Both need pages for a window. Raises CheckpointError for
    logits that are not finite.
    """
    rows = max(1, min(rows, LOGITS_AT_ONCE // model.vocabulary_size))
    parts = []
    for chunk, targets in window_chunks(window, rows):
        logits, reference_logits = model.step([chunk]), reference.step([chunk])
        parts += _compared(logits, reference_logits, targets)
    return joined(parts)


def joined(parts: list[Comparison]) -> Comparison:
    """The positions of all parts, one after another. Raises CheckpointError for NaN in them."""
    return Comparison(
        require_finite(np.concatenate([part.nats for part in parts])),
        require_finite(np.concatenate([part.reference_nats for part in parts])),
        require_finite(np.concatenate([part.divergence for part in parts])),
        np.concatenate([part.is_same_top for part in parts]),
    )


def _compared(logits: FloatArray, reference: FloatArray, targets: IdArray) -> list[Comparison]:
    """The rows of one step, some at a time: in float64, so that 1e-7 is still seen."""
    rows = max(1, WIDENED_AT_ONCE // logits.shape[1])
    parts = []
    for start in range(0, len(targets), rows):
        block = slice(start, start + rows)
        own, other = _log_softmax(logits[block]), _log_softmax(reference[block])
        places = np.arange(len(own)), targets[block]
        is_same_top = own.argmax(axis=1) == other.argmax(axis=1)
        nats, reference_nats = -own[places], -other[places]
        own -= other
        divergence = -np.einsum("rv,rv->r", np.exp(other), own)
        parts.append(Comparison(nats, reference_nats, divergence, is_same_top))
    return parts


def _log_softmax(logits: FloatArray) -> Values:
    wide: Values = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def summarised(all_positions: Comparison) -> Divergence:
    """The numbers of a whole text."""
    ratios = all_positions.nats - all_positions.reference_nats
    kl = all_positions.divergence
    median, percentile_99 = np.percentile(kl, [50, 99])
    return Divergence(
        perplexity=estimate(all_positions.nats),
        reference_perplexity=estimate(all_positions.reference_nats),
        log_ratio=float(ratios.mean()),
        log_ratio_error=error_of_mean(ratios),
        mean=float(kl.mean()),
        mean_error=error_of_mean(kl),
        median=float(median),
        percentile_99=float(percentile_99),
        maximum=float(kl.max()),
        same_top=float(all_positions.is_same_top.mean()),
    )
