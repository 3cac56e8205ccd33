"""A corpus: documents without exact duplicates, split into train and held-out, in one folder.

  train.jsonl.zst, heldout.jsonl.zst   the documents, in the order they were read
  dropped.jsonl                        what was not kept, one line each: id, source, reason, detail
  manifest.json                        counts by split, source and licence; config; hashes
Documents stream through: one text is in memory at a time, and a hash for each (dedup/exact.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from puna import schema
from puna.console import Console
from puna.data.dedup.exact import drop_duplicates
from puna.data.document import Document, DocumentWriter, Dropped, drop_empty, read_documents
from puna.data.split import SPLITS, HoldOut, Split, cut_tails, split_of
from puna.errors import ConfigError, DataError
from puna.tokens.fingerprint import TextFingerprint
from puna.whole_folder import is_free, whole_folder

KIND = "puna.corpus"
MANIFEST = "manifest.json"
DROPPED = "dropped.jsonl"


@dataclass(frozen=True)
class CorpusConfig:
    """Document number n (from 0, in reading order) is held out when n % every == offset."""

    heldout_every: int = 20
    heldout_offset: int = 10

    def __post_init__(self) -> None:
        if self.heldout_every < 2:
            raise ConfigError(
                f"heldout_every must be at least 2, got {self.heldout_every}",
                hint="20 holds out every 20th document, 5 %",
            )
        if not 0 <= self.heldout_offset < self.heldout_every:
            raise ConfigError(
                f"heldout_offset must be from 0 to heldout_every - 1 = {self.heldout_every - 1}, "
                f"got {self.heldout_offset}"
            )


@runtime_checkable
class TextSource(Protocol):
    """Documents whose inputs can be told apart without reading them all as documents."""

    total_bytes: int
    bytes_read: int
    not_read: Counter[str]

    def fingerprint(self, console: Console) -> str: ...

    def __iter__(self) -> Iterator[Document | Dropped]: ...


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk. `manifest` is its manifest.json."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """One hash over every kept text with its id and split: it changes when any of them does."""
        return str(self.manifest["fingerprint"])

    def count(self, split: Split) -> tuple[int, int]:
        """Documents and UTF-8 bytes of text in a split."""
        facts = self.manifest["splits"][split]
        return facts["documents"], facts["bytes"]

    def train(self) -> Iterator[Document]:
        """The documents to train on, one at a time."""
        return self.documents("train")

    def heldout(self) -> Iterator[Document]:
        """The documents to measure on, one at a time."""
        return self.documents("heldout")

    def documents(self, split: Split) -> Iterator[Document]:
        """A split's documents in order. Raises DataError when the file is damaged or lacks some."""
        path = self.folder / _file_name(split)
        found = 0
        for document in read_documents(path):
            yield document
            found += 1
        wanted, _ = self.count(split)
        if found != wanted:
            raise DataError(f"{path} should hold {wanted} documents, found {found}")

    def dropped(self) -> Iterator[Dropped]:
        """What was not kept, and why."""
        with (self.folder / DROPPED).open("rb") as file:
            for line in file:
                yield Dropped(**json.loads(line))


def build_corpus(
    documents: Iterable[Document | Dropped],
    out: Path,
    config: CorpusConfig,
    console: Console,
    *,
    replace: bool = False,
) -> Corpus:
    """Read `documents` once, drop empty and equal ones, split, write `out` whole or not at all.

    When `out` holds a corpus of the same inputs (of a TextSource) and config, that is returned.
    With too few documents for the rule (fewer than heldout_offset + 1) the end of each is held
    out. Raises DataError when `out` holds anything else (unless it is a corpus and `replace`),
    when too little text is left, or the disk is full.
    """
    source = documents if isinstance(documents, TextSource) else None
    if not is_free(out):
        _check_is_corpus(out)
    inputs = source.fingerprint(console) if source else None
    if not is_free(out) and not replace:
        return _reuse(out, inputs, config, console)
    with whole_folder(out) as folder:
        manifest = _write(documents, folder, config, console)
        manifest["input_fingerprint"] = inputs
        manifest["not_read"] = dict(source.not_read) if source else {}
        schema.write_json(folder / MANIFEST, KIND, manifest)
    return open_corpus(out)


