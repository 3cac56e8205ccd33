"""Whole folders with one bent file, opened as any verb opens them: a model, or one PunaError."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from attacks.mutations import ends_well, flips
from tiny_model import random_arrays, tiny_config, write_run, write_tokenizer

from puna.console import silent
from puna.weights.convert import Conversion, convert
from puna.weights.open_model import load_tokenizer, open_model

FORMS = ("puna", "hf", "meta", "gguf")
QUICK, LONG = 12, 500  # copies of each file
HEAD_BYTES = 2000  # where most headers end


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A very small model in a folder for each form."""
    place = tmp_path_factory.mktemp("forms")
    config = tiny_config(dim=16, heads=2, kv_heads=1)
    tokenizer = write_tokenizer(place / "tokenizer")
    run = write_run(place / "run", tokenizer, config, random_arrays(config))
    source = open_model(run)
    found = {"puna": run / "checkpoints" / "step-000007"}
    for form in ("hf", "meta", "gguf"):
        found[form] = place / form
        target = place / form / "model.gguf" if form == "gguf" else place / form
        wish = Conversion(form, dtype="f16", is_proved=False)
        convert(source, target, wish, silent(), load_tokenizer(source))
    return found


def read_all(folder: Path) -> None:
    """What running a model reads of it."""
    source = open_model(folder)
    load_tokenizer(source)
    for name in source.tensors:
        source.read(name)


def attack(folder: Path, count: int, seed: int = 0) -> None:
    """`count` bent copies of each file, half of them cut short."""
    for file in sorted(one for one in folder.iterdir() if one.is_file()):
        good = file.read_bytes()
        cuts = random.Random(seed)
        head = range(min(HEAD_BYTES, len(good)))
        for bent in flips(good, count, regions=[head], seed=seed):
            file.write_bytes(bent)
            ends_well(lambda: read_all(folder), folder)
            file.write_bytes(good[: cuts.randrange(len(good))])
            ends_well(lambda: read_all(folder), folder)
        file.unlink()
        ends_well(lambda: read_all(folder), folder)
        file.write_bytes(good)


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_with_a_bent_file_is_a_model_or_one_error(folders, tmp_path: Path, form):
    attack(shutil.copytree(folders[form], tmp_path / form), QUICK)


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("form", FORMS)
def test_the_same_for_long(folders, tmp_path: Path, form, part: int):
    attack(shutil.copytree(folders[form], tmp_path / form), LONG, seed=100 + part)
