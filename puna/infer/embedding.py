"""One vector for a text: the mean of its positions' final states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError
from puna.infer.backends.base import FloatArray


@dataclass(frozen=True)
class Embeddings:
    """A vector for each text, float32 [texts, dim], and how many tokens all of them have."""

    vectors: FloatArray
    prompt_tokens: int

    @classmethod
    def of(cls, means: Iterable[StateMean], *, is_unit: bool) -> Embeddings:
        """Those of finished means, of length 1 where asked. Raises as StateMean.vector does."""
        means = list(means)
        vectors = [mean.vector(is_unit=is_unit) for mean in means]
        return cls(np.array(vectors, dtype=np.float32), sum(mean.count for mean in means))


class StateMean:
    """The mean of states that come chunk by chunk, added one after the other in float64.

    So it does not hang on how a text was cut.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: npt.NDArray[np.float64] | None = None

    def add(self, start: int, states: FloatArray) -> None:
        """Count the states [rows, dim] of the positions from `start` on, each position once."""
        new = states[self.count - start :].astype(np.float64)
        if len(new):
            before = [] if self._sum is None else [self._sum]
            self._sum = np.add.reduce([*before, *new], axis=0)
            self.count += len(new)

    def vector(self, *, is_unit: bool) -> FloatArray:
        """The mean [dim], of length 1 where asked. Raises CheckpointError where it is no number."""
        assert self._sum is not None, "a text has at least one token"
        mean = self._sum / self.count
        if is_unit:
            mean /= max(float(np.linalg.norm(mean)), np.finfo(np.float64).tiny)
        if not np.isfinite(mean).all():
            raise CheckpointError(
                "the model's states are not finite numbers",
                hint="its weights are damaged or its training diverged; try an earlier checkpoint",
            )
        vector: FloatArray = mean.astype(np.float32)
        return vector
