"""The C++ engine behind the protocol: one native call runs all layers for all rows of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from puna import hardware
from puna.console import Progress, untold
from puna.errors import CheckpointError, UsageError
from puna.infer.backends.base import (
    PAGE_POSITIONS,
    Chunk,
    Draw,
    FloatArray,
    IdArray,
    pages_for,
)
from puna.infer.backends.cpu_weights import LAYER_MATRICES, PackedWeights, load_weights
from puna.model.sizes import ModelConfig
from puna.model.twin import numpy_shape
from puna.native import kernels, numpy_llama
from puna.weights.source import ModelSource

Mode = Literal["exact", "fast", "float"]
MODES: tuple[Mode, ...] = ("exact", "fast", "float")  # the kernels' numbers for them
Kept = Literal["bf16", "int8"]
KEPT_BYTES: dict[Kept, int] = {"bf16": 2, "int8": 1}


class CpuBackend:
    """LLaMA on this machine's processors.

    `mode` says how numbers are kept: `fast` multiplies many rows at once in bfloat16 where the
    processor has tiles for it; `exact` computes each row in one way, whatever runs beside it;
    `float` keeps activations, keys and values in float32. The others keep them as `kv` says: int8
    has one scale for a head's key, and one for its value. Without `threads`, one for each core.
    `progress` is told of loading. Raises MachineError without kernels, or where memory does not
    suffice.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        threads: int | None = None,
        mode: Mode = "fast",
        isa: str | None = None,
        kv: Kept = "bf16",
        progress: Progress = untold,
    ) -> None:
        self.config = source.config
        self.isa = isa or kernels.inference_isa()
        self.threads = threads or hardware.usable_cores()
        self.mode: Mode = mode
        kept_bytes = 4 if mode == "float" else KEPT_BYTES[kv]
        self._kept = ", int8 cache" if kept_bytes == 1 else ""
        self.weights = load_weights(source, self.threads, progress=progress)
        self.notes = self.weights.notes
        self.vocabulary_size = self.config.vocabulary_size
        self._engine = kernels.extension().InferenceEngine(
            self.isa,
            self.threads,
            MODES.index(mode),
            {**_shape(self.config), "kept_bytes": kept_bytes},
            *_arrays(self.config, self.weights),
        )
        self.page_bytes: int = self._engine.page_bytes
        self._pages = 0
        self._turns = numpy_llama.Turns(numpy_shape(self.config))

    @property
    def name(self) -> str:
        """The instruction set, the threads, the mode, and a cache of another kind than bfloat16."""
        return f"C++ for {self.isa}, threads: {self.threads}, {self.mode}{self._kept}"

    @property
    def free_bytes(self) -> int:
        """What the machine has; see Backend.free_bytes."""
        return hardware.memory_available_bytes()

    def reserve(self, pages: int) -> None:
        """Have that many pages; see Backend.reserve."""
        what = f"room for {pages * PAGE_POSITIONS} tokens, their keys and values,"
        self._pages = 0
        self._engine.reserve(0)
        hardware.require_memory(pages * self.page_bytes, what)
        self._engine.reserve(pages)
        self._pages = pages

    def step(self, chunks: Sequence[Chunk]) -> FloatArray:
        """Logits [sum of wanted_rows, vocabulary]; see Backend.step."""
        wanted = _wanted(chunks)
        logits = np.empty((len(wanted), self.vocabulary_size), dtype=np.float32)
        self._run(chunks, wanted, logits=logits)
        return logits

    def choose(self, chunks: Sequence[Chunk]) -> Sequence[int | FloatArray]:
        """The id of each row that has a draw, the logits of the others; see Backend.choose."""
        draws = [draw for one in chunks for draw in one.draws or (None,) * one.wanted_rows]
        places = sorted(range(len(draws)), key=lambda place: draws[place] is not None)
        some = [draw for draw in draws if draw is not None]
        logits, ids = self._drawn(chunks, _wanted(chunks)[places], some)
        output: list[int | FloatArray] = [*logits, *ids.tolist()]
        return [output[place] for place in np.argsort(places)]

    def hidden(self, chunks: Sequence[Chunk]) -> FloatArray:
        """The wanted rows' final normalised states; see Backend.hidden."""
        wanted = _wanted(chunks)
        states = np.empty((len(wanted), self.config.dim), dtype=np.float32)
        self._run(chunks, wanted, states=states)
        return states

    def likeliest(self, chunks: Sequence[Chunk]) -> IdArray:
        """The id of each wanted row's greatest logit; see Backend.likeliest."""
        wanted = _wanted(chunks)
        return self._drawn(chunks, wanted, [Draw(self.vocabulary_size)] * len(wanted))[1]

    def score(self, chunks: Sequence[Chunk], targets: IdArray) -> npt.NDArray[np.float64]:
        """Log-probability of each wanted row's target; see Backend.score."""
        wanted = _wanted(chunks)
        scores = np.empty(len(wanted), dtype=np.float64)
        targets = np.ascontiguousarray(targets, dtype=np.int64)
        self._run(chunks, wanted, targets=targets, log_probabilities=scores)
        return scores

    def _drawn(
        self, chunks: Sequence[Chunk], wanted: npt.NDArray[np.int32], draws: Sequence[Draw]
    ) -> tuple[FloatArray, IdArray]:
        """Logits of the first wanted rows, ids of the last ones, which the draws are for."""
        logits = np.empty((len(wanted) - len(draws), self.vocabulary_size), dtype=np.float32)
        ids = np.empty(len(draws), dtype=np.int64)
        numbers = np.array(draws, dtype=np.float64).reshape(-1, len(Draw._fields))
        self._run(chunks, wanted, logits=logits, draws=numbers, drawn=ids)
        return logits, ids

    def _run(
        self,
        chunks: Sequence[Chunk],
        wanted: npt.NDArray[np.int32],
        *,
        logits: FloatArray | None = None,
        draws: npt.NDArray[np.float64] | None = None,
        drawn: IdArray | None = None,
        targets: IdArray | None = None,
        log_probabilities: npt.NDArray[np.float64] | None = None,
        states: FloatArray | None = None,
    ) -> None:
        if not chunks:
            return
        self._check(chunks)
        counts = [len(chunk.pages) for chunk in chunks]
        firsts = np.cumsum([0, *counts[:-1]])
        spans = np.array(
            [(len(c.ids), c.start, first) for c, first in zip(chunks, firsts, strict=True)],
            dtype=np.int64,
        )
        turns = [self._turns.of(chunk.start, chunk.start + len(chunk.ids)) for chunk in chunks]
        cosines, sines = (_joined(part, np.float32) for part in zip(*turns, strict=True))
        finite = self._engine.step(
            _joined([chunk.ids for chunk in chunks], np.int32),
            spans,
            _joined([chunk.pages for chunk in chunks], np.int32),
            cosines,
            sines,
            wanted,
            logits,
            draws,
            drawn,
            targets,
            log_probabilities,
            states,
        )
        if not finite:
            raise CheckpointError(
                "the model's logits are not finite numbers",
                hint="its weights are damaged or its training diverged; try an earlier checkpoint",
            )

    def _check(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            end = chunk.start + len(chunk.ids)
            if end > self.config.context_length:
                raise UsageError(
                    f"positions up to {end} were asked for, there is room for "
                    f"{self.config.context_length}"
                )
            pages, needed = chunk.pages, pages_for(end)
            if len(pages) < needed or not ((pages >= 0) & (pages < self._pages)).all():
                raise UsageError(
                    f"positions up to {end} need {needed} of the {self._pages} reserved pages, "
                    f"got {pages.tolist()}"
                )
            low, high = int(chunk.ids.min()), int(chunk.ids.max())
            if not 0 <= low <= high < self.vocabulary_size:
                raise UsageError(
                    f"token ids must lie in 0 .. {self.vocabulary_size - 1}, got {low} .. {high}"
                )


def _joined(parts: Sequence[npt.NDArray[np.generic]], dtype: type) -> npt.NDArray[np.generic]:
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return np.ascontiguousarray(whole, dtype=dtype)


def _wanted(chunks: Sequence[Chunk]) -> npt.NDArray[np.int32]:
    """The wanted rows of a step, by their numbers."""
    ends = np.cumsum([len(chunk.ids) for chunk in chunks], dtype=np.int64)
    ranges = [
        np.arange(end - chunk.wanted_rows, end, dtype=np.int32)
        for chunk, end in zip(chunks, ends, strict=True)
    ]
    return ranges[0] if len(ranges) == 1 else np.concatenate([np.zeros(0, np.int32), *ranges])


def _shape(config: ModelConfig) -> dict[str, float]:
    return {
        "dim": config.dim,
        "hidden": config.ffn_dim,
        "heads": config.heads,
        "kv_heads": config.kv_head_count,
        "head_dim": config.head_dim,
        "vocabulary": config.vocabulary_size,
        "norm_epsilon": config.norm_epsilon,
    }


def _arrays(
    config: ModelConfig, weights: PackedWeights
) -> tuple[list[tuple[npt.NDArray[np.uint8], int, int, int]], list[FloatArray]]:
    """Matrices and norms in the order that the extension takes them."""
    names = [
        f"layers.{layer}.{name}.weight" for layer in range(config.layers) for name in LAYER_MATRICES
    ]
    embedding = "tok_embeddings.weight"
    names += [embedding, embedding if config.tied_embeddings else "output.weight"]
    norms = [
        f"layers.{layer}.{name}.weight"
        for layer in range(config.layers)
        for name in ("attention_norm", "ffn_norm")
    ]
    return (
        [weights.matrices[name].arguments() for name in names],
        [weights.norms[name] for name in [*norms, "norm.weight"]],
    )
