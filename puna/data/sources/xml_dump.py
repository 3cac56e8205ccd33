"""The elements of a huge XML dump one by one, from a plain, gzip or bzip2 file, even a broken one.

No parser sees the whole dump: its elements are cut out by their tags and parsed one by one. So
memory stays bounded, what follows a broken element is read on, and no document type declaration is
ever in force: there are no entities to expand.
"""

from __future__ import annotations

import bz2
import codecs
import re
import zlib
from collections.abc import Generator, Iterator
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

LONGEST_ELEMENT_BYTES = 64 << 20
LONGEST_HEAD_BYTES = 1 << 20
_READ_BYTES = 64 << 10
_BLOCK_BYTES = 1 << 20  # what is packed grows to at most this at a time
_BZIP2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")  # a stream's first block, or its end
_GZIP = re.compile(rb"\x1f\x8b\x08")
_MAGIC_BYTES = 10
_ALL = range(0)


class Damage(NamedTuple):
    """What is wrong with a part of a dump."""

    what: str


_PART_OVER = Damage("the streams of the part are over")


class Dump:
    """Iterates over (offset in unpacked bytes, element) of a dump that is open for reading.

    An element begins with `start` (`<page>`) and ends with the next of `ends` (`</page>`). What
    cannot be unpacked, has no end or is longer than LONGEST_ELEMENT_BYTES comes as Damage.
    `head` is what stands before the first element, at most LONGEST_HEAD_BYTES of it.
    With a `part`, a range of the packed bytes, only elements come that begin in a bzip2 stream that
    begins there: the parts of a file hold what the file holds. Other packings have one part only.
    """

    def __init__(
        self, file: BinaryIO, start: bytes, *ends: bytes, part: range | None = None
    ) -> None:
        self.head = b""
        self._file, self._start, self._ends = file, start, ends
        self._part = part or _ALL
        self._limit: int | None = None  # the offset from which on elements are another part's
        self._buffer = bytearray()
        self._offset = 0  # of the buffer's first byte
        self._is_first = True
        self._is_begun = False  # the buffer begins with an element's start
        self._searched = 0

    def __iter__(self) -> Iterator[tuple[int, bytes | Damage]]:
        if self._part.start:
            self._read_head()
        for block in _utf8(_unpacked(self._file, self._part)):
            if block is _PART_OVER:
                self._limit = self._offset + len(self._buffer)
                continue
            if isinstance(block, Damage):
                yield self._offset + len(self._buffer), block
                continue
            self._buffer += block
            yield from self._cut()
            if self._is_over():
                return
        if self._is_begun:
            yield self._give_up("the file ends within it", len(self._buffer))
        elif self._is_first:
            self._pass_over(len(self._buffer))

    def _read_head(self) -> None:
        whole = Dump(self._file, self._start, *self._ends)
        next(iter(whole), None)
        self.head, self._is_first = whole.head, False
        self._file.seek(0)

    def _is_over(self) -> bool:
        """Whether the buffer's first byte is another part's, and no element of this one is open."""
        return self._limit is not None and self._offset >= self._limit and not self._is_begun

    def _cut(self) -> Iterator[tuple[int, bytes | Damage]]:
        while self._is_begun or self._find_start():
            end = self._find_end()
            if end:
                yield self._cut_one(end)
            elif len(self._buffer) > LONGEST_ELEMENT_BYTES:
                found = self._buffer.find(self._start, 1)
                until = found if found > 0 else len(self._buffer) - len(self._start)
                yield self._give_up(f"longer than {LONGEST_ELEMENT_BYTES} bytes", until)
            else:
                self._searched = max(0, len(self._buffer) - max(map(len, self._ends)))
                return

    def _find_end(self) -> int:
        """Where the element in front ends; 0 where that is not read yet."""
        limit, found = len(self._buffer), 0
        for end in self._ends:
            place = self._buffer.find(end, self._searched, limit)
            if place >= 0:
                limit, found = place, place + len(end)
        return found

    def _cut_one(self, end: int) -> tuple[int, bytes | Damage]:
        inner = self._buffer.rfind(self._start, 1, end)
        if inner > 0:
            return self._give_up("has no end before the next begins", inner)
        self._is_begun, self._searched = False, 0
        place = self._offset
        return place, self._take(end)

    def _find_start(self) -> bool:
        found = self._buffer.find(self._start)
        self._pass_over(found if found >= 0 else max(0, len(self._buffer) - len(self._start)))
        self._is_begun, self._searched = found >= 0 and not self._is_over(), 0
        self._is_first &= not self._is_begun
        return self._is_begun

    def _pass_over(self, length: int) -> None:
        passed = self._take(length)
        if self._is_first:
            self.head += passed[: LONGEST_HEAD_BYTES - len(self.head)]

    def _give_up(self, what: str, until: int) -> tuple[int, Damage]:
        place = self._offset
        self._take(until)
        self._is_begun, self._searched = False, 0
        return place, Damage(f"{self._start.decode().strip()}: {what}")

    def _take(self, length: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        self._offset += length
        return taken


def parse(data: bytes) -> ElementTree.Element | Damage:
    """One element as a tree, or what is wrong with it."""
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return Damage(f"not XML: {error}")


def _utf8(blocks: Iterator[bytes | Damage]) -> Iterator[bytes | Damage]:
    """The blocks in UTF-8: as they are, or from UTF-16 where the first one says so."""
    decoder = None
    is_first = True
    for block in blocks:
        if isinstance(block, Damage):
            yield block
            continue
        if is_first and block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            decoder = codecs.getincrementaldecoder("utf-16")("replace")
        is_first = False
        yield decoder.decode(block).encode() if decoder else block


def _unpacked(file: BinaryIO, part: range) -> Iterator[bytes | Damage]:
    """The file's bytes, unpacked where it begins like bzip2 or gzip; _PART_OVER at its end."""
    data = file.read(_READ_BYTES)
    if _BZIP2.match(data):
        if part.start:
            file.seek(part.start)
            data = file.read(_READ_BYTES)
        yield from _streams(file, data, _BZIP2, part.stop)
        return
    if part.start:
        return
    if _GZIP.match(data):
        yield from _streams(file, data, _GZIP, 0)
        return
    while data:
        yield data
        data = file.read(_READ_BYTES)


def _streams(
    file: BinaryIO, data: bytes, magic: re.Pattern[bytes], stop: int
) -> Iterator[bytes | Damage]:
    """All streams of a packed file, one after the other; after damage, from the next stream on.

    Before the first that begins at byte `stop` or later, where that is not 0, _PART_OVER.
    """
    while data:
        if found := magic.search(data):
            if stop and file.tell() - len(data) + found.start() >= stop:
                stop = 0
                yield _PART_OVER
            data = yield from _stream(file, data[found.start() :], magic)
        else:  # zeros after the last stream, or the rest of a broken one
            more = file.read(_READ_BYTES)
            data = data[-_MAGIC_BYTES:] + more if more else b""


def _stream(
    file: BinaryIO, data: bytes, magic: re.Pattern[bytes]
) -> Generator[bytes | Damage, None, bytes]:
    """One stream; returns the bytes read beyond it."""
    stream = _Bzip2() if magic is _BZIP2 else _Gzip()
    try:
        while not stream.is_over:
            data = data or file.read(_READ_BYTES)
            block, rest = stream.unpack(data)
            if not (block or data or stream.is_over):
                yield Damage("the packed file ends within a stream")
                return b""
            data = rest
            if block:
                yield block
    except (OSError, EOFError, ValueError, zlib.error) as error:
        yield Damage(f"a packed stream is broken: {error}")
        return data[1:] or file.read(_READ_BYTES)
    return data or file.read(_READ_BYTES)


class _Bzip2:
    def __init__(self) -> None:
        self._stream = bz2.BZ2Decompressor()
        self.is_over = False

    def unpack(self, data: bytes) -> tuple[bytes, bytes]:
        """A block of at most _BLOCK_BYTES, and the data not read yet."""
        given, rest = (data, b"") if self._stream.needs_input else (b"", data)
        block = self._stream.decompress(given, _BLOCK_BYTES)
        self.is_over = self._stream.eof
        return block, self._stream.unused_data + rest


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self.is_over = False

    def unpack(self, data: bytes) -> tuple[bytes, bytes]:
        """A block of at most _BLOCK_BYTES, and the data not read yet."""
        block = self._stream.decompress(data, _BLOCK_BYTES)
        self.is_over = self._stream.eof
        return block, self._stream.unused_data if self.is_over else self._stream.unconsumed_tail
