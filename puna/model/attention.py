"""Causal self-attention, multi-head or grouped-query (paper 2.2 and 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from puna.model.flash import causal_attention
from puna.model.rotary import halves_first, rotate, rotate_halves
from puna.model.sizes import ModelConfig
from puna.model.swiglu import side_by_side


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
        wq, wk, turn = self.wq.weight, self.wk.weight, rotate
        if torch.is_grad_enabled():  # the weights are copied for one wide product anyway
            turn = rotate_halves
            wq, wk = halves_first(wq, self.heads), halves_first(wk, self.kv_heads)
        query, key, value = (
            rows.view(*rows.shape[:-1], -1, self.head_dim).transpose(1, 2)
            for rows in side_by_side(x, wq, wk, self.wv.weight)
        )  # batch heads time head_dim
        query, key = turn(query, cosines, sines), turn(key, cosines, sines)
        if past is None:
            mixed = causal_attention(query, key, value)
        else:
            cache, layer = past
            mixed = self._attend_past(query, *cache.append(layer, key, value))
        out: Tensor = self.wo(mixed.transpose(1, 2).flatten(2))
        return out

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
