"""Which type each tensor gets in a GGUF file: llama.cpp's mixtures, and what fits no block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from puna.config import nearest
from puna.errors import UsageError
from puna.model.sizes import ModelConfig
from puna.weights.gguf_blocks import WRITES
from puna.weights.gguf_types import TYPES
from puna.weights.source import StoredTensor

_KEEP = ("F32", "F16", "BF16")
# Where rows are no whole superblocks of 256, llama.cpp takes the next larger type of blocks of 32.
_WITHOUT_SUPERBLOCKS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
_FILE_TYPES = {  # llama.cpp's numbers for a file that is mostly of one type
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q2_K": 10,
    "Q3_K": 12,
    "Q4_K": 15,
    "Q5_K": 17,
    "Q6_K": 18,
    "BF16": 32,
}


@dataclass(frozen=True)
class Mixture:
    """Each tensor's type by Meta's name, what is not as asked for, and llama.cpp's file number."""

    types: Mapping[str, str]
    notes: tuple[str, ...]
    file_type: int | None


def mixture(config: ModelConfig, tensors: Mapping[str, StoredTensor], dtype: str | None) -> Mixture:
    """The types for a file of type `dtype` (any case), None for the types as they are stored.

    Norms are F32. Raises UsageError for a type that Puna does not write.
    """
    base = dtype.upper() if dtype is not None else None
    if base is not None and base not in WRITES:
        names = [name.lower() for name in WRITES]
        hint = nearest(base.lower(), names)
        raise UsageError(f"GGUF has no type {dtype!r} that Puna writes", hint=hint)
    wished = {name: _wished(name, one, config, base) for name, one in tensors.items()}
    types = {name: _fitting(wish, tensors[name].shape[-1]) for name, wish in wished.items()}
    matrices = [name for name, one in tensors.items() if len(one.shape) > 1]
    most_common = Counter(types[name] for name in matrices).most_common(1)[0][0]
    return Mixture(
        types=types,
        notes=(*_misfits(wished, types, tensors), *_losses(types, tensors)),
        file_type=_FILE_TYPES.get(base or most_common),
    )


def _wished(name: str, stored: StoredTensor, config: ModelConfig, base: str | None) -> str:
    """The type that llama.cpp gives a tensor in a file of type `base`, if its rows fit it."""
    if len(stored.shape) == 1:
        return "F32"
    if base is None:
        return "F32" if stored.dtype == "F64" else stored.dtype
    is_output = name == ("tok_embeddings.weight" if config.tied_embeddings else "output.weight")
    if is_output and base not in (*_KEEP, "Q8_0"):
        return "Q6_K"
    if base == "Q4_K" and name.endswith(("attention.wv.weight", "feed_forward.w2.weight")):
        layer = int(name.split(".")[1])
        eighth = config.layers // 8
        is_first_or_last = layer < eighth or layer >= 7 * config.layers // 8
        return "Q6_K" if is_first_or_last or (layer - eighth) % 3 == 2 else "Q4_K"
    return base


def _fitting(wish: str, columns: int) -> str:
    """`wish`, or the nearest type whose blocks divide a row."""
    for name in (wish, _WITHOUT_SUPERBLOCKS.get(wish, wish)):
        if columns % TYPES[name].block_values == 0:
            return name
    return "F16"


def _misfits(
    wished: Mapping[str, str], types: Mapping[str, str], tensors: Mapping[str, StoredTensor]
) -> list[str]:
    counts = Counter(
        (wished[name], types[name], tensors[name].shape[-1])
        for name in types
        if types[name] != wished[name]
    )
    return [
        f"{given} instead of {wish} for {_tensors(count)}: rows of {columns} values are no whole "
        f"blocks of {TYPES[wish].block_values}"
        for (wish, given, columns), count in counts.items()
    ]


def _losses(types: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Where blocks are made of what blocks had left."""
    counts = Counter(
        (stored.dtype, types[name])
        for name, stored in tensors.items()
        if stored.dtype not in (*_KEEP, "F64", types[name]) and types[name] not in _KEEP
    )
    return [
        f"{new} made of {old} for {_tensors(count)}: what {old} lost stays lost"
        for (old, new), count in counts.items()
    ]


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"
