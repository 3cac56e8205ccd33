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
from puna.data.build.documents import SUFFIX, Item, read_all, rewrite
from puna.data.build.funnel import Funnel
from puna.data.build.stages import Context, Rounds
from puna.data.build.task import Task
from puna.data.dedup.exact import EXACT_DUPLICATE
from puna.data.document import Document, Dropped

_PART_BYTES = 16 << 30
_OFFSET = np.dtype("<u8")
_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("document", "<u4")])
_DUPLICATE = np.dtype([("document", "<u4"), ("first_file", "<u4"), ("first_document", "<u4")])

Rows = NDArray[Any]


@dataclass(frozen=True)
class Settings:
    """Nothing to set: equal means the same characters."""


@dataclass(frozen=True)
class _Part:
    """Which part of how many, or which file of how many; and the stage's name and seed."""

    number: int
    of: int
    stage: str = ""
    seed: int = 0


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
    found = tuple(file.path for file in joined)
    return (
        yield [
            Task(
                f"{here}drop",
                (file.path, *found),
                _Part(number, len(inputs), context.stage, context.seed),
                context.name("documents", number, SUFFIX),
            )
            for number, file in enumerate(inputs)
        ]
    )


def sign(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Where each part of the hashes begins, then the hashes."""
    digests = [
        hashlib.blake2b(document.text.encode("utf-8"), digest_size=16).digest()
        for document in read_all(task.inputs)
    ]
    rows = np.empty(len(digests), _HASH)
    pairs = np.frombuffer(b"".join(digests), _OFFSET).reshape(-1, 2)
    rows["high"], rows["low"], rows["document"] = pairs[:, 0], pairs[:, 1], np.arange(len(rows))
    rows.sort(order=("high", "low", "document"))
    _write_slices(output, rows, np.searchsorted(rows["high"], _bounds(task.settings.of)))
    report["documents"] = len(rows)


def join(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Where each file's duplicates begin, then the duplicates, each with the first of its kind."""
    part: _Part = task.settings
    slices = [_read_slice(name, part.number, part.of, _HASH) for name in task.inputs]
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
    rows = np.empty(len(again), _DUPLICATE)
    rows["document"] = hashes["document"][again]
    rows["first_file"] = numbers[first[again]]
    rows["first_document"] = hashes["document"][first[again]]
    by_file = np.lexsort((rows["document"], numbers[again]))
    begins = np.searchsorted(numbers[again][by_file], np.arange(len(slices) + 1))
    _write_slices(output, rows[by_file], begins)
    report["duplicates"] = len(rows)


def drop(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The file's documents but for its duplicates."""
    part: _Part = task.settings
    document_file, *joined = task.inputs
    rows = np.concatenate([_read_slice(name, part.number, part.of, _DUPLICATE) for name in joined])
    duplicates = {
        int(row["document"]): f"document {row['first_document']} of file {row['first_file']}"
        for row in rows
    }

    def decide(index: int, document: Document) -> Item:
        if index not in duplicates:
            return document
        size = len(document.text.encode("utf-8"))
        return Dropped(document.id, document.source, EXACT_DUPLICATE, duplicates[index], size)

    funnel = Funnel(part.stage, part.seed)
    rewrite(read_all([document_file]), output, report, funnel, decide)


def _bounds(parts: int) -> NDArray[np.uint64]:
    """Where each part of all 64-bit numbers begins, and above the last."""
    begins = [(part << 64) // parts for part in range(parts)]
    return np.array([*begins, (1 << 64) - 1], np.uint64)


def _write_slices(output: BinaryIO, rows: Rows, begins: NDArray[Any]) -> None:
    offsets = begins.astype(_OFFSET)
    offsets[-1] = len(rows)
    output.write(offsets.tobytes())
    output.write(np.ascontiguousarray(rows).tobytes())


def _read_slice(name: str, number: int, of: int, dtype: np.dtype[Any]) -> Rows:
    """The rows of one slice of a file that has `of` of them."""
    with files.open_bytes(name) as file:
        file.seek(number * _OFFSET.itemsize)
        begin, end = np.frombuffer(file.read(2 * _OFFSET.itemsize), _OFFSET)
        file.seek((of + 1) * _OFFSET.itemsize + int(begin) * dtype.itemsize)
        return np.frombuffer(file.read(int(end - begin) * dtype.itemsize), dtype)
