"""Blocks to numbers and back: each type against the gguf package, K types against ggml's RMSE."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from puna.errors import CheckpointError, MachineError
from puna.weights import gguf_blocks
from puna.weights.gguf_blocks import PART_VALUES, READS, WRITES, dequantize, quantize
from puna.weights.gguf_types import TYPES
from puna.weights.source import FloatArray

gguf = pytest.importorskip("gguf")
theirs = pytest.importorskip("gguf.quants")

THROUGH_THE_PACKAGE = ("IQ2_XXS", "IQ3_S", "IQ1_M", "IQ4_NL", "IQ4_XS", "TQ2_0", "MXFP4")
BYTE_EQUAL = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0")
SCALED = tuple(name for name in WRITES if name.startswith("Q"))

# Root-mean-square errors of libggml's reference quantisers (0.25.3, no importance matrix) over the
# numbers' own, on `weights(kind)`. Written down because the package gguf does not quantise these
# types; where llama_cpp is installed they are measured again.
GGML_ERRORS = {
    ("Q4_K", "normal"): 0.071468,
    ("Q4_K", "tails"): 0.093197,
    ("Q4_K", "uneven"): 0.071454,
    ("Q6_K", "normal"): 0.017778,
    ("Q6_K", "tails"): 0.025472,
    ("Q6_K", "uneven"): 0.017884,
}
ERROR_TOLERANCE = 1.0005  # another library's exp and random numbers may differ in the last bit


def weights(kind: str, count: int = 1 << 18, seed: int = 0) -> FloatArray:
    """Numbers like a model's: bell-shaped, with long tails, or rows of very different size."""
    random = np.random.default_rng(seed)
    if kind == "normal":
        values = random.normal(size=count)
    elif kind == "tails":
        values = random.standard_t(3, size=count)
    else:
        values = (
            random.normal(size=(count // 256, 256)).T * random.uniform(0.01, 1, count // 256)
        ).T
    return (values.reshape(-1) * 0.02).astype(np.float32)


def random_blocks(dtype: str, seed: int = 0) -> np.ndarray:
    """Blocks of random bytes, as hostile as they come, with some where scales are infinite."""
    count = 3 * PART_VALUES // TYPES[dtype].block_values // 2  # more than one part
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, TYPES[dtype].block_bytes), dtype=np.uint8)


def their_values(blocks: np.ndarray, dtype: str) -> FloatArray:
    with np.errstate(all="ignore"):
        return theirs.dequantize(blocks, gguf.GGMLQuantizationType[dtype]).reshape(-1)


@pytest.mark.parametrize("dtype", [name for name in READS if name != "F64"])
def test_numbers_of_any_bytes_are_those_of_the_gguf_package(dtype: str):
    blocks = random_blocks(dtype)
    ours, wanted = dequantize(blocks.reshape(-1), dtype), their_values(blocks, dtype)
    # NaN where they have it, and every other number to the last bit
    assert np.array_equal(np.isnan(ours), np.isnan(wanted))
    assert np.array_equal(ours, wanted, equal_nan=True)


@pytest.mark.parametrize("dtype", THROUGH_THE_PACKAGE)
def test_other_types_are_read_through_the_package(dtype: str):
    blocks = random_blocks(dtype)
    assert np.array_equal(dequantize(blocks.reshape(-1), dtype), their_values(blocks, dtype), True)


def test_without_the_package_other_types_are_a_clear_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(
        MachineError, match="x is of type IQ4_XS, which takes the package gguf"
    ) as caught:
        dequantize(np.zeros(136, dtype=np.uint8), "IQ4_XS", "x")
    assert "pip install gguf" in str(caught.value.hint)
    assert dequantize(np.zeros(144, dtype=np.uint8), "Q4_K").size == 256


def test_a_type_that_nobody_reads_is_a_clear_error():
    with pytest.raises(CheckpointError, match="I64, which neither Puna nor the package gguf reads"):
        dequantize(np.zeros(64, dtype=np.uint8), "I64")


