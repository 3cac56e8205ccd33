"""Hugging Face folders against transformers: the same logits, read and written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from shared_weights import SHARED, needs_shared
from source_twin import logits_of

from puna.console import silent
from puna.weights.huggingface import open_huggingface, write_huggingface

# Logits in float32, sums in another order, relative to the largest one.
LOGIT_TOLERANCE = 1e-5
TEXT_LENGTH = 40


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500000.0,
}
VARIANTS = {
    "multi-head": {},
    "grouped-query": {"num_key_value_heads": 2},
    "one kv head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "theta and epsilon": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        "rms_norm_eps": 1e-3,
    },
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
        "max_position_embeddings": 24,
    },
    "llama3": {"rope_parameters": LLAMA3, "num_key_value_heads": 2},
    "mistral": {"class": "Mistral", "num_key_value_heads": 2, "sliding_window": TEXT_LENGTH},
    "mistral without window": {"class": "Mistral", "sliding_window": None},
}


def peer_of(variant: str, dtype: str = "float32"):
    """A random model of transformers', its norms not 1, its attention not flat."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    options = {"num_key_value_heads": 4, "max_position_embeddings": 64, **VARIANTS[variant]}
    kind = options.pop("class", "Llama")
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=88,
        num_hidden_layers=3,
        num_attention_heads=4,
        **options,
    )
    torch.manual_seed(0)
    peer = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            elif "embed" not in name:
                parameter.mul_(5)
    return peer.to(getattr(torch, dtype)).eval()


def text_ids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 97, TEXT_LENGTH)


def logits_by_transformers(folder: Path) -> np.ndarray:
    """What transformers makes of the folder in float32, as its config says which model it is."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.from_numpy(text_ids())[None]).logits[0].numpy()


def assert_same_logits(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(wanted).max() > 0.1
    tolerance = LOGIT_TOLERANCE * max(1.0, np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_the_logits_are_those_of_transformers(tmp_path: Path, variant: str):
    peer_of(variant).save_pretrained(tmp_path / "theirs")
    source = open_huggingface(tmp_path / "theirs")
    wanted = logits_by_transformers(tmp_path / "theirs")
    assert_same_logits(logits_of(source, text_ids()), wanted)
    write_huggingface(source, tmp_path / "ours", dtype=None, console=silent())
    assert_same_logits(logits_by_transformers(tmp_path / "ours"), wanted)
    # The same tensors in the same file: to the byte.
    ours, theirs = ((tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert "LlamaForCausalLM" in (tmp_path / "ours" / "config.json").read_text()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_weights_are_read_as_they_are_and_written_back_to_the_byte(tmp_path, dtype: str):
    peer_of("grouped-query", dtype).save_pretrained(tmp_path / "theirs")
    source = open_huggingface(tmp_path / "theirs")
    assert {one.dtype for one in source.tensors.values()} == {{"float16": "F16"}.get(dtype, "BF16")}
    assert_same_logits(logits_of(source, text_ids()), logits_by_transformers(tmp_path / "theirs"))
    write_huggingface(source, tmp_path / "ours", dtype=None, console=silent())
    ours, theirs = ((tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert json.loads((tmp_path / "ours/config.json").read_text())["torch_dtype"] == dtype


def test_shards_of_transformers_are_read_and_ours_are_read_by_transformers(tmp_path: Path):
    peer_of("grouped-query").save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    source = open_huggingface(tmp_path / "theirs")
    assert source.notes == ()
    wanted = logits_by_transformers(tmp_path / "theirs")
    assert_same_logits(logits_of(source, text_ids()), wanted)
    write_huggingface(
        source, tmp_path / "ours", dtype=None, console=silent(), max_shard_bytes=40_000
    )
    files = sorted((tmp_path / "ours").glob("model-*.safetensors"))
    assert len(files) > 2
    assert all(sum(a.nbytes for a in load_file(one).values()) <= 40_000 for one in files)
    assert_same_logits(logits_by_transformers(tmp_path / "ours"), wanted)
    again = open_huggingface(tmp_path / "ours")
    for name in source.tensors:
        assert np.array_equal(again.raw(name), source.raw(name)), name


@pytest.mark.parametrize("sharded", [False, True])
def test_old_style_pickled_weights_are_read_with_their_buffers_left_aside(tmp_path, sharded: bool):
    torch = pytest.importorskip("torch")
    peer = peer_of("grouped-query")
    peer.config.save_pretrained(tmp_path)
    state = dict(peer.state_dict())
    for layer in range(3):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    names = sorted(state)
    halves = [names[::2], names[1::2]] if sharded else [names]
    files = ["a.bin", "b.bin"] if sharded else ["pytorch_model.bin"]
    for file, part in zip(files, halves, strict=True):
        torch.save({name: state[name] for name in part}, tmp_path / file)
    if sharded:
        places = {name: file for file, part in zip(files, halves, strict=True) for name in part}
        index = json.dumps({"metadata": {}, "weight_map": places})
        (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    source = open_huggingface(tmp_path)
    assert len(source.notes) == 1
    assert "rotary_emb.inv_freq" in source.notes[0]
    with torch.no_grad():
        wanted = peer(torch.from_numpy(text_ids())[None]).logits[0].numpy()
    assert_same_logits(logits_of(source, text_ids()), wanted)


@needs_shared
def test_published_logits_of_a_converted_model(tmp_path: Path):
    """The folder and the logits come from elsewhere: transformers read the same weights."""
    folder = SHARED / "derived" / "executorch-demo-hf"
    source = open_huggingface(folder)
    wanted = load_file(folder / "expected_logits_transformers.safetensors")
    found = logits_of(source, wanted["input_ids"].reshape(-1))
    assert_same_logits(found, wanted["logits"].reshape(found.shape))


@needs_shared
def test_a_trained_folder_is_the_meta_folder_it_was_made_from():
    from puna.weights.meta import open_meta

    ours = open_huggingface(SHARED / "derived" / "stories260K-hf")
    theirs = open_meta(SHARED / "derived" / "stories260K-meta")
    assert ours.config.tied_embeddings
    assert ours.tokenizer_files.files.keys() == {"tokenizer.model"}
    for name in ours.tensors:
        assert np.array_equal(ours.read(name), theirs.read(name)), name
        assert np.array_equal(ours.raw(name), theirs.raw(name)), name


@needs_shared
def test_an_old_pickled_model_is_read(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    folder = SHARED / "basaran-tiny-random-llama"
    source = open_huggingface(folder)
    assert any("inv_freq" in note for note in source.notes)
    assert "tokenizer.json" in source.tokenizer_files.files
    peer = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = peer(torch.from_numpy(text_ids())[None]).logits[0].numpy()
    np.testing.assert_allclose(logits_of(source, text_ids()), wanted, atol=LOGIT_TOLERANCE, rtol=0)
    write_huggingface(source, tmp_path / "ours", dtype=None, console=silent())
    assert np.array_equal(
        logits_of(open_huggingface(tmp_path / "ours"), text_ids()), logits_of(source, text_ids())
    )
