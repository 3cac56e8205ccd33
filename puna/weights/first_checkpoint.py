"""Weights from elsewhere as step 0 of a run of Puna's, from which `puna train` goes on.

The run folder holds `recipe.toml` with the model's shape and `checkpoints/step-000000/` in the
layout of checkpoint.py, whose optimizer file is empty: AdamW has no moments before its first step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from puna import config as recipes
from puna.console import Console
from puna.errors import TokenizerError, UsageError
from puna.model.sizes import ModelConfig
from puna.tokens.tokenizer import FILE_NAME, Tokenizer
from puna.weights.checkpoint import seal, step_folder
from puna.weights.safetensors_file import SafetensorsWriter
from puna.weights.source import (
    ModelSource,
    StoredTensor,
    narrowed,
    require_room_for_weights,
    tensor_names,
)

_STATE = {"tokens": 0, "best_step": None, "progress": None, "provenance": None}


@dataclass(frozen=True)
class ModelRecipe:
    """As much of a recipe as weights tell: the shape."""

    model: ModelConfig


def write_first_checkpoint(
    source: ModelSource, run: Path, *, tokenizer: Tokenizer | None, console: Console
) -> None:
    """Fill the run folder `run` with `source` in float32; memory is bound by the largest tensor.

    Raises UsageError where there is no tokenizer, TokenizerError where no one file can hold it,
    MachineError when the disk is too full.
    """
    content = _tokenizer_file(tokenizer, console)
    planned = [
        StoredTensor(name, shape, "F32", 4 * math.prod(shape))
        for name, shape in tensor_names(source.config).items()
    ]
    total = sum(one.nbytes for one in planned)
    folder = step_folder(run / "checkpoints", 0)
    folder.mkdir(parents=True)
    require_room_for_weights(folder, total + len(content))
    (folder / FILE_NAME).write_bytes(content)
    with SafetensorsWriter(folder / "optimizer.safetensors", [], {}):
        pass
    with (
        console.progress(total, "writing a checkpoint", "B") as bar,
        SafetensorsWriter(folder / "model.safetensors", planned, {}) as writer,
    ):
        for one in writer.plan:
            writer.add(narrowed(source.read(one.name), "F32", f"{source.path}: {one.name}"))
            bar.update(one.nbytes)
    recipe = ModelRecipe(source.config)
    seal(folder, 0, _STATE, recipe)
    recipes.write(recipe, run / "recipe.toml")


def _tokenizer_file(tokenizer: Tokenizer | None, console: Console) -> bytes:
    """A checkpoint's tokenizer in one file: its own, byte by byte, where that has all pieces."""
    if tokenizer is None:
        raise UsageError(
            "a checkpoint holds its tokenizer, and none lies with the source",
            hint="give one: --tokenizer-path tokenizer.model",
        )
    for content in _candidates(tokenizer):
        kept = Tokenizer(content, tokenizer.path)
        if kept.vocabulary.pieces != tokenizer.vocabulary.pieces:
            continue
        if tokenizer.chat_template is not None and kept.chat_template is None:
            console.say("note: the chat template stays behind: a checkpoint has no place for it")
        return content
    raise TokenizerError(
        f"{tokenizer.path}: no single file holds all of this tokenizer, as a checkpoint needs",
        hint="give one that does: --tokenizer-path tokenizer.json",
    )


def _candidates(tokenizer: Tokenizer) -> Iterator[bytes]:
    if tokenizer.format in ("SentencePiece", "tiktoken", "tokenizer.json"):
        yield tokenizer.path.read_bytes()
    files = tokenizer.files()
    yield from (files[name] for name in (FILE_NAME, "tokenizer.json") if name in files)
