"""A folder of text becomes a trained model: corpus, tokenizer, shards, weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from puna.console import Console
from puna.data.corpus import Corpus, build_corpus
from puna.data.sources.own import OwnText
from puna.data.split import SPLITS
from puna.errors import ConfigError, DataError
from puna.hardware import DeviceKind
from puna.infer.backends.torch_backend import TorchBackend
from puna.infer.engine import Engine
from puna.infer.sampling_params import SamplingParams
from puna.model.llama import Llama
from puna.model.sizes import ModelConfig
from puna.tokens.mixture import MIXTURE_NAME, Mixture
from puna.tokens.shards import ShardSet, keep_tokenizer, write_shards
from puna.tokens.tokenizer import FILE_NAME, Tokenizer
from puna.tokens.training import train_tokenizer
from puna.train import state
from puna.train.pretrain import Inputs, Outcome, SampleText, check_machine, pretrain
from puna.train.settings import RunConfig
from puna.workflows.recipe import Recipe

# Beyond four epochs repeated text teaches little (Muennighoff et al. 2023, arXiv 2305.16264).
EPOCHS_WORTH_REPEATING = 4


@dataclass(frozen=True)
class Text:
    """The text that a user gave: where it lies and what is known of it."""

    paths: Sequence[Path]
    source: str | None = None
    licence: str | None = None
    skip_bad: bool = False


def train_on_text(
    recipe: Recipe, text: Text, out: Path, console: Console, command: str | None = None
) -> Outcome:
    """Documents, tokenizer, shards and weights from text, all in the run folder `out`.

    What is done already is reused. Raises ConfigError or MachineError before any text is read,
    DataError, TokenizerError, CheckpointError or TrainingError with what to do.
    """
    pieces = recipe.tokenizer.vocabulary_size
    check_machine(RunConfig(_model(recipe, pieces), recipe.train))
    corpus = make_shards(recipe, text, out, console)
    console.heading("training")
    shards = open_shards(out / "shards")
    told = Told(corpus, command, replace(recipe, model=_model(recipe, pieces)))
    return train_on_shards(recipe, shards, out, console, told)


def make_shards(recipe: Recipe, text: Text, out: Path, console: Console) -> Corpus:
    """Documents, tokenizer and token shards from text, in `out`; what is done is reused.

    Raises DataError or TokenizerError with what to do.
    """
    console.heading("documents")
    found = OwnText(text.paths, source=text.source, licence=text.licence, skip_bad=text.skip_bad)
    corpus = build_corpus(found, out / "corpus", recipe.corpus, console)
    console.heading("tokenizer")
    texts = (document.text for document in corpus.train())
    tokenizer = train_tokenizer(texts, out / "tokenizer", recipe.tokenizer, console)
    console.heading("token shards")
    for split in SPLITS:
        pairs = ((document.id, document.text) for document in corpus.documents(split))
        write_shards(pairs, tokenizer, out / "shards" / split, recipe.shards, console)
    keep_tokenizer(out / "shards", tokenizer)
    return corpus


@dataclass(frozen=True)
class Told:
    """What is written down with a run. The recipe is whole only where the run made its shards."""

    corpus: Corpus | None = None
    command: str | None = None
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Shards:
    """Token shards of both splits with the tokenizer that made them."""

    train: ShardSet | Mixture
    heldout: ShardSet | None
    tokenizer: Tokenizer


def open_shards(folder: Path) -> Shards:
    """What `puna data build` wrote to `folder`: shards, or a mixture of several sources' shards.

    Raises DataError when there are none.
    """
    if (folder / MIXTURE_NAME).is_file():
        mixture = Mixture.open(folder, verify=True)
        return Shards(mixture, mixture.heldout, Tokenizer.load(folder / FILE_NAME))
    if not (folder / "train").is_dir():
        raise DataError(
            f"{folder} should hold token shards in train/ and heldout/, found "
            f"{'another folder' if folder.is_dir() else 'nothing'}",
            hint="puna data build CORPUS --tokenizer TOKENIZER --out SHARDS makes them",
        )
    heldout = ShardSet.open(folder / "heldout") if (folder / "heldout").is_dir() else None
    tokenizer = Tokenizer.load(folder / FILE_NAME)
    return Shards(ShardSet.open(folder / "train", verify=True), heldout, tokenizer)


def train_on_shards(
    recipe: Recipe,
    shards: Shards,
    out: Path,
    console: Console,
    told: Told | None = None,
) -> Outcome:
    """Pretrain on token shards in the run folder `out`; the tokenizer sets the vocabulary."""
    told = told or Told()
    model = _model(recipe, shards.tokenizer.vocabulary_size)
    tokens = recipe.train.steps * recipe.train.batch_tokens
    epochs = tokens / shards.train.tokens
    if isinstance(shards.train, Mixture):
        epochs = max(shards.train.epochs(tokens).values())
    if epochs > EPOCHS_WORTH_REPEATING:
        fitting = max(1, int(recipe.train.steps * EPOCHS_WORTH_REPEATING / epochs))
        settings = f"--set train.steps={fitting}"
        if recipe.train.warmup_step_count > fitting:
            settings += f" --set train.warmup_steps={max(1, fitting // 20)}"
        console.warn(
            f"the recipe reads this text {epochs:,.1f} times; after about 4 the model learns it by "
            f"heart\n  shorter: {settings}"
        )
    inputs = Inputs(
        train=shards.train,
        heldout=shards.heldout,
        tokenizer=shards.tokenizer,
        corpus=_facts(told.corpus),
        command=told.command,
        recipe=told.recipe,
    )
    sample = _writer(recipe, shards.tokenizer)
    return pretrain(RunConfig(model, recipe.train), inputs, out, console, sample)


def _model(recipe: Recipe, pieces: int) -> ModelConfig:
    """The recipe's model with the tokenizer's vocabulary. Raises ConfigError for another one."""
    asked = recipe.model.vocabulary_size
    if asked not in (ModelConfig.vocabulary_size, pieces):
        raise ConfigError(
            f"model.vocabulary_size is {asked}, the tokenizer has {pieces} pieces",
            hint="leave it out: it is the tokenizer's; text of your own is split into "
            f"--set tokenizer.vocabulary_size={asked}",
        )
    return replace(recipe.model, vocabulary_size=pieces)


def _facts(corpus: Corpus | None) -> dict[str, Any]:
    """What the report tells of the corpus."""
    if corpus is None:
        return {}
    documents, text_bytes = corpus.count("train")
    return {
        "documents": documents,
        "text_bytes": text_bytes,
        "sources": corpus.manifest["sources"],
        "licences": corpus.manifest["licences"],
    }


def _writer(recipe: Recipe, tokenizer: Tokenizer) -> SampleText:
    """What writes a sample with the live model: the same words asked each time, same seed."""

    def write(model: Llama) -> str:
        device = cast(DeviceKind, model.norm.weight.device.type)
        backend = TorchBackend(model.config, state.model_arrays(model), device)
        engine = Engine(
            config=model.config,
            tokenizer=tokenizer,
            backend=backend,
            choice="the model in training",
            checkpoint=Path(),
            step=0,
        )
        params = SamplingParams(
            max_tokens=recipe.train.sample_tokens, seed=recipe.train.seed, temperature=0.8
        )
        return "".join(engine.stream(recipe.train.sample_prompt, params))

    return write


def default_out(recipe: Path, paths: Sequence[Path]) -> Path:
    """Where a run goes unless told: `runs/RECIPE-FOLDER`, or with the day where there is none."""
    name = paths[0].resolve().name if paths else time.strftime("%Y-%m-%d")
    return Path("runs") / f"{recipe.stem}-{name}"
