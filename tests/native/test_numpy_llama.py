"""The NumPy twin against transformers, against a trained model's published text, and formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hf_layout import hf_to_meta
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import CheckpointError, UsageError
from puna.native.numpy_llama import (
    DynamicScaling,
    KvCache,
    NumpyLlama,
    Shape,
    attend,
    llama3_frequencies,
    rms_norm,
    rotary_frequencies,
    rotate,
    silu,
)

# float32 sums in another order; logits here are of size 1.
LOGIT_TOLERANCE = 1e-4
# The same sums in another order within the twin: a few units in the last place.
CHUNK_TOLERANCE = 1e-5

SHARED = Path(__file__).parents[3] / "shared" / "weights" / "derived"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared/weights, which no clone carries, is absent"
)


def run(model: NumpyLlama, ids, *, cache: KvCache | None = None):
    """Logits [time, vocabulary] after each id, continuing `cache` where there is one."""
    cache = cache or KvCache(model.shape, model.shape.context_length)
    return model.logits(model.hidden([(cache, np.asarray(ids, dtype=np.int64))]))


def hf_pair(*, scaling=None, kv_heads=4, tied=False, theta=10000.0, seed=0):
    """A small random LlamaForCausalLM and the twin with the same weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    parameters = {"rope_type": "default", "rope_theta": theta, **(scaling or {})}
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=88,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=24 if scaling == DYNAMIC else 64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        rope_parameters=parameters,
    )
    torch.manual_seed(seed)
    peer = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():  # unit norms and tiny weights would hide mistakes
        for name, parameter in peer.named_parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            elif "embed" not in name:
                parameter.mul_(5)
    arrays = {name: array.detach().numpy() for name, array in peer.state_dict().items()}
    frequencies, dynamic = rotary_frequencies(16, theta), None
    if scaling == DYNAMIC:
        dynamic = DynamicScaling(theta, scaling["factor"], original_context_length=24)
    elif scaling and scaling["rope_type"] == "linear":
        frequencies = frequencies / np.float32(scaling["factor"])
    elif scaling:
        frequencies = llama3_frequencies(
            frequencies,
            factor=scaling["factor"],
            low=scaling["low_freq_factor"],
            high=scaling["high_freq_factor"],
            original_context_length=scaling["original_max_position_embeddings"],
        )
    shape = Shape(3, 4, kv_heads, 64, 1e-5, frequencies, dynamic)
    return peer, NumpyLlama(shape, hf_to_meta(arrays, 16, tied=tied))


