"""llama2.c's .bin, version 0: seven numbers, then the weights in float32, nothing else.

The header is dim, hidden_dim, layers, heads, kv_heads, vocabulary and context as 32-bit integers; a
negative vocabulary says that the output has a table of its own. The weights follow kind by kind,
each for all layers; two tables of rotary angles before the output are computed, not learned.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from puna.errors import CheckpointError
from puna.model.sizes import ModelConfig
from puna.weights.source import (
    Bytes,
    FloatArray,
    Format,
    StoredTensor,
    TokenizerFiles,
    require_finite,
    tensor_names,
)
from puna.weights.untrusted import mapped, opened, shape_of

HEADER = struct.Struct("<7i")
_FIELDS = (
    "dim",
    "hidden_dim",
    "layers",
    "heads",
    "kv_heads",
    "vocabulary_size",
    "context_length",
)
_NEWER_MAGIC = 0x616B3432  # "ak42": versions 1 and 2
_KINDS = (  # in the file's order, each for all layers
    "attention_norm",
    "attention.wq",
    "attention.wk",
    "attention.wv",
    "attention.wo",
    "ffn_norm",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
)


@dataclass(frozen=True)
class Llama2cModel:
    """An opened .bin file; see ModelSource. Made by `open_llama2c`."""

    path: Path
    config: ModelConfig
    tensors: dict[str, StoredTensor]
    tokenizer_files: TokenizerFiles
    offsets: dict[str, int]  # byte at which each tensor begins
    format: Format = "llama2c"
    notes: tuple[str, ...] = ()

    def read(self, name: str) -> FloatArray:
        """The tensor in float32. Raises CheckpointError when it is gone or not finite."""
        stored = self.tensors[name]
        values = self._bytes(stored).view("<f4").astype(np.float32, copy=False)
        return require_finite(values.reshape(stored.shape), f"{self.path}: {name}")

    def raw(self, name: str) -> Bytes | None:
        """Its bytes as they lie: rows of float32, little-endian."""
        return self._bytes(self.tensors[name])

    def _bytes(self, stored: StoredTensor) -> Bytes:
        return mapped(self.path, self.offsets[stored.name], stored.nbytes, stored.name)


def open_llama2c(path: Path) -> Llama2cModel:
    """The model in a llama2.c file of version 0; the header is read, no tensor.

    Raises CheckpointError when it is of another version, or its size is not what the header says.
    """
    with opened(path, "be a file of llama2.c") as file:
        header = file.read(HEADER.size)
        file_size = file.seek(0, 2)
    config = _config(header, path)
    wanted = _file_bytes(config)
    if wanted != file_size:
        raise CheckpointError(
            f"{path}: by its header it should have {wanted} bytes, it has {file_size}",
            hint="the file is cut off or damaged, or no model of llama2.c; copy it again",
        )
    tensors = {
        name: StoredTensor(name, shape, "F32", 4 * math.prod(shape))
        for name, shape in tensor_names(config).items()
    }
    return Llama2cModel(path, config, tensors, _tokenizer(path, config), _offsets(config))


def _config(header: bytes, path: Path) -> ModelConfig:
    if len(header) < HEADER.size:
        raise CheckpointError(
            f"{path}: byte 0: a header of {HEADER.size} bytes should begin, found {len(header)}",
            hint="the file is cut off; copy or download it again",
        )
    fields = dict(zip(_FIELDS, HEADER.unpack(header), strict=True))
    if fields["dim"] == _NEWER_MAGIC:
        raise CheckpointError(
            f"{path}: byte 0: version 0 of llama2.c's format should begin, found version "
            f"{fields['hidden_dim']}",
            hint="export it as version 0: python export.py model.bin --version 0",
        )
    tied = fields["vocabulary_size"] > 0
    fields["vocabulary_size"] = abs(fields["vocabulary_size"])
    for index, (name, value) in enumerate(fields.items()):
        if value < 1:
            raise CheckpointError(
                f"{path}: byte {4 * index}: {name} should be at least 1, found {value}",
                hint="this is no model of llama2.c, or it is damaged",
            )
    with shape_of(path):
        return ModelConfig(**fields, tied_embeddings=tied)


def _file_bytes(config: ModelConfig) -> int:
    """How long the file must be; counted without a list of the layers it merely claims."""
    one_layer = tensor_names(replace(config, layers=1))
    values = sum(
        math.prod(shape) * (config.layers if name.startswith("layers.") else 1)
        for name, shape in one_layer.items()
    )
    return HEADER.size + 4 * values + _rotary_bytes(config)


def _rotary_bytes(config: ModelConfig) -> int:
    """Cosines and sines of every position and pair."""
    return 4 * config.context_length * config.head_dim


def _offsets(config: ModelConfig) -> dict[str, int]:
    """The byte at which each tensor begins."""
    shapes = tensor_names(config)
    names = [f"layers.{layer}.{kind}.weight" for kind in _KINDS for layer in range(config.layers)]
    offsets, position = {}, HEADER.size
    for name in ("tok_embeddings.weight", *names, "norm.weight"):
        offsets[name] = position
        position += 4 * math.prod(shapes[name])
    if not config.tied_embeddings:
        offsets["output.weight"] = position + _rotary_bytes(config)
    return offsets


def _tokenizer(path: Path, config: ModelConfig) -> TokenizerFiles:
    """llama2.c names its tokenizers tokenizer.bin, or tok512.bin by the size of the vocabulary."""
    for name in (f"tok{config.vocabulary_size}.bin", "tokenizer.bin", "tokenizer.model"):
        if path.with_name(name).is_file():
            return TokenizerFiles(path.parent, {name: path.with_name(name)})
    return TokenizerFiles(path.parent)
