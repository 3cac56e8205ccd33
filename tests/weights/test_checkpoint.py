"""Checkpoints are whole or absent: after kills, full disks and damage, the good ones stay good."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from tiny_model import TinyRecipe, random_arrays, tiny_config

from puna import schema
from puna.errors import CheckpointError, MachineError, SchemaError
from puna.weights import checkpoint
from puna.weights.checkpoint import (
    CheckpointContent,
    complete_checkpoints,
    find_checkpoint,
    prune,
    read_arrays,
    read_model,
    verify,
    write_checkpoint,
)

CONFIG = tiny_config(97)
FILES = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "recipe.toml",
    "tokenizer.model",
)


class Killed(BaseException):
    """Stands for SIGKILL: no `except Exception` sees it."""


@pytest.fixture
def save(tmp_path: Path):
    """`save(step, best_step=None)` writes a checkpoint of the run folder tmp_path / "run"."""
    tokenizer = tmp_path / "some.model"
    tokenizer.write_bytes(b"pieces")

    def write(step: int, best_step: int | None = None) -> Path:
        content = CheckpointContent(
            weights=random_arrays(CONFIG, seed=step),
            optimizer={"exp_avg.norm.weight": np.full(32, step, dtype=np.float32)},
            state={"tokens": 64 * step, "best_step": best_step},
            recipe=TinyRecipe(CONFIG),
            tokenizer_path=tokenizer,
        )
        return write_checkpoint(tmp_path / "run" / "checkpoints", step, content)

    return write


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_written_is_read_back_equal(save, tmp_path):
    folder = save(7)
    assert folder == tmp_path / "run" / "checkpoints" / "step-000007"
    assert sorted(contents(folder)) == sorted([*FILES, "manifest.json"])
    for path in (folder, tmp_path / "run"):
        stored = read_model(path)
        assert (stored.folder, stored.config, stored.step, stored.tokens) == (
            folder,
            CONFIG,
            7,
            448,
        )
        assert stored.tokenizer_path.read_bytes() == b"pieces"
        wanted = random_arrays(CONFIG, seed=7)
        assert stored.arrays.keys() == wanted.keys()
        for name, array in wanted.items():
            assert stored.arrays[name].dtype == np.float32
            np.testing.assert_array_equal(stored.arrays[name], array)


def test_weights_are_plain_safetensors_that_other_programs_read(save):
    """The format's own header: a length, then JSON, then the values."""
    raw = (save(1) / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    facts = header["layers.1.attention.wk.weight"]
    assert (facts["dtype"], facts["shape"]) == ("F32", [16, 32])
    begin, end = (8 + length + offset for offset in facts["data_offsets"])
    found = np.frombuffer(raw[begin:end], dtype="<f4").reshape(16, 32)
    np.testing.assert_array_equal(found, random_arrays(CONFIG, 1)["layers.1.attention.wk.weight"])


def test_a_checkpoint_moved_elsewhere_is_still_one(save, tmp_path):
    moved = tmp_path / "my model"
    shutil.copytree(save(3), moved)
    assert find_checkpoint(moved) == moved
    assert read_model(moved).step == 3


# Which one


def test_the_latest_and_the_best_are_found(save, tmp_path):
    for step, best in ((2, 2), (4, 2), (10, 2)):
        save(step, best)
    run = tmp_path / "run"
    assert find_checkpoint(run).name == "step-000010"
    assert find_checkpoint(run, "best").name == "step-000002"
    assert read_model(run, "best").step == 2


def test_steps_are_in_the_order_of_their_numbers(save, tmp_path):
    for step in (999_999, 1_000_001, 5):
        save(step)
    names = [path.name for path in complete_checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["step-000005", "step-999999", "step-1000001"]


def test_a_run_without_validation_has_no_best_checkpoint(save, tmp_path):
    save(2)
    with pytest.raises(CheckpointError, match="not validated yet"):
        find_checkpoint(tmp_path / "run", "best")


def test_a_best_checkpoint_that_was_deleted_is_missed_by_name(save, tmp_path):
    shutil.rmtree(save(2, best_step=2))
    save(4, best_step=2)
    with pytest.raises(CheckpointError, match="step-000002, which is gone"):
        find_checkpoint(tmp_path / "run", "best")


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_a_checkpoint_is_refused(tmp_path, made):
    folder = tmp_path / "run"
    if made:
        (folder / "checkpoints" / "step-000001").mkdir(parents=True)
    wanted = "a folder without a finished checkpoint" if made else "found nothing"
    with pytest.raises(CheckpointError, match=wanted) as caught:
        find_checkpoint(folder)
    assert "puna train" in str(caught.value.hint)


def test_what_a_user_puts_beside_the_checkpoints_is_left_alone(save, tmp_path):
    folder = save(1)
    copies = [folder.with_name(f"step-000001{end}") for end in ("-mine", ".bak", " (copy)")]
    for copy in copies:
        shutil.copytree(folder, copy)
    save(2)
    prune(folder.parent, keep_last=1)
    assert [path.name for path in complete_checkpoints(folder.parent)] == ["step-000002"]
    assert all(path.is_dir() for path in copies)


@pytest.mark.parametrize("best", [None, 2, 8, 10])
@pytest.mark.parametrize("keep_last", [1, 2, 9])
def test_the_last_ones_and_the_best_are_kept(save, tmp_path, best, keep_last):
    for step in (2, 4, 6, 8, 10):
        save(step, best)
    checkpoints = tmp_path / "run" / "checkpoints"
    prune(checkpoints, keep_last)
    kept = {int(path.name[5:]) for path in complete_checkpoints(checkpoints)}
    assert kept == set([2, 4, 6, 8, 10][-keep_last:]) | ({best} - {None})
    assert {path.name for path in checkpoints.iterdir()} == {f"step-{s:06d}" for s in kept}


# Killed half-way


def kill_at(line: int, action) -> bool:
    """Run `action`, killed before the `line`-th line of checkpoint.py; False when it got by."""
    left = line

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != checkpoint.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_kill_at_any_line_of_saving_and_pruning_leaves_what_was_good(save, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    save(1, best_step=1)
    save(2, best_step=1)
    before = contents(tmp_path)

    def save_and_prune():
        save(3, best_step=3)
        prune(checkpoints, keep_last=1)

    line, seen = 0, set()
    was_killed = True
    while was_killed:
        line += 1
        was_killed = kill_at(line, save_and_prune)
        found = complete_checkpoints(checkpoints)
        for folder in found:
            verify(folder)
        seen.add(tuple(folder.name[-1] for folder in found))
        if found[-1].name == "step-000002":
            kept = {name: content for name, content in contents(tmp_path).items() if name in before}
            assert kept == before
        else:
            assert find_checkpoint(tmp_path / "run", "best").name == "step-000003"
        # The next save clears away what the kill left.
        shutil.rmtree(tmp_path / "run")
        save(1, best_step=1)
        save(2, best_step=1)
    assert line > 40  # the whole way was killed, line by line
    assert {("1", "2"), ("1", "2", "3"), ("3",)} <= seen


def test_what_a_killed_save_left_is_cleared_by_the_next(save, tmp_path):
    checkpoints = save(1).parent
    line = 1
    while not list(checkpoints.glob(".*")):
        assert kill_at(line, lambda: save(2))
        line += 1
    save(2)
    assert {path.name for path in checkpoints.iterdir()} == {"step-000001", "step-000002"}


def test_saving_a_step_again_replaces_it(save):
    folder = save(5, best_step=None)
    (folder / "model.safetensors").write_bytes(b"damaged")
    save(5, best_step=5)
    verify(folder)
    assert schema.read_json(folder / "state.json", "puna.checkpoint")["best_step"] == 5


# Full disk


Usage = namedtuple("Usage", "total used free")


def test_too_little_space_is_seen_before_anything_is_written(save, tmp_path, monkeypatch):
    save(1)
    before = contents(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(MachineError, match=r"a checkpoint needs .*, 4\.9 KiB are free") as caught:
        save(2)
    assert "resumes from the last" in str(caught.value.hint)
    assert contents(tmp_path) == before


class DiskFull:
    """Lets `count` writes through, then the disk is full."""

    def __init__(self, count: int, error: Exception) -> None:
        self.left, self.error = count, error

    def __call__(self, write):
        def limited(*arguments, **options):
            if self.left == 0:
                raise self.error
            self.left -= 1
            return write(*arguments, **options)

        return limited


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("kind", ["OSError", "SafetensorError"])
def test_a_disk_that_fills_while_saving_is_one_error_and_loses_nothing(
    save, tmp_path, monkeypatch, after, kind
):
    import safetensors.numpy
    from safetensors import SafetensorError

    save(1)
    before = contents(tmp_path)
    error: Exception = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if kind == "SafetensorError":
        error = SafetensorError("Error while serializing: I/O error: No space left on device")
    disk = DiskFull(after, error)
    monkeypatch.setattr(safetensors.numpy, "save_file", disk(safetensors.numpy.save_file))
    monkeypatch.setattr(schema, "write_atomic", disk(schema.write_atomic))
    monkeypatch.setattr(shutil, "copyfile", disk(shutil.copyfile))
    with pytest.raises(
        CheckpointError, match=r"step-000002 could not .* the disk is full"
    ) as found:
        save(2)
    assert "earlier checkpoints are untouched" in str(found.value.hint)
    assert contents(tmp_path) == before
    monkeypatch.undo()
    verify(save(2))


def test_a_folder_one_may_not_write_to_is_named(save, tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match=r"could not be written: .*Permission denied"):
        save(1)


# Damage


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "emptied", "missing", "longer"])
def test_a_file_of_another_size_is_named_with_both_sizes(save, tmp_path, name, damage):
    folder = save(4)
    path = folder / name
    size = path.stat().st_size
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes({"cut": content[:-1], "emptied": b"", "longer": content + b"x"}[damage])
    with pytest.raises(CheckpointError, match=f"{size} bytes were written") as caught:
        read_model(tmp_path / "run")
    assert str(path) in caught.value.message
    assert f"remove {folder}" in str(caught.value.hint)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.99])
