"""One model through everything: trained, served, converted, quantised, and served again."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from serve.puna_serve import ROOT, puna_serve
from tiny_training import recipe_text, write_shards_folder

pytestmark = pytest.mark.slow


def puna(*words: object) -> None:
    """Run a verb."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "puna", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def served_text(model: Path) -> str:
    """What the served model says, greedily."""
    asked = {"prompt": "the people", "max_tokens": 16, "temperature": 0}
    with puna_serve(model, "--backend", "numpy") as url:
        answer = httpx2.post(f"{url}/v1/completions", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def test_a_trained_model_says_the_same_in_every_form(tmp_path: Path):
    pytest.importorskip("torch")
    shards = write_shards_folder(tmp_path / "shards")
    (tmp_path / "recipe.toml").write_text(recipe_text())
    run, folder = tmp_path / "run", tmp_path / "hf"
    plain, blocks = tmp_path / "plain.gguf", tmp_path / "blocks.gguf"
    puna("train", tmp_path / "recipe.toml", "--shards", shards, "--out", run)
    puna("convert", run, folder, "--to", "hf")
    puna("convert", folder, plain, "--to", "gguf")
    puna("quantize", plain, blocks, "--dtype", "q8_0")
    expected = served_text(run)
    assert expected
    assert [served_text(one) for one in (folder, plain, blocks)] == [expected] * 3
