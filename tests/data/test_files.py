"""Files here and at URLs; the oracles are pathlib, and fsspec's own memory file system."""

import subprocess
import sys
from pathlib import Path

import pytest

from puna.data import files
from puna.errors import DataError, MachineError


@pytest.fixture(params=["here", "memory", "hierarchy"])
def folder(request, tmp_path: Path):
    """A folder's full name: on this disk, in memory, and behind a file system without uploads."""
    if request.param == "here":
        yield str(tmp_path / "a folder")
        return
    fsspec = pytest.importorskip("fsspec")
    if request.param == "hierarchy":
        yield f"file://{tmp_path}/at-url"  # fsspec's own local one: files are renamed there
        return
    yield "memory://a/folder"
    fsspec.filesystem("memory").rm("/a", recursive=True)


def test_what_is_written_is_found_listed_and_read(folder: str):
    assert files.in_folder(folder) == {}
    for name in ("b.txt", "a.txt"):
        files.write_bytes(files.join(folder, name), name.encode() * 3)
    assert files.read_bytes(f"{folder}/b.txt") == b"b.txtb.txtb.txt"
    assert sorted(files.in_folder(folder)) == ["a.txt", "b.txt"]
    assert files.in_folder(folder)["a.txt"].path == f"{folder}/a.txt"
    assert {file.bytes for file in files.find(f"{folder}/*.txt")} == {15}
    files.write_json(f"{folder}/c.json", {"é": 1})
    assert files.read_json(f"{folder}/c.json") == {"é": 1}
    files.copy(f"{folder}/a.txt", f"{folder}/sub/d.txt")
    assert list(files.find_all([folder])) == ["a.txt", "b.txt", "c.json", "sub/d.txt"]
    assert files.size(f"{folder}/sub/d.txt") == 15


def test_a_file_that_was_not_finished_is_not_there(folder: str):
    files.write_bytes(f"{folder}/a.txt", b"old")
    with pytest.raises(ZeroDivisionError), files.write_whole(f"{folder}/a.txt") as file:
        file.write(bytes(1 // 0))
    assert files.read_bytes(f"{folder}/a.txt") == b"old"
    assert list(files.in_folder(folder)) == ["a.txt"]


def test_what_a_killed_writer_left_is_swept(folder: str):
    files.write_bytes(f"{folder}/a.txt", b"whole")
    files.write_bytes(f"{folder}/.b.txt{files.PARTIAL}12", b"half")
    assert files.sweep(folder) == 1
    assert list(files.in_folder(folder)) == ["a.txt"]
    assert files.sweep(f"{folder}/none") == 0


def test_a_version_changes_with_the_content(folder: str):
    path = f"{folder}/a.txt"
    files.write_bytes(path, b"one")
    (before,) = files.find(path)
    files.write_bytes(path, b"two")
    (after,) = files.find(path)
    assert before.version
    assert before.version != after.version


def test_short_names_are_the_same_wherever_a_tree_lies(tmp_path: Path):
    for name in ("x/a/1.txt", "x/a/2.txt", "x/b/1.txt", "x/.git/3.txt", "x/a/.hidden"):
        files.write_bytes(f"{tmp_path}/{name}", b"")
    x = f"{tmp_path}/x"
    assert list(files.find_all([x])) == ["a/1.txt", "a/2.txt", "b/1.txt"]
    assert list(files.find_all([f"{x}/"])) == ["a/1.txt", "a/2.txt", "b/1.txt"]
    assert list(files.find_all([f"{x}/*/1.txt"])) == ["a/1.txt", "b/1.txt"]
    assert list(files.find_all([f"{x}/a/1.txt"])) == ["1.txt"]
    assert list(files.find_all([f"{x}/a", f"{x}/b"])) == ["a/1.txt", "a/2.txt", "b/1.txt"]
    assert list(files.find_all([f"{x}/a", f"{x}/a/1.txt"])) == ["1.txt", "2.txt"]


def test_names_in_this_folder_stay_as_they_are(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_bytes("a.txt", b"")
    assert [file.path for file in files.find("a.txt")] == ["a.txt"]
    assert list(files.find_all(["a.txt"])) == ["a.txt"]
    assert files.join("memory://a/", "b") == "memory://a/b"
    assert files.join("/", "b") == "/b"


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("nothing/here", DataError, "there is no file nothing/here"),
        ("memory://none", DataError, "there is no file memory://none"),
        ("pigeon://a/b", DataError, "pigeon://a/b cannot be reached: Protocol not known"),
    ],
)
def test_what_cannot_be_reached_is_one_clear_error(path, kind, message):
    with pytest.raises(kind, match=message):
        files.find(path)
    with pytest.raises(DataError):
        files.open_bytes(path)
    with pytest.raises(DataError, match="http is read only"):
        files.require_writable("https://example.org/out")


def test_a_file_system_that_is_not_installed_names_its_package(monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        MachineError, match=r"s3://bucket/a cannot be reached(?s:.*)pip install s3fs"
    ):
        files.find("s3://bucket/a")


def test_local_paths_import_no_fsspec(tmp_path: Path):
    code = (
        "import sys; from puna.data import files;"
        f"files.write_bytes({str(tmp_path / 'a')!r}, b''); files.find({str(tmp_path)!r});"
        "assert not {'fsspec', 'numpy'} & set(sys.modules)"
    )
    root = Path(files.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
