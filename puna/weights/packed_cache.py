"""Weights packed for the kernels, kept in files, so that a model is packed once on a machine.

`packed/NAME-HASH.packed` is 4,096 bytes of JSON, filled with spaces, that say what was packed and
from what, then the packed bytes. A reader knows beforehand what the JSON must be and how long the
file is: it takes what is equal, byte for byte, and believes nothing else. Least recently used files
go when all of them exceed `hardware.packed_cache_bytes()`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from puna import hardware, schema
from puna.console import Progress, human_bytes, untold
from puna.errors import MachineError, PunaError
from puna.weights.source import Bytes, ModelSource
from puna.whole_folder import SPARE_BYTES

KIND = "puna.packed"
HEADER_BYTES = 4096
FOLDER, SUFFIX = "packed", ".packed"
_ABANDONED_SECONDS = 3600.0  # no write takes so long; a killed process left the file
_ENDS_BYTES = 1 << 16
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class PackedFile:
    """One file of the cache; `source` is the model it was packed from."""

    path: Path
    source: str
    nbytes: int
    used_at: float  # seconds since the epoch


class PackedCache:
    """The packed weights in the cache's folder, this machine's by default."""

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self.folder = (folder or hardware.cache_folder()) / FOLDER
        self._limit_bytes = limit_bytes

    @property
    def limit_bytes(self) -> int:
        """What all files together may take."""
        if self._limit_bytes is None:
            self._limit_bytes = hardware.packed_cache_bytes(self.folder)
        return self._limit_bytes

    def files(self) -> list[PackedFile]:
        """All files, the most recently used first; also those that can be read no more."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process removed it
                status = path.stat()
                found.append(PackedFile(path, _source_of(path), status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: -file.used_at)

    def path_of(self, source: ModelSource, header: bytes) -> Path:
        """Where the packed weights of `source` with this header lie, or would."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", source.path.name)[-60:].strip("-.")
        return self.folder / f"{name}-{hashlib.sha256(header).hexdigest()[:16]}{SUFFIX}"

    def open(self, path: Path, header: bytes, nbytes: int) -> int | None:
        """A descriptor of the file if it is whole and what is wanted; None where there is none.

        Raises MachineError for a file that is there and something else.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MachineError(f"{path} cannot be read: {error.strerror}") from None
        size = os.fstat(descriptor).st_size
        if size != len(header) + nbytes or os.pread(descriptor, len(header), 0) != header:
            os.close(descriptor)
            raise MachineError(f"{path} is damaged")
        with contextlib.suppress(OSError):  # of a cache that may only be read, nothing is removed
            os.utime(path)
        return descriptor

    def store(self, path: Path, header: bytes, packed: Bytes, progress: Progress = untold) -> None:
        """Write a file whole or not at all, then remove the least recently used ones.

        Raises MachineError where it does not fit, or the folder cannot be written.
        """
        needed = len(header) + packed.nbytes
        if needed > self.limit_bytes:
            raise MachineError(
                f"{human_bytes(needed)} exceed the {human_bytes(self.limit_bytes)} that "
                "PUNA_PACKED_CACHE allows"
            )
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_abandoned()
            self._make_room(needed, path)
            if shutil.disk_usage(self.folder).free < needed + SPARE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _write(partial, header, packed, progress)
            partial.replace(path)
        except OSError as error:
            raise MachineError(f"{self.folder}: {error.strerror or error}") from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def remove(self, path: Path) -> int:
        """Remove one of the files; returns the bytes made free.

        Raises MachineError where the folder cannot be written.
        """
        return sum(_removed(file) for file in self.files() if file.path == path)

    def _make_room(self, needed: int, path: Path) -> None:
        kept = needed
        for file in self.files():
            kept += file.nbytes
            if kept > self.limit_bytes or file.path == path:
                kept -= _removed(file)

    def _clear_abandoned(self) -> None:
        for path in self.folder.glob(f".*{SUFFIX}.partial-*"):
            if path.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                path.unlink()


def header_of(source: ModelSource, layout: str) -> bytes:
    """What a file must begin with to hold `source` packed in this layout.

    Raises MachineError when the model's files cannot be read.
    """
    record = {
        **schema.stamp(KIND),
        "source": str(source.path.resolve()),
        "files": _identity(source.path.resolve()),
        "layout": layout,
    }
    text = json.dumps(record).encode()
    if len(text) > HEADER_BYTES:
        raise MachineError("its path is too long")
    return text.ljust(HEADER_BYTES)


def _identity(path: Path) -> str:
    """A hash of names, sizes, times and both ends of the files that hold a model.

    In the ends lie the headers and tables of GGUF, safetensors and zip files.
    """
    paths = [path]
    if path.is_dir():
        paths = sorted(one for one in path.iterdir() if one.is_file())
    elif _SPLIT.search(path.name):
        paths = sorted(path.parent.glob("*.gguf"))
    whole = hashlib.sha256()
    try:
        for one in paths:
            with one.open("rb") as file:
                status = os.fstat(file.fileno())
                whole.update(f"{one.name}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
                whole.update(file.read(_ENDS_BYTES))
                file.seek(max(0, status.st_size - _ENDS_BYTES))
                whole.update(file.read(_ENDS_BYTES))
    except OSError as error:
        raise MachineError(f"{one}: {error.strerror}") from None
    return whole.hexdigest()


def _write(path: Path, header: bytes, packed: Bytes, progress: Progress) -> None:
    """In pieces that begin on multiples of 2 MiB: of such, Linux makes huge pages of the file."""
    at, end = 0, len(header) + packed.nbytes
    with path.open("wb", buffering=0) as file:
        while at < end:
            progress("keeping them for the next time", at, end)
            stop = (at // _PIECE_BYTES + 1) * _PIECE_BYTES - len(header)
            piece = packed[max(0, at - len(header)) : stop].data
            at += os.writev(file.fileno(), [header[at:], piece])
        os.fsync(file.fileno())


def _source_of(path: Path) -> str:
    """What a file says it was packed from; its own path where it says nothing sound."""
    try:
        with path.open("rb") as file:
            record = json.loads(file.read(HEADER_BYTES))
        schema.check(record, KIND, path)
        return str(record["source"])
    except (OSError, ValueError, KeyError, RecursionError, PunaError):
        return str(path)


def _removed(file: PackedFile) -> int:
    try:
        file.path.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"{file.path} cannot be removed: {error.strerror}") from None
    return file.nbytes
