"""A whole recipe: how to split text, learn a tokenizer, shape a model and train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from puna import config as recipes
from puna.data.corpus import CorpusConfig
from puna.model.sizes import ModelConfig
from puna.tokens.shards import ShardsConfig
from puna.tokens.training import TokenizerConfig
from puna.train.settings import RunConfig, TrainConfig


@dataclass(frozen=True)
class Recipe:
    """One TOML file: its sections are the configs of the folders that do the work."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        RunConfig(self.model, self.train)  # refuses combinations of the two before any work


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path`, or the one of that name that came with Puna.

    Raises ConfigError for a missing file, unknown keys and impossible values.
    """
    return recipes.load(Recipe, path, overrides)
