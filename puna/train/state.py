"""Between a live run and its checkpoint: weights, AdamW's moments, generators, position."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from puna import config as recipes
from puna import schema
from puna.errors import CheckpointError, ConfigError
from puna.model.llama import Llama
from puna.train.settings import RunConfig
from puna.weights import checkpoint

Array = np.ndarray[Any, Any]
Record = TypeVar("Record")


@dataclass
class Progress:
    """How far a run is; all of it is in every checkpoint."""

    step: int = 0
    tokens: int = 0
    position: int = 0  # sequences taken from the loader since the run began
    elapsed_seconds: float = 0.0
    core_seconds: float = 0.0
    best_loss: float | None = None  # lowest validation loss, nats a token
    best_step: int | None = None  # whose checkpoint is kept as the best


@dataclass(frozen=True)
class Provenance:
    """What a run was made from and how it was run; a resume must find the same.

    Only device, threads and kernels may differ: the losses then differ in their last digits.
    """

    shards: str  # fingerprint of the token shards
    tokenizer: str  # SHA-256 of tokenizer.model
    precision: str
    compiled: bool
    micro_batch: int  # sequences; gradients add up in this order
    device: str
    threads: int
    kernels: str | None = None  # the build that ran, or "none"; None: an older checkpoint


_MAY_BE_ABSENT = {"kernels"}
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
# What the same weights could be read with otherwise, beside their shapes; not how long a context.
_PART_OF_THE_WEIGHTS = (
    "heads",
    "kv_head_count",
    "norm_epsilon",
    "rope_theta",
    "rope_scaling",
    "tied_embeddings",
)


def model_arrays(model: Llama) -> dict[str, Array]:
    """The weights as NumPy arrays under Meta's names (views where the model is on the CPU)."""
    weights = model.state_dict()
    if model.config.tied_embeddings:
        weights.pop("output.weight")
    return {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}


