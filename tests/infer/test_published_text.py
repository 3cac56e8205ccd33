"""Real models, from their files to the text, the ids and the logits that others published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from puna.infer.backends.base import Chunk, pages_for
from puna.infer.engine import Engine, load_engine
from puna.infer.sampling_params import SamplingParams

SHARED = Path(__file__).parents[3] / "shared" / "weights"
DERIVED = SHARED / "derived"
FORMS = {
    "llama2c": SHARED / "stories260K" / "stories260K.bin",
    "gguf": SHARED / "stories260K" / "stories260K.gguf",
    "meta": DERIVED / "stories260K-meta",
    "hf": DERIVED / "stories260K-hf",
}
TOKENIZER = DERIVED / "tok512.model"
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared/weights, which no clone carries, is absent"
)


def require(backend: str) -> str:
    if backend == "torch":
        pytest.importorskip("torch")
    return backend


def greedy_ids(engine: Engine, ids: list[int], count: int) -> list[int]:
    """`ids` and the `count` likeliest ones after them, straight from the backend's logits."""
    pages = np.arange(pages_for(len(ids) + count), dtype=np.int32)
    engine.backend.reserve(len(pages))
    new, found = ids, list(ids)
    for _step in range(count):
        chunk = Chunk(pages, len(found) - len(new), np.array(new, dtype=np.int64))
        new = engine.backend.likeliest([chunk]).tolist()
        found += new
    return found


# torch needs few tokens to show that it is the same model, and is slow on so small a one.
@pytest.mark.parametrize(("backend", "tokens"), [("numpy", 200), ("torch", 40)])
@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_gives_the_published_ids_and_text(form, backend, tokens):
    published = json.loads((DERIVED / "stories260K-greedy-ids.json").read_text())
    engine = load_engine(FORMS[form], require(backend), tokenizer_path=TOKENIZER)
    count = min(tokens, len(published["ids"]) - 1)
    assert greedy_ids(engine, published["ids"][:1], count) == published["ids"][: count + 1]
    wanted = engine.tokenizer.decode(published["ids"][: count + 1])
    assert published["text"].startswith(wanted)
    told = engine.stream("", SamplingParams(temperature=0, max_tokens=count))
    assert "".join(told) == wanted
    begun = engine.stream(wanted[:40], SamplingParams(temperature=0, max_tokens=count))
    assert "".join(begun).startswith(wanted[40:])


@pytest.mark.parametrize("form", ["gguf", "meta", "hf"])
def test_a_form_s_own_tokenizer_gives_the_same_text(form):
    published = json.loads((DERIVED / "stories260K-greedy-ids.json").read_text())
    engine = load_engine(FORMS[form], "numpy")
    told = engine.stream("", SamplingParams(temperature=0, max_tokens=60))
    assert published["text"].startswith("".join(told))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("executorch-demo-meta-mp1", "expected_logits_meta_v1"),
        ("executorch-demo-meta-mp2", "expected_logits_meta_v1"),
        ("executorch-demo-hf", "expected_logits_transformers"),
    ],
)
def test_shards_give_the_logits_of_meta_s_own_code_and_of_transformers(folder, expected, backend):
    from safetensors.numpy import load_file

    arrays = load_file(DERIVED / folder / f"{expected}.safetensors")
    engine = load_engine(DERIVED / folder, require(backend), tokenizer_path=TOKENIZER)
    ids = arrays["input_ids"].reshape(-1)
    pages = np.arange(pages_for(len(ids)), dtype=np.int32)
    engine.backend.reserve(len(pages))
    logits = engine.backend.step([Chunk(pages, 0, ids.astype(np.int64), len(ids))])
    wanted = arrays["logits"].reshape(len(ids), -1)
    # Sums in another order: float32 keeps 7 digits of logits that reach about 3.
    np.testing.assert_allclose(logits[-len(wanted) :], wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("folder", ["executorch-demo-meta-mp1", "executorch-demo-meta-mp2"])
def test_shards_give_the_text_of_meta_s_own_code(folder):
    told = json.loads((DERIVED / folder / "expected_greedy_meta_v1.json").read_text())
    engine = load_engine(DERIVED / folder, "numpy")
    params = SamplingParams(temperature=0, max_tokens=told["max_gen_len"])
    for prompt, wanted in zip(told["prompts"], told["outputs"], strict=True):
        assert prompt + "".join(engine.stream(prompt, params)) == wanted
