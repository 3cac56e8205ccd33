"""Hugging Face's names and half-split rotary layout -> Meta's names and interleaved layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}


def hf_to_meta(arrays: Mapping[str, Any], head_dim: int, *, tied: bool) -> dict[str, Any]:
    """The same weights under Meta's names, rows of wq and wk interleaved."""
    result = {}
    for name, array in arrays.items():
        if name in OUTER:
            result[OUTER[name]] = array
            continue
        layer, rest = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight", name).groups()
        if rest in ("self_attn.q_proj", "self_attn.k_proj"):
            array = interleave(array, head_dim)
        result[f"layers.{layer}.{NAMES[rest]}.weight"] = array
    if tied:
        result.pop("output.weight", None)
    return result


def interleave(weight: Any, head_dim: int) -> Any:
    """Rows (0, h/2, 1, h/2 + 1, ...) of each head: halves become neighbouring pairs."""
    split = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(weight.shape)
