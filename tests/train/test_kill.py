"""`kill -9` at random moments: the resumed run gives the uninterrupted one's losses, bit for bit.

PUNA_KILL_SEED repeats the moments of an earlier run, which are printed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_training import learnt, losses, recipe_text, trace

from puna import hardware

pytest.importorskip("torch")

STEPS = 40
KILLS = 5
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def moments() -> random.Random:
    seed = int(os.environ.get("PUNA_KILL_SEED") or random.randrange(2**32))
    print(f"PUNA_KILL_SEED={seed}")  # noqa: T201  pytest shows it when a test fails
    return random.Random(seed)


def write_recipe(path: Path, precision: str, **more: str) -> Path:
    """A run of about four seconds that saves every third step."""
    model = {"dim": 128, "layers": 4, "heads": 4}
    changes = {"steps": STEPS, "batch_tokens": 2048, "checkpoint_every": 3, "validate_every": 7}
    path.write_text(recipe_text(model=model, precision=precision, **changes | more))
    return path


def start(recipe: Path, shards: Path, out: Path) -> subprocess.Popen[str]:
    words = ["train", str(recipe), "--shards", str(shards), "--out", str(out), "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-m", "puna", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said


def wait_for(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until it is so, or the process has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so() and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not come to the moment of its kill"
        time.sleep(0.0005)


def steps_told(out: Path) -> int:
    journal = out / "metrics.jsonl"
    return journal.read_bytes().count(b'"event": "step"') if journal.is_file() else 0


def is_saving(out: Path) -> bool:
    """A checkpoint is half-written at this moment."""
    return any((out / "checkpoints").glob(".step-*.partial-*"))


def kill_somewhere(process: subprocess.Popen[str], out: Path, moments: random.Random) -> str:
    """SIGKILL after some steps of this process, in the middle of one or of saving; says when."""
    target = steps_told(out) + moments.randrange(1, 9)
    wait_for(lambda: steps_told(out) >= target, process)
    if moments.random() < 0.5:
        wait_for(lambda: is_saving(out), process)
        time.sleep(moments.uniform(0, 0.01))
        when = "while saving" if is_saving(out) else "after saving"
    else:
        time.sleep(moments.uniform(0, 0.15))
        when = "in a step"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return f"killed {when}, {steps_told(out)} steps told"


@pytest.mark.kill
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_run_killed_again_and_again_equals_an_uninterrupted_one(
    precision, moments, tiny_shards, tmp_path
):
    recipe = write_recipe(tmp_path / "recipe.toml", precision)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(recipe, tiny_shards, whole))
    kills = 0
    for _ in range(KILLS):
        process = start(recipe, tiny_shards, killed)
        print(kill_somewhere(process, killed, moments))  # noqa: T201
        kills += process.returncode == -signal.SIGKILL
    finish(start(recipe, tiny_shards, killed))
    assert kills >= 2  # a machine that is much faster than its clock may finish early
    assert len(losses(whole)) == STEPS
    assert losses(killed) == losses(whole)
    assert trace(killed) == trace(whole)
    assert learnt(killed) == learnt(whole)
    assert not list((killed / "checkpoints").glob(".step-*"))


@pytest.mark.slow
@pytest.mark.skipif(hardware.compiler()[0] is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_that_is_killed_equals_an_uninterrupted_one_too(
    moments, tiny_shards, tmp_path
):
    recipe = write_recipe(tmp_path / "recipe.toml", "auto", compile="on")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(recipe, tiny_shards, whole))
    process = start(recipe, tiny_shards, killed)
    print(kill_somewhere(process, killed, moments))  # noqa: T201
    finish(start(recipe, tiny_shards, killed))
    assert trace(killed) == trace(whole)
    assert learnt(killed) == learnt(whole)


@pytest.mark.kill
def test_a_run_killed_before_its_first_checkpoint_begins_anew(tiny_shards, tmp_path):
    recipe = write_recipe(tmp_path / "recipe.toml", "fp32")
    out = tmp_path / "run"
    process = start(recipe, tiny_shards, out)
    wait_for(lambda: steps_told(out) >= 1, process)
    process.kill()
    process.communicate()
    first = losses(out)
    finish(start(recipe, tiny_shards, out))
    assert losses(out)[: len(first)] == first
    assert len(losses(out)) == STEPS
