"""Bytes on one device: while training (state, activations, workspace) and while serving."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass, replace

from puna.errors import ConfigError, UsageError
from puna.model import count
from puna.model.sizes import ModelConfig
from puna.plan.layout import Layout, TrainingRun
from puna.weights.gguf_mixture import mixture
from puna.weights.gguf_types import TYPES
from puna.weights.source import EMBEDDING, StoredTensor, tensor_names

CHUNK_ROWS = 512  # of logits that exist at a time (puna.train.loss)
LOGIT_BYTES = {"bf16": 18, "fp32": 16}  # of each, with its gradients
COMPILED_LOGIT_BYTES = {"bf16": 8, "fp32": 14}  # fewer of them are written down (measured)
COMPILED_HIDDEN_BYTES = 4  # silu and the gated product in bf16, one of them in fp32 (measured)
# Of the CPU's heap, which keeps what is freed (puna.train.execution.keep_freed_memory): holes that
# no later tensor fits into, in intermediate values of a layer and of the loss, and what libraries
# load with the first step. Fitted to 12 measured peaks (docs/explain/where-the-memory-goes.md).
HOLES_OF_LAYERS, HOLES_OF_LOSS, LIBRARY_BYTES = 3.4, 1.0, 5e7
COMPILED_HEAP_BYTES = 4.7e8  # of a compiled run: 160 MB are the compiler; as fitted


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
    """Bytes on the fullest device at the step's peak, by what they are for.

    `gradients` are those that exist at that moment; `allocator` is what the heap holds unused.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float = 0.0
    workspace: float = 0.0
    allocator: float = 0.0

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
    )


def training(run: TrainingRun) -> TrainingMemory:
    """What the fullest device holds at the peak of a step, which is one of four moments.

    The loss holds all kept activations, and logits or the output's gradient twice; the backward
    pass of the last layer has its values computed again, that of the first one nearly all
    gradients too. Derived for Puna's own step; of other layouts what ZeRO gathers is added.
    """
    config, layout = run.config, run.layout
    parts = state(stage_parameters(config, layout), layout)
    values = _Values.of(run)
    gathered = _gathered_bytes(run)
    accumulates = run.micro_batches > 1
    before, later = (parts.gradients,) * 2 if accumulates else (0.0, values.output_gradient)
    of_layer = 4 * values.layer_parameters / (layout.data if layout.zero >= 2 else 1)
    earlier = parts.gradients - (0.0 if accumulates else of_layer)
    moments = [  # gradients, share of the layers whose activations are kept, workspace
        (before, 1.0, values.loss),
        (before, 1.0, values.loss_gradient),
        (later, 1.0, values.layer),
        (earlier, 1 / stage_layers(config, layout), values.layer),
    ]
    found = [
        replace(
            parts,
            gradients=min(parts.gradients, max(0.0, gradients)),
            activations=share * values.kept,
            workspace=workspace + gathered,
        )
        for gradients, share, workspace in moments
    ]
    peak = max(found, key=lambda one: one.total)
    if run.device.kind != "cpu":
        return peak
    if run.compiled:
        return replace(peak, allocator=COMPILED_HEAP_BYTES)
    holes = HOLES_OF_LAYERS * values.one_layer + HOLES_OF_LOSS * (values.loss - values.states)
    return replace(peak, allocator=holes + LIBRARY_BYTES)


@dataclass(frozen=True)
class _Values:
    """Bytes of a micro-batch's values on one device of a run."""

    kept: float  # from forward to backward, by the checkpointing policy
    one_layer: float  # all of one layer's, as without checkpointing
    layer: float  # while a layer goes backward: computed again, and gradients of its rows
    states: float  # around the loss: input and output of the last norm, their gradient
    loss: float  # states, the output's gradient, its copy, one chunk of logits with gradients
    loss_gradient: float  # states, and the output's gradient scaled
    output_gradient: float
    layer_parameters: float

    @classmethod
    def of(cls, run: TrainingRun) -> _Values:
        config, tensor = run.config, run.layout.tensor
        width = 2 if run.precision == "bf16" else 4
        is_wide = width == 4
        stage = replace(config, layers=stage_layers(config, run.layout))
        in_flight = run.micro_batch * min(run.layout.pipeline, run.micro_batches)
        kept = _kept_bytes(stage, run, in_flight, run.checkpointing)
        one = replace(stage, layers=1)
        one_layer = _kept_bytes(one, run, run.micro_batch, "none")
        of_layer = _kept_bytes(one, run, run.micro_batch, run.checkpointing)
        rows = run.micro_tokens * config.dim
        output = config.vocabulary_size * config.dim
        of_logit = (COMPILED_LOGIT_BYTES if run.compiled else LOGIT_BYTES)[run.precision]
        logits = min(CHUNK_ROWS, run.micro_tokens) * config.vocabulary_size * of_logit
        states = (12 + 4) * rows
        loss = states + output * (4 if is_wide else 6) + logits
        return cls(
            kept=kept / tensor,
            one_layer=one_layer / tensor,
            layer=(max(0.0, one_layer - of_layer) + 16 * rows) / tensor,
            states=states / tensor,
            loss=loss / tensor,
            loss_gradient=((12 + 2 * width) * rows + 8 * output) / tensor,
            output_gradient=4 * output / tensor,
            layer_parameters=_layer_parameters(config) / tensor,
        )


