"""How an engine process ends: killed, by its own failure, with its server; and what floods it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from serve.engine_runs import (
    BACKEND,
    ENDLESS,
    SLOW_STEPS,
    engine_of,
    is_running,
    read,
    until,
    with_patch,
    write_model,
)

from puna.serve.engine_client import EngineClient
from puna.serve.errors import ServeError
from puna.serve.wire import LONGEST_FRAME_BYTES, FrameReader, frame_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_process_that_dies_fails_what_is_under_way_at_once(model, number, monkeypatch):
    with_patch(monkeypatch, SLOW_STEPS)

    async def main():
        async with engine_of(model) as client:
            texts = [asyncio.ensure_future(read(client, params=ENDLESS)) for _ in range(3)]
            texts.append(asyncio.ensure_future(client.ask("drain")))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            os.kill(client.pid, number)
            found = await asyncio.gather(*texts, return_exceptions=True)
            seconds = time.monotonic() - began
            with pytest.raises(ServeError) as later:
                await client.ask("metrics")
            assert not client.is_alive
            return [*found, later.value], seconds

    errors, seconds = asyncio.run(main())
    assert [(type(one), one.status) for one in errors] == [(ServeError, 500)] * 5
    assert seconds < 1


def test_an_error_inside_a_step_fails_its_texts_and_ends_the_process(model, monkeypatch, capfd):
    broken = (
        "from puna.infer.scheduler import Scheduler as S; p = S.plan; "
        "S.plan = lambda s: p(s) if not s.running or len(s.running[0].ids) < 20 else 1 / 0"
    )
    with_patch(monkeypatch, broken)

    async def main():
        async with engine_of(model) as client:
            with pytest.raises(ServeError) as caught:
                await read(client, params=ENDLESS)
            await until(lambda: not is_running(client.pid))
            return caught.value

    error = asyncio.run(main())
    assert (error.kind, error.message) == ("failed", "the engine failed: ZeroDivisionError")
    assert "ZeroDivisionError: division by zero" in capfd.readouterr().err  # the server's log


SERVER = """
import asyncio, sys
from puna.serve.engine_client import EngineClient, EngineOptions
async def main():
    client = await EngineClient.spawn("it", sys.argv[1])
    print(client.pid, flush=True)
    await client.open(EngineOptions(backend=sys.argv[2]))
    loading = asyncio.ensure_future(client.load(EngineOptions(backend=sys.argv[2])))
    if sys.argv[3] == "busy":
        await loading
        texts = client.generate(prompt={"text": "A"}, params={"max_tokens": 1900, "n": 8})
        await anext(texts)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
SLOW_LOAD = (
    "import puna.infer.engine as e; e.make_backend = lambda *a, **k: __import__('time').sleep(60)"
)


@pytest.mark.parametrize("state", ["busy", "loading"])
def test_a_server_that_is_killed_leaves_no_process_behind(model, state):
    code = SERVER
    if state == "loading":
        patch = (
            f"import puna.serve.engine_client as c\nc.COMMAND = {SLOW_LOAD!r} + '; ' + c.COMMAND"
        )
        code = f"import sys\n{patch}\n{SERVER}"
        code = code.replace(
            "c.COMMAND = ",
            "c.COMMAND = 'import sys, json; sys.path[:] = json.loads(sys.argv[2]); ' + ",
        )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(model), BACKEND, state], stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        assert server.stdout.readline() == "ready\n"
        assert is_running(pid)
        server.kill()
    asyncio.run(until(lambda: not is_running(pid)))


@contextmanager
def raw_engine(model: Path):
    """A process with the model and the socket's other end."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "puna.serve.engine_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        try:
            opened = {"model": str(model), "backend": BACKEND, "kv": "bf16", "which": "latest"}
            opened["context_tokens"] = 8192
            load = {"room_bytes": None, "running": 64, "queue_limit": 64}
            ours.sendall(frame_of({"id": 1, "ask": "open", "tokenizer_path": None, **opened}))
            ours.sendall(frame_of({"id": 2, "ask": "load", **load}))
            messages = messages_of(ours)
            assert next(messages)["id"] == 1
            assert next(messages)["id"] == 2
            yield process, ours, messages
        finally:
            ours.close()
            process.wait(5)


def messages_of(connection: socket.socket):
    frames = FrameReader()
    while content := connection.recv(1 << 16):
        yield from frames.feed(content)


BAD_FRAMES = {
    "random bytes": random.Random(1).randbytes(1 << 16),
    "too long": (LONGEST_FRAME_BYTES + 1).to_bytes(4, "big"),
    "deep": (1 << 20).to_bytes(4, "big") + b"[" * (1 << 20),
    "a list": (2).to_bytes(4, "big") + b"[]",
    "no ask": frame_of({"id": 3}),
    "no id": frame_of({"ask": "metrics"}),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_ends_the_process(model, name):
    with raw_engine(model) as (process, connection, _messages):
        connection.sendall(BAD_FRAMES[name])
        assert process.wait(5) == 1


def test_half_a_frame_is_waited_for_and_ends_with_the_connection(model):
    with raw_engine(model) as (process, connection, messages):
        frame = frame_of({"id": 3, "ask": "metrics"})
        connection.sendall(frame[:9])
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        connection.sendall(frame[9:])
        assert next(messages)["ok"]["steps"] == 0
        connection.sendall(frame[:9])
    assert process.returncode == 0


def test_an_unknown_ask_is_refused(model):
    with raw_engine(model) as (_process, connection, messages):
        for ask in ("sing", []):
            connection.sendall(frame_of({"id": 3, "ask": ask}))
            answer = next(messages)
            assert (answer["id"], answer["error"]["kind"]) == (3, "failed")


def test_while_nobody_reads_the_engine_waits_and_its_memory_stays(model):
    params = {**ENDLESS, "max_tokens": 100, "logprobs": 20, "n": 16}
    with raw_engine(model) as (process, connection, messages):
        connection.sendall(
            frame_of({"id": 3, "ask": "generate", "prompt": {"text": "A"}, "params": params})
        )
        time.sleep(0.7)  # the socket's buffer is full after some steps
        before = resident_bytes(process.pid)
        time.sleep(0.5)
        assert resident_bytes(process.pid) - before < 1 << 20
        assert cpu_seconds_within(process.pid, 0.3) < 0.03
        assert next(messages)["ok"]["started"]["choices"] == 16
        tokens = [0] * 16
        while not all(one == 100 for one in tokens):
            for _id, choice, _text, ids, _logprobs, _ending in next(messages)["pieces"]:
                tokens[choice] += len(ids)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def cpu_seconds_within(pid: int, seconds: float) -> float:
    def so_far() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = so_far()
    time.sleep(seconds)
    return so_far() - before


def test_nonsense_from_an_engine_fails_what_was_asked(monkeypatch):
    """The client's end: a process that says what it should not."""

    async def asked(answer: bytes) -> ServeError:
        monkeypatch.setattr(
            "puna.serve.engine_client.COMMAND",
            "import os, sys, time; os.read(int(sys.argv[1]), 1); "
            f"os.write(int(sys.argv[1]), {answer!r}); time.sleep(60)",
        )
        client = await EngineClient.spawn("it", "it")
        try:
            with pytest.raises(ServeError) as caught:
                await client.ask("metrics")
        finally:
            await client.end()
        return caught.value

    for answer in (
        b"\xff" * 9,
        frame_of({}),
        frame_of({"id": 1}),
        frame_of({"pieces": 1}),
        frame_of({"id": 1, "error": 7}),
    ):
        assert asyncio.run(asked(answer)).kind == "failed"
