"""How fast a backend reads prompts and writes tokens, each trial beside what memory gives then.

The tests are those of llama-bench: a prompt of random ids from an empty cache (or after `depth`
positions), logits for its last token alone; and tokens one by one, each the likeliest after the one
before. What comes before a trial's start is not timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from puna.infer.backends.base import Backend, Chunk, IdArray, PageArray, pages_for
from puna.weights.source import ModelSource

ROWS_AT_ONCE = 512  # of prompts in one step, of all sequences together; as llama-bench's ubatch


@dataclass(frozen=True)
class SpeedTest:
    """`tokens` of each of `sequences` at once, after `depth` positions of each."""

    kind: Literal["prompt", "decode"]
    tokens: int
    sequences: int = 1
    depth: int = 0

    @property
    def label(self) -> str:
        """As llama-bench calls it: pp512, tg128 @ d4096; x 16 for sequences."""
        name = f"{'pp' if self.kind == 'prompt' else 'tg'}{self.tokens}"
        name += f" @ d{self.depth}" if self.depth else ""
        return name + (f" x {self.sequences}" if self.sequences > 1 else "")


@dataclass(frozen=True)
class Trial:
    """One run, and the bytes a second that memory gave just before it (None: not probed)."""

    seconds: float
    read_bytes_per_second: float | None


@dataclass(frozen=True)
class SpeedResult:
    """A test's trials; rates are of all its sequences together."""

    test: SpeedTest
    trials: tuple[Trial, ...]

    @property
    def rates(self) -> list[float]:
        """Tokens a second of each trial."""
        return [self.test.tokens * self.test.sequences / one.seconds for one in self.trials]

    def roofline_share(self, bytes_a_step: int) -> float | None:
        """Median over the trials of the rate over the one that reading the weights allows.

        None for prompts, which arithmetic bounds, and where nothing was probed.
        """
        if self.test.kind == "prompt":
            return None
        shares = [
            bytes_a_step * self.test.tokens / one.seconds / one.read_bytes_per_second
            for one in self.trials
            if one.read_bytes_per_second
        ]
        return statistics.median(shares) if shares else None

    def record(self, bytes_a_step: int) -> dict[str, Any]:
        """The numbers as plain values."""
        rates = self.rates
        probes = [one.read_bytes_per_second for one in self.trials]
        return {
            "test": self.test.label,
            "kind": self.test.kind,
            "tokens": self.test.tokens,
            "sequences": self.test.sequences,
            "depth": self.test.depth,
            "tokens_per_second": {
                "median": statistics.median(rates),
                "mean": statistics.fmean(rates),
                "deviation": statistics.stdev(rates) if len(rates) > 1 else 0.0,
                "trials": rates,
            },
            "read_bytes_per_second": probes,
            "roofline_share": self.roofline_share(bytes_a_step),
        }


def bytes_a_step(source: ModelSource) -> int:
    """Bytes of the file's tensors that one decoding step must read, however many sequences.

    All of them, but of an embedding that is not the output too only a token's row.
    """
    total = sum(tensor.nbytes for tensor in source.tensors.values())
    if "output.weight" not in source.tensors:
        return total
    embedding = source.tensors["tok_embeddings.weight"]
    return total - embedding.nbytes + embedding.nbytes // embedding.shape[0]


def measure(
    backend: Backend,
    test: SpeedTest,
    repeats: int,
    probe: Callable[[], float] | None,
    *,
    progress: Callable[[], Any],
) -> SpeedResult:
    """Run a test once to warm up and then `repeats` times; `progress` is told after each trial.

    Raises MachineError when memory does not suffice, UsageError past the context's end.
    """
    length = test.depth + test.tokens
    each = pages_for(length)
    backend.reserve(each * test.sequences)
    pages: PageArray = np.arange(each * test.sequences, dtype=np.int32).reshape(-1, each)
    random = np.random.default_rng(0)
    ids: IdArray = random.integers(0, backend.vocabulary_size, (test.sequences, length))
    read_prompts(backend, pages, ids[:, : test.depth], 0)
    trials = []
    for number in range(repeats + 1):
        bandwidth = probe() if probe and number else None
        began = time.perf_counter()
        if test.kind == "prompt":
            read_prompts(backend, pages, ids[:, test.depth :], test.depth)
        else:
            tokens = test.tokens if number else 1
            write_tokens(backend, pages, ids[:, test.depth], test.depth, tokens)
        if number:
            trials.append(Trial(time.perf_counter() - began, bandwidth))
            progress()
    return SpeedResult(test, tuple(trials))


def read_prompts(backend: Backend, pages: PageArray, ids: IdArray, start: int) -> None:
    """Read ids [sequences, time] from position `start` on; logits for the last of each."""
    sequences, length = ids.shape
    piece = max(1, ROWS_AT_ONCE // sequences)
    for first in range(0, length, piece):
        end = min(first + piece, length)
        tables = pages[:, : pages_for(start + end)]
        wanted = int(end == length)
        backend.likeliest(
            [
                Chunk(table, start + first, row[first:end], wanted)
                for table, row in zip(tables, ids, strict=True)
            ]
        )


def write_tokens(backend: Backend, pages: PageArray, ids: IdArray, start: int, tokens: int) -> None:
    """Decode greedily from ids [sequences] at position `start`: `tokens` steps of one each."""
    for position in range(start, start + tokens):
        tables = pages[:, : pages_for(position + 1)]
        ids = backend.likeliest(
            [Chunk(table, position, ids[row : row + 1]) for row, table in enumerate(tables)]
        )
