"""`puna plan`: budgets, before a model is trained."""

from __future__ import annotations

import argparse

from puna.commands import plan_ask, plan_fit, plan_report, plan_sweep
from puna.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """The sub-verbs of `puna plan`."""
    parser.description = "Budgets, before a model is trained: size, data, time, money."
    parser.epilog = """examples:
  puna plan ask --as-good-as llama-13b --inference-tokens 2T
  puna plan fit chinchilla                          the law of Chinchilla's own runs
  puna plan fit runs/* --save law.json              the law of yours"""
    verbs = parser.add_subparsers(dest="action", metavar="VERB", required=True)
    plan_ask.configure(verbs.add_parser("ask", help="which model to train, if it is also to run"))
    plan_fit.configure(verbs.add_parser("fit", help="the scaling law of runs that are done"))
    plan_report.configure(verbs.add_parser("report", help="the plan as a page with sliders"))
    plan_sweep.configure(verbs.add_parser("sweep", help="train small models, find their law"))


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do one sub-verb. Raises what it says."""
    actions = {
        "ask": plan_ask.run,
        "fit": plan_fit.run,
        "report": plan_report.run,
        "sweep": plan_sweep.run,
    }
    return actions[arguments.action](arguments, console)
