"""What the engine asks of a backend: new token ids of some sequences in, the wanted logits out.

The engine, the sampler and the evaluation do not know which backend runs underneath. Keys and
values lie in pages; which page belongs to which sequence is the engine's business alone, so that
sequences can share the pages of a common beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]
PageArray = npt.NDArray[np.int32]

PAGE_POSITIONS = 32  # one bf16 AMX tile of values; as many positions as a quantised group


class Draw(NamedTuple):
    """How to choose a row's next token among the first `ids` of the vocabulary.

    Temperature 0 takes the likeliest, and else is at least 1e-30; `point` in [0, 1) is the random
    number. `top_k` 0, `top_p` 1 and `min_p` 0 are off. puna.infer.sampler says what comes of it.
    """

    ids: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    point: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """The next tokens of one sequence: a piece of its prompt, or the one token just sampled.

    `pages[i]` is the number of the page that holds positions 32 i .. 32 i + 31, for all positions
    below `start + len(ids)`; those below `start` have been filled by earlier steps. `wanted_rows`
    says for how many of the last ids logits are wanted: none inside a long prompt, one to go on,
    all to score the prompt itself. `draws` has one for each wanted row whose token may be chosen
    at once, or nothing.
    """

    pages: PageArray
    start: int
    ids: IdArray
    wanted_rows: int = 1
    draws: Sequence[Draw] = ()


class Backend(Protocol):
    """A loaded model that turns token ids into logits. One thread at a time may use it."""

    @property
    def name(self) -> str:
        """What runs, for people: `NumPy twin`, `torch 2.13.0 on cpu`, `AMX, 2 threads`."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the logits cover."""
        ...

    @property
    def page_bytes(self) -> int:
        """Memory that a page takes: keys and values of 32 positions, all layers."""
        ...

    @property
    def free_bytes(self) -> int:
        """Memory for more pages, where this backend has them: the machine's, or its GPU's."""
        ...

    def reserve(self, pages: int) -> None:
        """Have that many pages, numbered from 0; what earlier pages held is lost.

        Raises MachineError when memory does not suffice.
        """
        ...

    def step(self, chunks: Sequence[Chunk]) -> FloatArray:
        """Run the chunks and fill their pages; logits [sum of wanted_rows, vocabulary].

        Raises UsageError past the context's end, for an unknown id, or for a page not reserved.
        """
        ...

    def choose(self, chunks: Sequence[Chunk]) -> Sequence[int | FloatArray]:
        """As `step`, but of rows that have a draw the id drawn, where the backend draws itself."""
        ...

    def hidden(self, chunks: Sequence[Chunk]) -> FloatArray:
        """As `step`, but the wanted rows' final normalised states: [rows, dim], float32."""
        ...

    def likeliest(self, chunks: Sequence[Chunk]) -> IdArray:
        """As `step`, but the id of each row's greatest logit (of equals the lowest): [rows]."""
        ...

    def score(self, chunks: Sequence[Chunk], targets: IdArray) -> npt.NDArray[np.float64]:
        """As `step`, but each row's log-probability, in nats, of the target id: [rows]."""
        ...


def pages_for(positions: int) -> int:
    """How many pages hold that many positions of a sequence."""
    return -(-positions // PAGE_POSITIONS)
