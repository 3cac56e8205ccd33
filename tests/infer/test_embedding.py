"""Vectors of texts: the mean of their final states, against transformers, whatever runs beside."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from cpu_runs import needs_kernels
from hf_peer import hf_peer, to_ours
from mixed_model import mixed_source
from prefix_backend import PrefixBackend
from small_vocabulary import smollm2_gguf
from tiny_model import TEXTS, tiny_config, write_tokenizer

from puna.errors import BusyError, CheckpointError, UsageError
from puna.infer.async_engine import EMBEDDED_AT_ONCE, AsyncEngine
from puna.infer.backends.base import PAGE_POSITIONS, Backend
from puna.infer.backends.numpy_backend import NumpyBackend
from puna.infer.embedding import StateMean
from puna.infer.engine import Engine, EngineSettings, load_engine
from puna.infer.sampling_params import SamplingParams
from puna.model.sizes import ModelConfig
from puna.tokens.tokenizer import Tokenizer

# Two float32 implementations of the same model; the vectors have length 1.
TOLERANCE = 1e-5
CONTEXT = 64
GREEDY = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("embedding")))


def make(backend: Backend, tokenizer: Tokenizer, config: ModelConfig, **limits) -> Engine:
    settings = EngineSettings(**{"context_tokens": 500, "step_rows": 48, **limits})
    return Engine(config, tokenizer, backend, choice="", checkpoint=Path(), settings=settings)


def prefix_engine(tokenizer: Tokenizer, **limits) -> Engine:
    config = tiny_config(320, context_length=CONTEXT)
    return make(PrefixBackend(320), tokenizer, config, **limits)


def prompts(count: int) -> list[list[int]]:
    """Of all lengths, many with a common beginning."""
    random = np.random.default_rng(2)
    common = random.integers(3, 320, CONTEXT)
    return [
        [*common[: int(random.integers(0, 40))], *random.integers(3, 320, random.integers(1, 20))]
        for _ in range(count)
    ]


def plain_mean(engine: Engine, ids: list[int]) -> np.ndarray:
    """Of the prefix backend's states, one position after the other."""
    states = [engine.backend.logits(ids[: end + 1]) for end in range(len(ids))]
    mean = np.sum(np.array(states, dtype=np.float64), axis=0) / len(ids)
    return (mean / np.linalg.norm(mean)).astype(np.float32)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_the_vectors_are_those_of_transformers(name, tokenizer):
    torch = pytest.importorskip("torch")
    config = tiny_config(320, context_length=200)
    peer = hf_peer(config)
    arrays = to_ours(peer, config, lambda parameter: parameter.detach())
    if name == "numpy":
        backend: Backend = NumpyBackend(config, arrays)
    else:
        from puna.infer.backends.torch_backend import TorchBackend

        backend = TorchBackend(config, arrays, device="cpu")
    engine = make(backend, tokenizer, config)
    texts = [*TEXTS[:2], "a", [5, 6, 7]]
    found = engine.embed(texts, is_unit=False)
    counts = []
    for text, vector in zip(texts, found.vectors, strict=True):
        ids = tokenizer.encode(text, bos=True) if isinstance(text, str) else text
        with torch.no_grad():
            states = peer.model(torch.tensor([ids])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(vector, states.mean(axis=0), atol=TOLERANCE, rtol=TOLERANCE)
        counts.append(len(ids))
    assert found.prompt_tokens == sum(counts)
    unit = engine.embed(texts).vectors
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    lengths = np.linalg.norm(found.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, found.vectors / lengths, atol=1e-6)


@pytest.mark.slow
def test_smollm2s_vectors_are_those_of_transformers():
    for needed in ("gguf", "accelerate", "transformers"):
        pytest.importorskip(needed)
    torch = pytest.importorskip("torch")
    import transformers

    path = smollm2_gguf()
    engine = load_engine(path, "numpy", settings=EngineSettings(context_tokens=256))
    peer = transformers.AutoModel.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    texts = ["The llama lives on the high grassland.", "Prices rose by 7.5 %."]
    for text, vector in zip(texts, engine.embed(texts).vectors, strict=True):
        ids = engine.tokenizer.encode(text, bos=engine.tokenizer.adds_bos)
        with torch.no_grad():
            mean = peer(torch.tensor([ids])).last_hidden_state[0].mean(dim=0).double().numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-4, rtol=0)


@needs_kernels
def test_the_exact_mode_gives_the_same_bits_alone_and_together(tokenizer):
    from puna.infer.backends.cpu_backend import CpuBackend

    config = tiny_config(320, dim=256, heads=4, kv_heads=2, hidden_dim=256, context_length=CONTEXT)
    backend = CpuBackend(mixed_source(config), threads=2, mode="exact")
    asked = prompts(12)
    engine = make(backend, tokenizer, config)
    alone = np.concatenate([engine.embed([one]).vectors for one in asked])
    for step_rows, tokens in ((32, 500), (300, 500), (100, 4 * PAGE_POSITIONS)):
        engine.lend_backend()
        engine = make(backend, tokenizer, config, step_rows=step_rows, context_tokens=tokens)
        talker = engine.stream([5, 6], GREEDY)
        next(talker)
        assert np.array_equal(engine.embed(asked).vectors, alone)
        list(talker)


