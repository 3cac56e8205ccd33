"""The text files a user owns, in folders or one by one, as documents.

A `.txt`, `.md` or `.py` is one document, or several of 16 MiB where it is larger; a line of a
`.jsonl(.gz|.zst)` and a row of a `.parquet` or `.csv` is one. An `.html` page is its main content
(resiliparse, `puna[data]`), a `.pdf` the text of its pages in paragraphs (pypdf, `puna[data]`).
Other text is kept as it is (line ends, tabs); only a byte order mark is taken off. Hidden files and
folders, and what Puna itself wrote, are not read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from puna import schema
from puna.console import Console
from puna.data.document import (
    BYTE_ORDER_MARK,
    DAMAGED,
    UNKNOWN_LICENCE,
    Document,
    Dropped,
    read_records,
    to_document,
)
from puna.data.sources import RECORD_KIND, RECORD_NAME, comma_separated, pdf
from puna.data.sources.parquet import read_rows
from puna.data.sources.web_page import page_text
from puna.errors import DataError

UNREADABLE = "unreadable"
PART_BYTES = 16 << 20  # one document's text in memory; the held-out rule wants many, not one huge
_LEAVE_OUT = "--skip-bad leaves it out and counts it"


@dataclass(frozen=True)
class Origin:
    """What files say about all their documents, where a line does not say it itself."""

    source: str
    licence: str


@dataclass(frozen=True)
class TextFile:
    """One file to read; its id is its path below the folders given, with slashes."""

    path: Path
    suffix: str  # a key of READERS
    id: str
    bytes: int
    origin: Origin


class OwnText:
    """The text files under some paths, as documents in the order of their file names.

    `source` is the folder's name and `licence` is "unknown" unless given, or said by the
    source.json of a fetched folder; a JSON line or a row that has its own keeps it. With
    `skip_bad`, what cannot be read comes as `Dropped` instead of an error.
    `not_read` counts what was found and left alone, by kind. `bytes_read` of `total_bytes` grows
    while one iterates. Raises DataError when there is nothing to read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        source: str | None = None,
        licence: str | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.skip_bad = skip_bad
        self.not_read: Counter[str] = Counter()
        self.bytes_read = 0
        self._given = (source, licence)
        self.files = self._find(paths)
        self.total_bytes = sum(file.bytes for file in self.files)

    def fingerprint(self, console: Console) -> str:
        """One hash over the files' names, contents, sources and licences."""
        total = hashlib.sha256(f"skip_bad={self.skip_bad}\n".encode())
        with console.progress(self.total_bytes, "hashing files", "B") as bar:
            for file in self.files:
                try:
                    content = schema.sha256_file(file.path)
                except OSError as error:
                    raise _cannot_read(file.path, error) from None
                facts = [file.id, file.origin.source, file.origin.licence, content]
                total.update(json.dumps(facts).encode("utf-8") + b"\n")
                bar.update(file.bytes)
        return total.hexdigest()

    def __iter__(self) -> Iterator[Document | Dropped]:
        self.bytes_read = 0
        for text_file in self.files:
            before = self.bytes_read
            for item in self._read(text_file):
                yield self._dropped(item, text_file) if isinstance(item, DataError) else item
            self.bytes_read = before + text_file.bytes

    def _dropped(self, error: DataError, text_file: TextFile) -> Dropped:
        if not self.skip_bad:
            raise DataError(error.message, hint=error.hint or _LEAVE_OUT)
        return Dropped(text_file.id, text_file.origin.source, UNREADABLE, error.message)

    def _read(self, text_file: TextFile) -> Iterator[Document | Dropped | DataError]:
        before = self.bytes_read
        reader = READERS[text_file.suffix]
        try:
            with text_file.path.open("rb") as file:
                for position, item in reader(text_file, file):
                    self.bytes_read = before + min(position, text_file.bytes)
                    yield item
        except OSError as error:
            yield _cannot_read(text_file.path, error)

    def _find(self, paths: Sequence[Path]) -> list[TextFile]:
        for root in paths:
            if not root.exists():
                raise DataError(
                    f"there is no file or folder {root}", hint="give the path of text you own"
                )
            if root.is_dir() and (kind := _written_by_puna(root)):
                raise DataError(
                    f"{root} should hold text files, found a {kind} folder",
                    hint="it is Puna's own output: give the folder it was made from",
                )
        top = _common_folder(paths)
        found: dict[str, TextFile] = {}
        for root in paths:
            folder = root if root.is_dir() else root.parent
            name = _utf8(_absolute(folder).name) or "files"
            origin = self._origin(folder, Origin(name, UNKNOWN_LICENCE))
            for path, suffix, its_origin in self._walk(root, origin):
                file_id = _utf8(_absolute(path).relative_to(top).as_posix())
                found[file_id] = TextFile(path, suffix, file_id, path.stat().st_size, its_origin)
        if not found:
            raise _nothing_found(paths, self.not_read)
        return [found[file_id] for file_id in sorted(found)]

    def _origin(self, folder: Path, inherited: Origin) -> Origin:
        """What the folder's source.json says, where there is one; what was given goes first."""
        record_path = folder / RECORD_NAME
        if _schema_kind(record_path) == RECORD_KIND:
            record = schema.read_json(record_path, RECORD_KIND)
            inherited = Origin(
                str(record.get("source", inherited.source)),
                str(record.get("licence", inherited.licence)),
            )
        source, licence = self._given
        return Origin(source or inherited.source, licence or inherited.licence)

    def _walk(self, path: Path, origin: Origin) -> Iterator[tuple[Path, str, Origin]]:
        """Files that can be read below `path` (or itself), with their folder's origin."""
        if path.is_file():
            if suffix := _suffix(path.name):
                yield path, suffix, origin
            elif path.name != RECORD_NAME or _schema_kind(path) != RECORD_KIND:
                self.not_read[path.suffix.lower() or "no suffix"] += 1
            return
        if not path.is_dir():
            self.not_read["not a file"] += 1
            return
        try:
            children = sorted(path.iterdir())
        except OSError as error:
            raise _cannot_read(path, error) from None
        for child in children:
            if child.name.startswith("."):
                self.not_read["hidden"] += 1
            elif not child.is_dir():
                yield from self._walk(child, origin)
            elif child.is_symlink():
                self.not_read["linked folder"] += 1
            elif _written_by_puna(child):
                self.not_read["folder written by puna"] += 1
            else:
                yield from self._walk(child, self._origin(child, origin))


