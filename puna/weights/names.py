"""What each format calls a weight, and the order in which it keeps the rows of wq and wk.

Meta                            Hugging Face                             GGUF
tok_embeddings                  model.embed_tokens                       token_embd
layers.N.attention.wq           model.layers.N.self_attn.q_proj          blk.N.attn_q
layers.N.feed_forward.w1        model.layers.N.mlp.gate_proj             blk.N.ffn_gate
norm                            model.norm                               output_norm
output                          lm_head                                  output
(and so on; each followed by `.weight`)

Meta turns neighbouring rows of a head as one complex number, Hugging Face row i with row
i + head_dim / 2: the rows of wq and wk change places between the two, head by head. GGUF of the
architecture "llama" keeps Meta's order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from puna.model.sizes import ModelConfig

Scalar = TypeVar("Scalar", bound=np.generic)

_HUGGING_FACE_OUTER = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}
_HUGGING_FACE_INNER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_GGUF_OUTER = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
_GGUF_INNER = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
_NUMBER = "(0|[1-9][0-9]{0,5})"  # no leading zero: two names must never mean one tensor


def to_hugging_face(name: str) -> str:
    """Hugging Face's name of Meta's `name`. Raises KeyError where Meta has no such name."""
    return _translated(name, "layers", _HUGGING_FACE_OUTER, "model.layers", _HUGGING_FACE_INNER)


def from_hugging_face(name: str) -> str | None:
    """Meta's name of a weight of LlamaForCausalLM; None where a LLaMA has no such weight."""
    return _found(name, "model.layers", _HUGGING_FACE_OUTER, _HUGGING_FACE_INNER)


def to_gguf(name: str) -> str:
    """GGUF's name of Meta's `name`. Raises KeyError where Meta has no such name."""
    return _translated(name, "layers", _GGUF_OUTER, "blk", _GGUF_INNER)


def from_gguf(name: str) -> str | None:
    """Meta's name of a weight of GGUF's llama; None where a LLaMA has no such weight."""
    return _found(name, "blk", _GGUF_OUTER, _GGUF_INNER)


def turned_heads(name: str, config: ModelConfig) -> int | None:
    """How many heads rotary positions turn in the weight of Meta's `name`; None where none."""
    if name.endswith(".attention.wq.weight"):
        return config.heads
    return config.kv_head_count if name.endswith(".attention.wk.weight") else None


def to_half_split(weight: npt.NDArray[Scalar], heads: int) -> npt.NDArray[Scalar]:
    """wq or wk [heads * head_dim, columns] from Meta's order of rows to Hugging Face's.

    Rows 0 1 2 3 ... of a head become 0 2 4 ... 1 3 5 ...; the columns may be bytes of any format.
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def to_interleaved(weight: npt.NDArray[Scalar], heads: int) -> npt.NDArray[Scalar]:
    """wq or wk [heads * head_dim, columns] from Hugging Face's order of rows to Meta's.

    Undoes `to_half_split`: the two halves of a head become neighbouring pairs of rows.
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _translated(
    name: str,
    prefix: str,
    outer: Mapping[str, str],
    new_prefix: str,
    inner: Mapping[str, str],
) -> str:
    stem = name.removesuffix(".weight")
    match = re.fullmatch(rf"{re.escape(prefix)}\.{_NUMBER}\.(.+)", stem)
    if stem == name or (match is None and stem not in outer):
        raise KeyError(name)
    if match is None:
        return f"{outer[stem]}.weight"
    return f"{new_prefix}.{match[1]}.{inner[match[2]]}.weight"


def _found(
    name: str, prefix: str, outer: Mapping[str, str], inner: Mapping[str, str]
) -> str | None:
    back_outer = {there: ours for ours, there in outer.items()}
    back_inner = {there: ours for ours, there in inner.items()}
    try:
        return _translated(name, prefix, back_outer, "layers", back_inner)
    except KeyError:
        return None
