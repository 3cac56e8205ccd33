"""A LLaMA's shape in GGUF's keys, both ways, and the checks on what a file says of itself.

llama.block_count                        layers         llama.rope.freq_base      rope_theta
llama.embedding_length                   dim            llama.rope.scaling.*      linear scaling
llama.feed_forward_length                hidden_dim     llama.context_length      context_length
llama.attention.head_count(_kv)          heads          llama.vocab_size          vocabulary_size
llama.attention.layer_norm_rms_epsilon   norm_epsilon
LLaMA 3.1's scaling of rotary positions is no key but the tensor rope_freqs.weight, which holds
what each frequency is divided by; here it becomes the four numbers it was made from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from puna.errors import CheckpointError
from puna.model.sizes import ModelConfig, RopeScaling
from puna.model.twin import numpy_shape
from puna.native.numpy_llama import rotary_frequencies
from puna.weights.source import FloatArray
from puna.weights.untrusted import Table, shape_of

ROPE_TENSOR = "rope_freqs.weight"
TOKENS_KEY = "tokenizer.ggml.tokens"
# Far above any LLaMA's (10 million); rotary tables of a context of 2^31 would fill the memory.
_LONGEST_CONTEXT = 1 << 24
_FACTOR_TOLERANCE = 1e-5  # relative; the factors are float32 sums of a few terms

# Keys that change the mathematics, and the values that leave it as it is here.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "final_logit_softcapping": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "rope.scaling.alpha": (0.0, 1.0),
    "pooling_type": (0,),
}
_KNOWN = {
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "context_length",
    "vocab_size",
    "tensor_data_layout",
    *_NEUTRAL,
}


@dataclasses.dataclass(frozen=True)
class Described:
    """What a file's keys and tables say: the model's shape, and what a user should know of it."""

    config: ModelConfig
    notes: tuple[str, ...]


def described(
    path: Path, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope: FloatArray
) -> Described:
    """The model's shape from a file's metadata; `shapes` are its tensors' by GGUF's names.

    `rope` holds rope_freqs.weight, or nothing. Raises CheckpointError where a key is missing,
    impossible, at odds with the tensors, or asks for what no LLaMA of Puna's does.
    """
    for key, wanted in (("architecture", "llama"), ("type", "model")):
        found = str(metadata.get(f"general.{key}", "model" if key == "type" else None))[:80]
        if found != wanted:
            raise CheckpointError(
                f"{path}: general.{key} should be {wanted!r}, found {found!r}",
                hint="Puna reads LLaMAs and what llama.cpp keeps under that name: Mistral v1, "
                "TinyLlama, SmolLM2",
            )
    keys = _keys(path, metadata)
    notes = _refuse_other_mathematics(keys)
    context_length = keys.whole("context_length")
    if context_length > _LONGEST_CONTEXT:
        raise keys.wrong("context_length", f"at most {_LONGEST_CONTEXT}")
    window = keys.optional_whole("attention.sliding_window", None)
    if window is not None and window < context_length:
        context_length = window
        notes += (f"the context is cut to the sliding window of {context_length} tokens",)
    dim, heads = keys.whole("embedding_length"), keys.whole("attention.head_count")
    with shape_of(path):
        config = ModelConfig(
            dim=dim,
            layers=keys.whole("block_count"),
            heads=heads,
            kv_heads=keys.whole("attention.head_count_kv", heads),
            vocabulary_size=_vocabulary_size(keys, shapes),
            context_length=context_length,
            hidden_dim=keys.whole("feed_forward_length"),
            norm_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
            rope_theta=keys.number("rope.freq_base", 10000.0),
            tied_embeddings="output.weight" not in shapes,
        )
        scaling = _linear_scaling(keys)
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if keys.whole(key, config.head_dim) != config.head_dim:
            raise keys.wrong(key, f"{config.head_dim} (embedding_length / head_count)")
    if rope.size:
        if scaling is not None:
            raise keys.wrong("rope.scaling.type", f"absent beside {ROPE_TENSOR}")
        scaling = scaling_of_factors(path, rope, config)
    return Described(dataclasses.replace(config, rope_scaling=scaling), notes)


def _keys(path: Path, metadata: Mapping[str, Any]) -> Table:
    """The keys `llama.*`; of arrays, one for each layer, the one number where all are the same."""
    found = {}
    for key, value in metadata.items():
        if key.startswith("llama."):
            if isinstance(value, np.ndarray):
                is_one = value.size and (value == value[0]).all()
                value = value[0].item() if is_one else value[:8].tolist()
            found[key.removeprefix("llama.")] = value
    return Table(found, path, "llama.")


def _refuse_other_mathematics(keys: Table) -> tuple[str, ...]:
    """Notes on keys that are ignored. Raises CheckpointError for those that must not be."""
    for name, neutral in _NEUTRAL.items():
        if keys.values.get(name, neutral[0]) not in neutral:
            wanted = f"absent or {neutral[0]}, since Puna's LLaMA has no such thing"
            raise keys.wrong(name, wanted)
    unknown = sorted(set(keys.values) - _KNOWN)
    if not unknown:
        return ()
    told = ", ".join(f"llama.{name}"[:60] for name in unknown[:8])
    return (f"{len(unknown)} keys that Puna does not know were ignored: {told}",)


def _vocabulary_size(keys: Table, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Rows of the embedding, which the other places that tell it must agree with."""
    shape = shapes.get("token_embd.weight", ())
    if len(shape) != 2:
        found = "none" if not shape else f"shape {list(shape)}"
        raise CheckpointError(
            f"{keys.path} should hold the matrix token_embd.weight, found {found}"
        )
    rows = shape[0]
    if keys.whole("vocab_size", rows) != rows:
        raise keys.wrong("vocab_size", f"{rows}, the rows of the embedding")
    return rows


