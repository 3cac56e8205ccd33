"""The backend that needs only NumPy: puna.native's twin behind the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from puna.infer.backends.base import (
    IGNORED_TARGET,
    Chunk,
    FloatArray,
    IdArray,
    rows_per_block,
)
from puna.model.sizes import ModelConfig
from puna.model.twin import numpy_shape
from puna.native import numpy_llama


class NumpyBackend:
    """Runs the chunks of a step together: one matrix product for all their rows."""

    def __init__(self, config: ModelConfig, arrays: Mapping[str, FloatArray]) -> None:
        self.model = numpy_llama.NumpyLlama(numpy_shape(config), arrays)
        self.name = "NumPy twin"
        self.vocabulary_size = self.model.vocabulary_size

    def past(self, capacity: int) -> numpy_llama.KvCache:
        """An empty sequence with room for `capacity` positions."""
        return numpy_llama.KvCache(self.model.shape, capacity)

    def step(self, chunks: Sequence[Chunk]) -> FloatArray:
        """Logits [sum of wanted_rows, vocabulary]; see Backend.step."""
        batch = []
        wanted: list[int] = []
        end = 0
        for chunk in chunks:
            assert isinstance(chunk.past, numpy_llama.KvCache)
            batch.append((chunk.past, chunk.ids))
            end += len(chunk.ids)
            wanted.extend(range(end - chunk.wanted_rows, end))
        return self.model.logits(self.model.hidden(batch)[wanted])

    def score(self, inputs: IdArray, targets: IdArray) -> npt.NDArray[np.float64]:
        """Summed log-probabilities of each row's targets; see Backend.score."""
        batch = [(self.past(len(row)), row) for row in inputs]
        hidden = self.model.hidden(batch)
        flat = targets.reshape(-1)
        scores = np.zeros(flat.shape, dtype=np.float64)
        counted = np.flatnonzero(flat != IGNORED_TARGET)
        block = rows_per_block(self.vocabulary_size)
        for start in range(0, len(counted), block):
            rows = counted[start : start + block]
            logits = self.model.logits(hidden[rows])
            top = logits.max(axis=-1, keepdims=True)
            normaliser = np.log(np.exp(logits - top).sum(axis=-1)) + top[:, 0]
            scores[rows] = logits[np.arange(len(rows)), flat[rows]] - normaliser
        total: npt.NDArray[np.float64] = scores.reshape(targets.shape).sum(axis=-1)
        return total
