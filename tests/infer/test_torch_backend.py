"""The torch backend over pages in any order, against the NumPy twin and transformers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hf_peer import hf_peer, to_ours
from tiny_model import random_arrays, tiny_config

from puna import hardware
from puna.errors import MachineError, UsageError
from puna.infer.backends.base import PAGE_POSITIONS, Chunk, pages_for
from puna.model.sizes import ModelConfig, RopeScaling
from puna.model.twin import numpy_shape
from puna.native.numpy_llama import KvCache, NumpyLlama

torch = pytest.importorskip("torch")

from puna.infer.backends import torch_backend, torch_graphs  # noqa: E402
from puna.infer.backends.torch_backend import TorchBackend  # noqa: E402

# Both work in float32 and add in other orders; logits here are of size 5.
LOGIT_TOLERANCE = 1e-4

BASE = tiny_config(97, context_length=200)
SHAPES = {
    "grouped-query": BASE,
    "multi-head, tied": dataclasses.replace(BASE, kv_heads=None, tied_embeddings=True),
    "one head of each": dataclasses.replace(BASE, heads=1, kv_heads=1),
    "odd sizes": dataclasses.replace(BASE, dim=36, heads=6, kv_heads=3, hidden_dim=50),
    "llama3 scaling": dataclasses.replace(
        BASE, rope_scaling=RopeScaling("llama3", 8.0, original_context_length=32)
    ),
    "dynamic scaling": dataclasses.replace(
        BASE, rope_scaling=RopeScaling("dynamic", 4.0, original_context_length=40)
    ),
}


@dataclasses.dataclass
class Sequence:
    """Ids, the sizes of the chunks they come in, the pages, and the twin's logits after each."""

    ids: np.ndarray
    sizes: list[int]
    pages: np.ndarray
    logits: np.ndarray
    done: int = 0

    def next_chunk(self, wanted_rows: int) -> tuple[Chunk, np.ndarray]:
        """The next chunk with the logits wanted of it."""
        start, self.done = self.done, self.done + self.sizes.pop(0)
        pages = self.pages[: pages_for(self.done)]
        wanted_rows = min(wanted_rows, self.done - start)
        chunk = Chunk(pages, start, self.ids[start : self.done], wanted_rows)
        return chunk, self.logits[self.done - wanted_rows : self.done]


def backend_of(config: ModelConfig, pages: int = 64, **options) -> TorchBackend:
    backend = TorchBackend(config, random_arrays(config), device="cpu", **options)
    backend.reserve(pages)
    return backend


def twin_logits(config: ModelConfig, ids: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The NumPy twin's logits after each id, read in chunks of these sizes."""
    twin = NumpyLlama(numpy_shape(config), random_arrays(config))
    cache = KvCache(twin.shape, len(ids))
    pieces = np.split(ids, np.cumsum(sizes)[:-1])
    return np.concatenate([twin.logits(twin.hidden([(cache, piece)])) for piece in pieces])


def random_sizes(random: np.random.Generator, length: int) -> list[int]:
    """Chunk sizes that add up to `length`: decoded tokens, and pieces of a prompt."""
    sizes: list[int] = []
    while sum(sizes) < length:
        size = int(random.choice([1, 1, 1, 2, 5, 32, random.integers(1, 90)]))
        sizes.append(min(size, length - sum(sizes)))
    return sizes


def sequences(config: ModelConfig, seed: int) -> list[Sequence]:
    """Five texts, their pages scattered; the last two begin as the first, on its pages."""
    random = np.random.default_rng(seed)
    free = list(random.permutation(64))
    found: list[Sequence] = []
    for length in (150, 1, 40, 130, 77):
        ids, sizes = random.integers(0, 97, length), random_sizes(random, length)
        shared = 2 if len(found) > 2 else 0
        if shared:
            prefix = shared * PAGE_POSITIONS
            ids[:prefix] = found[0].ids[:prefix]
            sizes = [prefix, *random_sizes(random, length - prefix)]
        pages = [*found[0].pages[:shared]] if shared else []
        pages += [free.pop() for _ in range(pages_for(length) - shared)]
        found.append(Sequence(ids, sizes, np.array(pages, np.int32), np.empty(0)))
    found[0].sizes = [2 * PAGE_POSITIONS, *random_sizes(random, 150 - 2 * PAGE_POSITIONS)]
    for one in found:
        one.logits = twin_logits(config, one.ids, one.sizes)
    return found


def steps(texts: list[Sequence], seed: int) -> Iterator[tuple[list[Chunk], np.ndarray]]:
    """Random mixes of the texts' next chunks with the twin's logits, until all are read."""
    random = np.random.default_rng(seed)
    prefix, logits = texts[0].next_chunk(1)
    yield [prefix], logits
    for text in texts[3:]:  # these two find it in the first one's pages
        text.done = text.sizes.pop(0)
    while waiting := [text for text in texts if text.sizes]:
        count = random.integers(1, len(waiting) + 1)
        chosen = [waiting[index] for index in random.permutation(len(waiting))[:count]]
        pairs = [text.next_chunk(int(random.choice([0, 1, 1, 3, 200]))) for text in chosen]
        yield [chunk for chunk, _ in pairs], np.concatenate([logits for _, logits in pairs])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_any_mix_of_chunks_over_shared_and_scattered_pages_gives_the_twins_logits(shape, seed):
    backend = backend_of(SHAPES[shape])
    for chunks, wanted in steps(sequences(SHAPES[shape], seed), seed):
        found = backend.step(chunks)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=LOGIT_TOLERANCE, rtol=0)


