"""Decontamination of any number of files, with GPT-3's rule of what is common text.

  find  the benchmarks' sequences in each document of a file, as hashes: most documents have none
  join  how many documents have each; what is in more than `max_documents` is no contamination
        but a phrase, a law, a licence
  cut   each file again, without the other sequences and what is around them
Memory is that of the benchmarks, and of one file's finds. Put into `together`, it counts the
documents of all sources, as GPT-3 did; as a stage of a source, the source's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from puna.data import files
from puna.data.build.documents import SUFFIX, Item, read_all, rewrite
from puna.data.build.funnel import Funnel
from puna.data.build.stages import Context, Rounds
from puna.data.build.task import Task
from puna.data.decontaminate import Hashes, Settings, cleaned, loaded, sequence_hashes, words_of
from puna.data.document import Document

__all__ = ["Settings", "cut", "find", "join", "needs", "rounds"]

_FOUND = np.dtype([("hash", "<u8"), ("document", "<u4")])


@dataclass(frozen=True)
class _Cut:
    settings: Settings
    stage: str
    seed: int


def needs(settings: Settings) -> list[str]:
    """The benchmarks, where some are named."""
    return [settings.benchmarks] if settings.benchmarks else []


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

    def decide(index: int, document: Document) -> Item:
        if index not in touched:
            return document
        return cleaned(document, benchmarks, chosen.settings, common)

    funnel = Funnel(chosen.stage, chosen.seed)
    rewrite(read_all([document_file]), output, report, funnel, decide)
    report["cut_documents"] = len(touched)


def _rows(name: str) -> npt.NDArray[np.void]:
    return np.frombuffer(files.read_bytes(name), _FOUND)
