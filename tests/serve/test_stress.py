"""A crowd at the server's door: every accepted request is answered right, the others at once.

The oracle is the offline engine on the same weights, computed row by row in one way.
"""

import asyncio
import logging
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from serve.engine_runs import BACKEND, write_model
from serve.puna_serve import puna_serve
from serve.stress import Crowd, asks_of, nonsense, server_memory_bytes
from small_vocabulary import smollm2_gguf

from puna.infer.engine import load_engine

logger = logging.getLogger("stress")
RUNNING, QUEUE, CONTEXT_TOKENS = 8, 16, 4096
LIMITS = ("--running", RUNNING, "--queue", QUEUE, "--context-tokens", CONTEXT_TOKENS)


@dataclass(frozen=True)
class Size:
    """How long it goes on."""

    tokens: int
    requests: int
    rated: int  # requests to find the highest rate by
    seconds: float
    slack_bytes: int = 0


def stressed(model: Path, size: Size) -> None:
    """The server is what it was, and nobody was told anything wrong."""
    engine = load_engine(model, BACKEND)
    asks = asks_of(engine, size.tokens)
    bad = nonsense(engine.config.context_length)
    with puna_serve(model, "--name", "stressed", "--backend", BACKEND, *LIMITS) as url:
        crowd = Crowd(url, asks)

        async def run() -> tuple[list[int], float]:
            for one in asks:
                await crowd.ask(one)
            rate = await crowd.highest_rate(size.rated, RUNNING)
            assert not crowd.refusals
            await crowd.flood(10 * rate, size.seconds / 4)  # what a flood needs is in memory
            before = server_memory_bytes()
            await crowd.mixed(bad, size.requests, 2 * RUNNING)
            crowd.refusals.clear()
            await crowd.flood(10 * rate, size.seconds)
            return before, rate

        before, rate = asyncio.run(run())
        after = server_memory_bytes()
    grown = sum(after) / sum(before)
    refusals = crowd.refusals
    told = f"{crowd.right} right, {len(refusals)} refused, highest rate {rate:.0f}/s, "
    p95 = statistics.quantiles(refusals, n=20)[-1]
    told += f"refusals p95 {p95:.3f} s, longest {max(refusals):.3f} s, "
    logger.info("%s", told + f"bytes {before} -> {after}, {100 * (grown - 1):+.1f} %")
    assert crowd.wrong == []
    assert len(refusals) > rate * size.seconds
    assert sum(after) - size.slack_bytes < 1.05 * sum(before)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")


@linux_only
def test_a_crowd_at_a_small_model(tmp_path: Path):
    # Two processes of 55 MB: 5 % of that is less than what an allocator keeps by chance.
    size = Size(tokens=300, requests=150, rated=30, seconds=2, slack_bytes=8_000_000)
    stressed(write_model(tmp_path), size)


@linux_only
@pytest.mark.slow
def test_a_crowd_at_a_real_model():
    stressed(smollm2_gguf(), Size(tokens=24, requests=1000, rated=200, seconds=60))
