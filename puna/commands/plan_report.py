"""`puna plan report`: the plan as one page with sliders."""

from __future__ import annotations

import argparse
from pathlib import Path

from puna.commands import plan_ask
from puna.console import Console, human_bytes

EXAMPLES = """examples:
  puna plan report --as-good-as llama-13b --inference-tokens 2T
  puna plan report --budget 1M --requests-a-day 500k --out plan.html --open
  puna plan report --as-good-as llama-7b --sweep runs/ladder-text/sweep.json
The page needs no network and nothing beside it: mail it, print it, keep it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna plan report`: what is asked, and where the page goes."""
    parser.description = (
        "Write one self-contained HTML page about the plan that `puna plan ask` gives:\n"
        "sizes of equal loss, what they cost, memory, the law behind it all; sliders ask\n"
        "again."
    )
    parser.epilog = EXAMPLES
    plan_ask.add_question_arguments(parser)
    group = parser.add_argument_group("the page")
    group.add_argument(
        "--out", type=Path, default=Path("plan.html"), metavar="FILE", help="where the page goes"
    )
    group.add_argument(
        "--sweep", type=Path, metavar="FILE", help="the sweep.json of a puna plan sweep, shown too"
    )
    group.add_argument("--open", action="store_true", help="show the page in the browser")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the page and say where it is; `--json` has the answer of `puna plan ask` too.

    Raises ConfigError where nothing keeps to the limits, UsageError for wrong arguments,
    SchemaError for a broken sweep.
    """
    from puna import page
    from puna.commands import plan_answer
    from puna.commands.report import show
    from puna.plan.question import answer
    from puna.plan.report import gather, render

    asked = plan_ask.read(arguments)
    found = answer(asked.question)
    facts = gather(asked.question, found, asked.money, arguments.sweep)
    size_bytes = page.write(render(facts), arguments.out)
    for warning in plan_ask.warnings(asked, found):
        console.warn(warning)
    record = {
        "report": str(arguments.out),
        "bytes": size_bytes,
        **plan_answer.record(asked, found),
        "sweep": facts.swept,
    }
    console.result(record, f"{arguments.out} ({human_bytes(size_bytes)})")
    if arguments.open:
        show(str(arguments.out), console)
    return 0
