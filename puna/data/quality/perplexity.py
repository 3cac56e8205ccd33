"""CCNet's perplexity by an n-gram model of Wikipedia, and its buckets head, middle and tail.

As CCNet (Wenzek et al. 2020) has it: lines are normalised, cut by a SentencePiece unigram model,
and scored from <s> to </s>; perplexity = 10 ^ (- sum of log10 p / sum of (pieces + 1)).
Its cutoffs for English, 340 and 520, are those of its own models: other training text, others.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from puna.data import files
from puna.data.document import Document, Dropped, Results
from puna.data.quality.ngram_model import NgramModel
from puna.errors import ConfigError, DataError

PIECES, MODEL, FACTS = "pieces.model", "ngrams.npz", "model.json"
BUCKETS = ("head", "middle", "tail")
_DIGIT = re.compile(r"\d")
_MARKS = dict(
    zip(
        "，。、„”“«»」「《》´∶：？！（）；–—．～’━〈〉【】％►",  # noqa: RUF001
        ',.,"""""""""\'::?!();--.~\'-<>[]%-',
        strict=True,
    )
)
_NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class TrainingConfig:
    """CCNet's choices; its text is the first paragraphs of a million articles of Wikipedia."""

    order: int = 5
    vocabulary_size: int = 65_536  # fewer where the text has no more
    character_coverage: float = 0.9995
    max_tokens: int = 10_000_000  # then no more text is read: 3 GB of memory at most
    head_percentile: float = 30  # of the sample's perplexities
    middle_percentile: float = 60
    sample_documents: int = 20_000  # of what is to be judged, about: where the percentiles lie

    def __post_init__(self) -> None:
        if not 2 <= self.order <= 6:
            raise ConfigError(f"order must be from 2 to 6, which kenlm reads, got {self.order}")
        if not 0 < self.head_percentile <= self.middle_percentile < 100:
            raise ConfigError("head_percentile and middle_percentile must rise between 0 and 100")


@dataclass(frozen=True)
class Settings:
    """Which model, and which buckets are kept."""

    model: str = ""  # a folder with one of `perplexity_training.train`'s folders a language
    train: tuple[str, ...] = ()  # instead: sources of whose last documents a build makes it
    training: TrainingConfig = field(default_factory=TrainingConfig)
    language: str = ""  # of all documents; "" for each one's own
    keep: tuple[str, ...] = ("head", "middle")  # as RedPajama; CCNet kept all and told them apart
    head_below: float = 0  # 0 for the model's own cutoff, CCNet's percentile 30
    middle_below: float = 0  # percentile 60

    def __post_init__(self) -> None:
        if unknown := [one for one in self.keep if one not in BUCKETS]:
            raise ConfigError(f"keep should be of {', '.join(BUCKETS)}, found {unknown[0]!r}")
        if self.middle_below and self.middle_below < self.head_below:
            raise ConfigError(
                f"middle_below should be at least head_below, {self.head_below}, "
                f"found {self.middle_below}"
            )
        if self.model and self.train:
            raise ConfigError("perplexity has a model and one to train: give one of both")


@dataclass(frozen=True)
class PerplexityModel:
    """An n-gram model of the pieces of one language, and its cutoffs."""

    pieces: Any  # sentencepiece.SentencePieceProcessor
    ngrams: NgramModel
    head_below: float
    middle_below: float

    def perplexities(self, texts: Sequence[str]) -> list[float]:
        """Each text's; infinite for one without a line."""
        lines = [[one for line in text.split("\n") if (one := normalised(line))] for text in texts]
        encoded = self.pieces.encode([line for part in lines for line in part], num_threads=1)
        arrays = [np.array(numbers, np.int64) for numbers in encoded]
        scores = self.ngrams.scores(arrays)
        found, start = [], 0
        for part in lines:
            end = start + len(part)
            length = sum(len(array) + 1 for array in arrays[start:end])
            exponent = -float(scores[start:end].sum()) / length if length else np.inf
            found.append(float(10**exponent))
            start = end
        return found


def needs(settings: Settings) -> list[str]:
    """The model, where one is named."""
    return [settings.model] if settings.model else []


def apply(documents: Sequence[Document], settings: Settings) -> list[Document | Dropped]:
    """Each document of a bucket that is kept; else Dropped: "perplexity tail", no model.

    Counts documents by language and bucket. Raises DataError where the model's folder holds none
    or is damaged.
    """
    results = Results(documents, counts := Counter[str]())
    languages = [settings.language or document.language for document in documents]
    for language in sorted(set(languages)):
        numbers = [number for number, one in enumerate(languages) if one == language]
        model = load(files.join(settings.model, language)) if language else None
        texts = [documents[number].text for number in numbers]
        values = model.perplexities(texts) if model else [0.0] * len(texts)
        for number, value in zip(numbers, values, strict=True):
            reason = "language unknown"
            if model:
                bucket = _bucket(value, model, settings)
                counts[f"{language} {bucket}"] += 1
                reason = "" if bucket in settings.keep else f"perplexity {bucket}"
            if reason:
                results[number] = _dropped(documents[number], reason, f"{value:.0f}")
    return results


def normalised(line: str) -> str:
    """A line as CCNet's models see it: small letters, no accents, digits 0, marks of ASCII."""
    line = line.strip().lower()
    if not line.isascii():
        line = unicodedata.normalize("NFD", line).translate(_ascii_marks())
    line = _DIGIT.sub("0", line)
    return line if line.isprintable() else _NOT_PRINTED.sub("", line)


@functools.cache
def _ascii_marks() -> dict[int, str]:
    """No accents (Unicode's Mn); quotes, dashes and full-width marks as those of ASCII."""
    accents = (one for one in range(0x300, 0x20000) if unicodedata.category(chr(one)) == "Mn")
    return {**dict.fromkeys(accents, ""), **str.maketrans({**_MARKS, "…": "..."})}


@functools.lru_cache(maxsize=4)
def load(folder: str) -> PerplexityModel:
    """The model of one language. Raises DataError where there is none or it is damaged."""
    import sentencepiece

    facts = files.read_json(files.join(folder, FACTS))
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(files.read_bytes(files.join(folder, PIECES)))
        head, middle = float(facts["head_below"]), float(facts["middle_below"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{folder} is no perplexity model: {error}") from None
    return PerplexityModel(pieces, NgramModel.load(files.join(folder, MODEL)), head, middle)


def _bucket(value: float, model: PerplexityModel, settings: Settings) -> str:
    if value < (settings.head_below or model.head_below):
        return "head"
    return "middle" if value < (settings.middle_below or model.middle_below) else "tail"


def _dropped(document: Document, reason: str, detail: str) -> Dropped:
    size = len(document.text.encode())
    return Dropped(document.id, document.source, reason, detail, size, document.text[:200])