def write_corpus(
    documents: Callable[[], Iterable[tuple[Split, Document]]],
    out: Path,
    hold_out: HoldOut,
    input_fingerprint: str,
) -> Corpus:
    """Write documents that are split already; kept as it is where it is made of the same.

    Raises DataError when `out` holds anything but a corpus, or the disk is full.
    """
    if not is_free(out):
        _check_is_corpus(out)
        corpus = open_corpus(out)
        if corpus.manifest["input_fingerprint"] == input_fingerprint:
            return corpus
    with whole_folder(out) as folder:
        with _DropLog(folder / DROPPED) as dropped, _SplitWriter(folder) as kept:
            for split, document in documents():
                kept.add(split, document)
        manifest = {
            **kept.facts(),
            "config": {"heldout_every": hold_out.every, "heldout_offset": hold_out.offset},
            "heldout_rule": "hash" if hold_out.offset is None else "documents",
            "dropped": dropped.reasons,
            "files": {path.name: _file_facts(path) for path in sorted(folder.iterdir())},
            "input_fingerprint": input_fingerprint,
            "not_read": {},
        }
        schema.write_json(folder / MANIFEST, KIND, manifest)
    return open_corpus(out)


def open_corpus(folder: Path) -> Corpus:
    """The corpus in `folder`.

    Raises DataError when there is none, or a file of it is missing or has another size than the
    manifest says; SchemaError when it was written by a newer Puna.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"there is no corpus in {folder}", hint="puna data add makes one of files and folders"
        )
    manifest = schema.read_json(folder / MANIFEST, KIND)
    for name, facts in manifest["files"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != facts["bytes"]:
            raise DataError(
                f"{path} should have {facts['bytes']} bytes, found {found or 'no file'}",
                hint="build the corpus again: puna data add ... --replace",
            )
    return Corpus(folder, manifest)


def _check_is_corpus(out: Path) -> None:
    """Only a corpus is ever replaced or reused."""
    if not (out / MANIFEST).is_file():
        raise DataError(
            f"{out} should be a new folder or a corpus, found other files in it",
            hint="give another folder with --out",
        )
    schema.read_json(out / MANIFEST, KIND)


def _reuse(out: Path, inputs: str | None, config: CorpusConfig, console: Console) -> Corpus:
    corpus = open_corpus(out)
    manifest = corpus.manifest
    changes = [
        f"{name} was {manifest['config'].get(name)}, is {value}"
        for name, value in asdict(config).items()
        if manifest["config"].get(name) != value
    ]
    if inputs is None or manifest["input_fingerprint"] != inputs:
        changes.append("the text it is made from changed")
    if changes:
        raise DataError(
            f"{out} holds another corpus: {'; '.join(changes)}",
            hint="give another folder with --out; `puna data add --replace` builds a corpus again",
        )
    console.say(f"{out} is made from the same text and config, kept as it is")
    return corpus


def _write(
    documents: Iterable[Document | Dropped], folder: Path, config: CorpusConfig, console: Console
) -> dict[str, Any]:
    """Write the corpus's files to `folder`; returns what its manifest says of them."""
    rule = "documents"
    with _DropLog(folder / DROPPED) as dropped:
        kept = _write_documents(_with_progress(documents, console), folder, config, dropped)
        if not kept.texts["heldout"].documents:
            rule = "tails"
            share = 1 / config.heldout_every
            console.say(
                f"{kept.documents} document(s) are too few to hold out every "
                f"{config.heldout_every}th: held out the last {share:.0%} of each"
            )
            kept = _write_tails(folder, share, dropped)
    files = {path.name: _file_facts(path) for path in sorted(folder.iterdir())}
    return {
        **kept.facts(),
        "config": asdict(config),
        "heldout_rule": rule,
        "dropped": dropped.reasons,
        "files": files,
    }


