"""Every crafted .pth file ends in the one error it should; nothing in it ever runs."""

import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.mutations import ends_well, flips, truncations
from attacks.pickle_attacks import PROGRAMS
from attacks.torch_zip import GOOD, pickled, tensor, with_program
from attacks.zip_attacks import ARCHIVES

from puna.errors import CheckpointError
from puna.weights.pickle_file import open_pickle
from puna.weights.pickle_writer import PickleWriter, PlannedTensor

FLIPS = 100_000
QUICK_FLIPS = 2_000


def load(path: Path) -> dict[str, Any]:
    """Everything in a file: shapes, types, and every number."""
    return {
        name: (one.shape, one.dtype, one.read().tobytes())
        for name, one in open_pickle(path).items()
    }


def refused(path: Path, content: bytes) -> CheckpointError:
    path.write_bytes(content)
    outcome = ends_well(lambda: load(path), path)
    assert isinstance(outcome, CheckpointError), f"read as {outcome}"
    return outcome


def test_the_good_file_is_good(tmp_path: Path):
    path = tmp_path / "model.pth"
    path.write_bytes(with_program(GOOD))
    assert load(path) == {"weight": ((2, 3), "F32", struct.pack("<6f", *range(1, 7)))}


@pytest.mark.parametrize("label", PROGRAMS)
def test_a_crafted_pickle_is_refused(label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"it ran {command}"))
    program, says = PROGRAMS[label]
    error = refused(tmp_path / "model.pth", with_program(program))
    assert re.search(says, error.message), error.message


@pytest.mark.parametrize("label", ARCHIVES)
def test_a_crafted_zip_is_refused(label: str, tmp_path: Path):
    content, says = ARCHIVES[label]
    error = refused(tmp_path / "model.pth", content)
    assert re.search(says, error.message), error.message


def test_an_error_tells_where_in_the_pickle_it_stands(tmp_path: Path):
    program = pickled(tensor() + b"}b")
    error = refused(tmp_path / "model.pth", with_program(program))
    assert f"data.pkl, byte {program.index(b'}b') + 1}: " in error.message
    assert error.hint is not None
    assert "state_dict" in error.hint


def small_file(folder: Path) -> bytes:
    """A file of this writer's with three tensors, small enough to be cut at every byte."""
    path = folder / "small.pth"
    plan = [
        PlannedTensor("tok_embeddings.weight", (3, 4), "F32"),
        PlannedTensor("norm.weight", (4,), "F16"),
        PlannedTensor("output.weight", (2, 2), "BF16"),
    ]
    with PickleWriter(path, plan) as writer:
        for planned, kind in zip(plan, ("<f4", "<f2", "<u2"), strict=True):
            writer.add(np.arange(np.prod(planned.shape)).astype(kind).reshape(planned.shape))
    return path.read_bytes()


def regions(good: bytes) -> list[range]:
    """The zip's own records: the directory with its end, and the header of each member."""
    directory = good.index(b"PK\1\2")
    headers = [range(at, at + 60) for at in range(directory) if good.startswith(b"PK\3\4", at)]
    return [range(directory, len(good)), *headers]


def attack_zip(folder: Path, count: int, seed: int) -> None:
    """Flips in the records of a zip; what can still be read must be what was written."""
    path = folder / "bent.pth"
    for good in (small_file(folder), with_program(GOOD)):
        path.write_bytes(good)
        wanted = load(path)
        for content in flips(good, count // 2, regions=regions(good), seed=seed):
            path.write_bytes(content)
            outcome = ends_well(lambda: load(path), path)
            assert isinstance(outcome, CheckpointError) or outcome == wanted


def attack_program(folder: Path, count: int, seed: int) -> int:
    """Flips in a pickle whose CRC is right again; how many of them could be read."""
    path, read = folder / "bent.pth", 0
    first, second = pickled(tensor())[3:-2], pickled(tensor(), key="b")[3:-2]
    for program in (GOOD, b"\x80\x02}(" + first + second + b"u."):
        for content in flips(program, count // 2, seed=seed):
            path.write_bytes(with_program(content))
            outcome = ends_well(lambda: load(path), path)
            read += not isinstance(outcome, CheckpointError)
    return read


def test_a_file_cut_off_at_any_byte_is_refused(tmp_path: Path):
    path = tmp_path / "cut.pth"
    for content in (*truncations(small_file(tmp_path)), *truncations(with_program(GOOD))):
        refused(path, content)


def test_random_flips_end_well(tmp_path: Path):
    attack_zip(tmp_path, QUICK_FLIPS // 2, seed=1)
    assert 0 < attack_program(tmp_path, QUICK_FLIPS // 2, seed=1) < QUICK_FLIPS / 4


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_thousand_random_flips_end_well(part: int, tmp_path: Path):
    attack_zip(tmp_path, FLIPS // 10, seed=100 + part)
    attack_program(tmp_path, FLIPS // 10, seed=100 + part)
