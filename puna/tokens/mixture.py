"""Several sources' shards as one text to train on, each with its share of the tokens (paper 2.1).

A mixture.json names the shards of each source and its share. Nothing is copied or interleaved on
disk: which source a sequence comes from is decided by its position (docs/decisions/0006).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from puna import schema
from puna.errors import DataError
from puna.tokens.loader import TokenLoader
from puna.tokens.shards import ShardSet
from puna.tokens.tokenizer import Tokenizer

KIND = "puna.mixture"
MIXTURE_NAME = "mixture.json"

# Position p falls on p * _STEP mod _CIRCLE: the golden ratio's steps spread more evenly than any
# draw, so that every stretch of positions has each source's share to within a few sequences.
_CIRCLE = 1 << 32
_STEP = 2_654_435_769


def normalised(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares in any unit as parts of one."""
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def epochs(
    shares: Mapping[str, float], unique_tokens: Mapping[str, int], tokens: float
) -> dict[str, float]:
    """How often a model that sees `tokens` reads each source (paper, table 1).

    tokens_i = share_i * tokens; epochs_i = tokens_i / unique_tokens_i
    """
    parts = normalised(shares)
    return {name: parts[name] * tokens / unique_tokens[name] for name in shares}


@dataclass(frozen=True)
class Mixture:
    """Each source's shards and its share, and what is held out of all; `folder` has the file."""

    folder: Path
    sources: Mapping[str, ShardSet]
    shares: Mapping[str, float]
    heldout: ShardSet | None = None

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Mixture:
        """The mixture that `puna data build` wrote; with `verify` every byte, by SHA-256.

        Raises DataError when there is none or a source's shards are missing or changed;
        SchemaError when it is of a newer Puna.
        """
        record = schema.read_json(folder / MIXTURE_NAME, KIND)
        try:
            entries = dict(record["sources"])
            shares = normalised({name: float(one["share"]) for name, one in entries.items()})
            sources = {name: _open(folder, one, verify) for name, one in entries.items()}
            heldout = _open(folder, record["heldout"], verify) if record["heldout"] else None
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise DataError(
                f"{folder / MIXTURE_NAME} is damaged: {type(error).__name__}: {error}",
                hint="puna data build writes it again",
            ) from None
        return cls(folder, sources, shares, heldout)

    @property
    def tokens(self) -> int:
        """All sources' tokens, each counted once."""
        return sum(shards.tokens for shards in self.sources.values())

    @property
    def fingerprint(self) -> str:
        """One SHA-256 over what training reads: every source's shards, and the shares."""
        facts = [[one, self.shares[one], self.sources[one].fingerprint] for one in self.sources]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise DataError unless every source's shards were made with this tokenizer file."""
        for shards in self.sources.values():
            shards.require_tokenizer(tokenizer)

    def epochs(self, tokens: float) -> dict[str, float]:
        """How often a run of so many tokens reads each source."""
        unique = {name: shards.tokens for name, shards in self.sources.items()}
        return epochs(self.shares, unique, tokens)

    def describe(self, tokens: float) -> str:
        """Each source's share and how often a run of so many tokens reads it, in a line."""
        read = self.epochs(tokens)
        parts = [f"{name} {self.shares[name]:.1%} ({read[name]:.2f} epochs)" for name in read]
        return ", ".join(parts)


def _open(folder: Path, entry: Mapping[str, Any], verify: bool) -> ShardSet:
    """The shards of one entry, which must be those that the mixture was written for."""
    shards = ShardSet.open(folder / str(entry["folder"]), verify=verify)
    if shards.fingerprint != entry["fingerprint"]:
        raise DataError(
            f"{shards.folder} holds other shards than {folder / MIXTURE_NAME} names",
            hint="puna data build writes both again",
        )
    return shards