@dataclass(frozen=True)
class Settings:
    """What is known of the documents, where a line or row does not say it itself."""

    source: str = "own"
    licence: str = UNKNOWN_LICENCE


def read(file: BinaryIO, path: str, settings: Settings) -> Iterator[Document | Dropped]:
    """The documents of one file; what of it cannot be read comes as Dropped, damaged."""
    suffix = _suffix(path)
    if suffix is None:
        detail = f"files read: {', '.join(READERS)}"
        yield Dropped(path, settings.source, "another kind of file", detail)
        return
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    origin = Origin(settings.source, settings.licence)
    for _, item in READERS[suffix](TextFile(Path(path), suffix, path, size, origin), file):
        if isinstance(item, DataError):
            yield Dropped(path, settings.source, DAMAGED, item.message)
        else:
            yield item


# Each item with the place in the file that was reached, in bytes.
Items = Iterator[tuple[int, Document | Dropped | DataError]]


def _read_text(text_file: TextFile, file: BinaryIO) -> Items:
    has_parts = text_file.bytes > PART_BYTES
    origin = text_file.origin
    for number, text in enumerate(_decoded_parts(file, text_file.path), start=1):
        if isinstance(text, DataError):
            yield file.tell(), text
            return
        part_id = f"{text_file.id}#part-{number:04d}" if has_parts else text_file.id
        yield file.tell(), Document(text, origin.source, origin.licence, part_id)


def _decoded_parts(file: BinaryIO, path: Path) -> Iterator[str | DataError]:
    """The text in parts of about PART_BYTES that end at a line's end; or what is not UTF-8."""
    offset = 0
    unfinished = b""
    is_last = False
    while not is_last:
        block = file.read(PART_BYTES)
        is_last = len(block) < PART_BYTES
        if not is_last:
            block += file.readline(PART_BYTES)
        data = unfinished + block
        unfinished = b""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            is_cut_character = error.reason == "unexpected end of data" and not is_last
            if not is_cut_character:
                yield _not_utf8(path, offset + error.start, data[error.start], data[:2], offset)
                return
            unfinished = data[error.start :]
            text = data[: error.start].decode("utf-8")
        if offset == 0:
            text = text.removeprefix("\ufeff")
        offset += len(data) - len(unfinished)
        if text or offset <= len(BYTE_ORDER_MARK):
            yield text


def _read_json_lines(text_file: TextFile, file: BinaryIO) -> Items:
    for number, record in read_records(file, str(text_file.path)):
        yield file.tell(), _listed_document(record, text_file, "line", number)


def _read_parquet(text_file: TextFile, file: BinaryIO) -> Items:
    for number, of_rows, record in read_rows(file, str(text_file.path)):
        position = text_file.bytes * number // of_rows
        yield position, _listed_document(record, text_file, "row", number)


