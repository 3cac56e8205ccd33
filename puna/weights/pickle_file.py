"""torch's .pth and .bin files without torch: names and tensors out of a zip, and no code ever run.

Read are the zip files that torch.save writes since torch 1.6: a dict of names to tensors. The
zip's members are read by `pickle_zip`, the pickle by `pickle_machine`; here a tensor is held
against the bytes that are there. The format before it and TorchScript archives are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError
from puna.weights.pickle_machine import StorageRecord, TensorRecord, run
from puna.weights.pickle_zip import HINT, StoredZip
from puna.weights.source import FloatArray, as_float32
from puna.weights.untrusted import opened, shown

NUMPY_TYPES = {
    "F32": "f4",
    "F16": "f2",
    "BF16": "u2",  # its bits
    "F64": "f8",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "u1",
}
EMPTY_LIMIT = 2**31  # what the other dimensions of an empty tensor may come to
_BYTE_ORDERS: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}


@dataclass(frozen=True)
class PickledTensor:
    """One tensor of an opened file, not read yet; it is known to lie within its storage."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as GGUF spells it: F32, F16, BF16, F64, I64, ...; also U8 and BOOL
    _zip: StoredZip
    _member: str
    _record: TensorRecord
    _order: Literal["<", ">"]

    @property
    def nbytes(self) -> int:
        """Bytes of its values, without what else its storage may hold."""
        return math.prod(self.shape) * np.dtype(NUMPY_TYPES[self.dtype]).itemsize

    def array(self) -> npt.NDArray[Any]:
        """Its values as they are stored, rows first, in this machine's order; BF16 as uint16.

        Raises CheckpointError where the bytes are gone or have another CRC.
        """
        native = np.dtype(NUMPY_TYPES[self.dtype])
        kind, width = native.newbyteorder(self._order), native.itemsize
        first, last = self._record.offset, _last(self._record)
        values = self._zip.array(self._member, first * width, (last - first + 1) * width)
        steps = zip(self.shape, self._record.strides, strict=True)
        strides = [stride * width if size > 1 else 0 for size, stride in steps]
        view = np.lib.stride_tricks.as_strided(values.view(kind), self.shape, strides)
        return np.ascontiguousarray(view, dtype=native).reshape(self.shape)

    def read(self) -> FloatArray:
        """Its values in float32.

        Raises CheckpointError where they are gone, damaged, not finite or whole numbers.
        """
        return as_float32(self.array(), self.dtype, f"{self._zip.path}: {shown(self.name)}")

    def is_twin_of(self, other: PickledTensor) -> bool:
        """Whether both have the same bytes, as tied weights do: by size and CRC, not read."""
        mine, theirs = self._zip.members[self._member], other._zip.members[other._member]
        view = replace(self._record, storage=other._record.storage)
        same_storage = (mine.size, mine.crc) == (theirs.size, theirs.crc)
        return same_storage and self.dtype == other.dtype and view == other._record


def open_pickle(path: Path) -> Mapping[str, PickledTensor]:
    """The tensors of a .pth or .bin file by their names, in the file's order; none is read yet.

    Raises CheckpointError with file and offset when it is not a zip file of torch.save, is
    damaged, describes anything but names and tensors, or a tensor that its bytes do not hold.
    """
    _require_zip(path)
    archive = StoredZip(path)
    root = _root(archive)
    order = _byte_order(archive, root)
    found = run(archive.content(f"{root}/data.pkl"), path)
    if type(found) is not dict:
        raise _not_tensors(path, f"found a {type(found).__name__}")
    tensors: dict[str, PickledTensor] = {}
    dtypes: dict[str, str] = {}
    for name, record in found.items():
        if type(record) is not TensorRecord:
            raise _not_tensors(path, f"{shown(name)} is a {type(record).__name__}")
        where = f"{path}: {shown(name)}"
        member = f"{root}/data/{record.storage.key}"
        _check_storage(archive, member, record.storage, where)
        if dtypes.setdefault(member, record.storage.dtype) != record.storage.dtype:
            raise CheckpointError(f"{where} reads {shown(member)} as another type", hint=HINT)
        _check_view(record, where)
        dtype = record.storage.dtype
        tensors[name] = PickledTensor(name, record.shape, dtype, archive, member, record, order)
    return tensors