def test_the_likeliest_and_the_scores_are_those_of_the_logits(monkeypatch):
    monkeypatch.setattr(torch_backend, "LOGIT_BYTES", 8 * 97 * 5)  # blocks of 5 rows
    config = SHAPES["grouped-query"]
    backend = backend_of(config)
    random = np.random.default_rng(5)
    for chunks, logits in steps(sequences(config, 5), 5):
        np.testing.assert_array_equal(backend.likeliest(chunks), logits.argmax(axis=-1))
        targets = random.integers(0, 97, len(logits))
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True, initial=-np.inf)
        rows = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        scores = backend.score(chunks, targets)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(
            scores, rows[np.arange(len(rows)), targets], atol=LOGIT_TOLERANCE, rtol=0
        )


def test_no_more_logits_than_64_mib_are_held_while_scoring(monkeypatch):
    backend, held = backend_of(BASE), []
    whole = backend.model.output.forward
    monkeypatch.setattr(backend.model.output, "forward", lambda x: held.append(x) or whole(x))
    monkeypatch.setattr(torch_backend, "LOGIT_BYTES", 8 * 97 * 7)
    chunk = Chunk(np.arange(3, dtype=np.int32), 0, np.arange(80), 80)
    backend.score([chunk], np.arange(80))
    assert sum(len(rows) for rows in held) == 80
    assert max(len(rows) for rows in held) == 7


@pytest.mark.parametrize("kind", [None, "llama3", "dynamic"])
def test_chunks_give_the_logits_of_transformers_with_its_cache(kind):
    scaling = kind and RopeScaling(kind, 8.0, 1.0, 4.0, original_context_length=40)
    config = dataclasses.replace(BASE, rope_scaling=scaling)
    peer = hf_peer(config)
    arrays = to_ours(peer, config, lambda parameter: parameter.detach())
    backend = TorchBackend(config, arrays, device="cpu")
    backend.reserve(8)
    ids, pages = np.random.default_rng(1).integers(0, 97, 120), np.array([6, 1, 7, 0], np.int32)
    start, past = 0, None
    for size in (30, 10, 1, 1, 58, 20):
        piece = ids[start : start + size]
        with torch.no_grad():
            wanted = peer(torch.from_numpy(piece[None]), past_key_values=past, use_cache=True)
        past = wanted.past_key_values
        found = backend.step([Chunk(pages, start, piece, size)])
        np.testing.assert_allclose(found, wanted.logits[0], atol=1e-5, rtol=0)
        start += size


