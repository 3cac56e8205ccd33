"""What joins over many files share: files cut into slices, and the removal of what was found.

A sliced file is the places at which its slices begin, one more than there are, and then its rows.
So a task that wants one slice of each of many files reads no more than that.
A text is known by its place: (number of its file << 32) + its number in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from puna.data import files
from puna.data.build.documents import SUFFIX, Item, read_all, rewrite
from puna.data.build.funnel import Funnel
from puna.data.build.stages import Context
from puna.data.build.task import Task
from puna.data.document import Document, Dropped

DUPLICATE = np.dtype([("document", "<u4"), ("first_file", "<u4"), ("first_document", "<u4")])
_OFFSET = np.dtype("<u8")

Rows = NDArray[Any]


@dataclass(frozen=True)
class Removal:
    """Which file of how many is written again, why texts go, and the stage's name and seed."""

    number: int
    of: int
    reason: str
    stage: str
    seed: int


def write_slices(output: BinaryIO, rows: Rows, begins: NDArray[Any]) -> None:
    """Write rows whose slices begin at `begins`; its last item, the end, is set here."""
    offsets = begins.astype(_OFFSET)
    offsets[-1] = len(rows)
    output.write(offsets.tobytes())
    output.write(np.ascontiguousarray(rows).tobytes())


def write_by(output: BinaryIO, rows: Rows, slices: NDArray[Any], of: int) -> None:
    """Write rows by the number of the slice of each, in their order within it."""
    order = np.argsort(slices, kind="stable")
    write_slices(output, rows[order], np.searchsorted(slices[order], np.arange(of + 1)))


def read_slice(name: str, number: int, of: int, dtype: np.dtype[Any], start: int = 0) -> Rows:
    """The rows of one slice of `of`; `start` bytes come before the slices."""
    with files.open_bytes(name) as file:
        file.seek(start + number * _OFFSET.itemsize)
        begin, end = np.frombuffer(file.read(2 * _OFFSET.itemsize), _OFFSET)
        file.seek(start + (of + 1) * _OFFSET.itemsize + int(begin) * dtype.itemsize)
        return np.frombuffer(file.read(int(end - begin) * dtype.itemsize), dtype)


def removals(
    inputs: Sequence[files.File], found: Sequence[files.File], context: Context, reason: str
) -> list[Task]:
    """The last round: each file of documents again, without its slice of all that was found."""
    return [
        Task(
            f"{__name__}:drop",
            (file.path, *(one.path for one in found)),
            Removal(number, len(inputs), reason, context.stage, context.seed),
            context.name("documents", number, SUFFIX),
        )
        for number, file in enumerate(inputs)
    ]


def drop(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The file's documents but for its duplicates."""
    part: Removal = task.settings
    document_file, *joined = task.inputs
    rows = np.concatenate([read_slice(name, part.number, part.of, DUPLICATE) for name in joined])
    duplicates = {
        int(row["document"]): f"document {row['first_document']} of file {row['first_file']}"
        for row in rows
    }

    def decide(index: int, document: Document) -> Item:
        if index not in duplicates:
            return document
        size = len(document.text.encode("utf-8"))
        return Dropped(document.id, document.source, part.reason, duplicates[index], size)

    funnel = Funnel(part.stage, part.seed)
    rewrite(read_all([document_file]), output, report, funnel, decide)