def _require_zip(path: Path) -> None:
    """Raises CheckpointError unless a regular file is there that begins as a zip file does."""
    with opened(path, "be a zip file of torch.save") as file:
        head = file.read(512)
    if head[:4] == b"PK\3\4":
        return
    found, hint = "something else", "the file is damaged, or no weights of torch at all"
    if head[:1] == b"\x80":
        found = "the format before torch 1.6 (a bare pickle)"
        hint = "load it with torch.load(..., weights_only=True) and torch.save it again"
    elif head[257:262] == b"ustar":
        found = "a tar file, torch's format before 0.1.10"
        hint = "load it with torch and torch.save it again"
    elif not head:
        found = "an empty file"
    raise CheckpointError(
        f"{path}: byte 0: a zip file of torch.save should begin, found {found}", hint=hint
    )


def _root(archive: StoredZip) -> str:
    """The one folder that all members lie in."""
    roots = {name.partition("/")[0] for name in archive.members}
    if len(roots) != 1:
        raise CheckpointError(
            f"{archive.path}: all members should lie in one folder, found {len(roots)}", hint=HINT
        )
    root = roots.pop()
    if f"{root}/constants.pkl" in archive.members:
        raise CheckpointError(
            f"{archive.path} is a TorchScript program, not weights",
            hint="load it with torch.jit.load and torch.save its state_dict()",
        )
    if f"{root}/data.pkl" not in archive.members:
        raise CheckpointError(
            f"{archive.path} should hold {shown(root)}/data.pkl, it does not", hint=HINT
        )
    return root


def _byte_order(archive: StoredZip, root: str) -> Literal["<", ">"]:
    """numpy's sign for the byte order; torch before 2.1 did not write one and meant little."""
    name = f"{root}/byteorder"
    if name not in archive.members:
        return "<"
    size = archive.members[name].size
    order = _BYTE_ORDERS.get(archive.content(name) if size <= 8 else b"")
    if order is None:
        raise CheckpointError(f"{archive.path}: {name} should be little or big", hint=HINT)
    return order


def _check_storage(archive: StoredZip, member: str, storage: StorageRecord, where: str) -> None:
    if member not in archive.members:
        raise CheckpointError(f"{where} lies in {shown(member)}, which is missing", hint=HINT)
    wanted = storage.count * np.dtype(NUMPY_TYPES[storage.dtype]).itemsize
    found = archive.members[member].size
    if found != wanted:
        raise CheckpointError(
            f"{where}: {shown(member)} should hold {storage.count} numbers of {storage.dtype}, "
            f"{wanted} bytes, found {found}",
            hint=HINT,
        )


def _check_view(record: TensorRecord, where: str) -> None:
    """Raises CheckpointError unless each number of the tensor lies in its storage, and once.

    Strides that step over everything the smaller ones reach never meet a number twice; so a
    tensor can never be bigger than its storage.
    """
    shape = f"{where}: shape {list(record.shape)} with strides {list(record.strides)}"
    if 0 in record.shape and math.prod(size or 1 for size in record.shape) > EMPTY_LIMIT:
        raise CheckpointError(f"{shape} cannot be", hint=HINT)
    reach = 0
    for stride, size in sorted(zip(record.strides, record.shape, strict=True)):
        if size > 1 and stride <= reach and 0 not in record.shape:
            raise CheckpointError(f"{shape} would read numbers twice", hint=HINT)
        reach += max(0, size - 1) * stride
    last, count = _last(record), record.storage.count
    if last >= count:
        found = f"from number {record.offset} would end at number {last} of {count}"
        raise CheckpointError(f"{shape} {found}", hint=HINT)


def _last(record: TensorRecord) -> int:
    """The number of the storage that the tensor ends with; before its offset where it is empty."""
    if 0 in record.shape:
        return record.offset - 1
    steps = zip(record.shape, record.strides, strict=True)
    return record.offset + sum((size - 1) * stride for size, stride in steps)


def _not_tensors(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} should hold a dict of names and tensors, {found}",
        hint="load it with torch and torch.save the state_dict() inside alone",
    )