@pytest.mark.parametrize("kind", ["normal", "tails", "uneven"])
@pytest.mark.parametrize("dtype", BYTE_EQUAL)
def test_blocks_are_byte_equal_to_the_gguf_package_s(dtype: str, kind: str):
    values = weights(kind).reshape(-1, 256)
    wanted = theirs.quantize(values, gguf.GGMLQuantizationType[dtype])
    assert quantize(values, dtype).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", SCALED)
def test_special_blocks_come_back_as_they_must(dtype: str):
    """All zero, all equal, one outlier, tiny numbers: no warning, no NaN, small errors."""
    ones = np.ones(256, dtype=np.float32)
    outlier = ones * 1e-3
    outlier[77] = 5.0
    for values in (0 * ones, ones, -ones, outlier, -outlier, ones * 1e-30, ones * 1e-42):
        back = dequantize(quantize(values, dtype), dtype)
        largest = np.abs(values).max()
        assert np.abs(back - values).max() <= largest / 15 + 1e-7, dtype


@pytest.mark.parametrize("dtype", [*SCALED, "F16"])
def test_numbers_beyond_float16_are_told(dtype: str):
    values = np.full(256, 1e9, dtype=np.float32)
    values[:128] = -3e9
    with pytest.raises(CheckpointError, match="too big for F16"):
        quantize(values, dtype)


def relative_error(values: FloatArray, blocks: np.ndarray, dtype: str) -> float:
    """Root-mean-square error, by the package's dequantiser, over the numbers' own size."""
    back = their_values(blocks.reshape(-1, TYPES[dtype].block_bytes), dtype).astype(np.float64)
    return float(np.sqrt(np.mean((back - values) ** 2) / np.mean(values.astype(np.float64) ** 2)))


@pytest.mark.parametrize(("dtype", "kind"), GGML_ERRORS)
def test_k_types_lose_no_more_than_in_llama_cpp(dtype: str, kind: str):
    values = weights(kind)
    ours = relative_error(values, quantize(values, dtype), dtype)
    assert ours <= GGML_ERRORS[dtype, kind] * ERROR_TOLERANCE


def libggml() -> ctypes.CDLL:
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        pytest.skip("needs llama.cpp's libraries: pip install llama-cpp-python (it compiles)")
    (path,) = (Path(found.origin).parent / "lib").glob("libggml-base.so")
    return ctypes.CDLL(str(path))


def libggml_blocks(values: FloatArray, dtype: str) -> np.ndarray:
    quantizer = getattr(libggml(), f"quantize_row_{dtype.replace('Q', 'q')}_ref")
    quantizer.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    blocks = np.zeros(TYPES[dtype].row_bytes(values.size), dtype=np.uint8)
    quantizer(values.ctypes.data, blocks.ctypes.data, values.size)
    return blocks


@pytest.mark.parametrize(("dtype", "kind"), GGML_ERRORS)
def test_errors_written_down_are_libggml_s(dtype: str, kind: str):
    values = weights(kind)
    measured = relative_error(values, libggml_blocks(values, dtype), dtype)
    assert GGML_ERRORS[dtype, kind] == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q6_K"])
def test_nearly_all_bytes_are_libggml_s(dtype: str):
    """Compilers fuse multiplications and additions, which turns a rounding in a million."""
    values = weights("normal")
    equal = libggml_blocks(values, dtype) == quantize(values, dtype)
    assert equal.mean() > 0.9999


def test_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch):
    values = weights("normal", 1 << 14)
    wholes = {dtype: quantize(values, dtype).tobytes() for dtype in WRITES}
    monkeypatch.setattr(gguf_blocks, "PART_VALUES", 512)
    for dtype, whole in wholes.items():
        assert quantize(values, dtype).tobytes() == whole
        raw = np.frombuffer(whole, dtype=np.uint8)
        small = dequantize(raw, dtype)
        monkeypatch.setattr(gguf_blocks, "PART_VALUES", 1 << 16)
        assert np.array_equal(small, dequantize(raw, dtype))
        monkeypatch.setattr(gguf_blocks, "PART_VALUES", 512)
