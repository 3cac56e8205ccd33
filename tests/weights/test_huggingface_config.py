"""config.json: each key that changes the computation is followed or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from weights.hf_folders import REMOVED, changed

from puna.errors import CheckpointError
from puna.model import count
from puna.model.sizes import ModelConfig, RopeScaling, named
from puna.tokens.vocabulary import PieceType, Vocabulary
from puna.weights.huggingface_config import config_json, read_config

SHAPE = ModelConfig(
    dim=16, layers=2, heads=4, kv_heads=2, hidden_dim=12, vocabulary_size=11, context_length=64
)


def read(folder: Path, content: dict | str) -> tuple[ModelConfig, tuple[str, ...]]:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)
    return read_config(folder / "config.json")


def test_a_plain_config_says_the_shape(tmp_path: Path):
    assert read(tmp_path, changed()) == (SHAPE, ())


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"num_key_value_heads": REMOVED}, {"kv_heads": None}),
        ({"num_key_value_heads": None}, {"kv_heads": None}),
        ({"tie_word_embeddings": True}, {"tied_embeddings": True}),
        ({"tie_word_embeddings": REMOVED}, {}),
        ({"rms_norm_eps": REMOVED}, {"norm_epsilon": 1e-6}),
        ({"rope_theta": REMOVED}, {}),
        ({"rope_theta": 500000}, {"rope_theta": 500000.0}),
        ({"max_position_embeddings": REMOVED}, {"context_length": 2048}),
        ({"architectures": REMOVED}, {}),
        ({"model_type": REMOVED}, {}),
        ({"architectures": ["LLaMAForCausalLM"]}, {}),
        ({"head_dim": 4, "attention_bias": False, "mlp_bias": None}, {}),
        ({"hidden_act": REMOVED, "partial_rotary_factor": 1.0}, {}),
        ({"rope_scaling": None, "pretraining_tp": 1, "use_cache": True}, {}),
        ({"rope_scaling": {"type": "default"}}, {}),
        (
            {"rope_theta": REMOVED, "rope_parameters": {"rope_type": "default", "rope_theta": 5.0}},
            {"rope_theta": 5.0},
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 4}},
            {"rope_scaling": RopeScaling("linear", 4.0)},
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
            {"rope_scaling": RopeScaling("linear", 4.0)},
        ),
        (
            {"rope_scaling": {"type": "llama3", **LLAMA3}},
            {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 32)},
        ),
        (
            {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3},
            {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 32)},
        ),
    ],
)
def test_a_key_means_what_it_means_to_transformers(tmp_path: Path, changes: dict, wanted: dict):
    config, notes = read(tmp_path, changed(**changes))
    assert config == dataclasses.replace(SHAPE, **wanted)
    assert notes == ()


def test_dynamic_scaling_gives_the_longer_context_that_it_is_for(tmp_path: Path):
    config, notes = read(tmp_path, changed(rope_scaling={"type": "dynamic", "factor": 2.0}))
    assert config.rope_scaling == RopeScaling("dynamic", 2.0, original_context_length=64)
    assert (config.context_length, config.unstretched_length) == (128, 64)
    assert len(notes) == 1
    assert "context of 128 tokens, 2 times the 64" in notes[0]


MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"sliding_window": 48}, 48),
        ({"sliding_window": 64}, 64),
        ({"sliding_window": None}, 64),
        ({}, 64),
        ({"max_position_embeddings": 32768}, 4096),  # the class's own window
        ({"max_position_embeddings": 32768, "sliding_window": None}, 32768),
        ({"architectures": REMOVED, "sliding_window": 5}, 5),
    ],
)
def test_mistrals_context_ends_with_its_window(tmp_path: Path, changes: dict, length: int):
    config, notes = read(tmp_path, changed(**{**MISTRAL, **changes}))
    assert config == dataclasses.replace(SHAPE, context_length=length)
    is_cut = length < changes.get("max_position_embeddings", 64)
    assert [f"window of {length} tokens" in note for note in notes] == [True] * is_cut


def test_mistral_has_eight_kv_heads_where_it_does_not_say(tmp_path: Path):
    changes = {"num_key_value_heads": REMOVED, "hidden_size": 64, "num_attention_heads": 16}
    assert read(tmp_path, changed(**MISTRAL, **changes))[0].kv_head_count == 8


# The keys of published config.json files, as they were published, and their parameter counts.
PUBLISHED = {
    "SmolLM2-135M-Instruct": (
        '{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,'
        '"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,'
        '"initializer_range": 0.041666666666666664, "intermediate_size": 1536,'
        '"is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,'
        '"model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30,'
        '"num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,'
        '"rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,'
        '"tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers.js_config": {},'
        '"transformers_version": "4.42.3", "use_cache": true, "vocab_size": 49152}',
        134_515_008,
        8192,
    ),
    "TinyLlama-1.1B": (
        '{"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,'
        '"hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,'
        '"intermediate_size": 5632, "max_position_embeddings": 2048, "model_type": "llama",'
        '"num_attention_heads": 32, "num_hidden_layers": 22, "num_key_value_heads": 4,'
        '"pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,'
        '"tie_word_embeddings": false, "torch_dtype": "float32",'
        '"transformers_version": "4.31.0.dev0", "use_cache": true, "vocab_size": 32000}',
        1_100_048_384,
        2048,
    ),
    "Mistral-7B-v0.1": (
        '{"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,'
        '"hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,'
        '"intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",'
        '"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,'
        '"rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,'
        '"tie_word_embeddings": false, "torch_dtype": "bfloat16",'
        '"transformers_version": "4.34.0.dev0", "use_cache": true, "vocab_size": 32000}',
        7_241_732_096,
        4096,
    ),
    "Llama-3.2-1B": (
        '{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,'
        '"bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",'
        '"hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,'
        '"max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",'
        '"num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,'
        '"pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0,'
        '"high_freq_factor": 4.0, "low_freq_factor": 1.0,'
        '"original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,'
        '"tie_word_embeddings": true, "torch_dtype": "bfloat16",'
        '"transformers_version": "4.45.0.dev0", "use_cache": true, "vocab_size": 128256}',
        1_235_814_400,
        131_072,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(tmp_path: Path, name: str):
    text, parameters, length = PUBLISHED[name]
    config, notes = read(tmp_path, text)
    assert count.parameters(config) == parameters
    assert config.context_length == length
    assert len(notes) == (name == "Mistral-7B-v0.1")


def test_keys_that_no_llama_reads_are_named(tmp_path: Path):
    _, notes = read(tmp_path, changed(my_note="hello", initializer_range=0.02))
    assert len(notes) == 1
    assert "'my_note'" in notes[0]
    assert "initializer_range" not in notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, 'hidden_act should be "silu" or "swish", found \'gelu\''),
        ({"attention_bias": True}, "attention_bias should be false, found True"),
        ({"mlp_bias": True}, "mlp_bias should be false"),
        ({"mlp_bias": 0}, "mlp_bias should be false, found 0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor should be 1, found 0.5"),
        ({"rope_interleaved": True}, "rope_interleaved should be false"),
        ({"quantization_config": {"bits": 4}}, "quantization_config should be absent, found dict"),
        ({"auto_map": {"AutoModel": "x.py"}}, "auto_map should be absent"),
        ({"head_dim": 8}, "head_dim should be hidden_size / num_attention_heads = 4, found 8"),
        ({"head_dim": "4"}, "head_dim should be a whole number"),
        ({"layer_types": ["chunked_attention"]}, "layer_types should be a list"),
        ({"architectures": ["Qwen2ForCausalLM"]}, r"architectures should be .*found \['Qwen2"),
        ({"architectures": ["LlamaModel"]}, "architectures should be"),
        ({"architectures": "LlamaForCausalLM"}, "architectures should be"),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures should be .* found list"),
        ({"architectures": [], "model_type": "gpt2"}, "model_type should be llama or mistral"),
        ({"architectures": [], "model_type": []}, "model_type should be llama or mistral"),
        ({"model_type": "mistral"}, "model_type should be llama, as architectures says"),
        ({"hidden_size": REMOVED}, "hidden_size should be a whole number from 1, found nothing"),
        ({"hidden_size": None}, "hidden_size should be a whole number from 1, found None"),
        ({"hidden_size": 16.0}, "hidden_size should be a whole number from 1, found 16.0"),
        ({"hidden_size": True}, "hidden_size should be a whole number from 1, found True"),
        ({"hidden_size": -16}, "hidden_size should be a whole number from 1, found -16"),
        ({"vocab_size": 2**31}, "vocab_size should be at most 2147483647, found 2147483648"),
        ({"vocab_size": 10**4000}, "vocab_size should be at most"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings should be at most 16777216"),
        ({"max_position_embeddings": None}, "max_position_embeddings should be a whole number"),
        ({"num_attention_heads": 3}, "heads times an even head size"),
        ({"num_key_value_heads": 3}, "kv_heads must divide heads 4, got 3"),
        ({"rms_norm_eps": 0}, "rms_norm_eps should be a number above 0"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps should be a number above 0"),
        ({"rope_theta": 1e31}, "rope_theta should be a number above 0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings should be true or false, found 1"),
        ({"rope_scaling": "linear"}, "rope_scaling should be an object"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "type should be .*, found 'yarn'"),
        ({"rope_scaling": {"type": "longrope"}}, r"rope_scaling\.type should be"),
        ({"rope_scaling": {"type": ["linear"], "factor": 2}}, "rope_scaling should be an object"),
        ({"rope_scaling": {"type": 7}}, r"rope_scaling\.type should be .* found 7"),
        ({"rope_scaling": {"factor": 2.0}}, r"factor should be absent with default positions"),
        ({"rope_scaling": {"type": "linear"}}, r"rope_scaling\.factor should be .* found nothing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, r"factor should be a number above 0"),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}},
            r"rope_scaling\.type should be dynamic, as rope_type says",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0, "attention_factor": 2.0}},
            "attention_factor should be absent with linear positions",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters should be an object of plain values",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
            r"rope_parameters\.partial_rotary_factor should be 1",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
            r"rope_parameters\.rope_theta should be 10000 as outside of rope_parameters",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": LLAMA3},
            "rope_scaling should be what rope_parameters says",
        ),
        (
            {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": None}},
            r"original_max_position_embeddings should be .* found None",
        ),
        (
            {"rope_scaling": LLAMA3, "original_max_position_embeddings": 16},
            "original_max_position_embeddings should be 16 as outside",
        ),
        (
            {"rope_scaling": {**LLAMA3, "low_freq_factor": 4.0}},
            "high_freq_factor should be above low_freq_factor 4",
        ),
        (
            {
                "rope_scaling": {
                    "type": "dynamic", "factor": 2, "original_max_position_embeddings": 8,
                }
            },
            "should be max_position_embeddings = 64",
        ),
    ],
)  # fmt: skip
def test_what_puna_cannot_compute_is_refused_by_name(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(CheckpointError, match=r"config\.json: .*" + message) as caught:
        read(tmp_path, changed(**changes))
    assert len(caught.value.message) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should be JSON: line 1, column 1"),
        ("{", "should be JSON: line 1, column 2"),
        ("[1]", "should hold a JSON object, found list"),
        ('{"a": 1, "a": 2}', "the key 'a' comes twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ("[" * 100_000, "nests too deep"),
        ('{"a":' * 100_000, "nests too deep"),
        ('{"hidden_size": ' + "9" * 10_000 + "}", "should be JSON: "),
        ('{"a": 1' + " " * (1 << 20) + "}", "at most 1048576 bytes"),
    ],
)
def test_broken_json_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(CheckpointError, match=r"config\.json:? .*" + message):
        read(tmp_path, text)


def test_bytes_that_are_no_text_and_a_missing_file_are_refused(tmp_path: Path):
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CheckpointError, match=r"config\.json should be JSON: byte 7 is not UTF-8"):
        read_config(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"nothing\.json should tell .* found nothing there"):
        read_config(tmp_path / "nothing.json")
    with pytest.raises(CheckpointError, match="found no regular file"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        SHAPE,
        named("7B"),
        named("15M"),
        dataclasses.replace(SHAPE, rope_theta=5e5, norm_epsilon=1e-6, tied_embeddings=True),
        dataclasses.replace(SHAPE, rope_scaling=RopeScaling("linear", 4.0)),
        dataclasses.replace(SHAPE, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 32)),
        dataclasses.replace(
            SHAPE, context_length=96, rope_scaling=RopeScaling("dynamic", 2.0, 1.0, 4.0, 48)
        ),
    ],
)
def test_what_we_write_is_read_back_as_the_same_model(tmp_path: Path, config: ModelConfig):
    found, _ = read(tmp_path, config_json(config, "BF16", None))
    assert config.kv_head_count == found.kv_head_count
    same = {"kv_heads": config.kv_heads, "hidden_dim": config.hidden_dim}
    assert dataclasses.replace(found, **same, multiple_of=config.multiple_of) == config
    assert found.ffn_dim == config.ffn_dim


def test_the_ids_that_end_a_text_are_the_vocabularys():
    vocabulary = Vocabulary(
        kind="bpe",
        pieces=("a", "<s>", "<|eot_id|>", "<end>"),
        types=(PieceType.NORMAL, PieceType.CONTROL, PieceType.CONTROL, PieceType.CONTROL),
        bos_id=1,
        eos_id=3,
        extra_stop_ids=(2,),
    )
    found = config_json(SHAPE, "F32", vocabulary)
    assert (found["bos_token_id"], found["eos_token_id"]) == (1, [3, 2])
    assert "pad_token_id" not in found
    alone = dataclasses.replace(vocabulary, pieces=("a", "b", "c", "d"), extra_stop_ids=())
    found = config_json(SHAPE, "F32", dataclasses.replace(alone, bos_id=-1, padding_id=0))
    assert (found["bos_token_id"], found["eos_token_id"], found["pad_token_id"]) == (None, 3, 0)
    found = config_json(SHAPE, "F32", None)
    assert (found["bos_token_id"], found["eos_token_id"]) == (None, None)