def test_a_text_that_gave_way_counts_each_position_once(tokenizer):
    engine = prefix_engine(tokenizer, context_tokens=3 * PAGE_POSITIONS)
    asked = [one for one in prompts(20) if len(one) < 50]
    talkers = [engine.stream([5 + n] * 20, GREEDY) for n in range(2)]
    found = engine.embed(asked).vectors
    for ids, vector in zip(asked, found, strict=True):
        assert np.array_equal(vector, plain_mean(engine, ids))
    assert ["".join(one) for one in talkers]
    assert engine.metrics.pages_used == 0


def test_what_an_embedding_computed_is_found_again_but_it_runs_all_itself(tokenizer):
    engine = prefix_engine(tokenizer)
    ids = prompts(1)[0] * 8
    ids = ids[:60]
    first = engine.embed([ids]).vectors
    assert engine.generate([ids], GREEDY)[0].cached_tokens == PAGE_POSITIONS
    assert np.array_equal(engine.embed([ids]).vectors, first)
    assert engine.metrics.cached_tokens == PAGE_POSITIONS


def test_a_text_may_fill_the_context_and_no_more(tokenizer):
    engine = prefix_engine(tokenizer)
    assert engine.embed([[5] * CONTEXT]).prompt_tokens == CONTEXT
    assert engine.embed([]).prompt_tokens == 0
    steps = len(engine.backend.steps)
    with pytest.raises(UsageError, match="prompt has 65 tokens, too many for the model's context"):
        engine.embed(["fits", [5] * (CONTEXT + 1)])
    assert len(engine.backend.steps) == steps


def test_states_that_are_not_finite_are_one_clear_error(tokenizer):
    engine = prefix_engine(tokenizer)
    engine.backend.table[9] = np.nan
    with pytest.raises(CheckpointError, match="states are not finite"):
        engine.embed([[5, 9]])
    mean = StateMean()
    mean.add(0, np.zeros((3, 4), dtype=np.float32))
    assert mean.vector(is_unit=True).tolist() == [0, 0, 0, 0]


def test_embeddings_run_beside_generation_a_step_at_a_time(tokenizer):
    engine = prefix_engine(tokenizer, queue_limit=8)
    asked = prompts(50)
    wanted = [plain_mean(engine, ids) for ids in asked]
    text = "".join(engine.stream([5, 6], GREEDY))
    running = AsyncEngine(engine)

    async def main():
        generation = running.stream([5, 6], GREEDY)
        first = await anext(generation)
        embedding = asyncio.create_task(running.embed(asked))
        pieces = [first, *[piece async for piece in generation]]
        return await embedding, "".join(piece.text for piece in pieces)

    engine.backend.steps.clear()
    found, said = asyncio.run(main())
    running.close()
    assert np.array_equal(found.vectors, wanted)
    assert said == text
    assert max(sum(len(one.ids) for one in chunks) for chunks in engine.backend.steps) <= 48 + 1
    assert max(map(len, engine.backend.steps)) <= EMBEDDED_AT_ONCE
    assert engine.metrics.pages_used == 0


def test_a_full_queue_and_a_task_that_leaves(tokenizer, monkeypatch):
    engine = prefix_engine(tokenizer, queue_limit=2, running=1)
    running = AsyncEngine(engine)

    async def main():
        monkeypatch.setattr(engine.core.scheduler, "_admit", lambda: None)
        talkers = [running.stream([5], GREEDY) for _ in range(2)]
        with pytest.raises(BusyError):
            await running.embed([[6], [7]])
        monkeypatch.undo()
        for one in talkers:
            one.cancel()
        await idle(engine)
        task = asyncio.create_task(running.embed(prompts(500)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(engine)
        return (await running.embed([[6], [7], [8], [9]])).prompt_tokens

    assert asyncio.run(main()) == 4
    running.close()
    assert engine.metrics.pages_used == 0


async def idle(engine: Engine) -> None:
    """Return once what was cancelled is let go."""
    while engine.core.has_work:
        await asyncio.sleep(0.001)


def test_closing_ends_an_embedding_with_one_error(tokenizer):
    engine = prefix_engine(tokenizer)
    running = AsyncEngine(engine)

    async def main():
        task = asyncio.create_task(running.embed(prompts(2000)))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(running.close)
        with pytest.raises(UsageError, match="the engine is closed"):
            await task
        with pytest.raises(UsageError, match="the engine is closed"):
            await running.embed([[5]])

    asyncio.run(main())
