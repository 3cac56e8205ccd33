"""Bent and hostile params.json, and shards that lie about one another."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from attacks.mutations import ends_well, flips, other_values, truncations
from memory_source import MemorySource
from tiny_model import random_arrays, tiny_config

from puna.console import silent
from puna.errors import PunaError
from puna.model.sizes import ModelConfig
from puna.weights.meta import open_meta, write_meta
from puna.weights.meta_params import Evidence, read_config

FLIPS = 100_000
QUICK_FLIPS = 1_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model in two shards, with params.json and puna.json."""
    config = tiny_config(vocabulary_size=16, dim=8, layers=2, heads=2, kv_heads=2, hidden_dim=12)
    source = MemorySource(config, random_arrays(config))
    write_meta(source, tmp_path / "model", dtype="f16", shards=2, console=silent())
    return tmp_path / "model"


def load(folder: Path) -> dict[str, Any]:
    opened = open_meta(folder)
    return {name: opened.read(name).shape for name in opened.tensors}


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layers": 2**31 - 1},
        {"n_layers": 3},
        {"n_layers": 1},
        {"dim": 2**31 - 2},
        {"dim": 2**31 - 2, "n_heads": 2**30 - 1},
        {"vocab_size": 2**31 - 1},
        {"multiple_of": 2**31 - 1},
        {"ffn_dim_multiplier": 1e29},
        {"ffn_dim_multiplier": 1e-9},
        {"hidden_dim": 2**31 - 1},
        {"n_heads": 4},
        {"n_kv_heads": 1},
        {"dim": 10**400},
        {"norm_eps": 10**400},
        {"deep": json.loads("[" * 900 + "]" * 900)},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_params_that_claim_another_model_are_refused(changes: dict[str, Any], model: Path):
    path = model / "params.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    outcome = ends_well(lambda: load(model), model)
    assert isinstance(outcome, PunaError) or "deep" in changes or changes == {"n_heads": 4}


def test_shards_that_do_not_belong_together_are_refused(model: Path):
    first, second = sorted(model.glob("*.pth"))
    whole = second.read_bytes()
    for end in range(0, len(whole), 97):
        second.write_bytes(whole[:end])
        assert isinstance(ends_well(lambda: load(model), model), PunaError)
    second.unlink()
    assert isinstance(ends_well(lambda: load(model), model), PunaError)
    second.symlink_to(first.name)
    outcome = ends_well(lambda: load(model), model)
    assert not isinstance(outcome, PunaError)  # twice the first half: right in shape


def load_params(folder: Path) -> ModelConfig:
    """Only what the two JSON files say, which is fast."""
    config, _ = read_config(folder / "params.json", Evidence(vocabulary_size=16))
    return config


def attack(model: Path, name: str, contents: Iterable[bytes], read: Callable[[Path], Any]) -> int:
    """How many of the models with a bent `name` could be read; all of them must end well."""
    path, count = model / name, 0
    for content in contents:
        path.write_bytes(content)
        count += not isinstance(ends_well(lambda: read(model), model), PunaError)
    return count


@pytest.mark.parametrize("name", ["params.json", "puna.json"])
def test_a_file_cut_off_at_any_byte_ends_well(name: str, model: Path):
    good = (model / name).read_bytes().rstrip()
    assert attack(model, name, truncations(good), load_params) == 0


@pytest.mark.parametrize("name", ["params.json", "puna.json"])
def test_random_flips_end_well(name: str, model: Path):
    good = (model / name).read_bytes()
    assert attack(model, name, flips(good, QUICK_FLIPS, seed=1), load_params) < QUICK_FLIPS / 2
    assert attack(model, name, flips(good, QUICK_FLIPS // 10, seed=2), load) < QUICK_FLIPS / 20
    attack(model, name, other_values(good, QUICK_FLIPS // 2, seed=3), load_params)


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", ["params.json", "puna.json"])
def test_a_hundred_thousand_random_flips_end_well(part: int, name: str, model: Path):
    good = (model / name).read_bytes()
    attack(model, name, flips(good, FLIPS // 10, seed=100 + part), load_params)
    attack(model, name, other_values(good, FLIPS // 10, seed=300 + part), load_params)
    attack(model, name, flips(good, FLIPS // 100, seed=200 + part), load)
