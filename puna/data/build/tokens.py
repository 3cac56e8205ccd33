"""Documents to tokens to shards: tokenised file by file, then packed to files of equal size.

A file of tokens has the ids of its training documents, those of its held-out ones, then the
lengths of each (little-endian uint32); its task's report says how many of each there are.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from puna.data import files
from puna.data.build.documents import batches, read_all, text_bytes_of
from puna.data.build.task import Task
from puna.data.split import SPLITS, HoldOut, Split
from puna.tokens.shards import DOCUMENTS_NAME, DTYPES, OFFSET, dtype_of
from puna.tokens.tokenizer import Tokenizer

_COPY_BYTES = 8 << 20
_LENGTH = np.dtype("<u4")


@dataclass(frozen=True)
class TokeniseSettings:
    """The tokenizer's file, known by its hash, and the rule of what is held out."""

    tokenizer: str
    tokenizer_sha256: str
    hold_out: HoldOut
    first: int = 0  # the number of the file's first document, where the rule goes by numbers


@dataclass(frozen=True)
class Slice:
    """A part of one input of a task, in bytes."""

    input: int
    begin: int
    bytes: int


@dataclass(frozen=True)
class TokenFile:
    """What a file of tokens holds, from the report of its task."""

    path: str
    dtype: str
    vocabulary_size: int
    splits: dict[str, dict[str, int]]

    def ids(self, split: Split) -> tuple[int, int]:
        """Where the ids of a split begin, and how many bytes they have."""
        size = DTYPES[self.dtype].itemsize
        before = self.splits["train"]["tokens"] * size if split == "heldout" else 0
        return before, self.splits[split]["tokens"] * size

    def lengths(self, split: Split) -> tuple[int, int]:
        """Where the lengths of a split's documents begin, and how many bytes they have."""
        begin = sum(self.ids("heldout"))
        before = self.splits["train"]["documents"] * _LENGTH.itemsize if split == "heldout" else 0
        return begin + before, self.splits[split]["documents"] * _LENGTH.itemsize


def tokenise(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Write a file of tokens: every document is begin token, its tokens, end token."""
    settings: TokeniseSettings = task.settings
    tokenizer = _tokenizer(settings.tokenizer, settings.tokenizer_sha256)
    dtype = dtype_of(tokenizer)
    splits = {split: {"tokens": 0, "documents": 0, "text_bytes": 0} for split in SPLITS}
    lengths = {split: array("I") for split in SPLITS}
    held_out: list[bytes] = []
    for batch in batches(read_all(task.inputs)):
        encoded = tokenizer.encode_many([one.text for one in batch], bos=True, eos=True, cores=1)
        for document, ids in zip(batch, encoded, strict=True):
            content = ids.astype(dtype).tobytes()
            number = settings.first + sum(map(len, lengths.values()))
            split = settings.hold_out.split(number, document.text)
            if split == "heldout":
                held_out.append(content)
            else:
                output.write(content)
            lengths[split].append(len(ids))
            facts = splits[split]
            facts["tokens"] += len(ids)
            facts["documents"] += 1
            facts["text_bytes"] += text_bytes_of(document)
    output.writelines(held_out)
    for split in SPLITS:
        output.write(np.asarray(lengths[split], _LENGTH).tobytes())
    report["splits"] = splits
    report["dtype"] = dtype.name
    report["vocabulary_size"] = tokenizer.vocabulary_size


@lru_cache(maxsize=1)
def _tokenizer(path: str, _sha256: str) -> Tokenizer:
    """The tokenizer, loaded once a process."""
    if not files.is_url(path):
        return Tokenizer.load(Path(path))
    with tempfile.TemporaryDirectory(prefix="puna-") as folder:
        local = os.path.join(folder, files.name_of(path))
        files.copy(path, local)
        return Tokenizer.load(Path(local))


def shard_slices(inputs: Sequence[TokenFile], split: Split, shard_bytes: int) -> list[list[Slice]]:
    """The parts of token files that make each shard; all but the last have `shard_bytes`."""
    shards: list[list[Slice]] = []
    room = 0
    for number, file in enumerate(inputs):
        begin, left = file.ids(split)
        while left:
            if not room:
                shards.append([])
                room = shard_bytes
            taken = min(left, room)
            shards[-1].append(Slice(number, begin, taken))
            begin, left, room = begin + taken, left - taken, room - taken
    return shards


def pack_tasks(
    inputs: Sequence[TokenFile], split: Split, folder: str, reports: str, shard_bytes: int
) -> list[Task]:
    """The tasks that write one split's shards and its documents.bin to `folder`."""
    here = f"{__name__}:"
    itemsize = DTYPES[inputs[0].dtype].itemsize
    whole = shard_bytes // itemsize * itemsize
    work = [
        (f"{here}pack_ids", f"tokens-{number:05d}.bin", slices)
        for number, slices in enumerate(shard_slices(inputs, split, whole))
    ]
    lengths = [Slice(number, *file.lengths(split)) for number, file in enumerate(inputs)]
    work.append((f"{here}pack_documents", DOCUMENTS_NAME, lengths))
    tasks = []
    for function, name, slices in work:
        used = sorted({one.input for one in slices})
        moved = [Slice(used.index(one.input), one.begin, one.bytes) for one in slices]
        names = tuple(inputs[number].path for number in used)
        report = files.join(reports, f"{name}.json")
        tasks.append(Task(function, names, tuple(moved), files.join(folder, name), report))
    return tasks


def pack_ids(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """One shard: the ids of its slices one after another."""
    digest = hashlib.sha256()
    total = 0
    for one in task.settings:
        for content in _content(task.inputs[one.input], one):
            output.write(content)
            digest.update(content)
            total += len(content)
    report.update(bytes=total, sha256=digest.hexdigest())


def _content(path: str, one: Slice) -> Iterator[bytes]:
    """A slice of a file, a few MiB at a time. Raises EOFError where the file has less."""
    left = one.bytes
    with files.open_bytes(path) as file:
        file.seek(one.begin)
        while left:
            content = file.read(min(left, _COPY_BYTES))
            if not content:
                raise EOFError(f"{path} is cut short")
            yield content
            left -= len(content)


def pack_documents(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Where each document begins, and the end of the last."""
    digest = hashlib.sha256()
    end, total = 0, 0
    for one in (None, *task.settings):
        begins = np.zeros(1, OFFSET)
        if one is not None:
            lengths = np.frombuffer(b"".join(_content(task.inputs[one.input], one)), _LENGTH)
            begins = end + np.cumsum(lengths, dtype=OFFSET)
            end = int(begins[-1]) if len(begins) else end
        content = begins.tobytes()
        output.write(content)
        digest.update(content)
        total += len(content)
    report.update(bytes=total, sha256=digest.hexdigest())
