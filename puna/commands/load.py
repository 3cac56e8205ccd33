"""Loading a model for a verb: a bar where it takes long, then what runs it and what to know."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from puna.console import Console

if TYPE_CHECKING:
    from puna.infer.engine import Engine, EngineSettings


def load(
    model: str,
    arguments: argparse.Namespace,
    console: Console,
    *,
    batched: bool = False,
    settings: EngineSettings | None = None,
) -> Engine:
    """The engine of `model` as the arguments of `add_model` ask for it, introduced.

    Raises as `load_engine` does.
    """
    from puna.infer.engine import load_engine

    with console.stages("B") as progress:
        engine = load_engine(
            model,
            arguments.backend,
            which=arguments.which,
            batched=batched,
            tokenizer_path=arguments.tokenizer_path,
            settings=settings,
            kv=arguments.kv,
            progress=progress,
        )
    console.say(engine.choice)
    for note in engine.notes:
        console.say(f"note: {note}")
    return engine
