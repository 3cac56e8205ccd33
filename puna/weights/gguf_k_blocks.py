"""GGUF's K types: superblocks of 256 values whose small blocks share a scale of scales.

Q2_K Q4_K Q5_K   value = scale * block scale * code - minimum * block minimum
Q3_K Q6_K        value = scale * block scale * code, code signed
Layouts are ggml's. The search for scales follows ggml's reference quantisers (no importance
matrix): try some twenty scales around the obvious one, keep the least weighted squared error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from puna.weights.gguf_types import half, inverse
from puna.weights.source import Bytes, FloatArray

_Q2_K = np.dtype([("scales", "u1", 16), ("codes", "u1", 64), ("scale", "<f2"), ("minimum", "<f2")])
_Q3_K = np.dtype([("high", "u1", 32), ("codes", "u1", 64), ("scales", "u1", 12), ("scale", "<f2")])
_Q4_K = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("scales", "u1", 12), ("codes", "u1", 128)])
_Q5_K = np.dtype(
    [
        ("scale", "<f2"),
        ("minimum", "<f2"),
        ("scales", "u1", 12),
        ("high", "u1", 32),
        ("codes", "u1", 128),
    ]
)
_Q6_K = np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("scale", "<f2")])

Blocks = npt.NDArray[np.void]
Codes = npt.NDArray[np.integer[Any]]


def filled(layout: np.dtype[np.void], **fields: npt.NDArray[Any]) -> Blocks:
    """Blocks of a layout with these fields; of one number each, [blocks, 1]."""
    blocks = np.empty(len(fields["scale"]), dtype=layout)
    for name, values in fields.items():
        blocks[name] = values.reshape(blocks[name].shape)
    return blocks


def _single(blocks: Blocks, name: str) -> FloatArray:
    """A float16 field of each superblock as float32 [superblocks, 1]."""
    column: FloatArray = blocks[name].astype(np.float32)[:, None]
    return column


def _affine(blocks: Blocks, scales: Codes, minima: Codes, codes: Codes) -> FloatArray:
    """scale * scales * codes - minimum * minima; codes [superblocks, small blocks, values]."""
    step = (_single(blocks, "scale") * scales)[:, :, None]
    low = (_single(blocks, "minimum") * minima)[:, :, None]
    values: FloatArray = step * codes - low
    return values


def _bit_pairs(codes: Bytes) -> Codes:
    """[superblocks, 64] -> [superblocks, 16, 16]: of each 32 bytes, all lowest pairs first."""
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    pairs = codes.reshape(-1, 2, 1, 32) >> shifts & 3
    return pairs.reshape(-1, 16, 16)


def _nibble_blocks(codes: Bytes) -> Codes:
    """[superblocks, 128] -> [superblocks, 8, 32]: of each 32 bytes, the low halves first."""
    groups = codes.reshape(-1, 4, 32)
    return np.stack([groups & 15, groups >> 4], axis=2).reshape(-1, 8, 32)


def _six_bit_pairs(packed: Bytes) -> tuple[Codes, Codes]:
    """Eight scales and eight minima of six bits each from [superblocks, 12]."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return scales, minima


