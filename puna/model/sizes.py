"""The shapes of the LLaMA family: the paper's four sizes (table 2) and small ones of our own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from puna.config import nearest
from puna.errors import ConfigError


@dataclass(frozen=True)
class RopeScaling:
    """How later LLaMAs stretch rotary positions beyond the trained context.

    `linear` divides every frequency by `factor`; `llama3` divides only the slow ones, blending
    between the two wavelengths that `low_frequency_factor` and `high_frequency_factor` set;
    `dynamic` raises theta by the sequence's length, from `original_context_length` on (there, at
    factor times that length, to about theta · factor²).
    """

    kind: Literal["linear", "dynamic", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context_length: int = 8192

    def __post_init__(self) -> None:
        if self.factor <= 0 or self.original_context_length < 1:
            raise ConfigError(
                "model.rope_scaling needs a factor above 0 and an original_context_length of at "
                f"least 1, got {self.factor} and {self.original_context_length}"
            )
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ConfigError(
                "model.rope_scaling.high_frequency_factor must be above low_frequency_factor, "
                f"got {self.high_frequency_factor} and {self.low_frequency_factor}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """One LLaMA shape. Fields left None are derived: see `kv_head_count` and `ffn_dim`."""

    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int | None = None  # fewer than heads: grouped-query attention (LLaMA 2 70B and later)
    vocabulary_size: int = 4096
    context_length: int = 256
    hidden_dim: int | None = None  # None: 2/3 * 4 * dim rounded up to multiple_of (paper 2.2)
    multiple_of: int = 64
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tied_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "heads", "vocabulary_size", "context_length", "multiple_of"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("norm_epsilon", "rope_theta"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"model.{name} must be above 0, got {getattr(self, name)}")
        if self.hidden_dim is not None and self.hidden_dim < 1:
            raise ConfigError(f"model.hidden_dim must be at least 1, got {self.hidden_dim}")
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ConfigError(
                f"model.dim must be heads times an even head size, got dim {self.dim} "
                f"and heads {self.heads}",
                hint="rotary embeddings turn pairs; try dim = 64 * heads",
            )
        if self.kv_head_count < 1 or self.heads % self.kv_head_count:
            raise ConfigError(f"model.kv_heads must divide heads {self.heads}, got {self.kv_heads}")
        scaling = self.rope_scaling
        if scaling is not None and scaling.kind == "dynamic" and self.head_dim < 4:
            raise ConfigError(
                f"dynamic model.rope_scaling needs heads of at least 4 values, got {self.head_dim}"
            )

    @property
    def head_dim(self) -> int:
        """Values in one attention head."""
        return self.dim // self.heads

    @property
    def unstretched_length(self) -> int:
        """How long a sequence may be before its length changes its turns: only `dynamic` does."""
        scaling = self.rope_scaling
        if scaling is None or scaling.kind != "dynamic":
            return self.context_length
        return min(self.context_length, scaling.original_context_length)

    @property
    def kv_head_count(self) -> int:
        """Heads of keys and values: `heads` unless grouped-query attention asks for fewer."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def ffn_dim(self) -> int:
        """The hidden size of SwiGLU: 2/3 * 4d, rounded up to a multiple (paper 2.2)."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        wanted = int(2 * 4 * self.dim / 3)
        return self.multiple_of * -(-wanted // self.multiple_of)


def _paper(dim: int, heads: int, layers: int, norm_epsilon: float = 1e-6) -> ModelConfig:
    return ModelConfig(
        dim=dim,
        heads=heads,
        layers=layers,
        vocabulary_size=32000,
        context_length=2048,
        multiple_of=256,
        norm_epsilon=norm_epsilon,
    )


def _small(dim: int, heads: int, layers: int, context_length: int = 1024) -> ModelConfig:
    return ModelConfig(
        dim=dim,
        heads=heads,
        layers=layers,
        vocabulary_size=32000,
        context_length=context_length,
    )


# Paper sizes: table 2, with the release's norm_eps. Small ones are ours; up to 110M they are tied:
# the two tables would be 37 % of the 110M shape's weights, and three quarters of the 15M shape's.
SIZES: dict[str, ModelConfig] = {
    "3M": replace(_small(192, 3, 5, 256), vocabulary_size=4096, tied_embeddings=True),
    "15M": replace(_small(288, 6, 6, 256), tied_embeddings=True),
    "42M": replace(_small(512, 8, 8), tied_embeddings=True),
    "110M": replace(_small(768, 12, 12), tied_embeddings=True),
    "350M": _small(1024, 16, 24),
    "1B": _small(2048, 32, 18, 2048),
    "7B": _paper(4096, 32, 32),
    "13B": _paper(5120, 40, 40),
    "33B": _paper(6656, 52, 60),
    "65B": _paper(8192, 64, 80, norm_epsilon=1e-5),
}
ALIASES = {"30B": "33B", "6.7B": "7B", "13.0B": "13B", "32.5B": "33B", "65.2B": "65B"}


def named(name: str) -> ModelConfig:
    """The config of a named size. Raises ConfigError that names the nearest sizes."""
    key = name.upper().removeprefix("LLAMA-")
    key = ALIASES.get(key, key)
    if key not in SIZES:
        raise ConfigError(f"there is no model size {name!r}", hint=nearest(key, list(SIZES)))
    return SIZES[key]
