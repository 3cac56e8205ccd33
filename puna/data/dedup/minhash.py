"""MinHash (Broder 1997): texts as sets of n-grams, and 128 numbers that tell how alike sets are.

The share of equal numbers in two signatures estimates the Jaccard similarity of the sets:
    P(min h(A) = min h(B)) = |A and B| / |A or B|
A hash function of the 128 is h(x) = (a x + b) mod 2^32, with odd a, on well mixed 32-bit numbers.
In bands of r rows, of which one must be equal as a whole, a pair of similarity s is found with
    P = 1 - (1 - s^r)^bands
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from puna.data.words import Numbers, words_of

Unit = Literal["words", "characters"]
Signature = NDArray[np.uint32]

PERMUTATIONS = 128
KIND = b"puna.minhash.2\n\0"  # opens a file of signatures: those of other kinds mean nothing here

_BLOCK_GRAMS = 512  # 512 x 128 numbers of 4 bytes stay in the second cache
_WORD = re.compile(r"\w+")
_MIXERS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))  # of MurmurHash3


def _drawn(count: int, label: bytes) -> NDArray[np.uint32]:
    """Numbers that look random and are the same everywhere."""
    return np.frombuffer(hashlib.shake_128(label).digest(4 * count), "<u4").astype(np.uint32)


_FACTORS = _drawn(PERMUTATIONS, b"minhash factors") | np.uint32(1)
_ADDENDS = _drawn(PERMUTATIONS, b"minhash addends")


def grams(text: str, unit: Unit = "words", length: int = 5) -> Numbers:
    """A 64-bit number for each run of `length` words, or characters, of a text; with repeats.

    Letters count as small, punctuation as nothing. A shorter text is one run; without a letter
    or digit it has none. Characters are SlimPajama's way (13), with one space between words.
    """
    numbers = (
        words_of(text.lower(), "marks").numbers if unit == "words" else _character_numbers(text)
    )
    if not len(numbers):
        return numbers
    length = min(length, len(numbers))
    count = len(numbers) - length + 1
    mixed = np.zeros(count, np.uint64)
    for place in range(length):
        mixed *= _MIXERS[0]
        mixed += numbers[place : place + count]
    return _mix(mixed)


def signature(numbers: Numbers) -> Signature:
    """The smallest value of each of the 128 hash functions over a set's numbers, one at least."""
    values = (numbers >> np.uint64(32)).astype(np.uint32)
    smallest = np.full(PERMUTATIONS, np.uint32(0xFFFFFFFF))
    block = np.empty((PERMUTATIONS, _BLOCK_GRAMS), np.uint32)
    for begin in range(0, len(values), _BLOCK_GRAMS):
        some = values[begin : begin + _BLOCK_GRAMS]
        out = block[:, : len(some)]
        np.multiply(_FACTORS[:, None], some, out=out)
        out += _ADDENDS[:, None]
        np.minimum(smallest, out.min(axis=1), out=smallest)
    return smallest


def band_keys(signatures: NDArray[np.uint32], bands: int) -> Numbers:
    """A 64-bit number for each signature and band: equal where the band's rows all are."""
    rows = signatures.reshape(-1, bands, PERMUTATIONS // bands).astype(np.uint64)
    keys = np.broadcast_to(np.arange(bands, dtype=np.uint64), rows.shape[:2]).copy()
    for place in range(rows.shape[2]):
        keys = _mix(keys * _MIXERS[1] + rows[:, :, place])
    return keys


def similarity(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """The estimated Jaccard similarity of sets from their signatures, row by row."""
    found: NDArray[np.float64] = np.mean(one == other, axis=-1)
    return found


def jaccard(one: Numbers, other: Numbers) -> float:
    """The Jaccard similarity of two sets of numbers, exactly; of empty sets 0."""
    first, second = np.unique(one), np.unique(other)
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / max(len(first) + len(second) - shared, 1)


def _mix(numbers: Numbers) -> Numbers:
    """MurmurHash3's last step: each bit of a number moves all of the result."""
    for factor in _MIXERS:
        numbers = (numbers ^ (numbers >> np.uint64(33))) * factor
    return numbers ^ (numbers >> np.uint64(33))


def _character_numbers(text: str) -> Numbers:
    plain = " ".join(_WORD.findall(unicodedata.normalize("NFC", text).lower()))
    return np.frombuffer(plain.encode("utf-32-le"), "<u4").astype(np.uint64)
