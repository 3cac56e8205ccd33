"""CCNet's de-duplication of paragraphs as rounds of tasks: a group of files at a time.

keys    the sorted keys of a file's lines, 8 bytes a line
group   the keys that occur twice or more in a group of files
filter  each file again, without those lines
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from puna.data import files
from puna.data.build.documents import SUFFIX, Item, read_all, rewrite
from puna.data.build.funnel import Funnel
from puna.data.build.stages import Context, Rounds
from puna.data.build.task import Task
from puna.data.dedup import lines
from puna.data.dedup.lines import Keys, LineFilter, RepeatedLines, repeated_lines, shard_keys
from puna.data.document import Document
from puna.errors import ConfigError

_KEY = np.dtype("<u8")
_SHARD = np.dtype("<i4")


@dataclass(frozen=True)
class Settings:
    """Which lines go, and among how many files they are looked for."""

    keeps_first: bool = False  # CCNet keeps no copy of a repeated line
    group_files: int = 50  # CCNet's hash_in_mem: shards of a snapshot that are compared

    def __post_init__(self) -> None:
        if self.group_files < 1:
            raise ConfigError(f"group_files must be at least 1, got {self.group_files}")


@dataclass(frozen=True)
class _Filter:
    keeps_first: bool
    shard: int
    stage: str
    seed: int


def rounds(inputs: Sequence[files.File], settings: Settings, context: Context) -> Rounds:
    """The three rounds; the last one's files are the documents."""
    here = f"{__name__}:"
    keys = yield [
        Task(f"{here}keys", (file.path,), None, context.name("keys", number, ".bin"))
        for number, file in enumerate(inputs)
    ]
    size = settings.group_files
    groups = [keys[begin : begin + size] for begin in range(0, len(keys), size)]
    repeated = yield [
        Task(f"{here}group", tuple(one.path for one in group), None, context.name("group", at, ""))
        for at, group in enumerate(groups)
    ]
    return (
        yield [
            Task(
                f"{here}drop",
                (file.path, repeated[number // size].path),
                _Filter(settings.keeps_first, number % size, context.stage, context.seed),
                context.name("documents", number, SUFFIX),
            )
            for number, file in enumerate(inputs)
        ]
    )


def keys(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The sorted keys of all lines of a file."""
    found = shard_keys(read_all(task.inputs)).astype(_KEY)
    output.write(found.tobytes())
    report["lines"] = len(found)


def group(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The repeated keys of a group, then the first file of each."""
    found = repeated_lines([_opener(name) for name in task.inputs])
    output.write(found.keys.astype(_KEY).tobytes())
    output.write(found.first_shards.astype(_SHARD).tobytes())
    report["repeated_keys"] = len(found.keys)


def drop(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The file's documents without repeated lines, and without those of which nothing is left."""
    settings: _Filter = task.settings
    document_file, found = task.inputs
    content = files.read_bytes(found)
    count = len(content) // (_KEY.itemsize + _SHARD.itemsize)
    repeated = RepeatedLines(
        np.frombuffer(content, _KEY, count),
        np.frombuffer(content, _SHARD, count, offset=count * _KEY.itemsize),
    )
    one = LineFilter(repeated, settings.shard, lines.Settings(settings.keeps_first))

    def decide(_index: int, document: Document) -> Item:
        return one.apply([document])[0]

    funnel = Funnel(settings.stage, settings.seed)
    rewrite(read_all([document_file]), output, report, funnel, decide)
    report["stages"][0]["lines"] = {"in": one.lines_in, "dropped": one.lines_dropped}


def _opener(name: str) -> Callable[[], Keys]:
    """What opens a file of keys: mapped where it lies on this machine, else read."""

    def opened() -> Keys:
        if files.is_url(name):
            return np.frombuffer(files.read_bytes(name), _KEY)
        if not files.size(name):
            return np.empty(0, _KEY)
        return np.memmap(name, _KEY, mode="r")

    return opened
