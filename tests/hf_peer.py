"""transformers' LlamaForCausalLM of a model's shape, with random weights that are ours too."""

from __future__ import annotations

import numpy as np
import pytest
from hf_layout import hf_to_meta

from puna.model.sizes import ModelConfig


def hf_rope(config: ModelConfig) -> dict:
    """transformers' rope_parameters for the same angles."""
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    result = {
        "rope_type": scaling.kind,
        "rope_theta": config.rope_theta,
        "factor": scaling.factor,
    }
    if scaling.kind == "llama3":
        result |= {
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }
    return result


def hf_peer(config: ModelConfig, seed: int = 0):
    """A random LlamaForCausalLM of the same shape, its norms not 1, its attention not flat."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocabulary_size,
            hidden_size=config.dim,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_head_count,
            max_position_embeddings=config.unstretched_length,
            rms_norm_eps=config.norm_epsilon,
            tie_word_embeddings=config.tied_embeddings,
            rope_parameters=hf_rope(config),
        )
    )
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            elif "q_proj" in name or "k_proj" in name:
                parameter.mul_(10)
    return peer.eval()


def to_ours(peer, config: ModelConfig, read) -> dict[str, np.ndarray]:
    """`read(parameter)` of each of the peer's parameters, by our names and in our layout."""
    arrays = {name: read(parameter).numpy() for name, parameter in peer.named_parameters()}
    return hf_to_meta(arrays, config.head_dim, tied=config.tied_embeddings)
