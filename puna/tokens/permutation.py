"""A shuffled order of n things that is never written down: place -> thing, computed when asked."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8  # four make a Feistel network a good shuffle of a large domain; small ones need more
_MULTIPLY_FIRST = np.uint64(0xBF58476D1CE4E5B9)  # the constants of splitmix64's finaliser
_MULTIPLY_SECOND = np.uint64(0x94D049BB133111EB)


class Permutation:
    """The order of `size` things that `name` stands for; the same on every machine, for ever.

    A Feistel network over pairs (left, right) of numbers below s = ceil(sqrt(size)), whose rounds
    are (left, right) -> (right, (left + mix(right, key)) mod s). Each round can be undone, so all
    of them together permute the s² pairs. Those pairs that stand for no thing (at most 2s of
    them) are put through the network again until one does, which permutes the things themselves.
    """

    def __init__(self, size: int, name: str) -> None:
        """Derive the keys from `name`. `size` is from 1 to 2**62."""
        if not 1 <= size <= 1 << 62:
            raise ValueError(f"size must be from 1 to 2**62, got {size}")
        self.size = size
        self._side = math.isqrt(size - 1) + 1
        digest = hashlib.blake2b(name.encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = np.frombuffer(digest, np.dtype("<u8")).astype(np.uint64)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The things at `places` of the order; memory grows with `places`, never with `size`.

        Raises ValueError for a place outside 0 .. size - 1.
        """
        if len(places) and not 0 <= places.min() <= places.max() < self.size:
            raise ValueError(f"places must be from 0 to {self.size - 1}")
        values = self._shuffle(places.astype(np.uint64))
        while len(outside := np.flatnonzero(values >= self.size)):
            values[outside] = self._shuffle(values[outside])
        return values.astype(np.int64)

    def _shuffle(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        side = np.uint64(self._side)
        left, right = np.divmod(values, side)
        for key in self._keys:
            left, right = right, (left + _mix(right ^ key) % side) % side
        return left * side + right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64 bits, as splitmix64 finishes."""
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLY_FIRST
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLY_SECOND
    return values ^ (values >> np.uint64(31))
