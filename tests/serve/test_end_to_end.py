"""One model through everything: trained, served, converted, quantised, and served again."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from cpu_runs import isas
from serve.puna_serve import ROOT, puna_serve
from tiny_training import recipe_text, write_shards_folder
from token_texts import documents

# What the model is trained on says how its greedy text goes on, whoever computes it.
SENTENCE = "The llama lives on the high grassland of the Andes, where the air is thin and cold."
TOKENS = 24
LONG_ENOUGH = {"steps": 150, "validate_every": 150, "sample_every": 150, "checkpoint_every": 150}


def puna(*words: object) -> None:
    """Run a verb."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "puna", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def served_texts(*models: Path) -> list[str]:
    """What each model says greedily, all behind one server, by the C++ kernels where there are."""
    texts = []
    backend = "cpu" if isas() else "numpy"
    with (
        puna_serve(*models, "--backend", backend) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
    ):
        for model in client.get("/v1/models").json()["data"]:
            asked = {"model": model["id"], "prompt": "The llama", "max_tokens": TOKENS}
            answer = client.post("/v1/completions", json={**asked, "temperature": 0})
            assert answer.status_code == 200, answer.text
            texts.append(answer.json()["choices"][0]["text"])
    return texts


def test_a_trained_model_says_the_same_in_every_form(tmp_path: Path):
    pytest.importorskip("torch")
    texts = [(name, f"{SENTENCE}\n{text[:60]}") for name, text in documents(160)]
    shards = write_shards_folder(tmp_path / "shards", texts=texts)
    (tmp_path / "recipe.toml").write_text(recipe_text(**LONG_ENOUGH))
    run, folder, halves = (tmp_path / name for name in ("run", "hf", "hf-bf16"))
    plain, half, blocks = (tmp_path / f"{name}.gguf" for name in ("plain", "f16", "q8_0"))
    puna("train", tmp_path / "recipe.toml", "--shards", shards, "--out", run)
    (expected,) = served_texts(run)
    assert expected.strip()
    assert SENTENCE.startswith("The llama" + expected)
    puna("convert", run, folder, "--to", "hf")
    puna("convert", folder, halves, "--to", "hf", "--dtype", "bf16")
    puna("convert", folder, plain, "--to", "gguf")
    puna("convert", folder, half, "--to", "gguf", "--dtype", "f16")
    puna("quantize", plain, blocks, "--dtype", "q8_0")
    assert served_texts(folder, halves, plain, half, blocks) == [expected] * 5
