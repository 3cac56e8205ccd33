"""A model, its tokenizer and the backend that runs it: prompts go in, text comes out."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import deque
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from puna import hardware
from puna.config import nearest
from puna.console import Progress, human_bytes, untold
from puna.errors import BusyError, CheckpointError, ConfigError, UsageError, missing_package
from puna.infer.backends.base import PAGE_POSITIONS, Backend, FloatArray, pages_for
from puna.infer.constraint import Constraint
from puna.infer.core import Core, Metrics
from puna.infer.embedding import Embeddings
from puna.infer.generation import Generation
from puna.infer.result import GenerationResult, Piece
from puna.infer.sampling_params import SamplingParams
from puna.infer.scheduler import Limits
from puna.infer.sequence import Listener, Request, Sequence
from puna.model.sizes import ModelConfig
from puna.native import kernels
from puna.tokens.tokenizer import Tokenizer
from puna.weights.checkpoint import CheckpointSource, Which
from puna.weights.inspect import needs
from puna.weights.open_model import load_tokenizer, open_model
from puna.weights.source import ModelSource

if TYPE_CHECKING:
    from puna.infer.backends.cpu_backend import Kept, Mode
    from puna.infer.grammar import Grammar, Grammars

BackendName = Literal["auto", "cpu", "cpu-exact", "cpu-float", "numpy", "torch"]
BACKENDS: tuple[BackendName, ...] = ("auto", "cpu", "cpu-exact", "cpu-float", "numpy", "torch")
Chosen = Literal["cpu", "cpu-exact", "cpu-float", "numpy", "torch"]
MODES: dict[Chosen, Mode] = {"cpu": "fast", "cpu-exact": "exact", "cpu-float": "float"}

Prompt = str | ListLike[int]
Prompts = Prompt | ListLike[Prompt]


@dataclass(frozen=True)
class EngineSettings:
    """How much an engine does at once.

    `context_tokens`: positions of all texts together whose keys and values are kept; without it
    what memory allows, up to four contexts of the model and no more than texts run; `room_bytes`
    is that memory, without it what the backend has free. `step_rows`: tokens of one step, of which
    prompts get a quarter while other texts are written. `running`: texts under way at once;
    `queue_limit`: how many more may wait.
    """

    context_tokens: int | None = None
    room_bytes: int | None = None
    step_rows: int = 512  # more is no faster, and takes the twin more memory for its scores
    running: int = 64
    queue_limit: int = 256

    def __post_init__(self) -> None:
        for name in ("context_tokens", "room_bytes", "step_rows", "running", "queue_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} should be at least 1, got {value}")


@dataclass
class Engine:
    """One loaded model. `choice` says which backend runs it and why, `checkpoint` where it lies.

    `step` is its training's where it is a checkpoint of Puna's; `notes` is what a user should know.
    Texts under way share the steps; any thread may use it.

    Raises CheckpointError when the tokenizer has pieces that the model does not know.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    backend: Backend
    choice: str
    checkpoint: Path
    step: int | None = None
    notes: tuple[str, ...] = ()
    settings: EngineSettings = EngineSettings()
    _core: Core | None = field(default=None, init=False, repr=False)
    _grammars: Grammars | None = field(default=None, init=False, repr=False, compare=False)
    _making: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.tokenizer.vocabulary_size > self.backend.vocabulary_size:
            raise CheckpointError(
                f"the tokenizer has {self.tokenizer.vocabulary_size} pieces, "
                f"the model knows {self.backend.vocabulary_size}",
                hint="use the tokenizer that the model was trained with",
            )

    def generate(
        self, prompts: Prompts, params: SamplingParams | ListLike[SamplingParams] | None = None
    ) -> list[GenerationResult]:
        """The finished continuations of one or many prompts, in their order; with params.n, all
        of a prompt's one after another. The prompts are not repeated.

        A text is encoded and begins with BOS where the tokenizer says so; ids are taken as they
        are. Prompts share one setting of params or have one each. Raises before any work UsageError
        for a prompt that is empty or leaves no room in the context, TokenizerError for one that
        cannot be encoded, ConfigError for params that do not fit, MachineError when memory does
        not suffice; then CheckpointError where the model's logits are not finite.
        """
        asked = as_prompts(prompts)
        settings = list(params) if isinstance(params, ListLike) else [params] * len(asked)
        if len(settings) != len(asked):
            raise UsageError(
                f"params for each of {len(asked)} prompts are wanted, found {len(settings)}"
            )
        requests = [self.prepare(*pair) for pair in zip(asked, settings, strict=True)]
        everything = [one for request in requests for one in request]
        self._run_all(everything)
        return [one.result for one in everything]

    def embed(self, prompts: Prompts, *, is_unit: bool = True) -> Embeddings:
        """A vector for each of one or many prompts: the mean of the final normalised states at
        all of its tokens, BOS among them, of length 1 where `is_unit`.

        Texts and ids are read as `generate` reads them, and may fill the context. Raises as it
        does, and CheckpointError where the states are not finite.
        """
        sequences = self.prepare_embeddings(prompts)
        self._run_all(sequences)
        return Embeddings.of((one.mean for one in sequences if one.mean), is_unit=is_unit)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Generation:
        """An iterator over the continuation's pieces of text; the prompt is not repeated.

        Raises at once as `generate` does, and BusyError when too many texts wait.
        """
        pieces: deque[Piece] = deque()
        sequences = self.prepare(prompt, params, pieces.append)
        if len(sequences) > 1:
            raise ConfigError(f"n should be 1 in a stream, got {len(sequences)}", hint="generate")
        self.core.submit(sequences)
        return Generation(self.core, sequences[0], pieces)

    def prepare(
        self, prompt: Prompt, params: SamplingParams | None, listener: Listener | None = None
    ) -> list[Sequence]:
        """The texts of one request, checked and not yet submitted. Raises as `generate` does."""
        params = params or SamplingParams()
        params.require_known_ids(self.tokenizer.vocabulary_size)
        grammar = None if params.constraint is None else self.grammar(params.constraint)
        ids = self._ids(prompt)
        room = self._room_after(ids, least=min(params.max_tokens, 1))
        seed = secrets.randbits(32) if params.seed is None else params.seed
        request = Request(ids, params, seed, min(room, params.max_tokens), listener, grammar)
        sequences = [Sequence(request, self.tokenizer, choice) for choice in range(params.n)]
        for other in sequences[1:]:  # the first alone fills it
            other.prompt_logprobs = sequences[0].prompt_logprobs
        return sequences

    def prepare_embeddings(
        self, prompts: Prompts, listener: Listener | None = None
    ) -> list[Sequence]:
        """The texts of `embed`, checked and not yet submitted; each will have its `mean`."""
        sequences = []
        for prompt in as_prompts(prompts):
            ids = self._ids(prompt)
            self._room_after(ids, least=0)
            request = Request(ids, SamplingParams(max_tokens=0), 0, 0, listener, wants_mean=True)
            sequences.append(Sequence(request, self.tokenizer))
        return sequences

    def grammar(self, constraint: Constraint) -> Grammar:
        """The constraint compiled for the tokenizer, and kept: what `prepare` asks for.

        The first takes 0.2 s with 49,152 pieces and 0.7 with 128,256, half of it with all of Python
        waiting; another milliseconds, the largest a few tenths of a second: an event loop should
        have a thread do it before. Raises ConfigError for what cannot be kept to.
        """
        with self._making:
            if self._grammars is None:
                from puna.infer.grammar import Grammars

                self._grammars = Grammars(self.tokenizer)
        return self._grammars.of(constraint)

    @property
    def core(self) -> Core:
        """What runs the steps; pages are reserved when it is first asked for.

        Raises MachineError when memory does not suffice.
        """
        with self._making:
            if self._core is None:
                limits = Limits(
                    step_rows=self.settings.step_rows,
                    running=self.settings.running,
                    unstretched_length=self.config.unstretched_length,
                    vocabulary_size=self.backend.vocabulary_size,
                )
                self._core = Core(self.backend, self._pages(), limits, self.settings.queue_limit)
            return self._core

    @property
    def context_length(self) -> int:
        """How long a text may get with its prompt: the model's context, or what memory keeps."""
        return min(self.config.context_length, self.core.scheduler.pool.count * PAGE_POSITIONS)

    @property
    def metrics(self) -> Metrics:
        """What the engine does and has done."""
        return self.core.metrics

    @property
    def kept_context(self) -> str:
        """How much is kept of the texts under way, in words."""
        pages = self.core.scheduler.pool.count
        size = human_bytes(pages * self.backend.page_bytes)
        words = f"kept: keys and values of {pages * PAGE_POSITIONS:,} tokens, {size}"
        if self.context_length < self.config.context_length:
            words += f"; the model's context of {self.config.context_length:,} needs more memory"
        return words

    def lend_backend(self) -> Backend:
        """The backend, for its pages to be used otherwise; what they hold is forgotten.

        Raises UsageError while texts are under way.
        """
        if self._core is not None and self._core.has_work:
            raise UsageError("the engine's texts must end before its backend is used otherwise")
        self._core = None
        return self.backend

    def _run_all(self, sequences: list[Sequence]) -> None:
        """Run the texts, and those under way beside them, to their ends. Raises their errors."""
        waiting = deque(sequences)
        try:
            while not all(one.is_over for one in sequences):
                self._submit_some(waiting)
                self.core.step()
        finally:
            self.core.cancel([one for one in sequences if not one.is_over])
        for one in sequences:
            if one.error is not None:
                raise one.error

    def _submit_some(self, waiting: deque[Sequence]) -> None:
        """As many of them as the queue has room for."""
        with contextlib.suppress(BusyError):
            while waiting:
                self.core.submit([waiting[0]])
                waiting.popleft()

    def _pages(self) -> int:
        """As set; else for some contexts in an eighth of the free memory, but for one in a half."""
        if self.settings.context_tokens is not None:
            return pages_for(self.settings.context_tokens)
        one = pages_for(self.config.context_length)
        free = self.settings.room_bytes or self.backend.free_bytes
        several = min(min(4, self.settings.running) * one, free // 8 // self.backend.page_bytes)
        return max(several, min(one, free // 2 // self.backend.page_bytes), 1)

    def _room_after(self, ids: list[int], *, least: int) -> int:
        """How many tokens may follow a prompt. Raises UsageError where it is less than `least`."""
        kept = self.context_length
        if len(ids) + least <= kept:
            return kept - len(ids)
        room = f"the model's context of {kept}"
        if kept < self.config.context_length:
            room = f"the {kept} tokens that are kept (the model's context is longer)"
        leaves = ", which leaves none to generate in" if least else ", too many for"
        raise UsageError(
            f"the prompt has {len(ids)} tokens{leaves} {room}",
            hint="give a shorter prompt; Puna cuts nothing off by itself",
        )

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(prompt, bos=self.tokenizer.adds_bos)
        ids = [int(one) for one in prompt]
        if not ids:
            raise UsageError(
                "this model needs a prompt: its tokenizer puts no begin token before a text",
                hint="give at least a character",
            )
        size = self.tokenizer.vocabulary_size
        if not 0 <= min(ids) <= max(ids) < size:
            raise UsageError(
                f"a prompt's ids must lie in 0 .. {size - 1}, got {min(ids)} .. {max(ids)}"
            )
        return ids


def as_prompts(prompts: Prompts) -> list[Prompt]:
    """One prompt or many as a list. Raises UsageError for something else."""
    if isinstance(prompts, str):
        return [prompts]
    given = list(prompts)
    if given and all(isinstance(one, Integral) for one in given):
        return [given]  # type: ignore[list-item]  # mypy does not narrow lists
    if not all(isinstance(one, str | ListLike) for one in given):
        raise UsageError("a prompt is a text or a list of token ids; prompts are a list of them")
    return given  # type: ignore[return-value]


def load_engine(
    path: Path | str,
    backend: BackendName = "auto",
    *,
    which: Which = "latest",
    batched: bool = False,
    tokenizer_path: Path | None = None,
    settings: EngineSettings | None = None,
    kv: Kept = "bf16",
    progress: Progress = untold,
) -> Engine:
    """The engine of a model of any format, by folder, file or name.

    `batched` says that many rows will run at once, `which` chooses a run folder's checkpoint,
    `kv` is what the C++ kernels keep keys and values in, `progress` is told how far loading is.
    Raises CheckpointError when there is no whole model,
    TokenizerError when no tokenizer lies with it and no `tokenizer_path` is given, MachineError
    when memory does not suffice or `backend` is not to be had on this machine, ConfigError for
    another backend's name.
    """
    name, reason = choose_backend(backend, batched=batched)
    source = open_model(path, which=which)
    tokenizer = load_tokenizer(source, tokenizer_path)
    running = make_backend(name, source, kv=kv, progress=progress)
    return Engine(
        config=source.config,
        tokenizer=tokenizer,
        backend=running,
        choice=f"engine: {running.name} ({reason})",
        checkpoint=source.path,
        step=source.step if isinstance(source, CheckpointSource) else None,
        notes=(*source.notes, *getattr(running, "notes", ())),
        settings=settings or EngineSettings(),
    )


def choose_backend(wanted: BackendName, *, batched: bool) -> tuple[Chosen, str]:
    """Which backend to run, and why. Imports none; raises as `load_engine` does."""
    if wanted not in BACKENDS:
        raise ConfigError(f"there is no backend {wanted!r}", hint=nearest(wanted, BACKENDS))
    has_torch = hardware.has_package("torch")
    if wanted == "torch" and not has_torch:
        raise missing_package("torch", "train", "the torch backend")
    if wanted in MODES:
        kernels.inference_isa()  # raises where there is none
    if wanted != "auto":
        return wanted, "asked for"
    if has_torch and hardware.has_nvidia_driver():
        return "torch", "this machine has an NVIDIA driver"
    if _has_kernels():
        return "cpu", "the fastest on this machine"
    missing = kernels.missing_reason() or "this processor has no kernels"
    if not has_torch:
        return "numpy", f"{missing}, and torch is not installed"
    if batched:
        return "torch", f"{missing}; the faster one on batches"
    # One sequence on 1 core: 663 against 296 tokens/s at 7M parameters, 27 against 13 at 110M, and
    # torch takes a second to import.
    return "numpy", f"{missing}; it decodes one sequence faster than torch, --backend torch"


def _has_kernels() -> bool:
    return hardware.isa_wish() != kernels.NONE and bool(kernels.inference_isas())


def make_backend(
    name: Chosen,
    source: ModelSource,
    threads: int | None = None,
    *,
    kv: Kept = "bf16",
    progress: Progress = untold,
) -> Backend:
    """The named backend with all of the model's weights read. Imports it.

    `threads` are the C++ kernels', one for each core unless given, and so is `kv`. Raises
    MachineError when memory does not suffice, UsageError for a cache that the backend has not.
    """
    if kv != "bf16" and name not in ("cpu", "cpu-exact"):
        raise UsageError(
            f"{name} keeps no cache in {kv}", hint="leave --kv out, or ask for --backend cpu"
        )
    if name in MODES:
        from puna.infer.backends.cpu_backend import CpuBackend

        return CpuBackend(source, mode=MODES[name], threads=threads, kv=kv, progress=progress)
    what = f"{source.path}, its weights in float32,"
    hardware.require_memory(needs(source.config).weight_bytes, what)
    # Copied where they lie in a mapped file: torch wants arrays that may be written to.
    arrays: dict[str, FloatArray] = {}
    total = sum(stored.nbytes for stored in source.tensors.values())
    done = 0
    for tensor, stored in source.tensors.items():
        progress("reading weights", done, total)
        arrays[tensor] = np.require(source.read(tensor), requirements=["C", "W"])
        done += stored.nbytes
    if name == "numpy":
        from puna.infer.backends.numpy_backend import NumpyBackend

        return NumpyBackend(source.config, arrays)
    from puna.infer.backends.torch_backend import TorchBackend

    return TorchBackend(source.config, arrays)
