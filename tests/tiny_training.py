"""A training run small enough for tests: shards of made text, a model of two layers, a recipe."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from token_texts import documents

from puna.model.sizes import ModelConfig
from puna.train.settings import RunConfig, TrainConfig

VOCABULARY = 320
CONTEXT = 32
SEQUENCES = 4


def run_config(model: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    """Twelve steps of four sequences in float32 on one thread, or with these changes."""
    shape = {
        "dim": 32,
        "layers": 2,
        "heads": 2,
        "vocabulary_size": VOCABULARY,
        "context_length": CONTEXT,
    }
    settings = {
        "steps": 12,
        "batch_tokens": SEQUENCES * CONTEXT,
        "warmup_steps": 3,
        "learning_rate": 1e-2,
        "device": "cpu",
        "threads": 1,
        "precision": "fp32",
        "compile": "off",
        "validate_every": 4,
        "validation_tokens": 8 * CONTEXT,
        "sample_every": 5,
        "checkpoint_every": 5,
    }
    return RunConfig(ModelConfig(**shape | (model or {})), TrainConfig(**settings | train))


def recipe_text(**train: Any) -> str:
    """The same run as a TOML recipe; its vocabulary is the tokenizer's."""
    from dataclasses import asdict

    import tomli_w

    config = run_config(**train)
    model = {name: value for name, value in asdict(config.model).items() if value is not None}
    del model["vocabulary_size"]
    settings = {name: value for name, value in asdict(config.train).items() if value is not None}
    tokenizer = {"vocabulary_size": VOCABULARY}
    return tomli_w.dumps({"tokenizer": tokenizer, "model": model, "train": settings})


def write_shards_folder(folder: Path, seed: int = 0) -> Path:
    """What `puna data build` leaves: shards of both splits and their tokenizer."""
    from puna.console import silent
    from puna.tokens.shards import ShardsConfig, write_shards
    from puna.tokens.tokenizer import Tokenizer
    from puna.tokens.training import TokenizerConfig, train_tokenizer

    texts = documents(160, seed)
    train, heldout = texts[:150], texts[150:]
    path = train_tokenizer(
        [text for _, text in train],
        folder / "tokenizer",
        TokenizerConfig(vocabulary_size=VOCABULARY),
        silent(),
    ).path
    shutil.move(path, folder / "tokenizer.model")
    shutil.rmtree(folder / "tokenizer")
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    for name, part in (("train", train), ("heldout", heldout)):
        write_shards(part, tokenizer, folder / name, ShardsConfig(), silent())
    return folder


def inputs(shards: Path) -> Any:
    """The shards as `pretrain` takes them."""
    from puna.tokens.shards import ShardSet
    from puna.tokens.tokenizer import Tokenizer
    from puna.train.pretrain import Inputs

    return Inputs(
        train=ShardSet.open(shards / "train"),
        heldout=ShardSet.open(shards / "heldout"),
        tokenizer=Tokenizer.load(shards / "tokenizer.model"),
        corpus={},
    )