def _kept_bytes(
    config: ModelConfig, run: TrainingRun, sequences: int, policy: count.Checkpointing
) -> float:
    """Activations kept; without checkpointing less what compiled blocks compute again of SwiGLU,
    and the turned queries and keys, which our CPU kernels do not keep."""
    width = 2 if run.precision == "bf16" else 4
    kept = count.activation_bytes(config, sequences, run.context, policy, width)
    if policy != "none":
        return kept
    again = COMPILED_HIDDEN_BYTES * config.ffn_dim if run.compiled else 0
    if run.device.kind == "cpu" and run.precision == "bf16":
        again += width * (config.dim + config.kv_head_count * config.head_dim)
    return kept - config.layers * sequences * run.context * again


def _layer_parameters(config: ModelConfig) -> float:
    two = count.parameters(replace(config, layers=2))
    return two - count.parameters(replace(config, layers=1))


def _gathered_bytes(run: TrainingRun) -> float:
    """What ZeRO brings together for a moment: two layers' weights, one layer's gradient."""
    layout = run.layout
    if layout.data == 1 or layout.zero < 2:
        return 0.0
    layer = _layer_parameters(run.config) / layout.tensor
    if layout.zero == 2:
        return 4 * layer
    output = run.config.vocabulary_size * run.config.dim / layout.tensor
    return 4 * layer + (2 if run.precision == "bf16" else 4) * (2 * layer + output)


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


@functools.lru_cache(maxsize=4096)
def weight_bytes(config: ModelConfig, kind: str = "BF16") -> int:
    """Bytes of the tensors in a GGUF that Puna writes in a type (F32, BF16, Q8_0, Q4_0, ...).

    The type's mixture counts: norms in F32, an output of more bits. Raises ConfigError for a type
    that Puna does not write.
    """
    if kind.upper() == "Q4_K" or config.layers < 3:  # whose layers differ
        return sum(_tensor_bytes(config, kind).values())
    one, two = (weight_bytes(replace(config, layers=layers), kind) for layers in (1, 2))
    return one + (config.layers - 1) * (two - one)


def read_bytes(config: ModelConfig, kind: str = "BF16") -> int:
    """Of those, what one decoding step reads: of an embedding that is not the output one row."""
    if config.tied_embeddings:
        return weight_bytes(config, kind)
    embedding = _tensor_bytes(replace(config, layers=1), kind)[EMBEDDING]
    return weight_bytes(config, kind) - embedding + embedding // config.vocabulary_size


def _tensor_bytes(config: ModelConfig, kind: str) -> dict[str, int]:
    shapes = tensor_names(config)
    tensors = {name: StoredTensor(name, shape, "F32", 0) for name, shape in shapes.items()}
    try:
        types = mixture(config, tensors, kind).types
    except UsageError as error:
        raise ConfigError(error.message, hint=error.hint) from None
    return {
        name: TYPES[types[name]].row_bytes(shape[-1]) * math.prod(shape[:-1])
        for name, shape in shapes.items()
    }


def kv_bytes(config: ModelConfig, context: int, batch: int = 1, kind: str = "bf16") -> float:
    """Bytes of keys and values of `batch` sequences of `context` tokens.

    bf16 and f16 take 2 a value; int8 takes 1, and a float32 scale for each head's key and value.
    Raises ConfigError for another kind.
    """
    kinds = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}
    if kind not in kinds:
        raise ConfigError(f"keys and values are kept in {', '.join(kinds)}, not {kind!r}")
    each = count.kv_cache_bytes(config, 1, 1, kinds[kind])
    scales = 2 * config.layers * config.kv_head_count * 4 if kind == "int8" else 0
    return (each + scales) * batch * context
