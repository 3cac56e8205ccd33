"""Every crafted, cut or bent safetensors file and folder ends in its content, or one error."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from attacks.mutations import ends_well, flips, other_values, truncations
from attacks.safetensors_attacks import (
    FILES,
    FOLDERS,
    GOOD_FILE,
    VALUES,
    WEIGHTS,
    config,
    index,
    weights,
)

from puna.errors import CheckpointError
from puna.weights.huggingface import HuggingFaceModel, open_huggingface
from puna.weights.safetensors_file import open_safetensors

FLIPS = 100_000
QUICK_FLIPS = 2_000


def load(path: Path) -> bytes:
    """The bytes of all tensors, one after the other; those of floats are read as such, too."""
    found = open_safetensors(path)
    for tensor in found.values():
        if tensor.dtype in ("F32", "F16", "BF16", "F64"):
            assert tensor.array().shape == tensor.shape
    return b"".join(tensor.raw().tobytes() for tensor in found.values())


def outcome_of(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return ends_well(lambda: load(path), path)


def refused(path: Path, content: bytes, says: str) -> None:
    outcome = outcome_of(path, content)
    assert isinstance(outcome, CheckpointError), f"read as {outcome[:100]}"
    assert re.search(says, outcome.message), outcome.message


def load_folder(folder: Path) -> HuggingFaceModel:
    model = open_huggingface(folder)
    for name, stored in model.tensors.items():
        assert model.read(name).shape == stored.shape
    return model


def good_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_bytes(config())
    (folder / "model.safetensors").write_bytes(weights())
    return folder


def sharded_folder(folder: Path) -> Path:
    good_folder(folder)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(index(WEIGHTS))
    return folder


def test_the_good_file_and_folders_are_good(tmp_path: Path):
    assert outcome_of(tmp_path / "good.safetensors", GOOD_FILE) == VALUES
    for folder in (good_folder(tmp_path / "one"), sharded_folder(tmp_path / "many")):
        outcome = ends_well(lambda folder=folder: load_folder(folder), folder)
        assert isinstance(outcome, HuggingFaceModel)


@pytest.mark.parametrize("label", FILES)
def test_a_crafted_file_is_refused(label: str, tmp_path: Path):
    content, says = FILES[label]
    refused(tmp_path / "model.safetensors", content, says)


@pytest.mark.parametrize("label", FILES)
def test_the_library_refuses_the_same_files_but_where_we_are_stricter(label: str, tmp_path: Path):
    """Each of these that the safetensors library reads is a limit of ours, or its leniency."""
    from safetensors import SafetensorError, deserialize

    try:
        deserialize(FILES[label][0])
    except (SafetensorError, ValueError):
        return
    assert label in STRICTER


STRICTER = {
    "a field more",
    "a key of the metadata twice",
    "a long name",
    "a space first",
    "a tensor twice",
    "a tensor twice, escaped",
    "a text of 2 MB",
    "metadata that is null",
    "33 dimensions",
    "20,000 dimensions",
    "5,001 tensors",
}


def test_a_header_beyond_the_formats_limit_is_not_read(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:  # sparse: 100 MB that take no room
        file.write((100_000_001).to_bytes(8, "little") + b"{}")
        file.truncate(100_000_100)
    outcome = ends_well(lambda: load(path), path)
    assert isinstance(outcome, CheckpointError)
    assert "100000000, found 100000001" in outcome.message


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this platform has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file"):
        open_safetensors(tmp_path / "pipe")
    for place, made in (
        ("config.json", good_folder),
        ("a.safetensors", sharded_folder),
        ("model.safetensors.index.json", sharded_folder),
    ):
        folder = made(tmp_path / f"folder with {place}")
        (folder / place).unlink()
        os.mkfifo(folder / place)
        outcome = ends_well(lambda folder=folder: load_folder(folder), folder)
        assert isinstance(outcome, CheckpointError)


@pytest.mark.parametrize("label", FOLDERS)
def test_a_crafted_folder_is_refused(label: str, tmp_path: Path):
    changes, says = FOLDERS[label]
    folder = good_folder(tmp_path / "crafted")
    for name, content in changes.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    outcome = ends_well(lambda: load_folder(folder), folder)
    assert isinstance(outcome, CheckpointError), f"read as {outcome}"
    assert re.search(says, outcome.message), outcome.message


def test_a_file_cut_off_at_any_byte_is_refused(tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    for content in truncations(GOOD_FILE):
        assert isinstance(outcome_of(path, content), CheckpointError)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_cut_off_at_any_byte_is_refused(name: str, tmp_path: Path):
    folder = sharded_folder(tmp_path / "cut")
    good = (folder / name).read_bytes()
    for content in truncations(good):
        (folder / name).write_bytes(content)
        assert isinstance(ends_well(lambda: load_folder(folder), folder), CheckpointError)


def attack(folder: Path, count: int, seed: int) -> int:
    """Flips in a small file; what can be read has all bytes of the tensors, in their order."""
    path, read = folder / "bent.safetensors", 0
    for content in flips(GOOD_FILE, count, regions=[range(len(GOOD_FILE) - 24)], seed=seed):
        outcome = outcome_of(path, content)
        if not isinstance(outcome, CheckpointError):
            assert outcome == content[-24:]
            read += 1
    return read


def attack_values(folder: Path, count: int, seed: int) -> None:
    """Odd values in the header of a small file, its length right again."""
    end = len(GOOD_FILE) - len(VALUES)
    for header in other_values(GOOD_FILE[8:end], count, seed=seed):
        padded = header + b" " * (-len(header) % 8)
        content = len(padded).to_bytes(8, "little") + padded + VALUES
        outcome_of(folder / "bent.safetensors", content)


def attack_json(folder: Path, name: str, count: int, seed: int) -> int:
    """Flips in a folder's JSON; what can be read is a model whose weights have its shapes."""
    sharded_folder(folder)
    good, read = (folder / name).read_bytes(), 0
    json.loads(good)
    for content in (*flips(good, count, seed=seed), *other_values(good, count // 2, seed=seed)):
        (folder / name).write_bytes(content)
        outcome = ends_well(lambda: load_folder(folder), folder)
        read += isinstance(outcome, HuggingFaceModel)
    return read


def test_random_flips_end_well(tmp_path: Path):
    assert 0 < attack(tmp_path, QUICK_FLIPS, seed=1) < QUICK_FLIPS / 2
    attack_values(tmp_path, QUICK_FLIPS // 2, seed=2)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_random_flips_in_json_end_well(name: str, tmp_path: Path):
    assert attack_json(tmp_path / "bent", name, QUICK_FLIPS // 4, seed=1) < QUICK_FLIPS / 4


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_thousand_random_flips_end_well(part: int, tmp_path: Path):
    attack(tmp_path, FLIPS // 10, seed=100 + part)
    attack_values(tmp_path, FLIPS // 20, seed=200 + part)


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_hundred_thousand_random_flips_in_json_end_well(name: str, part: int, tmp_path: Path):
    attack_json(tmp_path / "bent", name, FLIPS // 10, seed=100 + part)
