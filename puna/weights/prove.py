"""The proof of a conversion: source and result read the same short text, layer by layer.

Both run through the NumPy twin at once, each weight read where it is used and dropped again, so
that the peak of memory is about one tensor. Each turns q and k by its own format's convention,
their rows as they lie in the file: a permutation that our writer and our reader both got wrong
would not cancel. Beside the logits, some rows of every tensor are compared: a wrong order shows
there even in a model whose attention is too flat to care, and in a quantised result whose logits
differ anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.console import Console
from puna.errors import CheckpointError
from puna.model.twin import numpy_shape
from puna.native.numpy_llama import KvCache, NumpyLlama
from puna.tokens.tokenizer import Tokenizer
from puna.weights.huggingface import HuggingFaceModel
from puna.weights.source import FloatArray, ModelSource

TEXT = (
    "The llama lives on the high grassland of the Andes, where the air is thin: 4,444 head. "
    "Un río corre por la puna; les lamas boivent l'eau froide. 高原の草 🦙 def herd(count): return"
)
MOST_TOKENS = 32
ROWS_COMPARED = 64
# A row of another tensor, or rows in another order, is off by 1.4 of its own size; Q2_K by 0.3.
WRONG_ROWS = 0.6


@dataclass(frozen=True)
class Proof:
    """How far source and result are apart on one text.

    Differences are of logits [tokens, vocabulary]; `kl_nats` is the mean divergence of the
    result's next-token distribution from the source's; `agreement` the share of positions with
    the same likeliest token; `worst_rows` the largest relative error of a tensor's rows.
    """

    is_lossless: bool
    tokens: int
    largest_difference: float
    mean_difference: float
    largest_logit: float
    tolerance: float
    kl_nats: float
    agreement: float
    worst_tensor: str
    worst_rows: float

    def record(self) -> dict[str, Any]:
        """The numbers as plain values."""
        return dict(self.__dict__)

    def shown(self) -> str:
        """One or two lines for people, with what kind of conversion it was."""
        same = "kept exactly" if self.is_lossless else "rounded to fewer bits (lossy)"
        lines = [
            f"proof over {self.tokens} tokens, weights {same}: largest difference of logits "
            f"{self.largest_difference:.3g} (largest logit {self.largest_logit:.3g})"
        ]
        if not self.is_lossless:
            lines.append(
                f"  mean difference {self.mean_difference:.3g}, KL divergence "
                f"{self.kl_nats:.3g} nats a token, same likeliest token at "
                f"{100 * self.agreement:.0f} % of the places; largest error of a tensor's rows "
                f"{100 * self.worst_rows:.2g} % ({self.worst_tensor})"
            )
        return "\n".join(lines)


def prove(
    source: ModelSource, result: ModelSource, tokenizer: Tokenizer | None, console: Console
) -> Proof:
    """Run both on one text and compare.

    Raises CheckpointError when a lossless result differs by more than rounding, when the result
    is not finite, or when a tensor's rows are not the source's at all.
    """
    ids = proof_ids(source, tokenizer)
    lossless = is_lossless(source, result)
    rows = RowComparison()
    with console.progress(2 + source.config.layers, "proving", "layer") as bar:
        wanted, found = _lockstep(source, result, ids, rows, bar)
    _require_same_rows(rows, lossless)
    if not np.isfinite(found).all():
        raise _failed("the result's logits are not finite")
    difference = np.abs(wanted - found)
    largest_logit = float(np.abs(wanted).max())
    proof = Proof(
        is_lossless=lossless,
        tokens=len(ids),
        largest_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        largest_logit=largest_logit,
        tolerance=rounding(source, largest_logit),
        kl_nats=_divergence(wanted, found),
        agreement=float((wanted.argmax(axis=-1) == found.argmax(axis=-1)).mean()),
        worst_tensor=rows.worst,
        worst_rows=rows.errors.get(rows.worst, 0.0),
    )
    if lossless and proof.largest_difference > proof.tolerance:
        raise _failed(
            f"logits differ by {proof.largest_difference:.3g}, rounding explains "
            f"{proof.tolerance:.3g}"
        )
    return proof


def proof_ids(source: ModelSource, tokenizer: Tokenizer | None) -> npt.NDArray[np.int64]:
    """The ids that both read: TEXT's first tokens; without a tokenizer, ids spread evenly."""
    vocabulary = source.config.vocabulary_size
    count = min(MOST_TOKENS, source.config.context_length)
    if tokenizer is not None:
        ids = [token for token in tokenizer.encode(TEXT) if token < vocabulary]
        return np.array(ids[:count], dtype=np.int64)
    return np.arange(count, dtype=np.int64) * 7919 % vocabulary  # a prime: no id comes twice


