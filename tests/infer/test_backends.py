"""Both backends behind the protocol: equal logits and scores, whatever the chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tiny_model import random_arrays, tiny_config

from puna.errors import CheckpointError, UsageError
from puna.infer.backends.base import IGNORED_TARGET, Backend, Chunk
from puna.infer.backends.numpy_backend import NumpyBackend
from puna.model.sizes import RopeScaling

# Both work in float32 and add in other orders; logits here are of size 5.
LOGIT_TOLERANCE = 1e-4
SCORE_TOLERANCE = 1e-3  # the sum of up to 64 log-probabilities

SHAPES = {
    "grouped-query": {},
    "one head of each": {"heads": 1, "kv_heads": 1},
    "tied": {"tied_embeddings": True, "kv_heads": None},
    "linear": {"rope_scaling": RopeScaling("linear", 2.0)},
    "llama3": {"rope_scaling": RopeScaling("llama3", 8.0, original_context_length=32)},
    "odd sizes": {"dim": 36, "heads": 6, "kv_heads": 3, "hidden_dim": 50, "rope_theta": 5e5},
}


def make(name: str, changes: dict) -> Backend:
    """The named backend with the random weights of that shape."""
    config = tiny_config(97, **changes)
    if name == "numpy":
        return NumpyBackend(config, random_arrays(config))
    pytest.importorskip("torch")
    from puna.infer.backends.torch_backend import TorchBackend

    return TorchBackend(config, random_arrays(config), device="cpu")


def prompts() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 97, length) for length in (1, 7, 64)]


def all_logits(backend: Backend, ids: np.ndarray, sizes: tuple[int, ...] = ()) -> np.ndarray:
    """Logits after each id, in chunks of `sizes` and then the rest."""
    past = backend.past(len(ids))
    pieces = [piece for piece in np.split(ids, np.cumsum(sizes, dtype=int)) if len(piece)]
    return np.concatenate([backend.step([Chunk(past, p, len(p))]) for p in pieces])


@pytest.mark.parametrize("shape", SHAPES)
def test_backends_agree_on_logits_and_scores(shape):
    twin, fast = (make(name, SHAPES[shape]) for name in ("numpy", "torch"))
    for ids in prompts():
        np.testing.assert_allclose(
            all_logits(fast, ids), all_logits(twin, ids), atol=LOGIT_TOLERANCE, rtol=0
        )
    inputs = np.stack([prompts()[2], prompts()[2][::-1]])
    targets = np.roll(inputs, -1, axis=1)
    targets[1, 30:] = IGNORED_TARGET
    np.testing.assert_allclose(
        fast.score(inputs, targets), twin.score(inputs, targets), atol=SCORE_TOLERANCE
    )


def test_backends_stretch_dynamic_positions_by_the_same_lengths():
    changes = {"rope_scaling": RopeScaling("dynamic", 2.0, original_context_length=16)}
    twin, fast = (make(name, changes) for name in ("numpy", "torch"))
    ids = prompts()[2]
    for sizes in ((), (10, 20, 1, 1)):
        np.testing.assert_allclose(
            all_logits(fast, ids, sizes), all_logits(twin, ids, sizes), atol=LOGIT_TOLERANCE, rtol=0
        )


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_on_cuda_agrees_with_the_twin(shape):
    from puna.infer.backends.torch_backend import TorchBackend

    config = tiny_config(97, **SHAPES[shape])
    fast = TorchBackend(config, random_arrays(config), device="cuda")
    twin = make("numpy", SHAPES[shape])
    for ids in prompts():
        for sizes in ((), (1, 3)):
            np.testing.assert_allclose(
                all_logits(fast, ids, sizes), all_logits(twin, ids), atol=LOGIT_TOLERANCE, rtol=0
            )
    ids = prompts()[2][None]
    np.testing.assert_allclose(fast.score(ids, ids), twin.score(ids, ids), atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("sizes", [(1,) * 63, (5, 11, 1, 30), (63,)])
def test_chunked_prefill_equals_one_shot(name, sizes):
    backend = make(name, {})
    ids = prompts()[2]
    np.testing.assert_allclose(
        all_logits(backend, ids, sizes), all_logits(backend, ids), atol=LOGIT_TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_one_step_serves_several_sequences_and_only_the_rows_asked_for(name):
    backend = make(name, {})
    first, second = prompts()[1:]
    chunks = [Chunk(backend.past(64), first, 2), Chunk(backend.past(64), second, 0)]
    logits = backend.step([*chunks, Chunk(backend.past(64), second, 3)])
    assert [chunk.past.length for chunk in chunks] == [7, 64]
    wanted = np.concatenate([all_logits(backend, first)[-2:], all_logits(backend, second)[-3:]])
    np.testing.assert_allclose(logits, wanted, atol=LOGIT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_a_step_that_wants_no_logits_gives_none(name):
    backend = make(name, {})
    assert backend.step([Chunk(backend.past(8), prompts()[1], 0)]).shape == (0, 97)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_score_is_the_sum_of_log_softmax_over_counted_targets(name, monkeypatch):
    module = f"puna.infer.backends.{name}_backend"
    backend = make(name, {})
    monkeypatch.setattr(f"{module}.rows_per_block", lambda vocabulary_size: 5)  # several blocks
    inputs = np.random.default_rng(2).integers(0, 97, (3, 11))
    targets = np.random.default_rng(3).integers(0, 97, (3, 11))
    targets[0, 4:] = targets[2] = IGNORED_TARGET
    wanted = []
    for row, aims in zip(inputs, targets, strict=True):
        logits = all_logits(backend, row).astype(np.float64)
        total = 0.0
        for scores, aim in zip(logits, aims, strict=True):
            if aim != IGNORED_TARGET:
                total += scores[aim] - math.log(sum(math.exp(score) for score in scores))
        wanted.append(total)
    np.testing.assert_allclose(backend.score(inputs, targets), wanted, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_padding_after_the_counted_targets_changes_nothing(name):
    backend = make(name, {})
    ids = prompts()[1]
    padded = np.concatenate([ids, [0] * 20])
    aims = np.concatenate([ids, [IGNORED_TARGET] * 20])
    np.testing.assert_allclose(
        backend.score(padded[None], aims[None]),
        backend.score(ids[None], ids[None]),
        atol=SCORE_TOLERANCE,
    )


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_limits_are_kept(name):
    backend = make(name, {})
    with pytest.raises(UsageError, match="positions up to 65"):
        backend.step([Chunk(backend.past(100), np.zeros(65, dtype=np.int64))])
    with pytest.raises(UsageError, match=r"positions up to 7 .* room for 4"):
        backend.step([Chunk(backend.past(4), prompts()[1])])
    for bad in (-1, 97):
        with pytest.raises(UsageError, match=r"0 \.\. 96"):
            backend.step([Chunk(backend.past(4), np.array([bad]))])


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("missing", ["norm.weight", "layers.1.attention.wq.weight"])
def test_missing_weights_are_named(name, missing):
    config = tiny_config(97)
    arrays = random_arrays(config)
    del arrays[missing]
    if name == "torch":
        pytest.importorskip("torch")
        from puna.infer.backends.torch_backend import TorchBackend as Wanted
    else:
        Wanted = NumpyBackend
    with pytest.raises(CheckpointError, match=missing):
        Wanted(config, arrays)
