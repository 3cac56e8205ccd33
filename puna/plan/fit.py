"""Fit the scaling law to runs, as Hoffmann et al. 2022 (approach 3) and Epoch AI do.

Least sum of Huber's loss (1e-3) of the error in log L, where log L is computed by log-sum-exp of
a - alpha log N, b - beta log D and e = log E. Many starts: 361 pairs of exponents, each with the
E, A and B of linear least squares; the best ones are refined by L-BFGS (SciPy, `puna[plan]`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from puna.console import Progress, untold
from puna.errors import DataError, missing_package
from puna.plan.law import FloatArray, Law, of_constants
from puna.plan.runs import Runs

HUBER = 1e-3  # in nats of log loss (Hoffmann et al., section 3.3)
EXPONENTS = np.linspace(0.1, 1.0, 19)
REFINED_STARTS, REFINED_STARTS_OF_A_DRAW = 8, 2
LEAST_RUNS, LEAST_VALUES = 5, 3  # five constants; E, A and alpha want three sizes
LEAST_SPREAD = 0.01  # between the best and the worst loss: less is a run's own scatter
FEW_RUNS, NARROW = 12, 8.0
BOUNDS = [(-20.0, 60.0), (-20.0, 60.0), (-10.0, 5.0), (0.01, 3.0), (0.01, 3.0)]
DRAWS = 400


@dataclass(frozen=True)
class Fitted:
    """A law fitted to runs (with the laws of its draws), and how well it holds."""

    law: Law
    runs: Runs
    errors: FloatArray  # [runs]: log of predicted loss over measured
    notes: tuple[str, ...]

    def interval(self, name: str, coverage: float = 0.95) -> tuple[float, float]:
        """Bounds of a constant (or `parameter_exponent`) that hold this share of the draws."""
        values = [getattr(draw, name) for draw in self.law.draws]
        low, high = np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2])
        return float(low), float(high)

    def standard_error(self, name: str) -> float:
        """Standard deviation of a constant over the draws."""
        return float(np.std([getattr(draw, name) for draw in self.law.draws]))


def fit(runs: Runs, draws: int = DRAWS, seed: int = 1, progress: Progress = untold) -> Fitted:
    """The law of the runs, with `draws` laws of runs drawn again with replacement.

    Raises DataError for runs that cannot tell five constants apart, MachineError without SciPy.
    """
    _require_enough(runs)
    problem = _Problem(runs)
    fitted = problem.solve(np.ones(len(runs.runs)), REFINED_STARTS)
    law = replace(fitted, counts=runs.counts, fitted=runs.span)
    generator = np.random.default_rng(seed)
    drawn = []
    for done in range(draws):
        progress("bootstrap", done, draws)
        drawn.append(problem.solve(_drawn_again(runs, generator), REFINED_STARTS_OF_A_DRAW))
    errors = np.log(law.loss(runs.parameters, runs.tokens) / runs.loss)
    notes = (*runs.notes, *_doubts(runs), *_at_bounds(law))
    return Fitted(replace(law, draws=tuple(drawn)), runs, errors, notes)


def _require_enough(runs: Runs) -> None:
    sizes, amounts = len(set(runs.parameters)), len(set(runs.tokens))
    if len(runs.runs) < LEAST_RUNS or min(sizes, amounts) < LEAST_VALUES:
        raise DataError(
            f"a law of five constants needs at least {LEAST_RUNS} finished runs of {LEAST_VALUES} "
            f"sizes and {LEAST_VALUES} amounts of tokens, found {len(runs.runs)} of {sizes} and "
            f"{amounts}" + "".join(f"; {note}" for note in runs.notes[:3]),
            hint="train more models, each size on several amounts: puna plan sweep does",
        )
    if runs.loss.max() < (1 + LEAST_SPREAD) * runs.loss.min():
        raise DataError(
            f"a law needs losses that differ, those of the {len(runs.runs)} runs are all "
            f"{runs.loss.mean():.4g}"
        )


def _doubts(runs: Runs) -> list[str]:
    """What makes the constants less certain than they look."""
    found = []
    if len(runs.runs) < FEW_RUNS:
        found.append(f"{len(runs.runs)} runs for five constants: the intervals are too narrow")
    for what, values in (("parameters", runs.parameters), ("tokens", runs.tokens)):
        if (ratio := values.max() / values.min()) < NARROW:
            found.append(f"{what} differ only {ratio:.3g} times: their exponent is a guess")
    sizes, amounts = np.log(runs.parameters), np.log(runs.tokens)
    if abs(np.corrcoef(sizes, amounts)[0, 1]) > 0.98:
        found.append("parameters and tokens grow together: what each does cannot be told apart")
    return found


def _at_bounds(law: Law) -> list[str]:
    """Constants that only the bounds of the search hold."""
    point = (math.log(law.a), math.log(law.b), math.log(law.e), law.alpha, law.beta)
    held = [
        name
        for name, value, bounds in zip(("A", "B", "E", "alpha", "beta"), point, BOUNDS, strict=True)
        if min(abs(value - bound) for bound in bounds) < 1e-6
    ]
    return [f"{', '.join(held)} went as far as the search goes: no such law fits"] if held else []


def _drawn_again(runs: Runs, generator: np.random.Generator) -> FloatArray:
    """How often each run is drawn [runs]; draws that could not be fitted are drawn anew."""
    number = len(runs.runs)
    while True:
        chosen = generator.integers(0, number, number)
        if min(len(set(v[chosen])) for v in (runs.parameters, runs.tokens)) >= LEAST_VALUES:
            return np.bincount(chosen, minlength=number).astype(np.float64)


class _Problem:
    """The runs' logarithms, and for every pair of exponents what linear least squares needs."""

    def __init__(self, runs: Runs) -> None:
        self.log_parameters, self.log_tokens = np.log(runs.parameters), np.log(runs.tokens)
        self.log_loss = np.log(runs.loss)
        pairs = np.meshgrid(EXPONENTS, EXPONENTS)
        self.alpha, self.beta = (one.ravel() for one in pairs)
        # Powers around the runs' middle, so that the three columns are of one size.
        self.middle = self.log_parameters.mean(), self.log_tokens.mean()
        by_size = np.exp(-np.outer(self.log_parameters - self.middle[0], self.alpha))
        by_data = np.exp(-np.outer(self.log_tokens - self.middle[1], self.beta))
        # Divided by the loss, since it is the relative error that counts.
        self.columns = np.stack([np.ones_like(by_size), by_size, by_data]) / runs.loss[:, None]

    def starts(self, weights: FloatArray, number: int) -> FloatArray:
        """The best pairs of exponents with their least-squares constants [number, 5]."""
        weighted = self.columns * weights[:, None]
        normal = np.einsum("irg,jrg->gij", weighted, self.columns)
        right = weighted.sum(axis=1).T[..., None]
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        solved = np.maximum(np.linalg.solve(normal, right)[..., 0], 1e-6)  # pairs, (E, A, B)
        errors = np.einsum("irg,gi->gr", self.columns, solved) - 1
        best = np.argsort(np.abs(errors) @ weights)[:number]
        e, a, b = np.log(solved[best]).T
        alpha, beta = self.alpha[best], self.beta[best]
        moved = a + alpha * self.middle[0], b + beta * self.middle[1]
        return np.stack([*moved, e, alpha, beta], axis=1)

    def solve(self, weights: FloatArray, starts: int) -> Law:
        """The law of least weighted Huber loss. Raises MachineError without SciPy."""
        try:
            from scipy.optimize import minimize
        except ImportError:
            raise missing_package("scipy", "plan", "fitting a scaling law") from None
        options = {"maxiter": 2000, "maxfun": 5000, "ftol": 1e-12, "gtol": 1e-9}
        answers: list[Any] = [
            minimize(self.objective, np.clip(start, *np.transpose(BOUNDS)), args=(weights,),
                     jac=True, method="L-BFGS-B", bounds=BOUNDS, options=options)
            for start in self.starts(weights, starts)
        ]  # fmt: skip
        a, b, e, alpha, beta = min(answers, key=lambda answer: float(answer.fun)).x.tolist()
        return of_constants(math.exp(e), math.exp(a), math.exp(b), alpha, beta)

    def objective(self, point: FloatArray, weights: FloatArray) -> tuple[float, FloatArray]:
        """Sum over runs of weight times Huber loss, over its width, and its gradient [5]."""
        a, b, e, alpha, beta = point
        parts = np.stack(
            [
                a - alpha * self.log_parameters,
                b - beta * self.log_tokens,
                np.full_like(self.log_loss, e),
            ]
        )
        largest = parts.max(axis=0)
        shares = np.exp(parts - largest)
        total = shares.sum(axis=0)
        shares /= total
        errors = largest + np.log(total) - self.log_loss
        clipped = np.clip(errors, -HUBER, HUBER)
        value = float((weights * clipped * (errors - clipped / 2)).sum()) / HUBER
        slopes = shares * (weights * clipped / HUBER)
        by_exponent = -slopes[0] @ self.log_parameters, -slopes[1] @ self.log_tokens
        return value, np.array([*slopes.sum(axis=1), *by_exponent])
