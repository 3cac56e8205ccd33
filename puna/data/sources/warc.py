"""The records of a WARC or WET file, plain or packed (gzip, lz4, zstd), even a broken one.

After damage, reading goes on at the next record: the next gzip member, or the next `WARC/` line.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Generator, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from puna.errors import missing_package

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

LONGEST_PAGE_BYTES = 16 << 20  # Common Crawl cuts pages at 1 MiB, since 2025 at 5
_LONGEST_HEADER_BYTES = 64 << 10
_READ_BYTES = 1 << 20
_GZIP = b"\x1f\x8b\x08"
_PLAIN = b"\nWARC/"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]*)?\r?\n")
_READABLE = "it should be WARC/1.0, WARC/1.1 or WET, plain or packed by gzip, lz4 or zstd"
_ARC = b"filedesc:"  # how an ARC begins, WARC's forerunner
_ARC_HINT = "an ARC file, which `warcio recompress OLD.arc.gz NEW.warc.gz` makes a WARC of"


class Damage(NamedTuple):
    """What is wrong with a record, and at which byte of the file it begins."""

    place: int
    what: str


class Record(NamedTuple):
    """A record of type response, revisit or conversion; names of headers are in lower case.

    `status` and `http` belong to a response: its HTTP status and headers. `body` is unpacked.
    """

    place: int
    kind: str
    headers: dict[str, str]
    status: int | None
    http: dict[str, str]
    body: bytes


def records(file: BinaryIO) -> Iterator[Record | Damage]:
    """Each page of a crawl, in order; what is damaged comes as Damage in its place. Never raises.

    Requests, metadata and the like hold no page: they are passed over. Needs a file that can seek.
    Raises MachineError where fastwarc is not installed.
    """
    mark = _GZIP if file.read(len(_GZIP)) == _GZIP else _PLAIN
    start: int | None = 0
    while start is not None:
        file.seek(start)
        broken_at = yield from _until_damage(file, start)
        start = None if broken_at is None else _next_mark(file, mark, broken_at + 1)


def _until_damage(file: BinaryIO, start: int) -> Generator[Record | Damage, None, int | None]:
    """Records from a place on; returns where the file's form is broken, None when it is not."""
    try:
        from fastwarc.warc import ArchiveIterator
    except ImportError:
        raise missing_package("fastwarc", "data", "reading Common Crawl") from None
    longest = _LONGEST_HEADER_BYTES
    place, is_begun = start, False
    try:
        for record in ArchiveIterator(file, parse_http=False, max_header_len=longest):
            place, is_begun = start + record.stream_pos, True
            found = _read(record, place)
            if found:
                yield found
    except (OSError, ValueError) as error:
        if is_begun:
            yield Damage(
                place, f"in the record that begins here, or after it: {str(error)[:100]!a}"
            )
        elif start == 0:
            yield Damage(place, _ARC_HINT if _is_arc(file) else f"{error}: {_READABLE}")
        return place
    return None if is_begun else place


def _is_arc(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(_READ_BYTES)
    if head.startswith(_GZIP):
        with contextlib.suppress(zlib.error):
            head = zlib.decompressobj(wbits=31).decompress(head, len(_ARC))
    return head.startswith(_ARC)


def _read(record: WarcRecord, place: int) -> Record | Damage | None:
    """One record; None where it holds no page. Raises OSError where it is broken."""
    kind = str(record.headers.get("WARC-Type", "")).strip().lower()
    if kind not in ("response", "revisit", "conversion"):
        return None
    headers = _lower(record.headers)
    status: int | None = None
    http: dict[str, str] = {}
    if kind != "conversion" and "application/http" in headers.get("content-type", ""):
        record.parse_http(max_header_len=_LONGEST_HEADER_BYTES, quirks_mode=True)
        found = record.http_headers
        status, http = (found.status_code, _lower(found)) if found else (None, {})
    length = record.content_length
    body = record.reader.read(LONGEST_PAGE_BYTES + 1)
    if len(body) <= LONGEST_PAGE_BYTES:
        if len(body) < length:
            raise OSError(f"cut to {len(body)} of {length} bytes")
        body = _unpacked(_joined(body, http), http)
    if len(body) > LONGEST_PAGE_BYTES:
        return Damage(place, f"longer than {LONGEST_PAGE_BYTES} bytes")
    return Record(place, kind, headers, status, http, body)


def _joined(body: bytes, http: dict[str, str]) -> bytes:
    """The body without the chunks it was sent in, where it still has them."""
    if "chunked" not in http.get("transfer-encoding", "").lower():
        return body
    pieces, position = [], 0
    while chunk := _CHUNK.match(body, position):
        position = chunk.end() + int(chunk[1], 16)
        pieces.append(body[chunk.end() : position])
        position += 2
    return b"".join(pieces) or body


def _unpacked(body: bytes, http: dict[str, str]) -> bytes:
    """The body as it was before its Content-Encoding, where it still is packed."""
    encoding = http.get("content-encoding", "").strip().lower()
    try:
        if body.startswith(_GZIP):
            return zlib.decompressobj(wbits=31).decompress(body, LONGEST_PAGE_BYTES + 1)
        if encoding == "deflate":
            return zlib.decompressobj().decompress(body, LONGEST_PAGE_BYTES + 1)
        if encoding == "br":
            from fastwarc.stream_io import BrotliReader

            return BrotliReader(BytesIO(body)).read(LONGEST_PAGE_BYTES + 1)
    except (OSError, ValueError, zlib.error):
        pass  # most crawlers unpack and leave the header: what cannot be unpacked is the page
    return body


def _lower(headers: object) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}  # type: ignore[attr-defined]


def _next_mark(file: BinaryIO, mark: bytes, start: int) -> int | None:
    """Where the next record may begin, from `start` on; None at the end of the file."""
    file.seek(start)
    kept = b""
    while block := file.read(_READ_BYTES):
        window = kept + block
        found = window.find(mark)
        if found >= 0:
            return start - len(kept) + found + (mark is _PLAIN)
        start += len(block)
        kept = window[-len(mark) + 1 :]
    return None
