"""Takes out of the training text what benchmarks ask: shared sequences of 13 words.

As GPT-3 (Brown et al. 2020, appendix C): words are in small letters without punctuation; a shared
sequence is cut out with 200 characters on both sides, pieces shorter than 200 characters go, and a
document that falls into more than 10 pieces is dropped. A sequence that more than 10 documents have
is common text and stays: `puna.data.decontaminate_rounds`, the stage of a build, counts them; who
calls `apply` cannot know. The LLaMA paper does not say what it did.
`puna.data.benchmarks` compiles the benchmarks. Two sequences are taken for equal where their 64-bit
hashes are: about one in 10 ** 12 words against a million sequences is so by accident.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.data import files
from puna.data.document import Document, Dropped
from puna.errors import ConfigError, DataError

WORDS = 13
ACTIONS = ("cut", "drop")
_MARKS = re.compile(r"[^\w\s]|_")
_WORD = re.compile(r"\S+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FILTER_BITS = 24  # of a hash, one byte each: nearly all that is in no benchmark ends there
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Settings:
    """The benchmarks, and what happens to documents that share text with them."""

    benchmarks: str = ""  # a file that `puna.data.benchmarks.compile_sets` wrote
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # instead: name = [files]
    action: str = "cut"  # or "drop": the whole document
    window_characters: int = 200  # cut on both sides, GPT-3
    min_piece_characters: int = 200  # shorter pieces between cuts go, GPT-3
    max_pieces: int = 10  # a document in more pieces is dropped, GPT-3
    max_documents: int = 10  # a sequence in more of them stays, GPT-3; 0: however many have it

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"action should be {' or '.join(ACTIONS)}, found {self.action!r}")
        if self.max_documents < 0:
            raise ConfigError(f"max_documents should be 0 or more, found {self.max_documents}")
        if self.benchmarks and self.sets:
            raise ConfigError("decontaminate has benchmarks and sets to compile: give one of both")


@dataclass(frozen=True)
class Benchmarks:
    """The sequences of several benchmark sets: sorted hashes, each one's set and example."""

    hashes: Hashes
    sets: npt.NDArray[np.uint16]
    examples: npt.NDArray[np.uint32]
    names: tuple[str, ...]
    filter: npt.NDArray[np.bool_]

    @staticmethod
    def load(path: str) -> Benchmarks:
        """The compiled sets in a file. Raises DataError where it holds none."""
        try:
            with files.open_bytes(path) as file:
                arrays = np.load(file, allow_pickle=False)
                hashes, names = arrays["hashes"], tuple(arrays["names"].tolist())
                sets, examples = arrays["sets"], arrays["examples"]
        except (ValueError, KeyError, OSError, TypeError, EOFError) as error:
            raise DataError(
                f"{path} holds no benchmarks: {error}",
                hint="compile them with puna.data.benchmarks.compile_sets",
            ) from None
        bits = np.zeros(1 << _FILTER_BITS, bool)
        bits[hashes >> np.uint64(64 - _FILTER_BITS)] = True
        return Benchmarks(hashes, sets, examples, names, bits)

    def places(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Which of these are in a benchmark."""
        maybe = np.flatnonzero(self.filter[hashes >> np.uint64(64 - _FILTER_BITS)])
        place = np.searchsorted(self.hashes, hashes[maybe])
        place = np.minimum(place, len(self.hashes) - 1)
        found: npt.NDArray[np.int64] = maybe[self.hashes[place] == hashes[maybe]]
        return found

    def entries(self, hashes: Hashes) -> set[tuple[int, int]]:
        """Set and example of each benchmark text that has one of these."""
        low = np.searchsorted(self.hashes, hashes, "left")
        high = np.searchsorted(self.hashes, hashes, "right")
        return {
            (int(self.sets[at]), int(self.examples[at]))
            for first, last in zip(low.tolist(), high.tolist(), strict=True)
            for at in range(first, last)
        }


_NONE: Hashes = np.zeros(0, np.uint64)


@dataclass
class Overlap:
    """What documents share with one set: sequences, documents, and which examples."""

    sequences: int = 0
    documents: int = 0
    examples: set[int] = field(default_factory=set)


def apply(documents: Sequence[Document], settings: Settings) -> list[Document | Dropped]:
    """Each document without what it shares with benchmarks, or Dropped: "benchmark NAME".

    Raises DataError where the compiled benchmarks cannot be read.
    """
    benchmarks = loaded(settings.benchmarks)
    return [cleaned(document, benchmarks, settings) for document in documents]


def overlaps(documents: Sequence[Document], benchmarks: Benchmarks) -> dict[str, Overlap]:
    """What the documents share with each set, to report."""
    found = {name: Overlap() for name in benchmarks.names}
    for document in documents:
        hashes = sequence_hashes(words_of(document.text))
        shared = hashes[benchmarks.places(hashes)]
        here: set[int] = set()
        for one in shared:
            entries = benchmarks.entries(np.array([one]))
            for number, example in entries:
                found[benchmarks.names[number]].examples.add(example)
            sets = {number for number, _ in entries}
            here |= sets
            for number in sets:
                found[benchmarks.names[number]].sequences += 1
        for number in here:
            found[benchmarks.names[number]].documents += 1
    return found


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation."""
    return _MARKS.sub("", text.lower()).split()


def sequence_hashes(words: Sequence[str]) -> Hashes:
    """The hash of each 13 words in a row; the same on every machine."""
    each = np.fromiter(map(_hash, words), np.uint64, len(words))
    count = len(words) - WORDS + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    found = np.zeros(count, np.uint64)
    for start in range(WORDS):
        found = found * _MULTIPLIER + each[start : start + count]
    found = (found ^ (found >> np.uint64(32))) * _MULTIPLIER
    return found


def cleaned(
    document: Document, benchmarks: Benchmarks, settings: Settings, common: Hashes = _NONE
) -> Document | Dropped:
    """A document without what it shares with benchmarks, but for common sequences; or Dropped."""
    hashes = sequence_hashes(words_of(document.text))
    places = benchmarks.places(hashes)
    places = places[~np.isin(hashes[places], common)]
    if not len(places):
        return document
    entries = benchmarks.entries(hashes[places])
    pieces: list[str] = []
    if settings.action == "cut":
        pieces = _pieces(document.text, places, settings)
        if 0 < len(pieces) <= settings.max_pieces:
            return replace(document, text="\n".join(pieces))
    names = sorted({benchmarks.names[number] for number, _ in entries})
    size = len(document.text.encode())
    detail = f"{', '.join(names)}: {len(places)} sequences of {WORDS} words"
    excerpt = document.text[:200]
    return Dropped(document.id, document.source, f"benchmark {names[0]}", detail, size, excerpt)


def _pieces(text: str, places: npt.NDArray[np.int64], settings: Settings) -> list[str]:
    """What is left of a text without the sequences at these places and what is around them."""
    spans = [
        one.span() for one in _WORD.finditer(text) if _MARKS.sub("", one.group().lower()).strip()
    ]
    pieces, start, window = [], 0, settings.window_characters
    for place in places.tolist():
        begin, end = spans[place][0] - window, spans[place + WORDS - 1][1] + window
        if begin > start:
            pieces.append(text[start:begin])
        start = max(start, end)
    pieces.append(text[start:])
    stripped = [piece.strip() for piece in pieces]
    return [one for one in stripped if one and len(one) >= settings.min_piece_characters]


@functools.lru_cache(maxsize=1 << 20)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")


@functools.lru_cache(maxsize=2)
def loaded(path: str) -> Benchmarks:
    """The compiled sets in a file, read once. Raises DataError where it holds none."""
    return Benchmarks.load(path)


def save(path: str, entries: Sequence[tuple[Hashes, int, int]], names: Sequence[str]) -> None:
    """Write the hashes of (sequences, set, example) sorted, without copies."""
    sizes = [len(hashes) for hashes, _, _ in entries]
    hashes = np.concatenate([hashes for hashes, _, _ in entries])
    sets = np.repeat(np.array([one for _, one, _ in entries], np.uint16), sizes)
    examples = np.repeat(np.array([one for _, _, one in entries], np.uint32), sizes)
    order = np.lexsort((examples, sets, hashes))
    hashes, sets, examples = hashes[order], sets[order], examples[order]
    is_new = np.ones(len(hashes), bool)
    is_new[1:] = (np.diff(hashes) != 0) | (np.diff(sets) != 0) | (np.diff(examples) != 0)
    columns: dict[str, Any] = {
        "hashes": hashes[is_new],
        "sets": sets[is_new],
        "examples": examples[is_new],
        "names": np.array(list(names), str),
    }
    with files.write_whole(path) as file:
        np.savez(file, **columns)
