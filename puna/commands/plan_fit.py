"""`puna plan fit`: the scaling law of finished runs, with intervals."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.console import Console, human_count, table
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.plan.fit import Fitted
    from puna.plan.law import Law
    from puna.plan.runs import Runs

CHINCHILLA = "chinchilla"
DRAWS = 400
COVERAGE = 0.95
NAMES = {
    "e": "E", "a": "A", "b": "B", "alpha": "alpha", "beta": "beta",
    "parameter_exponent": "exponent of N*",
}  # fmt: skip
WORST = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna plan fit`."""
    parser.description = (
        "Fit L(N, D) = E + A/N^alpha + B/D^beta to finished runs: Huber loss of log L,\n"
        "many starts, L-BFGS, intervals from runs drawn again. Each run counts with its\n"
        "last held-out loss, in nats a token."
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="folders of runs, their metrics.jsonl, a .csv (parameters, tokens or flops, loss), "
        f"or {CHINCHILLA}: the 240 runs of its figure 4",
    )  # fmt: skip
    parser.add_argument(
        "--without-embeddings", action="store_true",
        help="N without embedding tables, for small models whose tables are most of them",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, default=DRAWS, metavar="N", help="fits for the intervals; 0 for none"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the draws")
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="for puna plan ask --law")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="runs and law as a picture")
    parser.epilog = """examples:
  puna plan fit chinchilla
  puna plan fit runs/*/metrics.jsonl --save law.json
  puna plan fit table.csv --draws 1000 --plot law.png"""


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the law, its intervals and how well it holds; save and draw it where asked.

    Raises DataError for too few runs or what is none, MachineError without SciPy.
    """
    from puna.plan import law as laws
    from puna.plan.fit import fit

    if arguments.draws < 0 or arguments.draws == 1:
        raise UsageError(f"--draws should be 0, or 2 and more, got {arguments.draws}")
    with console.stages("fit") as progress:
        fitted = fit(_runs(arguments), arguments.draws, arguments.seed, progress)
    text = f"{len(fitted.runs.runs)} runs, fitted by `puna plan fit`"
    named = replace(fitted.law, name=_name(arguments.save), source=text)
    for note in fitted.notes:
        console.warn(note)
    if arguments.save:
        laws.save(named, arguments.save)
        console.say(f"{arguments.save}: the law, for puna plan ask --law")
    if arguments.plot:
        from puna.plan.picture import draw

        draw(fitted, arguments.plot)
        console.say(f"{arguments.plot}: {len(fitted.runs.runs)} runs and the law")
    console.result(_record(fitted, named), _text(fitted))
    return 0


def _runs(arguments: argparse.Namespace) -> Runs:
    from puna.plan.runs import chinchilla, read_runs

    if arguments.runs != [CHINCHILLA]:
        paths = [Path(name) for name in arguments.runs]
        return read_runs(paths, "without embeddings" if arguments.without_embeddings else "all")
    if arguments.without_embeddings:
        raise UsageError(f"{CHINCHILLA}'s runs are known only with their embeddings")
    return chinchilla()


def _name(path: Path | None) -> str:
    return path.stem if path and path.stem != "law" else "fitted"


def _intervals(fitted: Fitted) -> dict[str, tuple[float, float]]:
    if not fitted.law.draws:
        return {}
    return {name: fitted.interval(name, COVERAGE) for name in NAMES}


def _record(fitted: Fitted, named: Law) -> dict[str, Any]:
    """Everything that is printed, in full digits."""
    span = named.fitted
    return {
        "law": named.record(),
        "parameter_exponent": named.parameter_exponent,
        "coverage": COVERAGE,
        "intervals": {name: list(bounds) for name, bounds in _intervals(fitted).items()},
        "standard_errors": {n: fitted.standard_error(n) for n in NAMES} if named.draws else {},
        "fitted": vars(span) if span else None,
        "runs": [
            {**run._asdict(), "log_error": float(error)}
            for run, error in zip(fitted.runs.runs, fitted.errors, strict=True)
        ],
        "root_mean_square_error": _typical(fitted),
        "notes": list(fitted.notes),
    }


def _text(fitted: Fitted) -> str:
    """The law for people: constants with intervals, what is best, how well it holds."""
    law, span = fitted.law, fitted.runs.span
    ranges = [" to ".join(human_count(value) for value in pair) for pair in
              (span.parameters, span.tokens)]  # fmt: skip
    lines = [
        f"{len(fitted.runs.runs)} runs: {ranges[0]} parameters ({law.counts}), {ranges[1]} tokens",
        "",
        f"L(N, D) = {law.e:.4g} + {law.a:.4g} / N^{law.alpha:.4g} + {law.b:.4g} / D^{law.beta:.4g}",
        "",
    ]
    bounds = _intervals(fitted)
    if bounds:
        rows = [
            (label, f"{getattr(law, name):.4g}", *(f"{value:.4g}" for value in bounds[name]))
            for name, label in NAMES.items()
        ]
        lines += [table(("", "fitted", f"{COVERAGE:.0%} from", "to"), rows), ""]
    return "\n".join([*lines, *_advice(fitted), "", *_residuals(fitted)])


def _advice(fitted: Fitted) -> list[str]:
    """What the law says is best for a training compute."""
    law = fitted.law
    exponent = law.parameter_exponent
    lines = [f"best for C training FLOPs: N* ∝ C^{exponent:.3f}, D* ∝ C^{1 - exponent:.3f}"]
    largest = float((6 * fitted.runs.parameters * fitted.runs.tokens).max())
    for flops in (largest, 100 * largest):
        size, tokens = law.optimum(flops)
        lines.append(
            f"  {flops:.1e}: {human_count(size)} on {human_count(tokens)} tokens "
            f"({human_count(tokens / size)} a parameter), loss {law.loss(size, tokens):.3f}"
        )
    lines[-1] += ", extrapolated"
    return lines


def _residuals(fitted: Fitted) -> list[str]:
    """How far the runs lie from the law, and which lie furthest."""
    order = sorted(range(len(fitted.errors)), key=lambda i: -abs(fitted.errors[i]))
    worst = ", ".join(f"{fitted.runs.runs[i].name} {fitted.errors[i]:+.1%}" for i in order[:WORST])
    return [f"off by {_typical(fitted):.2%} (root mean square); furthest:", f"  {worst}"]


def _typical(fitted: Fitted) -> float:
    return float((fitted.errors**2).mean() ** 0.5)
