"""Causal self-attention, multi-head or grouped-query (paper 2.2 and 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from puna.model.flash import causal_attention
from puna.model.linear import linear
from puna.model.rotary import rotate
from puna.model.sizes import ModelConfig


class KvCache:
    """Keys and values of every layer for `batch` sequences of up to `capacity` positions.

    `length` is how many positions are filled; `Llama.hidden` advances it once a step.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.layers, batch, config.kv_head_count, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store [batch, kv_heads, time, head_dim] after `length`; all keys and values so far."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """softmax(q kᵀ / sqrt(head_dim)) v over the past, heads side by side, no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_head_count
        self.head_dim = config.head_dim
        self.wq = nn.Linear(config.dim, self.heads * self.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, self.kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, self.kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(self.heads * self.head_dim, config.dim, bias=False)

    def forward(
        self, x: Tensor, cosines: Tensor, sines: Tensor, past: tuple[KvCache, int] | None = None
    ) -> Tensor:
        """[batch, time, dim] -> the same; with `past`, after that layer of the cache."""
        if past is None:
            weights = (self.wq.weight, self.wk.weight, self.wv.weight)
            # One wide product is faster than three; its rows are what the fused kernel reads.
            joined = linear(x, torch.cat(weights))
            mixed = causal_attention(joined, cosines, sines, self.heads)
        else:
            mixed = self._after_past(x, (cosines, sines), past)
        return linear(mixed, self.wo.weight)

    def _after_past(
        self, x: Tensor, turn: tuple[Tensor, Tensor], past: tuple[KvCache, int]
    ) -> Tensor:
        """The mix [batch, time, heads · head_dim] of new rows, which join the layer's cache."""
        query, key, value = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.wq, self.wk, self.wv)
        )  # batch heads time head_dim
        cache, layer = past
        keys, values = cache.append(layer, rotate(key, *turn), value)
        mixed = self._attend_past(rotate(query, *turn), keys, values)
        return mixed.transpose(1, 2).flatten(2)

    def _attend_past(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from the newest rows over all cached positions."""
        rows, columns = query.shape[2], keys.shape[2]
        mask = None
        if rows > 1:  # row i sees the columns up to its own position
            mask = torch.ones(rows, columns, dtype=torch.bool, device=query.device)
            mask = mask.tril(columns - rows)
        return functional.scaled_dot_product_attention(
            query,
            keys.type_as(query),
            values.type_as(query),
            attn_mask=mask,
            enable_gqa=self.heads != self.kv_heads,
        )
