"""The feed-forward network with SwiGLU in place of ReLU (paper 2.2, Shazeer 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from puna.model.linear import linear
from puna.model.sizes import ModelConfig


class FeedForward(nn.Module):
    """w2(silu(w1 x) · w3 x), hidden size 2/3 · 4d rounded up, no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)  # gate
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)  # down
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)  # up

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, dim] -> [batch, time, dim]."""
        gate, up = side_by_side(x, self.w1.weight, self.w3.weight)
        return linear(functional.silu(gate) * up, self.w2.weight)


def side_by_side(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """x · weightᵀ for each weight; in training they are one matrix product.

    One wide product is faster than several narrow ones, but a decoded token is not worth the copy
    that joins the weights.
    """
    if not torch.is_grad_enabled():
        return tuple(functional.linear(x, weight) for weight in weights)
    joined = linear(x, torch.cat(weights))
    return torch.split(joined, [weight.shape[0] for weight in weights], dim=-1)
