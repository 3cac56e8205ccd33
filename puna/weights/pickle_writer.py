"""Writes what torch.load(weights_only=True, mmap=True) reads, tensor by tensor, without torch.

The file is a zip of stored members, as torch.save lays it out: `data.pkl` says which names, shapes
and storages there are, `data/0`, `data/1`, ... are the storages, each on a multiple of 64 bytes.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.weights import pickle_zip as zips
from puna.weights.pickle_machine import DTYPES, ORDERED_DICT, REBUILD_TENSOR

ALIGNMENT = 64
ZIP64_FROM = 0xFFFFFFFF  # sizes and offsets from here on are written in 64 bits
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_NEEDS_PLAIN, _NEEDS_ZIP64 = 20, 45  # the version of the zip format that a reader must know
_DAY = 0x21  # 1 January 1980: the same weights make the same bytes
_PADDING_FIELD = 0x4246  # "FB", as torch has it
_STORAGES = {dtype: f"torch.{name}" for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """What is to be written under `name`; `dtype` is F32, F16 or BF16."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class PickleWriter:
    """A new .pth file at `path`, whose tensors are handed over in the order of `plan`.

    Use it in a `with` block. Raises OSError when the disk is full; whole_folder tells that.
    """

    def __init__(self, path: Path, plan: Sequence[PlannedTensor]) -> None:
        self._root = path.stem
        self._plan = list(plan)
        self._written = 0
        self._directory: list[bytes] = []
        self._file = path.open("wb")
        self._member("data.pkl", program(self._plan))
        self._member("byteorder", b"little")

    def __enter__(self) -> PickleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()

    def add(self, values: npt.NDArray[Any]) -> None:
        """Write the next tensor of the plan: its numbers as they lie, BF16 as uint16."""
        planned = self._plan[self._written]
        assert values.shape == planned.shape, f"{planned.name}: {values.shape} {planned.shape}"
        assert values.dtype.str == {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[planned.dtype]
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._member(f"data/{self._written}", flat.data)
        self._written += 1

    def _finish(self) -> None:
        assert self._written == len(self._plan), f"{self._written} of {len(self._plan)} written"
        self._member("version", b"3\n")
        offset = self._file.tell()
        self._file.write(b"".join(self._directory))
        self._end(offset, self._file.tell() - offset, len(self._directory))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _member(self, name: str, content: bytes | memoryview) -> None:
        offset, full_name = self._file.tell(), f"{self._root}/{name}".encode()
        size, crc = len(content), zlib.crc32(content)
        wide = struct.pack("<2H2Q", 1, 16, size, size) if size >= ZIP64_FROM else b""
        before = offset + zips.LOCAL.size + len(full_name) + len(wide) + 4
        padding = -before % ALIGNMENT
        extra = wide + struct.pack("<2H", _PADDING_FIELD, padding) + bytes(padding)
        needs, small = (_NEEDS_ZIP64, _FULL32) if wide else (_NEEDS_PLAIN, size)
        common = (needs, 0, 0, 0, _DAY, crc, small, small, len(full_name))
        self._file.write(zips.LOCAL.pack(zips.LOCAL_MARK, *common, len(extra)))
        self._file.write(full_name + extra)
        self._file.write(content)
        self._directory.append(_directory_entry(full_name, offset, size, crc))

    def _end(self, offset: int, size: int, entries: int) -> None:
        if max(offset, size) >= ZIP64_FROM or entries >= _FULL16:
            at = self._file.tell()
            version = (_NEEDS_ZIP64, _NEEDS_ZIP64, 0, 0)
            rest = zips.END64.size - 12
            wide = (zips.END64_MARK, rest, *version, entries, entries, size, offset)
            self._file.write(zips.END64.pack(*wide))
            self._file.write(zips.LOCATOR64.pack(zips.LOCATOR64_MARK, 0, at, 1))
        count, size, offset = min(entries, _FULL16), min(size, _FULL32), min(offset, _FULL32)
        self._file.write(zips.END.pack(zips.END_MARK, 0, 0, count, count, size, offset, 0))


def _directory_entry(name: bytes, offset: int, size: int, crc: int) -> bytes:
    wide = b"".join(struct.pack("<Q", n) for n in (size, size, offset) if n >= ZIP64_FROM)
    extra = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
    needs = _NEEDS_ZIP64 if wide else _NEEDS_PLAIN
    small, start = (_FULL32 if n >= ZIP64_FROM else n for n in (size, offset))
    sizes = (crc, small, small, len(name), len(extra), 0)
    fields = (needs, needs, 0, 0, 0, _DAY, *sizes, 0, 0, 0, start)
    return zips.CENTRAL.pack(zips.CENTRAL_MARK, *fields) + name + extra


def program(plan: Sequence[PlannedTensor]) -> bytes:
    """The pickle, in protocol 2, of an OrderedDict of these tensors, each with its own storage."""
    parts = [b"\x80\x02", _ordered_dict(), b"("]
    for key, planned in enumerate(plan):
        parts += [_text(planned.name), _tensor(planned, str(key))]
    return b"".join([*parts, b"u."])


def _tensor(planned: PlannedTensor, key: str) -> bytes:
    """REBUILD_TENSOR(storage, 0, shape, strides, False, OrderedDict())."""
    strides = [math.prod(planned.shape[axis + 1 :]) for axis in range(len(planned.shape))]
    storage = [_text("storage"), _name(_STORAGES[planned.dtype]), _text(key), _text("cpu")]
    identity = _tuple([*storage, _number(planned.count)]) + b"Q"
    shape = _tuple([_number(size) for size in planned.shape])
    steps = _tuple([_number(stride) for stride in strides])
    arguments = [identity, _number(0), shape, steps, b"\x89", _ordered_dict()]
    return _name(REBUILD_TENSOR) + _tuple(arguments) + b"R"


def _ordered_dict() -> bytes:
    return _name(ORDERED_DICT) + b")R"


def _name(full: str) -> bytes:
    module, _, name = full.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def _tuple(values: Sequence[bytes]) -> bytes:
    return b"(" + b"".join(values) + b"t"


def _text(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<L", len(content)) + content


def _number(value: int) -> bytes:
    """A whole number from 0: four bytes where they hold it, else as many as it needs."""
    if value < 1 << 31:
        return b"J" + struct.pack("<l", value)
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content
