"""What joins over many files share: files cut into slices, and the removal of what was found.

A sliced file is the places at which its slices begin, one more than there are, and then its rows.
So a task that wants one slice of each of many files reads no more than that.
A text is known by its place: (number of its file << 32) + its number in the file. Its id stands at
the end of its file's first result, to be told when a text like it goes.
"""

from __future__ import annotations

import os
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
    """Which file of how many is written again, and why texts go.

    `ids_in` is the kind of the stage's files that have the ids of each file's texts.
    """

    number: int
    of: int
    reason: str
    ids_in: str
    context: Context


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


def write_ids(output: BinaryIO, ids: Sequence[str]) -> None:
    """Append the ids of a file's texts, each to be found by its number."""
    encoded = [one.encode("utf-8") for one in ids]
    ends = output.tell() + np.cumsum([0, *map(len, encoded)])
    output.writelines(encoded)
    output.write(np.array([*ends, len(ids)], _OFFSET).tobytes())


def read_id(name: str, number: int) -> str:
    """The id of a text whose number is known, from what `write_ids` appended."""
    with files.open_bytes(name) as file:
        file.seek(-_OFFSET.itemsize, os.SEEK_END)
        count = int(np.frombuffer(file.read(), _OFFSET)[0])
        file.seek((number - count - 2) * _OFFSET.itemsize, os.SEEK_END)
        begin, end = np.frombuffer(file.read(2 * _OFFSET.itemsize), _OFFSET)
        file.seek(int(begin))
        return file.read(int(end - begin)).decode("utf-8")


def removals(
    inputs: Sequence[files.File],
    found: Sequence[files.File],
    context: Context,
    reason: str,
    ids_in: str,
) -> list[Task]:
    """The last round: each file of documents again, without its slice of all that was found."""
    return [
        Task(
            f"{__name__}:drop",
            (file.path, *(one.path for one in found)),
            Removal(number, len(inputs), reason, ids_in, context),
            context.name("documents", number, SUFFIX),
        )
        for number, file in enumerate(inputs)
    ]


def drop(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The file's documents but for its duplicates."""
    part: Removal = task.settings
    document_file, *joined = task.inputs
    rows = np.concatenate([read_slice(name, part.number, part.of, DUPLICATE) for name in joined])
    stays = {document: (file, first) for document, file, first in rows.tolist()}

    def decide(index: int, document: Document) -> Item:
        if index not in stays:
            return document
        size = len(document.text.encode("utf-8"))
        return Dropped(document.id, document.source, part.reason, str(index), size)

    funnel = Funnel(part.context.stage, part.context.seed)
    rewrite(read_all([document_file]), output, report, funnel, decide)
    for example in report["stages"][0]["examples"].get(part.reason, []):
        number, first = stays[int(example["detail"])]  # ids are read for those shown alone
        example["detail"] = read_id(part.context.name(part.ids_in, number, ".bin"), first)
