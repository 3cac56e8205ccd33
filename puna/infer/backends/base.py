"""What the engine asks of a backend: new token ids of some sequences in, the wanted logits out.

The engine, the sampler and the evaluation do not know which backend runs underneath.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]

IGNORED_TARGET = -100  # torch's own ignore_index, so that one array serves both backends


class Past(Protocol):
    """One sequence's keys and values, as its backend keeps them."""

    @property
    def length(self) -> int:
        """Positions filled so far."""
        ...


@dataclass(frozen=True)
class Chunk:
    """The next tokens of one sequence: a piece of its prompt, or the one token just sampled.

    `wanted_rows` says for how many of the last ids logits are wanted: none inside a long prompt,
    one to go on, all to score the prompt itself.
    """

    past: Past
    ids: IdArray
    wanted_rows: int = 1


class Backend(Protocol):
    """A loaded model that turns token ids into logits."""

    @property
    def name(self) -> str:
        """What runs, for people: `NumPy twin`, `torch 2.13.0 on cpu`."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the logits cover."""
        ...

    def past(self, capacity: int) -> Past:
        """An empty sequence with room for `capacity` positions."""
        ...

    def step(self, chunks: Sequence[Chunk]) -> FloatArray:
        """Run the chunks, growing each past; logits [sum of wanted_rows, vocabulary].

        Positions continue after each past's length. Raises UsageError past the context's or the
        capacity's end.
        """
        ...

    def score(self, inputs: IdArray, targets: IdArray) -> npt.NDArray[np.float64]:
        """Summed log-probabilities, in nats, of each row's `targets`: float64 [batch].

        inputs and targets are [batch, time], at most the context long; position i of the inputs
        predicts position i of the targets, and targets of IGNORED_TARGET do not count.
        """
        ...


def rows_per_block(vocabulary_size: int) -> int:
    """How many rows of logits to hold at once while scoring: 64 MiB of float32."""
    return max(1, (1 << 24) // vocabulary_size)
