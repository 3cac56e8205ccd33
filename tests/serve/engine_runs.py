"""Engine processes in tests: a small model of ours, run by a real process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cpu_runs import isas
from tiny_model import random_arrays, tiny_config, write_run, write_tokenizer

from puna.serve import engine_client
from puna.serve.engine_client import EngineClient, EngineOptions, Piece, Started

# Both compute each row in one way, whatever runs beside it, so that texts can be compared.
BACKEND = "cpu-exact" if isas() else "numpy"
OPTIONS = EngineOptions(backend=BACKEND, context_tokens=4096)
ENDLESS = {"max_tokens": 1900, "temperature": 1, "seed": 3, "ignore_eos": True}


def write_model(folder: Path, seed: int = 0) -> Path:
    """A run folder with a small random model whose context is 2,048 tokens."""
    config = tiny_config(context_length=2048)
    tokenizer = write_tokenizer(folder / "tokenizer", config.vocabulary_size)
    return write_run(folder / "run", tokenizer, config, random_arrays(config, seed))


@asynccontextmanager
async def engine_of(model: Path, options: EngineOptions = OPTIONS):
    """A client of a process with the model; the process has ended afterwards."""
    client = await EngineClient.start(str(model), options)
    try:
        yield client
    finally:
        await client.end()
        assert not is_running(client.pid)


def with_patch(monkeypatch, code: str) -> None:
    """Have engine processes run this first."""
    monkeypatch.setattr(
        engine_client,
        "COMMAND",
        engine_client.COMMAND.replace("from puna", f"{code}; from puna", 1),
    )


SLOW_STEPS = (
    "import time; from puna.infer.core import Core as C; f = C.step; "
    "C.step = lambda s: (time.sleep(0.01), f(s))[1]"
)


async def read(client: EngineClient, text: str = "The llama", **fields) -> list[Piece]:
    """All pieces of a request."""
    asked = {"prompt": {"text": text}, "params": {}, **fields}
    return [one async for one in client.generate(**asked) if not isinstance(one, Started)]


def texts_of(pieces: list[Piece]) -> list[str]:
    """The texts of a request's choices."""
    choices = 1 + max(one.choice for one in pieces)
    return ["".join(one.text for one in pieces if one.choice == n) for n in range(choices)]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


async def until(is_true: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until it is; fail after so long."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)
