"""A training run small enough for tests: shards of made text, a model of two layers, a recipe."""

from __future__ import annotations

import os
import shutil
import signal
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


def write_shards_folder(
    folder: Path, seed: int = 0, texts: list[tuple[str, str]] | None = None
) -> Path:
    """What `puna data build` leaves of 160 texts: shards of both splits and their tokenizer."""
    from puna.console import silent
    from puna.tokens.shards import ShardsConfig, write_shards
    from puna.tokens.tokenizer import Tokenizer
    from puna.tokens.training import TokenizerConfig, train_tokenizer

    texts = texts or documents(160, seed)
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


def losses(out: Path) -> list[float]:
    """The losses of a run's steps, nats a token."""
    from puna.train.metrics import read_metrics

    return [step.loss for step in read_metrics(out / "metrics.jsonl").steps]


def trace(out: Path) -> list[tuple]:
    """Everything about the steps that no clock decides, and the validations."""
    from puna.train.metrics import read_metrics

    run = read_metrics(out / "metrics.jsonl")
    steps = [
        (s.step, s.tokens, s.epoch, s.loss, s.learning_rate, s.gradient_norm) for s in run.steps
    ]
    return [*steps, *((v.step, v.loss, v.bits_per_byte) for v in run.validations)]


def learnt(out: Path) -> dict[str, bytes]:
    """The arrays of the last checkpoint as bytes: weights, moments, random state."""
    from puna.weights.checkpoint import find_checkpoint, read_arrays

    folder = find_checkpoint(out)
    arrays = {}
    for name in ("model", "optimizer"):
        stored = read_arrays(folder / f"{name}.safetensors")
        arrays |= {f"{name} {key}": array.tobytes() for key, array in stored.items()}
    return arrays


class StopAt:
    """A sample function that stops the run as a signal does, at a step; it counts its calls."""

    def __init__(self, call: int, stop: signal.Signals = signal.SIGTERM) -> None:
        self.left, self.stop = call, stop

    def __call__(self, model) -> str:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.stop)
        return "text"


def stop_at(step: int, stop: signal.Signals = signal.SIGTERM) -> dict:
    """Options that stop a run after `step` steps."""
    return {"sample_every": 1, "sample": StopAt(step, stop)}
