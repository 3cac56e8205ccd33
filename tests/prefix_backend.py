"""A backend whose logits follow from the ids so far by one line: what evaluation is tested with.

Its pages hold ids, so that a wrong page, start or row shows in the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puna.infer.backends.base import PAGE_POSITIONS, Chunk


class PrefixBackend:
    """Logits of a row: the mean of the rows of a random table that its ids so far name."""

    name = "prefix"
    page_bytes = 8 * PAGE_POSITIONS
    free_bytes = 1 << 30

    def __init__(self, vocabulary_size: int, seed: int = 0, scale: float = 8.0) -> None:
        self.vocabulary_size = vocabulary_size
        random = np.random.default_rng(seed)
        self.table = random.normal(0, scale, (vocabulary_size,) * 2).astype(np.float32)
        self.pages = np.zeros((0, PAGE_POSITIONS), dtype=np.int64)
        self.steps: list[list[Chunk]] = []

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """What follows these ids."""
        return self.table[list(ids)].mean(axis=0)

    def reserve(self, pages: int) -> None:
        self.pages = np.full((pages, PAGE_POSITIONS), -1)

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        self.steps.append(list(chunks))
        rows = []
        for chunk in chunks:
            end = chunk.start + len(chunk.ids)
            assert len(chunk.pages) == -(-end // PAGE_POSITIONS)
            for position, token in enumerate(chunk.ids, chunk.start):
                self.pages[chunk.pages[position // PAGE_POSITIONS], position % PAGE_POSITIONS] = (
                    token
                )
            known = self.pages[chunk.pages].reshape(-1)[:end]
            assert (known >= 0).all(), "a position that no step has filled"
            first = end - chunk.wanted_rows
            rows += [self.logits(known[: position + 1]) for position in range(first, end)]
        return np.array(rows, dtype=np.float32).reshape(-1, self.vocabulary_size)

    def choose(self, chunks: Sequence[Chunk]) -> Sequence[int | np.ndarray]:
        return list(self.step(chunks))

    def hidden(self, chunks: Sequence[Chunk]) -> np.ndarray:
        return self.step(chunks)

    def likeliest(self, chunks: Sequence[Chunk]) -> np.ndarray:
        return self.step(chunks).argmax(axis=-1)

    def score(self, chunks: Sequence[Chunk], targets: np.ndarray) -> np.ndarray:
        logits = self.step(chunks).astype(np.float64)
        assert len(logits) == len(targets)
        chosen = logits[np.arange(len(targets)), targets]
        return chosen - np.log(np.exp(logits).sum(axis=-1))