def _packed_six_bit_pairs(scales: Codes, minima: Codes) -> Codes:
    """[superblocks, 12]: undoes `_six_bit_pairs`."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minima[:, :4] | minima[:, 4:] >> 4 << 6
    third = scales[:, 4:] & 15 | minima[:, 4:] << 4
    return np.concatenate([first, second, third], axis=1)


def decode_q2_k(raw: Bytes) -> FloatArray:
    """Float32 values of whole Q2_K superblocks."""
    blocks = raw.view(_Q2_K)
    scales = blocks["scales"]
    return _affine(blocks, scales & 15, scales >> 4, _bit_pairs(blocks["codes"]))


def decode_q3_k(raw: Bytes) -> FloatArray:
    """Float32 values of whole Q3_K superblocks."""
    blocks = raw.view(_Q3_K)
    low, high = blocks["scales"][:, :8], blocks["scales"][:, 8:]
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    upper = (high[:, None] >> shifts & 3).reshape(-1, 16)
    scales = np.concatenate([low & 15, low >> 4], axis=1) | upper << 4
    bits = blocks["high"][:, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = _bit_pairs(blocks["codes"]) | bits.reshape(-1, 16, 16) << 2
    step = _single(blocks, "scale") * (scales.astype(np.int8) - 32)
    values: FloatArray = step[:, :, None] * (codes.astype(np.int8) - 4)
    return values


def decode_q4_k(raw: Bytes) -> FloatArray:
    """Float32 values of whole Q4_K superblocks."""
    blocks = raw.view(_Q4_K)
    scales, minima = _six_bit_pairs(blocks["scales"])
    return _affine(blocks, scales, minima, _nibble_blocks(blocks["codes"]))


def decode_q5_k(raw: Bytes) -> FloatArray:
    """Float32 values of whole Q5_K superblocks."""
    blocks = raw.view(_Q5_K)
    scales, minima = _six_bit_pairs(blocks["scales"])
    high = blocks["high"][:, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _affine(blocks, scales, minima, _nibble_blocks(blocks["codes"]) | high << 4)


def decode_q6_k(raw: Bytes) -> FloatArray:
    """Float32 values of whole Q6_K superblocks."""
    blocks = raw.view(_Q6_K)
    low = blocks["low"].reshape(-1, 2, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 16, 16)
    codes = (low | _bit_pairs(blocks["high"]) << 4).astype(np.int8) - 32
    step = _single(blocks, "scale") * blocks["scales"]
    values: FloatArray = step[:, :, None] * codes
    return values


def encode_q4_k(values: FloatArray) -> Blocks:
    """Q4_K superblocks of finite float32 values.

    Raises CheckpointError when a scale does not fit float16.
    """
    rows = values.reshape(-1, 8, 32)
    weights = np.abs(rows) + np.sqrt(np.mean(np.square(rows), axis=2, keepdims=True))
    scales, minima = _best_affine(rows.reshape(-1, 32), weights.reshape(-1, 32), 15)
    scale, scale_codes = _coded(scales.reshape(-1, 8), 63, 63)
    minimum, minimum_codes = _coded(minima.reshape(-1, 8), 63, 63)
    codes = _codes(rows, scale * scale_codes, minimum * minimum_codes, (0, 15))
    parts = scale_codes[:, :, None] * codes, -minimum_codes[:, :, None]
    scale, minimum = _refitted(rows, weights, parts, (scale, minimum))
    codes = _codes(rows, scale * scale_codes, minimum * minimum_codes, (0, 15))
    pair_codes = (one.astype(np.uint8) for one in (scale_codes, minimum_codes))
    scales_of_blocks = _packed_six_bit_pairs(*pair_codes)
    pairs = codes.astype(np.uint8).reshape(-1, 4, 2, 32)
    packed = pairs[:, :, 0] | pairs[:, :, 1] << 4
    return filled(_Q4_K, scale=scale, minimum=minimum, scales=scales_of_blocks, codes=packed)


def encode_q6_k(values: FloatArray) -> Blocks:
    """Q6_K superblocks of finite float32 values.

    Raises CheckpointError when a scale does not fit float16.
    """
    rows = values.reshape(-1, 16, 16)
    scale, scale_codes = _coded(
        _best_symmetric(rows.reshape(-1, 16), 32).reshape(-1, 16), -128, 127
    )
    codes = _codes(rows, scale * scale_codes, np.zeros_like(scale_codes), (-32, 31)) + 32
    quarters = codes.astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = quarters & 15, quarters >> 4
    low = low[:, :, :2] | low[:, :, 2:] << 4
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce(high << shifts, axis=2)
    return filled(_Q6_K, scale=scale, scales=scale_codes, low=low, high=high)


def _coded(scales: FloatArray, top: int, largest: int) -> tuple[FloatArray, FloatArray]:
    """A superblock's scale of scales [superblocks, 1] and the whole numbers it multiplies.

    The scale furthest from zero becomes the code `top`, which gives the product its sign.
    """
    peak = np.take_along_axis(scales, np.abs(scales).argmax(axis=1, keepdims=True), axis=1)
    codes = np.minimum(np.rint(scales * inverse(peak / np.float32(top))), np.float32(largest))
    return half(peak / np.float32(top)).astype(np.float32), codes


def _codes(
    rows: FloatArray, step: FloatArray, low: FloatArray, limits: tuple[int, int]
) -> FloatArray:
    """The codes nearest to rows = step * code - low [superblocks, small blocks, values]."""
    codes = np.rint((rows + low[:, :, None]) / step[:, :, None])
    codes[np.isnan(codes)] = 0
    clipped: FloatArray = np.clip(codes, *limits)
    return clipped


def _refitted(
    rows: FloatArray,
    weights: FloatArray,
    parts: tuple[FloatArray, FloatArray],
    start: tuple[FloatArray, FloatArray],
) -> tuple[FloatArray, FloatArray]:
    """Least squares of rows = scale * steps + minimum * ones over each superblock.

    ggml stops before this; it takes 0.2 % off the error. `start` stays where the fit is not
    determined or would turn a sign.
    """
    steps, ones = parts
    axes = (1, 2)
    a, b = weights * steps, weights * ones
    aa, ab, bb = (a * steps).sum(axes), (a * ones).sum(axes), (b * ones).sum(axes)
    ax, bx = (a * rows).sum(axes), (b * rows).sum(axes)
    determinant = aa * bb - ab * ab
    scale = (bb * ax - ab * bx) / determinant
    minimum = (aa * bx - ab * ax) / determinant
    good = (determinant > 1e-6 * aa * bb) & (scale > 0) & (minimum >= 0)
    fitted = (
        np.where(good, new, old[:, 0]) for new, old in zip((scale, minimum), start, strict=True)
    )
    scale, minimum = (half(one).astype(np.float32)[:, None] for one in fitted)
    return scale, minimum


def _best_affine(rows: FloatArray, weights: FloatArray, top: int) -> tuple[FloatArray, FloatArray]:
    """Scale and minimum >= 0 of rows = scale * code - minimum, codes 0 .. top; each [blocks].

    Twenty-one scales near the obvious one give codes, and the codes a least-squares scale and
    low end. As in ggml, the next codes start from the best low end so far.
    """
    x, w = np.ascontiguousarray(rows.T), np.ascontiguousarray(weights.T)  # values blocks
    wx = w * x
    w_sum, x_sum, xx_sum = w.sum(0), wx.sum(0), _dots(wx, x)
    codes, weighted = np.empty_like(x), np.empty_like(x)

    def moments(levels: float, low: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        np.multiply(np.subtract(x, low, out=codes), np.float32(levels) * inverse(high - low), codes)
        np.clip(np.rint(codes, out=codes), 0, top, out=codes)
        np.multiply(w, codes, out=weighted)
        return weighted.sum(0), _dots(weighted, codes), _dots(wx, codes)

    def error(scale: FloatArray, low: FloatArray) -> FloatArray:
        of_scale = scale * (scale * cc_sum + 2 * (low * c_sum - cx_sum))
        total: FloatArray = xx_sum + of_scale + low * (low * w_sum - 2 * x_sum)
        return total

    high, low = x.max(0), np.minimum(x.min(0), 0)
    scale = (high - low) / np.float32(top)
    c_sum, cc_sum, cx_sum = moments(top, low)
    least = error(scale, low)
    for step in range(21):
        c_sum, cc_sum, cx_sum = moments(top - 1 + step / 10, low)
        determinant = w_sum * cc_sum - c_sum * c_sum
        new_low = (cc_sum * x_sum - c_sum * cx_sum) / determinant
        new_scale = (w_sum * cx_sum - c_sum * x_sum) / determinant
        new_scale = np.where(new_low > 0, cx_sum / cc_sum, new_scale)
        new_low = np.minimum(new_low, 0)
        new_error = error(new_scale, new_low)
        better = (new_error < least) & (determinant > 1e-6 * w_sum * cc_sum)
        least = np.where(better, new_error, least)
        scale, low = np.where(better, new_scale, scale), np.where(better, new_low, low)
    return scale, -low


def _best_symmetric(rows: FloatArray, levels: int) -> FloatArray:
    """The scale of rows = scale * code, codes -levels .. levels - 1; [blocks].

    Nineteen scales near the obvious one give codes, and the codes a least-squares scale; values
    weigh by their squares, as in ggml.
    """
    x = np.ascontiguousarray(rows.T)  # values blocks
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=0, keepdims=True), axis=0)[0]
    w = np.square(x)
    wx, codes, weighted = w * x, np.empty_like(x), np.empty_like(x)
    scale: FloatArray = np.zeros_like(peak)
    most = np.zeros_like(peak)
    for step in (0, *range(-9, 0), *range(1, 10)):
        np.multiply(x, np.float32(-levels - step / 10) * inverse(peak), out=codes)
        np.clip(np.rint(codes, out=codes), -levels, levels - 1, out=codes)
        cc_sum, cx_sum = _dots(np.multiply(w, codes, out=weighted), codes), _dots(wx, codes)
        better = (cc_sum > 0) & (cx_sum * cx_sum > most * cc_sum)
        scale = np.where(better, cx_sum / cc_sum, scale)
        most = np.where(better, scale * cx_sum, most)
    return scale


def _dots(a: FloatArray, b: FloatArray) -> FloatArray:
    """Sums over the first axis of a * b."""
    sums: FloatArray = np.einsum("ij,ij->j", a, b)
    return sums
