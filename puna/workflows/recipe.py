"""A whole recipe: how to split text, learn a tokenizer, shape a model and train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from puna import config as recipes
from puna.data.corpus import CorpusConfig
from puna.errors import ConfigError
from puna.model.sizes import ModelConfig
from puna.tokens.shards import ShardsConfig
from puna.tokens.training import TokenizerConfig
from puna.train.settings import RunConfig, TrainConfig

PACKAGED = Path(__file__).parents[1] / "recipes"  # where an installed wheel keeps them


@dataclass(frozen=True)
class Recipe:
    """One TOML file: its sections are the configs of the folders that do the work."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.model.vocabulary_size != ModelConfig.vocabulary_size:
            raise ConfigError(
                "model.vocabulary_size is taken from the tokenizer and cannot be set in a recipe",
                hint=f"--set tokenizer.vocabulary_size={self.model.vocabulary_size}",
            )
        RunConfig(self.model, self.train)  # refuses combinations of the two before any work


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path`, or the one of that name that came with Puna.

    Raises ConfigError for a missing file, unknown keys and impossible values.
    """
    return recipes.load(Recipe, find_recipe(path), overrides)


def find_recipe(path: Path) -> Path:
    """`path` itself, or `recipes/NAME.toml` of the installed package when there is no such file."""
    packaged = PACKAGED / path.name
    named = path.parent.name in ("", "recipes")
    return packaged if not path.exists() and named and packaged.is_file() else path
