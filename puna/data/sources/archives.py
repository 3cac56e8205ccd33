"""The files inside tar and zip archives, one after the other, without trust in who packed them.

Nothing is written to a disk, so a member's name is only a name: one that is absolute or climbs out
of its folder is refused all the same, as are links and devices. Memory is bounded by the largest
member that is wanted; what unpacks to far more than it took packed ends the archive.
"""

from __future__ import annotations

import bz2
import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, cast

LARGEST_MEMBER_BYTES = 64 << 20
MOST_TIMES_PACKED = 100  # source text packs 3 to 20 times, gzip's zeros 1,030
_FREE_BYTES = 256 << 20  # of which the ratio is not asked
_MOST_MEMBERS = 1 << 20
_BLOCK = 512
_READ_BYTES = 1 << 20
_LONGEST_HEADER_BYTES = 1 << 20  # of a long name or a list of attributes

# RuntimeError: a packing or a version of zip that is not known, a password.
BROKEN: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, LookupError, OverflowError, RuntimeError),
    *(zlib.error, zipfile.BadZipFile, struct.error),
)


class Member(NamedTuple):
    """One file of an archive."""

    name: str
    data: bytes


class Refused(NamedTuple):
    """A part of an archive that is not read, and why."""

    name: str
    what: str


Wanted = Callable[[str], bool]


def members(
    file: BinaryIO, wanted: Wanted, *, largest_bytes: int = LARGEST_MEMBER_BYTES
) -> Iterator[Member | Refused]:
    """The wanted files of a zip, or of a tar that is plain or packed with gzip or bzip2.

    What is broken, unsafe or too large comes as Refused; what can be read after it is read.
    """
    head = file.read(4)
    file.seek(0)
    try:
        if head.startswith(b"PK"):
            yield from _zip_members(file, wanted, largest_bytes)
        else:
            yield from _tar_members(_Reader(file), wanted, largest_bytes)
    except BROKEN as error:
        yield Refused("", f"the archive is broken: {str(error) or type(error).__name__}")


def unpacked(file: BinaryIO) -> BinaryIO:
    """The file's bytes, unpacked while they are read where it begins like gzip or bzip2."""
    head = file.read(4)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(file))
    return file


def is_tar(start: bytes) -> bool:
    """Whether a file that begins with these 512 bytes is a tar."""
    return isinstance(_header(start), tarfile.TarInfo)


def unsafe(name: str) -> str:
    """What is wrong with a member's name; "" where nothing is."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        return "its name leads out of the archive"
    return "its name holds a control character" if not name.isprintable() else ""


class _Reader:
    """Reads what is unpacked, and counts it against what it took packed."""

    def __init__(self, file: BinaryIO) -> None:
        self._packed, self._file = file, unpacked(file)
        self.offset = 0

    def read(self, size: int) -> bytes:
        """`size` bytes, or fewer at the end."""
        data = self._file.read(size)
        self.offset += len(data)
        _check_size(self.offset, self._packed.tell())
        return data

    def skip(self, size: int) -> None:
        """Pass over bytes in bounded memory."""
        while size > 0 and (data := self.read(min(size, _READ_BYTES))):
            size -= len(data)


def _check_size(unpacked_bytes: int, packed_bytes: int) -> None:
    if unpacked_bytes > _FREE_BYTES and unpacked_bytes > MOST_TIMES_PACKED * packed_bytes:
        raise ValueError(f"it unpacks to more than {MOST_TIMES_PACKED} times its size")


def _tar_members(reader: _Reader, wanted: Wanted, largest_bytes: int) -> Iterator[Member | Refused]:
    long_name, is_broken = "", False
    while block := reader.read(_BLOCK):
        info = _header(block)
        if info is None:
            continue  # zeros: the end, or between archives that were joined
        if isinstance(info, str):
            if not is_broken:
                yield Refused("", f"byte {reader.offset - len(block)} unpacked: {info}")
            is_broken = True  # until a block is a header again
            continue
        is_broken = False
        size = max(0, info.size)
        padding = -size % _BLOCK
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
            data = reader.read(min(size, _LONGEST_HEADER_BYTES))
            reader.skip(size - len(data) + padding)
            if info.type != tarfile.XGLTYPE:
                long_name = _long_name(info.type, data) or long_name
            continue
        name, long_name = long_name or info.name, ""
        problem = _tar_problem(info, name, largest_bytes)
        is_read = info.isreg() and not problem and wanted(name)
        data = reader.read(size) if is_read else b""
        has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        reader.skip(size - len(data) + padding if has_data else 0)
        if problem and (wanted(name) or not info.isreg()):
            yield Refused(name, problem)
        elif is_read and len(data) < size:
            yield Refused(name, "the archive ends within it")
        elif is_read:
            yield Member(name, data)


def _header(block: bytes) -> tarfile.TarInfo | str | None:
    """A tar's header; None for a block of zeros; what is wrong with any other."""
    if not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.TarError as error:
        return f"no header of a tar: {error}"


def _long_name(kind: bytes, data: bytes) -> str:
    """The name that GNU's or pax's extra header gives to the next member; "" for none."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "replace")
    for line in data.split(b"\n"):
        key, _, value = line.partition(b" ")[2].partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "replace")
    return ""


def _tar_problem(info: tarfile.TarInfo, name: str, largest_bytes: int) -> str:
    if info.isdir():
        return ""
    if not info.isreg() or info.issparse():
        return "a link" if info.issym() or info.islnk() else "neither a file nor a folder"
    return unsafe(name) or _too_large(info.size, largest_bytes)


def _too_large(size: int, largest_bytes: int) -> str:
    return f"longer than {largest_bytes} bytes" if size > largest_bytes else ""


def _zip_members(file: BinaryIO, wanted: Wanted, largest_bytes: int) -> Iterator[Member | Refused]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if len(infos) > _MOST_MEMBERS:
            raise ValueError(f"it holds more than {_MOST_MEMBERS} files")
        packed_bytes, total = file.seek(0, io.SEEK_END), 0
        for info in infos:
            if info.filename.endswith("/"):
                continue
            problem = _zip_problem(info, largest_bytes)
            if problem and (wanted(info.filename) or problem == "a link"):
                yield Refused(info.filename, problem)
            elif not problem and wanted(info.filename):
                total += info.file_size
                _check_size(total, packed_bytes)
                yield _zip_member(archive, info)


def _zip_problem(info: zipfile.ZipInfo, largest_bytes: int) -> str:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link"
    if info.flag_bits & 1:
        return "encrypted"
    return unsafe(info.filename) or _too_large(info.file_size, largest_bytes)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member | Refused:
    try:
        with archive.open(info) as member:
            return Member(info.filename, member.read(info.file_size))
    except BROKEN as error:
        return Refused(info.filename, f"broken: {str(error) or type(error).__name__}")
