"""A model as it lies on disk, whatever the format: its shape, its tensors, its tokenizer's files.

Every format has one module with `open_<format>(path)`, which reads headers and checks them, and
most have `write_<format>(source, ...)`, which streams tensor by tensor. In between everything
speaks Meta's names and Meta's interleaved rotary order, so that each format knows only itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError
from puna.model.sizes import ModelConfig
from puna.whole_folder import require_room

Format = Literal["puna", "meta", "hf", "gguf", "llama2c"]
FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
EMBEDDING, OUTPUT = "tok_embeddings.weight", "output.weight"
WIDTHS = {"F16": 2, "BF16": 2, "F32": 4}  # bytes of the types that are written without blocks
FLOATS = (*WIDTHS, "F64")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies in a file: rows first, whatever the file's own order of dimensions."""

    name: str  # Meta's
    shape: tuple[int, ...]
    dtype: str  # as GGUF spells it: F32, F16, BF16, F64, Q4_0, Q6_K, ...
    nbytes: int


@dataclass(frozen=True)
class TokenizerFiles:
    """What the format holds of a tokenizer: files by their names, or GGUF's metadata, or neither.

    `root` says where they came from, for messages.
    """

    root: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    gguf: Mapping[str, Any] | None = None


class ModelSource(Protocol):
    """An opened model. Opening reads no tensor; `read` reads one."""

    @property
    def path(self) -> Path: ...

    @property
    def format(self) -> Format: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...  # Meta's order; a tied one has no output

    @property
    def tokenizer_files(self) -> TokenizerFiles: ...

    @property
    def notes(self) -> tuple[str, ...]: ...  # what a user should know: ignored keys, a cut context

    def read(self, name: str) -> FloatArray:
        """The tensor in float32, q and k in Meta's interleaved order.

        Raises CheckpointError when its bytes are missing, or its values are not finite.
        """
        ...

    def raw(self, name: str) -> Bytes | None:
        """Its bytes as they lie, where they are in Meta's order of rows; None where not.

        With it a writer keeps quantised blocks as they are.
        """
        ...


def tensor_names(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Meta's names of all weights of a LLaMA with their shapes, in the order of the layers."""
    dim, hidden = config.dim, config.ffn_dim
    kv_dim = config.kv_head_count * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (config.vocabulary_size, dim)}
    for layer in range(config.layers):
        for name, shape in (
            ("attention.wq", (dim, dim)),
            ("attention.wk", (kv_dim, dim)),
            ("attention.wv", (kv_dim, dim)),
            ("attention.wo", (dim, dim)),
            ("feed_forward.w1", (hidden, dim)),
            ("feed_forward.w2", (dim, hidden)),
            ("feed_forward.w3", (hidden, dim)),
            ("attention_norm", (dim,)),
            ("ffn_norm", (dim,)),
        ):
            shapes[f"layers.{layer}.{name}.weight"] = shape
    shapes["norm.weight"] = (dim,)
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocabulary_size, dim)
    return shapes


def checked_tensors(
    config: ModelConfig,
    found: Mapping[str, StoredTensor],
    path: Path,
    *,
    dtypes: Collection[str] = FLOATS,
    theirs: Callable[[str], str] = str,
) -> dict[str, StoredTensor]:
    """`found` in Meta's order, once it is known to be all that a LLaMA of this shape has.

    `theirs` gives the format's own name of a weight, for messages. Raises CheckpointError for a
    weight that is missing, too much, of another shape, or of a type not among `dtypes`.
    """
    if config.layers > len(found):  # before a list of so many is made
        raise CheckpointError(
            f"{path} tells of {config.layers} layers, the weights are {len(found)} tensors in all"
        )
    wanted = tensor_names(config)
    for name in [*wanted, *sorted(found.keys() - wanted.keys())]:
        shapes = wanted.get(name), found[name].shape if name in found else None
        if shapes[0] != shapes[1]:
            told = ["nothing" if one is None else f"the shape {list(one)}" for one in shapes]
            is_output = name == OUTPUT and shapes[1] is None
            raise CheckpointError(
                f"{path}: {theirs(name)} should have {told[0]}, found {told[1]}",
                hint="if the model shares its embedding, tie_word_embeddings should be true"
                if is_output
                else "what tells the shape must be what came with these weights",
            )
        if found[name].dtype not in dtypes:
            raise CheckpointError(
                f"{path}: {theirs(name)} should hold weights, found {found[name].dtype}",
                hint=f"read are {', '.join(dtypes)}",
            )
    return {name: found[name] for name in wanted}


