"""The model files of the inference benchmarks: a real small model's, and random weights' of size.

smol-*: SmolLM2-135M-Instruct as `puna pull smollm2` brings it (Q4_1), and requantised from there by
llama.cpp's own quantiser, so that both engines read one file. 1b-*, 7b-*: see random_model.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import random_model

from puna.console import silent
from puna.errors import MachineError
from puna.weights.cache import Cache
from puna.weights.pull import pull

PULLED = "smol-q4_1"
REQUANTISED = {"smol-q8_0": "Q8_0", "smol-q4_0": "Q4_0"}


def prepared(name: str, folder: Path, quantize: Path) -> Path:
    """The path of a model file, made when it is missing; `quantize` is llama-quantize.

    Raises MachineError when llama-quantize fails, and as pulling a model does.
    """
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    print(f"making {path}", flush=True)
    unfinished = path.with_suffix(".part")
    if name == PULLED:
        pulled = pull("smollm2", Cache(), silent())
        unfinished.write_bytes(pulled.path.read_bytes())
    elif name in REQUANTISED:
        _requantise(prepared(PULLED, folder, quantize), unfinished, REQUANTISED[name], quantize)
    else:
        shape, _, dtype = name.partition("-")
        random_model.write(random_model.SHAPES[shape], dtype.upper(), unfinished)
    return unfinished.replace(path)


def _requantise(source: Path, path: Path, dtype: str, quantize: Path) -> None:
    command = [str(quantize), "--allow-requantize", str(source), str(path), dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise MachineError(f"llama-quantize failed: {done.stderr.strip()[-300:]}")
