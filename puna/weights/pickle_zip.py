"""The zip files of torch.save, read by ourselves: members that lie there as they are, all checked.

Only what torch writes is accepted: one disk, no comment, nothing compressed or encrypted, no name
twice, members that lie one after the other in front of the directory, which ends the file. What a
directory claims is held against the file's size before anything of that size is allocated.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError
from puna.weights.untrusted import opened, shown, unreadable

ENTRY_LIMIT = 100_000  # a LLaMA of 405 billion parameters has 1,141 members
BLOCK_BYTES = 1 << 20
HINT = "the file is damaged, or torch.save did not write it; copy or download it again"

_DESCRIPTOR, _UTF8 = 1 << 3, 1 << 11  # flags: sizes follow the data, the name is UTF-8
_STORED = 0
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "the number stands in the zip64 record"
_ZIP64_FIELD = 1


# The records of a zip file; where each is unpacked its fields are named.
END, END64 = struct.Struct("<L4H2LH"), struct.Struct("<LQ2H2L4Q")
LOCATOR64 = struct.Struct("<LLQL")
CENTRAL, LOCAL = struct.Struct("<L6H3L5H2L"), struct.Struct("<L5H3L2H")
END_MARK, END64_MARK, LOCATOR64_MARK = 0x06054B50, 0x06064B50, 0x07064B50
CENTRAL_MARK, LOCAL_MARK = 0x02014B50, 0x04034B50


@dataclass(frozen=True, slots=True)
class Member:
    """One stored file: `size` bytes at byte `offset`, with the CRC-32 they should have."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Directory:
    """Where the list of members lies and how many it should hold."""

    offset: int
    size: int
    entries: int


