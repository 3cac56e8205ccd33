"""Books of which more than 90 % is in another (paper 2.1), in any of its editions and encodings.

The paper does not say how overlap is measured. Here: the share of a book's runs of six words that
are in the other one, too, estimated on those runs whose hash is below a bound (one in 32, about
3,000 of a novel: the estimate's standard deviation at 90 % is 0.5 %). Of a pair the one with more
such runs stays, of equal ones the first; so an excerpt goes and never the whole it is from.

  sketch   the hashes below the bound of each text of a file, by parts of all hashes
  share    one part of the hashes of all files, sorted: how many each pair of texts has in common
  judge    the pairs of which a text of a file is the smaller: whether it goes
  drop     each file again, without those that go
A task's memory is that of one file or part, and of the pairs that share anything in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from puna.data import files
from puna.data.build.documents import read_all
from puna.data.build.stages import Context, Rounds
from puna.data.build.task import Task
from puna.data.dedup.components import EDGE
from puna.data.dedup.fuzzy import write_found
from puna.data.dedup.join import Rows, read_slice, removals, write_by, write_ids, write_slices
from puna.data.dedup.minhash import grams
from puna.errors import ConfigError

SAME_BOOK = "in another book"
_PART_BYTES = 1 << 30  # of compressed documents: a sketch is some 5 % of them
_LENGTH = 6
_ONE_IN = 32
_FEWEST = 25  # hashes of a text that is judged: about 800 words
_MOST_TEXTS = 100  # that share a hash which counts: what is in more is a formula of publishers
_HASH = np.dtype([("hash", "<u8"), ("document", "<u4"), ("size", "<u4")])
_SHARED = np.dtype([("node", "<u8"), ("neighbour", "<u8"), ("count", "<u4"), ("size", "<u4")])


@dataclass(frozen=True)
class Settings:
    """How much of a book may be in another."""

    max_overlap: float = 0.9  # the paper's

    def __post_init__(self) -> None:
        if not 0 < self.max_overlap < 1:
            raise ConfigError(f"max_overlap must be between 0 and 1, got {self.max_overlap}")


@dataclass(frozen=True)
class _Part:
    number: int
    of: int
    slices: int
    max_overlap: float = 0.0


def rounds(inputs: Sequence[files.File], settings: Settings, context: Context) -> Rounds:
    """The four rounds; the last one's files are the documents."""
    parts = max(1, -(-sum(file.bytes for file in inputs) // _PART_BYTES))
    count, here = len(inputs), f"{__name__}:"
    sketched = yield [
        Task(
            f"{here}sketch",
            (file.path,),
            _Part(number, count, parts),
            context.name("sketch", number, ".bin"),
        )
        for number, file in enumerate(inputs)
    ]
    names = tuple(file.path for file in sketched)
    shared = yield [
        Task(f"{here}share", names, _Part(part, parts, count), context.name("shared", part, ".bin"))
        for part in range(parts)
    ]
    pairs = tuple(file.path for file in shared)
    found = yield [
        Task(
            f"{here}judge",
            pairs,
            _Part(number, count, count, settings.max_overlap),
            context.name("found", number, ".bin"),
        )
        for number in range(count)
    ]
    return (yield removals(inputs, found, context, SAME_BOOK, "sketch"))


def sketch_of(text: str) -> NDArray[np.uint64]:
    """The hashes below the bound of a text's runs of six words, sorted, each once."""
    hashes = grams(text, "words", _LENGTH)
    return np.unique(hashes[hashes < np.uint64((1 << 64) // _ONE_IN)])


def sketch(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """(hash, text, number of its hashes) of all texts of a file, sorted, in slices."""
    part: _Part = task.settings
    found, ids = [np.empty(0, _HASH)], []
    for number, document in enumerate(read_all(task.inputs)):
        ids.append(document.id)
        hashes = sketch_of(document.text)
        rows = np.empty(len(hashes), _HASH)
        rows["hash"], rows["document"], rows["size"] = hashes, number, len(hashes)
        if len(hashes) >= _FEWEST:
            found.append(rows)
    rows = np.sort(np.concatenate(found), order=("hash", "document"))
    bounds = [(1 << 64) // _ONE_IN * number // part.slices for number in range(part.slices)]
    write_slices(output, rows, np.searchsorted(rows["hash"], np.array([*bounds, 0], np.uint64)))
    write_ids(output, ids)
    report["hashes"] = len(rows)


def share(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """(smaller text, larger text, hashes of one part in common, size of the smaller) by file."""
    part: _Part = task.settings
    slices = [read_slice(name, part.number, part.of, _HASH) for name in task.inputs]
    rows = np.concatenate(slices)
    numbers = np.repeat(np.arange(len(slices), dtype=np.uint64), [len(one) for one in slices])
    order = np.argsort(rows["hash"], kind="stable")  # texts are in order before
    rows, places = rows[order], ((numbers << np.uint64(32)) + rows["document"])[order]
    begins = np.flatnonzero(np.r_[True, rows["hash"][1:] != rows["hash"][:-1]][: len(rows)])
    sizes = np.diff(np.r_[begins, len(rows)])
    is_rare = np.repeat(sizes <= _MOST_TEXTS, sizes)
    totals = np.zeros(0, _SHARED)
    for step in range(1, min(int(sizes.max(initial=0)), _MOST_TEXTS)):
        same = is_rare[step:] & (rows["hash"][step:] == rows["hash"][:-step])
        first, second = np.flatnonzero(same), np.flatnonzero(same) + step
        totals = _counted(np.r_[totals, _pairs(rows["size"], places, first, second)])
    write_by(output, totals, totals["node"] >> np.uint64(32), part.slices)
    report["pairs"] = len(totals)


def judge(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The texts of one file that go, each with the one it shares most with, by file."""
    part: _Part = task.settings
    slices = [read_slice(name, part.number, part.of, _SHARED) for name in task.inputs]
    rows = _counted(np.concatenate(slices))
    rows = rows[rows["count"] > part.max_overlap * rows["size"]]
    rows = rows[np.lexsort((rows["neighbour"], -rows["count"].astype(np.int64), rows["node"]))]
    _, firsts = np.unique(rows["node"], return_index=True)
    found = np.empty(len(firsts), EDGE)
    found["node"], found["neighbour"] = rows["node"][firsts], rows["neighbour"][firsts]
    write_found(output, found, part.slices)
    report["duplicates"] = len(found)


def _pairs(sizes: Any, places: Any, first: NDArray[Any], second: NDArray[Any]) -> Rows:
    """A row for each pair; the earlier text stays unless the later one is larger."""
    goes = np.where(sizes[second] > sizes[first], first, second)
    stays = first + second - goes
    rows = np.empty(len(goes), _SHARED)
    rows["node"], rows["neighbour"] = places[goes], places[stays]
    rows["count"], rows["size"] = 1, sizes[goes]
    return rows


def _counted(rows: Rows) -> Rows:
    """One row for each pair, with the sum of its counts."""
    rows = rows[np.lexsort((rows["neighbour"], rows["node"]))]
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (rows["node"][1:] != rows["node"][:-1]) | (
        rows["neighbour"][1:] != rows["neighbour"][:-1]
    )
    begins = np.flatnonzero(is_new)
    totals = rows[begins]
    if len(rows):
        totals["count"] = np.add.reduceat(rows["count"], begins)
    return totals
