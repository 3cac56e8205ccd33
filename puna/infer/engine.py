"""A model, its tokenizer and the backend that runs it: a prompt goes in, text comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from puna import hardware
from puna.config import nearest
from puna.errors import CheckpointError, ConfigError, missing_package
from puna.infer.backends.base import Backend
from puna.infer.generation import Generation
from puna.infer.sampling_params import SamplingParams
from puna.model.sizes import ModelConfig
from puna.tokens.tokenizer import Tokenizer
from puna.weights.checkpoint import CheckpointSource, Which
from puna.weights.inspect import needs
from puna.weights.open_model import load_tokenizer, open_model
from puna.weights.source import ModelSource

BackendName = Literal["auto", "torch", "numpy"]
BACKENDS: tuple[BackendName, ...] = ("auto", "torch", "numpy")


@dataclass(frozen=True)
class Engine:
    """One loaded model. `choice` says which backend runs it and why, `checkpoint` where it lies.

    `step` is its training's where it is a checkpoint of Puna's; `notes` is what a user should know.

    Raises CheckpointError when the tokenizer has pieces that the model does not know.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    backend: Backend
    choice: str
    checkpoint: Path
    step: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tokenizer.vocabulary_size > self.backend.vocabulary_size:
            raise CheckpointError(
                f"the tokenizer has {self.tokenizer.vocabulary_size} pieces, "
                f"the model knows {self.backend.vocabulary_size}",
                hint="use the tokenizer that the model was trained with",
            )

    def generate(
        self, prompt: str | Sequence[int], params: SamplingParams | None = None
    ) -> Generation:
        """An iterator over the continuation's pieces of text; the prompt is not repeated.

        A text is encoded and begins with BOS where the tokenizer says so; ids are taken as they
        are. Raises UsageError when the prompt is empty or leaves no room in the context,
        TokenizerError when it cannot be encoded, MachineError when memory does not suffice.
        """
        return Generation(self, prompt, params or SamplingParams())


def load_engine(
    path: Path | str,
    backend: BackendName = "auto",
    *,
    which: Which = "latest",
    batched: bool = False,
    tokenizer_path: Path | None = None,
) -> Engine:
    """The engine of a model of any format, by folder, file or name; weights become float32.

    `batched` says that many rows will run at once, `which` chooses a run folder's checkpoint.
    Raises CheckpointError when there is no whole model, TokenizerError when no tokenizer lies with
    it and no `tokenizer_path` is given, MachineError when memory does not suffice or `backend` is
    torch and torch is not installed, ConfigError for another backend's name.
    """
    name, reason = choose_backend(backend, batched=batched)
    source = open_model(path, which=which)
    tokenizer = load_tokenizer(source, tokenizer_path)
    weight_bytes = needs(source.config).weight_bytes
    hardware.require_memory(weight_bytes, f"{source.path}, its weights in float32,")
    running = make_backend(name, source)
    return Engine(
        config=source.config,
        tokenizer=tokenizer,
        backend=running,
        choice=f"engine: {running.name} ({reason})",
        checkpoint=source.path,
        step=source.step if isinstance(source, CheckpointSource) else None,
        notes=tuple(source.notes),
    )


def choose_backend(wanted: BackendName, *, batched: bool) -> tuple[Literal["torch", "numpy"], str]:
    """Which backend to run, and why. Imports neither; raises as `load_engine` does."""
    if wanted not in BACKENDS:
        raise ConfigError(f"there is no backend {wanted!r}", hint=nearest(wanted, BACKENDS))
    has_torch = hardware.has_package("torch")
    if wanted == "torch" and not has_torch:
        raise missing_package("torch", "train", "the torch backend")
    if wanted != "auto":
        return wanted, "asked for"
    if not has_torch:
        return "numpy", "torch is not installed"
    if hardware.has_nvidia_driver():
        return "torch", "this machine has an NVIDIA driver"
    if batched:
        return "torch", "the faster one on batches"
    # One sequence on 1 core: 663 against 296 tokens/s at 7M parameters, 27 against 13 at 110M, and
    # torch takes a second to import.
    return "numpy", "on a CPU it decodes one sequence faster than torch; --backend torch to change"


def make_backend(name: Literal["torch", "numpy"], source: ModelSource) -> Backend:
    """The named backend with all of the model's weights read. Imports it."""
    # Copied where they lie in a mapped file: torch wants arrays that may be written to.
    arrays = {
        name: np.require(source.read(name), requirements=["C", "W"]) for name in source.tensors
    }
    if name == "numpy":
        from puna.infer.backends.numpy_backend import NumpyBackend

        return NumpyBackend(source.config, arrays)
    from puna.infer.backends.torch_backend import TorchBackend

    return TorchBackend(source.config, arrays)