def require_finite(values: FloatArray, where: str) -> FloatArray:
    """`values` as they are. Raises CheckpointError for NaN and infinity, which no weight is."""
    if not np.isfinite(values).all():
        count = values.size - int(np.isfinite(values).sum())
        raise CheckpointError(
            f"{where}: its values should be finite, {count} of {values.size} are NaN or infinite",
            hint="the weights are damaged, or overflowed when they were written; get them again",
        )
    return values


def require_room_for_weights(folder: Path, needed: int) -> None:
    """Raise MachineError unless a converted model of `needed` bytes fits on `folder`'s disk."""
    hint = "choose a folder on another disk, or a smaller --dtype"
    require_room(folder, needed, "the model", hint=hint)


def bf16_to_float32(bits: npt.NDArray[np.uint16]) -> FloatArray:
    """bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16  # in place: an embedding's temporaries would be what a conversion's memory peaks at
    return wide.view(np.float32)


def as_float32(stored: npt.NDArray[Any], dtype: str, where: str) -> FloatArray:
    """Numbers of type `dtype`, BF16 as uint16, in float32; `where` is for messages.

    Raises CheckpointError where one is not finite, and for whole numbers, which no weights are.
    """
    if dtype not in FLOATS:
        raise CheckpointError(f"{where} should hold floating-point weights, found {dtype}")
    if dtype == "BF16":
        return require_finite(bf16_to_float32(stored), where)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is told
        return require_finite(stored.astype(np.float32, copy=False), where)


def float32_to_bf16(values: FloatArray) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even, as hardware does; values must not be NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)


def written_type(stored: str, dtype: str | None) -> str:
    """F32, F16 or BF16: `dtype` (any case), or None for as stored and BF16 for what has blocks.

    Raises CheckpointError for any other.
    """
    if dtype is None:
        return stored if stored in WIDTHS else {"F64": "F32"}.get(stored, "BF16")
    if dtype.upper() not in WIDTHS:
        raise CheckpointError(
            f"Meta's and Hugging Face's formats hold f32, f16 or bf16, not {dtype}",
            hint="quantised: --to gguf",
        )
    return dtype.upper()


def planned_tensor(name: str, shape: tuple[int, ...], dtype: str) -> StoredTensor:
    """A tensor to be written as F32, F16 or BF16."""
    return StoredTensor(name, shape, dtype, WIDTHS[dtype] * math.prod(shape))


def narrowed(values: FloatArray, dtype: str, where: str) -> npt.NDArray[Any]:
    """`values` as F32, F16 or BF16 (as uint16) keeps them, each number rounded to the nearest.

    Raises CheckpointError where a number is too big for the type: float16 ends at 65,504.
    """
    if dtype == "F32":
        return np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "BF16":
        bits = float32_to_bf16(values)
        fits = bool(((bits & 0x7F80) != 0x7F80).all())
    else:
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        fits = bool(np.isfinite(half).all())
    if not fits:
        raise CheckpointError(
            f"{where} has numbers up to {float(np.abs(values).max()):.4g}, too big for {dtype}",
            hint="choose bf16 or f32" if dtype == "F16" else "choose f32",
        )
    return bits if dtype == "BF16" else half
