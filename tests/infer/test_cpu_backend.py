"""The C++ engine against the NumPy twin: every build that runs here, every mode, odd shapes."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from cpu_runs import isas, needs_kernels, run_texts
from mixed_model import PLAIN, SCALES, MixedSource, mixed_source, twin_logits
from shared_weights import SHARED, needs_shared

from puna.errors import CheckpointError, MachineError, UsageError
from puna.infer.backends.base import Chunk, pages_for
from puna.infer.backends.cpu_backend import CpuBackend, Kept
from puna.infer.backends.numpy_backend import NumpyBackend
from puna.model.sizes import ModelConfig
from puna.weights.gguf_types import TYPES
from puna.weights.open_model import open_model

# float: the same float32 sums in another order. Measured up to 1e-6 of the largest logit.
FLOAT_TOLERANCE = 5e-6
# Activations of 9 bits: of 32 bell-shaped numbers the largest is about 2.1 deviations, so a step is
# 2.1 / 254 of one, and rounding errs by a step / sqrt(12): 0.25 % of each input of a product. Every
# product sees independent errors, which add up as squares do: four on the way through a layer, one
# at the end. Attention and norms pass them on about as they come; twice that is the limit.
ROUNDING = 2.1 / 254 / 12**0.5
# bfloat16 rounds by up to 2^-9, on average by 2^-9 / sqrt(3): below that, so one limit serves.
ERROR_FACTOR = 2.0


pytestmark = needs_kernels

# name -> changes of the config, how many sequences at once, positions of the longest
SHAPES = {
    "dim 8": ({"dim": 8, "heads": 1, "kv_heads": 1, "hidden_dim": 12}, 5, 40),
    "GQA 8 of 8": ({"dim": 64, "heads": 8, "kv_heads": 1, "hidden_dim": 96}, 64, 12),
    "288": ({"dim": 288, "heads": 6, "kv_heads": 6, "hidden_dim": 160}, 3, 90),
    "576": ({"dim": 576, "heads": 9, "kv_heads": 3, "hidden_dim": 256, "vocab": 1000}, 2, 70),
    "heads of 128": ({"dim": 256, "heads": 2, "kv_heads": 1, "hidden_dim": 512}, 16, 33),
    "GQA 7": ({"dim": 224, "heads": 7, "kv_heads": 1, "hidden_dim": 64}, 3, 65),
    "GQA 5, heads of 6": ({"dim": 30, "heads": 5, "kv_heads": 1, "hidden_dim": 33}, 33, 8),
    "GQA 6, tied": ({"dim": 192, "heads": 12, "kv_heads": 2, "tied_embeddings": True}, 4, 50),
    "heads of 80": ({"dim": 160, "heads": 2, "kv_heads": 2, "hidden_dim": 96}, 2, 64),
    "two segments": ({"dim": 64, "heads": 4, "kv_heads": 2, "hidden_dim": 64}, 2, 600),
    "4096": (
        {"dim": 4096, "heads": 32, "kv_heads": 8, "hidden_dim": 512, "layers": 1, "vocab": 500},
        3,
        33,
    ),
    "vocabulary of 128k": ({"dim": 256, "heads": 4, "kv_heads": 2, "vocab": 128256}, 3, 40),
    "context of 8k": ({"dim": 64, "heads": 4, "kv_heads": 1, "layers": 1}, 2, 8192),
}
SLOW = ("4096", "vocabulary of 128k", "context of 8k")


@functools.lru_cache(maxsize=2)
def case(shape: str) -> tuple[MixedSource, list[np.ndarray], list[np.ndarray]]:
    """The model, the sequences and the twin's logits."""
    changes, count, longest = SHAPES[shape]
    changes = {"layers": 2, "vocab": 97, **changes}
    source = mixed_source(
        ModelConfig(vocabulary_size=changes.pop("vocab"), context_length=longest, **changes)
    )
    random = np.random.default_rng(5)
    lengths = [longest, *random.integers(1, min(longest, 100) + 1, count - 1)]
    texts = [random.integers(0, source.config.vocabulary_size, length) for length in lengths]
    return source, texts, [twin_logits(source, ids) for ids in texts]


@pytest.mark.parametrize("mode", ["float", "exact", "fast"])
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(
    "shape", [pytest.param(one, marks=pytest.mark.slow if one in SLOW else ()) for one in SHAPES]
)
def test_logits_are_the_twins(shape, isa, mode):
    source, texts, wanted = case(shape)
    backend = CpuBackend(source, threads=2, mode=mode, isa=isa)
    sizes = [1, 40, 7, 24, 100] if len(texts[0]) <= 700 else [2000, 1, 700]
    found = run_texts(backend, texts, sizes)
    largest = np.abs(np.concatenate(wanted)).max()
    products = 4 * source.config.layers + 1
    for mine, twins in zip(found, wanted, strict=True):
        if mode == "float":
            np.testing.assert_allclose(mine, twins, atol=FLOAT_TOLERANCE * largest, rtol=0)
        else:
            error = np.sqrt(np.mean((mine - twins) ** 2) / np.mean(twins**2))
            assert error < ERROR_FACTOR * ROUNDING * products**0.5