@pytest.mark.parametrize("shape", ["grouped-query", "dynamic scaling"])
def test_a_decode_step_padded_to_a_graphs_size_gives_the_same_logits(shape):
    config = SHAPES[shape]
    backend = backend_of(config)
    random = np.random.default_rng(2)
    pages = random.permutation(64).astype(np.int32).reshape(8, 8)[:5]
    starts = (0, 31, 32, 100, 150)
    ids = random.integers(0, 97, (5, 200))
    read = zip(pages, starts, ids, strict=True)
    backend.step([Chunk(table, 0, row[:start], 0) for table, start, row in read])
    read = zip(pages, starts, ids, strict=True)
    chunks = [Chunk(table, start, row[start : start + 1]) for table, start, row in read]
    wanted = backend.step(chunks)
    with torch.inference_mode():
        past = torch_graphs.padded(backend.model, backend._cache, chunks)
        found = backend.model(past.ids, past)
        assert found.shape == (8, 97)
    assert torch.isfinite(found).all()
    np.testing.assert_allclose(found[:5], wanted, atol=LOGIT_TOLERANCE, rtol=0)
    assert [tuple(group.table.shape) for group in past.groups] == [(8, 8)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch.compile's own
def test_compiled_blocks_give_the_same_logits_and_store_rows_in_place():
    config = dataclasses.replace(BASE, layers=10)
    backend = backend_of(config)
    blocks = torch_graphs.compiled_blocks(backend.model)
    torch._dynamo.utils.counters.clear()
    for batch in (1, 2, 7):
        chunks = [Chunk(np.array([page], np.int32), 5, np.array([page])) for page in range(batch)]
        with torch.inference_mode():
            past = torch_graphs.padded(backend.model, backend._cache, chunks)
            wanted = torch_graphs.decode_logits(backend.model, past, None)
            stored = backend._cache.keys.clone()
            backend._cache.keys[:, :8, 5] = 0
            found = torch_graphs.decode_logits(backend.model, past, blocks)
        torch.testing.assert_close(found, wanted, atol=LOGIT_TOLERANCE, rtol=0)
        torch.testing.assert_close(backend._cache.keys, stored, atol=LOGIT_TOLERANCE, rtol=0)
    # For one row and for many, the first layer's and the others': not for each batch and layer.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 12


def test_graphs_take_decode_steps_that_are_mostly_work():
    graphs = torch_graphs.DecodeGraphs.__new__(torch_graphs.DecodeGraphs)

    def chunk(start, ids=1, wanted_rows=1):
        pages = np.arange(pages_for(start + ids), dtype=np.int32)
        return Chunk(pages, start, np.zeros(ids, dtype=np.int64), wanted_rows)

    assert torch_graphs.graph_size([chunk(0)]) == (1, 8)
    assert torch_graphs.graph_size([chunk(2048), *[chunk(9)] * 4]) == (8, 128)
    assert graphs.take([chunk(2048)])
    assert graphs.take([chunk(9)] * 33)
    assert not graphs.take([chunk(4000), *[chunk(9)] * 16])
    assert not graphs.take([chunk(9), chunk(0, ids=5)])
    assert not graphs.take([chunk(9), chunk(5, wanted_rows=0)])


def test_a_step_without_rows_gives_no_logits():
    backend = backend_of(BASE)
    pages = np.arange(2, dtype=np.int32)
    assert backend.step([]).shape == (0, 97)
    assert backend.step([Chunk(pages, 0, np.arange(40), 0)]).shape == (0, 97)
    assert backend.likeliest([Chunk(pages, 0, np.arange(40), 0)]).shape == (0,)


def test_pages_that_are_reserved_anew_are_empty_and_as_large_as_told():
    backend = backend_of(BASE, pages=3)
    chunk = Chunk(np.array([2], np.int32), 0, np.arange(9))
    backend.step([chunk])
    assert backend._cache.keys[:, 2].any()
    backend.reserve(4)
    assert not backend._cache.keys.any()
    kept = backend._cache.keys.nbytes + backend._cache.values.nbytes
    assert kept == (4 + 1) * backend.page_bytes  # a spare one takes what padding writes


def test_limits_are_kept_before_anything_is_stored(monkeypatch):
    backend, ids = backend_of(BASE, pages=8), np.zeros(40, dtype=np.int64)
    table = np.arange(8, dtype=np.int32)
    with pytest.raises(UsageError, match=r"positions up to 201 .* context is 200"):
        backend.step([Chunk(table, 161, ids)])
    for bad in (-1, 97):
        with pytest.raises(UsageError, match=r"0 \.\. 96"):
            backend.step([Chunk(table, 0, ids), Chunk(table, 0, ids + bad)])
    for pages in ([3], [3, 8], [-1, 3]):
        with pytest.raises(UsageError, match="up to 40 need 2 of the 8 reserved pages"):
            backend.step([Chunk(np.array(pages, np.int32), 0, ids)])
    assert not backend._cache.keys.any()
    monkeypatch.setattr(hardware, "memory_available_bytes", lambda: 10_000)
    with pytest.raises(MachineError, match="keys and values of 3200 tokens need"):
        backend.reserve(100)


def test_float32_weights_on_the_cpu_are_the_arrays_themselves():
    arrays = random_arrays(BASE)
    backend = TorchBackend(BASE, arrays, device="cpu")
    backend.reserve(1)
    chunk = Chunk(np.array([0], np.int32), 0, np.arange(5))
    before = backend.step([chunk])
    arrays["output.weight"][:] *= 2
    np.testing.assert_allclose(backend.step([chunk]), 2 * before, rtol=1e-6)


def test_bf16_gives_nearly_the_same_logits(monkeypatch):
    bf16 = hardware.Precision("bf16", "torch has it on every CPU")
    monkeypatch.setattr(hardware, "choose_precision", lambda *_: bf16)
    backend = backend_of(BASE, precision="bf16")
    assert backend.name.endswith("on cpu, bf16")
    assert backend._cache.keys.dtype == torch.bfloat16
    for chunks, wanted in steps(sequences(BASE, 1), 1):
        error = np.square(backend.step(chunks) - wanted).sum()
        # Of logits whose deviation is 3; bf16 keeps 8 bits.
        assert math.sqrt(error / max(1, wanted.size)) < 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_with_and_without_graphs_gives_the_twins_logits(shape):
    config = SHAPES[shape]
    for graphs in (True, False):
        backend = TorchBackend(
            config, random_arrays(config), device="cuda", precision="fp32", graphs=graphs
        )
        backend.reserve(64)
        for chunks, wanted in steps(sequences(config, 0), 0):
            np.testing.assert_allclose(backend.step(chunks), wanted, atol=1e-3, rtol=0)
