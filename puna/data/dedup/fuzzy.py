"""Near duplicates among any number of files: MinHash signatures in bands, compared by sorting.

  sign        a file's signatures, and the key of each band of each, by parts of all keys
  pair        one part of the keys of all files, sorted: texts with an equal key may be alike
  verify      the pairs whose second text is in a file, those that their signatures confirm
  stars       connected components of all pairs (puna.data.dedup.components)
  place       each text that is not the first of its component, by its file
  drop        each file again, without them
Of a component the first text stays: the first in the order of files, then in its file.
A task's memory is that of one file or one part, whatever the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from puna.data import files
from puna.data.build.documents import read_all
from puna.data.build.stages import Context, Rounds
from puna.data.build.task import Task
from puna.data.dedup.components import EDGE, stars, write_edges
from puna.data.dedup.join import (
    DUPLICATE,
    Rows,
    read_slice,
    removals,
    write_by,
    write_ids,
    write_slices,
)
from puna.data.dedup.minhash import (
    KIND,
    PERMUTATIONS,
    Unit,
    band_keys,
    grams,
    signature,
    similarity,
)
from puna.errors import ConfigError, DataError

NEAR_DUPLICATE = "near duplicate"
_PART_BYTES = 256 << 20  # of compressed documents: about 130,000, whose keys are 30 MB
_KEY = np.dtype([("key", "<u8"), ("document", "<u4")])
_SIGNATURE_BYTES = 4 * PERMUTATIONS
_VERIFIED_ROWS = 4096  # pairs whose signatures are in memory at a time


@dataclass(frozen=True)
class Settings:
    """What counts as near: n-grams, bands, and the similarity that signatures must confirm."""

    unit: Unit = "words"  # or "characters": SlimPajama's, with length 13
    length: int = 3
    bands: int = 16  # of 8 rows: a pair of similarity 0.7 is found with 0.61, of 0.8 with 0.95
    min_similarity: float = 0.7  # of two texts that share a band; 0: it is enough to share one

    def __post_init__(self) -> None:
        if self.bands < 1 or PERMUTATIONS % self.bands:
            raise ConfigError(f"bands must divide {PERMUTATIONS}, got {self.bands}")
        if self.length < 1:
            raise ConfigError(f"length must be at least 1, got {self.length}")
        if self.unit not in ("words", "characters"):
            raise ConfigError(f"unit must be words or characters, got {self.unit!r}")
        if not 0 <= self.min_similarity <= 1:
            raise ConfigError(f"min_similarity must be from 0 to 1, got {self.min_similarity}")


@dataclass(frozen=True)
class _Part:
    """Which part, or file, of how many; into how many the output is cut; the stage's rules."""

    number: int
    of: int
    slices: int
    settings: Settings | None = None


