"""Writes what torch.load(weights_only=True, mmap=True) reads, tensor by tensor, without torch.

The file is a zip of stored members, as torch.save lays it out: `data.pkl` says which names, shapes
and storages there are, `data/0`, `data/1`, ... are the storages, each on a multiple of 64 bytes.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.weights.pickle_machine import DTYPES, ORDERED_DICT, REBUILD_TENSOR
from puna.weights.pickle_zip import LOCAL

ALIGNMENT = 64
WIDE_BYTES = 1 << 30  # larger members have their sizes in 64 bits; 4 GiB would need them
_PADDING_FIELD = 0x4246  # "FB", as torch has it
_WIDE_FIELD_BYTES = 20  # sizes in 64 bits, behind our own field
_STORAGES = {dtype: f"torch.{name}" for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """What is to be written under `name`; `dtype` is F32, F16 or BF16."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class PickleWriter:
    """A new .pth file at `path`, whose tensors are handed over in the order of `plan`.

    Use it in a `with` block. Raises OSError when the disk is full; whole_folder tells that.
    """

    def __init__(self, path: Path, plan: Sequence[PlannedTensor]) -> None:
        self._root = path.stem
        self._plan = list(plan)
        self._written = 0
        self._file = path.open("wb")
        self._zip = zipfile.ZipFile(self._file, "w")
        self._member("data.pkl", program(self._plan))
        self._member("byteorder", b"little")

    def __enter__(self) -> PickleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file, self._zip:
            if kind is None:
                assert self._written == len(self._plan), f"{self._written} of {len(self._plan)}"
                self._member("version", b"3\n")

    def add(self, values: npt.NDArray[Any]) -> None:
        """Write the next tensor of the plan: its numbers as they lie, BF16 as uint16."""
        planned = self._plan[self._written]
        assert values.shape == planned.shape, f"{planned.name}: {values.shape} {planned.shape}"
        assert values.dtype.str == {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[planned.dtype]
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._member(f"data/{self._written}", flat.data)
        self._written += 1

    def _member(self, name: str, content: bytes | memoryview) -> None:
        """Store a member, whose extra field pads it to a multiple of 64 bytes."""
        entry = zipfile.ZipInfo(f"{self._root}/{name}")  # of 1980: the same weights, the same bytes
        is_wide = len(content) > WIDE_BYTES
        header_bytes = LOCAL.size + len(entry.filename.encode()) + 4 + _WIDE_FIELD_BYTES * is_wide
        padding = -(self._file.tell() + header_bytes) % ALIGNMENT
        entry.extra = struct.pack("<2H", _PADDING_FIELD, padding) + bytes(padding)
        with self._zip.open(entry, "w", force_zip64=is_wide) as member:
            member.write(content)


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
    identity = _tuple([*storage, _number(math.prod(planned.shape))]) + b"Q"
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
