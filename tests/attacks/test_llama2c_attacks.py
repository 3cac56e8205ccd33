"""Every crafted, cut or bent llama2.c file ends in a model that is whole, or one error."""

import re
from pathlib import Path
from typing import Any

import pytest
from attacks.llama2c_attacks import ATTACKS, GOOD_FILE, body, header
from attacks.mutations import ends_well, flips, truncations

from puna.errors import CheckpointError
from puna.weights.llama2c import open_llama2c

FLIPS = 100_000
QUICK_FLIPS = 2_000


def load(path: Path) -> dict[str, Any]:
    model = open_llama2c(path)
    return {name: model.read(name) for name in model.tensors}


def outcome_of(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return ends_well(lambda: load(path), path)


def test_the_good_files_are_good(tmp_path: Path):
    assert len(outcome_of(tmp_path / "a.bin", GOOD_FILE)) == 2 + 2 * 9
    own_output = header(vocabulary=-10) + body(-10)
    assert "output.weight" in outcome_of(tmp_path / "b.bin", own_output)


@pytest.mark.parametrize("label", ATTACKS)
def test_a_crafted_file_is_refused(label: str, tmp_path: Path):
    content, says = ATTACKS[label]
    outcome = outcome_of(tmp_path / "model.bin", content)
    assert isinstance(outcome, CheckpointError)
    assert re.search(says, outcome.message), outcome.message


def test_a_file_cut_off_at_any_byte_is_refused(tmp_path: Path):
    for content in truncations(GOOD_FILE):
        assert isinstance(outcome_of(tmp_path / "model.bin", content), CheckpointError)


def test_a_file_that_shrinks_after_opening_is_told(tmp_path: Path):
    path = tmp_path / "model.bin"
    path.write_bytes(GOOD_FILE)
    model = open_llama2c(path)
    path.write_bytes(GOOD_FILE[:100])
    with pytest.raises(CheckpointError, match=r"norm\.weight.* should have 32 bytes from byte"):
        model.read("norm.weight")
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        model.raw("norm.weight")


def attack(folder: Path, count: int, seed: int) -> None:
    for content in flips(GOOD_FILE, count, regions=[range(28)], seed=seed):
        outcome_of(folder / "bent.bin", content)


def test_random_flips_end_well(tmp_path: Path):
    attack(tmp_path, QUICK_FLIPS, seed=1)


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_thousand_random_flips_end_well(part: int, tmp_path: Path):
    attack(tmp_path, FLIPS // 10, seed=100 + part)
