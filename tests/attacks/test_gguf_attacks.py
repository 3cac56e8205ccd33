"""Every broken GGUF file ends in the one error it should, and so do random flips."""

import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import gguf_attacks as crafted
from attacks.mutations import ends_well, flips, truncations

from puna.errors import CheckpointError, PunaError
from puna.model.sizes import RopeScaling
from puna.weights.gguf import open_gguf
from puna.weights.gguf_file import read_gguf
from puna.weights.source import tensor_names

FLIPS = 100_000
QUICK_FLIPS = 2_000


def load(path: Path) -> dict[str, Any]:
    """Shape and values of every tensor in a file, all read."""
    source = open_gguf(path)
    found = {name: source.read(name) for name in source.tensors}
    wanted = tensor_names(source.config)
    assert {name: values.shape for name, values in found.items()} == wanted
    assert all(np.isfinite(values).all() for values in found.values())
    return found


def refused(path: Path, content: bytes) -> PunaError:
    path.write_bytes(content)
    outcome = ends_well(lambda: load(path), path)
    assert isinstance(outcome, PunaError), f"read as {outcome}"
    return outcome


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("version", [2, 3])
def test_the_good_file_is_good(path: Path, version: int):
    path.write_bytes(crafted.gguf(version=version))
    assert load(path)["norm.weight"].tolist() == [(index % 7 - 3) / 8 for index in range(8)]


def test_the_rich_file_is_good(path: Path):
    pytest.importorskip("gguf")  # one of its tensors is IQ4_NL
    path.write_bytes(crafted.RICH)
    assert load(path)["layers.0.attention.wq.weight"][0, :2].tolist() == [-4.0, -3.5]
    config = open_gguf(path).config
    assert (config.context_length, config.rope_scaling) == (12, RopeScaling("llama3", 8.0))


def test_another_alignment_is_good(path: Path):
    keys = crafted.KEYS | {"general.alignment": crafted.u32(64)}
    path.write_bytes(crafted.gguf(keys, alignment=64))
    assert load(path)["norm.weight"].tolist() == [(index % 7 - 3) / 8 for index in range(8)]


@pytest.mark.parametrize("label", crafted.ATTACKS)
def test_a_crafted_file_is_refused(label: str, path: Path):
    content, says = crafted.ATTACKS[label]
    error = refused(path, content)
    assert re.search(says, error.message), error.message
    if label in crafted.CONTAINER and "fewer" not in label:
        assert re.search(r": byte \d+: ", error.message), error.message


def test_every_class_of_llama_cpp_is_tried():
    header = {"BAD_MAGIC", "BAD_VERSION_0", "BAD_VERSION_1", "BAD_VERSION_FUTURE"}
    header |= {"BAD_N_TENSORS", "BAD_N_KV"}
    keys = {
        "BAD_KEY_SIZE",
        "EMPTY_KEY",
        "BAD_TYPE",
        "DUPLICATE_KEY",
        "BAD_ALIGN",
        "WRONG_TYPE_ALIGN",
    }
    tensors = {"BAD_NAME_SIZE", "BAD_N_DIMS", "BAD_SHAPE", "ZERO_DIM", "NE_TOO_BIG", "BAD_TYPE"}
    tensors |= {"NBYTES_TOO_BIG", "NBYTES_PAD_WRAP", "BAD_OFFSET", "DUPLICATE_NAME", "BAD_ALIGN"}
    tensors |= {"INCONSISTENT_ALIGN"}
    data = {"NOT_ENOUGH_DATA", "BAD_ALIGN", "MEM_SIZE_OVERFLOW"}
    groups = {"HEADER": header, "KV": keys, "TENSORS": tensors, "DATA": data}
    wanted = {f"{group}_{name}" for group, names in groups.items() for name in names}
    assert wanted <= set(crafted.CONTAINER)


def test_a_file_cut_short_at_any_byte_is_refused(path: Path):
    for content in truncations(crafted.GOOD):
        error = refused(path, content)
        assert isinstance(error, CheckpointError)


def test_bytes_after_the_last_tensor_are_told(path: Path):
    path.write_bytes(crafted.GOOD + b"more")
    assert open_gguf(path).notes == ("4 bytes after the last tensor of model.gguf were ignored",)


def test_a_piece_count_that_fills_a_large_file_takes_no_more_memory_than_it(path: Path):
    """Empty strings are the densest way to ask for objects: eight bytes of file for each."""
    keys = crafted.KEYS | {"x": crafted.strings([""] * 500_000)}
    path.write_bytes(crafted.gguf(keys))
    assert isinstance(ends_well(lambda: load(path), path), dict)


def attack(folder: Path, count: int, seed: int) -> int:
    """Flips, nine of ten before the data; how many of the files could still be read."""
    path, read = folder / "bent.gguf", 0
    for good, header_bytes in (
        (crafted.GOOD, crafted.HEADER_BYTES),
        (crafted.RICH, crafted.RICH_HEADER_BYTES),
    ):
        path.write_bytes(good)
        with suppress(PunaError):  # imports what reading takes, so that it is not counted below
            load(path)
        for content in flips(good, count // 2, regions=[range(header_bytes)], seed=seed):
            path.write_bytes(content)
            read += not isinstance(ends_well(lambda: load(path), path), PunaError)
    return read


def test_random_flips_end_well(tmp_path: Path):
    read = attack(tmp_path, QUICK_FLIPS, seed=1)
    assert 0 < read < QUICK_FLIPS


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
def test_many_random_flips_end_well(tmp_path: Path, part: int):
    attack(tmp_path, FLIPS // 10, seed=100 + part)


def test_hostile_keys_do_not_flood_the_message(path: Path):
    keys = crafted.KEYS | {"llama." + "k" * 60_000: crafted.u32(1)}
    path.write_bytes(crafted.gguf(keys))
    (note,) = open_gguf(path).notes
    assert len(note) < 200
    error = refused(path, crafted.gguf(keys | {"x" * 60_000: struct.pack("<I", 77)}))
    assert len(error.message) < 500


def test_a_vocabulary_alone_is_a_container_but_no_model(path: Path):
    path.write_bytes(crafted.gguf(entries=[]))
    assert read_gguf(path).metadata["tokenizer.ggml.tokens"][1] == "<s>"
    assert "token_embd.weight" in refused(path, crafted.gguf(entries=[])).message
