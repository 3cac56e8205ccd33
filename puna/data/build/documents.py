"""Tasks on documents: input files through a source and stages that see a few documents at a time.

The stages of one task run one after another on batches, so that nothing is written between them.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from puna.data import files
from puna.data.build.funnel import Funnel, Groups, add_groups
from puna.data.build.task import REPORT_SUFFIX, Task
from puna.data.document import (
    DAMAGED,
    Document,
    DocumentWriter,
    Dropped,
    Results,
    documents_of,
    drop_empty,
)
from puna.errors import DataError

BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 4 << 20
READERS = 16  # reports that are read at a time, where each takes a while to arrive
SUFFIX = ".jsonl.zst"
READ = "read"  # the stage that a source is


@dataclass(frozen=True)
class Stage:
    """A stage as a recipe asks for it: its name there, its module, its settings."""

    name: str
    module: str
    settings: Any


@dataclass(frozen=True)
class Chain:
    """What a task does to its input files: read them by a source, or as documents; the stages.

    `pieces` are the short names of the input files, which a source makes ids of, and which bytes
    of each it reads; None for all.
    """

    stages: tuple[Stage, ...]
    source: Stage | None = None
    pieces: tuple[tuple[str, range | None], ...] = ()
    is_strict: bool = False
    seed: int = 0


Item = Document | Dropped


def run(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Write the documents that pass every stage of the Chain in the task's settings.

    Raises DataError for the first damaged item when the build is strict.
    """
    chain: Chain = task.settings
    reading = Funnel(READ, chain.seed)
    steps = [
        (stage, importlib.import_module(stage.module).apply, Funnel(stage.name, chain.seed))
        for stage in chain.stages
    ]
    documents = _read(task, chain, reading) if chain.source else read_all(task.inputs)
    groups = Groups()
    with DocumentWriter(output) as writer:
        for batch in batches(documents):
            kept: Sequence[Document] = batch
            for stage, apply, funnel in steps:
                kept = _apply(apply, stage, kept, funnel)
            for document in kept:
                writer.write(document)
                groups.add(document, text_bytes_of(document))
    funnels = [funnel for _, _, funnel in steps]
    counted = [reading, *funnels] if chain.source else funnels
    report["stages"] = [funnel.record() for funnel in counted]
    report.update(groups.record())


def read_all(names: Iterable[str]) -> Iterator[Document]:
    """The documents of files that a stage before wrote, in order."""
    for name in names:
        with files.open_bytes(name) as file:
            yield from documents_of(file, name)


def languages_of(documents: Sequence[files.File]) -> dict[str, dict[str, int]]:
    """Documents and bytes by language of files that a stage before wrote, from their reports."""
    total: dict[str, dict[str, int]] = {}
    paths = [file.path + REPORT_SUFFIX for file in documents]
    with ThreadPoolExecutor(READERS) as threads:
        for report in threads.map(files.read_json, paths):
            add_groups(total, report["languages"])
    return total


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """BATCH_DOCUMENTS at a time, or fewer where they are long."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def text_bytes_of(document: Document) -> int:
    """How long a text is in UTF-8."""
    text = document.text
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _read(task: Task, chain: Chain, funnel: Funnel) -> Iterator[Document]:
    """The documents of the input files; what is dropped is counted on the way."""
    assert chain.source is not None
    for path, (name, part) in zip(task.inputs, chain.pieces, strict=True):
        for item in drop_empty(_timed(items(chain.source, path, name, part), funnel)):
            if isinstance(item, Document):
                funnel.keep(item, text_bytes_of(item))
                yield item
            elif chain.is_strict and item.reason == DAMAGED:
                raise DataError(
                    f"{path} is damaged: {item.detail}",
                    hint="without --strict it is counted and left out",
                )
            else:
                funnel.drop(item)


def items(source: Stage, path: str, name: str, part: range | None = None) -> Iterator[Item]:
    """What a source makes of one input file, or of a part, known to it by a short name."""
    read = importlib.import_module(source.module).read
    with files.open_bytes(path) as file:
        yield from read(file, name, source.settings, *([part] if part else []))


def _timed(items: Iterator[Item], funnel: Funnel) -> Iterator[Item]:
    """The same items; the time they take to come is the funnel's."""
    began = time.perf_counter()
    for item in items:
        funnel.seconds += time.perf_counter() - began
        yield item
        began = time.perf_counter()
    funnel.seconds += time.perf_counter() - began


def _apply(apply: Any, stage: Stage, batch: Sequence[Document], funnel: Funnel) -> list[Document]:
    began = time.perf_counter()
    results: list[Item] = apply(batch, stage.settings)
    funnel.seconds += time.perf_counter() - began
    if isinstance(results, Results):
        funnel.counts.update(results.counts)
    kept = []
    for before, after in zip(batch, results, strict=True):
        if isinstance(after, Document):
            funnel.keep(after, text_bytes_of(after))
            kept.append(after)
        else:
            funnel.drop(after, before)
    return kept


def rewrite(
    documents: Iterable[Document],
    output: BinaryIO,
    report: dict[str, Any],
    funnel: Funnel,
    decide: Callable[[int, Document], Item],
) -> None:
    """Write what `decide` makes of each document and its number, from 0: how a join's task ends."""
    groups = Groups()
    began = time.perf_counter()
    with DocumentWriter(output) as writer:
        for index, before in enumerate(documents):
            after = decide(index, before)
            if isinstance(after, Dropped):
                funnel.drop(after, before)
                continue
            text_bytes = text_bytes_of(after)
            funnel.keep(after, text_bytes)
            groups.add(after, text_bytes)
            writer.write(after)
    funnel.seconds = time.perf_counter() - began
    report["stages"] = [funnel.record()]
    report.update(groups.record())