def _write_documents(
    documents: Iterable[Document | Dropped], folder: Path, config: CorpusConfig, dropped: _DropLog
) -> _SplitWriter:
    """Write each document that is not dropped to its split."""
    with _SplitWriter(folder) as kept:
        for item in drop_duplicates(drop_empty(documents)):
            if isinstance(item, Dropped):
                dropped.add(item)
            else:
                index = kept.documents
                kept.add(split_of(index, config.heldout_every, config.heldout_offset), item)
    return kept


def _write_tails(folder: Path, share: float, dropped: _DropLog) -> _SplitWriter:
    """Split the documents of the training file, which are all, into beginnings and ends."""
    uncut = folder / "uncut.jsonl.zst"
    (folder / _file_name("train")).rename(uncut)
    with _SplitWriter(folder) as kept:
        for item in cut_tails(lambda: read_documents(uncut), share):
            if isinstance(item, Dropped):
                dropped.add(item)
            else:
                kept.add(*item)
    uncut.unlink()
    for split in SPLITS:
        if not kept.texts[split].documents:
            raise DataError(
                f"there is too little text: {kept.documents} short documents, none for {split}",
                hint="give more text; some hundred kB is the least that teaches a model anything",
            )
    return kept


def _with_progress(
    documents: Iterable[Document | Dropped], console: Console
) -> Iterator[Document | Dropped]:
    source = documents if isinstance(documents, TextSource) else None
    bytes_shown = 0
    with console.progress(source.total_bytes if source else None, "reading text", "B") as bar:
        for item in documents:
            yield item
            reached = source.bytes_read if source else bytes_shown
            bar.update(reached - bytes_shown)
            bytes_shown = reached


class _SplitWriter:
    """The two document files while they are written, and the counts of what is in them."""

    def __init__(self, folder: Path) -> None:
        self.texts = {split: TextFingerprint() for split in SPLITS}
        self.sources: dict[str, Counter[str]] = {}
        self.licences: dict[str, Counter[str]] = {}
        self._files = {split: DocumentWriter(folder / _file_name(split)) for split in SPLITS}

    def add(self, split: Split, document: Document) -> None:
        """Append a document to its split's file and count it."""
        self._files[split].write(document)
        text_bytes = len(self.texts[split].add(document.text, document.id))
        for entry in (
            self.sources.setdefault(document.source, Counter()),
            self.licences.setdefault(document.licence, Counter()),
        ):
            entry.update({f"{split}_documents": 1, f"{split}_bytes": text_bytes})

    @property
    def documents(self) -> int:
        """How many were added."""
        return sum(texts.documents for texts in self.texts.values())

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the documents."""
        splits = {
            split: {"documents": texts.documents, "bytes": texts.bytes, "sha256": texts.sha256}
            for split, texts in self.texts.items()
        }
        fingerprint = hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()
        return {
            "fingerprint": fingerprint,
            "splits": splits,
            "sources": self.sources,
            "licences": self.licences,
        }

    def __enter__(self) -> _SplitWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


class _DropLog:
    """dropped.jsonl while it is written, and how many were dropped for each reason."""

    def __init__(self, path: Path) -> None:
        self.reasons: dict[str, Counter[str]] = {}
        self._file = path.open("wb")

    def add(self, dropped: Dropped) -> None:
        """Append a line and count it."""
        entry = self.reasons.setdefault(dropped.reason, Counter())
        entry.update(documents=1, bytes=dropped.text_bytes)
        line = json.dumps(asdict(dropped), ensure_ascii=False) + "\n"
        # An error's message may name a file whose name is not UTF-8.
        self._file.write(line.encode("utf-8", "backslashreplace"))

    def __enter__(self) -> _DropLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _file_name(split: Split) -> str:
    return f"{split}.jsonl.zst"


def _file_facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": schema.sha256_file(path)}
