"""Weights in the layout of the C++ inference kernels (csrc/inference/formats.h)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.errors import CheckpointError
from puna.native import kernels

Bytes = npt.NDArray[np.uint8]
GROUP = 32  # inputs that share a scale; widths are padded to multiples of it


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [outputs, inputs] in tiles of blocks; `format` is the kernels' number for it."""

    data: Bytes
    outputs: int
    inputs: int
    format: int

    def arguments(self) -> tuple[Bytes, int, int, int]:
        """As the extension takes it."""
        return self.data, self.outputs, self.inputs, self.format


def packed_size(dtype: str, outputs: int, inputs: int) -> int | None:
    """Bytes that a matrix of a GGUF type takes when it is packed; None for one that is not."""
    extension = kernels.extension()
    number = extension.packed_format(dtype)
    return extension.packed_bytes(number, outputs, inputs) if number >= 0 else None


def pack(
    dtype: str, rows: Bytes, inputs: int, out: Bytes, threads: int, *, where: str = "a matrix"
) -> PackedMatrix:
    """Pack rows [outputs, bytes] of a GGUF type, as a file holds them, into `out`; no rounding.

    Raises CheckpointError, which names it as `where`, when a number in it is not finite.
    """
    extension = kernels.extension()
    number = extension.packed_format(dtype)
    outputs = len(rows)
    tiles = -(-outputs // GROUP) * 2

    def part(span: tuple[int, int]) -> None:
        try:
            extension.pack(dtype, rows, inputs, out, *span)
        except ValueError as error:
            raise CheckpointError(
                f"{where} should hold weights: {error}",
                hint="the weights are damaged, or overflowed when written; get them again",
            ) from error

    if outputs * inputs < 1 << 20:
        part((0, tiles))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, _spans(tiles, 4 * threads)))
    return PackedMatrix(out, outputs, inputs, number)


def _spans(tiles: int, parts: int) -> Iterator[tuple[int, int]]:
    edges = [tiles * i // parts for i in range(parts + 1)]
    return ((first, last) for first, last in itertools.pairwise(edges) if first < last)


def padded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A vector with zeros up to a multiple of the group, aligned as the kernels like it."""
    whole = np.zeros(-(-len(values) // GROUP) * GROUP, dtype=np.float32)
    whole[: len(values)] = values
    return whole