def optimizer_arrays(model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, Array]:
    """AdamW's moments and step count per weight, and torch's random state."""
    arrays: dict[str, Array] = {"random.torch": torch.get_rng_state().numpy()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            arrays[f"{key}.{name}"] = value.detach().cpu().numpy()
    return arrays


def load_weights(model: Llama, arrays: Mapping[str, Array], where: Path) -> None:
    """Copy stored weights into the model. Raises CheckpointError naming what does not fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    if wanted != found:
        differing = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        name = differing[0]
        raise CheckpointError(
            f"{where}: {name} should have shape {wanted.get(name, 'none (unknown weight)')}, "
            f"found {found.get(name, 'no such tensor')} ({len(differing)} weights differ)",
            hint="the recipe's [model] section and the checkpoint are of different models",
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(arrays[name]))


def restore(
    model: Llama, optimizer: torch.optim.Optimizer, folder: Path, progress: Progress
) -> None:
    """Put weights, moments and random state of the checkpoint in `folder` in place.

    Raises CheckpointError naming what does not fit or is missing.
    """
    weights, moments = folder / "model.safetensors", folder / "optimizer.safetensors"
    load_weights(model, checkpoint.read_arrays(weights), weights)
    if progress.step:  # before the first step there are no moments
        load_optimizer(model, optimizer, checkpoint.read_arrays(moments), moments)


def load_optimizer(
    model: Llama, optimizer: torch.optim.Optimizer, arrays: Mapping[str, Array], where: Path
) -> None:
    """Restore AdamW's moments and torch's random state, exactly as they were.

    Raises CheckpointError naming what is missing.
    """
    names = [name for name, _ in model.named_parameters()]
    wanted = {"random.torch", *(f"{key}.{name}" for key in _MOMENTS for name in names)}
    if missing := wanted - arrays.keys():
        raise CheckpointError(f"{where}: {min(missing)} is missing")
    for name, parameter in model.named_parameters():
        state: dict[str, torch.Tensor] = {}
        for key in _MOMENTS:
            # A copy of our own: safetensors' arrays are read-only views of the file's bytes.
            state[key] = torch.from_numpy(np.array(arrays[f"{key}.{name}"])).to(parameter.device)
        optimizer.state[parameter] = state
    torch.set_rng_state(torch.from_numpy(np.array(arrays["random.torch"])))


def check_same_run(folder: Path, config: RunConfig, provenance: Provenance) -> Progress:
    """The progress stored in `folder`, when config, data and tokenizer are the run's own.

    Weights from elsewhere begin any run of the same model and tokenizer. Raises CheckpointError
    that names what changed, the two values, and what to do.
    """
    stored_provenance = recorded_provenance(folder)
    if stored_provenance is None:
        _check_same_model(folder, config, provenance)
        return Progress()
    stored = recipes.load(RunConfig, folder / "recipe.toml")
    before = _flat(recipes.to_table(stored.learnt()))
    now = _flat(recipes.to_table(config.learnt()))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise CheckpointError(
                f"{folder.parent.parent} was trained with {name} = {before.get(name)}, this recipe "
                f"says {now.get(name)}",
                hint="give the same recipe to go on, or another --out for a new run",
            )
    if stored_provenance.precision != provenance.precision:
        raise CheckpointError(
            f"{folder.parent.parent} was trained in {stored_provenance.precision}, this machine "
            f"would go on in {provenance.precision}",
            hint="resume it where it was trained; or choose another --out for a new run",
        )
    for name, word in (("shards", "token shards"), ("tokenizer", "tokenizer")):
        was, found = getattr(stored_provenance, name), getattr(provenance, name)
        if was != found:
            raise CheckpointError(
                f"{folder.parent.parent} was trained on {word} {was[:12]}, found {found[:12]}",
                hint=f"the {word} changed: give back the old ones, or another --out for a new run",
            )
    return _record(Progress, folder)


def _check_same_model(folder: Path, config: RunConfig, provenance: Provenance) -> None:
    run, stored = folder.parent.parent, checkpoint.read_config(folder)
    for name in _PART_OF_THE_WEIGHTS:
        was, now = getattr(stored, name), getattr(config.model, name)
        if was != now:
            raise CheckpointError(
                f"the weights in {run} are of a model with {name} {was}, this recipe says {now}",
                hint=f"{run / 'recipe.toml'} has the shape that goes with them",
            )
    own = folder / "tokenizer.model"
    was, found = schema.sha256_file(own), provenance.tokenizer
    if was != found:
        raise CheckpointError(
            f"the weights in {run} go with tokenizer {was[:12]}, the shards with {found[:12]}",
            hint=f"make shards with theirs: puna data build CORPUS --tokenizer {own} --out SHARDS",
        )


def recorded_provenance(folder: Path) -> Provenance | None:
    """What the checkpoint in `folder` was made from and how it was run; None where its weights
    came from elsewhere. Raises CheckpointError for other fields than a resume knows.
    """
    state = checkpoint.read_state(folder)
    if state["step"] == 0 and state.get("provenance", "") is None:
        return None
    return _record(Provenance, folder)


def _record(kind: type[Record], folder: Path) -> Record:
    """A part of state.json; no field is passed over, for an exact resume needs to heed them all."""
    path, name = folder / "state.json", kind.__name__.lower()
    found = checkpoint.read_state(folder).get(name)
    table = found if isinstance(found, dict) else {}
    wanted = kind.__annotations__.keys() - _MAY_BE_ABSENT
    try:
        if missing := wanted - table.keys():
            raise ConfigError(f"{path}: {name}.{min(missing)} is missing")
        given = {field: value for field, value in table.items() if value is not None}
        return recipes.from_table(kind, given, f"{path}: {name}")
    except ConfigError as error:
        raise CheckpointError(
            error.message,
            hint=f"another Puna wrote it, or it is damaged; remove {folder} to go on from the "
            "checkpoint before it, or resume with the Puna that wrote it",
        ) from None


def state_record(progress: Progress, provenance: Provenance) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    return {
        "tokens": progress.tokens,
        "best_step": progress.best_step,
        "progress": dataclasses.asdict(progress),
        "provenance": dataclasses.asdict(provenance),
    }


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
