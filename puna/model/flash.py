"""Causal attention without stored attention weights (paper 2.4)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim), causal) v, through torch's fused kernel.

    query [batch, heads, time, head_dim]; key and value [batch, kv_heads, time, head_dim], where
    kv_heads divides heads; returns query's shape.
    """
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
    )
