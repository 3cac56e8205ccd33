"""Sources and stages by name, and what a stage over many files is given.

A source's module has `Settings`, `read(file, name, settings)`, which gives the documents of one
input file, and may have `SUFFIXES` of the names it reads. Where it has `SPLITS`, a large file whose
name ends so is read in parts, each a task: read(file, name, settings, part) with a range of bytes.
Either may have `needs(settings)`, the names of other files that decide what comes out.
A stage's module has `Settings` and either
  apply(documents, settings)         a result for each of a few documents, without a look at others;
                                     a list, or Results with counts
  rounds(inputs, settings, context)  rounds of tasks over all files: what compares texts
A stage of MODELS uses a file that is made by the build where the settings say of what:
  made_of(settings)   the sources it needs, each with the reader that it must have ("": any);
                      None where the settings name the file
  make(inputs, settings, sources, context)  rounds of tasks; returns settings that name the file
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

from puna.config import from_table, nearest
from puna.data import files
from puna.data.build.documents import Stage
from puna.data.build.task import Task
from puna.errors import ConfigError

SOURCES = {
    "arxiv": "puna.data.sources.arxiv",
    "books": "puna.data.sources.books",
    "c4": "puna.data.sources.c4",
    "commoncrawl": "puna.data.sources.commoncrawl",
    "github": "puna.data.sources.github",
    "own": "puna.data.sources.own",
    "stackexchange": "puna.data.sources.stackexchange",
    "wikipedia": "puna.data.sources.wikipedia",
}
STAGES = {
    "books": "puna.data.dedup.books",
    "classifier": "puna.data.quality.classifier",
    "decontaminate": "puna.data.decontaminate_rounds",
    "exact": "puna.data.dedup.exact_join",
    "fuzzy": "puna.data.dedup.fuzzy",
    "language": "puna.data.language",
    "lines": "puna.data.dedup.line_rounds",
    "perplexity": "puna.data.quality.perplexity",
    "rules": "puna.data.quality.rules",
    "scrub": "puna.data.scrub",
}
MODELS = {
    "classifier": "puna.data.quality.classifier_training",
    "decontaminate": "puna.data.decontaminate_rounds",
    "perplexity": "puna.data.quality.perplexity_training",
}

# Gives the tasks of a round, gets the files they wrote; what it returns are files of documents.
Rounds = Generator[list[Task], list[files.File], list[files.File]]


@dataclass(frozen=True)
class Given:
    """A source that a model is made of: its last documents, and the pieces of its input files."""

    documents: tuple[files.File, ...]
    pieces: tuple[tuple[files.File, range | None], ...]


@dataclass(frozen=True)
class Context:
    """Where a stage over many files keeps its own, and what its funnel is called."""

    folder: str
    stage: str
    seed: int

    def name(self, kind: str, number: int, suffix: str) -> str:
        """The full name of one of its files."""
        return files.join(self.folder, f"{kind}-{number:05d}{suffix}")


def source(name: str, table: Mapping[str, Any], where: str) -> Stage:
    """The source of this name with its settings; ConfigError names the nearest to a wrong word."""
    return _resolve(SOURCES, "source", name, table, where)


def stage(name: str, table: Mapping[str, Any], where: str) -> Stage:
    """The stage of this name with its settings; ConfigError names the nearest to a wrong word."""
    return _resolve(STAGES, "stage", name, table, where)


def sees_all(one: Stage) -> bool:
    """Whether a stage needs all files, and cannot run together with those around it."""
    return hasattr(importlib.import_module(one.module), "rounds")


def rounds_of(one: Stage) -> Callable[[Sequence[files.File], Any, Context], Rounds]:
    """What makes the rounds of a stage that sees all files."""
    return cast(
        Callable[[Sequence[files.File], Any, Context], Rounds],
        importlib.import_module(one.module).rounds,
    )


def made_of(one: Stage) -> Mapping[str, str] | None:
    """The sources that a stage's model is made of, and their readers; None: there is none to make.

    Raises ConfigError where settings neither name the model nor say what it is made of.
    """
    if one.name not in MODELS:
        return None
    found: Mapping[str, str] | None = importlib.import_module(MODELS[one.name]).made_of(
        one.settings
    )
    return found


def make(
    one: Stage, inputs: Sequence[files.File], sources: Mapping[str, Given], context: Context
) -> Generator[list[Task], list[files.File], Stage]:
    """Rounds of tasks that make what a stage uses; returns the stage that names it."""
    module = importlib.import_module(MODELS[one.name])
    settings = yield from module.make(inputs, one.settings, sources, context)
    return replace(one, settings=settings)


def suffixes_of(reader: Stage) -> tuple[str, ...]:
    """The ends of the names that a source reads, in small letters; any, where it does not say."""
    return tuple(getattr(importlib.import_module(reader.module), "SUFFIXES", ("",)))


def parts_of(reader: Stage, file: files.File, part_bytes: int) -> list[range | None]:
    """The bytes of a file that each of its tasks reads; None for all of them."""
    splits = getattr(importlib.import_module(reader.module), "SPLITS", ())
    if not file.path.lower().endswith(splits) or file.bytes <= part_bytes:
        return [None]
    begins = range(0, file.bytes, part_bytes)
    return [range(begin, min(begin + part_bytes, file.bytes)) for begin in begins]


def needed_files(one: Stage) -> list[files.File]:
    """The files that a stage's settings name. Raises DataError for one that is not there."""
    needs = getattr(importlib.import_module(one.module), "needs", None)
    return [file for path in (needs(one.settings) if needs else ()) for file in files.find(path)]


def paths_reader(reader: Stage) -> Callable[[BinaryIO, str], list[str]] | None:
    """What a source reads lists of its files with, where it publishes such."""
    found = getattr(importlib.import_module(reader.module), "read_paths", None)
    return cast(Callable[[BinaryIO, str], list[str]] | None, found)


def _resolve(
    known: Mapping[str, str], kind: str, name: str, table: Mapping[str, Any], where: str
) -> Stage:
    if name not in known:
        raise ConfigError(
            f"{where}: there is no {kind} {name!r}", hint=nearest(name, sorted(known))
        )
    settings = importlib.import_module(known[name]).Settings
    return Stage(name, known[name], from_table(settings, table, where))
