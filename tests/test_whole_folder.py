"""A folder is whole or not there, whatever happens while it is filled."""

import errno
from pathlib import Path

import pytest

from puna.errors import DataError
from puna.whole_folder import is_free, whole_folder


def fill(path: Path, content: str) -> None:
    with whole_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text(content)


def fill_and_raise(path: Path, error: Exception) -> None:
    with whole_folder(path) as folder:
        (folder / "file").write_text("half")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_only_when_it_is_complete(tmp_path: Path):
    out = tmp_path / "new" / "out"
    with whole_folder(out) as folder:
        (folder / "file").write_text("x")
        assert not out.exists()
    assert (out / "file").read_text() == "x"
    assert names(tmp_path / "new") == ["out"]


def test_an_error_leaves_what_was_there(tmp_path: Path):
    fill(tmp_path / "out", "old")
    with pytest.raises(RuntimeError, match="stop"):
        fill_and_raise(tmp_path / "out", RuntimeError("stop"))
    assert (tmp_path / "out" / "sub" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_it_replaces_what_was_there(tmp_path: Path):
    fill(tmp_path / "out", "old")
    fill(tmp_path / "out", "new")
    assert (tmp_path / "out" / "sub" / "file").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path):
    leftover = tmp_path / ".out.partial-1"
    leftover.mkdir()
    (leftover / "file").write_text("half")
    (tmp_path / ".other.partial-1").mkdir()
    fill(tmp_path / "out", "new")
    assert names(tmp_path) == [".other.partial-1", "out"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DataError, match=r"cannot write .*No space left") as caught:
        fill_and_raise(tmp_path / "out", full)
    assert "make room" in str(caught.value.hint)
    assert names(tmp_path) == []


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="should be a folder to write, found a file"):
        is_free(tmp_path / "file")
    with (
        pytest.raises(DataError, match=r"cannot write .*file/out"),
        whole_folder(tmp_path / "file" / "out"),
    ):
        pass


def test_only_nothing_and_an_empty_folder_are_free(tmp_path: Path):
    assert is_free(tmp_path / "none")
    assert is_free(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    assert not is_free(tmp_path)
