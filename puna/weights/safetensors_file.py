"""safetensors files: a strict reader of our own, tensors as memory maps, a writer that streams.

A file is the header's length (8 bytes, little endian), a header of JSON, and the tensors' bytes:
    {"__metadata__": {text: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
The tensors must lie one after the other, from the header's end to the file's, without a hole. The
header is read by a parser that knows this form alone: nothing in it nests deeper, no key comes
twice, numbers are plain digits, and each mistake is told with its offset in the file.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError
from puna.weights.source import FloatArray, StoredTensor, as_float32
from puna.weights.untrusted import mapped, opened, shown

HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit
TENSOR_LIMIT = 5_000  # a LLaMA of 405 billion parameters has 1,138
NAME_LIMIT_BYTES = 512
TEXT_LIMIT_BYTES = 1 << 20
DIMENSION_LIMIT = 32  # what every NumPy can hold
SIZE_LIMIT = 2**63
LENGTH_BYTES = 8
ALIGNMENT = 8  # of the tensors' bytes, by spaces behind the header
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F32": 32, "I32": 32, "U32": 32,
    "F64": 64, "C64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}  # BF16: its bits
WRITTEN = ("F16", "BF16", "F32")  # in the order in which the safetensors library ranks them
HINT = "the file is damaged, or no safetensors file; copy or download it again"

_METADATA = "__metadata__"
_SPACE = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"([^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+)"')
_NUMBER = re.compile(rb"(?:0|[1-9][0-9]{0,18})(?![0-9.eE])")


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor of an opened file, not read yet; its bytes are known to lie within the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors and GGUF both spell it: F32, F16, BF16, F64, I64, ...
    path: Path
    offset: int  # of its first byte in the file
    nbytes: int

    def raw(self) -> npt.NDArray[np.uint8]:
        """Its bytes, flat: a memory map, where writing changes the memory and never the file.

        Raises CheckpointError when the file became shorter since it was opened.
        """
        return mapped(self.path, self.offset, self.nbytes, self.name)

    def array(self) -> npt.NDArray[Any]:
        """Its values as they are stored, in its shape; BF16 as uint16.

        Raises CheckpointError where they are gone, or no floating-point numbers.
        """
        if self.dtype not in NUMPY_TYPES:
            raise CheckpointError(
                f"{self.path}: {shown(self.name)} should hold floating-point weights, found "
                f"{self.dtype}"
            )
        values = self.raw().view(NUMPY_TYPES[self.dtype]).reshape(self.shape)
        return values if values.flags.aligned else values.copy()

    def read(self) -> FloatArray:
        """Its values in float32. Raises CheckpointError as `array`, or where one is not finite."""
        return as_float32(self.array(), self.dtype, f"{self.path}: {shown(self.name)}")


def open_safetensors(path: Path) -> dict[str, SafeTensor]:
    """The tensors of a file by name, in the order of their bytes; only the header is read.

    Raises CheckpointError that names file, offset and reason for whatever breaks the format's
    rules: the header's length and form, unknown types, sizes that are not the shape's, holes,
    overlaps, or a file that is shorter or longer than its tensors.
    """
    text, file_size = _header_text(path)
    tensors = _Header(text, path).tensors()
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    end = LENGTH_BYTES + len(text)
    for tensor in tensors:
        if tensor.offset != end:
            what = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole"
            raise _broken(
                path, tensor.offset, f"{shown(tensor.name)} should begin at byte {end}, it {what}"
            )
        end += tensor.nbytes
    if end != file_size:
        raise _broken(
            path, min(end, file_size), f"the tensors end at byte {end}, the file at {file_size}"
        )
    return {tensor.name: tensor for tensor in tensors}


def _header_text(path: Path) -> tuple[bytes, int]:
    """The header's bytes and the file's size; nothing is read that is not there."""
    with opened(path, "be a safetensors file") as file:
        file_size = file.seek(0, 2)
        file.seek(0)
        start = file.read(LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        room = file_size - LENGTH_BYTES
        if len(start) < LENGTH_BYTES:
            raise _broken(path, 0, f"the header's length needs 8 bytes, found {len(start)}")
        if length > min(room, HEADER_LIMIT_BYTES):
            limit = f"{room} that follow and {HEADER_LIMIT_BYTES}"
            raise _broken(path, 0, f"the header should have at most {limit}, found {length}")
        text = file.read(length)
    if text[:1] != b"{":
        found = shown(text[:1].decode("latin-1")) if text else "an empty header"
        raise _broken(path, LENGTH_BYTES, f"the header should begin with '{{', found {found}")
    return text, file_size


class _Header:
    """A cursor over the header's JSON, which may hold nothing but what the format says."""

    def __init__(self, text: bytes, path: Path) -> None:
        self.text = text
        self.path = path
        self.at = 0

    def tensors(self) -> list[SafeTensor]:
        """What the header tells of each tensor, checked each by itself."""
        found = []
        for name in self.members():
            if name == _METADATA:
                for _ in self.members():
                    self.string(TEXT_LIMIT_BYTES)
            else:
                found.append(self.tensor(name))
        self.space()
        if self.at != len(self.text):
            self.fail("the header should end here, it goes on")
        return found

    def tensor(self, name: str) -> SafeTensor:
        """The object that describes one tensor, whose bytes must be as many as its shape needs."""
        start = self.at
        dtype, lists = "", {"shape": [0], "data_offsets": [0]}
        missing = {"dtype", *lists}
        for key in self.members():
            if key not in missing:
                self.fail(f"{shown(name)} has {shown(key)}, which no tensor has")
            missing.discard(key)
            if key == "dtype":
                dtype = self.string()
            else:
                lists[key] = self.numbers()
        if missing:
            self.fail(f"{shown(name)} lacks {', '.join(sorted(missing))}", start)
        shape, offsets = lists["shape"], lists["data_offsets"]
        if dtype not in DTYPE_BITS:
            self.fail(f"{shown(name)} has the unknown type {shown(dtype)}", start)
        if math.prod(size or 1 for size in shape) * DTYPE_BITS[dtype] >= SIZE_LIMIT:
            self.fail(f"{shown(name)} has the impossible shape {str(shape)[:200]}", start)
        bits = math.prod(shape) * DTYPE_BITS[dtype]
        if len(offsets) != 2 or bits % 8 or offsets[1] - offsets[0] != bits // 8:
            wanted = f"{shown(name)} of shape {shape} in {dtype} needs {bits / 8:.15g} bytes"
            self.fail(f"{wanted}, its data_offsets are {str(offsets)[:80]}", start)
        offset = LENGTH_BYTES + len(self.text) + offsets[0]
        return SafeTensor(name, tuple(shape), dtype, self.path, offset, bits // 8)

    def members(self) -> Iterator[str]:
        """The keys of an object, the cursor at each one's value; no key comes twice."""
        seen: set[str] = set()
        self.symbol(b"{")
        if self.has(b"}"):
            return
        while True:
            start = self.at
            key = self.string()
            if key in seen:
                self.fail(f"{shown(key)} comes twice", start)
            seen.add(key)
            if len(seen) > TENSOR_LIMIT:
                self.fail(f"at most {TENSOR_LIMIT} tensors are read, there are more", start)
            self.symbol(b":")
            yield key
            if self.has(b"}"):
                return
            self.symbol(b",")

    def numbers(self) -> list[int]:
        """A list of whole numbers from 0 up to 2^63."""
        found: list[int] = []
        self.symbol(b"[")
        if self.has(b"]"):
            return found
        while True:
            self.space()
            match = _NUMBER.match(self.text, self.at)
            number = int(match[0]) if match else SIZE_LIMIT
            if match is None or number >= SIZE_LIMIT:
                self.fail("a whole number from 0 to 2^63 - 1 should be here")
            if len(found) == DIMENSION_LIMIT:
                self.fail(f"a list should have at most {DIMENSION_LIMIT} numbers")
            found.append(number)
            self.at = match.end()
            if self.has(b"]"):
                return found
            self.symbol(b",")

    def string(self, limit: int = NAME_LIMIT_BYTES) -> str:
        """A JSON string of at most `limit` bytes, which must be valid Unicode."""
        self.space()
        match = _STRING.match(self.text, self.at)
        if match is None:
            self.fail("a string should be here")
        if match.end() - self.at > limit:
            self.fail(f"a string should have at most {limit} bytes")
        try:
            text = match[1].decode("utf-8")
            if "\\" in text:
                text = str(json.loads(f'"{text}"'))
                text.encode("utf-8")
        except ValueError:
            self.fail("a string should be valid Unicode")
        self.at = match.end()
        return text

    def has(self, symbol: bytes) -> bool:
        """Whether `symbol` comes next; the cursor then stands behind it."""
        self.space()
        found = self.text.startswith(symbol, self.at)
        self.at += found
        return found

    def symbol(self, wanted: bytes) -> None:
        """Go past `wanted`, which must come next."""
        if not self.has(wanted):
            self.fail(f"{wanted.decode()} should be here")

    def space(self) -> None:
        """Go past white space."""
        match = _SPACE.match(self.text, self.at)
        assert match is not None, "the pattern matches nothing, too"
        self.at = match.end()

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        """Raise CheckpointError for what is wrong at the cursor, or at `at`."""
        where = LENGTH_BYTES + (self.at if at is None else at)
        raise _broken(self.path, where, f"in the header, {what}")


class SafetensorsWriter:
    """A new file at `path`, whose tensors are handed over one by one in the order of `plan`.

    `plan` is what was planned in the order of the safetensors library, by type and name, so that
    the same tensors make the same bytes. Use it in a `with` block. Raises OSError when the disk
    is full; whole_folder tells that.
    """

    def __init__(
        self, path: Path, planned: Sequence[StoredTensor], metadata: Mapping[str, str]
    ) -> None:
        self.plan = sorted(planned, key=lambda one: (-WRITTEN.index(one.dtype), one.name))
        self._written = 0
        self._file = path.open("wb")
        self._file.write(header(self.plan, metadata))

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                assert self._written == len(self.plan), f"{self._written} of {len(self.plan)}"
        finally:
            self._file.close()

    def add(self, values: npt.NDArray[Any]) -> None:
        """Write the next tensor of the plan: its numbers in its shape and type, BF16 as uint16."""
        planned = self.plan[self._written]
        assert values.shape == planned.shape, f"{planned.name}: {values.shape} {planned.shape}"
        assert values.dtype.str == NUMPY_TYPES[planned.dtype], f"{planned.name}: {values.dtype}"
        self._file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        self._written += 1


def header(plan: Sequence[StoredTensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the tensors: the length, and the JSON padded with spaces."""
    table: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    ends = list(itertools.accumulate((one.nbytes for one in plan), initial=0))
    for one, start, end in zip(plan, ends, ends[1:], strict=False):
        table[one.name] = {
            "dtype": one.dtype,
            "shape": list(one.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _broken(path: Path, offset: int, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: byte {offset}: {what}", hint=HINT)