# Chunk sizes in turn, and threads: nothing that the exact mode may notice.
CHUNKS = {
    "one by one": ([1], 2),
    "below a block": ([7, 3, 5], 4),
    "around a block": ([8, 9, 1, 23], 3),
    "around tiles": ([24, 23, 33, 64, 1], 5),
    "at once": ([1000], 1),
}
MODELS = {
    "mixed": {"dim": 256, "heads": 4, "kv_heads": 2, "hidden_dim": 256},
    "mixed, odd widths": {"dim": 96, "heads": 6, "kv_heads": 3, "hidden_dim": 160},
    "F16": {"dim": 40, "heads": 2, "kv_heads": 1, "hidden_dim": 56, "types": ["F16"]},
    "BF16": {"dim": 96, "heads": 3, "kv_heads": 1, "hidden_dim": 160, "types": ["BF16"]},
    "F32": {"dim": 64, "heads": 2, "kv_heads": 1, "hidden_dim": 88, "types": ["F32"]},
    "plain": {
        "dim": 40,
        "heads": 2,
        "kv_heads": 1,
        "hidden_dim": 56,
        "types": ["F32", "F16", "BF16"],
    },
    "Q6_K, Q3_K": {"dim": 256, "heads": 2, "hidden_dim": 512, "types": ["Q6_K", "Q3_K"]},
}
INT8 = ("mixed", "mixed, odd widths", "F16")  # of which a cache in int8 is tried too


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("shape", ["576", "GQA 5, heads of 6", "heads of 80", "two segments"])
def test_a_cache_in_int8_errs_as_its_steps_say(shape, isa):
    """A step is a 127th of a head's greatest value, twice that of activations."""
    source, texts, _ = case(shape)
    with_bf16, with_int8 = (
        run_texts(CpuBackend(source, threads=2, mode="exact", isa=isa, kv=kv), texts, [1, 40, 600])
        for kv in ("bf16", "int8")
    )
    for mine, theirs in zip(with_int8, with_bf16, strict=True):
        error = np.sqrt(np.mean((mine - theirs) ** 2) / np.mean(theirs**2))
        # Keys' errors and values', a layer; both runs differ in their activations' roundings too.
        assert error < ERROR_FACTOR * 2 * ROUNDING * (2 * source.config.layers) ** 0.5
    assert not np.array_equal(with_int8[0], with_bf16[0])


@functools.lru_cache(maxsize=1)
def exact_case(model: str) -> tuple[MixedSource, list[np.ndarray]]:
    """A model and three texts, the first over two segments of attention."""
    changes = dict(MODELS[model])
    types = {"types": changes.pop("types")} if "types" in changes else {}
    config = ModelConfig(vocabulary_size=97, context_length=700, layers=2, **changes)
    random = np.random.default_rng(6)
    return mixed_source(config, **types), [random.integers(0, 97, n) for n in (550, 70, 1)]


@functools.lru_cache(maxsize=4)
def one_by_one(model: str, kv: Kept, *, has_fma: bool) -> list[np.ndarray]:
    """Logits of each text alone, an id a step, on one thread."""
    source, texts = exact_case(model)
    isa = "avx2" if has_fma else "portable"
    backend = CpuBackend(source, threads=1, mode="exact", isa=isa, kv=kv)
    return [run_texts(backend, [ids], [1])[0] for ids in texts]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(
    ("model", "kv"), [*((model, "bf16") for model in MODELS), *((model, "int8") for model in INT8)]
)
def test_exact_logits_are_the_same_bits_whatever_runs_beside_them(model, kv, isa, chunks):
    """Chunks, other texts in the step, pages, threads; builds too: only the portable lacks fma."""
    source, texts = exact_case(model)
    sizes, threads = CHUNKS[chunks]
    wanted = one_by_one(model, kv, has_fma=isa != "portable")
    backend = CpuBackend(source, threads=threads, mode="exact", isa=isa, kv=kv)
    found = run_texts(backend, texts, sizes, seed=threads)
    assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    alone = run_texts(backend, texts[1:2], sizes)
    assert np.array_equal(alone[0], wanted[1])


@needs_shared
@pytest.mark.parametrize("mode", ["exact", "fast", "float"])
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("prompt", [1, 60])
def test_a_trained_model_repeats_its_published_greedy_ids(prompt, isa, mode):
    published = json.loads((SHARED / "derived" / "stories260K-greedy-ids.json").read_text())["ids"]
    source = open_model(SHARED / "stories260K" / "stories260K.gguf")
    backend = CpuBackend(source, threads=2, mode=mode, isa=isa)
    pages = np.arange(pages_for(len(published)), dtype=np.int32)
    backend.reserve(len(pages))
    ids, new = published[:prompt], published[:prompt]
    while len(ids) < len(published):
        chunk = Chunk(pages, len(ids) - len(new), np.array(new))
        new = backend.likeliest([chunk]).tolist()
        ids = ids + new
    assert ids == published


