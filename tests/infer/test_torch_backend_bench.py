"""bench/gpu_engine.py on a machine without a GPU: what it says, and its whole path on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from puna import hardware

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("torch")
pytest.importorskip("transformers")


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "bench/gpu_engine.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(hardware.has_nvidia_driver(), reason="there may be a GPU here")
def test_without_a_gpu_it_says_so_in_one_line():
    done = bench()
    assert done.returncode == 3
    assert done.stdout.startswith("nothing was measured: torch ")
    assert done.stdout.count("\n") == 1


def test_the_small_case_on_a_cpu_passes_its_checks_and_is_not_recorded():
    history = (ROOT / "bench" / "history.jsonl").read_bytes()
    done = bench("--device", "cpu", "--small")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("passed: ") == 5
    for name in (
        "graphs, batch 1",
        "compiled graphs, batch 1",
        "no graphs, batch 3",
        "transformers, batch 3",
    ):
        assert name in done.stdout
    assert (ROOT / "bench" / "history.jsonl").read_bytes() == history
