"""A ladder: the recipe of a sweep over small models, each size trained on each amount of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from puna import config as recipes
from puna.console import human_count
from puna.data.corpus import CorpusConfig
from puna.errors import ConfigError
from puna.model import count
from puna.model.sizes import ModelConfig
from puna.plan.runs import embedding_parameters
from puna.tokens.shards import ShardsConfig
from puna.tokens.training import TokenizerConfig
from puna.train.settings import RunConfig, TrainConfig
from puna.workflows.recipe import Recipe

LEAST_VALUES = 4  # sizes and amounts of tokens: three fit a law, one more puts it to a test


@dataclass(frozen=True)
class Size:
    """A shape of the ladder, with the learning rate that suits its width."""

    dim: int
    layers: int
    heads: int
    learning_rate: float
    hidden_dim: int | None = None


@dataclass(frozen=True)
class Ladder:
    """Every size is trained on every amount of tokens; the target is what the law has to predict.

    `model` and `train` are what all runs share; a size and its tokens set the rest.
    """

    sizes: tuple[Size, ...]
    tokens: tuple[int, ...]
    target: Size
    target_tokens: int
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        pieces = self.tokenizer.vocabulary_size
        found = {rung.name for rung in [*self.rungs(pieces), self.target_rung(pieces)]}
        if len(found) != len(self.sizes) * len(self.tokens) + 1:
            raise ConfigError("every size, every number of tokens and the target should differ")
        if min(len(self.sizes), len(self.tokens)) < LEAST_VALUES:
            raise ConfigError(
                f"a ladder needs at least {LEAST_VALUES} sizes and {LEAST_VALUES} amounts of "
                f"tokens, got {len(self.sizes)} and {len(self.tokens)}",
                hint="three of each fit a law; the largest size puts that law to a first test",
            )

    def recipe(self) -> Recipe:
        """What makes shards of text."""
        return Recipe(self.corpus, self.tokenizer, self.shards)

    def rungs(self, pieces: int, threads: int | None = None) -> list[Rung]:
        """Every run but the target's, for a tokenizer of so many pieces."""
        return [
            self._rung(size, tokens, pieces, threads)
            for size in self.sizes
            for tokens in self.tokens
        ]

    def target_rung(self, pieces: int, threads: int | None = None) -> Rung:
        """The run that is predicted before it is trained."""
        return self._rung(self.target, self.target_tokens, pieces, threads)

    def _rung(self, size: Size, tokens: int, pieces: int, threads: int | None) -> Rung:
        shape = dataclasses.asdict(size)
        rate = shape.pop("learning_rate")
        steps = max(1, round(tokens / self.train.batch_tokens))
        train = replace(
            self.train,
            steps=steps,
            learning_rate=rate,
            threads=self.train.threads or threads,
            validate_every=steps,
            sample_every=steps,
            keep_last=1,
        )
        return Rung(RunConfig(replace(self.model, **shape, vocabulary_size=pieces), train))


@dataclass(frozen=True)
class Rung:
    """One run of the ladder."""

    config: RunConfig

    @property
    def name(self) -> str:
        """Parameters beside the embeddings, and tokens: "107k-2.05M"."""
        parameters = count.parameters(self.config.model) - embedding_parameters(self.config.model)
        return f"{human_count(parameters)}-{human_count(self.tokens)}"

    @property
    def tokens(self) -> int:
        """Tokens that the run trains on."""
        return self.config.train.steps * self.config.train.batch_tokens


def load_ladder(path: Path, overrides: Sequence[str] = ()) -> Ladder:
    """The ladder at `path`, or the one of that name that came with Puna.

    Raises ConfigError for a missing file, unknown keys and impossible values.
    """
    return recipes.load(Ladder, path, overrides)