@pytest.mark.parametrize("isa", isas())
def test_likeliest_and_scores_are_those_of_the_logits(isa):
    source, texts = exact_case("mixed")
    backend = CpuBackend(source, threads=2, mode="exact", isa=isa)
    pages = np.arange(pages_for(550), dtype=np.int32)
    backend.reserve(len(pages))
    chunk = [Chunk(pages, 0, texts[0], 300)]  # more rows than logits are kept of at once
    logits = backend.step(chunk).astype(np.float64)
    assert np.array_equal(backend.likeliest(chunk), logits.argmax(axis=1))
    targets = np.random.default_rng(7).integers(0, 97, 300)
    normaliser = np.log(np.exp(logits).sum(axis=1))
    wanted = logits[np.arange(300), targets] - normaliser
    np.testing.assert_allclose(backend.score(chunk, targets), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("model", ["mixed", "plain"])
def test_final_states_are_the_twins_and_in_the_exact_mode_the_same_bits(model, isa):
    source, texts = exact_case(model)
    arrays = {name: source.read(name) for name in source.tensors}
    pages, ids = np.arange(3, dtype=np.int32), texts[1]
    cuts = [
        [Chunk(pages, 0, ids, 70)],
        [Chunk(pages, at, ids[at : at + size], size) for at, size in ((0, 9), (9, 1), (10, 60))],
    ]
    backends = [CpuBackend(source, threads=2, mode=mode, isa=isa) for mode in ("float", "exact")]
    twin, wide, exact = [NumpyBackend(source.config, arrays), *backends]
    for backend in (twin, wide, exact):
        backend.reserve(3)
    wanted = twin.hidden(cuts[0])
    np.testing.assert_allclose(wide.hidden(cuts[0]), wanted, atol=2e-5, rtol=0)
    once, often = (np.concatenate([exact.hidden([one]) for one in cut]) for cut in cuts)
    assert np.array_equal(once, often)
    assert exact.hidden([]).shape == (0, source.config.dim)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q2_K", "Q6_K"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_their_name(dtype, bad):
    source = mixed_source(small_config(), [dtype])
    name = "layers.1.feed_forward.w3.weight"
    rows = source.rows[name]
    kind = TYPES[dtype]
    if dtype in PLAIN:
        rows[40, -kind.block_bytes :] = {
            "F32": np.array([bad], np.float32).view(np.uint8),
            "F16": np.array([bad], np.float16).view(np.uint8),
            "BF16": np.array([bad], np.float32).view(np.uint8)[2:],
        }[dtype]
    else:
        place = SCALES[dtype][1] or SCALES[dtype][0]
        rows[40, place : place + 2] = np.array([bad], np.float16).view(np.uint8)
    with pytest.raises(CheckpointError, match=f"{name} should hold weights: .* NaN or infinite"):
        CpuBackend(source, threads=1)


def small_config() -> ModelConfig:
    return ModelConfig(
        dim=256, layers=2, heads=4, hidden_dim=256, vocabulary_size=97, context_length=64
    )


@pytest.mark.parametrize("isa", isas())
def test_logits_that_are_not_finite_are_one_clear_error(isa):
    """Finite weights, sums that overflow."""
    source = mixed_source(small_config(), ["F32"])
    source.rows["norm.weight"] = np.full(256, 3e38, dtype=np.float32).view(np.uint8)
    for mode in ("exact", "fast", "float"):
        backend = CpuBackend(source, threads=2, mode=mode, isa=isa)
        backend.reserve(2)
        for count in (1, 64):
            chunk = Chunk(np.arange(2, dtype=np.int32), 0, np.arange(count))
            for ask in (backend.step, backend.likeliest):
                with pytest.raises(CheckpointError, match="logits are not finite"):
                    ask([chunk])


def test_limits_are_the_other_backends():
    backend = CpuBackend(mixed_source(small_config()), threads=1)
    backend.reserve(2)
    pages = np.arange(3, dtype=np.int32)
    with pytest.raises(UsageError, match="positions up to 65"):
        backend.step([Chunk(pages, 0, np.zeros(65, dtype=np.int64))])
    for bad in ([], [-1], [2]):
        with pytest.raises(UsageError, match="positions up to 7 need 1 of the 2 reserved pages"):
            backend.step([Chunk(np.array(bad, dtype=np.int32), 0, np.zeros(7, dtype=np.int64))])
    for bad in (-1, 97):
        with pytest.raises(UsageError, match=r"0 \.\. 96"):
            backend.step([Chunk(pages[:1], 0, np.array([bad]))])
    assert backend.step([]).shape == (0, 97)
    assert backend.likeliest([Chunk(pages[:1], 0, np.zeros(3, dtype=np.int64), 0)]).shape == (0,)


def test_pages_that_memory_cannot_hold_are_refused(monkeypatch):
    backend = CpuBackend(mixed_source(small_config()), threads=1)
    monkeypatch.setattr("puna.hardware.memory_available_bytes", lambda: 3 * backend.page_bytes)
    with pytest.raises(MachineError, match="128 tokens"):
        backend.reserve(4)
    backend.reserve(2)
