"""torch's files without torch: what is read equals torch.load, what is written torch loads."""

import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from attacks.torch_zip import Entry, archive, members, pickled, storage, tensor
from shared_weights import SHARED, needs_shared

from puna.errors import CheckpointError
from puna.weights import pickle_writer
from puna.weights.pickle_file import open_pickle
from puna.weights.pickle_writer import PickleWriter, PlannedTensor

REAL_FILES = (
    "basaran-tiny-random-llama/pytorch_model.bin",
    "derived/executorch-demo-meta-mp1/consolidated.00.pth",
    "derived/executorch-demo-meta-mp2/consolidated.00.pth",
    "derived/executorch-demo-meta-mp2/consolidated.01.pth",
    "derived/stories260K-meta/consolidated.00.pth",
    "executorch-demo/demo_rand_params.pth",
)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def native(one) -> np.ndarray:
    """A torch tensor as numpy has it; bfloat16 as its bits."""
    torch = sys.modules["torch"]
    return (one.view(torch.uint16) if one.dtype == torch.bfloat16 else one).numpy()


def assert_reads_like_torch(path: Path) -> None:
    wanted = sys.modules["torch"].load(path, weights_only=True)
    found = open_pickle(path)
    assert list(found) == list(wanted)
    for name, one in found.items():
        array = one.array()
        assert one.shape == tuple(wanted[name].shape) == array.shape
        assert one.nbytes == array.nbytes
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, native(wanted[name].detach()))


@needs_shared
@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_are_read_like_torch_reads_them(name: str, torch):
    assert_reads_like_torch(SHARED / name)


@needs_shared
def test_old_hugging_face_files_carry_buffers_and_the_versions_of_their_modules():
    found = open_pickle(SHARED / REAL_FILES[0])
    buffers = [name for name in found if name.endswith("rotary_emb.inv_freq")]
    assert len(found) == 23
    assert len(buffers) == 2
    np.testing.assert_array_equal(found[buffers[0]].read(), [1.0])


