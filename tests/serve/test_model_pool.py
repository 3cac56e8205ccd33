"""Models by name: loaded when asked for, unloaded for others, restarted after a crash."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import asynccontextmanager

import pytest
from serve.engine_runs import (
    OPTIONS,
    SLOW_STEPS,
    engine_of,
    is_running,
    read,
    texts_of,
    until,
    with_patch,
    write_model,
)

from puna.serve import model_pool
from puna.serve.engine_client import EngineClient, EngineOptions
from puna.serve.errors import ServeError
from puna.serve.model_pool import ModelPool

PARAMS = {"max_tokens": 10, "temperature": 0, "ignore_eos": True}
SLOW_LOAD = (
    "import time; import puna.infer.engine as e; m = e.make_backend; "
    "e.make_backend = lambda *a, **k: (time.sleep(0.5), m(*a, **k))[1]"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return {name: str(write_model(folder / name, seed)) for seed, name in enumerate("abc")}


@pytest.fixture(scope="module")
def memory_bytes(models):
    """What one of them takes in its process."""

    async def main():
        async with engine_of(models["a"]) as client:
            return client.described["memory_bytes"]

    return asyncio.run(main())


@asynccontextmanager
async def pool_of(models, options: EngineOptions = OPTIONS, **settings):
    pool = ModelPool(models, options, **settings)
    try:
        yield pool
    finally:
        await pool.close()


async def say(pool: ModelPool, name: str) -> str:
    async with pool.use(name) as client:
        return texts_of(await read(client, params=PARAMS))[0]


async def refused(pool: ModelPool, name: str, **how) -> ServeError:
    with pytest.raises(ServeError) as caught:
        async with pool.use(name, **how):
            pass
    return caught.value


def states(pool: ModelPool) -> dict[str, str]:
    return {name: pool.state(name) for name in pool.names()}


def test_a_model_is_loaded_when_it_is_asked_for_and_by_all_who_ask_at_once(models):
    async def main():
        async with pool_of(models) as pool:
            assert states(pool) == dict.fromkeys("abc", "unloaded")
            asking = [asyncio.ensure_future(say(pool, name)) for name in "aaabbb"]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert states(pool) == {"a": "loading", "b": "loading", "c": "unloaded"}
            said = await asyncio.gather(*asking)
            assert states(pool) == {"a": "ready", "b": "ready", "c": "unloaded"}
            metrics = await pool.metrics()
            async with pool.use("a") as one, pool.use("b") as other:
                pids = one.pid, other.pid
        assert not any(is_running(pid) for pid in pids)
        assert (await refused(pool, "c")).kind == "unavailable"
        return said, metrics

    said, metrics = asyncio.run(main())
    assert said == [said[0]] * 3 + [said[3]] * 3
    assert said[0] != said[3]
    assert [metrics[name]["loads"] for name in "abc"] == [1, 1, 0]
    assert [metrics[name].get("finished") for name in "abc"] == [3, 3, None]


def test_the_least_recently_used_model_makes_room(models, memory_bytes):
    async def main():
        async with pool_of(models, budget_bytes=memory_bytes * 5 // 2) as pool:
            found = []
            for name in "abacab":
                await say(pool, name)
                found.append("".join(one for one in "abc" if pool.state(one) == "ready"))
            return found

    assert asyncio.run(main()) == ["a", "ab", "ab", "ac", "ac", "ab"]


def test_a_model_with_requests_under_way_is_never_unloaded(models, memory_bytes, monkeypatch):
    with_patch(monkeypatch, SLOW_STEPS)

    async def main():
        async with pool_of(models, budget_bytes=memory_bytes * 3 // 2) as pool:
            first = asyncio.ensure_future(say(pool, "a"))
            await until(lambda: pool.state("a") == "ready")
            error = await refused(pool, "b", wait_seconds=0.05)
            second = asyncio.ensure_future(say(pool, "b"))
            await asyncio.sleep(0)
            assert not first.done()
            return error, await first, await second, states(pool)

    error, first, second, found = asyncio.run(main())
    assert (error.kind, error.headers) == ("unavailable", {"Retry-After": "2"})
    assert first
    assert second
    assert found == {"a": "unloaded", "b": "ready", "c": "unloaded"}


def test_a_model_in_steady_use_makes_room_for_one_that_waits(models, memory_bytes, monkeypatch):
    """And comes back for those who went on asking for it, also while both are in steady use."""
    with_patch(monkeypatch, SLOW_STEPS)
    monkeypatch.setattr(model_pool, "PATIENCE_SECONDS", 0.05)
    said: dict[str, list[str]] = {"a": [], "b": []}

    async def main():
        async with pool_of(models, budget_bytes=memory_bytes * 3 // 2) as pool:

            async def keep_asking(name: str) -> None:
                while len(said["a"]) < 4 or len(said["b"]) < 4:
                    said[name].append(await say(pool, name))

            async with asyncio.timeout(30):
                await asyncio.gather(*(keep_asking(name) for name in "aaabb"))
            return await pool.metrics()

    metrics = asyncio.run(main())
    assert all(len(set(texts)) == 1 for texts in said.values())
    assert metrics["a"]["loads"] + metrics["b"]["loads"] >= 3


def test_a_model_that_should_make_room_stays_when_nobody_waits_any_more(
    models, memory_bytes, monkeypatch
):
    monkeypatch.setattr(model_pool, "PATIENCE_SECONDS", 0.01)

    async def main():
        budget_bytes = memory_bytes * 3 // 2
        async with pool_of(models, budget_bytes=budget_bytes) as pool, pool.use("a") as client:
            waits = asyncio.ensure_future(say(pool, "b"))
            await until(lambda: pool._slots["a"].makes_room is not None, seconds=30)
            error = await refused(pool, "a", wait_seconds=0)
            other = asyncio.ensure_future(say(pool, "a"))
            waits.cancel()
            return error, await other, client.is_alive

    error, said, is_alive = asyncio.run(main())
    assert (error.status, error.message) == (503, "a makes room for another model")
    assert (bool(said), is_alive) == (True, True)


def test_a_load_that_hangs_is_ended_and_does_not_keep_others_waiting(models, monkeypatch, caplog):
    with_patch(monkeypatch, SLOW_LOAD.replace("0.5", "60"))

    async def main():
        async with pool_of(models, load_seconds=1.5) as pool:
            hangs = asyncio.ensure_future(refused(pool, "a"))
            impatient = await refused(pool, "a", wait_seconds=0.1)
            error = await hangs
            monkeypatch.undo()
            pool.load_seconds = 60
            return impatient, error, pool.state("a"), await say(pool, "b")

    with caplog.at_level(logging.CRITICAL, "puna.serve"):
        impatient, error, state, said = asyncio.run(main())
    assert (impatient.status, error.status, state) == (503, 500, "failed")
    assert error.message == "a did not load within 1.5 seconds"
    assert "--load-seconds" in (error.hint or "")
    assert said


def test_room_is_not_made_for_who_waits_no_longer(models, memory_bytes):
    async def main():
        async with pool_of(models, budget_bytes=memory_bytes * 3 // 2) as pool:
            async with pool.use("a") as client:
                await refused(pool, "b", wait_seconds=1)
            await until(lambda: pool.state("b") != "loading")
            return client.is_alive, states(pool)["a"]

    assert asyncio.run(main()) == (True, "ready")


def test_a_model_that_can_never_fit_says_so(models, memory_bytes):
    async def main():
        async with pool_of(models, budget_bytes=1 << 20) as pool:
            return await refused(pool, "a"), pool.state("a")

    error, state = asyncio.run(main())
    assert (error.kind, error.status, state) == ("failed", 500, "failed")
    assert "all models together may take 1.0 MiB" in error.message
    assert "--memory-budget" in (error.hint or "")


def test_a_model_gets_no_more_memory_than_is_left(models):
    """Without a bound of its own, it keeps as many tokens as half of the rest has room for."""

    async def kept(budget_bytes: int) -> tuple[int, int]:
        options = EngineOptions(backend=OPTIONS.backend)
        async with pool_of(models, options, budget_bytes=budget_bytes) as pool:
            async with pool.use("a") as client:
                described = client.described
            return described["kept_tokens"], described["memory_bytes"]

    tokens, plenty = asyncio.run(kept(1 << 30))
    assert tokens == 4 * 2048
    fewer, taken = asyncio.run(kept(plenty))
    assert 512 <= fewer < tokens
    assert taken <= plenty


def test_a_process_that_dies_is_started_anew_for_the_next_request(models):
    async def main():
        async with pool_of(models) as pool:
            before = await say(pool, "a")
            async with pool.use("a") as client:
                os.kill(client.pid, signal.SIGKILL)
                with pytest.raises(ServeError):
                    await read(client, params={**PARAMS, "max_tokens": 1900})
            assert pool.state("a") == "failed"
            after = await say(pool, "a")
            return before, after, (await pool.metrics())["a"]["loads"], pool.problem("a")

    before, after, loads, problem = asyncio.run(main())
    assert (before, loads, problem) == (after, 2, None)


def test_a_model_that_fails_again_and_again_is_left_alone_for_a_while(models, monkeypatch, caplog):
    async def main():
        async with pool_of({"a": "/nothing", "b": models["b"]}) as pool:
            errors = [await refused(pool, "a") for _ in range(3)]
            began = time.monotonic()
            errors.append(await refused(pool, "a"))
            seconds = time.monotonic() - began
            await say(pool, "b")
            monkeypatch.setattr(model_pool, "FAILURE_SECONDS", 0)
            errors.append(await refused(pool, "a"))
            return errors, seconds

    with caplog.at_level(logging.CRITICAL, "puna.serve"):
        errors, seconds = asyncio.run(main())
    assert [one.status for one in errors] == [500, 500, 500, 503, 500]
    assert all("found nothing there" in one.message for one in errors)
    assert seconds < 0.05  # no process was started


def test_who_will_not_wait_is_told_that_it_loads(models, monkeypatch):
    with_patch(monkeypatch, SLOW_LOAD)

    async def main():
        async with pool_of(models) as pool:
            errors = [await refused(pool, "a", wait_seconds=0) for _ in range(2)]
            waits = asyncio.ensure_future(say(pool, "a"))
            await asyncio.sleep(0.1)
            waits.cancel()  # its client left; others may still want the model
            await until(lambda: pool.state("a") == "ready")
            return errors, await say(pool, "a"), (await pool.metrics())["a"]["loads"]

    errors, said, loads = asyncio.run(main())
    assert {(one.kind, one.status) for one in errors} == {("unavailable", 503)}
    assert (bool(said), loads) == (True, 1)


def test_closing_while_a_model_loads_leaves_no_process(models, monkeypatch):
    with_patch(monkeypatch, SLOW_LOAD)
    started: list[int] = []
    spawn = EngineClient.spawn

    async def noted(*names: str) -> EngineClient:
        client = await spawn(*names)
        started.append(client.pid)
        return client

    monkeypatch.setattr(EngineClient, "spawn", noted)

    async def main():
        async with pool_of(models) as pool:
            waits = asyncio.ensure_future(refused(pool, "a"))
            await until(lambda: bool(started))
        with pytest.raises(asyncio.CancelledError):
            await waits

    asyncio.run(main())
    assert not any(is_running(pid) for pid in started)


def test_draining_lets_texts_end(models):
    async def main():
        async with pool_of(models) as pool:
            async with pool.use("a") as client:
                text = asyncio.ensure_future(read(client, params={**PARAMS, "max_tokens": 500}))
                await asyncio.sleep(0.05)
                await pool.drain(5)
                await asyncio.sleep(0)
                assert text.done()  # its last piece came before the drain's end
                refusal = await refused(pool, "b")
            return await text, refusal

    pieces, refusal = asyncio.run(main())
    assert pieces[-1].ending["generated_tokens"] == 500
    assert refusal.kind == "unavailable"


def test_an_unknown_name_is_refused(models):
    async def main():
        async with pool_of(models) as pool:
            return await refused(pool, "d")

    error = asyncio.run(main())
    assert (error.kind, error.status, error.hint) == ("unknown", 404, "one of a, b, c")


def test_a_model_just_loaded_is_not_idle_before_its_request_has_it():
    slot = model_pool.Slot("a", "a.gguf", wanted=1)
    assert not slot.is_idle
    slot.makes_room = asyncio.Event()  # its requests wait until another is loaded
    assert slot.is_idle
    slot.users = 1
    assert not slot.is_idle
