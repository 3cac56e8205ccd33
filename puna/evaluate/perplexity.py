"""Bits per byte: how many bits a model needs to predict a text, per byte of it.

A document of tokens t1 .. tn is predicted token by token: the stream of inputs is BOS t1 .. tn-1,
the stream of targets t1 .. tn, and both are cut into disjoint windows of the training context. A
window starts with no memory of the ones before: its first input is the last token of the window
before it (BOS in the first), which is all that its first target is predicted from. So every byte
counts exactly once, and no target sees more context than in training. EOS is not scored: it
stands for no byte. Perplexity per token is given too, but it compares models only where they share
a tokenizer; bits per byte does not depend on it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.data.document import Document
from puna.errors import CheckpointError, DataError
from puna.infer.backends.base import Backend, Chunk, IdArray, pages_for
from puna.tokens.tokenizer import Tokenizer

Pair = tuple[IdArray, IdArray]  # a window's inputs and the targets they predict, of equal length
# Some windows -> the summed log-probability of each one's targets in nats.
ScoreWindows = Callable[[Sequence[Pair]], npt.NDArray[np.float64]]

DEFAULT_BATCH = 16  # windows scored at once
ROWS_AT_ONCE = 4096  # tokens of one step, unless a window is longer: bounds a backend's memory


@dataclass(frozen=True)
class DocumentScore:
    """One document: its UTF-8 bytes, its tokens, and the nats needed to predict them."""

    id: str
    bytes: int
    tokens: int
    nats: float

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of this document alone."""
        return self.nats / math.log(2) / self.bytes


@dataclass(frozen=True)
class PerplexityResult:
    """The scores of all documents; means are over all bytes or tokens, not over documents."""

    documents: tuple[DocumentScore, ...]
    context_length: int
    seconds: float

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return sum(document.bytes for document in self.documents)

    @property
    def tokens(self) -> int:
        """Tokens predicted."""
        return sum(document.tokens for document in self.documents)

    @property
    def nats(self) -> float:
        """Nats needed to predict all of them."""
        return math.fsum(document.nats for document in self.documents)

    @property
    def bits_per_byte(self) -> float:
        """Bits needed per byte of text."""
        return self.nats / math.log(2) / self.bytes

    @property
    def nats_per_token(self) -> float:
        """The mean cross-entropy, comparable with a training loss over the same tokens."""
        return self.nats / self.tokens

    @property
    def perplexity_per_token(self) -> float:
        """exp(nats per token); infinite where that passes a float."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    def record(self) -> dict[str, Any]:
        """The numbers as they stand in evaluation.json."""
        return {
            "documents": len(self.documents),
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bits_per_byte": self.bits_per_byte,
            "nats_per_token": self.nats_per_token,
            "perplexity_per_token": self.perplexity_per_token,
            "context_length": self.context_length,
            "seconds": self.seconds,
            "per_document": [
                {
                    "id": document.id,
                    "bytes": document.bytes,
                    "tokens": document.tokens,
                    "bits_per_byte": document.bits_per_byte,
                }
                for document in self.documents
            ],
        }


def bits_per_byte(
    score: ScoreWindows,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    context_length: int,
    *,
    batch: int = DEFAULT_BATCH,
    progress: Callable[[float], Any] | None = None,
) -> PerplexityResult:
    """Score every document in windows of `context_length`, `batch` windows at a time.

    Documents without text are left out. `progress` is told how many bytes each window stood for.
    Raises DataError when there is no text at all, CheckpointError when a score is not finite.
    """
    began = time.perf_counter()
    tallies: list[_Tally] = []
    windows = _windows(documents, tokenizer, context_length)
    while group := list(itertools.islice(windows, batch)):
        for window, value in zip(group, _score_group(score, group), strict=True):
            if not tallies or tallies[-1] is not window.tally:
                tallies.append(window.tally)
            window.tally.nats -= float(value)
            if progress is not None:
                progress(window.tally.bytes * len(window.targets) / window.tally.tokens)
    if not tallies:
        raise DataError("there is no text to measure the model on: every document is empty")
    scores = tuple(DocumentScore(one.id, one.bytes, one.tokens, one.nats) for one in tallies)
    return PerplexityResult(scores, context_length, time.perf_counter() - began)


@dataclass
class _Tally:
    """A document while its windows are scored."""

    id: str
    bytes: int
    tokens: int
    nats: float = 0.0


@dataclass(frozen=True)
class _Window:
    """A piece of a document: inputs and the targets they predict, of equal length."""

    tally: _Tally
    inputs: Sequence[int]
    targets: Sequence[int]


def _windows(
    documents: Iterable[Document], tokenizer: Tokenizer, context_length: int
) -> Iterator[_Window]:
    for document in documents:
        ids = tokenizer.encode(document.text, bos=True)
        tally = _Tally(document.id, len(document.text.encode("utf-8")), len(ids) - 1)
        for start in range(0, tally.tokens, context_length):
            end = min(start + context_length, tally.tokens)
            yield _Window(tally, ids[start:end], ids[start + 1 : end + 1])


def _score_group(score: ScoreWindows, group: Sequence[_Window]) -> npt.NDArray[np.float64]:
    """The windows' log-probabilities, computed together."""
    values = score(
        [
            (np.array(one.inputs, dtype=np.int64), np.array(one.targets, dtype=np.int64))
            for one in group
        ]
    )
    if not np.isfinite(values).all():
        raise CheckpointError(
            "the model's scores are not finite numbers",
            hint="its weights are damaged or its training diverged; try an earlier checkpoint",
        )
    return values


def backend_scores(backend: Backend) -> ScoreWindows:
    """Scores windows with a backend: a chunk for each, in pages that this reserves."""
    reserved = 0

    def score(windows: Sequence[Pair]) -> npt.NDArray[np.float64]:
        nonlocal reserved
        longest = max(len(inputs) for inputs, _targets in windows)
        at_once = min(len(windows), max(1, ROWS_AT_ONCE // longest))
        if at_once * pages_for(longest) > reserved:
            reserved = at_once * pages_for(longest)
            backend.reserve(reserved)
        groups = [windows[start : start + at_once] for start in range(0, len(windows), at_once)]
        return np.concatenate([_sums(backend, group) for group in groups])

    return score


def _sums(backend: Backend, windows: Sequence[Pair]) -> npt.NDArray[np.float64]:
    """One step over whole windows, each in pages of its own from page 0 on."""
    ends = np.cumsum([pages_for(len(inputs)) for inputs, _targets in windows], dtype=np.int32)
    tables = np.split(np.arange(ends[-1], dtype=np.int32), ends[:-1])
    chunks = [
        Chunk(table, 0, inputs, len(inputs))
        for table, (inputs, _targets) in zip(tables, windows, strict=True)
    ]
    scores = backend.score(chunks, np.concatenate([targets for _inputs, targets in windows]))
    starts = np.cumsum([0, *(len(chunk.ids) for chunk in chunks[:-1])])
    sums: npt.NDArray[np.float64] = np.add.reduceat(scores, starts)
    return sums
