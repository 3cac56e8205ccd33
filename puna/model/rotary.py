"""Rotary position embeddings in Meta's interleaved convention (paper 2.2, Su et al. 2021).

Values 2i and 2i+1 of a head are one complex number, turned by position · theta^(-2i/head_dim).
(Hugging Face keeps the two halves of a head apart instead: a permutation of wq and wk.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from puna.model.sizes import ModelConfig, RopeScaling


def rotary_angles(config: ModelConfig, length: int) -> Tensor:
    """Angles in radians, float32 [length, head_dim / 2], for positions 0 .. length - 1.

    They are those of a sequence of `length`: a longer one turns more slowly where scaling is
    `dynamic` and `length` above `config.unstretched_length`.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    theta, scaling = config.rope_theta, config.rope_scaling
    if scaling is not None and scaling.kind == "dynamic":
        theta = dynamic_theta(theta, config.head_dim, scaling, length)
    frequencies = theta**-exponents
    if scaling is not None:
        frequencies = scaled_frequencies(frequencies, scaling)
    return torch.outer(torch.arange(length, dtype=torch.float32), frequencies)


def dynamic_theta(theta: float, head_dim: int, scaling: RopeScaling, length: int) -> float:
    """theta for a sequence of `length` ("dynamic NTK"), itself up to the original length L.

    theta · (factor · length / L - (factor - 1)) ^ (head_dim / (head_dim - 2)): the slowest pair
    is slowed by the term in brackets, the fastest one not at all.
    """
    lengths = max(1.0, length / scaling.original_context_length)
    slowdown: float = scaling.factor * lengths - (scaling.factor - 1)
    raised: float = theta * slowdown ** (head_dim / (head_dim - 2))
    return raised


def scaled_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Frequencies stretched for contexts longer than trained: `linear`, or LLaMA 3.1's blend.

    dynamic: they come from a raised theta, and are left as they are.
    llama3: waves longer than original/low are divided by `factor`, waves shorter than
    original/high are kept, and those between are interpolated.
    """
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "dynamic":
        return frequencies
    turns = scaling.original_context_length * frequencies / (2 * math.pi)
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    keep = ((turns - scaling.low_frequency_factor) / span).clamp(0, 1)
    return frequencies * (keep + (1 - keep) / scaling.factor)


def rotary_factors(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `rotary_angles`, each float32 [length, head_dim / 2]."""
    angles = rotary_angles(config, length)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs of `x` [batch, heads, time, head_dim] by their position's angles.

    (a, b) -> (a cos - b sin, a sin + b cos), computed in float32, returned in x's dtype.
    """
    a, b = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack((a * cosines - b * sines, a * sines + b * cosines), dim=-1)
    return turned.flatten(-2).type_as(x)
