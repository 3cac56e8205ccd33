"""Decontamination of any number of files, with GPT-3's rule of what is common text.

  sets  the benchmarks compiled, where settings name their files
  find  the benchmarks' sequences in each document of a file, as hashes: most documents have none
  join  how many documents have each; what is in more than `max_documents` is no contamination
        but a phrase, a law, a licence
  cut   each file again, without the other sequences and what is around them
Memory is that of the benchmarks, and of one file's finds. Put into `together`, it counts the
documents of all sources, as GPT-3 did; as a stage of a source, the source's own.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from puna.data import files
from puna.data.benchmarks import compile_sets
from puna.data.build.documents import SUFFIX, Item, read_all, rewrite
from puna.data.build.funnel import Funnel
from puna.data.build.stages import Context, Given, Rounds
from puna.data.build.task import Task
from puna.data.decontaminate import (
    Benchmarks,
    Hashes,
    Settings,
    cleaned,
    loaded,
    sequence_hashes,
    words_of,
)
from puna.data.document import Document
from puna.errors import ConfigError

__all__ = ["Settings", "cut", "find", "join", "made_of", "make", "needs", "rounds", "sets"]

_FOUND = np.dtype([("hash", "<u8"), ("document", "<u4")])


@dataclass(frozen=True)
class _Cut:
    settings: Settings
    stage: str
    seed: int


def needs(settings: Settings) -> list[str]:
    """The benchmarks, where some are named."""
    named = [settings.benchmarks] if settings.benchmarks else []
    return [*named, *(path for paths in settings.sets.values() for path in paths)]


def made_of(settings: Settings) -> Mapping[str, str] | None:
    """No source. Raises ConfigError where neither benchmarks nor their files are named."""
    if settings.sets:
        return {}
    if settings.benchmarks:
        return None
    raise ConfigError(
        "decontaminate needs benchmarks", hint='sets = {NAME = ["FILES"]}, or benchmarks = FILE'
    )


def make(
    inputs: Sequence[files.File],
    settings: Settings,
    sources: Mapping[str, Given],
    context: Context,
) -> Generator[list[Task], list[files.File], Settings]:
    """The sets compiled to one file."""
    names = tuple(file.path for paths in settings.sets.values() for file in _files_of(paths))
    out = context.name("sets", 0, ".npz")
    (found,) = yield [Task(f"{__name__}:sets", names, settings.sets, out)]
    return replace(settings, benchmarks=found.path, sets={})


def sets(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The sequences of all sets."""
    with tempfile.TemporaryDirectory(prefix="puna-") as folder:
        path = os.path.join(folder, "sets.npz")
        found = compile_sets(task.settings, path)
        output.write(files.read_bytes(path))
    report["model"] = {name: asdict(one) for name, one in found.items()}


def _files_of(paths: Sequence[str]) -> list[files.File]:
    return [file for path in paths for file in files.find(path)]


def rounds(inputs: Sequence[files.File], settings: Settings, context: Context) -> Rounds:
    """The three rounds; the last one's files are the documents."""
    here = f"{__name__}:"
    found = yield [
        Task(f"{here}find", (file.path,), settings, context.name("find", number, ".bin"))
        for number, file in enumerate(inputs)
    ]
    names = tuple(file.path for file in found)
    (common,) = yield [Task(f"{here}join", names, settings, context.name("join", 0, ".bin"))]
    chosen = _Cut(settings, context.stage, context.seed)
    return (
        yield [
            Task(
                f"{here}cut",
                (file.path, found[number].path, common.path),
                chosen,
                context.name("documents", number, SUFFIX),
            )
            for number, file in enumerate(inputs)
        ]
    )


def find(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Each sequence of a benchmark that a document has, once, with the document's number."""
    settings: Settings = task.settings
    benchmarks = loaded(settings.benchmarks)
    documents: Counter[str] = Counter()
    for number, document in enumerate(read_all(task.inputs)):
        hashes = sequence_hashes(words_of(document.text))
        shared = np.unique(hashes[benchmarks.places(hashes)])
        if len(shared):
            rows = np.empty(len(shared), _FOUND)
            rows["hash"], rows["document"] = shared, number
            output.write(rows.tobytes())
            sets = {one for one, _ in benchmarks.entries(shared)}
            documents.update(benchmarks.names[one] for one in sets)
    report["documents_of"] = dict(sorted(documents.items()))


def join(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The sequences, sorted, that more than `max_documents` documents have."""
    settings: Settings = task.settings
    every = loaded(settings.benchmarks).hashes  # sorted
    known = every[np.append(True, every[1:] != every[:-1])]
    documents = np.zeros(len(known), np.int64)
    for name in task.inputs:
        found, counts = np.unique(_rows(name)["hash"], return_counts=True)
        documents[np.searchsorted(known, found)] += counts
    is_common = documents > settings.max_documents
    common = known[is_common] if settings.max_documents else known[:0]
    output.write(common.astype("<u8").tobytes())
    report["sequences"] = int((documents > 0).sum())
    report["common_sequences"] = len(common)


def cut(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The file's documents without what they share with benchmarks, or without the document."""
    chosen: _Cut = task.settings
    document_file, found, common_file = task.inputs
    common: Hashes = np.frombuffer(files.read_bytes(common_file), "<u8")
    rows = _rows(found)
    position = np.minimum(np.searchsorted(common, rows["hash"]), max(0, len(common) - 1))
    is_common = common[position] == rows["hash"] if len(common) else np.zeros(len(rows), bool)
    touched = frozenset(rows["document"][~is_common].tolist())
    benchmarks = loaded(chosen.settings.benchmarks)

    funnel = Funnel(chosen.stage, chosen.seed)

    def decide(index: int, document: Document) -> Item:
        if index not in touched:
            return document
        funnel.counts.update(_matches(document, benchmarks, common))
        return cleaned(document, benchmarks, chosen.settings, common)

    rewrite(read_all([document_file]), output, report, funnel, decide)
    report["cut_documents"] = len(touched)


def _matches(document: Document, benchmarks: Benchmarks, common: Hashes) -> Counter[str]:
    """The document for each set that it shares text with, and how many sequences it shares."""
    hashes = sequence_hashes(words_of(document.text))
    shared = hashes[benchmarks.places(hashes)]
    found: Counter[str] = Counter()
    for one in shared[~np.isin(shared, common)]:
        sets_of = {benchmarks.names[number] for number, _ in benchmarks.entries(np.array([one]))}
        found.update(f"{name}: sequences" for name in sets_of)
        found |= Counter(f"{name}: documents" for name in sets_of)
    return found


def _rows(name: str) -> npt.NDArray[np.void]:
    return np.frombuffer(files.read_bytes(name), _FOUND)
