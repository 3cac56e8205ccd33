"""The backends behind the protocol: equal logits and scores, whatever the chunks and pages."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import pytest
from tiny_model import random_arrays, tiny_config

from puna.errors import CheckpointError, MachineError, UsageError
from puna.infer.backends.base import PAGE_POSITIONS, Backend, Chunk, Draw, pages_for
from puna.infer.backends.numpy_backend import NumpyBackend
from puna.infer.sampler import drawn_id
from puna.model.sizes import RopeScaling
from puna.model.twin import numpy_shape
from puna.native.numpy_llama import KvCache, NumpyLlama

# Both work in float32 and add in other orders; logits here are of size 5.
LOGIT_TOLERANCE = 1e-4
PAGES = 12

SHAPES = {
    "grouped-query": {},
    "one head of each": {"heads": 1, "kv_heads": 1},
    "tied": {"tied_embeddings": True, "kv_heads": None},
    "linear": {"rope_scaling": RopeScaling("linear", 2.0)},
    "llama3": {"rope_scaling": RopeScaling("llama3", 8.0, original_context_length=32)},
    "odd sizes": {"dim": 36, "heads": 6, "kv_heads": 3, "hidden_dim": 50, "rope_theta": 5e5},
}
NAMES = ["numpy", "torch"]


def make(name: str, changes: dict) -> Backend:
    """The named backend with the random weights of that shape."""
    config = tiny_config(97, **changes)
    if name == "numpy":
        backend: Backend = NumpyBackend(config, random_arrays(config))
    else:
        pytest.importorskip("torch")
        from puna.infer.backends.torch_backend import TorchBackend

        backend = TorchBackend(config, random_arrays(config), device="cpu")
    backend.reserve(PAGES)
    return backend


def prompts() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 97, length) for length in (1, 7, 64)]


def pages_of(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def chunks_of(ids: np.ndarray, sizes: tuple[int, ...], pages=(7, 2)) -> list[Chunk]:
    """The ids in chunks of `sizes` and then the rest, every row wanted."""
    cuts = [*accumulate(sizes, initial=0), len(ids)]
    return [
        Chunk(pages_of(*pages[: pages_for(end)]), start, ids[start:end], end - start)
        for start, end in pairwise(cuts)
        if end > start
    ]


def all_logits(backend: Backend, ids: np.ndarray, sizes: tuple[int, ...] = ()) -> np.ndarray:
    """Logits after each id."""
    return np.concatenate([backend.step([chunk]) for chunk in chunks_of(ids, sizes)])


def twin_logits(ids: np.ndarray, changes: dict, sizes: tuple[int, ...] = ()) -> np.ndarray:
    """The same from the twin with its cache in one piece."""
    config = tiny_config(97, **changes)
    twin = NumpyLlama(numpy_shape(config), random_arrays(config))
    cache = KvCache(twin.shape, len(ids))
    parts = [twin.hidden([(cache, chunk.ids)]) for chunk in chunks_of(ids, sizes)]
    return twin.logits(np.concatenate(parts))


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, atol=LOGIT_TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_the_twins(name, shape):
    backend = make(name, SHAPES[shape])
    for ids in prompts():
        assert_close(all_logits(backend, ids), twin_logits(ids, SHAPES[shape]))


@pytest.mark.parametrize("name", NAMES)
def test_dynamic_positions_are_stretched_by_the_same_lengths(name):
    changes = {"rope_scaling": RopeScaling("dynamic", 2.0, original_context_length=16)}
    backend, ids = make(name, changes), prompts()[2]
    for sizes in ((), (10, 20, 1, 1)):
        assert_close(all_logits(backend, ids, sizes), twin_logits(ids, changes, sizes))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [(1,) * 63, (5, 11, 1, 30), (63,)])
def test_chunked_prefill_equals_one_shot(name, sizes):
    backend, ids = make(name, {}), prompts()[2]
    assert_close(all_logits(backend, ids, sizes), all_logits(backend, ids))


@pytest.mark.parametrize("name", NAMES)
def test_one_step_serves_several_sequences_and_only_the_rows_asked_for(name):
    backend = make(name, {})
    first, second = prompts()[1:]
    logits = backend.step(
        [
            Chunk(pages_of(5), 0, first, 2),
            Chunk(pages_of(0, 3), 0, second, 0),
            Chunk(pages_of(11, 1), 0, second, 3),
        ]
    )
    wanted = [all_logits(backend, first)[-2:], all_logits(backend, second)[-3:]]
    assert_close(logits, np.concatenate(wanted))
    assert backend.step([Chunk(pages_of(5), 0, first, 0)]).shape == (0, 97)
    assert backend.likeliest([Chunk(pages_of(5), 0, first, 0)]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_page_may_serve_several_sequences_in_one_step(name):
    backend, ids = make(name, {}), prompts()[2]
    other = np.concatenate([ids[:PAGE_POSITIONS], ids[:9]])
    all_logits(backend, ids)
    logits = backend.step(
        [
            Chunk(pages_of(7, 2), 63, ids[63:]),
            Chunk(pages_of(7, 4), PAGE_POSITIONS, other[PAGE_POSITIONS:]),
        ]
    )
    assert_close(logits[0], twin_logits(ids, {})[-1])
    assert_close(logits[1], twin_logits(other, {})[-1])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_rejected_draft_left_is_overwritten(name):
    backend, ids = make(name, {}), prompts()[2]
    wrong = (ids + 1) % 97
    backend.step([Chunk(pages_of(7), 0, ids[:10])])
    backend.step([Chunk(pages_of(7), 10, wrong[10:16], 6)])
    found = backend.step([Chunk(pages_of(7), 10, ids[10:13], 3)])
    assert_close(found, twin_logits(ids[:13], {})[-3:])


@pytest.mark.parametrize("name", NAMES)
def test_choose_gives_ids_that_are_drawn_or_the_logits_to_draw_from(name):
    backend = make(name, {})
    first, second = prompts()[1:]
    draws = [Draw(97), Draw(90, 0.8, 5, 0.9, 0.1, 0.7), Draw(97, 2.0, point=0.4)]
    plain = [Chunk(pages_of(5), 0, first, 2), Chunk(pages_of(0, 3), 0, second, 3)]
    logits = backend.step(plain)
    chosen = backend.choose([plain[0], replace(plain[1], draws=draws)])
    wanted = [*logits[:2], *map(drawn_id, logits[2:], draws)]
    for row, found, right, draw in zip(logits, chosen, wanted, [None, None, *draws], strict=True):
        assert draw is None or isinstance(found, int) or drawn_id(found, draw) == right
        np.testing.assert_array_equal(found, right if isinstance(found, int) else row)
    greedy = backend.choose([replace(one, draws=[Draw(97)] * one.wanted_rows) for one in plain])
    ids = [one if isinstance(one, int) else int(one.argmax()) for one in greedy]
    assert ids == backend.likeliest(plain).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_likeliest_and_score_are_those_of_the_logits(name, monkeypatch):
    backend = make(name, {})
    if name == "numpy":
        monkeypatch.setattr("puna.infer.backends.numpy_backend.LOGITS_AT_ONCE", 5 * 97)
    first, second = prompts()[1:]
    chunks = [Chunk(pages_of(5), 0, first, 2), Chunk(pages_of(0, 3), 0, second, 17)]
    logits = backend.step(chunks).astype(np.float64)
    assert backend.likeliest(chunks).tolist() == logits.argmax(axis=-1).tolist()
    targets = np.random.default_rng(3).integers(0, 97, 19)
    wanted = [
        row[aim] - math.log(sum(math.exp(score) for score in row))
        for row, aim in zip(logits, targets, strict=True)
    ]
    assert_close(backend.score(chunks, targets), np.array(wanted))


@pytest.mark.parametrize("name", NAMES)
def test_hidden_gives_the_states_that_the_logits_come_from(name):
    backend = make(name, {})
    first, second = prompts()[1:]
    chunks = [Chunk(pages_of(0, 3), 0, second, 17), Chunk(pages_of(5), 0, first, 2)]
    states = backend.hidden(chunks)
    output = random_arrays(tiny_config(97))["output.weight"]
    assert (states.shape, states.dtype) == ((19, 32), np.float32)
    assert_close(states @ output.T, backend.step(chunks))


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_kept(name):
    backend = make(name, {})
    with pytest.raises(UsageError, match="positions up to 65"):
        backend.step([Chunk(pages_of(1, 2, 3), 0, np.zeros(65, dtype=np.int64))])
    for pages in ([], [-1], [PAGES]):
        with pytest.raises(UsageError, match=rf"positions up to 7 need 1 of the {PAGES} reserved"):
            backend.step([Chunk(pages_of(*pages), 0, prompts()[1])])
    for bad in (-1, 97):
        with pytest.raises(UsageError, match=r"0 \.\. 96"):
            backend.step([Chunk(pages_of(0), 0, np.array([bad]))])


@pytest.mark.parametrize("name", NAMES)
def test_pages_that_memory_cannot_hold_are_refused(name, monkeypatch):
    backend = make(name, {})
    monkeypatch.setattr("puna.hardware.memory_available_bytes", lambda: 3 * backend.page_bytes)
    with pytest.raises(MachineError, match="128 tokens"):
        backend.reserve(4)
    backend.reserve(2)


@pytest.mark.parametrize("name", NAMES)
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
