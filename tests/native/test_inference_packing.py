"""Packed weights against the gguf package: what products and embeddings take out of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from mixed_model import PACKED_TYPES, PLAIN, SCALES, random_rows

from puna.errors import MachineError
from puna.native import kernels
from puna.native.packed import PackedMatrix, pack, packed_size, padded
from puna.weights.gguf_types import TYPES

FLOAT_MODE = 2
ROUNDING = 2.0**-23  # of a number with a minimum: ours rounds once (fma), the package twice


def isas() -> tuple[str, ...]:
    try:
        return tuple(kernels.extension().inference_isas())
    except MachineError:
        return ()


pytestmark = pytest.mark.skipif(not isas(), reason="the kernels were not built here")


def their_values(rows: np.ndarray, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    gguf = pytest.importorskip("gguf")
    quants = pytest.importorskip("gguf.quants")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return quants.dequantize(rows, gguf.GGMLQuantizationType[dtype]).reshape(shape)


def packed(dtype: str, rows: np.ndarray, inputs: int, threads: int = 1) -> PackedMatrix:
    size = packed_size(dtype, len(rows), inputs)
    return pack(dtype, rows, inputs, np.full(size, 0xFF, dtype=np.uint8), threads)


def of_floats(values: np.ndarray) -> PackedMatrix:
    return packed("F32", values.astype(np.float32).view(np.uint8), values.shape[1])


def logits_of(isa: str, embedding: PackedMatrix, output: PackedMatrix, norm: float) -> np.ndarray:
    """Logits after each id of a model whose one layer adds nothing: output · normed embedding."""
    dim, vocabulary = embedding.inputs, embedding.outputs
    zero = of_floats(np.zeros((dim, dim)))
    layer = [zero] * 7
    sizes = {"dim": dim, "hidden": dim, "heads": 1, "kv_heads": 1, "head_dim": dim}
    ones = np.ones(dim, dtype=np.float32)
    engine = kernels.extension().InferenceEngine(
        isa,
        2,
        FLOAT_MODE,
        {**sizes, "vocabulary": vocabulary, "norm_epsilon": 0.0, "kept_bytes": 4},
        [matrix.arguments() for matrix in (*layer, embedding, output)],
        [padded(ones), padded(ones), padded(norm * ones)],
    )
    pages = -(-vocabulary // 32)
    engine.reserve(pages)
    ids = np.arange(vocabulary, dtype=np.int32)
    turns = np.zeros((vocabulary, dim // 2), dtype=np.float32)
    logits = np.empty((vocabulary, vocabulary), dtype=np.float32)
    spans = np.array([[vocabulary, 0, 0]])
    table = np.arange(pages, dtype=np.int32)
    assert engine.step(ids, spans, table, turns, turns, ids, logits, None, None, None, None, None)
    return logits


# Widths are powers of 4: a unit vector's norm, 1 / sqrt(1 / dim), is then exact.
CASES = [
    (dtype, dim)
    for dtype in PACKED_TYPES
    for dim in (4, 16, 64, 256)
    if dim % TYPES[dtype].block_values == 0
]


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(("dtype", "dim"), CASES)
def test_products_with_unit_vectors_give_the_gguf_packages_numbers(dtype, dim, isa):
    rows = random_rows(dtype, (dim, dim), np.random.default_rng(0))
    wanted = their_values(rows, dtype, (dim, dim))
    units = of_floats(np.eye(dim))
    found = logits_of(isa, units, packed(dtype, rows, dim), dim**-0.5).T
    if dtype in PLAIN or SCALES[dtype][1] is None:
        np.testing.assert_array_equal(found, wanted)
    else:
        limit = ROUNDING * 4 * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, atol=limit, rtol=0)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(("dtype", "dim"), CASES)
def test_embeddings_are_the_gguf_packages_rows(dtype, dim, isa):
    rows = random_rows(dtype, (dim, dim), np.random.default_rng(1))
    table = their_values(rows, dtype, (dim, dim))
    found = logits_of(isa, packed(dtype, rows, dim), of_floats(np.eye(dim)), 1.0)
    wanted = table / np.sqrt(np.mean(np.square(table, dtype=np.float64), axis=1, keepdims=True))
    np.testing.assert_allclose(found, wanted, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", SCALES)
def test_any_scale_that_a_float16_holds_is_kept(dtype):
    """Blocks of any bits, but for scales that are not finite; padded outputs: 50 of 64."""
    random, dim, outputs = np.random.default_rng(2), 256, 256
    kind = TYPES[dtype]
    blocks = random.integers(0, 256, (outputs * dim // kind.block_values, kind.block_bytes))
    blocks = blocks.astype(np.uint8)
    for place in SCALES[dtype][:2]:
        if place is not None:
            blocks[:, place + 1] &= 0xBB  # exponents stay below the ones of infinity
    rows = blocks.reshape(outputs, -1)
    wanted = their_values(rows, dtype, (outputs, dim))
    found = logits_of(isas()[0], of_floats(np.eye(dim)), packed(dtype, rows, dim), dim**-0.5).T
    limit = 0 if SCALES[dtype][1] is None else 16 * ROUNDING
    # A minimum far larger than the sum leaves the sum its own rounding: so by column of a block.
    size = np.abs(wanted).reshape(outputs, -1, kind.block_values).max(axis=2, keepdims=True)
    error = np.abs(found - wanted).reshape(outputs, -1, kind.block_values)
    assert (error <= limit * size).all()


@pytest.mark.parametrize("dtype", PACKED_TYPES)
@pytest.mark.parametrize("outputs", [1, 15, 17, 50])
def test_padding_is_zero_and_tiles_may_be_packed_in_any_pieces(dtype, outputs):
    inputs = {1: 33, 32: 96, 256: 512}[TYPES[dtype].block_values]
    rows = random_rows(dtype, (outputs, inputs), np.random.default_rng(3))
    whole = packed(dtype, rows, inputs)
    pieces = np.full(whole.data.size, 0xFF, dtype=np.uint8)
    extension = kernels.extension()
    tiles = -(-outputs // 32) * 2
    for tile in reversed(range(tiles)):
        extension.pack(dtype, rows, inputs, pieces, tile, tile + 1)
    assert np.array_equal(whole.data, pieces)
    per_tile = whole.data.size // tiles
    full = -(-outputs // 16)
    assert not whole.data[full * per_tile :].any()


def test_large_matrices_are_packed_by_several_threads_alike():
    rows = random_rows("Q4_1", (1100, 1024), np.random.default_rng(4))
    one, three = (packed("Q4_1", rows, 1024, threads) for threads in (1, 3))
    assert np.array_equal(one.data, three.data)


def test_a_type_that_is_not_packed_is_told_by_no_size():
    assert packed_size("IQ4_XS", 32, 256) is None
    assert packed_size("Q8_0", 33, 64) == 64 * 64 + 64 * 2 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "IQ4_XS"}, "not packed"),
        ({"inputs": 0}, "1 to 2\\^24"),
        ({"inputs": 33}, "as many bytes as their type takes"),
        ({"inputs": 64}, "as many bytes as their type takes"),
        ({"rows": np.zeros((0, 34), np.uint8)}, "1 to 2\\^24"),
        ({"out": np.zeros(31 * 34, np.uint8)}, "packed has not as many bytes"),
        ({"first": -1}, "tiles are out of range"),
        ({"first": 2, "last": 1}, "tiles are out of range"),
        ({"last": 3}, "tiles are out of range"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    right = {
        "dtype": "Q8_0",
        "rows": np.zeros((5, 34), np.uint8),
        "inputs": 32,
        "out": np.zeros(32 * 34, np.uint8),
        "first": 0,
        "last": 2,
    }
    kernels.extension().pack(*right.values())
    with pytest.raises(ValueError, match=message):
        kernels.extension().pack(*{**right, **change}.values())
