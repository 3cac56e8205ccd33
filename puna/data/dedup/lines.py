"""CCNet's de-duplication of paragraphs (Wenzek et al. 2020, section 3.2), over groups of shards.

A line's key is the first 8 bytes of the SHA-1 of what is left of it: stripped, in lower case, its
digits as 0, without Unicode punctuation and control characters. A line whose key occurs twice in
the group is dropped everywhere, so that no copy survives, or all but the first.
Other than CCNet, empty lines are no lines: they have no key, and stay between the lines kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from puna.data.document import Document, Dropped

NO_LINES_LEFT = "no lines left"
Keys = npt.NDArray[np.uint64]
_DIGITS = re.compile(r"\d")
_PUNCTUATION = "，。、„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►"  # noqa: RUF001 (CCNet's 34 characters)
_DELETED = dict.fromkeys([*map(ord, _PUNCTUATION), *range(32), *range(127, 160)])
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True)
class Settings:
    """Whether the first copy of a line stays; CCNet keeps none."""

    keeps_first: bool = False


def line_keys(text: str) -> Keys:
    """The keys of the lines that are not empty, in order."""
    digests = [
        hashlib.sha1(normalised(line).encode(), usedforsecurity=False).digest()[:8]
        for line in text.split("\n")
        if line and not line.isspace()
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64, copy=False)


def normalised(line: str) -> str:
    """What two lines have in common that count as the same."""
    return _DIGITS.sub("0", line.strip().lower()).translate(_DELETED)


def shard_keys(documents: Iterable[Document]) -> Keys:
    """The keys of all lines of a shard, sorted: the file to keep, 8 bytes a line."""
    keys = [line_keys(document.text) for document in documents]
    return np.sort(np.concatenate(keys)) if keys else np.empty(0, np.uint64)


@dataclass(frozen=True)
class RepeatedLines:
    """The keys that occur twice or more in a group, sorted, and the first shard that has each."""

    keys: Keys
    first_shards: npt.NDArray[np.int32]


def repeated_lines(shards: Sequence[Callable[[], Keys]], *, parts: int = 16) -> RepeatedLines:
    """The repeated keys of a group of shards, each given as what opens its sorted keys.

    Keys are sorted one `parts`-th of their range at a time: about 44 / parts bytes a line of the
    group are in memory when shards open as memory maps, beside 12 a repeated key.
    """
    found = [_repeated_of_part(shards, part, parts) for part in range(parts)]
    keys, first_shards = (np.concatenate(one) for one in zip(*found, strict=True))
    return RepeatedLines(keys, first_shards)


def _repeated_of_part(
    shards: Sequence[Callable[[], Keys]], part: int, parts: int
) -> tuple[Keys, npt.NDArray[np.int32]]:
    low, high = (np.uint64(min(place * 2**64 // parts, 2**64 - 1)) for place in (part, part + 1))
    pieces: list[Keys] = []
    for open_shard in shards:
        keys = open_shard()
        begin = int(np.searchsorted(keys, low))
        end = len(keys) if part + 1 == parts else int(np.searchsorted(keys, high))
        pieces.append(np.array(keys[begin:end]))
    sizes = [len(piece) for piece in pieces]
    every = np.concatenate(pieces) if pieces else np.empty(0, np.uint64)
    owners = np.repeat(np.arange(len(pieces), dtype=np.int32), sizes)
    order = np.argsort(every, kind="stable")  # equal keys keep the order of the shards
    every, owners = every[order], owners[order]
    is_first = np.ones(len(every), bool)
    is_first[1:] = every[1:] != every[:-1]
    is_repeated = is_first.copy()
    is_repeated[:-1] &= ~is_first[1:]
    is_repeated[-1:] = False
    return every[is_repeated], owners[is_repeated]


class LineFilter:
    """Drops repeated lines from the documents of one shard of the group, given in their order."""

    def __init__(self, repeated: RepeatedLines, shard: int, settings: Settings) -> None:
        self._repeated = repeated
        self._may_stay = np.zeros(len(repeated.keys), bool)
        if settings.keeps_first:
            self._may_stay = repeated.first_shards == shard
        self.lines_in = self.lines_dropped = 0

    def apply(self, documents: Sequence[Document]) -> list[Document | Dropped]:
        """Each document with the lines that stay, or Dropped where none does."""
        return [self._without_repeated(document) for document in documents]

    def _without_repeated(self, document: Document) -> Document | Dropped:
        keys = line_keys(document.text)
        is_repeated = self._is_repeated(keys)
        self.lines_in += len(keys)
        dropped = int(np.count_nonzero(is_repeated))
        self.lines_dropped += dropped
        if dropped == len(keys):
            size = len(document.text.encode())
            excerpt = document.text[:200]
            return Dropped(document.id, document.source, NO_LINES_LEFT, "", size, excerpt)
        if not dropped:
            return document
        decisions = iter(is_repeated.tolist())
        lines = [
            line
            for line in document.text.split("\n")
            if not line or line.isspace() or not next(decisions)
        ]
        return replace(document, text=_BLANK_LINES.sub("\n\n", "\n".join(lines)).strip("\n"))

    def _is_repeated(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which lines go. The first one met of a key that may stay here does, and uses it up."""
        known = self._repeated.keys
        if not len(known):
            return np.zeros(len(keys), bool)
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        is_repeated: npt.NDArray[np.bool_] = known[places] == keys
        for line in np.flatnonzero(is_repeated & self._may_stay[places]):
            is_repeated[line] = not self._may_stay[places[line]]
            self._may_stay[places[line]] = False
        return is_repeated
