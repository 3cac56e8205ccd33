"""Root-mean-square normalisation (paper 2.2, "Pre-normalization")."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scale each row to unit root-mean-square, in float32, then by a learned weight.

    y = x / sqrt(mean(x²) + epsilon) · weight
    """

    def __init__(self, dim: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Rows of the same shape and dtype as `x` [..., dim]."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.epsilon)
        return (wide * scale).type_as(x) * self.weight.type_as(x)