def is_lossless(source: ModelSource, result: ModelSource) -> bool:
    """Whether every tensor's new dtype holds its old values exactly."""
    return all(
        holds_exactly(result.tensors[name].dtype, tensor.dtype)
        for name, tensor in source.tensors.items()
        if name in result.tensors
    )


def holds_exactly(new: str, old: str) -> bool:
    """Whether values of dtype `old`, as `read` gives them, are kept by dtype `new`."""
    return new == old or new in ("F32", "F64")


def rounding(source: ModelSource, largest_logit: float) -> float:
    """What float32 sums in another order may change: eps · sqrt(ffn_dim) · layers · logit."""
    config = source.config
    steps = math.sqrt(config.ffn_dim) * (config.layers + 1)
    return float(np.finfo(np.float32).eps) * steps * max(largest_logit, 1.0)


class RowComparison:
    """Some rows of every tensor of the source, and how far the result's same rows are off."""

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}  # name -> root mean square error over the rows' own
        self._rows: dict[str, FloatArray] = {}

    @property
    def worst(self) -> str:
        """The tensor with the largest error."""
        return max(self.errors, key=lambda name: self.errors[name], default="")

    def keep(self, name: str, values: FloatArray) -> None:
        """Rows of the source's tensor."""
        self._rows[name] = self._some(values).copy()

    def compare(self, name: str, values: FloatArray) -> None:
        """The same rows of the result's, once; those of the source are dropped."""
        wanted = self._rows.pop(name, None)
        if wanted is None:
            return
        scale = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
        error = float(np.sqrt(np.mean(np.square(self._some(values) - wanted, dtype=np.float64))))
        self.errors[name] = error / scale if scale else error

    @staticmethod
    def _some(values: FloatArray) -> FloatArray:
        # From the first head's rows and evenly from all the others.
        step = -(-len(values) // ROWS_COMPARED)
        return values[:: step | 1]


class _ReadWhenUsed(Mapping[str, FloatArray]):
    """A source's tensors as arrays that are read at each use and kept by nobody."""

    def __init__(self, source: ModelSource, rows: RowComparison, *, is_result: bool) -> None:
        self._source = source
        self._see = rows.compare if is_result else rows.keep

    def __getitem__(self, name: str) -> FloatArray:
        values = self._source.read(name)
        self._see(name, values)
        if isinstance(self._source, HuggingFaceModel) and _is_turned(name):
            return self._source.read_as_stored(name)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.tensors)

    def __len__(self) -> int:
        return len(self._source.tensors)


def _lockstep(
    source: ModelSource,
    result: ModelSource,
    ids: npt.NDArray[np.int64],
    rows: RowComparison,
    bar: Any,
) -> tuple[FloatArray, FloatArray]:
    """Logits of both, [tokens, vocabulary]; a layer of the one, then the same of the other."""
    models = []
    for one, is_result in ((source, False), (result, True)):
        sizes = {name: tensor.shape for name, tensor in one.tensors.items()}
        arrays = _ReadWhenUsed(one, rows, is_result=is_result)
        shape = replace(numpy_shape(one.config), has_half_pairs=isinstance(one, HuggingFaceModel))
        models.append(NumpyLlama(shape, arrays, sizes))
    wanted, found = models
    runs = [model.states([(KvCache(model.shape, len(ids)), ids)]) for model in models]
    for _states in zip(*runs, strict=True):
        last = _states
        bar.update()
    logits = wanted.logits(wanted.normalised(last[0])), found.logits(found.normalised(last[1]))
    bar.update()
    return logits


def _is_turned(name: str) -> bool:
    return name.endswith(("attention.wq.weight", "attention.wk.weight"))


def _require_same_rows(rows: RowComparison, lossless: bool) -> None:
    error = rows.errors.get(rows.worst, 0.0)
    if lossless and error > 0:
        raise _failed(
            f"{rows.worst} should be kept exactly, its rows are off by {100 * error:.2g} %"
        )
    if error > WRONG_ROWS:
        raise _failed(
            f"the rows of {rows.worst} are off by {100 * error:.0f} %, which no rounding explains"
        )


def _failed(what: str) -> CheckpointError:
    return CheckpointError(
        f"the proof failed: {what}",
        hint="this is a bug in Puna's conversion; the result was not kept, please report it",
    )


def _divergence(wanted: FloatArray, found: FloatArray) -> float:
    """Mean over the rows of sum p (log p - log q), in nats."""
    log_p, log_q = _log_softmax(wanted), _log_softmax(found)
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)))


def _log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
