"""A real trained model, from weights and tokenizer to the text that its authors published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hf_layout import hf_to_meta
from tiny_model import write_run

from puna.infer.engine import load_engine
from puna.infer.sampling_params import SamplingParams
from puna.model.sizes import ModelConfig

SHARED = Path(__file__).parents[3] / "shared" / "weights" / "derived"
STORIES = ModelConfig(
    dim=64,
    layers=5,
    heads=8,
    kv_heads=4,
    vocabulary_size=512,
    context_length=512,
    hidden_dim=172,
    tied_embeddings=True,
)


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """stories260K as a run folder."""
    if not SHARED.is_dir():
        pytest.skip("../shared/weights, which no clone carries, is absent")
    from safetensors.numpy import load_file

    folder = SHARED / "stories260K-hf"
    arrays = hf_to_meta(load_file(folder / "model.safetensors"), 8, tied=True)
    run = tmp_path_factory.mktemp("stories") / "run"
    return write_run(run, folder / "tokenizer.model", STORIES, arrays)


# torch needs few tokens to show that it is the same model, and is slow on so small a one.
@pytest.mark.parametrize(("backend", "tokens"), [("numpy", 200), ("torch", 40)])
def test_greedy_text_equals_the_published_one(stories, backend, tokens):
    if backend == "torch":
        pytest.importorskip("torch")
    published = json.loads((SHARED / "stories260K-greedy-ids.json").read_text())
    engine = load_engine(stories, backend)
    count = min(tokens, len(published["ids"]) - 1)
    wanted = engine.tokenizer.decode(published["ids"][: count + 1])
    assert published["text"].startswith(wanted)
    told = engine.generate("", SamplingParams(temperature=0, max_tokens=count))
    assert "".join(told) == wanted
    begun = engine.generate(wanted[:40], SamplingParams(temperature=0, max_tokens=count))
    assert "".join(begun).startswith(wanted[40:])
