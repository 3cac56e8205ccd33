"""SmolLM2-135M-Instruct as somebody else quantised it: 272 tensors of Q4_1, Q8_0 and F32."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_vocabulary import smollm2_gguf
from source_twin import logits_of

from puna.console import silent
from puna.model.sizes import ModelConfig
from puna.tokens.formats.gguf_vocabulary import read_gguf_vocabulary
from puna.weights.gguf import GgufSource, open_gguf, write_gguf

# "<|im_start|>user\nWhat is a llama?..." or so: any ids serve, and these give likely logits.
IDS = [1, 4093, 198, 1780, 314, 253, 28, 90, 260, 905, 282, 4649, 314, 7042, 30, 2, 198]
LARGEST_DIFFERENCE = 1e-5  # of the largest logit: measured 1.5e-6, sums in another order


@pytest.fixture(scope="module")
def smollm2() -> GgufSource:
    return open_gguf(smollm2_gguf())


def test_it_is_what_its_authors_say(smollm2: GgufSource):
    assert smollm2.config == ModelConfig(
        dim=576,
        layers=30,
        heads=9,
        kv_heads=3,
        vocabulary_size=49152,
        context_length=8192,
        hidden_dim=1536,
        norm_epsilon=1e-5,
        rope_theta=100000.0,
        tied_embeddings=True,
    )
    kinds = Counter(one.dtype for one in smollm2.tensors.values())
    assert kinds == {"Q4_1": 210, "Q8_0": 1, "F32": 61}
    assert smollm2.notes == ()
    vocabulary = read_gguf_vocabulary(smollm2.tokenizer_files.gguf, smollm2.path)
    assert (vocabulary.kind, vocabulary.pre_tokenizer) == ("bpe", "smollm")
    assert "<|im_start|>" in vocabulary.chat_template


def test_written_as_what_it_is_every_tensor_keeps_its_bytes(smollm2: GgufSource, tmp_path: Path):
    """Q4_1 asked for gives the same mixture: the embedding is the output, 576 no whole 256s."""
    vocabulary = read_gguf_vocabulary(smollm2.tokenizer_files.gguf, smollm2.path)
    wishes = {"dtype": "q4_1", "vocabulary": vocabulary, "console": silent()}
    (path,) = write_gguf(smollm2, tmp_path / "again.gguf", **wishes)
    again = open_gguf(path)
    assert again.config == smollm2.config
    assert again.tensors == smollm2.tensors
    assert all(np.array_equal(again.raw(name), smollm2.raw(name)) for name in smollm2.tensors)
    assert again.parts[0].metadata["general.license"] == "apache-2.0"
    assert again.parts[0].metadata["general.file_type"] == 3
    assert read_gguf_vocabulary(again.tokenizer_files.gguf, path) == vocabulary


@pytest.mark.slow
def test_logits_are_those_of_transformers_from_the_same_file(smollm2: GgufSource):
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = smollm2.path
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    with torch.no_grad():
        wanted = peer(torch.tensor([IDS])).logits[0].numpy()
    found = logits_of(smollm2, IDS)
    assert np.abs(found - wanted).max() < LARGEST_DIFFERENCE * np.abs(wanted).max()
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()
