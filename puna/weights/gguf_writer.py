"""Writing GGUF containers: metadata and tensors streamed into one file, or into split ones."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from puna.errors import CheckpointError
from puna.weights.gguf_file import (
    ARRAY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    STRING,
    TYPE_OF_SCALAR,
    VERSION,
    padded,
)
from puna.weights.gguf_types import TYPES
from puna.weights.source import Bytes, require_room_for_weights


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to write: `parts` makes its bytes, in order, when its turn comes."""

    name: str
    shape: tuple[int, ...]  # rows first
    dtype: str
    parts: Callable[[], Iterable[Bytes]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        *outer, columns = self.shape
        return TYPES[self.dtype].row_bytes(columns) * int(np.prod(outer, dtype=np.int64))


def write_files(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Sequence[PlannedTensor],
    *,
    split_bytes: int | None = None,
    advance: Callable[[int], Any] = lambda nbytes: None,
) -> list[Path]:
    """Write one GGUF file, or several of about `split_bytes` of tensors each; returns their paths.

    A split file is called `NAME-00001-of-00003.gguf`. Strings, bools, ints (uint32 where they
    fit), floats (float32), NumPy scalars and lists of these are metadata. `advance` hears of every
    part written. Raises MachineError when the disk is too full.
    """
    groups = _groups(tensors, split_bytes)
    paths = [split_path(path, number, len(groups)) for number in range(len(groups))]
    headers = []
    for number, group in enumerate(groups):
        first = metadata if number == 0 else {}
        headers.append(_header({**first, **_split_keys(number, len(groups), len(tensors))}, group))
    needed = sum(map(len, headers)) + sum(padded(one.nbytes, DEFAULT_ALIGNMENT) for one in tensors)
    require_room_for_weights(path.parent, needed)
    for part, header, group in zip(paths, headers, groups, strict=True):
        _write_file(part, header, group, advance)
    return paths


def split_path(path: Path, number: int, count: int) -> Path:
    """The name of part `number` (from 0) of `count`; `path` itself where there is only one."""
    if count == 1:
        return path
    stem = path.name.removesuffix(".gguf")
    return path.with_name(f"{stem}-{number + 1:05d}-of-{count:05d}.gguf")


def _groups(tensors: Sequence[PlannedTensor], split_bytes: int | None) -> list[list[PlannedTensor]]:
    """Runs of tensors of at most `split_bytes` together, each of at least one tensor."""
    if split_bytes is None:
        return [list(tensors)]
    groups: list[list[PlannedTensor]] = []
    size = 0
    for tensor in tensors:
        nbytes = padded(tensor.nbytes, DEFAULT_ALIGNMENT)
        if not groups or size + nbytes > split_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += nbytes
    return groups


def _split_keys(number: int, count: int, tensors: int) -> dict[str, Any]:
    if count == 1:
        return {}
    return {
        "split.no": np.uint16(number),
        "split.count": np.uint16(count),
        "split.tensors.count": np.int32(tensors),
    }


def _header(metadata: Mapping[str, Any], tensors: Sequence[PlannedTensor]) -> bytes:
    """Everything before the tensors' data, padded."""
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    offset = 0
    for tensor in tensors:
        shape = tensor.shape[::-1]
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        parts.append(struct.pack("<IQ", TYPES[tensor.dtype].id, offset))
        offset += padded(tensor.nbytes, DEFAULT_ALIGNMENT)
    header = b"".join(parts)
    return header.ljust(padded(len(header), DEFAULT_ALIGNMENT), b"\0")


def _string(text: str) -> bytes:
    content = text.encode("utf-8")
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    """A value's type and bytes."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        head = struct.pack("<IIQ", ARRAY, STRING, len(value))
        return head + b"".join(map(_string, value))
    if isinstance(value, list | tuple | np.ndarray):
        numbers = _typed(np.asarray(value), np.int32)
        head = struct.pack("<IIQ", ARRAY, TYPE_OF_SCALAR[numbers.dtype], numbers.size)
        return head + numbers.tobytes()
    is_typed = isinstance(value, np.generic)
    number = np.asarray(value) if is_typed else _typed(np.asarray(value), np.uint32)
    return struct.pack("<I", TYPE_OF_SCALAR[number.dtype]) + number.tobytes()


def _typed(numbers: np.ndarray[Any, Any], whole: type[np.integer[Any]]) -> np.ndarray[Any, Any]:
    """Python's numbers in GGUF's usual width: float32, and `whole` where they all fit it."""
    if numbers.dtype == np.float64:
        return numbers.astype(np.float32)
    limits = np.iinfo(whole)
    if numbers.dtype == np.int64 and ((numbers >= limits.min) & (numbers <= limits.max)).all():
        return numbers.astype(whole)
    return numbers


def _write_file(
    path: Path, header: bytes, tensors: Sequence[PlannedTensor], advance: Callable[[int], Any]
) -> None:
    with path.open("wb") as file:
        file.write(header)
        for tensor in tensors:
            _write_tensor(file, tensor, advance)
        file.flush()
        os.fsync(file.fileno())


def _write_tensor(file: BinaryIO, tensor: PlannedTensor, advance: Callable[[int], Any]) -> None:
    written = 0
    for part in tensor.parts():
        file.write(part.data)
        written += part.size
        advance(part.size)
    if written != tensor.nbytes:
        raise CheckpointError(f"{tensor.name} took {written} bytes instead of {tensor.nbytes}")
    file.write(b"\0" * (padded(written, DEFAULT_ALIGNMENT) - written))
