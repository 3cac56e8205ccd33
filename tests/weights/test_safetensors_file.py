"""safetensors files: the library reads ours, we read the library's, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from puna.errors import CheckpointError
from puna.weights.safetensors_file import (
    DTYPE_BITS,
    SafetensorsWriter,
    open_safetensors,
)
from puna.weights.source import StoredTensor, bf16_to_float32, float32_to_bf16

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([[1.5, -2.0]], dtype=np.float16),
    "layers.0.norm": np.array([0.1, 65504.0], dtype=np.float32),
    'Ä "\\\n\x7f😀': np.zeros((0, 3), dtype=np.float32),
    "scalar": np.array(7.0, dtype=np.float32),
}
NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16"}


def written(path: Path, arrays: dict, metadata: dict | None = None) -> Path:
    """`arrays` by our writer; uint16 stands for the bits of bfloat16."""
    planned = [
        StoredTensor(name, array.shape, NAMES[array.dtype.name], array.nbytes)
        for name, array in arrays.items()
    ]
    with SafetensorsWriter(path, planned, metadata or {}) as writer:
        for one in writer.plan:
            writer.add(arrays[one.name])
    return path


def test_we_read_what_the_library_wrote(tmp_path: Path):
    save_file(ARRAYS, tmp_path / "x.safetensors", {"format": "pt"})
    found = open_safetensors(tmp_path / "x.safetensors")
    assert found.keys() == ARRAYS.keys()
    for name, wanted in ARRAYS.items():
        assert found[name].shape == wanted.shape
        assert found[name].nbytes == wanted.nbytes
        np.testing.assert_array_equal(found[name].array(), wanted)
        assert found[name].read().dtype == np.float32
        np.testing.assert_array_equal(found[name].read(), wanted)


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"é": 'x"\n\\'}])
def test_our_bytes_are_the_librarys(tmp_path: Path, metadata: dict):
    wanted = save(ARRAYS, metadata or None)
    assert written(tmp_path / "x.safetensors", ARRAYS, metadata).read_bytes() == wanted
    assert open_safetensors(tmp_path / "x.safetensors").keys() == ARRAYS.keys()


def test_the_library_reads_what_we_wrote_bfloat16_included(tmp_path: Path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save as save_torch

    values = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    arrays = {"z": values, "half": values.astype(np.float16), "a": float32_to_bf16(values)}
    path = written(tmp_path / "x.safetensors", arrays, {"format": "pt"})
    found = load_torch(path)
    assert torch.equal(found["a"], torch.from_numpy(values).bfloat16())
    assert torch.equal(found["z"], torch.from_numpy(values))
    assert save_torch(found, {"format": "pt"}) == path.read_bytes()
    np.testing.assert_array_equal(open_safetensors(path)["a"].read(), bf16_to_float32(arrays["a"]))


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(SHAPES, st.sampled_from(["float32", "float16"])),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(TENSORS)
def test_any_tensors_come_back_and_are_the_librarys_bytes(tmp_path: Path, tensors: dict):
    arrays = {
        name: np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        for name, (shape, dtype) in tensors.items()
    }
    path = written(tmp_path / "x.safetensors", arrays)
    assert path.read_bytes() == save(arrays)
    found = open_safetensors(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].array(), array)
    loaded = load_file(path)
    assert loaded.keys() == arrays.keys()


def test_every_type_of_the_librarys_is_known_by_its_size(tmp_path: Path):
    """Read with the library, written by hand: a wrong size would not end where the file does."""
    for dtype, bits in DTYPE_BITS.items():
        table = {"x": {"dtype": dtype, "shape": [8], "data_offsets": [0, bits]}}
        text = json.dumps(table).encode()
        path = tmp_path / f"{dtype}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(bits))
        assert open_safetensors(path)["x"].nbytes == bits
        with safe_open(path, framework="numpy") as file:
            assert file.get_slice("x").get_dtype() == dtype
            assert file.get_slice("x").get_shape() == [8]


def test_doubles_are_read_and_whole_numbers_are_refused(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({"d": np.array([0.1, 2.0]), "i": np.array([1, 2])}, path)
    found = open_safetensors(path)
    np.testing.assert_array_equal(found["d"].read(), np.array([0.1, 2.0], dtype=np.float32))
    with pytest.raises(CheckpointError, match=r"x\.safetensors: 'i' .* found I64"):
        found["i"].read()


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, np.nan], dtype=np.float32),
        np.array([np.inf, 1], dtype=np.float16),
        np.array([1e300, 1]),
    ],
    ids=["nan", "infinite", "a double beyond float32"],
)
def test_values_that_are_not_finite_are_refused(tmp_path: Path, values: np.ndarray):
    save_file({"w": values}, tmp_path / "x.safetensors")
    tensor = open_safetensors(tmp_path / "x.safetensors")["w"]
    with pytest.raises(CheckpointError, match=r"x\.safetensors: 'w'.* 1 of 2"):
        tensor.read()


def test_a_tensor_off_its_alignment_is_read_all_the_same(tmp_path: Path):
    text = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    text += b" " * ((3 - len(text)) % 8)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + np.array([1, 2], "<f4").tobytes())
    found = open_safetensors(path)["x"].read()
    assert found.flags.aligned
    assert found.tolist() == [1, 2]


def test_writing_into_a_tensor_that_was_read_leaves_the_file_alone(tmp_path: Path):
    path = written(tmp_path / "x.safetensors", ARRAYS)
    before = path.read_bytes()
    open_safetensors(path)["b"].read()[:] = 99
    assert path.read_bytes() == before


def test_a_file_cut_short_after_it_was_opened_is_told(tmp_path: Path):
    path = written(tmp_path / "x.safetensors", ARRAYS)
    tensor = open_safetensors(path)["b"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"'b' should have 24 bytes"):
        tensor.read()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"'b' should have 24 bytes"):
        tensor.read()


def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors should be .* nothing there"):
        open_safetensors(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="no regular file"):
        open_safetensors(tmp_path)
