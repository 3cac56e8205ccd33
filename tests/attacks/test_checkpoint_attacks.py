"""Bent checkpoints of Puna's own, their hashes right again: a whole model, or one PunaError."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from attacks.mutations import ends_well, flips, other_values, truncations
from tiny_model import random_arrays, tiny_config, write_run

from puna.errors import PunaError
from puna.weights.checkpoint import open_checkpoint, read_model

FLIPS = 100_000
QUICK_FLIPS = 300
NAMES = ("manifest.json", "state.json", "recipe.toml", "model.safetensors")
HEAD_BYTES = 1200  # where the header of the weights ends


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of a very small model; its tokenizer is not read here."""
    (tmp_path / "tokenizer.model").write_bytes(b"none")
    config = tiny_config(vocabulary_size=4, dim=4, layers=1, heads=2, kv_heads=1, hidden_dim=4)
    run = write_run(tmp_path / "run", tmp_path / "tokenizer.model", config, random_arrays(config))
    return run / "checkpoints" / "step-000007"


def load(folder: Path) -> dict[str, Any]:
    source = open_checkpoint(folder)
    model = read_model(folder)
    assert set(source.tensors) == set(model.arrays)
    return {name: source.read(name).shape for name in source.tensors}


def attack(folder: Path, name: str, contents: Iterable[bytes]) -> int:
    """How many checkpoints with a bent file could be read; each must end well."""
    manifest, count = folder / "manifest.json", 0
    record = json.loads(manifest.read_bytes())
    for content in contents:
        (folder / name).write_bytes(content)
        if name in record["files"]:
            digest = hashlib.sha256(content).hexdigest()
            record["files"][name] = {"bytes": len(content), "sha256": digest}
            manifest.write_text(json.dumps(record))
        count += not isinstance(ends_well(lambda: load(folder), folder), PunaError)
    return count


def bent(content: bytes, name: str, count: int, seed: int) -> Iterable[bytes]:
    yield from flips(content, count, regions=[range(min(HEAD_BYTES, len(content)))], seed=seed)
    if name.endswith(".json"):
        yield from other_values(content, count, seed=seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_bent_file_with_the_right_hash_ends_well(name: str, checkpoint: Path):
    content = (checkpoint / name).read_bytes()
    assert attack(checkpoint, name, [content]) == 1
    assert attack(checkpoint, name, bent(content, name, QUICK_FLIPS, 1)) < 2 * QUICK_FLIPS


def test_a_shape_that_is_none_names_the_recipe(checkpoint: Path):
    content = (checkpoint / "recipe.toml").read_bytes()
    assert attack(checkpoint, "recipe.toml", [content.replace(b"heads = 2", b"heads = 3")]) == 0
    with pytest.raises(PunaError, match=r"recipe\.toml: model\.dim must be heads times"):
        load(checkpoint)


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", NAMES)
def test_many_bent_files_with_the_right_hash_end_well(name: str, part: int, checkpoint: Path):
    content = (checkpoint / name).read_bytes()
    if part == 0:
        attack(checkpoint, name, truncations(content))
    attack(checkpoint, name, bent(content, name, FLIPS // 10, 100 + part))
