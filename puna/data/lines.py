"""Lines of a plain, gzip or zstd file: read and written as a stream, in bounded memory."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from puna.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # the same, for the Pythons before

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
LONGEST_LINE_BYTES = 256 << 20

_READ_BYTES = 1 << 20
# A hostile zstd frame grows 32,768-fold, so that 8 KiB of it become 256 MiB at most.
_ZSTD_READ_BYTES = 8 << 10
_ZSTD_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.checksum_flag: 1,
}


def is_lines_file(name: str) -> bool:
    """Whether a file of this name holds JSON lines that can be read and written here."""
    return name.lower().endswith(SUFFIXES)


def read_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of an open `.jsonl`, `.jsonl.gz` or `.jsonl.zst`, without their newline.

    A line above LONGEST_LINE_BYTES comes back cut, one byte longer than that.
    Raises DataError naming the file and the last whole line when it is truncated or damaged.
    """
    complete = 0
    try:
        for line in _split(_chunks(file, name)):
            yield line
            complete += 1
    except (EOFError, zlib.error, zstd.ZstdError, OSError) as error:
        raise DataError(
            f"{name} is damaged or cut short after line {complete}: {error}",
            hint="fetch or write it again",
        ) from None


class LineFile(Protocol):
    """A file one writes bytes to and closes."""

    def write(self, data: bytes, /) -> int: ...

    def close(self) -> None: ...


def open_writer(path: Path) -> LineFile:
    """A new file at `path`, compressed as its name says; the same lines give the same bytes.

    Raises DataError for any other kind of name.
    """
    if not is_lines_file(path.name):
        raise DataError(
            f"documents are kept in {', '.join(SUFFIXES)} files, got the name {path.name}"
        )
    if path.name.lower().endswith(".zst"):
        return zstd_writer(path)
    raw = path.open("wb")
    return _OwningGzip(raw) if path.name.lower().endswith(".gz") else raw


def zstd_writer(target: Path | BinaryIO) -> LineFile:
    """Compresses to a new file, or to an open one, which it leaves open."""
    packed = zstd.ZstdFile(target, "wb", options=_ZSTD_OPTIONS)
    packed.write(b"")  # so that a file of no lines has its frame, too
    return packed


class _OwningGzip(gzip.GzipFile):
    """A gzip file without name and time in its header, which closes what it writes to."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)
        self._raw = raw

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._raw.close()


def _chunks(file: BinaryIO, name: str) -> Iterator[bytes]:
    if name.lower().endswith(".zst"):
        yield from _zstd_chunks(file)
        return
    if not name.lower().endswith(".gz"):
        while chunk := file.read(_READ_BYTES):
            yield chunk
        return
    # read1 gives what a cut file still holds before it fails.
    unzipped = gzip.GzipFile(fileobj=file)
    while chunk := unzipped.read1(_READ_BYTES):
        yield chunk


def _zstd_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Every frame's bytes; a reader of whole files would hold what a hostile frame grows to."""
    frame = zstd.ZstdDecompressor()
    is_inside = True
    while data := file.read(_ZSTD_READ_BYTES):
        while data:
            if not is_inside:
                frame = zstd.ZstdDecompressor()
                is_inside = True
            yield frame.decompress(data)
            data = b""
            if frame.eof:
                data = frame.unused_data
                is_inside = False
    if is_inside:
        raise EOFError("the last zstd frame is not complete")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut at newlines; what a line has beyond LONGEST_LINE_BYTES + 1 is not kept."""
    parts: list[bytes] = []
    held_bytes = 0
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            yield b"".join([*parts, piece])[: LONGEST_LINE_BYTES + 1]
            parts, held_bytes = [], 0
        if rest and held_bytes <= LONGEST_LINE_BYTES:
            parts.append(rest)
            held_bytes += len(rest)
    if held_bytes:
        yield b"".join(parts)[: LONGEST_LINE_BYTES + 1]
