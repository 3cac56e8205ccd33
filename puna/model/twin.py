"""A model's config as the plain numbers that its NumPy twin knows."""

from __future__ import annotations

import numpy as np

from puna.model.sizes import ModelConfig
from puna.native import numpy_llama


def numpy_shape(config: ModelConfig) -> numpy_llama.Shape:
    """The plain numbers the twin needs of a model's config, rope scaling resolved."""
    frequencies = numpy_llama.rotary_frequencies(config.head_dim, config.rope_theta)
    scaling, dynamic = config.rope_scaling, None
    if scaling is not None and scaling.kind == "linear":
        frequencies = frequencies / np.float32(scaling.factor)
    elif scaling is not None and scaling.kind == "dynamic":
        dynamic = numpy_llama.DynamicScaling(
            theta=config.rope_theta,
            factor=scaling.factor,
            original_context_length=scaling.original_context_length,
        )
    elif scaling is not None:
        frequencies = numpy_llama.llama3_frequencies(
            frequencies,
            factor=scaling.factor,
            low=scaling.low_frequency_factor,
            high=scaling.high_frequency_factor,
            original_context_length=scaling.original_context_length,
        )
    return numpy_llama.Shape(
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_head_count,
        context_length=config.context_length,
        norm_epsilon=config.norm_epsilon,
        frequencies=frequencies,
        dynamic=dynamic,
    )
