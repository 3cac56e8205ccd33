"""A fitted law as a picture (matplotlib, `puna[plan]`): its runs and how far they lie off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from puna.console import human_count
from puna.errors import DataError, missing_package
from puna.plan.fit import Fitted

LARGEST_GROUPS = 8  # sizes that get a curve of their own


def draw(fitted: Fitted, path: Path) -> None:
    """Write a PNG (or SVG, PDF): loss over tokens with the law's curves, and the runs' errors.

    Raises MachineError without matplotlib, DataError where the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_package("matplotlib", "plan", "drawing a picture") from None
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _losses(left, fitted)
    _errors(right, fitted)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} should be a picture (.png, .svg, .pdf): {error}") from None


def _losses(axes: Any, fitted: Fitted) -> None:
    """Runs as points, the law as a curve for some of the sizes."""
    runs = fitted.runs
    colors = np.log(runs.parameters)
    axes.scatter(runs.tokens, runs.loss, c=colors, s=12, cmap="viridis")
    amounts = np.geomspace(runs.tokens.min(), runs.tokens.max(), 100)
    sizes = np.unique(runs.parameters)
    if len(sizes) > LARGEST_GROUPS:
        sizes = np.geomspace(sizes[0], sizes[-1], LARGEST_GROUPS)
    for size in sizes:
        share = (np.log(size) - colors.min()) / np.ptp(colors)
        predicted = fitted.law.loss(np.full_like(amounts, size), amounts)
        axes.plot(amounts, predicted, color=_color(share), label=human_count(float(size)))
    axes.set_ylim(runs.loss.min() * 0.97, runs.loss.max() * 1.02)
    axes.set(xscale="log", xlabel="tokens", ylabel="loss, nats a token")
    axes.legend(title="parameters", fontsize="small")


def _color(share: float) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](share)


def _errors(axes: Any, fitted: Fitted) -> None:
    runs = fitted.runs
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.scatter(6 * runs.parameters * runs.tokens, 100 * fitted.errors, s=12)
    axes.set(xscale="log", xlabel="training FLOPs", ylabel="law above the run, %")
