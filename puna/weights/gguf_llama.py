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
from puna.weights.untrusted import shape_of

ROPE_TENSOR = "rope_freqs.weight"
TOKENS_KEY = "tokenizer.ggml.tokens"
NO_TOKEN = (-1, 2**32 - 1)  # how files say that there is no such token
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


class _Keys:
    """The keys `llama.*` of a file, each as the kind of value it must be."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path = path
        self.metadata = metadata

    def fail(self, key: str, wanted: str, found: Any) -> CheckpointError:
        shown = "nothing" if found is None else repr(found)[:80]
        return CheckpointError(f"{self.path}: llama.{key} should be {wanted}, found {shown}")

    def plain(self, key: str, default: Any = None) -> Any:
        """A value that is no array."""
        value = self.metadata.get(f"llama.{key}", default)
        if isinstance(value, np.ndarray | tuple):
            raise self.fail(key, "one value", "an array")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; one for each layer will do where all are the same."""
        value = self.metadata.get(f"llama.{key}", default)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.fail(key, "a whole number of at least 1, the same in all layers", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number, not negative."""
        value = self.plain(key, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            raise self.fail(key, "a finite number, not negative", value)
        return float(value)


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
    keys = _Keys(path, metadata)
    notes = _refuse_other_mathematics(keys)
    context_length = keys.count("context_length")
    if context_length > _LONGEST_CONTEXT:
        raise keys.fail("context_length", f"at most {_LONGEST_CONTEXT}", context_length)
    window = keys.metadata.get("llama.attention.sliding_window")
    if window is not None and 0 < keys.count("attention.sliding_window") < context_length:
        context_length = keys.count("attention.sliding_window")
        notes += (f"the context is cut to the sliding window of {context_length} tokens",)
    dim, heads = keys.count("embedding_length"), keys.count("attention.head_count")
    with shape_of(path):
        config = ModelConfig(
            dim=dim,
            layers=keys.count("block_count"),
            heads=heads,
            kv_heads=keys.count("attention.head_count_kv", heads),
            vocabulary_size=_vocabulary_size(keys, shapes),
            context_length=context_length,
            hidden_dim=keys.count("feed_forward_length"),
            norm_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
            rope_theta=keys.number("rope.freq_base", 10000.0),
            tied_embeddings="output.weight" not in shapes,
        )
        scaling = _linear_scaling(keys)
    _check_head_size(keys, config.head_dim)
    if rope.size:
        if scaling is not None:
            raise keys.fail("rope.scaling.type", f"absent beside {ROPE_TENSOR}", scaling.kind)
        scaling = scaling_of_factors(path, rope, config)
    return Described(dataclasses.replace(config, rope_scaling=scaling), notes)


def _refuse_other_mathematics(keys: _Keys) -> tuple[str, ...]:
    """Notes on keys that are ignored. Raises CheckpointError for those that must not be."""
    unknown = []
    for key in keys.metadata:
        name = key.removeprefix("llama.")
        if name == key:
            continue
        if name not in _KNOWN:
            unknown.append(name)
        elif name in _NEUTRAL and keys.plain(name) not in _NEUTRAL[name]:
            wanted = f"absent or {_NEUTRAL[name][0]}, since Puna's LLaMA has no such thing"
            raise keys.fail(name, wanted, keys.plain(name))
    if not unknown:
        return ()
    shown = ", ".join(f"llama.{name}"[:60] for name in sorted(unknown)[:8])
    return (f"{len(unknown)} keys that Puna does not know were ignored: {shown}",)


def _vocabulary_size(keys: _Keys, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Rows of the embedding, which the other places that tell it must agree with."""
    shape = shapes.get("token_embd.weight", ())
    if len(shape) != 2:
        found = "none" if not shape else f"shape {list(shape)}"
        raise CheckpointError(
            f"{keys.path} should hold the matrix token_embd.weight, found {found}"
        )
    rows = shape[0]
    if keys.count("vocab_size", rows) != rows:
        raise keys.fail(
            "vocab_size", f"{rows}, the rows of the embedding", keys.count("vocab_size")
        )
    return rows


def _check_head_size(keys: _Keys, head_dim: int) -> None:
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if keys.count(key, head_dim) != head_dim:
            wanted = f"{head_dim} (embedding_length / head_count)"
            raise keys.fail(key, wanted, keys.count(key))


def _linear_scaling(keys: _Keys) -> RopeScaling | None:
    kind = keys.plain("rope.scaling.type", "linear")
    old = keys.number("rope.scale_linear", 0.0)
    factor = keys.number("rope.scaling.factor", old)
    if kind not in ("linear", "none"):
        raise keys.fail("rope.scaling.type", "none or linear", kind)
    if kind == "none" or factor in (0, 1):
        return None
    original = keys.count("rope.scaling.original_context_length", 8192)
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


def check_tokenizer(path: Path, metadata: Mapping[str, Any], vocabulary_size: int) -> None:
    """Raises CheckpointError unless the tokenizer's tables fit the model and one another."""
    pieces = metadata.get(TOKENS_KEY)
    if not isinstance(pieces, tuple) or len(pieces) != vocabulary_size:
        found = f"{len(pieces):,} pieces" if isinstance(pieces, tuple) else "no list of strings"
        raise CheckpointError(
            f"{path}: {TOKENS_KEY} should hold the {vocabulary_size:,} pieces that the embedding "
            f"has rows for, found {found}"
        )
    for key, kind in (("scores", "f"), ("token_type", "iu")):
        name = f"tokenizer.ggml.{key}"
        table = metadata.get(name)
        is_table = isinstance(table, np.ndarray) and table.dtype.kind in kind
        if table is not None and not (is_table and len(table) == vocabulary_size):
            raise CheckpointError(f"{path}: {name} should hold {vocabulary_size:,} numbers")
    types = metadata.get("tokenizer.ggml.token_type")
    if types is not None and not ((types >= 1) & (types <= 6)).all():
        raise CheckpointError(f"{path}: tokenizer.ggml.token_type should hold types from 1 to 6")
    for name, value in metadata.items():
        if name.startswith("tokenizer.ggml.") and name.endswith(("_token_id", "_token_ids")):
            _check_ids(path, name, value, vocabulary_size)


def _check_ids(path: Path, name: str, value: Any, vocabulary_size: int) -> None:
    ids = value.tolist() if isinstance(value, np.ndarray) else [value]
    for token in ids:
        is_whole = isinstance(token, int) and not isinstance(token, bool)
        if not is_whole or not (0 <= token < vocabulary_size or token in NO_TOKEN):
            raise CheckpointError(
                f"{path}: {name[:80]} should lie in 0 .. {vocabulary_size - 1}, "
                f"found {str(token)[:40]!r}"
            )
