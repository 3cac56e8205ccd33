"""Causal self-attention, multi-head or grouped-query (paper 2.2 and 2.4)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from puna.model.flash import causal_attention
from puna.model.linear import linear
from puna.model.rotary import rotate
from puna.model.sizes import ModelConfig


class Past(Protocol):
    """What lies before new rows, each at its own position of its own sequence.

    Who runs the model on new rows alone keeps their keys and values, and gives one of these to
    `Llama.hidden`.
    """

    @property
    def cosines(self) -> Tensor:
        """Of each row's turn, float32 [rows, head_dim / 2]."""
        ...

    @property
    def sines(self) -> Tensor:
        """Of each row's turn, float32 [rows, head_dim / 2]."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keep the rows' keys and values; softmax(q kᵀ / sqrt(head_dim)) v over each row's past.

        query [rows, heads, head_dim], key and value [rows, kv_heads, head_dim]; a row sees the
        positions up to its own. Returns query's shape.
        """
        ...


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
        self, x: Tensor, cosines: Tensor, sines: Tensor, past: tuple[Past, int] | None = None
    ) -> Tensor:
        """[batch, time, dim] -> the same; or [rows, dim] after a past, at this layer's index."""
        if past is None:
            weights = (self.wq.weight, self.wk.weight, self.wv.weight)
            # One wide product is faster than three; its rows are what the fused kernel reads.
            joined = linear(x, torch.cat(weights))
            mixed = causal_attention(joined, cosines, sines, self.heads)
        else:
            mixed = self._after_past(x, (cosines[:, None], sines[:, None]), past)
        return linear(mixed, self.wo.weight)

    def _after_past(self, x: Tensor, turn: tuple[Tensor, Tensor], past: tuple[Past, int]) -> Tensor:
        """The mix [rows, heads · head_dim] of new rows with what came before them."""
        query, key, value = (
            project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.wq, self.wk, self.wv)
        )  # rows heads head_dim
        before, layer = past
        return before.attend(layer, rotate(query, *turn), rotate(key, *turn), value).flatten(1)
