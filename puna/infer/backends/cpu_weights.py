"""A model's weights packed for the C++ kernels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from puna import hardware
from puna.console import Progress, untold
from puna.errors import MachineError
from puna.infer.backends.packed_memory import anonymous_memory, file_memory
from puna.native import kernels
from puna.native.packed import Bytes, PackedMatrix, pack, packed_size, padded
from puna.weights.gguf_types import TYPES
from puna.weights.packed_cache import PackedCache, header_of
from puna.weights.source import FloatArray, ModelSource, StoredTensor, narrowed

ALIGNMENT = 64
SMALLEST_KEPT_BYTES = 32 << 20  # less is packed in 0.1 s
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


def load_weights(
    source: ModelSource,
    threads: int,
    cache: PackedCache | None = None,
    progress: Progress = untold,
) -> PackedWeights:
    """The packed weights of `source` from the cache's file, else packed now and kept there.

    What hinders the cache is a note, no error. Raises CheckpointError for weights that are not
    finite, MachineError where memory lacks.
    """
    cache = cache or PackedCache()
    places, size = plan(source)
    largest = max(stored.nbytes for stored in source.tensors.values())
    hardware.require_memory(size + largest, f"{source.path}, its weights packed,")
    if size < SMALLEST_KEPT_BYTES or not cache.limit_bytes:
        return pack_weights(source, threads, progress)
    try:
        header = header_of(source, layout_of(places))
    except MachineError as error:
        weights = pack_weights(source, threads, progress)
        return _noted(weights, f"packed weights are not kept: {error.message}")
    path, notes = cache.path_of(source, header), []
    try:
        descriptor = cache.open(path, header, size)
        if descriptor is not None:
            try:
                memory = file_memory(descriptor, len(header), size, threads, progress=progress)
                return _weights(source, places, memory)
            finally:
                os.close(descriptor)
    except MachineError as error:
        notes.append(f"the weights are packed anew: {error.message}")
    weights = pack_weights(source, threads, progress)
    try:
        cache.store(path, header, weights.memory, progress)
    except MachineError as error:
        notes.append(f"packed weights are not kept: {error.message}")
    return _noted(weights, *notes)


def _noted(weights: PackedWeights, *notes: str) -> PackedWeights:
    return replace(weights, notes=(*weights.notes, *notes))


def pack_weights(source: ModelSource, threads: int, progress: Progress = untold) -> PackedWeights:
    """Pack all matrices of `source`, one after the other. Nothing is rounded.

    Raises CheckpointError for weights that are not finite.
    """
    places, size = plan(source)
    memory = anonymous_memory(size)
    for name, place in places.items():
        progress("packing weights", place.offset, size)
        _pack_one(source, name, place, memory, threads)
    return _weights(source, places, memory)


def _pack_one(source: ModelSource, name: str, place: Place, memory: Bytes, threads: int) -> None:
    """In a function of its own, so that no two tensors' bytes are held at once."""
    out = memory[place.offset : place.offset + place.nbytes]
    rows = stored_rows(source, name, place)
    pack(place.dtype, rows, place.inputs, out, threads, where=f"{source.path}: {name}")


def _weights(source: ModelSource, places: Mapping[str, Place], memory: Bytes) -> PackedWeights:
    number = kernels.extension().packed_format
    matrices = {
        name: PackedMatrix(
            memory[place.offset : place.offset + place.nbytes],
            place.outputs,
            place.inputs,
            number(place.dtype),
        )
        for name, place in places.items()
    }
    return PackedWeights(memory, matrices, read_norms(source), unpacked_notes(source, places))


def layout_of(places: Mapping[str, Place]) -> str:
    """A hash of where all matrices lie, and of how these kernels pack each of their types.

    Kernels that pack otherwise make another hash, without a version that someone must raise.
    """
    whole = hashlib.sha256(repr(sorted(places.items())).encode())
    for dtype in sorted({place.dtype for place in places.values()}):
        outputs, inputs = 64, 512
        row_bytes = TYPES[dtype].row_bytes(inputs)
        # Bytes below 59: as any float's upper byte, of a finite number.
        rows = (np.arange(outputs * row_bytes) * 37 % 59).astype(np.uint8).reshape(outputs, -1)
        out = anonymous_memory(packed_size(dtype, outputs, inputs) or 0)
        pack(dtype, rows, inputs, out, 1)
        whole.update(out.data)
    return whole.hexdigest()


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
