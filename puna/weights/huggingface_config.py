"""config.json of a Hugging Face folder <-> our ModelConfig.

Every key that changes what LlamaForCausalLM or MistralForCausalLM compute is followed or refused;
the others are known to change nothing, or are named in a note. What a missing key means is what
it means to transformers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from puna.model.sizes import ModelConfig, RopeScaling
from puna.tokens.vocabulary import Vocabulary
from puna.weights.untrusted import Table, read_json_object, shape_of, shown

LONGEST_CONTEXT = 1 << 24  # float32 counts positions exactly up to here
TORCH_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_CLASSES = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",  # as it was called before it was released
    "MistralForCausalLM": "mistral",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "num_key_value_heads": None,  # as many as heads
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "sliding_window": None,
    },
    "mistral": {
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    },
}
# Keys that would change the computation -> the values that do not; a missing key is null.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": (None, "silu", "swish"),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "partial_rotary_factor": (None, 1),
    "rope_interleaved": (None, False),
    "quantization_config": (None,),
    "auto_map": (None,),
    "pruned_heads": (None, {}),
}
_NOT_OURS = (
    "LLaMA 1 to 3, SmolLM2, TinyLlama and Mistral 7B can be read; this asks for another model"
)
_WHY = {
    "quantization_config": "convert a copy in bf16, f16 or f32 instead",
    "auto_map": "this model needs code that comes with it, and Puna never runs any",
}
_FOLLOWED = {
    "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps",
    "max_position_embeddings", "sliding_window", "layer_types", "rope_theta", "rope_scaling",
    "rope_parameters", "original_max_position_embeddings", "tie_word_embeddings",
}  # fmt: skip
# For training, for the files, for generation, for the tokenizer, or about how sums are ordered.
_WITHOUT_EFFECT = {
    "initializer_range", "attention_dropout", "hidden_dropout_prob", "use_cache", "dtype",
    "torch_dtype", "transformers_version", "_name_or_path", "name_or_path", "pad_token_id",
    "bos_token_id", "eos_token_id", "pretraining_tp", "is_llama_config", "transformers.js_config",
    "_attn_implementation_autoset", "max_sequence_length", "return_dict", "output_attentions",
    "output_hidden_states", "chunk_size_feed_forward", "id2label", "label2id", "problem_type",
    "is_encoder_decoder", "unsloth_fixed", "unsloth_version", "torchscript",
}  # fmt: skip
_ROPE_KEYS = {
    "default": set(),
    "linear": {"factor", "original_max_position_embeddings"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "llama3": {
        "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
    },
}  # fmt: skip
_ALWAYS_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def read_config(path: Path) -> tuple[ModelConfig, tuple[str, ...]]:
    """The shape that a config.json tells, and notes on what was concluded or left aside.

    Raises CheckpointError that names the file and the key where a value cannot be, or asks for
    what a LLaMA of Puna's does not do.
    """
    table = Table(read_json_object(path, wanted="tell the model's shape"), path)
    defaults = _DEFAULTS[_model_type(table)]
    for name, accepted in _ONLY.items():
        table.require(name, accepted, _WHY.get(name, _NOT_OURS))
    length = table.whole("max_position_embeddings", defaults["max_position_embeddings"])
    theta, scaling = _rope(table, length)
    with shape_of(path):
        config = ModelConfig(
            dim=table.whole("hidden_size"),
            layers=table.whole("num_hidden_layers"),
            heads=table.whole("num_attention_heads"),
            kv_heads=table.optional_whole("num_key_value_heads", defaults["num_key_value_heads"]),
            vocabulary_size=table.whole("vocab_size"),
            context_length=length,
            hidden_dim=table.whole("intermediate_size"),
            norm_epsilon=table.number("rms_norm_eps", defaults["rms_norm_eps"]),
            rope_theta=theta,
            rope_scaling=scaling,
            tied_embeddings=table.flag("tie_word_embeddings"),
        )
    if table.optional_whole("head_dim", None) not in (None, config.head_dim):
        wanted = f"hidden_size / num_attention_heads = {config.head_dim}"
        raise table.wrong("head_dim", wanted, "Puna has no heads of another width")
    _require_known_layers(table)
    window = table.optional_whole("sliding_window", defaults["sliding_window"])
    length, notes = _context(config, window)
    unknown = sorted(set(table.values) - _FOLLOWED - _WITHOUT_EFFECT - set(_ONLY))
    if unknown:
        told = ", ".join(map(shown, unknown))[:200]
        notes = (*notes, f"config.json has keys that no LLaMA reads, left aside: {told}")
    return replace(config, context_length=length), notes


def _model_type(table: Table) -> str:
    """llama or mistral, by the class that the weights are for, or else by model_type."""
    classes, model_type = table.values.get("architectures"), table.values.get("model_type")
    if classes is None or classes == []:
        if model_type not in tuple(_DEFAULTS):
            raise table.wrong("model_type", "llama or mistral", _NOT_OURS)
        return str(model_type)
    name = classes[0] if type(classes) is list and len(classes) == 1 else None
    if type(name) is not str or name not in _CLASSES:
        raise table.wrong("architectures", "LlamaForCausalLM or MistralForCausalLM", _NOT_OURS)
    if model_type not in (None, _CLASSES[name]):
        raise table.wrong("model_type", f"{_CLASSES[name]}, as architectures says")
    return _CLASSES[name]


def _require_known_layers(table: Table) -> None:
    """Refuse layers other than full attention, or such that see a window."""
    found = table.values.get("layer_types") or []
    if type(found) is not list or not all(
        one in ("full_attention", "sliding_attention") for one in found
    ):
        raise table.wrong("layer_types", "a list of full_attention", _NOT_OURS)


def _context(config: ModelConfig, window: int | None) -> tuple[int, tuple[str, ...]]:
    """How many tokens fit in a context, and what a user should know about that.

    Within a sliding window every token still sees all before it, as a LLaMA's do.
    """
    length, scaling = config.context_length, config.rope_scaling
    notes: tuple[str, ...] = ()
    if scaling is not None and scaling.kind == "dynamic":
        length = min(int(length * max(scaling.factor, 1.0)), LONGEST_CONTEXT)
        notes = (
            f"context of {length} tokens, {scaling.factor:g} times the {config.context_length} "
            "it was trained for: positions are stretched by the length of a longer text",
        )
    if window is not None and window < length:
        length = window
        notes = (*notes, f"the context is cut to the sliding window of {window} tokens")
    return length, notes


def _rope(table: Table, length: int) -> tuple[float, RopeScaling | None]:
    """theta and the scaling of positions, as transformers 4 (rope_scaling) or 5 says them."""
    if length > LONGEST_CONTEXT:
        raise table.wrong("max_position_embeddings", f"at most {LONGEST_CONTEXT}")
    told = [name for name in ("rope_scaling", "rope_parameters") if table.values.get(name)]
    for name in told:
        value = table.values[name]
        if type(value) is not dict or any(type(one) in (dict, list) for one in value.values()):
            raise table.wrong(name, "an object of plain values", _NOT_OURS)
    if len(told) == 2 and table.values[told[0]] != table.values[told[1]]:
        raise table.wrong("rope_scaling", "what rope_parameters says, or absent")
    rope = Table(table.values[told[0]] if told else {}, table.path, f"{told[0]}." if told else "")
    theta = _agreed(table, rope, "rope_theta", 10000.0)
    kind = _rope_kind(rope)
    rope.require("partial_rotary_factor", (None, 1), _NOT_OURS)
    for name, value in rope.values.items():
        if name not in _ROPE_KEYS[kind] | _ALWAYS_ROPE_KEYS and value is not None:
            raise rope.wrong(name, f"absent with {kind} positions", _NOT_OURS)
    if kind == "default":
        return theta, None
    if kind == "llama3":
        original = rope.whole("original_max_position_embeddings")
        _agreed(table, rope, "original_max_position_embeddings", original)
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            raise rope.wrong("high_freq_factor", f"above low_freq_factor {low:g}")
        return theta, RopeScaling("llama3", rope.number("factor"), low, high, original)
    if rope.optional_whole("original_max_position_embeddings", None) not in (None, length):
        wanted = f"max_position_embeddings = {length}, by which transformers goes, or absent"
        raise rope.wrong("original_max_position_embeddings", wanted)
    if kind == "linear":
        return theta, RopeScaling("linear", rope.number("factor"))
    return theta, RopeScaling("dynamic", rope.number("factor"), original_context_length=length)


def _rope_kind(rope: Table) -> str:
    """The name of the scaling, whichever of its two keys says it."""
    keys = [key for key in ("rope_type", "type") if rope.values.get(key) is not None]
    if not keys:
        return "default"
    names = [str(rope.values[key]) for key in keys]
    if names[0] not in _ROPE_KEYS:
        raise rope.wrong(keys[0], "default, linear, dynamic or llama3", _NOT_OURS)
    if names[0] != names[-1]:
        raise rope.wrong(keys[-1], f"{names[0]}, as rope_type says")
    return names[0]


def _agreed(table: Table, rope: Table, name: str, default: float) -> float:
    """A number that may stand in the config, in its rope object, or alike in both."""
    outer, inner = table.number(name, default), rope.number(name, default)
    is_said_twice = table.values.get(name) is not None and rope.values.get(name) is not None
    if is_said_twice and outer != inner:
        raise rope.wrong(name, f"{outer:g} as outside of {rope.prefix.rstrip('.')}")
    return inner if rope.values.get(name) is not None else outer


def config_json(config: ModelConfig, dtype: str, vocabulary: Vocabulary | None) -> dict[str, Any]:
    """The config.json with which transformers 4 and 5 load the model as LlamaForCausalLM.

    `dtype` is what most weights are stored in: F32, F16 or BF16. A `vocabulary` tells which
    tokens begin and end a text.
    """
    scaling, length = config.rope_scaling, config.context_length
    if scaling is not None and scaling.kind == "dynamic":
        length = scaling.original_context_length  # there transformers begins to stretch
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        **special_ids(vocabulary),
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "max_position_embeddings": length,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_head_count,
        "rms_norm_eps": config.norm_epsilon,
        "rope_scaling": _rope_json(scaling),
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": TORCH_TYPES[dtype],
        "use_cache": True,
        "vocab_size": config.vocabulary_size,
    }


def special_ids(vocabulary: Vocabulary | None) -> dict[str, Any]:
    """The ids that begin and end a text, as config.json and generation_config.json name them."""
    if vocabulary is None:
        return {"bos_token_id": None, "eos_token_id": None}
    stops = list(vocabulary.stop_ids)
    found: dict[str, Any] = {
        "bos_token_id": vocabulary.bos_id if vocabulary.bos_id >= 0 else None,
        "eos_token_id": stops if len(stops) > 1 else next(iter(stops), None),
    }
    if vocabulary.padding_id >= 0:
        found["pad_token_id"] = vocabulary.padding_id
    return found


def _rope_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.kind != "llama3":  # transformers before 4.43 reads `type`
        return {"rope_type": scaling.kind, "type": scaling.kind, "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor,
        "high_freq_factor": scaling.high_frequency_factor,
        "original_max_position_embeddings": scaling.original_context_length,
    }
