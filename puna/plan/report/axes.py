"""The ranges of the page's charts, which stay where they are while the sliders move."""

from __future__ import annotations

import math
from dataclasses import dataclass

from puna.console import human_count
from puna.plan.known import KNOWN
from puna.plan.question import Answer, Question
from puna.plan.runs import Runs

TIMES = 8.0  # the chart of costs shows sizes from an eighth of the plan's to eight times it
DEAREST = 3.0  # and costs up to so many times the plan's
MOST_FLOPS = 1e27
MOST_LABELS = 7
FEW_POWERS = 3  # of ten on an axis: then 2 and 5 times them are shown too


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic, that a chart shows."""

    low: float
    high: float
    is_log: bool = True

    def position(self, value: float) -> float:
        """0 at the low end, 1 at the high one, beyond where the value is."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values with their labels: powers of ten, or about five steps."""
        if self.is_log:
            low, high = math.log10(self.low), math.log10(self.high)
            powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
            if len(powers) < FEW_POWERS:
                marks = [one * 10.0**power for power in range(powers.start - 1, powers.stop)
                         for one in (1, 2, 5)]  # fmt: skip
                shown = [mark for mark in marks if self.low <= mark <= self.high]
                return [(mark, human_count(mark)) for mark in shown]
            each = 1 + (len(powers) - 1) // MOST_LABELS
            return [(10.0**power, _power(power)) for power in powers if power % each == 0]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= 1 if (self.high - self.low) / step < 8 else 5
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(index * step, f"{index * step:.6g}") for index in range(first, last + 1)]


def _power(power: int) -> str:
    if power >= 15 or power < 0:
        return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return human_count(10.0**power)


@dataclass(frozen=True)
class Frames:
    """Every axis: parameters and tokens of the map, FLOPs and loss of the law's chart."""

    parameters: Axis
    tokens: Axis
    flops: Axis
    loss: Axis
    times: Axis = Axis(1 / TIMES, TIMES)
    cost: Axis = Axis(0.0, DEAREST, is_log=False)


def frames(question: Question, answer: Answer, runs: Runs | None) -> Frames:
    """The ranges that hold the plan, published models, and the runs."""
    law, plan = question.law, answer.plan
    models = list(KNOWN.values()) if law.counts == "all" else []
    tokens = [plan.tokens, answer.chinchilla.tokens, *(model.tokens for model in models)]
    sizes = question.choices.parameters
    span = law.fitted
    flops = [6 * plan.parameters * plan.tokens]
    losses = [plan.loss, law.loss(*law.optimum(1e20))]
    if span:
        tokens.append(span.tokens[0])
        flops.append(6 * span.parameters[0] * span.tokens[0])
    if runs:
        flops += [float(value) for value in 6 * runs.parameters * runs.tokens]
        losses += [float(value) for value in runs.loss]
    return Frames(
        parameters=Axis(float(sizes[0]), float(sizes[-1])),
        tokens=Axis(min(tokens) / 2, max(1e15, 2 * max(tokens))),
        flops=Axis(min(flops) / 2, max(MOST_FLOPS, 10 * max(flops))),
        loss=Axis(0.97 * law.e, 1.02 * max(losses), is_log=False),
    )
