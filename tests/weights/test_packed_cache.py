"""Packed weights in files: taken only when whole and of this very model, and never in the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from mixed_model import MixedSource, mixed_source
from tiny_model import tiny_config

from puna import cli, hardware
from puna.errors import MachineError, UsageError
from puna.weights import packed_cache
from puna.weights.packed_cache import HEADER_BYTES, PackedCache, header_of

PACKED = np.arange(10000, dtype=np.uint32).view(np.uint8)


@pytest.fixture
def source(tmp_path) -> MixedSource:
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(1 << 18))
    random = mixed_source(tiny_config())
    return MixedSource(random.config, random.tensors, random.rows, path)


def stored(cache: PackedCache, source: MixedSource, packed: np.ndarray = PACKED) -> Path:
    header = header_of(source, "layout")
    path = cache.path_of(source, header)
    cache.store(path, header, packed)
    return path


def found(cache: PackedCache, source: MixedSource, layout: str = "layout") -> bytes | None:
    header = header_of(source, layout)
    descriptor = cache.open(cache.path_of(source, header), header, PACKED.nbytes)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()[len(header) :]


def test_what_was_stored_is_found(tmp_path, source):
    cache = PackedCache(tmp_path, 10**6)
    assert found(cache, source) is None
    path = stored(cache, source)
    assert found(cache, source) == PACKED.tobytes()
    assert [(file.path, file.source) for file in cache.files()] == [(path, str(source.path))]
    assert [one.name for one in cache.folder.iterdir()] == [path.name]


def test_pieces_of_any_length_make_the_same_file(tmp_path, source, monkeypatch):
    for piece in (4096, 4097, 8192, 12289, 1 << 20):
        monkeypatch.setattr(packed_cache, "_PIECE_BYTES", piece)
        stored(PackedCache(tmp_path, 10**6), source)
        assert found(PackedCache(tmp_path, 10**6), source) == PACKED.tobytes()


@pytest.mark.parametrize("at", [0, 1 << 17, -1])
def test_a_model_that_changed_is_another(tmp_path, source, at):
    """Its ends are read, and its time: the middle alone changes that."""
    cache = PackedCache(tmp_path, 10**6)
    stored(cache, source)
    before = source.path.stat()
    content = bytearray(source.path.read_bytes())
    content[at] ^= 1
    source.path.write_bytes(content)
    os.utime(source.path, ns=(before.st_atime_ns, before.st_mtime_ns + (at == 1 << 17)))
    assert found(cache, source) is None


def test_another_layout_is_another_file(tmp_path, source):
    cache = PackedCache(tmp_path, 10**6)
    stored(cache, source)
    assert found(cache, source, "of other kernels") is None


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    damaged = {
        "cut": content[:-1],
        "longer": content + b"x",
        "empty": b"",
        "foreign": b"GGUF".ljust(len(content), b"\xff"),
        "header": content[:30] + b"#" + content[31:],
    }
    path.write_bytes(damaged[kind])


@pytest.mark.parametrize("kind", ["cut", "longer", "empty", "foreign", "header"])
def test_a_damaged_file_is_never_taken(tmp_path, source, kind):
    cache = PackedCache(tmp_path, 10**6)
    path = stored(cache, source)
    damage(path, kind)
    with pytest.raises(MachineError, match="is damaged"):
        found(cache, source)
    assert len(cache.files()) == 1  # listed all the same, to be removed
    stored(cache, source)
    assert found(cache, source) == PACKED.tobytes()


def test_the_least_recently_used_go_first(tmp_path, source):
    cache = PackedCache(tmp_path, 3 * (HEADER_BYTES + PACKED.nbytes))
    paths = []
    for number in range(3):
        os.utime(source.path, (number, number))
        paths.append(stored(cache, source))
        os.utime(paths[-1], (100 + number, 100 + number))
    os.utime(source.path, (0, 0))
    assert found(cache, source)  # so that the first is the last used
    os.utime(source.path, (9, 9))
    fourth = stored(cache, source)
    assert {file.path for file in cache.files()} == {paths[0], paths[2], fourth}


def test_more_than_the_bound_is_not_kept(tmp_path, source):
    cache = PackedCache(tmp_path, PACKED.nbytes)
    with pytest.raises(MachineError, match=r"exceed the .* PUNA_PACKED_CACHE allows"):
        stored(cache, source)
    assert cache.files() == []


def test_a_full_disk_leaves_nothing_behind(tmp_path, source, monkeypatch):
    def full(descriptor, parts):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", full)
    cache = PackedCache(tmp_path, 10**6)
    with pytest.raises(MachineError, match="No space left"):
        stored(cache, source)
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path, source):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"Not a directory|exists") as caught:
        stored(PackedCache(tmp_path / "file", 10**6), source)
    assert "\n" not in caught.value.message


def test_what_killed_processes_left_is_cleared(tmp_path, source):
    cache = PackedCache(tmp_path, 10**6)
    path = stored(cache, source)
    old, new = (path.with_name(f".{path.name}.partial-{number}") for number in (1, 2))
    old.touch()
    os.utime(old, (0, 0))
    new.touch()
    stored(cache, source)
    assert (old.exists(), new.exists()) == (False, True)


def test_the_bound_is_a_number_of_gb(tmp_path, monkeypatch):
    monkeypatch.delenv("PUNA_PACKED_CACHE", raising=False)
    assert 0 < hardware.packed_cache_bytes(tmp_path / "not" / "there") <= 50 * 10**9
    monkeypatch.setenv("PUNA_PACKED_CACHE", "1.5")
    assert hardware.packed_cache_bytes(tmp_path) == 1_500_000_000
    monkeypatch.setenv("PUNA_PACKED_CACHE", "-1")
    with pytest.raises(UsageError, match="number of GB"):
        hardware.packed_cache_bytes(tmp_path)


def test_puna_cache_lists_and_removes_them(tmp_path, source, monkeypatch, capsys):
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path))
    monkeypatch.delenv("PUNA_PACKED_CACHE")
    stored(PackedCache(), source)
    assert cli.main(["cache", "list"]) == 0
    assert str(source.path) in capsys.readouterr().out
    assert cli.main(["cache", "rm", str(source.path)]) == 0
    assert PackedCache().files() == []
    stored(PackedCache(), source)
    assert cli.main(["cache", "rm", "all-packed"]) == 0
    assert PackedCache().files() == []
    assert cli.main(["cache", "rm", str(source.path)]) == 2