FLOATS = ("float32", "float16", "bfloat16", "float64")
WHOLE = ("int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE])
def test_every_dtype_is_read_like_torch_reads_it(dtype: str, torch, tmp_path: Path):
    values = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    torch.save({"a": values, "b": values[0, 0, 0]}, tmp_path / "a.pth")
    assert_reads_like_torch(tmp_path / "a.pth")


def test_views_are_read_like_torch_reads_them(torch, tmp_path: Path):
    whole = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    views = {
        "turned": whole.T,
        "columns": whole[:, 3:6],
        "every other row": whole[::2],
        "a row": whole[2],
        "three dimensions, turned": whole.reshape(5, 3, 4).permute(2, 0, 1),
        "one column": whole[:, 4:5],
        "empty": torch.empty(0, 3),
        "the same": whole,
        "parameter": torch.nn.Parameter(whole[1:3]),
    }
    torch.save(views, tmp_path / "views.pth")
    assert_reads_like_torch(tmp_path / "views.pth")


def test_a_module_s_state_is_read_like_torch_reads_it(torch, tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(model.state_dict(), tmp_path / "state.pth")
    assert_reads_like_torch(tmp_path / "state.pth")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_each_pickle_protocol_of_torch_is_read(protocol: int, torch, tmp_path: Path):
    values = {"a": torch.arange(5.0), "b": torch.ones(2, 2)}
    torch.save(values, tmp_path / "a.pth", pickle_protocol=protocol)
    found = open_pickle(tmp_path / "a.pth")
    for name, wanted in values.items():
        np.testing.assert_array_equal(found[name].read(), wanted.numpy())


def test_a_file_of_a_machine_of_the_other_byte_order_is_read(tmp_path: Path):
    path = tmp_path / "big.pth"
    for kind, dtype, code in (("Float", "F32", ">6f"), ("Half", "F16", ">6e")):
        program = pickled(tensor(of=storage(kind=f"{kind}Storage")))
        entries = members(program)
        entries[1] = Entry("model/byteorder", b"big")
        entries[2] = Entry("model/data/0", struct.pack(code, *range(1, 7)))
        path.write_bytes(archive(entries))
        found = open_pickle(path)["weight"]
        assert found.dtype == dtype
        assert found.array().dtype.isnative
        np.testing.assert_array_equal(found.read(), [[1, 2, 3], [4, 5, 6]])


def test_opening_reads_no_tensor_and_reading_checks_its_bytes(tmp_path: Path):
    path = tmp_path / "a.pth"
    entries = members()
    entries[2] = Entry("model/data/0", bytes(24), crc=7)
    path.write_bytes(archive(entries))
    found = open_pickle(path)["weight"]
    with pytest.raises(CheckpointError, match="should have the CRC 00000007") as error:
        found.read()
    assert "a.pth: model/data/0 at byte" in error.value.message


def test_a_file_that_shrinks_after_opening_is_told(tmp_path: Path):
    path = tmp_path / "a.pth"
    path.write_bytes(archive(members()))
    found = open_pickle(path)["weight"]
    path.write_bytes(path.read_bytes()[:260])
    with pytest.raises(CheckpointError, match="the file ends before"):
        found.read()
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        found.read()


def test_whole_numbers_are_no_weights(torch, tmp_path: Path):
    torch.save({"steps": torch.arange(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="floating-point weights, found I64"):
        open_pickle(tmp_path / "a.pth")["steps"].read()


def test_a_float64_beyond_float32_is_told(torch, tmp_path: Path):
    torch.save({"a": torch.tensor([1.0, 1e300], dtype=torch.float64)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="should be finite, 1 of 2"):
        open_pickle(tmp_path / "a.pth")["a"].read()


def test_files_of_older_torch_are_refused_with_the_way_out(torch, tmp_path: Path):
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"found the format before torch 1\.6") as error:
        open_pickle(path)
    assert "torch.save it again" in str(error.value)


def test_a_file_that_torch_wrote_without_checksums_is_refused(torch, tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(CheckpointError, match="they are all zero"):
        open_pickle(tmp_path / "a.pth")


PLAN = (
    PlannedTensor("layers.0.attention.wq.weight", (7, 5), "F32"),
    PlannedTensor("norm.weight", (9,), "F16"),
    PlannedTensor("output.weight", (3, 2), "BF16"),
    PlannedTensor("größe", (1,), "F32"),
)


def written(path: Path) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    arrays = [
        random.normal(size=(7, 5)).astype(np.float32),
        random.normal(size=9).astype(np.float16),
        (random.normal(size=(3, 2)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16),
        np.ones(1, dtype=np.float32),
    ]
    with PickleWriter(path, PLAN) as writer:
        for array in arrays:
            writer.add(array)
    return arrays


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("is_wide", [False, True])
def test_torch_loads_what_is_written(mmap: bool, is_wide: bool, torch, tmp_path, monkeypatch):
    if is_wide:  # as beyond 4 GiB, where sizes and offsets take 64 bits
        monkeypatch.setattr(pickle_writer, "WIDE_BYTES", 20)
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    path = tmp_path / "consolidated.00.pth"
    arrays = written(path)
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert list(loaded) == [planned.name for planned in PLAN]
    for array, one in zip(arrays, loaded.values(), strict=True):
        np.testing.assert_array_equal(native(one), array)
    for array, found in zip(arrays, open_pickle(path).values(), strict=True):
        np.testing.assert_array_equal(found.array(), array)
        assert found._zip.members[found._member].offset % 64 == 0
    with zipfile.ZipFile(path) as standard:
        assert standard.testzip() is None
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in standard.infolist())


def test_storages_lie_on_multiples_of_64_bytes_and_the_bytes_are_the_same_each_time(tmp_path: Path):
    path = tmp_path / "a" / "consolidated.00.pth"
    again = tmp_path / "b" / path.name
    for one in (path, again):
        one.parent.mkdir()
        written(one)
    content = path.read_bytes()
    assert content == again.read_bytes()
    data = np.ones(1, dtype=np.float32).tobytes()
    with zipfile.ZipFile(path) as standard:
        start = standard.getinfo("consolidated.00/data/3").header_offset
    assert content.index(data, start) % 64 == 0


def test_a_number_of_any_size_is_written_as_pickle_reads_it():
    import pickle

    for value in (0, 1, 255, 2**31 - 1, 2**31, 2**32, 2**40 - 1, 2**63 - 1):
        assert pickle.loads(b"\x80\x02" + pickle_writer._number(value) + b".") == value


def test_an_error_while_writing_leaves_no_finished_file(tmp_path: Path):
    path = tmp_path / "a.pth"
    with pytest.raises(RuntimeError), PickleWriter(path, PLAN):
        raise RuntimeError("disk full")
    with pytest.raises(CheckpointError, match="'a/data/0', which is missing"):
        open_pickle(path)
