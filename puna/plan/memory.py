"""Bytes on one device: while training (state, activations, workspace) and while serving."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from puna.config import nearest
from puna.errors import ConfigError
from puna.model import count
from puna.model.sizes import ModelConfig
from puna.plan.layout import Layout, TrainingRun
from puna.weights.gguf_types import TYPES

CHUNK_ROWS = 512  # of logits that exist at a time (puna.train.loss)


@dataclass(frozen=True)
class Recipe:
    """Bytes a parameter of the training state."""

    weights: int
    gradients: int
    optimizer: int


PUNA = Recipe(4, 4, 8)  # fp32 weights and gradients, two moments; products in bf16 by autocast
MIXED = Recipe(2, 2, 12)  # bf16 weights and gradients, fp32 copy and moments (ZeRO's table)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on the fullest device at the step's peak, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    workspace: float

    @property
    def total(self) -> float:
        """All of them together."""
        parts: dict[str, float] = asdict(self)
        return sum(parts.values())


def state(parameters: float, layout: Layout, recipe: Recipe = PUNA) -> TrainingMemory:
    """Weights, gradients and optimizer of `parameters` on one device (ZeRO, arXiv 1910.02054)."""
    share = [
        parameters / layout.data if layout.zero >= stage else parameters for stage in (3, 2, 1)
    ]
    return TrainingMemory(
        weights=recipe.weights * share[0],
        gradients=recipe.gradients * share[1],
        optimizer=recipe.optimizer * share[2],
        activations=0,
        workspace=0,
    )


def training(run: TrainingRun) -> TrainingMemory:
    """What the fullest device holds at the peak of a step."""
    parts = state(stage_parameters(run.config, run.layout), run.layout)
    width = 2 if run.precision == "bf16" else 4
    in_flight = run.micro_batch * min(run.layout.pipeline, run.micro_batches)
    stage = replace(run.config, layers=stage_layers(run.config, run.layout))
    kept = count.activation_bytes(stage, in_flight, run.context, run.checkpointing, width)
    layer = count.activation_bytes(stage, run.micro_batch, run.context, "none", width)
    logits = CHUNK_ROWS * run.config.vocabulary_size * (4 + 2 * width)
    workspace = 2 * layer / stage.layers + logits
    return replace(
        parts,
        activations=kept / run.layout.tensor,
        workspace=workspace / run.layout.tensor,
    )


def stage_layers(config: ModelConfig, layout: Layout) -> int:
    """Layers of the longest stage of the pipeline."""
    return -(-config.layers // layout.pipeline)


def stage_parameters(config: ModelConfig, layout: Layout) -> float:
    """Parameters on the fullest device before ZeRO splits them further."""
    stage = replace(config, layers=stage_layers(config, layout))
    if layout.pipeline > 1:  # the embedding lies in the first stage, the output in the last
        stage = replace(stage, tied_embeddings=True)
    return count.parameters(stage) / layout.tensor


# Serving


def weight_bytes(config: ModelConfig, kind: str = "BF16") -> float:
    """Bytes of the weights in a type of GGUF's (F32, BF16, Q8_0, Q4_0, Q4_1, ...) by its blocks.

    Norms are F32, as in the files that Puna writes. Raises ConfigError for an unknown type.
    """
    if kind.upper() not in TYPES:
        raise ConfigError(
            f"there is no type of weights {kind!r}", hint=nearest(kind.upper(), list(TYPES))
        )
    block = TYPES[kind.upper()]
    norms = (2 * config.layers + 1) * config.dim
    matrices = count.parameters(config) - norms
    return matrices * block.block_bytes / block.block_values + 4 * norms


def kv_bytes(config: ModelConfig, context: int, batch: int = 1, kind: str = "bf16") -> float:
    """Bytes of keys and values of `batch` sequences of `context` tokens.

    bf16 and f16 take 2 a value; int8 takes 1, and a float32 scale for each head's key and value.
    Raises ConfigError for another kind.
    """
    kinds = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}
    if kind not in kinds:
        raise ConfigError(f"keys and values are kept in {', '.join(kinds)}, not {kind!r}")
    values = count.kv_cache_bytes(config, batch, context, kinds[kind])
    scales = 2 * config.layers * config.kv_head_count * 4 if kind == "int8" else 0
    return values + scales * batch * context
