"""Texts for asyncio: the same ones, cancelled within a step, and a thread that sleeps when idle."""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import replace

import pytest

from puna.errors import BusyError, UsageError
from puna.infer.async_engine import AsyncEngine
from puna.infer.engine import EngineSettings, load_engine
from puna.infer.sampling_params import SamplingParams

PARAMS = SamplingParams(max_tokens=20, temperature=1, seed=3, ignore_eos=True)


@pytest.fixture
def engine(tiny_run):
    return load_engine(tiny_run, "numpy", settings=EngineSettings(queue_limit=4))


@pytest.fixture
def running(engine):
    running = AsyncEngine(engine)
    yield running
    running.close()
    assert engine.metrics.pages_used == 0


async def read(generation) -> list:
    return [piece async for piece in generation]


def wait_until(is_true) -> None:
    """Sleep until it is, for at most two seconds."""
    end = time.monotonic() + 2
    while not is_true() and time.monotonic() < end:
        time.sleep(0.001)
    assert is_true()


def test_the_texts_are_those_of_a_plain_stream(engine, running):
    prompts = ["The llama", "In 1532", "def herd"]
    wanted = ["".join(engine.stream(prompt, PARAMS)) for prompt in prompts]

    async def main():
        return await asyncio.gather(*(read(running.stream(one, PARAMS)) for one in prompts))

    found = asyncio.run(main())
    assert ["".join(piece.text for piece in pieces) for pieces in found] == wanted
    for pieces in found:
        assert [one for piece in pieces for one in piece.ids] == list(pieces[-1].result.ids)
        assert pieces[-1].result.finish_reason == "length"
        assert all(piece.result is None for piece in pieces[:-1])


def test_several_texts_of_a_request_come_side_by_side(engine, running):
    params = replace(PARAMS, n=3, logprobs=1)

    async def main():
        return await read(running.stream("The", params))

    texts = ["", "", ""]
    for piece in asyncio.run(main()):
        texts[piece.choice] += piece.text
        assert len(piece.logprobs) == len(piece.ids)
    assert texts == [result.text for result in engine.generate("The", params)]


def slowed(engine, monkeypatch) -> None:
    real = engine.backend.step

    def step(chunks):
        time.sleep(0.01)
        return real(chunks)

    monkeypatch.setattr(engine.backend, "step", step)


def test_a_reader_that_goes_away_cancels_its_text_and_no_other(engine, running, monkeypatch):
    other = "".join(engine.stream("In", PARAMS))
    slowed(engine, monkeypatch)

    async def leave():
        async with running.stream("The", PARAMS) as generation:
            async for _piece in generation:
                return

    async def main():
        stays = asyncio.create_task(read(running.stream("In", PARAMS)))
        waits = asyncio.create_task(read(running.stream("On", PARAMS)))
        drops = running.stream("Un", PARAMS)
        await leave()
        del drops
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        return "".join(piece.text for piece in await stays)

    assert asyncio.run(main()) == other
    assert (engine.metrics.cancelled, engine.metrics.finished) == (3, 2)


def test_cancelling_ends_the_iteration_with_the_text_so_far(engine, running, monkeypatch):
    slowed(engine, monkeypatch)

    async def main():
        generation = running.stream("The", PARAMS)
        first = await anext(generation)
        generation.cancel()
        return [first, *await read(generation)]

    pieces = asyncio.run(main())
    assert pieces[-1].result.ended_by == "cancelled"
    assert pieces[-1].result.text == "".join(piece.text for piece in pieces)
    assert pieces[-1].result.generated_tokens < 20


def test_mistakes_and_a_full_queue_are_told_at_once(engine, running, monkeypatch):
    slowed(engine, monkeypatch)

    async def main():
        with pytest.raises(UsageError, match="context of 64"):
            running.stream("llama " * 100)
        with pytest.raises(BusyError):
            running.stream("The", replace(PARAMS, n=5))

    asyncio.run(main())


def test_what_the_backend_raises_reaches_the_reader_and_the_engine_lives_on(
    engine, running, monkeypatch
):
    async def main():
        with monkeypatch.context() as broken:
            broken.setattr(engine.backend, "step", lambda chunks: 1 / 0)
            generation = running.stream("The", PARAMS)
            with pytest.raises(ZeroDivisionError):
                await anext(generation)
            assert await read(generation) == []
        return await read(running.stream("The", PARAMS))

    assert asyncio.run(main())[-1].result.generated_tokens == 20


def test_closing_ends_what_is_under_way(engine, monkeypatch):
    running = AsyncEngine(engine)
    slowed(engine, monkeypatch)

    async def main():
        generation = running.stream("The", PARAMS)
        await anext(generation)
        await asyncio.to_thread(running.close)
        pieces = await read(generation)
        with pytest.raises(UsageError, match="closed"):
            running.stream("The", PARAMS)
        return pieces[-1].result.ended_by

    assert asyncio.run(main()) == "cancelled"
    assert engine.metrics.pages_used == 0


def test_an_event_loop_that_is_gone_harms_nobody(engine, running, monkeypatch):
    slowed(engine, monkeypatch)

    async def start():
        return running.stream("The", PARAMS)

    generation = asyncio.run(start())
    wait_until(lambda: not engine.core.has_work)
    del generation
    assert asyncio.run(read_one(running))


async def read_one(running) -> list:
    return await read(running.stream("The", PARAMS))


def test_an_idle_engine_takes_no_time(running):
    asyncio.run(read_one(running))

    def seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    before = seconds()
    time.sleep(0.5)
    assert seconds() - before < 0.02
