"""The GGUF container, versions 2 and 3: metadata by key, tensors by name, bytes where they lie.

  magic "GGUF", version u32, number of tensors u64, number of keys u64
  per key: name, type u32, value          (a string is its length as u64, then UTF-8)
  per tensor: name, dimensions u32, each u64 (columns first), type u32, offset u64
  padding to `general.alignment`, then the tensors in the same order, each padded likewise
All numbers are little-endian. Nothing in a file is believed before it is checked against the
bytes that are there: every count, length, offset and product.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from puna.errors import CheckpointError
from puna.weights.gguf_types import TYPE_OF_ID
from puna.weights.source import Bytes
from puna.weights.untrusted import mapped, opened

MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"

STRING, ARRAY = 8, 9
_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
TYPE_OF_SCALAR = {dtype: number for number, dtype in _SCALARS.items()}
_UINT32 = 4
_LARGEST_KEY_BYTES = 65535
_LARGEST_NAME_BYTES = 63
_LARGEST_DIMENSIONS = 4
_LARGEST_ELEMENTS = 2**63 - 1
_SMALLEST_KEY_VALUE_BYTES = 8 + 1 + 4 + 1
_SMALLEST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8
_CUT_SHORT = "the file is cut short or damaged: copy or download it again"
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies; `shape` is rows first, `offset` counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """A checked GGUF file. Strings are str, arrays of them tuples, other arrays read-only NumPy.

    A float32 is the shortest decimal that means it: 1e-05, not 9.999999747378752e-06.
    """

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    bytes_after: int  # behind the last tensor and its padding: not part of the model

    def raw(self, name: str) -> Bytes:
        """The bytes of a tensor as they lie. Raises CheckpointError when they are gone."""
        tensor = self.tensors[name]
        return mapped(self.path, tensor.offset, tensor.nbytes, name)


def read_gguf(path: Path) -> GgufFile:
    """The container at `path`, headers read and checked, tensors left on the disk.

    Raises CheckpointError, with the offset of what is wrong, when it is not a sound GGUF file.
    """
    with opened(path, "be a GGUF file") as file:
        if not file.seek(0, 2):
            raise CheckpointError(f"{path} should be a GGUF file, found an empty one")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with buffer:
        reader = _Reader(path, buffer)
        version, tensor_count, key_count = reader.header()
        metadata = reader.metadata(key_count)
        alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
        tensors, end = reader.tensors(tensor_count, alignment)
        return GgufFile(
            path=path,
            version=version,
            metadata=MappingProxyType(metadata),
            tensors=MappingProxyType(tensors),
            bytes_after=max(0, len(buffer) - end),
        )


class _Reader:
    """A place in the file, and the numbers and strings that follow it."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path = path
        self.buffer = buffer
        self.size = len(buffer)
        self.position = 0

    def fail(self, offset: int, what: str, hint: str | None = None) -> NoReturn:
        raise CheckpointError(f"{self.path}: byte {offset}: {what}", hint=hint)

    def require(self, count: int, what: str) -> None:
        left = self.size - self.position
        if count > left:
            self.fail(
                self.position,
                f"{what} should take {count:,} bytes, the file has {left:,} more",
                hint=_CUT_SHORT,
            )

    def number(self, code: struct.Struct, what: str) -> int:
        self.require(code.size, what)
        value: int = code.unpack_from(self.buffer, self.position)[0]
        self.position += code.size
        return value

    def string(self, what: str, largest: int) -> str:
        start = self.position
        length = self.number(_U64, f"the length of {what}")
        if not 0 < length <= largest:
            self.fail(start, f"{what} should be 1 to {largest:,} bytes long, found {length:,}")
        self.position = start
        return self.strings(1, what)[0]

    def header(self) -> tuple[int, int, int]:
        """Version, number of tensors, number of keys."""
        if self.buffer[:4] != MAGIC:
            self.fail(0, f"a GGUF file should begin with {MAGIC!r}, found {self.buffer[:4]!r}")
        self.position = 4
        version = self.number(_U32, "the version")
        if version and version & 0xFFFF == 0:
            self.fail(
                4,
                "this GGUF file is big-endian, Puna reads little-endian ones",
                hint="convert it on the machine it is for, or fetch the little-endian file",
            )
        if version not in (2, VERSION):
            self.fail(
                4,
                f"the GGUF version should be 2 or {VERSION}, found {version}",
                hint="version 1 files are from summer 2023: fetch the model again"
                if version == 1
                else "a newer Puna may read it: pip install --upgrade puna",
            )
        tensor_count = self.count(_SMALLEST_TENSOR_BYTES, "tensors")
        return version, tensor_count, self.count(_SMALLEST_KEY_VALUE_BYTES, "keys")

    def count(self, smallest_bytes: int, what: str) -> int:
        """A u64 number of things of at least `smallest_bytes` each, which the file can hold."""
        start = self.position
        count = self.number(_U64, f"the number of {what}")
        if count * smallest_bytes > self.size - self.position:
            self.fail(start, f"{count:,} {what} cannot be in a file of {self.size:,} bytes")
        return count

    def metadata(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index in range(count):
            start = self.position
            key = self.string(f"key {index}", _LARGEST_KEY_BYTES)
            if key in found:
                self.fail(start, f"the key {key[:80]!r} is there twice")
            what = f"the value of {key[:80]!r}"
            kind_at = self.position
            kind = self.number(_U32, f"the type of {what}")
            found[key] = self.value(kind, what)
            if key == ALIGNMENT_KEY:
                self.check_alignment(kind_at, kind, found[key])
        return found

    def check_alignment(self, offset: int, kind: int, value: Any) -> None:
        if kind != _UINT32 or value < 1 or value & (value - 1):
            found = value if kind == _UINT32 else f"type {kind}"
            self.fail(offset, f"{ALIGNMENT_KEY} should be a power of two as uint32, found {found}")

    def value(self, kind: int, what: str) -> Any:
        start = self.position - 4
        if kind == STRING:
            return self.strings(1, what)[0]
        if kind == ARRAY:
            start = self.position
            kind = self.number(_U32, f"the array type of {what}")
            smallest = 8 if kind == STRING else _SCALARS[kind].itemsize if kind in _SCALARS else 1
            count = self.count(smallest, f"elements of {what}")
            if kind == STRING:
                return self.strings(count, what)
            if kind in _SCALARS:
                return self.numbers(kind, count, what)
        elif kind in _SCALARS:
            value = self.numbers(kind, 1, what)[0]
            return float(str(value)) if value.dtype == np.float32 else value.item()
        found = "an array of arrays" if kind == ARRAY else f"type {kind}"
        self.fail(start, f"{what} should be of one of GGUF's 12 plain types, found {found}")

    def numbers(self, kind: int, count: int, what: str) -> np.ndarray[Any, Any]:
        dtype = _SCALARS[kind]
        self.require(count * dtype.itemsize, what)
        end = self.position + count * dtype.itemsize
        raw = self.buffer[self.position : end]
        if dtype.kind == "b" and raw.strip(b"\x00\x01"):
            self.fail(self.position, f"{what} should be true (1) or false (0), found another byte")
        self.position = end
        return np.frombuffer(raw, dtype=dtype)

    def strings(self, count: int, what: str) -> tuple[str, ...]:
        """`count` strings; written for speed: 128,000 of them in some 40 ms."""
        buffer, size, position = self.buffer, self.size, self.position
        read_length, length_bytes = _U64.unpack_from, _U64.size
        found = []
        try:
            for _ in range(count):
                start = position + length_bytes
                end = start + read_length(buffer, position)[0]
                if end > size:
                    break
                found.append(str(buffer[start:end], "utf-8"))
                position = end
        except struct.error:  # the length itself is cut off
            pass
        except UnicodeDecodeError as error:
            wrong = start + error.start
            self.fail(wrong, f"{what} should be UTF-8, found the byte {buffer[wrong]:#04x}")
        self.position = position
        if len(found) < count:
            length = self.number(_U64, f"the length of {what}")
            self.require(length, what)
        return tuple(found)

    def tensors(self, count: int, alignment: int) -> tuple[dict[str, GgufTensor], int]:
        """Tensors by name, and where the last one's padding ends."""
        listed: dict[str, GgufTensor] = {}
        data_bytes = 0  # of the tensors so far with their padding: where the next one begins
        for _ in range(count):
            start = self.position
            tensor = self.tensor()
            if tensor.name in listed:
                self.fail(start, f"the tensor {tensor.name!r} is there twice")
            if tensor.offset != data_bytes:
                self.fail(
                    self.position - 8,
                    f"{tensor.name!r} should begin {data_bytes:,} bytes into the data, where the "
                    f"tensors before it end, found {tensor.offset:,}",
                )
            listed[tensor.name] = tensor
            data_bytes += padded(tensor.nbytes, alignment)
        data_start = padded(self.position, alignment)
        for name, tensor in listed.items():
            tensor = replace(tensor, offset=data_start + tensor.offset)
            if tensor.offset + tensor.nbytes > self.size:
                self.fail(
                    tensor.offset,
                    f"{name!r} should take {tensor.nbytes:,} bytes, "
                    f"the file has {max(0, self.size - tensor.offset):,} more",
                    hint=_CUT_SHORT,
                )
            listed[name] = tensor
        return listed, (data_start + data_bytes if listed else self.position)

    def tensor(self) -> GgufTensor:
        """One entry of the list of tensors; `offset` counts from the data's start."""
        name = self.string("the name of a tensor", _LARGEST_NAME_BYTES)
        start = self.position
        dimensions = self.number(_U32, f"the number of dimensions of {name!r}")
        if not 1 <= dimensions <= _LARGEST_DIMENSIONS:
            self.fail(start, f"{name!r} should have 1 to 4 dimensions, found {dimensions:,}")
        start = self.position
        sizes = [self.number(_U64, f"the shape of {name!r}") for _ in range(dimensions)]
        if 0 in sizes or math.prod(sizes) > _LARGEST_ELEMENTS:
            self.fail(start, f"the shape of {name!r} cannot be {sizes}: 1 to 2^63 elements are")
        start = self.position
        kind = TYPE_OF_ID.get(self.number(_U32, f"the type of {name!r}"))
        if kind is None:
            found = _U32.unpack_from(self.buffer, start)[0]
            self.fail(start, f"{name!r} should be of a type that GGUF knows, found type {found}")
        if sizes[0] % kind.block_values:
            self.fail(
                start,
                f"rows of {name!r} should be whole blocks of {kind.block_values} values, as "
                f"{kind.name} has them, found {sizes[0]:,} values",
            )
        nbytes = kind.row_bytes(math.prod(sizes))
        offset = self.number(_U64, f"the offset of {name!r}")
        return GgufTensor(name, tuple(reversed(sizes)), kind.name, offset, nbytes)


def padded(position: int, alignment: int) -> int:
    """The next multiple of `alignment`, or `position` where it is one."""
    return -(-position // alignment) * alignment
