"""The fuzz helpers themselves: they let good endings pass and catch each bad one."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from attacks import mutations
from attacks.mutations import Hangs, alarm, ends_well, flips, other_values, truncations

from puna.errors import CheckpointError


@pytest.fixture
def some_file(tmp_path: Path) -> Path:
    path = tmp_path / "some.bin"
    path.write_bytes(bytes(1000))
    return path


def test_every_prefix_comes_once():
    assert list(truncations(b"abc")) == [b"", b"a", b"ab"]


def test_flips_are_the_same_for_the_same_seed_and_fall_mostly_into_the_regions():
    data = bytes(1000)
    first, again = (list(flips(data, 500, regions=[range(100, 110)], seed=3)) for _ in range(2))
    assert first == again
    changed = np.concatenate([np.flatnonzero(np.frombuffer(one, dtype=np.uint8)) for one in first])
    inside = np.mean((changed >= 100) & (changed < 110))
    assert 0.85 < inside < 0.95
    assert all(len(one) == len(data) for one in first)


def test_other_values_are_json_of_which_little_differs():
    good = json.dumps({"a": {"b": [1, 2, 3]}, "c": "text"}).encode()
    found = [json.loads(content) for content in other_values(good, 3000, seed=1)]
    assert sum(record.get("c") == "text" for record in found) > 1000
    assert {"a": {"b": [1, 2, 3]}} in found
    assert {"a": {"b": [1, 2, None]}, "c": "text"} in found


def test_a_result_and_one_error_of_ours_end_well(some_file: Path):
    assert ends_well(lambda: 7, some_file) == 7

    def refuse():
        raise CheckpointError(f"{some_file}: not what it should be")

    assert isinstance(ends_well(refuse, some_file), CheckpointError)


def test_another_exception_does_not_end_well(some_file: Path):
    def crash():
        raise KeyError("name")

    with pytest.raises(AssertionError, match="KeyError instead"):
        ends_well(crash, some_file)


def test_an_error_that_does_not_name_the_file_does_not_end_well(some_file: Path):
    def refuse():
        raise CheckpointError("something is wrong")

    with pytest.raises(AssertionError, match="does not name the file"):
        ends_well(refuse, some_file)


@pytest.mark.parametrize("platform", [sys.platform, "another"])
def test_memory_that_is_asked_for_but_never_touched_counts(
    platform: str, some_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(AssertionError, match="MemoryError instead"):
        ends_well(lambda: np.empty(100 << 20, dtype=np.uint8).size, some_file)
    assert ends_well(lambda: np.empty(50 << 20, dtype=np.uint8).size, some_file) == 50 << 20


def test_many_small_objects_count(some_file: Path):
    with pytest.raises(AssertionError, match="MemoryError"):
        ends_well(lambda: len([bytes(1000) for _ in range(1_000_000)]), some_file)


def test_an_error_of_ours_that_hides_a_lack_of_memory_does_not_end_well(some_file: Path):
    def refuse():
        try:
            np.empty(100 << 20, dtype=np.uint8)
        except MemoryError:
            raise CheckpointError(f"{some_file}: too large") from None

    with pytest.raises(AssertionError, match="too much memory"):
        ends_well(refuse, some_file)


def test_slow_reading_does_not_end_well(some_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mutations, "LIMIT_SECONDS", 0.0)
    with pytest.raises(AssertionError, match="of CPU"):
        ends_well(lambda: sum(range(10**5)), some_file)


def test_a_hang_is_broken_off():
    with pytest.raises(Hangs), alarm(0.05):
        time.sleep(10)
