"""A model, its tokenizer and the backend that runs it: a prompt goes in, text comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from puna import hardware
from puna.config import nearest
from puna.errors import CheckpointError, ConfigError, missing_package
from puna.infer.backends.base import Backend
from puna.infer.generation import Generation
from puna.infer.sampling_params import SamplingParams
from puna.model.sizes import ModelConfig
from puna.tokens.tokenizer import Tokenizer
from puna.weights.checkpoint import StoredModel, Which, read_model

BackendName = Literal["auto", "torch", "numpy"]
BACKENDS: tuple[BackendName, ...] = ("auto", "torch", "numpy")


@dataclass(frozen=True)
class Engine:
    """One loaded model. `choice` says which backend runs it and why; `step` is its training's.

    Raises CheckpointError when the tokenizer has pieces that the model does not know.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    backend: Backend
    choice: str
    checkpoint: Path
    step: int

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

        A text is encoded and begins with BOS; ids are taken as they are. Raises UsageError when the
        prompt leaves no room in the context, TokenizerError when it cannot be encoded.
        """
        return Generation(self, prompt, params or SamplingParams())


def load_engine(
    path: Path | str,
    backend: BackendName = "auto",
    *,
    which: Which = "latest",
    batched: bool = False,
) -> Engine:
    """The engine of a run folder or checkpoint; `batched` says that many rows will run at once.

    Raises CheckpointError when there is no whole checkpoint, MachineError when `backend` is torch
    and torch is not installed, ConfigError for another backend's name.
    """
    name, reason = choose_backend(backend, batched=batched)
    stored = read_model(Path(path), which)
    running = make_backend(name, stored)
    return Engine(
        config=stored.config,
        tokenizer=Tokenizer.load(stored.tokenizer_path),
        backend=running,
        choice=f"engine: {running.name} ({reason})",
        checkpoint=stored.folder,
        step=stored.step,
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


def make_backend(name: Literal["torch", "numpy"], stored: StoredModel) -> Backend:
    """The named backend with the stored weights loaded. Imports it."""
    if name == "numpy":
        from puna.infer.backends.numpy_backend import NumpyBackend

        return NumpyBackend(stored.config, stored.arrays)
    from puna.infer.backends.torch_backend import TorchBackend

    return TorchBackend(stored.config, stored.arrays)
