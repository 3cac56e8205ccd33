"""Makes the classifier that `classifier` uses, in a build: of pages that Wikipedia refers to.

  references  the addresses that one dump of Wikipedia refers to, one a line
  join        their hashes, sorted: 8 bytes an address, in memory three times that
  sample      of each file of pages, some whose address is among them, and some of the others
  learn       the model of an equal number of both, as RedPajama's
Of each kind the pages with the smallest hashes of their ids are taken: at most `pages` of all, and
of one file four times what would be its equal part. Learning holds some 12 KB a page in memory.
"""

from __future__ import annotations

import functools
import heapq
import os
import tempfile
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from puna.data import files
from puna.data.build import stages
from puna.data.build.documents import SUFFIX, items, read_all
from puna.data.build.stages import Context, Given
from puna.data.build.task import Task
from puna.data.document import Document, DocumentWriter
from puna.data.lines import read_lines, zstd_writer
from puna.data.quality.classifier import Settings, train
from puna.data.sources import wikipedia_references
from puna.data.sources.wikipedia_references import normalised
from puna.errors import ConfigError, DataError

_ROOM = 4  # times its equal part that a file's sample may have
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class _Lesson:
    """How many of the task's inputs are what: positive, negative, samples, then the references."""

    settings: Settings
    positive: int
    negative: int
    samples: int


def made_of(settings: Settings) -> Mapping[str, str] | None:
    """The source that refers to pages. Raises ConfigError where no model follows from settings."""
    if settings.references:
        return {settings.references: "wikipedia"}
    if settings.positive:
        return {}
    if settings.model:
        return None
    raise ConfigError(
        "classifier needs a model",
        hint='references = "wikipedia", positive = [FILES] or model = FILE',
    )


