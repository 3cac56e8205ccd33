"""Puna's training checkpoint: a folder that is whole or not there.

A run keeps `checkpoints/step-000500/` with
  model.safetensors      the weights, float32, under Meta's names
  optimizer.safetensors  AdamW's two moments per weight, and the random generators' states
  state.json             step, tokens, loader position, fingerprints, best step and loss
  recipe.toml            the resolved config
  tokenizer.model        the tokenizer the weights were trained with
  manifest.json          size and SHA-256 of each of these, written last
The folder is written under another name, flushed, and renamed: a killed process leaves at most
a `.partial` folder, which the next save clears away. No pickle anywhere.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from puna import config as recipes
from puna import schema
from puna.errors import CheckpointError, SchemaError
from puna.model.sizes import ModelConfig
from puna.weights.source import (
    Bytes,
    FloatArray,
    Format,
    StoredTensor,
    TokenizerFiles,
    require_finite,
    tensor_names,
)
from puna.whole_folder import require_room

if TYPE_CHECKING:
    import numpy as np

Which = Literal["latest", "best"]
Arrays = Mapping[str, "np.ndarray[Any, Any]"]
_KIND = "puna.checkpoint"
_FILES = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "recipe.toml",
    "tokenizer.model",
)


@dataclass(frozen=True)
class StoredModel:
    """What inference needs of a checkpoint: shape, float32 weights by Meta's names, tokenizer."""

    folder: Path
    config: ModelConfig
    arrays: dict[str, np.ndarray[Any, Any]]
    tokenizer_path: Path
    step: int
    tokens: int


@dataclass(frozen=True)
class CheckpointContent:
    """What one save writes; `state` is JSON, `recipe` the resolved config's dataclass."""

    weights: Arrays
    optimizer: Arrays
    state: Mapping[str, Any]
    recipe: Any
    tokenizer_path: Path


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies: `step-000500`."""
    return checkpoints / f"step-{step:06d}"


def write_checkpoint(checkpoints: Path, step: int, content: CheckpointContent) -> Path:
    """Write the checkpoint of `step` whole or not at all; returns its folder.

    Raises MachineError when there is too little room, CheckpointError when the disk is full or not
    writable all the same; what was there stays good.
    """
    final = step_folder(checkpoints, step)
    partial = checkpoints / f".{final.name}.partial-{os.getpid()}"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        for leftover in checkpoints.glob(".step-*.partial-*"):
            shutil.rmtree(leftover)
        arrays = [*content.weights.values(), *content.optimizer.values()]
        require_room_for_checkpoint(checkpoints, sum(array.nbytes for array in arrays))
        partial.mkdir()
        _write_files(partial, step, content)
        if final.exists():  # a run that went on from an earlier checkpoint passes it again
            remove_checkpoint(final)
        partial.rename(final)
        _flush(checkpoints)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, CheckpointError):
            raise
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise _unwritable(final, error) from error
        raise
    return final


def _write_files(folder: Path, step: int, content: CheckpointContent) -> None:
    from safetensors.numpy import save_file

    save_file(dict(content.weights), folder / "model.safetensors")
    save_file(dict(content.optimizer), folder / "optimizer.safetensors")
    shutil.copyfile(content.tokenizer_path, folder / "tokenizer.model")
    seal(folder, step, content.state, content.recipe)


def seal(folder: Path, step: int, state: Mapping[str, Any], recipe: Any) -> None:
    """Make a checkpoint of a folder that holds weights, optimizer and tokenizer: state, recipe
    and, last, the manifest.
    """
    schema.write_json(folder / "state.json", _KIND, {"step": step, **state})
    recipes.write(recipe, folder / "recipe.toml")
    files = {}
    for name in _FILES:
        path = folder / name
        _flush(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": schema.sha256_file(path)}
    schema.write_json(folder / "manifest.json", _KIND, {"step": step, "files": files})
    _flush(folder)


def require_room_for_checkpoint(folder: Path, needed: int) -> None:
    """Raise MachineError unless a checkpoint of `needed` bytes fits on `folder`'s disk."""
    hint = "choose another --out; earlier checkpoints are untouched, the run resumes from the last"
    require_room(folder, needed, "a checkpoint", hint=hint)


