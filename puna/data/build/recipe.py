"""What a build is: sources, their stages, their shares of the tokens; one TOML file.

[sources.NAME]           inputs, share, and which `stages` it goes through, in order
[sources.NAME.read]      settings of the source itself
[settings.STAGE]         settings of a stage for all sources
[sources.NAME.settings.STAGE]  for this one, on top
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna import config as recipes
from puna.config import nearest
from puna.data.build import stages
from puna.data.build.documents import READ, Stage
from puna.errors import ConfigError
from puna.tokens.shards import ShardsConfig
from puna.tokens.training import TokenizerConfig


@dataclass(frozen=True)
class SourceRecipe:
    """One source of the corpus."""

    inputs: tuple[str, ...]  # files, folders, patterns; here or at s3://, gs://, https://
    share: float = 0.0  # of the tokens that a model sees, in any unit; all 0: as much as there is
    reader: str = ""  # which source reads them, where that is not the table's own name
    read: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] | None = None  # the recipe's own, unless said
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenizerChoice:
    """A tokenizer.model to use, or how to train one on a sample of the documents."""

    path: str = ""
    sample_bytes: int = 100_000_000  # of text, by the sources' shares
    train: TokenizerConfig = field(default_factory=lambda: TokenizerConfig(vocabulary_size=32_000))


@dataclass(frozen=True)
class DataRecipe:
    """A whole build. Raises ConfigError for what cannot be."""

    sources: Mapping[str, SourceRecipe]
    out: str = ""  # the folder to write; --out goes first
    work: str = ""  # what is between the stages: OUT/work unless said
    stages: tuple[str, ...] = ("exact",)
    together: tuple[str, ...] = ()  # stages over all sources at once, after each source's own
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keep: tuple[str, ...] = (READ,)  # stages after which documents are written to disk
    tokenizer: TokenizerChoice = field(default_factory=TokenizerChoice)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    heldout_every: int = 100  # one document in so many is held out, by its text's hash
    heldout_offset: int | None = None  # or by its number: n % heldout_every == heldout_offset
    corpus: bool = False  # the documents as text, too, in OUT/corpus: to look at, to evaluate on
    tokens: float = 0.0  # that a model will see, to tell the epochs of each source
    seed: int = 0  # of the examples in the report
    task_bytes: int = 2 << 20  # small input files are read together up to this
    part_bytes: int = 64 << 20  # one that can be cut (Wikipedia's .bz2) is read in parts of this

    def __post_init__(self) -> None:
        for name in self.sources:
            if not name or set(name) & set("/\\ .") or name in ("train", "heldout"):
                raise ConfigError(
                    f"sources.{name}: a source's name is a folder's, without dots and spaces"
                )
        if not self.sources:
            raise ConfigError("sources is empty: a build needs text")
        if self.heldout_every < 2:
            raise ConfigError(f"heldout_every must be at least 2, got {self.heldout_every}")
        if self.heldout_offset is not None and not 0 <= self.heldout_offset < self.heldout_every:
            raise ConfigError(
                f"heldout_offset must be from 0 to heldout_every - 1 = {self.heldout_every - 1}, "
                f"got {self.heldout_offset}"
            )
        for field_name in ("task_bytes", "part_bytes"):
            if getattr(self, field_name) < 1:
                raise ConfigError(f"{field_name} must be at least 1")
        shares = [source.share for source in self.sources.values()]
        if min(shares) < 0 or (max(shares) > 0 and min(shares) == 0):
            raise ConfigError(
                "every source needs a share above 0, or none has one",
                hint="without shares a model sees each text as often as any other",
            )


@dataclass(frozen=True)
class Plan:
    """A source with every name in its recipe resolved."""

    name: str
    inputs: tuple[str, ...]
    reader: Stage
    stages: tuple[Stage, ...]

    @property
    def needs(self) -> set[str]:
        """The sources that models of its stages are made of."""
        return {name for one in self.stages for name in stages.made_of(one) or ()}


def load(path: Path, overrides: Sequence[str] = ()) -> DataRecipe:
    """The recipe at `path` with `a.b=c` on top. Raises ConfigError as config.load does."""
    return recipes.load(DataRecipe, path, overrides)


def plan(recipe: DataRecipe) -> list[Plan]:
    """Each source's chain of stages. Raises ConfigError for names and settings that nobody has."""
    _check_settings(recipe.settings, {*recipe.stages, *recipe.together, *_own(recipe)}, "settings")
    plans = [_plan(name, source, recipe) for name, source in recipe.sources.items()]
    for one in plans:
        _check_models(f"sources.{one.name}", one.stages, plans)
    try:
        graphlib.TopologicalSorter({one.name: one.needs for one in plans}).prepare()
    except graphlib.CycleError as error:
        raise ConfigError(
            f"the models of {' and '.join(sorted(set(error.args[1])))} are made in a circle",
            hint="a source's model is made of sources whose own models do not need it",
        ) from None
    return plans


def together(recipe: DataRecipe) -> list[Stage]:
    """The stages over all sources at once, which must be such as see all files."""
    found = [
        stages.stage(name, recipe.settings.get(name, {}), f"settings.{name}")
        for name in recipe.together
    ]
    for one in found:
        if not stages.sees_all(one):
            raise ConfigError(
                f"together: {one.name} looks at single documents", hint="put it into stages"
            )
    _check_models("together", found, plan(recipe))
    return found


def _plan(name: str, source: SourceRecipe, recipe: DataRecipe) -> Plan:
    where = f"sources.{name}"
    names = recipe.stages if source.stages is None else source.stages
    if twice := [one for number, one in enumerate(names) if one in names[:number]]:
        raise ConfigError(f"{where}: the stage {twice[0]} comes twice")
    _check_settings(source.settings, set(names), f"{where}.settings")
    chain = [
        stages.stage(
            one,
            {**recipe.settings.get(one, {}), **source.settings.get(one, {})},
            _place(one, where, source, recipe),
        )
        for one in names
    ]
    reader = stages.source(source.reader or name, source.read, f"{where}.read")
    return Plan(name, source.inputs, reader, tuple(chain))


def _place(stage: str, where: str, source: SourceRecipe, recipe: DataRecipe) -> str:
    """Which part of the recipe asks for a stage of a source."""
    if stage in source.settings:
        return f"{where}.settings.{stage}"
    if stage in recipe.settings:
        return f"settings.{stage}"
    return "stages" if source.stages is None else f"{where}.stages"


def _check_models(where: str, chain: Sequence[Stage], plans: Sequence[Plan]) -> None:
    readers = {one.name: one.reader.name for one in plans}
    for stage in chain:
        for name, reader in (stages.made_of(stage) or {}).items():
            if name not in readers:
                raise ConfigError(
                    f"{where}: {stage.name} is to be made of {name}, which is no source",
                    hint=nearest(name, list(readers)),
                )
            if reader and readers[name] != reader:
                raise ConfigError(
                    f"{where}: {stage.name} is made of a source that {reader} reads, "
                    f"and {readers[name]} reads {name}"
                )


def _own(recipe: DataRecipe) -> set[str]:
    return {name for source in recipe.sources.values() for name in source.stages or ()}


def _check_settings(settings: Mapping[str, Any], used: set[str], where: str) -> None:
    for name in settings:
        if name not in used:
            raise ConfigError(
                f"{where}.{name}: no stage of this name is used",
                hint=nearest(name, sorted(used)) if used else "no stages are",
            )
