"""Random models in memory whose matrices are of many GGUF types, in blocks of any bits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from puna.model.sizes import ModelConfig
from puna.model.twin import numpy_shape
from puna.native.numpy_llama import KvCache, NumpyLlama
from puna.weights.gguf_blocks import dequantize
from puna.weights.gguf_types import TYPES
from puna.weights.source import Format, StoredTensor, TokenizerFiles, narrowed, tensor_names

PLAIN = ("F32", "F16", "BF16")
# Where a block has its float16 scale and its minimum, and what minimum centres its random codes.
SCALES = {
    "Q4_0": (0, None, 0.0),
    "Q4_1": (0, 2, -7.5),
    "Q5_0": (0, None, 0.0),
    "Q5_1": (0, 2, -15.5),
    "Q8_0": (0, None, 0.0),
    "Q2_K": (80, 82, 1.5),
    "Q3_K": (108, None, 0.0),
    "Q4_K": (0, 2, 7.5),
    "Q5_K": (0, 2, 15.5),
    "Q6_K": (208, None, 0.0),
}
PACKED_TYPES = (*PLAIN, *SCALES)
# Neighbours in a model differ; the plain types stand apart, so that most products meet one.
MIXTURE = ("F32", "Q4_0", "Q8_0", "Q6_K", "BF16", "Q4_1", "Q4_K", "F16", "Q5_0", "Q5_1", "Q2_K",
           "Q3_K", "Q5_K")  # fmt: skip


def random_rows(
    dtype: str, shape: tuple[int, int], random: np.random.Generator, size: float = 0.05
) -> np.ndarray:
    """Rows [outputs, bytes] of a type: every code as likely as any other, about `size` large."""
    outputs, inputs = shape
    if dtype in PLAIN:
        values = random.normal(0, size, shape).astype(np.float32)
        return narrowed(values, dtype, dtype).view(np.uint8).reshape(outputs, -1)
    kind = TYPES[dtype]
    count = outputs * inputs // kind.block_values
    blocks = random.integers(0, 256, (count, kind.block_bytes), dtype=np.uint8)
    scales = np.ones(count)
    put_scales(blocks, dtype, scales)
    scales *= size / dequantize(blocks.reshape(-1), dtype).std()
    put_scales(blocks, dtype, scales * random.uniform(0.5, 1.5, count) * random.choice([-1, 1]))
    return blocks.reshape(outputs, -1)


def put_scales(blocks: np.ndarray, dtype: str, scales: np.ndarray) -> None:
    """Give blocks their scales, and the minima that centre them."""
    scale, minimum, factor = SCALES[dtype]
    blocks[:, scale : scale + 2] = scales.astype(np.float16)[:, None].view(np.uint8)
    if minimum is not None:
        minima = (scales.astype(np.float16) * factor).astype(np.float16)
        blocks[:, minimum : minimum + 2] = minima[:, None].view(np.uint8)


@dataclass(frozen=True)
class MixedSource:
    """A ModelSource; `rows` holds each tensor's bytes."""

    config: ModelConfig
    tensors: dict[str, StoredTensor]
    rows: dict[str, np.ndarray]
    path: Path = Path("mixed")
    format: Format = "gguf"
    tokenizer_files: TokenizerFiles = field(default_factory=lambda: TokenizerFiles(Path("mixed")))
    notes: tuple[str, ...] = ()

    def read(self, name: str) -> np.ndarray:
        stored = self.tensors[name]
        return dequantize(self.rows[name].reshape(-1), stored.dtype).reshape(stored.shape)

    def raw(self, name: str) -> np.ndarray | None:
        return self.rows[name].reshape(-1)


def mixed_source(
    config: ModelConfig, types: Sequence[str] = MIXTURE, *, size: float | None = None, seed: int = 0
) -> MixedSource:
    """A model whose matrices take `types` in turn, where whole blocks fit into their rows.

    Sums of products keep the size of what goes in, unless another `size` of weights is given.
    """
    random = np.random.default_rng(seed)
    turns = itertools.cycle(types)
    tensors, rows = {}, {}
    for name, shape in tensor_names(config).items():
        if len(shape) == 1:
            dtype = "F32"
            rows[name] = random.normal(1, 0.2, shape).astype(np.float32).view(np.uint8)
        else:
            dtype = next(one for one in turns if shape[1] % TYPES[one].block_values == 0)
            large = size or (1.0 if name.startswith("tok_") else shape[1] ** -0.5)
            rows[name] = random_rows(dtype, shape, random, large)
        tensors[name] = StoredTensor(name, shape, dtype, rows[name].nbytes)
    return MixedSource(config, tensors, rows)


def twin_logits(source: MixedSource, ids: np.ndarray) -> np.ndarray:
    """Logits [time, vocabulary] after each id, by the NumPy twin."""
    arrays = {name: source.read(name) for name in source.tensors}
    twin = NumpyLlama(numpy_shape(source.config), arrays)
    return twin.logits(twin.hidden([(KvCache(twin.shape, len(ids)), ids)]))
