"""Processes that are really killed; the oracle is the same build left alone."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from build_runs import command, environment, results

from puna.data.build.executor import ATTEMPTS
from puna.data.build.local import TASKS_PER_WORKER, LocalProcesses
from puna.data.build.task import Task
from puna.errors import DataError

SECONDS = 60.0  # for what takes three when nothing else runs


def task(folder: Path, kind: str, times: int, name: str = "one") -> Task:
    return Task("slow_stage:write", (), (kind, times), str(folder / name))


def test_a_worker_that_is_killed_costs_its_own_task_one_more_try(tmp_path: Path):
    tasks = [task(tmp_path, "fine", 0, f"fine-{number}") for number in range(6)]
    tasks.insert(2, task(tmp_path, "die", 1))
    with LocalProcesses(2) as pool:
        done = list(pool.run(tasks))
    assert {one.task.output for one in done} == {one.output for one in tasks}
    assert [one.error for one in done] == [""] * 7
    tries = {path.name: len(path.read_text()) for path in tmp_path.glob("*.tries")}
    assert tries.pop("one.tries") == 2
    assert set(tries.values()) == {1}


@pytest.mark.parametrize(
    ("kind", "message"), [("die", "its worker died (signal 9"), ("fail", "OSError: the network")]
)
def test_a_task_that_never_works_is_given_up_and_the_others_are_done(tmp_path, kind, message):
    tasks = [task(tmp_path, kind, 99), *(task(tmp_path, "fine", 0, str(at)) for at in range(3))]
    with LocalProcesses(2) as pool:
        errors = {one.task.output: one.error for one in pool.run(tasks)}
    assert message in errors.pop(tasks[0].output)
    assert set(errors.values()) == {""}
    assert len((tmp_path / "one.tries").read_text()) == ATTEMPTS
    assert not (tmp_path / "one").exists()


def test_an_error_of_ours_stops_the_run_with_its_hint(tmp_path: Path):
    with LocalProcesses(1) as pool, pytest.raises(DataError, match="not ours") as raised:
        list(pool.run([task(tmp_path, "refuse", 9)]))
    assert raised.value.hint == "give another"
    assert len((tmp_path / "one.tries").read_text()) == 1


def test_workers_are_replaced_before_they_are_worn_out(tmp_path: Path):
    tasks = [task(tmp_path, "fine", 0, str(number)) for number in range(TASKS_PER_WORKER + 3)]
    with LocalProcesses(1) as pool:
        assert sum(1 for one in pool.run(tasks) if not one.error) == len(tasks)


@pytest.fixture
def slow_recipe(recipe: Path, tmp_path: Path):
    """The recipe with a stage that takes its time, and the folder in which workers show up."""
    seen = tmp_path / "seen"
    seen.mkdir()
    settings = ['--set=stages=["slow", "exact"]', '--set=sources.notes.stages=["slow"]']
    settings += ["--set=settings.slow.seconds=0.25", f"--set=settings.slow.folder={seen}"]
    return [recipe, "--workers", "2", "--quiet", *settings], seen


def start(words: list[object], out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command([*words, "--out", out, "--json"]), env=environment())


def wait_for(condition, seconds: float = SECONDS) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return b"State:\tZ" not in Path(f"/proc/{process}/status").read_bytes()


def test_a_build_whose_worker_and_driver_are_killed_ends_with_the_same_bytes(slow_recipe, tmp_path):
    words, seen = slow_recipe
    whole = start(words, tmp_path / "whole")
    assert whole.wait(SECONDS) == 0
    expected = results(tmp_path / "whole")
    for path in seen.iterdir():
        path.unlink()
    out = tmp_path / "killed"
    first = start(words, out)
    wait_for(lambda: any(seen.iterdir()))
    os.kill(int(next(seen.iterdir()).name), signal.SIGKILL)
    wait_for(lambda: len(list(out.glob("work/*/01-slow*/*.zst"))) >= 2)
    first.kill()
    first.wait()
    workers = [int(path.name) for path in seen.iterdir()]
    wait_for(lambda: not any(map(is_alive, workers)))
    done = {path: path.stat().st_mtime_ns for path in out.glob("work/*/01-slow*/*.zst")}
    assert done
    assert results(out) != expected
    (next(iter(done)).parent / ".00009.jsonl.zst.partial-1").write_bytes(b"left by the dead")
    again = start(words, out)
    assert again.wait(SECONDS) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert results(out) == expected
    assert not list(out.rglob("*.partial-*"))
