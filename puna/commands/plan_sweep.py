"""`puna plan sweep`: train a ladder of small models, fit their law, test what it predicts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from puna.commands.text_arguments import add_text, require_text
from puna.console import Console, human_duration, table
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.workflows.sweep import Swept

EXAMPLES = """examples:
  puna plan sweep recipes/ladder.toml --data my_folder/   70 MB of text
  puna plan sweep recipes/ladder.toml --shards a/shards   of `data build`
The same command goes on where a stopped sweep left off.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna plan sweep`."""
    parser.description = (
        "Train a ladder of small models on your text, fit the scaling law they follow,\n"
        "let it predict a larger one before that is trained: about two hours on 2 cores."
    )
    parser.epilog = EXAMPLES
    parser.add_argument("recipe", type=Path, help="a TOML ladder: recipes/ladder.toml")
    add_text(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where all goes (runs/RECIPE-TEXT)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="runs at once (one a core; on a GPU, one)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change one value of the recipe"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do what is missing of the sweep and print what it found; 0 when all of it is done."""
    require_text(arguments, "puna plan sweep recipes/ladder.toml --data my_folder/")
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(f"--workers must be at least 1, got {arguments.workers}")
    from puna import hardware
    from puna.errors import missing_package

    for package, extra in (("torch", "train"), ("scipy", "plan")):
        if not hardware.has_package(package):
            raise missing_package(package, extra, "the sweep")
    from puna.workflows.ladder import load_ladder
    from puna.workflows.sweep import sweep
    from puna.workflows.text_to_model import Text, default_out, make_shards

    ladder = load_ladder(arguments.recipe, arguments.set)
    out = arguments.out or default_out(arguments.recipe, arguments.data or [arguments.shards])
    shards = arguments.shards
    if arguments.data:
        make_shards(ladder.recipe(), Text(arguments.data), out, console)
        shards = out / "shards"
    on_cpu = hardware.choose_device(ladder.train.device).kind == "cpu"
    workers = arguments.workers or (hardware.usable_cores() if on_cpu else 1)
    swept = sweep(ladder, shards, out, console, workers)
    console.result(swept.record(), told(swept))
    return 0


def told(swept: Swept) -> str:
    """A finished sweep for people: runs, law, prediction and truth."""
    fitted, prediction, truth = swept.fitted, swept.prediction, swept.truth
    runs = [one.run(fitted.law.counts) for one in swept.measured]
    rows = [
        (
            one.name,
            f"{run.parameters:,.0f}",
            f"{run.tokens:,.0f}",
            f"{run.loss:.4f}",
            f"{error * 100:+.2f} %",
        )
        for one, run, error in zip(swept.measured, runs, swept.errors.tolist(), strict=True)
    ]
    constants = []
    for name in ("e", "a", "alpha", "b", "beta"):
        low, high = fitted.interval(name)
        constants.append(f"{name} {getattr(fitted.law, name):.4g} ({low:.4g} to {high:.4g})")
    tests = [f"           {error * 100:.2f} % ({way})" for way, error in prediction.tests.items()]
    seconds = sum(one.core_seconds for one in (*swept.measured, truth))
    inside = prediction.low <= truth.loss <= prediction.high
    return "\n".join(
        [
            table(["run", "parameters", "tokens", "loss", "law's error"], rows),
            "",
            f"law        loss = e + a / N^alpha + b / D^beta; N counts {fitted.law.counts}",
            f"           {', '.join(constants[:3])}",
            f"           {', '.join(constants[3:])}",
            *(f"note       {note}" for note in fitted.notes),
            f"tested     on {prediction.tested_on} by the law of the smaller sizes: off by",
            *tests,
            f"predicted  {prediction.loss:.4f} nats a token for {prediction.name}, "
            f"95 % from {prediction.low:.4f} to {prediction.high:.4f}",
            f"measured   {truth.loss:.4f}: the prediction was {swept.error * 100:+.2f} % off, "
            f"{'inside' if inside else 'outside'} its interval",
            f"cost       {human_duration(seconds)} of one core",
            f"next       puna plan ask --law {swept.folder / 'law.json'}",
        ]
    )
