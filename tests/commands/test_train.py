"""`puna train` as a user runs it: stopped by real signals, and every mistake before any work."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_training import learnt, recipe_text, trace
from token_texts import documents

from puna import cli, hardware
from puna.train.metrics import read_metrics
from puna.weights.checkpoint import find_checkpoint

torch = pytest.importorskip("torch")

PATIENCE_SECONDS = 120


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of twelve steps."""
    path = tmp_path / "mine.toml"
    path.write_text(recipe_text(sample_tokens=4))
    return path


@pytest.fixture
def train(recipe, tmp_path, monkeypatch):
    """`train(*words)` runs the verb in this process, in an empty folder; returns its exit code."""
    rate = hardware.Rate(1e12, "not measured")
    monkeypatch.setattr(hardware, "matmul_rate", lambda *_: rate)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*words, recipe=recipe) -> int:
        return cli.main(["train", *map(str, [recipe, *words])])

    return run


def test_shards_become_a_run_and_the_next_steps_are_told(train, tiny_shards, tmp_path, capsys):
    out = tmp_path / "run"
    assert train("--shards", tiny_shards, "--out", out) == 0
    printed = capsys.readouterr()
    assert f"{out}: finished at step 12" in printed.out
    assert f"next: puna generate {out} --prompt" in printed.out
    assert f"puna report {out}" in printed.out
    for fact in ("53,408 exactly", "12 steps", "1 threads", "fp32 (asked for)", "no (asked for)"):
        assert fact in printed.err
    run = read_metrics(out / "metrics.jsonl")
    assert (len(run.steps), run.end.reason) == (12, "finished")


def test_json_is_one_record_and_quiet_is_quiet(train, tiny_shards, capsys):
    assert train("--shards", tiny_shards, "--out", "run", "--json", "--quiet") == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert (record["out"], record["step"], record["steps_now"]) == ("run", 12, 12)
    assert record["reason"] == "finished"
    assert record["loss"] == read_metrics(Path("run/metrics.jsonl")).steps[-1].loss
    assert printed.err == ""
    assert train("--shards", tiny_shards, "--out", "run", "--json", "--quiet") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["step"], record["steps_now"], record["loss"]) == (12, 0, None)


def test_without_out_the_run_is_named_by_recipe_and_text(train, tmp_path, capsys):
    folder = tmp_path / "speeches"
    folder.mkdir()
    for name, text in documents(30):
        (folder / f"{name}.txt").write_text(text)
    assert train("--data", folder, "--set", "train.steps=3", "--licence", "CC0") == 0
    assert find_checkpoint(Path("runs/mine-speeches")).name == "step-000003"
    session = read_metrics(Path("runs/mine-speeches/metrics.jsonl")).session
    assert list(session.corpus["licences"]) == ["CC0"]
    assert session.recipe["train"]["steps"] == 3


def test_a_folder_that_holds_its_own_runs_can_be_trained_on_twice(train, tmp_path, capsys):
    """What Puna wrote below the folder is not read as text the second time."""
    for name, text in documents(30):
        Path(f"{name}.txt").write_text(text)
    assert train("--data", ".") == 0
    assert train("--data", ".") == 0
    assert "already trained" in capsys.readouterr().err