class MixtureLoader:
    """Training sequences of a mixture: as TokenLoader's, in an order that needs no state.

    Every source has a TokenLoader of its own and is read in its order, epoch after epoch.
    """

    def __init__(self, mixture: Mixture, context_length: int, seed: int) -> None:
        """Raises ConfigError and DataError as TokenLoader does, for any of the sources."""
        self.shards = mixture
        self.context_length = context_length
        self.seed = seed
        self._loaders = [
            TokenLoader(shards, context_length, seed) for shards in mixture.sources.values()
        ]
        shares = np.array([mixture.shares[name] for name in mixture.sources])
        ends = np.round(np.cumsum(shares) / shares.sum() * _CIRCLE).astype(np.int64)
        self._begins = [0, *(int(end) for end in ends)]

    @property
    def windows_per_epoch(self) -> int:
        """Sequences until the source that is repeated most has been read once."""
        sizes = np.diff(self._begins) / _CIRCLE
        pairs = zip(self._loaders, sizes, strict=True)
        return max(1, int(min(loader.windows_per_epoch / size for loader, size in pairs)))

    def sequences(self, position: int, count: int) -> NDArray[np.int64]:
        """The `count` sequences from `position` on: int64 [count, context_length + 1]."""
        return self.sequences_at(np.arange(position, position + count))

    def sequences_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sequence at each position: int64 [len(positions), context_length + 1].

        Raises ValueError for a negative position.
        """
        result = np.empty((len(positions), self.context_length + 1), np.int64)
        if not len(positions):
            return result
        first, last = int(positions.min()), int(positions.max())
        if first < 0:
            raise ValueError(f"positions start at 0, got {first}")
        every = self._sources(np.arange(first, last + 1))
        wanted = positions - first
        for source, loader in enumerate(self._loaders):
            is_its = every == source
            places = self._before(source, first) + np.cumsum(is_its) - 1
            rows = np.flatnonzero(is_its[wanted])
            if len(rows):
                result[rows] = loader.sequences_at(places[wanted[rows]])
        return result

    def source_of(self, positions: NDArray[np.int64]) -> list[str]:
        """The name of the source that each position's sequence is from."""
        names = list(self.shards.sources)
        return [names[source] for source in self._sources(positions)]

    def _sources(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        places = (positions.astype(np.uint64) * np.uint64(_STEP)) % np.uint64(_CIRCLE)
        ends = np.array(self._begins[1:], np.uint64)
        return np.searchsorted(ends, places, side="right").astype(np.int64)

    def _before(self, source: int, position: int) -> int:
        """How many of the positions from 0 to before `position` are of a source."""
        begin, end = self._begins[source : source + 2]
        return _count_below(position, end) - _count_below(position, begin)


def loader_of(
    shards: ShardSet | Mixture, context_length: int, seed: int
) -> TokenLoader | MixtureLoader:
    """What reads training sequences from one source's shards, or from those of a mixture."""
    if isinstance(shards, Mixture):
        return MixtureLoader(shards, context_length, seed)
    return TokenLoader(shards, context_length, seed)


def _count_below(positions: int, limit: int) -> int:
    """How many p in range(positions) have p * _STEP mod _CIRCLE < limit.

    [x mod M < t] = floor(x / M) - floor((x - t) / M)
    """
    if limit >= _CIRCLE:
        return positions
    whole = _floor_sum(positions, _CIRCLE, _STEP, 0)
    return whole - _floor_sum(positions, _CIRCLE, _STEP, _CIRCLE - limit) + positions


def _floor_sum(count: int, modulus: int, step: int, start: int) -> int:
    """The sum of floor((step * i + start) / modulus) for i in range(count), as Euclid's algorithm.

    Each turn swaps modulus and step (Knuth, Concrete Mathematics 3.5), so there are about 30.
    """
    total = 0
    while count > 0:
        total += (step // modulus) * (count * (count - 1) // 2) + (start // modulus) * count
        step, start = step % modulus, start % modulus
        highest = step * count + start
        if highest < modulus:
            break
        count, start = highest // modulus, highest % modulus
        modulus, step = step, modulus
    return total
