"""A document: one text and where it came from; and JSON lines files that hold many of them.

A line of ours has the keys id, source, licence and text, and url and language where they are known.
Foreign JSON lines are read too, where they keep the text under `text` or `content`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from puna.data.lines import LONGEST_LINE_BYTES, open_writer, read_lines, zstd_writer
from puna.errors import DataError

UNKNOWN_LICENCE = "unknown"
DAMAGED = "damaged"  # the reason of what could not be read
EMPTY = "empty"
TEXT_KEYS = ("text", "content")
LICENCE_KEYS = ("licence", "license")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Document:
    """One text, the name of its source, its licence, and an id that finds it there again.

    `url` is where the public finds it, `language` its ISO 639-1 code; both "" when not known.
    Raises DataError where a field holds a lone surrogate: UTF-8 cannot express it.
    """

    text: str
    source: str
    licence: str
    id: str
    url: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "source", "licence", "text", "url", "language"):
            value = getattr(self, name)
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(
                    f"{name} holds a lone surrogate, U+{ord(value[error.start]):04X} at character "
                    f"{error.start}, half of a character that was cut in two",
                    hint="write the text again from its origin, or leave the document out",
                ) from None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A document that is not kept, and why; `detail` is the text it equals or what is wrong.

    `excerpt` is the beginning of its text, for a person who judges the reason.
    """

    id: str
    source: str
    reason: str
    detail: str = ""
    text_bytes: int = 0
    excerpt: str = ""


class Results(list[Document | Dropped]):
    """What a stage made of some documents, and how many of what it saw: of each kind, by name."""

    def __init__(self, items: Iterable[Document | Dropped], counts: Mapping[str, int]) -> None:
        super().__init__(items)
        self.counts = counts


def drop_empty(documents: Iterable[Document | Dropped]) -> Iterator[Document | Dropped]:
    """The same stream, with a `Dropped` for each document that has no character but spaces."""
    for item in documents:
        if isinstance(item, Document) and not item.text.strip():
            text_bytes = len(item.text.encode("utf-8"))
            yield Dropped(item.id, item.source, EMPTY, text_bytes=text_bytes)
        else:
            yield item


def read_documents(
    path: Path, *, source: str | None = None, licence: str = UNKNOWN_LICENCE
) -> Iterator[Document]:
    """The documents of a `.jsonl`, `.jsonl.gz` or `.jsonl.zst`, one at a time.

    What a line does not say is filled in: `source` (the file's name when None), `licence`, and the
    id `name#line`. Blank lines hold no document.
    Raises DataError naming the file and the line for anything that is not a document.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    with file:
        yield from documents_of(file, str(path), source=source, licence=licence)


def documents_of(
    file: BinaryIO, path: str, *, source: str | None = None, licence: str = UNKNOWN_LICENCE
) -> Iterator[Document]:
    """The documents of an open file, as `read_documents` reads them."""
    name = path.rpartition("/")[2]
    for number, record in read_records(file, path):
        if isinstance(record, DataError):
            raise record
        where = f"{path} line {number}"
        yield to_document(record, where, source or name, licence, f"{name}#{number}")


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write documents to `path`, compressed as its name says, whole or not at all; their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    count = 0
    try:
        with DocumentWriter(partial) as writer:
            for count, document in enumerate(documents, start=1):  # noqa: B007 (counted)
                writer.write(document)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


class DocumentWriter:
    """Writes documents to a new JSON lines file, compressed as its name says, or an open one.

    What goes to an open file is compressed as `.jsonl.zst`.
    """

    def __init__(self, target: Path | BinaryIO) -> None:
        self._file = open_writer(target) if isinstance(target, Path) else zstd_writer(target)

    def write(self, document: Document) -> None:
        """Append one document as one line."""
        record = {
            "id": document.id,
            "source": document.source,
            "licence": document.licence,
            "text": document.text,
        }
        for name in ("url", "language"):
            if value := getattr(document, name):
                record[name] = value
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def __enter__(self) -> DocumentWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_records(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """Each line's number (from 1) and its JSON object, or the error that says what is wrong.

    A damaged or cut file gives one error as the last item.
    """
    number = 0
    try:
        for number, line in enumerate(read_lines(file, name), start=1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line or line.isspace():
                continue
            try:
                yield number, _parse(line, f"{name} line {number}")
            except DataError as error:
                yield number, error
    except DataError as error:
        yield number + 1, error


def to_document(
    record: dict[str, Any], where: str, source: str, licence: str, fallback_id: str
) -> Document:
    """The document of a JSON object or a table's row; `where` opens its DataError's message."""
    text_key = next((key for key in TEXT_KEYS if key in record), None)
    if text_key is None:
        raise DataError(
            f"{where} has no text: wanted the key text or content, found {_known_keys(record)}",
            hint="rename the column, or leave such lines out with --skip-bad",
        )
    if not isinstance(record[text_key], str):
        kind = type(record[text_key]).__name__
        raise DataError(f"{where}: {text_key} should be a text, found {kind}")
    found_licence = next((record[key] for key in LICENCE_KEYS if record.get(key)), licence)
    found_source = record.get("source") or source
    for name, value in (("licence", found_licence), ("source", found_source)):
        if not isinstance(value, str):
            raise DataError(f"{where}: {name} should be a text, found {type(value).__name__}")
    found_id = record.get("id")
    document_id = str(found_id) if isinstance(found_id, str | int) else fallback_id
    url, language = (
        found if isinstance(found := record.get(name), str) else "" for name in ("url", "language")
    )
    try:
        return Document(record[text_key], found_source, found_licence, document_id, url, language)
    except DataError as error:
        raise DataError(f"{where}: {error.message}", hint=error.hint) from None


def _parse(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > LONGEST_LINE_BYTES:
        raise DataError(
            f"{where} is longer than {LONGEST_LINE_BYTES >> 20} MiB",
            hint="one line is one document: split it, or leave it out with --skip-bad",
        )
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8: found 0x{line[error.start]:02X} at its byte {error.start}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where} should be a JSON object, found {type(record).__name__}")
    return record


def _known_keys(record: dict[str, Any]) -> str:
    names = sorted(record)
    shown = ", ".join(names[:8]) or "none"
    return f"{shown}, and {len(names) - 8} more" if len(names) > 8 else shown
