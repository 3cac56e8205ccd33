"""The learning rate as one pure function of the optimizer step (paper 2.3)."""

from __future__ import annotations

import math


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, steps: int, final_fraction: float = 0.1
) -> float:
    """The rate of optimizer step `step`, counted from 1 to `steps`.

    It rises linearly to `peak` at step `warmup_steps`, then falls on a half cosine to
    `final_fraction · peak` at the last step:
        rate = peak · (f + (1 - f) · (1 + cos(pi · progress)) / 2)
    """
    if step <= warmup_steps:
        return peak * (step / warmup_steps)  # exactly the peak where the two are equal
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * (final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2)
