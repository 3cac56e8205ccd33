"""How GGUF packs numbers: each type's id in a file, and how many values a block of it holds.

The names, ids and sizes are facts of the format, as ggml defines them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.weights.source import FloatArray, narrowed


@dataclass(frozen=True)
class BlockType:
    """One way to store a row of numbers: `block_bytes` for every `block_values` of them."""

    name: str
    id: int
    block_values: int
    block_bytes: int

    def row_bytes(self, values: int) -> int:
        """Bytes of a row; `values` must be whole blocks."""
        return values // self.block_values * self.block_bytes


_TABLE = (
    ("F32", 0, 1, 4),
    ("F16", 1, 1, 2),
    ("Q4_0", 2, 32, 18),
    ("Q4_1", 3, 32, 20),
    ("Q5_0", 6, 32, 22),
    ("Q5_1", 7, 32, 24),
    ("Q8_0", 8, 32, 34),
    ("Q2_K", 10, 256, 84),
    ("Q3_K", 11, 256, 110),
    ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176),
    ("Q6_K", 14, 256, 210),
    ("IQ2_XXS", 16, 256, 66),
    ("IQ2_XS", 17, 256, 74),
    ("IQ3_XXS", 18, 256, 98),
    ("IQ1_S", 19, 256, 50),
    ("IQ4_NL", 20, 32, 18),
    ("IQ3_S", 21, 256, 110),
    ("IQ2_S", 22, 256, 82),
    ("IQ4_XS", 23, 256, 136),
    ("I8", 24, 1, 1),
    ("I16", 25, 1, 2),
    ("I32", 26, 1, 4),
    ("I64", 27, 1, 8),
    ("F64", 28, 1, 8),
    ("IQ1_M", 29, 256, 56),
    ("BF16", 30, 1, 2),
    ("TQ1_0", 34, 256, 54),
    ("TQ2_0", 35, 256, 66),
    ("MXFP4", 39, 32, 17),
    ("NVFP4", 40, 64, 36),
    ("Q1_0", 41, 128, 18),
)
TYPES = {row[0]: BlockType(*row) for row in _TABLE}
TYPE_OF_ID = {one.id: one for one in TYPES.values()}


def half(scales: FloatArray) -> npt.NDArray[np.float16]:
    """The scales of blocks as float16. Raises CheckpointError when one is too large for it."""
    return narrowed(scales, "F16", "a block's scale")


def inverse(scale: FloatArray) -> FloatArray:
    """1 / scale; 0 where `scale` is 0 or too small for its inverse to be a float32."""
    inverted = np.float32(1) / scale
    return np.where(np.isfinite(inverted), inverted, np.float32(0))
