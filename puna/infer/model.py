"""A trained model as a Python program uses it: `puna.load(path).generate("text")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from puna.infer.constraint import Constraint
from puna.infer.engine import BackendName, Engine, load_engine
from puna.infer.generation import Generation
from puna.infer.sampling_params import SamplingParams
from puna.model.sizes import ModelConfig
from puna.tokens.tokenizer import Tokenizer
from puna.weights.checkpoint import Which


class Sampling(TypedDict, total=False):
    """The options of `Model.generate`; what they mean and their defaults: SamplingParams."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    stop_ids: tuple[int, ...]
    ignore_eos: bool
    constraint: Constraint | None
    draft_tokens: int
    shortest_ngram: int
    longest_ngram: int


class Model:
    """A trained model with its tokenizer, loaded for generation by `puna.load`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def config(self) -> ModelConfig:
        """The model's shape: dim, layers, heads, vocabulary_size, context_length, ..."""
        return self.engine.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer the model was trained with."""
        return self.engine.tokenizer

    def generate(
        self, prompt: str, *, stop: str | Sequence[str] = (), **sampling: Unpack[Sampling]
    ) -> str:
        """The text that the model continues `prompt` with; the prompt is not repeated.

        It ends before any of the texts in `stop`. Options: max_tokens, temperature (0 is greedy),
        top_k, top_p, min_p, repetition_penalty, seed (the same one gives the same text). Raises
        ConfigError for a value out of range, UsageError when the prompt does not fit the context.
        """
        return "".join(self.stream(prompt, stop=stop, **sampling))

    def stream(
        self, prompt: str, *, stop: str | Sequence[str] = (), **sampling: Unpack[Sampling]
    ) -> Generation:
        """The same text as an iterator of pieces, each as soon as it is there.

        Its `result` tells why the text ended, the token counts, the rate and the seed.
        """
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return self.engine.stream(prompt, SamplingParams(**sampling, stop=stops))

    def __repr__(self) -> str:
        return f"Model({str(self.engine.checkpoint)!r}, {self.engine.backend.name})"


def load(
    path: str | Path,
    *,
    backend: BackendName = "auto",
    which: Which = "latest",
    tokenizer_path: Path | None = None,
) -> Model:
    """The model in a folder or file of any format, or a pulled one by its name.

    `which` chooses the latest or best checkpoint of a run folder. Raises CheckpointError when there
    is no model or it is damaged, TokenizerError when it has no tokenizer and none is given,
    MachineError for lack of memory, or of torch where that is asked for.
    """
    return Model(load_engine(path, backend, which=which, tokenizer_path=tokenizer_path))
