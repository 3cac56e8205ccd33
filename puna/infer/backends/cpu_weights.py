"""A model's weights packed for the C++ kernels."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna import hardware
from puna.native.packed import Bytes, PackedMatrix, pack, packed_size, padded
from puna.weights.source import FloatArray, ModelSource, StoredTensor, narrowed

ALIGNMENT = 64
LAYER_MATRICES = (
    "attention.wq",
    "attention.wk",
    "attention.wv",
    "attention.wo",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
)


@dataclass(frozen=True)
class Place:
    """Where a matrix lies in the packed bytes, and the GGUF type it was packed from."""

    dtype: str
    outputs: int
    inputs: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class PackedWeights:
    """`matrices` by Meta's names, all in `memory`; norms padded to whole groups."""

    memory: Bytes
    matrices: Mapping[str, PackedMatrix]
    norms: Mapping[str, FloatArray]
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all packed matrices."""
        return self.memory.nbytes


def plan(source: ModelSource) -> tuple[dict[str, Place], int]:
    """Where each matrix goes, and how many bytes there are in all."""
    places: dict[str, Place] = {}
    end = 0
    for name, stored in source.tensors.items():
        if len(stored.shape) != 2:
            continue
        outputs, inputs = stored.shape
        dtype = packed_type(source, stored)
        nbytes = packed_size(dtype, outputs, inputs)
        assert nbytes is not None
        places[name] = Place(dtype, outputs, inputs, end, nbytes)
        end += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return places, end


def packed_type(source: ModelSource, stored: StoredTensor) -> str:
    """What a tensor is packed as: its own type where there is a packed form of it, else F32.

    A quantised tensor whose rows lie in another order than Meta's has to become F32 too.
    """
    is_plain = stored.dtype in ("F32", "F16", "BF16")
    packs = packed_size(stored.dtype, *stored.shape) is not None
    return stored.dtype if is_plain or (packs and source.raw(stored.name) is not None) else "F32"


def pack_weights(source: ModelSource, threads: int) -> PackedWeights:
    """Pack all matrices of `source`, one after the other. Nothing is rounded.

    Raises CheckpointError for weights that are not finite, MachineError where memory lacks.
    """
    places, size = plan(source)
    hardware.require_memory(size, f"{source.path}, its weights packed,")
    memory = anonymous_memory(size)
    matrices = {}
    for name, place in places.items():
        out = memory[place.offset : place.offset + place.nbytes]
        rows = stored_rows(source, name, place)
        matrices[name] = pack(
            place.dtype, rows, place.inputs, out, threads, where=f"{source.path}: {name}"
        )
    return PackedWeights(memory, matrices, read_norms(source), unpacked_notes(source, places))


def unpacked_notes(source: ModelSource, places: Mapping[str, Place]) -> tuple[str, ...]:
    """One note on the tensors that had to become float32, where there are any."""
    types = {source.tensors[name].dtype for name, place in places.items() if place.dtype == "F32"}
    types -= {"F32", "F64"}
    if not types:
        return ()
    return (f"the engine has no packed form of {', '.join(sorted(types))}: kept in float32",)


def stored_rows(source: ModelSource, name: str, place: Place) -> Bytes:
    """The rows of a matrix as its type's bytes [outputs, bytes], in Meta's order."""
    raw = source.raw(name) if place.dtype == source.tensors[name].dtype else None
    if raw is None:
        values: npt.NDArray[np.generic] = narrowed(source.read(name), place.dtype, name)
        raw = values.view(np.uint8)
    return np.ascontiguousarray(raw).reshape(place.outputs, -1)


def read_norms(source: ModelSource) -> dict[str, FloatArray]:
    """The norms' weights, padded."""
    return {
        name: padded(source.read(name))
        for name, stored in source.tensors.items()
        if len(stored.shape) == 1
    }


def anonymous_memory(size: int) -> Bytes:
    """Memory that begins on a page; huge pages are asked for: fewer misses of addresses.

    Private: of shared memory most systems make no huge pages (docs/log.md: decode 13 % faster).
    """
    pages = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)[:size]
