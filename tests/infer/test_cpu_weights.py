"""Weights packed, kept and loaded again: the same bytes whichever way they came."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from cpu_runs import needs_kernels
from mixed_model import MixedSource, mixed_source
from peak_memory import peak_of
from small_vocabulary import spm_vocabulary
from tiny_model import tiny_config

from puna.console import silent
from puna.errors import MachineError
from puna.infer.backends import cpu_weights, packed_memory
from puna.infer.backends.cpu_weights import layout_of, load_weights, pack_weights, plan
from puna.infer.backends.packed_memory import anonymous_memory, file_memory
from puna.weights.gguf import write_gguf
from puna.weights.packed_cache import PackedCache

pytestmark = needs_kernels
# Above packed weights and the largest tensor: what the product promises. Python and NumPy take 30.
SPARE_BYTES = 150 << 20


@pytest.fixture
def source(tmp_path, monkeypatch) -> MixedSource:
    monkeypatch.setattr(cpu_weights, "SMALLEST_KEPT_BYTES", 0)
    path = tmp_path / "model.gguf"
    path.write_bytes(os.urandom(1000))
    random = mixed_source(tiny_config())
    return MixedSource(random.config, random.tensors, random.rows, path)


@pytest.fixture
def cache(tmp_path) -> PackedCache:
    return PackedCache(tmp_path / "cache", 1 << 30)


def test_a_second_load_packs_nothing_and_has_the_same_bytes(source, cache, monkeypatch):
    first = load_weights(source, 2, cache)
    assert first.notes == ()
    monkeypatch.setattr(cpu_weights, "pack_weights", None)
    second = load_weights(source, 2, cache)
    assert second.notes == ()
    assert first.matrices.keys() == second.matrices.keys()
    for name, matrix in pack_weights(source, 1).matrices.items():
        other = second.matrices[name]
        assert matrix.arguments()[1:] == other.arguments()[1:]
        np.testing.assert_array_equal(matrix.data, other.data)
        assert other.data.ctypes.data % 64 == 0


@pytest.mark.parametrize("is_huge", [False, True])
def test_a_file_is_mapped_or_copied(tmp_path, monkeypatch, is_huge):
    monkeypatch.setattr(packed_memory, "_is_huge", lambda memory: is_huge)
    monkeypatch.setattr(packed_memory, "_PIECE_BYTES", 1000)
    content = os.urandom(12345)
    (tmp_path / "file").write_bytes(bytes(4096) + content)
    with (tmp_path / "file").open("rb") as file:
        memory = file_memory(file.fileno(), 4096, len(content), 2)
    assert memory.tobytes() == content
    if sys.platform == "linux":
        assert memory.flags.writeable is not is_huge


@pytest.mark.skipif(sys.platform != "linux", reason="mapped as it is elsewhere")
def test_a_file_cut_while_it_is_copied_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))

    def cut(memory):
        os.truncate(path, 50_000)
        return False

    monkeypatch.setattr(packed_memory, "_is_huge", cut)
    with path.open("rb") as file, pytest.raises(MachineError, match="cut short"):
        file_memory(file.fileno(), 4096, 95_904, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what its pages are")
def test_anonymous_memory_is_not_taken_for_a_file_of_huge_pages():
    memory = anonymous_memory(64 << 20)
    memory[:] = 1
    assert not packed_memory._is_huge(memory)


def test_loading_tells_how_far_it_is(source, cache, monkeypatch):
    monkeypatch.setattr(packed_memory, "_is_huge", lambda memory: False)
    stages = ["packing weights", "keeping them for the next time"]
    if sys.platform == "linux":
        stages += ["reading packed weights", "copying packed weights"]
    told = []
    for _load in range(2):
        load_weights(source, 2, cache, lambda *words: told.append(words))
    assert list(dict.fromkeys(stage for stage, _done, _total in told)) == stages
    for stage in stages:
        steps = [(done, total) for name, done, total in told if name == stage]
        assert [done for done, _total in steps] == sorted(done for done, _total in steps)
        assert all(0 <= done < total for done, total in steps)
        assert len({total for _done, total in steps}) == 1
    packed = [done for name, done, _total in told if name == "packing weights"]
    assert len(packed) == len(pack_weights(source, 1).matrices)


def test_a_damaged_file_is_packed_anew_with_a_note(source, cache):
    load_weights(source, 2, cache)
    path = cache.files()[0].path
    os.truncate(path, path.stat().st_size - 1)
    assert [note.endswith("is damaged") for note in load_weights(source, 2, cache).notes] == [True]
    assert load_weights(source, 2, cache).notes == ()


def test_where_nothing_can_be_kept_loading_goes_on(source, tmp_path):
    (tmp_path / "file").touch()
    weights = load_weights(source, 2, PackedCache(tmp_path / "file", 1 << 30))
    assert [note.startswith("packed weights are not kept: ") for note in weights.notes][-1]
    assert weights.nbytes == pack_weights(source, 2).nbytes


def test_without_room_for_files_none_is_written(source, tmp_path):
    assert load_weights(source, 2, PackedCache(tmp_path / "none", 0)).notes == ()
    assert not (tmp_path / "none").exists()


def test_kernels_that_pack_otherwise_have_another_layout(source, monkeypatch):
    places, _size = plan(source)
    before = layout_of(places)
    assert before == layout_of(places)
    pack = cpu_weights.pack

    def other(dtype, rows, inputs, out, threads):
        pack(dtype, rows, inputs, out, threads)
        if dtype == "Q4_0":
            out[100] ^= 1

    monkeypatch.setattr(cpu_weights, "pack", other)
    assert layout_of(places) != before


def test_memory_is_asked_for_before_it_is_taken(source, cache, monkeypatch):
    monkeypatch.setattr("puna.hardware.memory_available_bytes", lambda: 1000)
    with pytest.raises(MachineError, match="its weights packed, needs"):
        load_weights(source, 2, cache)


PEAK = """
import sys
from pathlib import Path
from peak_memory import peak_bytes
from puna.infer.backends.cpu_weights import load_weights
from puna.weights.open_model import open_model
from puna.weights.packed_cache import PackedCache
load_weights(open_model(sys.argv[1]), 2, PackedCache(Path(sys.argv[2]), 1 << 40))
print(peak_bytes())
"""


def test_loading_takes_the_packed_weights_and_little_more(tmp_path):
    config = tiny_config(2000, dim=1024, heads=8, kv_heads=8, hidden_dim=4096, layers=10)
    model = mixed_source(config, ("Q8_0",))
    vocabulary = spm_vocabulary(2000)
    (path,) = write_gguf(
        model, tmp_path / "model.gguf", dtype=None, vocabulary=vocabulary, console=silent()
    )
    packed = plan(model)[1]
    largest = max(stored.nbytes for stored in model.tensors.values())
    assert packed + largest > SPARE_BYTES  # else twice as much might not be seen
    for _load in ("packed now", "from the file"):
        command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "cache")]
        assert peak_of(command) < packed + largest + SPARE_BYTES
    assert len(list((tmp_path / "cache" / "packed").iterdir())) == 1