def rounds(inputs: Sequence[files.File], settings: Settings, context: Context) -> Rounds:
    """The rounds; the last one's files are the documents."""
    parts = max(1, -(-sum(file.bytes for file in inputs) // _PART_BYTES))
    count, here = len(inputs), f"{__name__}:"
    signed = yield [
        Task(
            f"{here}sign",
            (file.path,),
            _Part(number, count, parts, settings),
            context.name("signatures", number, ".bin"),
        )
        for number, file in enumerate(inputs)
    ]
    names = tuple(file.path for file in signed)
    paired = yield [
        Task(f"{here}pair", names, _Part(part, parts, count), context.name("pairs", part, ".bin"))
        for part in range(parts)
    ]
    compared = (*names, *(file.path for file in paired))
    verified = yield [
        Task(
            f"{here}verify",
            compared,
            _Part(number, count, parts, settings),
            context.name("edges", number, ".bin"),
        )
        for number in range(count)
    ]
    found = yield from stars(verified, parts, context)
    placed = yield [
        Task(
            f"{here}place",
            (file.path,),
            _Part(part, parts, count),
            context.name("found", part, ".bin"),
        )
        for part, file in enumerate(found)
    ]
    return (yield removals(inputs, placed, context, NEAR_DUPLICATE, "signatures"))


def sign(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """KIND, the number of texts, their signatures; the keys of their bands, in slices; ids.

    A text without words has a signature, too, but no keys: it is like no other.
    """
    part: _Part = task.settings
    assert part.settings
    found: list[NDArray[np.uint32]] = []
    is_empty, ids = [], []
    for document in read_all(task.inputs):
        numbers = grams(document.text, part.settings.unit, part.settings.length)
        found.append(signature(numbers))
        is_empty.append(not len(numbers))
        ids.append(document.id)
    signatures = np.array(found, np.uint32).reshape(-1, PERMUTATIONS)
    some = np.flatnonzero(~np.array(is_empty, bool))
    rows = np.empty((len(some), part.settings.bands), _KEY)
    rows["key"] = band_keys(signatures[some], part.settings.bands)
    rows["document"] = some[:, None]
    flat = np.sort(rows.reshape(-1), order=("key", "document"))
    bounds = [(number << 64) // part.slices for number in range(part.slices)]
    begins = np.searchsorted(flat["key"], np.array([*bounds, 0], np.uint64))
    output.write(KIND + len(found).to_bytes(8, "little"))
    output.write(signatures.astype("<u4").tobytes())
    write_slices(output, flat, begins)
    write_ids(output, ids)
    report["documents"] = len(found)


def pair(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """(place of a text, place of the first with an equal key), by the file of the text."""
    part: _Part = task.settings
    slices = [
        read_slice(name, part.number, part.of, _KEY, _bytes_before_keys(name))
        for name in task.inputs
    ]
    keys = np.concatenate([one["key"] for one in slices])
    places = np.concatenate(
        [one["document"] + np.uint64(number << 32) for number, one in enumerate(slices)]
    )
    order = np.argsort(keys, kind="stable")  # places are in order before
    keys, places = keys[order], places[order]
    is_new = np.ones(len(keys), bool)
    is_new[1:] = keys[1:] != keys[:-1]
    first = np.maximum.accumulate(np.where(is_new, np.arange(len(keys)), 0))
    is_pair = places[first] != places
    rows = np.empty(np.count_nonzero(is_pair), EDGE)
    rows["node"], rows["neighbour"] = places[is_pair], places[first][is_pair]
    rows = np.unique(rows)
    write_by(output, rows, rows["node"] >> np.uint64(32), part.slices)
    report["pairs"] = len(rows)


def verify(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The pairs of one file's texts that are alike by their signatures, for a large-star."""
    part: _Part = task.settings
    assert part.settings
    names, pairs = task.inputs[: part.of], task.inputs[part.of :]
    rows = np.unique(
        np.concatenate([read_slice(name, part.number, part.of, EDGE) for name in pairs])
    )
    rows = rows[np.argsort(rows["neighbour"], kind="stable")]
    alike = [
        similarity(_signatures(names, some["node"]), _signatures(names, some["neighbour"]))
        for some in _some(rows)
    ]
    is_alike = np.concatenate(alike) >= part.settings.min_similarity if alike else np.empty(0, bool)
    write_edges(output, rows[is_alike], part.slices, is_for_large=True)
    report.update(pairs=len(rows), alike=int(np.count_nonzero(is_alike)))


def place(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Each row of (text, first of its component) by the text's file."""
    part: _Part = task.settings
    rows = np.concatenate(
        [read_slice(task.inputs[0], number, part.of, EDGE) for number in range(part.of)]
    )
    write_found(output, rows, part.slices)
    report["duplicates"] = len(rows)


def write_found(output: BinaryIO, rows: Rows, count: int) -> None:
    """Write rows of (text that goes, text that stays), each a place, for a removal from files."""
    rows = np.sort(rows)
    duplicates = np.empty(len(rows), DUPLICATE)
    duplicates["document"] = rows["node"] & np.uint64(0xFFFFFFFF)
    duplicates["first_file"] = rows["neighbour"] >> np.uint64(32)
    duplicates["first_document"] = rows["neighbour"] & np.uint64(0xFFFFFFFF)
    write_by(output, duplicates, rows["node"] >> np.uint64(32), count)


def _bytes_before_keys(name: str) -> int:
    with files.open_bytes(name) as file:
        head = file.read(len(KIND) + 8)
    if head[: len(KIND)] != KIND:
        raise DataError(f"{name} holds no MinHash signatures of Puna's kind")
    return len(head) + int.from_bytes(head[len(KIND) :], "little") * _SIGNATURE_BYTES


def _some(rows: Rows) -> Iterator[Rows]:
    for begin in range(0, len(rows), _VERIFIED_ROWS):
        yield rows[begin : begin + _VERIFIED_ROWS]


def _signatures(names: Sequence[str], places: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The signatures of texts at places; each file is opened once."""
    result = np.empty((len(places), PERMUTATIONS), np.uint32)
    numbers, documents = places >> np.uint64(32), places & np.uint64(0xFFFFFFFF)
    for number in np.unique(numbers):
        with files.open_bytes(names[int(number)]) as file:
            for row in np.flatnonzero(numbers == number):
                file.seek(len(KIND) + 8 + int(documents[row]) * _SIGNATURE_BYTES)
                result[row] = np.frombuffer(file.read(_SIGNATURE_BYTES), "<u4")
    return result