def make(
    inputs: Sequence[files.File],
    settings: Settings,
    sources: Mapping[str, Given],
    context: Context,
) -> Generator[list[Task], list[files.File], Settings]:
    """A classifier of the pages to come, by who refers to them, or of the files in the settings."""
    here = f"{__name__}:"
    known: tuple[str, ...] = ()
    for given in sources.values():
        lists = yield [
            Task(f"{here}references", (file.path,), part, context.name("urls", number, ".txt.zst"))
            for number, (file, part) in enumerate(given.pieces)
        ]
        names = tuple(file.path for file in lists)
        (joined,) = yield [Task(f"{here}join", names, None, context.name("urls", 0, ".bin"))]
        known = (joined.path,)
    samples: list[files.File] = []
    if known or not settings.negative:
        most = min(settings.pages, -(-_ROOM * settings.pages // max(len(inputs), 1)))
        samples = yield [
            Task(f"{here}sample", (file.path, *known), most, context.name("pages", number, SUFFIX))
            for number, file in enumerate(inputs)
        ]
    given_files = [
        [file.path for path in paths for file in files.find(path)]
        for paths in (settings.positive, settings.negative)
    ]
    lesson = _Lesson(settings, len(given_files[0]), len(given_files[1]), len(samples))
    names = (*given_files[0], *given_files[1], *(file.path for file in samples), *known)
    (model,) = yield [Task(f"{here}learn", names, lesson, context.name("model", 0, ".npz"))]
    return replace(settings, model=model.path, references="", positive=(), negative=())


def references(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The addresses that a dump, or a part of it, refers to; sorted, each once."""
    with files.open_bytes(task.inputs[0]) as file:
        found = sorted(set(wikipedia_references.references(file, task.settings)))
    lines = zstd_writer(output)
    lines.write(b"".join(address.encode("utf-8", "replace") + b"\n" for address in found))
    lines.close()
    report["addresses"] = len(found)


def join(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The hashes of all lists' addresses, sorted, each once."""
    hashes: Hashes = np.zeros(0, np.uint64)
    for name in task.inputs:
        with files.open_bytes(name) as file:
            found = np.fromiter(map(_hash, read_lines(file, f"{name}.jsonl.zst")), np.uint64)
        hashes = np.union1d(hashes, found)
    output.write(hashes.astype("<u8").tobytes())
    report["addresses"] = len(hashes)


def sample(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Some of a file's pages that are referred to, then some of the others."""
    pages, *known = task.inputs
    every = read_all([pages])
    kinds = {True: _Smallest(task.settings), False: _Smallest(task.settings)}
    for document in every:
        kinds[bool(known) and _is_known(document, known[0])].add(document)
    with DocumentWriter(output) as writer:
        for document in (*kinds[True].documents(), *kinds[False].documents()):
            writer.write(document)
    report["references"], report["others"] = kinds[True].seen, kinds[False].seen


def learn(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """The classifier. Raises DataError where there are fewer pages of a kind than it takes."""
    lesson: _Lesson = task.settings
    names, settings = list(task.inputs), lesson.settings
    places = np.cumsum([lesson.positive, lesson.negative, lesson.samples]).tolist()
    positive, negative = _Smallest(settings.pages), _Smallest(settings.pages)
    for kind, part in ((positive, names[: places[0]]), (negative, names[places[0] : places[1]])):
        for document in _own(part):
            kind.add(document)
    known = names[places[2] :]
    for document in read_all(names[places[1] : places[2]]):
        is_positive = bool(known) and _is_known(document, known[0])
        if is_positive or not lesson.negative:
            (positive if is_positive else negative).add(document)
    _require(positive, negative, settings)
    good = positive.documents()
    bad = negative.documents()[: len(good)]
    model = train([one.text for one in good], [one.text for one in bad])
    with tempfile.TemporaryDirectory(prefix="puna-") as folder:
        path = os.path.join(folder, "model.npz")
        model.save(path)
        output.write(files.read_bytes(path))
    report["model"] = {"positive": len(good), "negative": len(bad)}


class _Smallest:
    """The documents with the smallest hashes of their ids, at most so many, smallest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[int, int, Document]] = []
        self.seen = 0

    def add(self, document: Document) -> None:
        """Keep it, or let the largest go."""
        self.seen += 1
        one = (-zlib.crc32(document.id.encode()), -self.seen, document)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, one)
        else:
            heapq.heappushpop(self._heap, one)

    def documents(self) -> list[Document]:
        """Those that are kept."""
        return [document for _, _, document in sorted(self._heap, reverse=True)]


def _require(positive: _Smallest, negative: _Smallest, settings: Settings) -> None:
    fewest = settings.min_pages
    if positive.seen >= fewest and negative.seen >= min(fewest, positive.seen):
        return
    what = f"that {settings.references} refers to" if settings.references else "like references"
    raise DataError(
        f"classifier: found {positive.seen:,} pages {what} and {negative.seen:,} others, "
        f"wanted {fewest:,} of both",
        hint="give more pages; or positive = [FILES] with pages of your own; "
        "or lower settings.classifier.min_pages",
    )


def _own(names: Iterable[str]) -> Iterator[Document]:
    """The documents in files of a user's own."""
    reader = stages.source("own", {}, "classifier")
    for name in names:
        found = items(reader, name, name)
        yield from (one for one in found if isinstance(one, Document) and one.text.strip())


def _is_known(document: Document, path: str) -> bool:
    known = _hashes(path)
    key = _hash(normalised(document.url).encode("utf-8", "replace"))
    place = int(np.searchsorted(known, np.uint64(key)))
    return place < len(known) and int(known[place]) == key


@functools.lru_cache(maxsize=1)
def _hashes(path: str) -> Hashes:
    """The references' hashes, mapped where they lie on this machine."""
    if files.is_url(path) or not files.size(path):
        return np.frombuffer(files.read_bytes(path), "<u8")
    return np.memmap(path, "<u8", mode="r")


def _hash(address: bytes) -> int:
    return int.from_bytes(blake2b(address, digest_size=8).digest(), "little")