LINEAR = {"rope_type": "linear", "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_heads": 2},
        {"kv_heads": 1, "tied": True},
        {"theta": 500000.0},
        {"scaling": LINEAR},
        {"scaling": LLAMA3, "kv_heads": 2},
        {"scaling": DYNAMIC, "kv_heads": 2},
    ],
    ids=["plain", "grouped-query", "one kv head, tied", "theta", "linear", "llama3", "dynamic"],
)
def test_logits_equal_those_of_transformers(options):
    torch = pytest.importorskip("torch")
    peer, twin = hf_pair(**options)
    ids = np.random.default_rng(1).integers(0, 97, 64)
    with torch.no_grad():
        wanted = peer(torch.from_numpy(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(run(twin, ids), wanted, atol=LOGIT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("length", [1, 23, 24])
def test_dynamic_scaling_leaves_sequences_up_to_the_original_length_alone(length):
    _, stretched = hf_pair(scaling=DYNAMIC)
    _, plain = hf_pair()
    ids = np.arange(length)
    assert np.array_equal(run(stretched, ids), run(plain, ids))


def test_dynamic_scaling_goes_by_the_length_of_each_sequence_of_a_call():
    torch = pytest.importorskip("torch")
    peer, twin = hf_pair(scaling=DYNAMIC)
    random = np.random.default_rng(1)
    sequences = [random.integers(0, 97, length) for length in (10, 30, 64)]
    batch = [(KvCache(twin.shape, 64), ids) for ids in sequences]
    found = np.split(twin.logits(twin.hidden(batch)), [10, 40])
    for logits, ids in zip(found, sequences, strict=True):
        with torch.no_grad():
            wanted = peer(torch.from_numpy(ids)[None]).logits[0].numpy()
        np.testing.assert_allclose(logits, wanted, atol=LOGIT_TOLERANCE, rtol=0)


@needs_shared
def test_trained_model_repeats_its_published_greedy_text():
    from safetensors.numpy import load_file

    arrays = hf_to_meta(load_file(SHARED / "stories260K-hf/model.safetensors"), 8, tied=True)
    twin = NumpyLlama(Shape(5, 8, 4, 512, 1e-5, rotary_frequencies(8, 10000.0)), arrays)
    published = json.loads((SHARED / "stories260K-greedy-ids.json").read_text())["ids"]
    cache = KvCache(twin.shape, 512)
    ids = [1]
    while len(ids) < len(published):
        ids.append(int(run(twin, ids[-1:], cache=cache)[-1].argmax()))
    assert ids == published


@needs_shared
@pytest.mark.parametrize("expected", ["executorch-demo-hf", "executorch-demo-meta-mp1"])
def test_logits_equal_those_of_meta_code(expected):
    from safetensors.numpy import load_file

    arrays = hf_to_meta(load_file(SHARED / "executorch-demo-hf/model.safetensors"), 8, tied=False)
    twin = NumpyLlama(Shape(5, 8, 8, 512, 1e-5, rotary_frequencies(8, 10000.0)), arrays)
    (file,) = (SHARED / expected).glob("expected_logits_*.safetensors")
    wanted = load_file(file)
    logits = run(twin, wanted["input_ids"])
    np.testing.assert_allclose(logits, wanted["logits"], atol=LOGIT_TOLERANCE, rtol=0)


def random_twin(seed: int = 0, kv_heads: int = 2) -> NumpyLlama:
    """A twin with random weights, two layers, no other package needed."""
    random = np.random.default_rng(seed)
    shape = Shape(2, 4, kv_heads, 32, 1e-5, rotary_frequencies(8, 10000.0))

    def draw(*size):
        return random.normal(0, 0.3, size).astype(np.float32)

    arrays = {"tok_embeddings.weight": draw(50, 32), "norm.weight": draw(32) + 1}
    for layer in range(2):
        for name, size in {
            "attention_norm": (32,),
            "attention.wq": (32, 32),
            "attention.wk": (8 * kv_heads, 32),
            "attention.wv": (8 * kv_heads, 32),
            "attention.wo": (32, 32),
            "ffn_norm": (32,),
            "feed_forward.w1": (40, 32),
            "feed_forward.w2": (32, 40),
            "feed_forward.w3": (40, 32),
        }.items():
            arrays[f"layers.{layer}.{name}.weight"] = draw(*size)
    return NumpyLlama(shape, arrays)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_any_chunking_gives_the_logits_of_one_call(sizes):
    twin = random_twin()
    ids = np.random.default_rng(2).integers(0, 50, min(sum(sizes), 32))
    whole = run(twin, ids)
    cache = KvCache(twin.shape, len(ids))
    pieces = [piece for piece in np.split(ids, np.cumsum(sizes)[:-1]) if len(piece)]
    chunked = np.concatenate([run(twin, piece, cache=cache) for piece in pieces])
    np.testing.assert_allclose(chunked, whole, atol=CHUNK_TOLERANCE, rtol=0)


def test_sequences_in_one_call_do_not_see_each_other():
    twin = random_twin()
    first, second = [3, 1, 4, 1, 5], [9, 2, 6]
    alone = np.concatenate([run(twin, first), run(twin, second)])
    batch = [(KvCache(twin.shape, 8), np.array(ids)) for ids in (first, second)]
    together = twin.logits(twin.hidden(batch))
    np.testing.assert_allclose(together, alone, atol=CHUNK_TOLERANCE, rtol=0)


def test_later_tokens_do_not_change_earlier_logits():
    twin = random_twin()
    left, right = run(twin, [7, 8, 9, 10]), run(twin, [7, 8, 40, 41])
    np.testing.assert_allclose(left[:2], right[:2], atol=CHUNK_TOLERANCE, rtol=0)
    assert np.abs(left[2:] - right[2:]).max() > CHUNK_TOLERANCE


def test_attention_equals_the_textbook_sums():
    random = np.random.default_rng(3)
    query = random.normal(size=(3, 4, 6)).astype(np.float32)
    keys, values = random.normal(size=(2, 2, 5, 6)).astype(np.float32)
    wanted = np.zeros_like(query)
    for row in range(3):
        for head in range(4):
            visible = range(5 - 3 + row + 1)
            raw = [query[row, head] @ keys[head // 2, past] / np.sqrt(6) for past in visible]
            weights = np.exp(raw) / np.sum(np.exp(raw))
            wanted[row, head] = sum(w * values[head // 2, p] for p, w in enumerate(weights))
    np.testing.assert_allclose(attend(query, keys, values), wanted, atol=1e-6)


def test_rotation_is_multiplication_by_a_unit_complex_number():
    random = np.random.default_rng(4)
    x = random.normal(size=(5, 2, 8)).astype(np.float32)
    angles = np.outer(np.arange(5), rotary_frequencies(8, 10000.0))[:, None]
    turned = rotate(x, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    wanted = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    np.testing.assert_allclose(turned[..., 0::2] + 1j * turned[..., 1::2], wanted, atol=1e-6)


def test_rms_norm_and_silu_equal_their_formulas_without_warnings():
    x = np.array([[3.0, 4.0], [1000.0, -1000.0]], dtype=np.float32)
    normed = rms_norm(x, np.array([1.0, 2.0], dtype=np.float32), 0.0)
    np.testing.assert_allclose(normed, [[3 / 12.5**0.5, 8 / 12.5**0.5], [1, -2]], rtol=1e-6)
    np.testing.assert_allclose(silu(x), [[2.857722, 3.928055], [1000, 0]], rtol=1e-6)


def test_positions_past_the_end_are_refused():
    twin = random_twin()
    with pytest.raises(UsageError, match=r"positions up to 33 .* room for 32"):
        run(twin, [1] * 33)
    with pytest.raises(UsageError, match=r"positions up to 5 .* room for 4"):
        run(twin, [1] * 5, cache=KvCache(twin.shape, 4))


@pytest.mark.parametrize("bad", [-1, 50])
def test_ids_outside_the_vocabulary_are_refused(bad):
    with pytest.raises(UsageError, match=r"must lie in 0 \.\. 49"):
        run(random_twin(), [1, bad])


def test_wrong_weights_are_named():
    twin = random_twin()
    arrays = dict(twin.arrays)
    arrays["layers.1.attention.wk.weight"] = np.zeros((3, 32), dtype=np.float32)
    with pytest.raises(CheckpointError, match=r"layers\.1\.attention\.wk.*\[16, 32\].*\[3, 32\]"):
        NumpyLlama(twin.shape, arrays)
    del arrays["layers.1.attention.wk.weight"]
    with pytest.raises(CheckpointError, match="found nothing"):
        NumpyLlama(twin.shape, arrays)
    with pytest.raises(CheckpointError, match=r"rope\.freqs, which a LLaMA of this shape lacks"):
        NumpyLlama(twin.shape, {**twin.arrays, "rope.freqs": np.zeros(4, dtype=np.float32)})
    with pytest.raises(CheckpointError, match=r"matrix tok_embeddings\.weight"):
        NumpyLlama(twin.shape, {})
