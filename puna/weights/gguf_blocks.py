"""Numbers to GGUF's blocks and back, in NumPy: plain types and blocks of 32 values.

Q4_0 Q5_0 Q8_0   value = scale * code, code signed
Q4_1 Q5_1        value = scale * code + minimum
The K types, in superblocks of 256, are in gguf_k_blocks. Layouts and roundings are ggml's
reference quantisers', so that equal numbers give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError, MachineError
from puna.hardware import usable_cores
from puna.weights import gguf_k_blocks as k
from puna.weights.gguf_k_blocks import Blocks, Codes, filled
from puna.weights.gguf_types import TYPES, half, inverse
from puna.weights.source import Bytes, FloatArray, bf16_to_float32, narrowed

# Values worked on at once. Q4_K took 59 ns a value on one core, 142 ns in parts of 4 Mi values,
# which no cache holds, and 95 ns in parts of 16 Ki, where NumPy's calls cost.
PART_VALUES = 1 << 16

_Q4_0 = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])
_Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("codes", "u1", 16)])
_Q5_0 = np.dtype([("scale", "<f2"), ("high", "u1", 4), ("codes", "u1", 16)])
_Q5_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("high", "u1", 4), ("codes", "u1", 16)])
_Q8_0 = np.dtype([("scale", "<f2"), ("codes", "i1", 32)])


def dequantize(raw: Bytes, dtype: str, where: str = "a tensor") -> FloatArray:
    """The values of whole blocks of type `dtype`, flat float32; `where` is for messages.

    Values may be infinite or NaN where the blocks say so. Raises MachineError for a type that
    only the gguf package can read while it is not installed, CheckpointError for one that it
    cannot read either.
    """
    decode = _DECODERS.get(dtype) or _decoder_of_the_gguf_package(dtype, where)
    kind = TYPES[dtype]
    values = np.empty(raw.size // kind.block_bytes * kind.block_values, dtype=np.float32)
    step = PART_VALUES // kind.block_values * kind.block_bytes
    start = 0
    with np.errstate(all="ignore"):
        for first in range(0, raw.size, step):
            part = decode(raw[first : first + step]).reshape(-1)
            values[start : start + part.size] = part
            start += part.size
    return values


def quantize(values: FloatArray, dtype: str) -> Bytes:
    """The blocks of finite `values` [..., columns in whole blocks] in type `dtype`, flat bytes.

    Works on all cores. Raises CheckpointError when a value does not fit the type.
    """
    encode = _ENCODERS[dtype]

    def encoded(part: FloatArray) -> Bytes:
        with np.errstate(all="ignore"):
            return encode(part).reshape(-1).view(np.uint8)

    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    parts = [flat[first : first + PART_VALUES] for first in range(0, flat.size, PART_VALUES)]
    with ThreadPoolExecutor(min(usable_cores(), max(len(parts), 1))) as pool:
        return np.concatenate([np.empty(0, dtype=np.uint8), *pool.map(encoded, parts)])


def _decoder_of_the_gguf_package(dtype: str, where: str) -> Callable[[Bytes], FloatArray]:
    try:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize as their_dequantize
    except ImportError:
        raise MachineError(
            f"{where} is of type {dtype}, which takes the package gguf to read; it is not here",
            hint=f"pip install gguf; Puna itself reads {' '.join(_DECODERS)}",
        ) from None
    block_bytes = TYPES[dtype].block_bytes

    def decode(raw: Bytes) -> FloatArray:
        blocks = raw.reshape(-1, block_bytes)
        try:
            values: FloatArray = their_dequantize(blocks, GGMLQuantizationType[dtype])
        except (NotImplementedError, KeyError):
            raise CheckpointError(
                f"{where} is of type {dtype}, which neither Puna nor the package gguf reads"
            ) from None
        return values

    return decode


def _nibbles(codes: Bytes) -> Codes:
    """[blocks, n] -> [blocks, 2n]: the low halves of all bytes, then the high halves."""
    return np.concatenate([codes & 15, codes >> 4], axis=1)


def _packed_nibbles(codes: Codes) -> Codes:
    """[blocks, 2n] -> [blocks, n]: undoes `_nibbles`."""
    n = codes.shape[1] // 2
    return codes[:, :n] | codes[:, n:] << 4


def _five_bits(blocks: Blocks) -> Codes:
    """Codes [blocks, 32] whose fifth bits lie apart, first code lowest."""
    high = np.unpackbits(blocks["high"], axis=1, bitorder="little")
    return _nibbles(blocks["codes"]) | high << 4


def _scales(blocks: Blocks, name: str = "scale") -> FloatArray:
    scales: FloatArray = blocks[name].astype(np.float32)[:, None]
    return scales


def _decode_q4_0(raw: Bytes) -> FloatArray:
    blocks = raw.view(_Q4_0)
    return _scales(blocks) * (_nibbles(blocks["codes"]).astype(np.int8) - 8).astype(np.float32)


def _decode_q4_1(raw: Bytes) -> FloatArray:
    blocks = raw.view(_Q4_1)
    codes = _nibbles(blocks["codes"]).astype(np.float32)
    return _scales(blocks) * codes + _scales(blocks, "minimum")


def _decode_q5_0(raw: Bytes) -> FloatArray:
    blocks = raw.view(_Q5_0)
    return _scales(blocks) * (_five_bits(blocks).astype(np.int8) - 16).astype(np.float32)


def _decode_q5_1(raw: Bytes) -> FloatArray:
    blocks = raw.view(_Q5_1)
    return _scales(blocks) * _five_bits(blocks).astype(np.float32) + _scales(blocks, "minimum")


def _decode_q8_0(raw: Bytes) -> FloatArray:
    blocks = raw.view(_Q8_0)
    return _scales(blocks) * blocks["codes"].astype(np.float32)


def _symmetric(values: FloatArray, levels: int) -> tuple[FloatArray, Codes]:
    """Scales [blocks, 1] and codes 0 .. 2 * levels - 1 [blocks, 32].

    The value furthest from zero, with its sign, becomes code 0, the one step that reaches further.
    """
    blocks = values.reshape(-1, 32)
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    scale = peak / np.float32(-levels)
    codes = blocks * inverse(scale) + np.float32(levels + 0.5)
    return scale, np.minimum(codes.astype(np.uint8), np.uint8(2 * levels - 1))


def _from_minimum(values: FloatArray, top: int) -> tuple[FloatArray, FloatArray, Codes]:
    """Scales and minima [blocks, 1], codes 0 .. top [blocks, 32]."""
    blocks = values.reshape(-1, 32)
    minimum = blocks.min(axis=1, keepdims=True)
    scale = (blocks.max(axis=1, keepdims=True) - minimum) / np.float32(top)
    codes = (blocks - minimum) * inverse(scale) + np.float32(0.5)
    return scale, minimum, np.minimum(codes.astype(np.uint8), np.uint8(top))


def _encode_q4_0(values: FloatArray) -> Blocks:
    scale, codes = _symmetric(values, 8)
    return filled(_Q4_0, scale=half(scale), codes=_packed_nibbles(codes))


def _encode_q4_1(values: FloatArray) -> Blocks:
    scale, minimum, codes = _from_minimum(values, 15)
    packed = _packed_nibbles(codes)
    return filled(_Q4_1, scale=half(scale), minimum=half(minimum), codes=packed)


def _encode_q5_0(values: FloatArray) -> Blocks:
    scale, codes = _symmetric(values, 16)
    high = np.packbits(codes >> 4, axis=1, bitorder="little")
    return filled(_Q5_0, scale=half(scale), high=high, codes=_packed_nibbles(codes & 15))


def _encode_q8_0(values: FloatArray) -> Blocks:
    rows = values.reshape(-1, 32)
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    scaled = rows * inverse(scale)
    # Halves round away from zero, as C's roundf does; 0.49999997 is the float32 below a half.
    codes = np.copysign(np.floor(np.abs(scaled) + np.float32(0.49999997)), scaled)
    return filled(_Q8_0, scale=half(scale), codes=codes)


_DECODERS: dict[str, Callable[[Bytes], FloatArray]] = {
    "F32": lambda raw: raw.view("<f4"),
    "F16": lambda raw: raw.view("<f2").astype(np.float32),
    "BF16": lambda raw: bf16_to_float32(raw.view("<u2")),
    "F64": lambda raw: raw.view("<f8").astype(np.float32),
    "Q4_0": _decode_q4_0,
    "Q4_1": _decode_q4_1,
    "Q5_0": _decode_q5_0,
    "Q5_1": _decode_q5_1,
    "Q8_0": _decode_q8_0,
    "Q2_K": k.decode_q2_k,
    "Q3_K": k.decode_q3_k,
    "Q4_K": k.decode_q4_k,
    "Q5_K": k.decode_q5_k,
    "Q6_K": k.decode_q6_k,
}
_ENCODERS: dict[str, Callable[[FloatArray], npt.NDArray[np.generic]]] = {
    "F32": lambda values: values,
    "F16": lambda values: narrowed(values, "F16", "the tensor"),
    "BF16": lambda values: narrowed(values, "BF16", "the tensor"),
    "Q4_0": _encode_q4_0,
    "Q4_1": _encode_q4_1,
    "Q5_0": _encode_q5_0,
    "Q8_0": _encode_q8_0,
    "Q4_K": k.encode_q4_k,
    "Q6_K": k.encode_q6_k,
}
READS = tuple(_DECODERS)
WRITES = tuple(_ENCODERS)
