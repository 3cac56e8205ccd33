"""The words of a text as arrays: a number for each word, its length, whether a letter begins it.

A word's number is a polynomial of its characters c0 c1 c2 ..., from sums over the whole text:
    c0 p^0 + c1 p^1 + c2 p^2 + ...  mod 2^64, with an odd p
Equal words have equal numbers on every machine; two others have the same one as rarely as any two
numbers of 64 bits. 8 ns a character; to number the words of str.split() by a dictionary took 30.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]
Parted = Literal["spaces", "marks"]

_PIECE = 1 << 14  # characters at a time, so that what is summed stays in the second cache
_SPACE, _LETTER, _PLAIN = 1, 2, 4
_BASE = 0x9E3779B97F4A7C15
_ENDS = {"spaces": re.compile(r"\s"), "marks": re.compile(r"\W")}


@dataclass(frozen=True)
class Words:
    """A text's words in order; one of more than 16,384 characters may count as several."""

    numbers: Numbers
    characters: NDArray[np.int64]
    begins_with_letter: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.numbers)


def words_of(text: str, parted: Parted = "spaces") -> Words:
    """The words between white space, as str.split() has them, or between `marks`: runs of \\w."""
    found = [_words(piece, parted) for piece in _pieces(text, _ENDS[parted])]
    if len(found) == 1:
        return found[0]
    if not found:
        return Words(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, bool))
    return Words(
        np.concatenate([one.numbers for one in found]),
        np.concatenate([one.characters for one in found]),
        np.concatenate([one.begins_with_letter for one in found]),
    )


def _pieces(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    """A text in pieces that end between words."""
    begin = 0
    while len(text) - begin > 2 * _PIECE:
        found = ends.search(text, begin + _PIECE, begin + 2 * _PIECE)
        end = found.start() if found else begin + 2 * _PIECE
        yield text[begin:end]
        begin = end
    if begin < len(text):
        yield text[begin:] if begin else text


def _words(piece: str, parted: Parted) -> Words:
    codes = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _kinds().take(codes, mode="clip")  # every code is in the table; "clip" is faster
    is_word = np.zeros(len(codes) + 2, bool)
    is_word[1:-1] = kinds & _PLAIN if parted == "marks" else ~kinds & _SPACE
    edges = np.flatnonzero(is_word[1:] != is_word[:-1])
    begins, ends = edges[::2], edges[1::2]
    powers, inverses = _powers()
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    characters = ends - begins
    # The length tells a word from the same one with NUL behind it.
    numbers = (sums[ends] - sums[begins]) * inverses[begins] + characters.astype(np.uint64)
    return Words(numbers, characters, kinds[begins] & _LETTER != 0)


@functools.cache
def _powers() -> tuple[Numbers, Numbers]:
    """The powers of the base, and what each must be multiplied with to give 1."""
    bases = (_BASE, pow(_BASE, -1, 1 << 64))
    first, second = np.ones((2, 2 * _PIECE + 1), np.uint64)
    for powers, base in zip((first, second), bases, strict=True):
        powers[1:] = np.cumprod(np.full(2 * _PIECE, base, np.uint64), dtype=np.uint64)
    return first, second


@functools.cache
def _kinds() -> NDArray[Any]:
    """What each character is, by its code: white space, a letter, a character of \\w."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    plane = 1 << 16
    for first in range(0, len(kinds), plane):
        codes = np.arange(first, first + plane, dtype="<u4")
        text = codes.tobytes().decode("utf-32-le", "surrogatepass")
        for pattern, kind in ((r"\s+", _SPACE), (r"\w+", _PLAIN)):
            for run in re.finditer(pattern, text):
                kinds[first + run.start() : first + run.end()] |= kind
        for run in re.finditer(r"[^\W\d_]+", text):
            is_letter = True if run[0].isalpha() else [one.isalpha() for one in run[0]]
            kinds[first + run.start() : first + run.end()][is_letter] |= _LETTER
    return kinds