def _unwritable(folder: Path, error: Exception) -> CheckpointError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    found = "the disk is full" if full else str(error)
    return CheckpointError(
        f"the checkpoint {folder} could not be written: {found}",
        hint="earlier checkpoints are untouched; make room or permission and run the command again "
        "to resume",
    )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """The finished checkpoint folders of a run, oldest first; partial ones are not among them."""
    found = [
        path
        for path in checkpoints.glob("step-*")
        if re.fullmatch(r"step-\d+", path.name) and (path / "manifest.json").is_file()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def find_checkpoint(path: Path, which: Which = "latest") -> Path:
    """The checkpoint folder meant by `path`: itself, or the latest or best one of a run folder.

    Raises CheckpointError when there is none.
    """
    weights = ("model.safetensors", "optimizer.safetensors")  # `verify` says when one is missing
    if (path / "manifest.json").is_file() and any((path / name).is_file() for name in weights):
        return path
    found = complete_checkpoints(path / "checkpoints")
    if not found:
        what = "a folder without a finished checkpoint" if path.is_dir() else "nothing"
        raise CheckpointError(
            f"{path} should be a run folder or a checkpoint, found {what}",
            hint="train one: puna train recipes/demo.toml --data my_folder/ --out my_run",
        )
    if which == "latest":
        return found[-1]
    best = _best(found[-1])
    if best is None:
        raise CheckpointError(
            f"{path} has no best checkpoint: the run was not validated yet", hint="use the latest"
        )
    if best not in found:
        raise CheckpointError(
            f"the best checkpoint of {path} was {best.name}, which is gone", hint="use the latest"
        )
    return best


def _best(latest: Path) -> Path | None:
    """Where the checkpoint with the lowest validation loss lies, as the latest one tells."""
    step = read_state(latest).get("best_step")
    return None if step is None else step_folder(latest.parent, step)


def prune(checkpoints: Path, keep_last: int) -> None:
    """Remove all but the last `keep_last` checkpoints and the best one."""
    found = complete_checkpoints(checkpoints)
    keep = {*found[-keep_last:], _best(found[-1])}
    for folder in found:
        if folder not in keep:
            remove_checkpoint(folder)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint so that it is whole or gone, should we die half-way."""
    leftover = folder.with_name(f".{folder.name}.partial-{os.getpid()}-removed")
    folder.rename(leftover)  # what is left of it, the next save clears away
    shutil.rmtree(leftover)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files have the recorded sizes and hashes.

    Raises CheckpointError that names the file, what was wanted and what was found.
    """
    try:
        manifest = schema.read_json(folder / "manifest.json", _KIND)
    except SchemaError as error:
        raise CheckpointError(error.message, hint=error.hint) from None
    try:
        wanted = {
            name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"])
            for name in _FILES
        }
    except (KeyError, TypeError):
        raise _damaged(
            folder / "manifest.json", "should give size and hash of each file, it does not"
        ) from None
    for name, (size, digest) in wanted.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            has = "is missing" if found is None else f"has {found} bytes"
            raise _damaged(path, f"{has}, {size!s:.40} bytes were written")
        if schema.sha256_file(path) != digest:
            raise _damaged(path, "has other content than was written (SHA-256 differs)")
    return manifest


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint file {path} {what}",
        hint=f"it is damaged; remove {path.parent} to go on from the checkpoint before it",
    )


def read_model(path: Path, which: Which = "latest") -> StoredModel:
    """The verified weights of a run folder or checkpoint, for inference."""
    folder = find_checkpoint(path, which)
    verify(folder)
    state = read_state(folder)
    return StoredModel(
        folder=folder,
        config=read_config(folder),
        arrays=read_arrays(folder / "model.safetensors"),
        tokenizer_path=folder / "tokenizer.model",
        step=state["step"],
        tokens=state["tokens"],
    )


class CheckpointSource:
    """A verified checkpoint as a ModelSource; `step` and `tokens` say how far its training was."""

    format: Format = "puna"

    def __init__(self, folder: Path) -> None:
        """Read the headers. Raises CheckpointError where the weights are not the recipe's."""
        state = read_state(folder)
        self.path = folder
        self.config = read_config(folder)
        self.step, self.tokens = state["step"], state["tokens"]
        tokenizer = folder / "tokenizer.model"
        self.tokenizer_files = TokenizerFiles(folder, {tokenizer.name: tokenizer})
        self.notes: tuple[str, ...] = ()
        self._weights = folder / "model.safetensors"
        self.tensors: Mapping[str, StoredTensor] = _stored_tensors(self._weights, self.config)

    def read(self, name: str) -> FloatArray:
        """The tensor in float32. Raises CheckpointError when a value is not finite."""
        from safetensors import safe_open

        with safe_open(self._weights, framework="numpy") as file:
            values: FloatArray = file.get_tensor(name)
        return require_finite(values, f"{self._weights}: {name}")

    def raw(self, name: str) -> Bytes | None:
        """Its bytes as they lie: rows of float32."""
        import numpy as np

        return self.read(name).reshape(-1).view(np.uint8)


def open_checkpoint(path: Path, which: Which = "latest") -> CheckpointSource:
    """The verified checkpoint of a run folder, or the one in the folder `path` itself.

    Raises CheckpointError when there is none, or it is damaged.
    """
    folder = find_checkpoint(path, which)
    verify(folder)
    return CheckpointSource(folder)


def _stored_tensors(path: Path, config: ModelConfig) -> dict[str, StoredTensor]:
    """What the weights' file holds, which must be what the recipe's model needs."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            found = {
                name: (tuple(part.get_shape()), str(part.get_dtype()))
                for name in file.keys()  # noqa: SIM118  (it is no dict)
                for part in [file.get_slice(name)]
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    wanted = tensor_names(config)
    for name in sorted(set(wanted) | set(found)):
        if found.get(name) != (wanted.get(name), "F32"):
            raise CheckpointError(
                f"{path}: {name} should be {_told(wanted.get(name))}, found "
                f"{_told(*found.get(name, (None,)))}",
                hint="the recipe beside the weights must be the one they were trained with",
            )
    return {
        name: StoredTensor(name, shape, "F32", 4 * math.prod(shape))
        for name, shape in wanted.items()
    }


def _told(shape: tuple[int, ...] | None, dtype: str = "F32") -> str:
    return "absent" if shape is None else f"{dtype} of shape {list(shape)}"


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint: step, tokens, progress, provenance, best step.

    Raises SchemaError, or CheckpointError where a count is no number.
    """
    path = folder / "state.json"
    state = schema.read_json(path, _KIND)
    for name in ("step", "tokens", "best_step"):
        found = state.get(name)
        if type(found) is not int and (name != "best_step" or found is not None):
            raise _damaged(path, f"should give {name} as a whole number, found {found!r:.60}")
    return state


def read_config(folder: Path) -> ModelConfig:
    """The shape of a checkpoint's model. Raises ConfigError where the recipe gives none."""
    path = folder / "recipe.toml"
    return recipes.from_table(ModelConfig, recipes.read_toml(path).get("model", {}), str(path))


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a safetensors file. Raises CheckpointError when it is not one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