def test_one_changed_byte_is_found(save, tmp_path, name, place):
    path = save(4) / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="other content than was written") as caught:
        read_model(tmp_path / "run")
    assert str(path) in caught.value.message


def test_a_changed_byte_anywhere_in_the_manifest_never_passes_unseen(save):
    """All but in its own copy of the step, which nothing is read by."""
    path = save(4) / "manifest.json"
    whole = path.read_bytes()
    unseen = b""
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 4
        path.write_bytes(changed)
        try:
            verify(path.parent)
            unseen += whole[place : place + 1]
        except CheckpointError:
            pass
    assert unseen == b"step4"


def test_a_newer_checkpoint_is_refused(save, tmp_path, monkeypatch):
    folder = save(4)
    monkeypatch.setitem(schema.VERSIONS, "puna.checkpoint", 0)
    with pytest.raises(CheckpointError, match=r"version 1, this Puna reads up to 0") as caught:
        read_model(tmp_path / "run")
    assert "newer Puna" in str(caught.value.hint)
    with pytest.raises(SchemaError, match=r"state\.json has puna.checkpoint version 1"):
        checkpoint.read_state(folder)


def test_what_is_not_safetensors_is_named(tmp_path):
    for content in (b"", b"not safetensors at all", b"\xff" * 64):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.safetensors is not a readable"):
            read_arrays(path)
    with pytest.raises(CheckpointError, match="is not a readable"):
        read_arrays(tmp_path / "absent.safetensors")