class StoredZip:
    """An opened zip file. `members` are its files by name, in the directory's order.

    Raises CheckpointError that names file and offset where the zip file is not as torch writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole: set[str] = set()  # members whose CRC was found right
        with opened(path, "be a zip file of torch.save") as file:
            self.members = _read_members(file, path)

    def content(self, name: str) -> bytes:
        """All bytes of a small member, checked against its CRC."""
        return self.array(name, 0, self.members[name].size).tobytes()

    def array(self, name: str, start: int, count: int) -> npt.NDArray[np.uint8]:
        """Bytes `start` up to `start + count` of a member, once all of it has the right CRC.

        Raises CheckpointError where the bytes are gone or others than were written.
        """
        member = self.members[name]
        try:
            self._check(member)
            found = np.fromfile(self.path, np.uint8, count, offset=member.offset + start)
        except OSError as error:
            raise unreadable(self.path, error) from None
        if len(found) != count:
            raise self._cut_off(member)
        return found

    def _check(self, member: Member) -> None:
        if member.name in self._whole:
            return
        block, crc, left = bytearray(min(BLOCK_BYTES, member.size)), 0, member.size
        with self.path.open("rb", buffering=0) as file:
            file.seek(member.offset)
            while left:
                count = file.readinto(memoryview(block)[: min(left, len(block))])
                if not count:
                    raise self._cut_off(member)
                crc = zlib.crc32(memoryview(block)[:count], crc)
                left -= count
        if crc != member.crc:
            raise CheckpointError(
                f"{self.path}: {member.name} at byte {member.offset} should have the CRC "
                f"{member.crc:08x}, found {crc:08x}",
                hint=HINT,
            )
        self._whole.add(member.name)

    def _cut_off(self, member: Member) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {member.name} should have {member.size} bytes from byte "
            f"{member.offset}, the file ends before",
            hint="it became shorter since it was opened; open it again",
        )


def _read_members(file: IO[bytes], path: Path) -> dict[str, Member]:
    file_size = file.seek(0, 2)
    directory = _find_directory(file, file_size, path)
    file.seek(directory.offset)
    records = file.read(directory.size)
    members: dict[str, Member] = {}
    spans: list[tuple[int, int, str]] = []
    for member, start in _entries(records, directory, path):
        if member.name in members:
            raise broken(path, start, f"the name {shown(member.name)} comes twice")
        placed = _placed(file, member, start, path)
        end = placed.offset + placed.size
        if end > directory.offset:
            found = f"{shown(member.name)} would end at byte {end}"
            raise broken(path, start, f"members end before byte {directory.offset}, {found}")
        members[placed.name] = placed
        spans.append((start, end, placed.name))
    spans.sort()
    for (_, end, name), (start, _, other) in itertools.pairwise(spans):
        if start < end:
            raise broken(path, start, f"{shown(other)} lies within {shown(name)}")
    _require_checksums(members, path)
    return members


def _find_directory(file: IO[bytes], file_size: int, path: Path) -> _Directory:
    """The directory, which must end where the end records begin, at the very end of the file."""
    at = file_size - END.size
    record = _unpack(file, END, at)
    if record is None or record[0] != END_MARK:
        raise broken(path, max(at, 0), "the last 22 bytes should be a zip file's end record")
    _mark, disk, directory_disk, entries_here, entries, size, offset, comment_bytes = record
    if disk or directory_disk or entries_here != entries or comment_bytes:
        raise broken(path, at, "the end record should tell of one disk and no comment")
    found = _Directory(offset, size, entries)
    locator = _unpack(file, LOCATOR64, at - LOCATOR64.size)
    if locator is not None and locator[0] == LOCATOR64_MARK:
        at -= LOCATOR64.size + END64.size
        found = _zip64_directory(file, at, locator, found, path)
    if found.entries > ENTRY_LIMIT:
        raise broken(path, at, f"at most {ENTRY_LIMIT} members are read, it says {found.entries}")
    if found.offset + found.size != at or found.size < found.entries * CENTRAL.size:
        says = f"{found.size} bytes from byte {found.offset}"
        raise broken(
            path, at, f"the list of {found.entries} members should end here, it has {says}"
        )
    return found


def _zip64_directory(
    file: IO[bytes], at: int, locator: tuple[int, ...], small: _Directory, path: Path
) -> _Directory:
    """The directory by the 64-bit record; the 32-bit one must say the same or nothing."""
    record = _unpack(file, END64, at)
    _mark, locator_disk, end_offset, disks = locator
    if record is None or record[0] != END64_MARK or end_offset != at:
        raise broken(path, max(at, 0), "the zip64 end record should be here")
    _mark, record_bytes, _, _, disk, directory_disk, entries_here, entries, size, offset = record
    is_plain = record_bytes == END64.size - 12 and entries_here == entries
    if not is_plain or disk or directory_disk or locator_disk or disks != 1:
        raise broken(path, at, "the zip64 end record should be 56 bytes and tell of one disk")
    found = _Directory(offset, size, entries)
    for one, other, nothing in (
        (small.entries, found.entries, _FULL16),
        (small.size, found.size, _FULL32),
        (small.offset, found.offset, _FULL32),
    ):
        if one not in (other, nothing):
            raise broken(path, at, f"the two end records should agree, they say {one} and {other}")
    return found


def _entries(records: bytes, directory: _Directory, path: Path) -> Iterator[tuple[Member, int]]:
    """Each entry as a member whose offset is not known yet, and where its local header lies."""
    position = 0
    for _ in range(directory.entries):
        where = directory.offset + position
        if position + CENTRAL.size > len(records):
            raise broken(path, where, "the directory ends within an entry")
        entry = CENTRAL.unpack_from(records, position)
        mark, _, _, flags, method, _, _, crc, stored_bytes, size, *rest = entry
        name_bytes, extra_bytes, comment_bytes, disk, _, _, local_offset = rest
        name_at = position + CENTRAL.size
        extra_at = name_at + name_bytes
        position = extra_at + extra_bytes + comment_bytes
        if mark != CENTRAL_MARK or position > len(records):
            raise broken(path, where, "a whole directory entry should be here")
        _require_plain(flags, method, path, where)
        wide = _zip64_field(records[extra_at : extra_at + extra_bytes], path, where)
        size, stored_bytes, local_offset = _widened(
            (size, stored_bytes, local_offset), wide, path, where
        )
        if size != stored_bytes or disk:
            raise broken(path, where, "a stored member should have one size, on the one disk")
        name = _decoded(records[name_at:extra_at], path, where)
        yield Member(name, -1, size, crc), local_offset
    if position != len(records):
        raise broken(path, directory.offset + position, "the directory holds more than its entries")


def _widened(
    values: tuple[int, int, int], wide: bytes, path: Path, where: int
) -> tuple[int, int, int]:
    """The numbers of an entry, from its zip64 field where they are too big for 32 bits."""
    found = []
    for value in values:
        if value == _FULL32:
            if len(wide) < 8:
                raise broken(path, where, "a zip64 size should be given, it is missing")
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        found.append(value)
    return found[0], found[1], found[2]


def _zip64_field(extra: bytes, path: Path, where: int) -> bytes:
    """The content of extra field 1, b"" where there is none; torch pads with field 0x4246."""
    found, position = b"", 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        position += 4
        if position + size > len(extra) or (kind == _ZIP64_FIELD and found):
            raise broken(path, where, "the extra fields of an entry do not fit together")
        if kind == _ZIP64_FIELD:
            found = extra[position : position + size]
        position += size
    return found


def _placed(file: IO[bytes], member: Member, start: int, path: Path) -> Member:
    """`member` with the offset of its data, by its local header at `start`, which must agree."""
    record = _unpack(file, LOCAL, start)
    if record is None or record[0] != LOCAL_MARK:
        raise broken(path, start, f"the local header of {shown(member.name)} should be here")
    _mark, _, flags, method, _, _, crc, stored_bytes, size, name_bytes, extra_bytes = record
    _require_plain(flags, method, path, start)
    if file.read(name_bytes) != member.name.encode():
        raise broken(path, start, f"the directory calls this member {shown(member.name)}")
    if not flags & _DESCRIPTOR:
        sizes = (member.size, _FULL32)
        if crc != member.crc or size not in sizes or stored_bytes not in sizes:
            raise broken(path, start, f"{shown(member.name)} has another size or CRC here")
    offset = start + LOCAL.size + name_bytes + extra_bytes
    return Member(member.name, offset, member.size, member.crc)


def _require_plain(flags: int, method: int, path: Path, where: int) -> None:
    if flags & ~(_DESCRIPTOR | _UTF8):
        raise broken(
            path, where, f"an encrypted or patched member cannot be read (flags {flags:#x})"
        )
    if method != _STORED:
        raise CheckpointError(
            f"{path}: byte {where}: members should be stored as they are, this one is compressed "
            f"(method {method})",
            hint="unpack it and pack it again without compression: zip -0 -D -r",
        )


def _decoded(name: bytes, path: Path, where: int) -> str:
    """The member's name. Nothing is ever unpacked under it, but torch writes none like these."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise broken(path, where, "a member's name should be UTF-8") from None
    parts = text.split("/")
    if not text.isprintable() or "\\" in text or "" in parts or ".." in parts or "." in parts:
        raise broken(path, where, f"{shown(text)} is no name of a member of torch's")
    return text


def _require_checksums(members: dict[str, Member], path: Path) -> None:
    if any(member.size for member in members.values()) and not any(
        member.crc for member in members.values()
    ):
        raise CheckpointError(
            f"{path}: every member should have a CRC, they are all zero",
            hint="save it again after torch.serialization.set_crc32_options(True), the default",
        )


def _unpack(file: IO[bytes], layout: struct.Struct, offset: int) -> tuple[int, ...] | None:
    """The record at `offset`; None where it does not lie within the file."""
    if not 0 <= offset <= file.seek(0, 2):
        return None
    file.seek(offset)
    record = file.read(layout.size)
    return layout.unpack(record) if len(record) == layout.size else None


def broken(path: Path, offset: int, what: str) -> CheckpointError:
    """The error for a zip file that breaks a rule at `offset`."""
    return CheckpointError(f"{path}: byte {offset}: {what}", hint=HINT)
