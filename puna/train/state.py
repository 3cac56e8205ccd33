"""Between a live run and its checkpoint: weights, AdamW's moments, generators, position."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puna import config as recipes
from puna.errors import CheckpointError
from puna.model.llama import Llama
from puna.train.settings import RunConfig
from puna.weights import checkpoint

Array = np.ndarray[Any, Any]


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


def load_optimizer(
    model: Llama, optimizer: torch.optim.Optimizer, arrays: Mapping[str, Array], where: Path
) -> None:
    """Restore AdamW's moments and torch's random state, exactly as they were."""
    for name, parameter in model.named_parameters():
        state: dict[str, torch.Tensor] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            array = arrays.get(f"{key}.{name}")
            if array is None:
                raise CheckpointError(f"{where}: {key}.{name} is missing")
            # A copy of our own: safetensors' arrays are read-only views of the file's bytes.
            state[key] = torch.from_numpy(np.array(array)).to(parameter.device)
        optimizer.state[parameter] = state
    torch.set_rng_state(torch.from_numpy(np.array(arrays["random.torch"])))


def check_same_run(folder: Path, config: RunConfig, provenance: Provenance) -> Progress:
    """The progress stored in `folder`, when config, data and tokenizer are the run's own.

    Raises CheckpointError that names what changed, the two values, and what to do.
    """
    state = checkpoint.read_state(folder)
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
    stored_provenance = Provenance(**state["provenance"])
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
    return Progress(**state["progress"])


def recorded_provenance(folder: Path) -> Provenance:
    """What the checkpoint in `folder` was made from and how it was run."""
    return Provenance(**checkpoint.read_state(folder)["provenance"])


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