MISTAKES = {
    "no text": ((), "give the text as --data PATH or as --shards DIR, one of the two", 2),
    "both": (("--data", "a", "--shards", "b"), "one of the two", 2),
    "no such folder": (("--data", "texts"), "texts", 1),
    "no such shards": (("--shards", "shards"), "should hold token shards", 1),
    "no such corpus": (("--shards", "SHARDS", "--corpus", "c"), "there is no corpus in c", 1),
    "unknown key": (("--shards", "SHARDS", "--set", "train.step=3"), "unknown key train.step", 1),
    "unknown option": (("--shards", "SHARDS", "--steps", "3"), "--steps", 2),
    "no value": (("--shards", "SHARDS", "--set", "train.steps"), "--set wants name=value", 1),
    "wrong type": (("--shards", "SHARDS", "--set", "train.steps=x"), "should be int", 1),
    "impossible": (("--shards", "SHARDS", "--set", "model.heads=3"), "even head size", 1),
    "too large": (
        ("--shards", "SHARDS", "--set", "model.dim=131072", "--set", "model.layers=99"),
        "even with one sequence at a time",
        1,
    ),
    "vocabulary": (
        ("--shards", "SHARDS", "--set", "model.vocabulary_size=999"),
        "model.vocabulary_size is 999, the tokenizer has 320 pieces",
        1,
    ),
    "context": (
        ("--shards", "SHARDS", "--set", "model.context_length=65536", "--set",
         "train.batch_tokens=65536"),
        "the corpus in",
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_error_with_a_hint_before_any_work(train, tiny_shards, capsys, name):
    words, wanted, code = MISTAKES[name]
    words = [str(tiny_shards) if word == "SHARDS" else word for word in words]
    assert train(*words, "--out", "run") == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("error:") == 1
    assert "hint:" in printed.err or name == "wrong type"
    assert wanted in printed.err
    assert "Traceback" not in printed.err
    assert "bug in Puna" not in printed.err
    assert not Path("run/checkpoints").exists()


def test_a_missing_recipe_is_named(train, tiny_shards, capsys):
    assert train("--shards", tiny_shards, recipe="none.toml") == 1
    assert "there is no recipe none.toml" in capsys.readouterr().err


def test_the_recipe_that_was_given_is_not_written_over(train, tiny_shards, recipe, capsys):
    mine = Path("recipe.toml")
    shutil.copy(recipe, mine)
    before = mine.read_bytes()
    assert train("--shards", tiny_shards, "--out", ".", recipe=mine) == 2
    assert "over recipe.toml" in capsys.readouterr().err
    assert mine.read_bytes() == before


def test_a_runs_own_recipe_trains_and_resumes(train, tiny_shards, capsys):
    assert train("--shards", tiny_shards, "--out", "run") == 0
    written = "run/recipe.toml"
    assert train("--shards", tiny_shards, "--out", "run", recipe=written) == 0
    assert "already trained" in capsys.readouterr().err
    assert train("--shards", tiny_shards, "--out", "again", recipe=written) == 0
    assert learnt(Path("again")) == learnt(Path("run"))


def test_a_second_run_into_the_folder_of_another_is_refused(train, tiny_shards, capsys):
    assert train("--shards", tiny_shards, "--out", "run") == 0
    before = learnt(Path("run"))
    assert train("--shards", tiny_shards, "--out", "run", "--set", "train.seed=2") == 1
    assert "run was trained with train.seed = 1, this recipe says 2" in capsys.readouterr().err
    assert learnt(Path("run")) == before


def test_without_torch_the_line_that_installs_it_is_told(train, tiny_shards, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "has_package", lambda name: name != "torch")
    assert train("--shards", tiny_shards) == 1
    error = capsys.readouterr().err
    assert "training needs the package torch" in error
    assert "pip install 'puna[train]'" in error


def start(*words) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "puna", "train", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stop_after(process: subprocess.Popen[str], out: Path, steps: int, stop: signal.Signals) -> None:
    """Send the signal when the journal tells of that many steps; waits for the end."""
    journal, deadline = out / "metrics.jsonl", time.monotonic() + PATIENCE_SECONDS
    while not journal.is_file() or journal.read_bytes().count(b'"event": "step"') < steps:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(stop)


def test_sigterm_and_ctrl_c_save_and_the_same_command_goes_on_to_the_bit(
    recipe, tiny_shards, tmp_path, train
):
    changes = ["--set", "train.steps=250", "--set", "train.checkpoint_every=1000"]
    words = [recipe, "--shards", tiny_shards, *changes, "--set", "train.validate_every=200"]
    out = tmp_path / "run"
    steps = 0
    for stop, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(*words, "--out", out)
        stop_after(process, out, steps + 20, stop)
        said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == code, said
        steps = int(find_checkpoint(out).name.removeprefix("step-"))
        assert f"stopped by {stop.name} at step {steps}" in said[0]
        assert "the same command goes on from here" in said[1]
    assert train(*words[1:], "--out", out) == 0
    assert train(*words[1:], "--out", tmp_path / "whole") == 0
    assert [session.step > 0 for session in read_metrics(out / "metrics.jsonl").sessions] == [
        False,
        True,
        True,
    ]
    assert trace(out) == trace(tmp_path / "whole")
    assert learnt(out) == learnt(tmp_path / "whole")


def test_two_processes_do_not_train_in_one_folder(recipe, tiny_shards, tmp_path, train, capsys):
    out = tmp_path / "run"
    words = ["--shards", tiny_shards, "--out", out, "--set", "train.steps=100000"]
    first = start(recipe, *words)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert train(*words) == 1
        assert f"being trained by another process (id {first.pid})" in capsys.readouterr().err
    finally:
        first.kill()
        first.communicate()
