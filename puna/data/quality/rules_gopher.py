"""Gopher's rules of quality and repetition (Rae et al. 2021, appendix A.1.1).

Words are what white space parts. An n-gram's characters are those of its words, for the most
frequent one with a space between them, as in datatrove; shares are of the text's characters.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.data.words import Words, words_of

_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")
_ELLIPSES = ("...", "…")
_BULLETS = ("•", "-")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of a key is lost
_Keys = npt.NDArray[np.uint64]
_Widths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GopherQuality:
    """Thresholds of what words and lines look like."""

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_characters: float = 3
    max_mean_word_characters: float = 10
    max_hash_signs_per_word: float = 0.1
    max_ellipses_per_word: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_words_with_letters: float = 0.8
    min_stop_words: int = 2  # different ones; 0 for text that is not English
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")


@dataclass(frozen=True)
class GopherRepetition:
    """The largest shares of lines, paragraphs and characters that may be repetitions."""

    max_duplicate_lines: float = 0.30
    max_duplicate_paragraphs: float = 0.30
    max_duplicate_line_characters: float = 0.20
    max_duplicate_paragraph_characters: float = 0.20
    max_top_ngram_characters: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    max_duplicate_ngram_characters: tuple[tuple[int, float], ...] = (
        (5, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    )


def quality_problem(text: str, words: Words, rules: GopherQuality) -> str | None:
    """The first rule of quality that a text with these words does not meet; None for a good one."""
    count = len(words)
    if not rules.min_words <= count <= rules.max_words:
        return "few words" if count < rules.min_words else "many words"
    mean = int(words.characters.sum()) / count
    if not rules.min_mean_word_characters <= mean <= rules.max_mean_word_characters:
        return "mean word length"
    if text.count("#") > rules.max_hash_signs_per_word * count:
        return "hash signs"
    if sum(map(text.count, _ELLIPSES)) > rules.max_ellipses_per_word * count:
        return "ellipses"
    lines = _lines(text)
    if sum(line.startswith(_BULLETS) for line in lines) > rules.max_bullet_lines * len(lines):
        return "bullet lines"
    if sum(line.endswith(_ELLIPSES) for line in lines) > rules.max_ellipsis_lines * len(lines):
        return "ellipsis lines"
    lettered = int(np.count_nonzero(words.begins_with_letter))
    if lettered < rules.min_words_with_letters * count:
        lettered = sum(any(map(str.isalpha, word)) for word in text.split())
    if lettered < rules.min_words_with_letters * count:
        return "words without letters"
    return None if _has_stop_words(words, rules) else "stop words"


def repetition_problem(text: str, words: Words, rules: GopherRepetition) -> str | None:
    """The first rule of repetition that a text does not meet; None for one that repeats little."""
    size = len(text)
    limits = (
        ("lines", _lines(text), rules.max_duplicate_lines, rules.max_duplicate_line_characters),
        (
            "paragraphs",
            _PARAGRAPHS.split(text.strip()),
            rules.max_duplicate_paragraphs,
            rules.max_duplicate_paragraph_characters,
        ),
    )
    for name, parts, max_share, max_characters in limits:
        duplicates, characters = _duplicates(parts)
        if duplicates > max_share * len(parts):
            return f"duplicate {name}"
        if characters > max_characters * size:
            return f"characters in duplicate {name}"
    ngrams = _NGrams(words)
    for length, share in sorted(rules.max_top_ngram_characters):
        if ngrams.has_top_above(length, share * size):
            return f"most frequent {length}-gram"
    for length, share in sorted(rules.max_duplicate_ngram_characters):
        if ngrams.has_duplicates_above(length, share * size):
            return f"duplicate {length}-grams"
    return None


def _has_stop_words(words: Words, rules: GopherQuality) -> bool:
    wanted = rules.min_stop_words
    for number in _numbers(rules.stop_words):
        if wanted <= 0:
            break
        wanted -= bool((words.numbers == number).any())
    return wanted <= 0


@functools.cache
def _numbers(words: tuple[str, ...]) -> tuple[np.uint64, ...]:
    """The numbers of different words, in their order."""
    return tuple(dict.fromkeys(words_of(" ".join(words)).numbers))


def _lines(text: str) -> list[str]:
    return [line for one in text.splitlines() if (line := one.strip())]


def _duplicates(parts: Iterable[str]) -> tuple[int, int]:
    """How many parts equal an earlier one, and their characters."""
    counts = Counter(parts)
    extra = {part: count - 1 for part, count in counts.items() if count > 1}
    return sum(extra.values()), sum(len(part) * count for part, count in extra.items())


class _NGrams:
    """The n-grams of a text as 64-bit keys. Ask for short ones first.

    An n-gram occurs at most as often as any shorter one within it: such bounds, times the longest
    n-gram, spare most texts the exact count, which takes ten times as long.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        self._ends = np.zeros(len(words) + 1, np.int64)
        np.cumsum(words.characters, out=self._ends[1:])
        self._keys, self._length = words.numbers, 1
        self._most = self._repeats = len(words)  # bounds, smaller as n-grams grow

    def has_top_above(self, length: int, limit: float) -> bool:
        """Whether all copies of the most frequent n-gram (the first of equals) are longer."""
        keys, widths = self._grow(length)
        widths = widths + (length - 1)
        longest = int(widths.max(initial=0))
        if self._most * longest <= limit:
            return False
        self._most = _largest_count(keys)
        if self._most * longest <= limit:
            return False
        key, count = Counter(keys.tolist()).most_common(1)[0]
        return count * int(widths[np.argmax(keys == np.uint64(key))]) > limit

    def has_duplicates_above(self, length: int, limit: float) -> bool:
        """Whether n-grams that came before, read on behind each that is found, are longer."""
        keys, widths = self._grow(length)
        longest = int(widths.max(initial=0))
        if self._repeats * longest <= limit:
            return False
        ordered = np.sort(keys)
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        self._repeats = len(again)
        if self._repeats * longest <= limit or self._in_repeats(again, length) <= limit:
            return False
        return sum(_repeated_widths(keys.tolist(), widths.tolist(), length)) > limit

    def _in_repeats(self, again: _Keys, length: int) -> int:
        """The characters of all words in n-grams that came before: more cannot be read.

        `again` are the sorted keys of n-grams that occur twice or more, one at least.
        """
        places = np.minimum(np.searchsorted(again, self._keys), len(again) - 1)
        found = np.flatnonzero(again[places] == self._keys)
        _, firsts = np.unique(self._keys[found], return_index=True)
        repeated = np.delete(found, firsts)
        begun = np.zeros(len(self._words) + 1, np.int64)
        begun[repeated] += 1
        begun[repeated + length] -= 1
        return int(self._words.characters[np.cumsum(begun[:-1]) > 0].sum())

    def _grow(self, length: int) -> tuple[_Keys, _Widths]:
        """The keys of all n-grams of this length, and their characters."""
        while self._length < length:
            longer = self._words.numbers[self._length :]
            self._keys = self._keys[: len(longer)] * _MULTIPLIER + longer
            self._length += 1
        count = len(self._keys)
        return self._keys, self._ends[length : length + count] - self._ends[:count]


def _run_starts(keys: _Keys) -> npt.NDArray[np.int64]:
    """Where each new key but the first begins, in the sorted keys."""
    ordered = np.sort(keys)
    return np.flatnonzero(ordered[1:] != ordered[:-1]) + 1


def _largest_count(keys: _Keys) -> int:
    edges = np.concatenate(([0], _run_starts(keys), [len(keys)]))
    return int((edges[1:] - edges[:-1]).max())


def _repeated_widths(keys: list[int], widths: list[int], length: int) -> Iterator[int]:
    seen: set[int] = set()
    place = 0
    while place < len(keys):
        if keys[place] in seen:
            yield widths[place]
            place += length
        else:
            seen.add(keys[place])
            place += 1
