"""AdamW as in the paper (2.3): betas 0.9 and 0.95, weight decay 0.1, gradients clipped to 1.0."""

from __future__ import annotations

import torch
from torch import nn

from puna.train.settings import TrainConfig


def build_adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW in two groups: matrices decay, vectors (the norms' weights) do not."""
    parameters = list(model.parameters())
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=parameters[0].device.type in ("cpu", "cuda", "mps"),
    )
