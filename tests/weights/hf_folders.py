"""Small Hugging Face folders: made by hand without torch, or by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 11,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
REMOVED = object()


def changed(**changes: Any) -> dict[str, Any]:
    """CONFIG with some values changed, or REMOVED."""
    return {name: value for name, value in {**CONFIG, **changes}.items() if value is not REMOVED}


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights of CONFIG's model under Hugging Face's names."""
    random = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (11, 16)}
    for layer in range(2):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "self_attn.q_proj": (16, 16),
                "self_attn.k_proj": (8, 16),
                "self_attn.v_proj": (8, 16),
                "self_attn.o_proj": (16, 16),
                "mlp.gate_proj": (12, 16),
                "mlp.up_proj": (12, 16),
                "mlp.down_proj": (16, 12),
                "input_layernorm": (16,),
                "post_attention_layernorm": (16,),
            }.items()
        }
    shapes |= {"model.norm.weight": (16,), "lm_head.weight": (11, 16)}
    return {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


def write(folder: Path, config: dict[str, Any], weights: dict[str, np.ndarray]) -> Path:
    """A folder with this config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_shards(
    folder: Path, config: dict[str, Any], shards: dict[str, dict[str, np.ndarray]]
) -> Path:
    """A folder with these files of weights and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for file, weights in shards.items():
        save_file(weights, folder / file, {"format": "pt"})
    total = sum(array.nbytes for weights in shards.values() for array in weights.values())
    places = {name: file for file, weights in shards.items() for name in weights}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
