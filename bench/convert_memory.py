"""Peak memory of converting LLaMA-7B's shape: Meta -> Hugging Face -> GGUF Q8_0, proofs included.

    python bench/convert_memory.py            8 layers, 3.8 GB of random fp16 weights
    python bench/convert_memory.py --full     all 32 layers, 13.5 GB

Each conversion is a process of its own; its peak is what the kernel counted, mapped files included.
The claim: below 2 GB, whatever the number of layers. A row in history.jsonl.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import record

from puna.console import Console, table
from puna.model.sizes import ModelConfig, named
from puna.tokens.formats.sentencepiece_model import write_sentencepiece
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.vocabulary import PieceType, Vocabulary
from puna.weights.convert import Conversion, convert
from puna.weights.source import (
    Bytes,
    FloatArray,
    Format,
    StoredTensor,
    TokenizerFiles,
    tensor_names,
)

LIMIT_BYTES = 2e9
CUT_LAYERS = 8
# Meta's and Hugging Face's files in fp16, and the GGUF at 8.5 bits a weight.
DISK_BYTES_PER_WEIGHT = 2 + 2 + 8.5 / 8


class RandomModel:
    """Weights N(0, 0.02) made when they are read, the same at each reading; claims to be F16."""

    format: Format = "meta"
    notes: tuple[str, ...] = ()

    def __init__(self, config: ModelConfig) -> None:
        self.path = Path("random")
        self.config = config
        self.tokenizer_files = TokenizerFiles(self.path)
        self.tensors: Mapping[str, StoredTensor] = {
            name: StoredTensor(name, shape, "F16", 2 * math.prod(shape))
            for name, shape in tensor_names(config).items()
        }

    def read(self, name: str) -> FloatArray:
        """The tensor; norms are one."""
        shape = self.tensors[name].shape
        if len(shape) == 1:
            return np.ones(shape, dtype=np.float32)
        random = np.random.default_rng(list(self.tensors).index(name))
        values: FloatArray = random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(0.02)
        return values

    def raw(self, name: str) -> Bytes | None:
        """There is no file behind it."""
        return None


def main() -> None:
    """Make the weights, convert them twice, print the peaks, append the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all 32 layers: 35 GB of disk")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)  # only the weights, here
    parser.add_argument("--folder", type=Path, help="where to work; else the temporary folder")
    parser.add_argument("--no-record", action="store_true", help="append nothing to the history")
    arguments = parser.parse_args()
    config = named("7B") if arguments.full else replace(named("7B"), layers=CUT_LAYERS)
    if arguments.make:
        make(arguments.make, config)
        return
    with tempfile.TemporaryDirectory(prefix="puna-", dir=arguments.folder) as temporary:
        require_disk(Path(temporary), config)
        row = measure(Path(temporary), config, arguments.full)
    if not arguments.no_record:
        record.append("convert_memory", row)
    rows = [
        [step["conversion"], f"{step['peak_bytes'] / 1e9:.2f} GB", f"{step['seconds']:.0f} s"]
        for step in row["steps"]
    ]
    print(table(["conversion with proof", "peak memory", "time"], rows))
    if max(step["peak_bytes"] for step in row["steps"]) >= LIMIT_BYTES:
        sys.exit(f"the peak should stay below {LIMIT_BYTES / 1e9:.0f} GB")


def require_disk(folder: Path, config: ModelConfig) -> None:
    """End with a message unless all three forms fit on the disk."""
    weights = sum(math.prod(shape) for shape in tensor_names(config).values())
    needed, free = weights * DISK_BYTES_PER_WEIGHT * 1.02, shutil.disk_usage(folder).free
    if free < needed:
        sys.exit(f"{needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free")


def make(folder: Path, config: ModelConfig) -> None:
    """Write the random weights in Meta's form."""
    wish = Conversion("meta", dtype="f16", is_proved=False)
    words = tokenizer(folder.parent, config.vocabulary_size)
    convert(RandomModel(config), folder, wish, Console(), words)


def measure(folder: Path, config: ModelConfig, is_full: bool) -> dict[str, Any]:
    """The row: shape, and for each conversion its peak, its time and its proof's line."""
    meta, hf, gguf = folder / "meta", folder / "hf", folder / "model.gguf"
    # In a process of its own: a child's peak begins with what its parent holds.
    making = [sys.executable, __file__, "--make", str(meta), *(["--full"] if is_full else [])]
    subprocess.run(making, check=True)
    steps = [
        step("Meta -> HF", meta, hf, "--to", "hf"),
        step("HF -> GGUF Q8_0", hf, gguf, "--to", "gguf", "--dtype", "q8_0"),
    ]
    return {
        "layers": config.layers,
        "weight_bytes": sum(path.stat().st_size for path in meta.iterdir()),
        "limit_bytes": LIMIT_BYTES,
        "steps": steps,
    }


def step(name: str, source: Path, destination: Path, *words: str) -> dict[str, Any]:
    """One `puna convert` in a process of its own, and what it took."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "puna", "convert", str(source), str(destination), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "conversion": name,
        "peak_bytes": usage.ru_maxrss * unit,
        "seconds": time.perf_counter() - began,
        "proof": told.splitlines()[1:],
    }


def tokenizer(folder: Path, size: int) -> Tokenizer:
    """A SentencePiece vocabulary of `size` pieces that means nothing: bytes and numbered words."""
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL, *[PieceType.BYTE] * 256]
    words = [f"\u2581{number}" for number in range(size - len(first))]
    vocabulary = Vocabulary(
        kind="spm",
        pieces=(*first, *words),
        types=(*kinds, *[PieceType.NORMAL] * len(words)),
        scores=tuple(-float(token) for token in range(size)),
        bos_id=1,
        eos_id=2,
        unknown_id=0,
    )
    path = folder / "tokenizer.model"
    path.write_bytes(write_sentencepiece(vocabulary))
    return Tokenizer.load(path)


if __name__ == "__main__":
    main()
