"""`puna plan`: budgets, before a model is trained."""

from __future__ import annotations

import argparse

from puna.commands import plan_fit
from puna.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """The sub-verbs of `puna plan`."""
    parser.description = "Budgets, before a model is trained: size, data, time, money."
    parser.epilog = """examples:
  puna plan fit chinchilla                          the law of Chinchilla's own runs
  puna plan fit runs/* --save law.json              the law of yours"""
    verbs = parser.add_subparsers(dest="action", metavar="VERB", required=True)
    plan_fit.configure(verbs.add_parser("fit", help="the scaling law of runs that are done"))


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do one sub-verb. Raises what it says."""
    actions = {"fit": plan_fit.run}
    actions[arguments.action](arguments, console)
    return 0
