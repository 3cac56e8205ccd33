"""`puna train`: pretrain a model from a recipe, or resume a run."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from puna.commands.text_arguments import add_text, require_text
from puna.console import Console
from puna.errors import UsageError

EXAMPLES = """examples:
  puna train recipes/demo.toml --data my_folder/          your own text, whole way
  puna train recipes/demo.toml --shards demo/data         shards made by `puna data build`
  puna train recipes/demo.toml --data a/ b.jsonl.zst --out runs/mine \\
      --set train.steps=200 --set model.layers=4
The same command goes on where a stopped run left off.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna train`."""
    parser.description = "Pretrain a LLaMA from a recipe on your own text, or resume a run."
    parser.epilog = EXAMPLES
    parser.add_argument("recipe", type=Path, help="a TOML recipe; recipes/ has those of Puna")
    add_text(parser)
    parser.add_argument(
        "--corpus", type=Path, metavar="DIR", help="the shards' corpus, for the report"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (runs/RECIPE-TEXT)")
    parser.add_argument("--source", help="with --data: a name for where the text is from")
    parser.add_argument("--licence", help="with --data: the text's licence")
    parser.add_argument(
        "--skip-bad", action="store_true", help="with --data: leave out what cannot be read"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="change one value of the recipe"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Train; 0 when finished, 130 or 143 when Ctrl-C or SIGTERM stopped it, saved."""
    require_text(arguments, "puna train recipes/demo.toml --data my_folder/")
    from puna.errors import missing_package
    from puna.hardware import has_package

    if not has_package("torch"):
        raise missing_package("torch", "train", "training")
    from puna.data.corpus import open_corpus
    from puna.workflows.recipe import load_recipe
    from puna.workflows.text_to_model import (
        Text,
        Told,
        default_out,
        open_shards,
        train_on_shards,
        train_on_text,
    )

    recipe = load_recipe(arguments.recipe, arguments.set)
    out = arguments.out or default_out(arguments.recipe, arguments.data or [arguments.shards])
    _check_recipe_is_kept(arguments.recipe, out)
    command = "puna " + shlex.join(sys.argv[1:])
    if arguments.data:
        text = Text(arguments.data, arguments.source, arguments.licence, arguments.skip_bad)
        outcome = train_on_text(recipe, text, out, console, command)
    else:
        corpus = open_corpus(arguments.corpus) if arguments.corpus else None
        shards = open_shards(arguments.shards)
        outcome = train_on_shards(recipe, shards, out, console, Told(corpus, command))
    record = {
        "out": str(out),
        "step": outcome.step,
        "steps_now": outcome.steps_now,
        "loss": outcome.loss,
        "reason": outcome.reason,
    }
    lines = [f"{out}: {outcome.reason} at step {outcome.step}"]
    if outcome.exit_code == 0:
        lines.append(f"  next: puna generate {out} --prompt '...'")
        lines.append(f"        puna report {out}")
    console.result(record, "\n".join(lines))
    return outcome.exit_code


def _check_recipe_is_kept(recipe: Path, out: Path) -> None:
    """Refuse a new run that would write its resolved recipe over the one that was given."""
    written = out / "recipe.toml"
    is_same = recipe.exists() and written.exists() and recipe.samefile(written)
    if is_same and not (out / "checkpoints").is_dir():
        raise UsageError(
            f"the run would write its resolved recipe over {recipe}", hint="give another --out"
        )
