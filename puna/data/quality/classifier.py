"""Is a page like those that Wikipedia refers to: a linear model of hashed words (paper 2.1).

As fastText's, it sees words and pairs of neighbours, hashed into buckets; logistic regression on
square roots of counts, scaled to length 1, so that a page's length does not matter.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from puna.data import files
from puna.data.document import Document, Dropped, Results
from puna.errors import ConfigError, DataError

BUCKETS = 1 << 20
_WORD = re.compile(r"\w+|[^\w\s]")
_PAIR = np.uint64(0x9E3779B97F4A7C15)
_KEPT_HASHES = 1 << 20
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """Which model, and the score that a page needs."""

    model: str = ""  # an .npz file that `train` and `Classifier.save` made
    references: str = ""  # instead: a source of Wikipedia's dumps; pages it refers to are positive
    positive: tuple[str, ...] = ()  # instead, or as well: files of pages, as the source own reads
    negative: tuple[str, ...] = ()  # other pages than those that come to the stage
    pages: int = 50_000  # of each kind at most; RedPajama had 300,000
    min_pages: int = 1000  # of each kind; with fewer the build stops
    min_score: float = 0.25  # RedPajama's; LLaMA gives none

    def __post_init__(self) -> None:
        if self.model and (self.references or self.positive or self.negative):
            raise ConfigError("classifier has a model and pages to learn from: give one of both")
        if self.negative and not (self.references or self.positive):
            raise ConfigError("classifier has negative pages and no positive ones")
        if not 1 <= self.min_pages <= self.pages:
            raise ConfigError(
                f"min_pages must be from 1 to pages, {self.pages}, found {self.min_pages}"
            )


@dataclass(frozen=True)
class Classifier:
    """A weight a bucket, and one for all pages; float32."""

    weights: _Floats
    bias: float

    def scores(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Each text's probability to be a reference; the model's own share for an empty one."""
        values = np.array([self.bias + _dot(self.weights, *features(text)) for text in texts])
        scores: npt.NDArray[np.float64] = 1 / (1 + np.exp(-values))
        return scores

    def save(self, path: str) -> None:
        """Write an .npz file, here or at a URL."""
        with files.write_whole(path) as file:
            np.savez_compressed(file, weights=self.weights, bias=np.array(self.bias))

    @staticmethod
    def load(path: str | Path) -> Classifier:
        """The classifier in a file. Raises DataError where it is none."""
        try:
            with files.open_bytes(str(path)) as file:
                arrays = np.load(file, allow_pickle=False)
                weights, bias = arrays["weights"], float(arrays["bias"])
        except (ValueError, KeyError, OSError, TypeError, EOFError) as error:
            raise DataError(f"{path} is no classifier: {error}") from None
        if weights.shape != (BUCKETS,):
            raise DataError(f"{path} should have {BUCKETS} weights, found {weights.shape}")
        return Classifier(weights, bias)


def needs(settings: Settings) -> list[str]:
    """The model, and the files it is made of, where they are named."""
    return [*([settings.model] if settings.model else []), *settings.positive, *settings.negative]


def apply(documents: Sequence[Document], settings: Settings) -> list[Document | Dropped]:
    """Each document with a score of `min_score` or more; else Dropped: "unlike references".

    Counts documents by their score's first decimal. Raises DataError where the model cannot be
    read.
    """
    scores = _loaded(settings.model).scores([document.text for document in documents])
    counts = Counter(f"score 0.{min(int(10 * score), 9)}" for score in scores.tolist())
    found = (
        document if score >= settings.min_score else _dropped(document, score)
        for document, score in zip(documents, scores.tolist(), strict=True)
    )
    return Results(found, counts)


def features(text: str) -> tuple[npt.NDArray[np.int64], _Floats]:
    """The buckets of a text's words and pairs, and their values."""
    words = np.array([_hash(word) for word in _WORD.findall(text.lower())], np.uint64)
    pairs = (words[:-1] * _PAIR) ^ words[1:]
    hashes = np.concatenate([words, pairs]) * _PAIR >> np.uint64(44)  # the top 20 bits
    buckets, counts = np.unique(hashes.astype(np.int64), return_counts=True)
    values = np.sqrt(counts)
    return buckets, (values / max(1.0, float(np.sqrt(counts.sum())))).astype(np.float32)


def train(
    positive: Sequence[str], negative: Sequence[str], *, epochs: int = 10, seed: int = 1
) -> Classifier:
    """Learn by AdaGrad, a text at a time; both classes weigh the same, whatever their numbers.

    Raises DataError where a class has no text.
    """
    if not positive or not negative:
        raise DataError(f"wanted texts of both classes, found {len(positive)} and {len(negative)}")
    examples = [(features(text), 1.0, 0.5 / len(positive)) for text in positive]
    examples += [(features(text), 0.0, 0.5 / len(negative)) for text in negative]
    weights, squares = np.zeros(BUCKETS, np.float32), np.full(BUCKETS, 1e-8, np.float32)
    bias, bias_squares = 0.0, 1e-8
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for number in rng.permutation(len(examples)):
            (buckets, values), wanted, share = examples[number]
            score = 1 / (1 + np.exp(-(bias + _dot(weights, buckets, values))))
            error = (score - wanted) * share * len(examples)
            gradient = np.float32(error) * values + np.float32(_DECAY) * weights[buckets]
            squares[buckets] += gradient * gradient
            weights[buckets] -= np.float32(_RATE) * gradient / np.sqrt(squares[buckets])
            bias_squares += error * error
            bias -= _RATE * error / np.sqrt(bias_squares)
    return Classifier(weights, float(bias))


_RATE, _DECAY = 0.1, 1e-4


def _dot(weights: _Floats, buckets: npt.NDArray[np.int64], values: _Floats) -> float:
    return float(weights[buckets] @ values)


@functools.lru_cache(maxsize=_KEPT_HASHES)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8"))


@functools.lru_cache(maxsize=2)
def _loaded(path: str) -> Classifier:
    return Classifier.load(path)


def _dropped(document: Document, score: float) -> Dropped:
    size = len(document.text.encode())
    return Dropped(
        document.id,
        document.source,
        "unlike references",
        f"{score:.3f}",
        size,
        document.text[:200],
    )
