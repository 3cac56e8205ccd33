"""What a model is, from its headers alone: shape, types, tokenizer, and what running it takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from puna import hardware
from puna.model import count
from puna.model.sizes import SIZES, ModelConfig
from puna.tokens.tokenizer import Tokenizer
from puna.weights.checkpoint import CheckpointSource
from puna.weights.source import ModelSource

RUNNING_BYTES = 4  # our engine holds weights, keys and values in float32


@dataclass(frozen=True)
class Needs:
    """Bytes that running a model takes: its weights, and keys and values of one full context."""

    weight_bytes: int
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both; working space of some MB comes on top."""
        return self.weight_bytes + self.kv_bytes


def needs(config: ModelConfig) -> Needs:
    """What the engine takes for a model of this shape, in float32."""
    return Needs(
        weight_bytes=int(count.weight_bytes(config, RUNNING_BYTES)),
        kv_bytes=count.kv_cache_bytes(config, 1, config.context_length, RUNNING_BYTES),
    )


def describe(source: ModelSource, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The facts of a model as plain values; `tokenizer` None where none lies with it."""
    config = source.config
    wanted, available = needs(config), hardware.memory_available_bytes()
    record: dict[str, Any] = {
        "path": str(source.path),
        "format": source.format,
        "architecture": "LLaMA",
        "size": size_name(config),
        "shape": {
            **asdict(config),
            "kv_heads": config.kv_head_count,
            "hidden_dim": config.ffn_dim,
            "head_dim": config.head_dim,
        },
        "parameters": sum(math.prod(tensor.shape) for tensor in source.tensors.values()),
        "tensors": len(source.tensors),
        "bytes": sum(tensor.nbytes for tensor in source.tensors.values()),
        "dtypes": dtypes(source),
        "context_length": config.context_length,
        "tokenizer": None if tokenizer is None else describe_tokenizer(tokenizer),
        "needs": {
            **asdict(wanted),
            "total_bytes": wanted.total_bytes,
            "available_bytes": available,
            "fits": wanted.total_bytes <= available,
        },
        "notes": list(source.notes),
    }
    if isinstance(source, CheckpointSource):
        record["training"] = {"step": source.step, "tokens": source.tokens}
    return record


def dtypes(source: ModelSource) -> dict[str, dict[str, int]]:
    """Type of numbers -> how many tensors, parameters and bytes have it, the most bytes first."""
    found: dict[str, dict[str, int]] = {}
    for tensor in source.tensors.values():
        entry = found.setdefault(tensor.dtype, {"tensors": 0, "parameters": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["parameters"] += math.prod(tensor.shape)
        entry["bytes"] += tensor.nbytes
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Its kind, how many pieces, the special ones with their ids, and its chat template."""
    vocabulary = tokenizer.vocabulary
    control = [token for token in range(tokenizer.vocabulary_size) if tokenizer.is_control(token)]

    def named(token: int) -> dict[str, Any] | None:
        if not 0 <= token < tokenizer.vocabulary_size:
            return None
        return {"id": token, "piece": tokenizer.piece(token)}

    return {
        "path": str(tokenizer.path),
        "kind": vocabulary.kind,
        "pre_tokenizer": vocabulary.pre_tokenizer or None,
        "pieces": tokenizer.vocabulary_size,
        "special": [named(token) for token in control],
        "bos": named(tokenizer.bos_id),
        "eos": named(tokenizer.eos_id),
        "adds_bos": tokenizer.adds_bos,
        "adds_eos": tokenizer.adds_eos,
        "stops": [named(token) for token in sorted(tokenizer.stop_ids)],
        "chat_template": tokenizer.chat_template,
    }


def size_name(config: ModelConfig) -> str | None:
    """The size of the family that has this very shape, whatever its vocabulary and context."""
    for name, known in SIZES.items():
        if _shape(known) == _shape(config):
            return name
    return None


def _shape(config: ModelConfig) -> tuple[int, ...]:
    return (config.dim, config.layers, config.heads, config.kv_head_count, config.ffn_dim)
