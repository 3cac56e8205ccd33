"""Builds the zip files and pickles of torch.save by hand, so that a test may lie in any field."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

STORAGE_BYTES = struct.pack("<6f", *range(1, 7))  # six numbers, the storage of `GOOD`


@dataclass(frozen=True)
class Entry:
    """One member; None means the true value. `local_*` is what its local header says instead."""

    name: str | bytes
    data: bytes = b""
    crc: int | None = None
    size: int | None = None
    stored_size: int | None = None
    method: int = 0
    flags: int = 0
    disk: int = 0
    offset: int | None = None
    extra: bytes = b""
    comment: bytes = b""
    local_name: bytes | None = None
    local_size: int | None = None
    local_crc: int | None = None
    local_method: int | None = None
    local_mark: bytes = b"PK\3\4"
    is_listed: bool = True
    is_written: bool = True

    @property
    def full_name(self) -> bytes:
        return self.name if isinstance(self.name, bytes) else self.name.encode()


@dataclass(frozen=True)
class End:
    """What the end record says; None means the truth."""

    entries: int | None = None
    size: int | None = None
    offset: int | None = None
    disk: int = 0
    comment: bytes = b""
    before: bytes = b""  # put between the directory and the end record
    zip64: dict[str, int] | None = field(default=None)  # write those records too, with these lies
    after: bytes = b""


def archive(entries: Sequence[Entry], end: End | None = None, prefix: bytes = b"") -> bytes:
    """The zip file that these entries and this end record make."""
    end = end or End()
    body, directory = bytearray(prefix), bytearray()
    for entry in entries:
        offset = len(body)
        if entry.is_written:
            body += _local(entry) + entry.data
        if entry.is_listed:
            directory += _central(entry, offset if entry.offset is None else entry.offset)
    start, count = len(body), sum(entry.is_listed for entry in entries)
    told = (
        count if end.entries is None else end.entries,
        len(directory) if end.size is None else end.size,
        start if end.offset is None else end.offset,
    )
    tail = end.before
    if end.zip64 is not None:
        tail += _zip64(end.zip64, (count, len(directory), start), start + len(directory))
    entries_told, size, offset = told
    record = (end.disk, end.disk, entries_told, entries_told, size, offset, len(end.comment))
    tail += b"PK\5\6" + struct.pack("<4H2LH", *record) + end.comment
    return bytes(body + directory) + tail + end.after


def _local(entry: Entry) -> bytes:
    name = entry.full_name if entry.local_name is None else entry.local_name
    size = len(entry.data) if entry.local_size is None else entry.local_size
    crc = _crc(entry) if entry.local_crc is None else entry.local_crc
    method = entry.method if entry.local_method is None else entry.local_method
    fields = (20, entry.flags, method, 0, 0x21, crc, size, size, len(name), 0)
    return entry.local_mark + struct.pack("<5H3L2H", *fields) + name


def _central(entry: Entry, offset: int) -> bytes:
    name = entry.full_name
    size = len(entry.data) if entry.size is None else entry.size
    stored = size if entry.stored_size is None else entry.stored_size
    start = (20, 20, entry.flags, entry.method, 0, 0x21, _crc(entry), stored, size, len(name))
    rest = (len(entry.extra), len(entry.comment), entry.disk, 0, 0, offset)
    return b"PK\1\2" + struct.pack("<6H3L5H2L", *start, *rest) + name + entry.extra + entry.comment


def _crc(entry: Entry) -> int:
    return zlib.crc32(entry.data) if entry.crc is None else entry.crc


def _zip64(lies: dict[str, int], truth: tuple[int, int, int], at: int) -> bytes:
    count, size, offset = truth
    fields = {
        "record": 44,
        "disk": 0,
        "entries": count,
        "size": size,
        "offset": offset,
        "at": at,
        "disks": 1,
        **lies,
    }
    numbers = (fields["entries"], fields["entries"], fields["size"], fields["offset"])
    record = struct.pack("<Q2H2L4Q", fields["record"], 45, 45, fields["disk"], 0, *numbers)
    locator = struct.pack("<LQL", 0, fields["at"], fields["disks"])
    return b"PK\6\6" + record + b"PK\6\7" + locator


def text(value: str) -> bytes:
    """Push a string."""
    return b"X" + struct.pack("<L", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """Push a whole number of any size below 255 bytes."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def tuple_of(*values: bytes) -> bytes:
    """Push a tuple of what the parts push."""
    return b"(" + b"".join(values) + b"t"


def numbers(*values: int) -> bytes:
    """Push a tuple of numbers."""
    return tuple_of(*map(number, values))


def name(module: str, attribute: str) -> bytes:
    """Ask for module.attribute, as GLOBAL does."""
    return f"c{module}\n{attribute}\n".encode()


ORDERED_DICT = name("collections", "OrderedDict") + b")R"
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def storage(*, kind: str = "FloatStorage", key: str = "0", count: int = 6) -> bytes:
    """Push a storage by its persistent id."""
    parts = (text("storage"), name("torch", kind), text(key), text("cpu"), number(count))
    return tuple_of(*parts) + b"Q"


def tensor(
    *,
    of: bytes | None = None,
    offset: int = 0,
    shape: Sequence[int] = (2, 3),
    strides: Sequence[int] = (3, 1),
    hooks: bytes = ORDERED_DICT,
    more: bytes = b"",
) -> bytes:
    """Push a tensor; the storage is the six numbers of `GOOD` unless another is given."""
    parts = (of or storage(), number(offset), numbers(*shape), numbers(*strides), b"\x89", hooks)
    return REBUILD + tuple_of(*parts, more) + b"R"


def pickled(value: bytes, key: str = "weight") -> bytes:
    """The pickle of {key: value}."""
    return b"\x80\x02}" + text(key) + value + b"s."


GOOD = pickled(tensor())


def members(program: bytes = GOOD) -> list[Entry]:
    """The members of a file that holds one tensor of six numbers."""
    return [
        Entry("model/data.pkl", program),
        Entry("model/byteorder", b"little"),
        Entry("model/data/0", STORAGE_BYTES),
        Entry("model/version", b"3\n"),
    ]


def with_program(program: bytes) -> bytes:
    """The file that holds this pickle."""
    return archive(members(program))


def with_changed(index: int, **changes: object) -> bytes:
    """The good file with one member's fields changed."""
    changed = members()
    changed[index] = replace(changed[index], **changes)  # type: ignore[arg-type]
    return archive(changed)
