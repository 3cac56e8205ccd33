"""A model in memory that writers take as a source: arrays, and no file behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from puna.model.sizes import ModelConfig
from puna.weights.source import Format, StoredTensor, TokenizerFiles, tensor_names


@dataclass(frozen=True)
class MemorySource:
    """`arrays` in float32 under Meta's names; `dtype` is what they claim to be stored as."""

    config: ModelConfig
    arrays: dict[str, np.ndarray]
    dtype: str = "F32"
    path: Path = Path("memory")
    format: Format = "puna"
    tokenizer_files: TokenizerFiles = field(default_factory=lambda: TokenizerFiles(Path("memory")))
    notes: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        return {
            name: StoredTensor(name, shape, self.dtype, 4 * int(np.prod(shape)))
            for name, shape in tensor_names(self.config).items()
        }

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def raw(self, name: str) -> np.ndarray | None:
        return None
