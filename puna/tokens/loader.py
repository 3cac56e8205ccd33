"""Sequences for training, in one global order that needs no state to be resumed."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from puna.errors import ConfigError, DataError
from puna.tokens.permutation import Permutation
from puna.tokens.shards import ShardSet


class TokenLoader:
    """Training sequences from shards, in an order that (seed, epoch) alone decide.

    The corpus is a circle of tokens. An epoch lays a grid of `windows_per_epoch` windows of
    `context_length` tokens on it, from an offset of its own, and takes them in the order of one
    permutation of all windows; so each token (but fewer than `context_length`, others in each
    epoch) is a target exactly once an epoch. A position counts the sequences consumed by the whole
    run, over all processes and epochs: a run goes on from any position, on any number of them.

    Documents follow each other inside a window, divided by end and begin tokens; attention is not
    masked between them. The paper does not say what LLaMA did.
    """

    def __init__(self, shards: ShardSet, context_length: int, seed: int) -> None:
        """Raises ConfigError for a context below 1, DataError for a corpus below one window."""
        if context_length < 1:
            raise ConfigError(f"context_length must be at least 1, got {context_length}")
        if shards.tokens <= context_length:
            raise DataError(
                f"a window of context length {context_length:,} needs {context_length + 1:,} "
                f"tokens, the corpus in {shards.folder} has {shards.tokens:,}",
                hint="give more text, or a shorter model.context_length",
            )
        self.shards = shards
        self.context_length = context_length
        self.seed = seed
        self.windows_per_epoch = shards.tokens // context_length

    def sequences(self, position: int, count: int) -> NDArray[np.int64]:
        """The `count` sequences from `position` on: int64 [count, context_length + 1].

        The first `context_length` columns are the input, the last `context_length` the targets.
        """
        return self.sequences_at(np.arange(position, position + count))

    def sequences_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sequence at each position: int64 [len(positions), context_length + 1].

        Raises ValueError for a negative position.
        """
        if len(positions) and positions.min() < 0:
            raise ValueError(f"positions start at 0, got {positions.min()}")
        epochs, places = np.divmod(positions, self.windows_per_epoch)
        starts = np.empty_like(places)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            starts[of_epoch] = self._starts(int(epoch), places[of_epoch])
        return self.shards.windows(starts, self.context_length + 1)

    def _starts(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the corpus the windows at these places of the epoch's order begin."""
        name = f"puna order 1, seed {self.seed}, epoch {epoch}"
        order = Permutation(self.windows_per_epoch, name)
        digest = hashlib.blake2b(f"{name}, offset".encode(), digest_size=16).digest()
        offset = int.from_bytes(digest, "little") % self.shards.tokens
        return (order(places) * self.context_length + offset) % self.shards.tokens


def rank_slice(position: int, count: int, rank: int, world: int) -> NDArray[np.int64]:
    """The positions that one of `world` processes takes of the `count` from `position` on.

    Together the ranks take each position once; a rank takes every `world`-th, from its own on.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank must be from 0 to {world - 1}, got {rank}")
    return np.arange(position + rank, position + count, world)
