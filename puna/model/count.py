"""Counting without building: parameters, FLOPs a token, bytes of weights, optimizer, activations
and KV cache. Formulas from the paper, PaLM's appendix B and Korthikanti et al. 2022, rewritten
for LLaMA's block; tests hold them against built models and measured memory.
"""

from __future__ import annotations

from typing import Literal, get_args

from puna.errors import ConfigError
from puna.model.sizes import ModelConfig

Checkpointing = Literal["none", "selective", "narrow", "full"]
# A product this many times wider than its input is computed again by the policy `narrow`: gate and
# up are 5.3 times as wide, query, key and value 3.
WIDE = 4


def parameters(config: ModelConfig) -> int:
    """Exact number of weights: L(2d² + 2·d·d_kv + 3dh + 2d) + d + Vd (twice when untied)."""
    dim, kv_dim = config.dim, config.kv_head_count * config.head_dim
    attention = 2 * dim * dim + 2 * dim * kv_dim
    layer = attention + 3 * dim * config.ffn_dim + 2 * dim
    embeddings = (1 if config.tied_embeddings else 2) * config.vocabulary_size * dim
    return config.layers * layer + dim + embeddings


def matmul_parameters(config: ModelConfig) -> int:
    """Weights that a token is multiplied with: all but norms and the embedding table's look-up."""
    norms = (2 * config.layers + 1) * config.dim
    looked_up = 0 if config.tied_embeddings else config.vocabulary_size * config.dim
    return parameters(config) - norms - looked_up


def forward_flops_per_token(config: ModelConfig, context_length: int | None = None) -> float:
    """FLOPs of one token's forward pass at the mean causal position of a full context.

    2 a multiplied weight, and 4 · d for each of the (T + 1) / 2 positions attended to, a layer.
    """
    context = context_length or config.context_length
    attention = 4 * config.dim * (context + 1) / 2
    return 2 * matmul_parameters(config) + config.layers * attention


def training_flops_per_token(config: ModelConfig, context_length: int | None = None) -> float:
    """FLOPs of one token forward and backward: the backward pass costs two forward passes."""
    return 3 * forward_flops_per_token(config, context_length)


def palm_flops_per_token(config: ModelConfig, context_length: int | None = None) -> float:
    """What MFU is computed from elsewhere: 6N + 12·L·H·Q·T (PaLM, appendix B), no causal saving."""
    context = context_length or config.context_length
    return 6 * parameters(config) + 12 * config.layers * config.dim * context


def weight_bytes(config: ModelConfig, bytes_per_value: float = 2) -> float:
    """Bytes of the weights: 2 a value in bf16, 4 in fp32, about 0.56 in 4-bit groups of 32."""
    return parameters(config) * bytes_per_value


def optimizer_bytes(config: ModelConfig) -> int:
    """Bytes of training state: fp32 weights, gradients and AdamW's two moments, 16 a parameter."""
    return 16 * parameters(config)


def activation_bytes(
    config: ModelConfig,
    batch: int,
    context_length: int | None = None,
    checkpointing: Checkpointing = "selective",
    bytes_per_value: int = 2,
) -> int:
    """Bytes kept from forward to backward for `batch` sequences, all layers, loss not counted.

    Values per token and layer; the residual stream and the norms' products are fp32 (wide):
      full       the layer's input, wide
      selective  the input, wide; q k v; attention's mix; wo's output; w1's and w3's; w2's
      narrow     the same without w1's and w3's
      none       both sub-layers' inputs and normalised rows, wide; the same rows weighed, q k v,
                 rotated q and k (not by our kernels), the mix, w1's and w3's outputs, silu,
                 product; and once, however many tokens, the copies of the weights that are
                 multiplied (cast, or joined)
    Raises ConfigError for another policy.
    """
    tokens = batch * (context_length or config.context_length)
    dim, kv_dim, hidden = config.dim, config.kv_head_count * config.head_dim, config.ffn_dim
    wide = dim * 4
    statistics = 4 * config.heads  # of each row's softmax
    if checkpointing not in get_args(Checkpointing):
        raise ConfigError(
            f"checkpointing is {', '.join(get_args(Checkpointing))}, not {checkpointing!r}"
        )
    if checkpointing == "full":
        return tokens * config.layers * wide
    if checkpointing in ("selective", "narrow"):
        again = checkpointing == "narrow" and 2 * hidden >= WIDE * dim
        kept_hidden = 0 if again else 2 * hidden
        kept = wide + (4 * dim + 2 * kv_dim + kept_hidden) * bytes_per_value + statistics
        return tokens * config.layers * kept
    kept = 4 * wide + (5 * dim + 3 * kv_dim + 4 * hidden) * bytes_per_value + statistics
    joined = dim * (dim + 2 * kv_dim) + 2 * dim * hidden
    copied = joined if bytes_per_value == 4 else joined + dim * dim + dim * hidden
    return config.layers * (tokens * kept + copied * bytes_per_value)


def kv_cache_bytes(
    config: ModelConfig, batch: int = 1, length: int | None = None, bytes_per_value: int = 2
) -> int:
    """Bytes of keys and values: 2 · L · d_kv a token (paper sizes: no grouped queries)."""
    positions = batch * (length or config.context_length)
    kv_dim = config.kv_head_count * config.head_dim
    return 2 * config.layers * kv_dim * positions * bytes_per_value
