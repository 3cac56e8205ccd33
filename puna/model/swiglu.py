"""The feed-forward network with SwiGLU in place of ReLU (paper 2.2, Shazeer 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from puna.model.sizes import ModelConfig


class FeedForward(nn.Module):
    """w2(silu(w1 x) · w3 x), hidden size 2/3 · 4d rounded up, no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)  # gate
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)  # down
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)  # up

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, dim] -> [batch, time, dim]; gate and up are one matrix product."""
        gate_up = functional.linear(x, torch.cat((self.w1.weight, self.w3.weight)))
        gate, up = gate_up.chunk(2, dim=-1)
        down: Tensor = self.w2(functional.silu(gate) * up)
        return down