def _linear_scaling(keys: Table) -> RopeScaling | None:
    kind = keys.values.get("rope.scaling.type", "linear")
    if kind not in ("linear", "none"):
        raise keys.wrong("rope.scaling.type", "none or linear")
    told = [key for key in ("rope.scaling.factor", "rope.scale_linear") if keys.values.get(key)]
    factor = keys.number(told[0]) if told else 1.0
    if kind == "none" or factor == 1:
        return None
    original = keys.whole("rope.scaling.original_context_length", 8192)
    return RopeScaling("linear", factor, original_context_length=original)


def scaling_of_factors(path: Path, factors: FloatArray, config: ModelConfig) -> RopeScaling | None:
    """LLaMA 3.1's scaling whose frequencies are divided by `factors`; None where all are 1.

    Only low_frequency_factor = 1 is looked for: all three multiplied alike mean the same. Raises
    CheckpointError when no such scaling gives these factors.
    """
    wanted = f"{path}: {ROPE_TENSOR} should hold {config.head_dim // 2} finite factors >= 1"
    if factors.size != config.head_dim // 2 or not (np.isfinite(factors) & (factors >= 1)).all():
        raise CheckpointError(wanted)
    if (factors == 1).all():
        return None
    with np.errstate(all="ignore"):  # hostile numbers become NaN, which equals nothing
        for low, high, original in _likely_scalings(factors, config):
            scaling = RopeScaling("llama3", float(factors.max()), low, high, original)
            found = rope_factors(dataclasses.replace(config, rope_scaling=scaling))
            if np.allclose(found, factors, rtol=_FACTOR_TOLERANCE, atol=0):
                return scaling
    raise CheckpointError(
        f"{wanted} as LLaMA 3.1 scales positions, found others",
        hint="it is another way to stretch the context (long rope?), which Puna does not do",
    )


def _likely_scalings(factors: FloatArray, config: ModelConfig) -> list[tuple[float, float, int]]:
    """Low and high frequency factors and original contexts, LLaMA 3.1's own first.

    Between the two ends 1 / factor grows linearly with the turns that a pair makes in the
    original context, so that any two pairs there give the numbers.
    """
    likely = [(1.0, 4.0, 8192)]
    most = float(factors.max())
    (inside,) = np.nonzero((factors > 1) & (factors < most))
    if inside.size >= 2:
        ends = inside[[0, -1]]
        kept = (1 / factors[ends].astype(np.float64) - 1 / most) / (1 - 1 / most)
        turns = rotary_frequencies(config.head_dim, config.rope_theta)[ends] / (2 * math.pi)
        slope = float((kept[1] - kept[0]) / (turns[1] - turns[0]))
        start = float(kept[0] - slope * turns[0])
        high = round(1 - 1 / start, 3) if start < 0 else 0.0
        if 1 < high < math.inf and 0 < slope < math.inf:
            likely.append((1.0, high, max(1, round(slope * (high - 1)))))
    return likely + [(1.0, 4.0, 1 << exponent) for exponent in range(8, 21)]


def rope_factors(config: ModelConfig) -> FloatArray:
    """What LLaMA 3.1's scaling divides each frequency by, float32 [head_dim / 2]."""
    plain = rotary_frequencies(config.head_dim, config.rope_theta)
    factors: FloatArray = plain / numpy_shape(config).frequencies
    return factors


def metadata_of(config: ModelConfig) -> dict[str, Any]:
    """The keys `llama.*` of a model's shape, as llama.cpp reads them.

    Dynamic scaling has no key: the context is the length up to which it changes nothing.
    """
    values: dict[str, Any] = {
        "block_count": config.layers,
        "context_length": config.unstretched_length,
        "embedding_length": config.dim,
        "feed_forward_length": config.ffn_dim,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_head_count,
        "attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "rope.freq_base": config.rope_theta,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocabulary_size,
    }
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        values["rope.scaling.type"] = "linear"
        values["rope.scaling.factor"] = scaling.factor
        values["rope.scaling.original_context_length"] = scaling.original_context_length
    return {f"llama.{key}": value for key, value in values.items()}


def check_pieces(path: Path, metadata: Mapping[str, Any], vocabulary_size: int) -> None:
    """Raises CheckpointError unless the tokenizer has a piece for each row of the embedding."""
    pieces = metadata.get(TOKENS_KEY)
    if not isinstance(pieces, tuple) or len(pieces) != vocabulary_size:
        found = f"{len(pieces):,} pieces" if isinstance(pieces, tuple) else "no list of strings"
        raise CheckpointError(
            f"{path}: {TOKENS_KEY} should hold the {vocabulary_size:,} pieces that the embedding "
            f"has rows for, found {found}"
        )
