"""Exact de-duplication of any number of files: of equal texts the first is kept.

  sign   a file's texts as 128-bit hashes, sorted, so that a part of all hashes is one slice
  join   the same part of all files sorted together: equal neighbours but the first are duplicates
  drop   each file again, without the duplicates that the parts found in it
Memory is that of one part (16 GiB of compressed documents, some 400 MB), whatever the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from puna.data import files
from puna.data.build.documents import read_all
from puna.data.build.stages import Context, Rounds
from puna.data.build.task import Task
from puna.data.dedup.exact import EXACT_DUPLICATE
from puna.data.dedup.join import DUPLICATE, read_slice, removals, write_ids, write_slices

_PART_BYTES = 16 << 30
_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u4")])


@dataclass(frozen=True)
class Settings:
    """Nothing to set: equal means the same characters."""


@dataclass(frozen=True)
class _Part:
    """Which part of how many."""

    number: int
    of: int


def rounds(inputs: Sequence[files.File], settings: Settings, context: Context) -> Rounds:
    """The three rounds; the last one's files are the documents."""
    parts = max(1, -(-sum(file.bytes for file in inputs) // _PART_BYTES))
    here = f"{__name__}:"
    signed = yield [
        Task(f"{here}sign", (file.path,), _Part(0, parts), context.name("sign", number, ".bin"))
        for number, file in enumerate(inputs)
    ]
    names = tuple(file.path for file in signed)
    joined = yield [
        Task(f"{here}join", names, _Part(part, parts), context.name("join", part, ".bin"))
        for part in range(parts)
    ]
    return (yield removals(inputs, joined, context, EXACT_DUPLICATE, "sign"))


def sign(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Where each part of the hashes begins, then the hashes; ids."""
    digests, ids = [], []
    for document in read_all(task.inputs):
        digests.append(hashlib.blake2b(document.text.encode("utf-8"), digest_size=16).digest())
        ids.append(document.id)
    rows = np.empty(len(digests), _HASH)
    pairs = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    rows["high"], rows["low"], rows["document"] = pairs[:, 0], pairs[:, 1], np.arange(len(rows))
    rows.sort(order=("high", "low", "document"))
    write_slices(output, rows, np.searchsorted(rows["high"], _bounds(task.settings.of)))
    write_ids(output, ids)
    report["documents"] = len(rows)


def join(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Where each file's duplicates begin, then the duplicates, each with the first of its kind."""
    part: _Part = task.settings
    slices = [read_slice(name, part.number, part.of, _HASH) for name in task.inputs]
    hashes = np.concatenate(slices)
    numbers = np.repeat(np.arange(len(slices), dtype=np.uint32), [len(one) for one in slices])
    order = np.lexsort((hashes["document"], numbers, hashes["low"], hashes["high"]))
    hashes, numbers = hashes[order], numbers[order]
    is_new = np.ones(len(hashes), bool)
    is_new[1:] = (hashes["high"][1:] != hashes["high"][:-1]) | (
        hashes["low"][1:] != hashes["low"][:-1]
    )
    first = np.maximum.accumulate(np.where(is_new, np.arange(len(hashes)), 0))
    again = np.flatnonzero(~is_new)
    rows = np.empty(len(again), DUPLICATE)
    rows["document"] = hashes["document"][again]
    rows["first_file"] = numbers[first[again]]
    rows["first_document"] = hashes["document"][first[again]]
    by_file = np.lexsort((rows["document"], numbers[again]))
    begins = np.searchsorted(numbers[again][by_file], np.arange(len(slices) + 1))
    write_slices(output, rows[by_file], begins)
    report["duplicates"] = len(rows)


def _bounds(parts: int) -> NDArray[np.uint64]:
    """Where each part of all 64-bit numbers begins, and above the last."""
    begins = [(part << 64) // parts for part in range(parts)]
    return np.array([*begins, (1 << 64) - 1], np.uint64)
