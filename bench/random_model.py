"""A GGUF of random weights in a real model's shape: what speed and memory need, without a download.

    python bench/random_model.py 1b q4_0 1b-q4_0.gguf
    python bench/random_model.py 7b q4_0 7b-q4_0.gguf

The blocks are drawn as they lie in the file, so that 7B takes seconds. Values are symmetric about
zero with a standard deviation of 0.02, which keeps activations and logits in a trained model's
range. The same arguments give the same bytes. Every matrix has the one type, as files of
`llama-quantize --pure` do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from puna.model.sizes import SIZES, ModelConfig
from puna.tokens.formats.gguf_vocabulary import gguf_metadata
from puna.tokens.formats.sentencepiece_model import BYTE_PIECES
from puna.tokens.vocabulary import SPACE_MARK, PieceType, Vocabulary
from puna.weights.gguf_llama import metadata_of
from puna.weights.gguf_types import TYPES
from puna.weights.gguf_writer import PlannedTensor, write_files
from puna.weights.names import to_gguf
from puna.weights.source import Bytes, tensor_names

SHAPES: dict[str, ModelConfig] = {
    "tiny": ModelConfig(dim=64, layers=2, heads=2, vocabulary_size=512, context_length=8192),
    "1b": ModelConfig(  # TinyLlama's, with room for a context of 4k
        dim=2048,
        layers=22,
        heads=32,
        kv_heads=4,
        hidden_dim=5632,
        vocabulary_size=32000,
        context_length=8192,
    ),
    "7b": replace(SIZES["7B"], context_length=8192),
}
FILE_TYPES = {"Q4_0": 2, "Q8_0": 7}  # llama.cpp's numbers for files mostly of that type
DEVIATION = 0.02
PART_BYTES = 16 << 20


def main() -> None:
    """Write the model of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("dtype", choices=[name.lower() for name in FILE_TYPES])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write(SHAPES[arguments.shape], arguments.dtype.upper(), arguments.path, arguments.seed)


def write(config: ModelConfig, dtype: str, path: Path, seed: int = 1) -> None:
    """Write random weights of that shape, and a vocabulary, to `path`."""
    random = np.random.default_rng(seed)
    metadata = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": f"random weights, dim {config.dim}, {config.layers} layers",
        "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": 2,
        **metadata_of(config),
        **gguf_metadata(vocabulary(config.vocabulary_size)),
    }
    tensors = []
    for name, shape in tensor_names(config).items():
        kind = "F32" if len(shape) == 1 else dtype
        parts = _parts(kind, int(np.prod(shape)), random)
        tensors.append(PlannedTensor(to_gguf(name), shape, kind, parts))
    write_files(path, metadata, tensors)


def vocabulary(size: int) -> Vocabulary:
    """SentencePiece's special and byte pieces, then numbered words up to `size` pieces."""
    words = [f"{SPACE_MARK}word{number}" for number in range(size - 3 - len(BYTE_PIECES))]
    pieces = ("<unk>", "<s>", "</s>", *BYTE_PIECES, *words)
    types = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL]
    types += [PieceType.BYTE] * len(BYTE_PIECES) + [PieceType.NORMAL] * len(words)
    scores = tuple(-float(token) for token in range(size))
    return Vocabulary("spm", pieces, tuple(types), scores, bos_id=1, eos_id=2, unknown_id=0)


def _parts(dtype: str, values: int, random: np.random.Generator) -> Callable[[], Iterator[Bytes]]:
    """The bytes of a tensor of so many values, drawn when it is written; a norm's are all 1."""
    block = TYPES[dtype]

    def parts() -> Iterator[Bytes]:
        if dtype == "F32":
            yield np.ones(values, dtype=np.float32).view(np.uint8)
            return
        at_once = PART_BYTES // block.block_bytes
        for first in range(0, values // block.block_values, at_once):
            count = min(at_once, values // block.block_values - first)
            yield _blocks(dtype, count, random).reshape(-1)

    return parts


def _blocks(dtype: str, count: int, random: np.random.Generator) -> Bytes:
    """Random blocks: a float16 scale of one size, then quantised values symmetric about zero."""
    quants = np.frombuffer(random.bytes(count * (TYPES[dtype].block_bytes - 2)), dtype=np.uint8)
    if dtype == "Q8_0":  # -128 becomes 0
        kept = np.where(quants == 128, 0, quants)
        deviation = np.sqrt(2 * np.square(np.arange(128.0)).sum() / 256)
    else:  # nibbles stand for -8 to 7; -8 becomes 0, as a mean of -1/2 would drown the rest
        low, high = quants & 15, quants >> 4
        kept = np.where(low == 0, 8, low) | (np.where(high == 0, 8, high) << 4)
        deviation = np.sqrt(2 * np.square(np.arange(8.0)).sum() / 16)
    scale = np.array([DEVIATION / deviation], dtype=np.float16).view(np.uint8)
    blocks = np.empty((count, TYPES[dtype].block_bytes), dtype=np.uint8)
    blocks[:, :2] = scale
    blocks[:, 2:] = kept.reshape(count, -1)
    return blocks


if __name__ == "__main__":
    main()
