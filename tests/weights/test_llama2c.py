"""llama2.c's files, against the derived Meta form of the same model and its published text."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from shared_weights import SHARED, needs_shared
from source_twin import greedy_ids
from tiny_model import random_arrays, tiny_config

from puna.errors import CheckpointError
from puna.model.sizes import ModelConfig
from puna.weights.llama2c import open_llama2c
from puna.weights.meta import open_meta

STORIES = SHARED / "stories260K" / "stories260K.bin"


def write_llama2c(path: Path, config: ModelConfig, arrays: dict[str, np.ndarray]) -> None:
    """A version 0 file, as llama2.c's export.py lays it out."""
    sign = 1 if config.tied_embeddings else -1
    header = (
        config.dim,
        config.ffn_dim,
        config.layers,
        config.heads,
        config.kv_head_count,
        sign * config.vocabulary_size,
        config.context_length,
    )
    kinds = ["attention_norm", *(f"attention.w{letter}" for letter in "qkvo")]
    kinds += ["ffn_norm", *(f"feed_forward.w{number}" for number in (1, 2, 3))]
    parts = [arrays["tok_embeddings.weight"]]
    parts += [
        arrays[f"layers.{layer}.{kind}.weight"] for kind in kinds for layer in range(config.layers)
    ]
    angles = np.zeros((config.context_length, config.head_dim), dtype=np.float32)
    parts += [arrays["norm.weight"], angles]
    if not config.tied_embeddings:
        parts.append(arrays["output.weight"])
    path.write_bytes(struct.pack("<7i", *header) + b"".join(part.tobytes() for part in parts))


@needs_shared
def test_stories260k_equals_its_meta_form_byte_by_byte():
    found, wanted = open_llama2c(STORIES), open_meta(SHARED / "derived" / "stories260K-meta")
    assert list(found.tensors) == list(wanted.tensors)
    for name in found.tensors:
        assert found.raw(name).tobytes() == wanted.raw(name).tobytes()
        np.testing.assert_array_equal(found.read(name), wanted.read(name))


@needs_shared
def test_stories260k_tells_its_published_story():
    wanted = json.loads((SHARED / "derived" / "stories260K-greedy-ids.json").read_text())["ids"]
    assert greedy_ids(open_llama2c(STORIES), wanted[:1], len(wanted) - 1) == wanted


@needs_shared
def test_stories260k_s_header_and_tokenizer_are_found():
    found = open_llama2c(STORIES)
    assert found.config == ModelConfig(
        dim=64,
        layers=5,
        heads=8,
        kv_heads=4,
        vocabulary_size=512,
        context_length=512,
        hidden_dim=172,
        tied_embeddings=True,
    )
    assert list(found.tokenizer_files.files) == ["tok512.bin"]


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_own_output_are_told_by_the_sign_of_the_vocabulary(tied: bool, tmp_path: Path):
    config = tiny_config(vocabulary_size=40, tied_embeddings=tied, hidden_dim=88)
    arrays = random_arrays(config)
    write_llama2c(tmp_path / "model.bin", config, arrays)
    found = open_llama2c(tmp_path / "model.bin")
    assert found.config.tied_embeddings == tied
    assert set(found.tensors) == set(arrays)
    for name, wanted in arrays.items():
        np.testing.assert_array_equal(found.read(name), wanted)


def test_a_newer_version_of_the_format_is_refused_with_the_way_out(tmp_path: Path):
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<Ii", 0x616B3432, 2) + bytes(248))
    with pytest.raises(CheckpointError, match="found version 2") as error:
        open_llama2c(path)
    assert "--version 0" in str(error.value)


def test_a_number_that_is_not_finite_is_told(tmp_path: Path):
    config = tiny_config(vocabulary_size=40, hidden_dim=88)
    arrays = random_arrays(config)
    arrays["norm.weight"][3] = np.inf
    write_llama2c(tmp_path / "model.bin", config, arrays)
    with pytest.raises(CheckpointError, match=r"norm\.weight: its values should be finite"):
        open_llama2c(tmp_path / "model.bin").read("norm.weight")