def _read_csv(text_file: TextFile, file: BinaryIO) -> Items:
    for number, record in comma_separated.read_rows(file, str(text_file.path)):
        yield text_file.bytes, _listed_document(record, text_file, "row", number)


def _read_html(text_file: TextFile, file: BinaryIO) -> Items:
    if text_file.bytes > PART_BYTES:
        yield text_file.bytes, DataError(f"{text_file.path} is longer than {PART_BYTES >> 20} MiB")
        return
    try:
        text = page_text(file.read())
        origin = text_file.origin
        yield text_file.bytes, Document(text, origin.source, origin.licence, text_file.id)
    except DataError as error:
        yield text_file.bytes, DataError(f"{text_file.path}: {error.message}", hint=error.hint)


def _read_pdf(text_file: TextFile, file: BinaryIO) -> Items:
    """One document, after an error for each page that is damaged; Dropped where it has no text."""
    found = pdf.read_pages(file, str(text_file.path))
    pages = [page for page in found if isinstance(page, str)]
    for page in found:
        if isinstance(page, DataError):
            yield text_file.bytes, page
    origin = text_file.origin
    if text := pdf.joined(pages):
        yield text_file.bytes, Document(text, origin.source, origin.licence, text_file.id)
    elif pages:
        detail = f"{len(pages)} pages of pictures; text recognition (OCR) may find some"
        yield text_file.bytes, Dropped(text_file.id, origin.source, "no text", detail)


def _listed_document(
    record: dict[str, Any] | DataError, text_file: TextFile, kind: str, number: int
) -> Document | DataError:
    """A line or row as a document whose id is its place, since foreign ids repeat across files."""
    if isinstance(record, DataError):
        return record
    where = f"{text_file.path} {kind} {number}"
    origin = text_file.origin
    try:
        document = to_document(record, where, origin.source, origin.licence, "")
    except DataError as error:
        return error
    return replace(document, id=f"{text_file.id}#{number}")


Reader = Callable[[TextFile, BinaryIO], Items]
READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".py": _read_text,
    ".jsonl": _read_json_lines,
    ".jsonl.gz": _read_json_lines,
    ".jsonl.zst": _read_json_lines,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
}


SUFFIXES = tuple(READERS)


def _suffix(name: str) -> str | None:
    """The key of READERS that the file's name ends in."""
    return next((suffix for suffix in READERS if name.lower().endswith(suffix)), None)


def _written_by_puna(folder: Path) -> str | None:
    """The schema of a corpus, shards, tokenizer, checkpoint or run folder; None for any other."""
    kind = _schema_kind(folder / "manifest.json") or _schema_kind(folder / "metrics.jsonl")
    return kind if kind and kind.startswith("puna.") else None


def _schema_kind(path: Path) -> str | None:
    """The schema of a JSON file, or of the first line of a .jsonl; None where it has none."""
    try:
        with path.open("rb") as file:
            record = json.loads(file.readline() if path.suffix == ".jsonl" else file.read())
    except (OSError, ValueError, RecursionError):
        return None
    kind = record.get("schema") if isinstance(record, dict) else None
    return kind if isinstance(kind, str) else None


def _common_folder(paths: Sequence[Path]) -> Path:
    """The folder that ids are relative to: the one given, or what several paths have in common."""
    if len(paths) == 1 and paths[0].is_dir():
        return _absolute(paths[0])
    return Path(os.path.commonpath([_absolute(path).parent for path in paths]))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _utf8(name: str) -> str:
    """A file's name as text that can be written: a byte that is not UTF-8 becomes its escape."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _nothing_found(paths: Sequence[Path], not_read: Counter[str]) -> DataError:
    places = ", ".join(str(path) for path in paths)
    others = ", ".join(f"{count} {kind}" for kind, count in not_read.most_common())
    found = f"found only {others}" if others else "found nothing"
    return DataError(
        f"{places} should hold text files, {found}", hint=f"files read: {', '.join(READERS)}"
    )


def _not_utf8(path: Path, offset: int, byte: int, start: bytes, part_offset: int) -> DataError:
    is_utf16 = part_offset == 0 and start in (b"\xff\xfe", b"\xfe\xff")
    found = "UTF-16, by its first two bytes" if is_utf16 else f"0x{byte:02X} at byte {offset}"
    encoding = "UTF-16" if is_utf16 else "WINDOWS-1252"
    return DataError(
        f"{path} should be UTF-8, found {found}",
        hint=f"convert it: iconv -f {encoding} -t UTF-8 (if that is its encoding); {_LEAVE_OUT}",
    )


def _cannot_read(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot read {path}: {error.strerror or error}")
