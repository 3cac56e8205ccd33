"""What of the page moves with its sliders: words, curves, dots and bars, from one answer.

page.js computes the same from the same numbers; a test compares the two over many settings.
Curves are in thousandths of their chart, from its lower left corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from puna.console import human_count, human_duration
from puna.plan.law import FloatArray
from puna.plan.limits import money
from puna.plan.question import Band, Plan
from puna.plan.report.axes import Axis
from puna.plan.report.facts import Laid, PlanFacts
from puna.plan.shapes import shape_words

GIB = 2**30
USES = (1e12, 1e13, 1e14)  # tokens of a life, for which the optimum is shown
CHEAP = 1.1  # times the plan's cost is near enough to the least
TICKS = (1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # of the plan's size, below the chart of costs
PARTS = ("weights", "gradients", "optimizer", "activations", "workspace", "allocator", "kv")
Point = tuple[float, float]


def moving(facts: PlanFacts) -> dict[str, Any]:
    """`said` (words by key), `curves` (points by key), `dots` (by key, None where there is none)
    and `bars` (by key, the shares of the room that each part takes)."""
    plan, other, choices = facts.answer.plan, facts.answer.chinchilla, facts.question.choices
    tokens = facts.question.law.tokens_for(plan.loss, choices.parameters)
    training = choices.training * tokens
    used = facts.question.inference_tokens
    use = choices.inference * used if used else 0 * choices.training
    bars, words = _memory(facts)
    costs = _costs(facts, training, use)
    return {
        "said": {**_said(facts), **words},
        "curves": {**_map(facts, tokens, training + use), **costs},
        "dots": {
            **_dots(facts, tokens),
            **_labels(costs),
            "cost-chinchilla": _at(
                facts.frames.times, other.parameters / plan.parameters,
                facts.frames.cost, other.total_usd / plan.total_usd,
            ),
        },
        "bars": bars,
    }  # fmt: skip


def _said(facts: PlanFacts) -> dict[str, str]:
    answer, plan = facts.answer, facts.answer.plan
    used = facts.question.inference_tokens
    said = {
        "loss": f"{plan.loss:.3f}",
        "shape": shape_words(plan.config),
        "per-parameter": human_count(plan.tokens / plan.parameters),
        "time": human_duration(86400 * facts.days(plan.config, plan.tokens)),
        "used": human_count(used),
        "million": _million(plan.inference_usd, used),
        "even": _even(facts),
        "beyond": _beyond(facts),
        "unanswered": _unanswered(answer.band),
    }
    plans = {
        "plan": plan,
        "chinchilla": answer.chinchilla,
        "half": answer.half,
        "twice": answer.twice,
        "named": answer.named,
    }
    for name, one in plans.items():
        said |= {f"{name}-{key}": words for key, words in _row(one).items()}
    for times in TICKS:
        said[f"tick-{times:g}"] = human_count(times * plan.parameters)
    for key in ("loss", "parameters", "tokens", "total_usd"):
        bounds = getattr(answer.band, key) if answer.band else None
        said[f"band-{key}"] = "not known" if bounds is None else _span(key, bounds)
    return said


def _row(plan: Plan | None) -> dict[str, str]:
    if plan is None:
        return dict.fromkeys(("size", "tokens", "training", "use", "total"), "-")
    return {
        "size": human_count(plan.parameters),
        "tokens": human_count(plan.tokens),
        "training": money(plan.training_usd),
        "use": money(plan.inference_usd) if plan.inference_usd < math.inf else "-",
        "total": money(plan.total_usd) if plan.inference_usd < math.inf else "-",
    }


def _span(key: str, bounds: Point) -> str:
    if math.isnan(bounds[0]):
        return "not known"
    low, high = (f"{one:.3f}" if key == "loss" else human_count(one) for one in bounds)
    return f"{low} to {high}" if low != high else low


def _million(usd: float, used: float) -> str:
    return f"${human_count(1e6 * usd / used)}" if used else "-"


def _even(facts: PlanFacts) -> str:
    even = facts.answer.break_even_tokens
    if facts.answer.plan == facts.answer.chinchilla:
        return "It is Chinchilla's plan."
    if facts.answer.chinchilla.inference_usd == math.inf:
        return "Chinchilla's plan is too large for one node that serves."
    if even is None:
        return "Chinchilla's plan costs less however much it is used."
    return f"It costs less than Chinchilla's from {human_count(even)} tokens of use on."


def _unanswered(band: Band | None) -> str:
    if band is None or not band.unanswered:
        return ""
    return f"By {band.unanswered:.1%} of the refits nothing keeps to the limits."


def _beyond(facts: PlanFacts) -> str:
    plan, span = facts.answer.plan, facts.question.law.fitted
    if span is None:
        return "Which runs the law was fitted to is not known."
    found = span.outside(plan.parameters, plan.tokens)
    if not found:
        return "The plan lies within the runs behind the law."
    return f"The plan lies beyond the runs behind the law: {', '.join(found)}."


# The map


def _at(x_axis: Axis, x: float, y_axis: Axis, y: float) -> Point | None:
    """A point's place; None where it is beyond the chart."""
    if not (x > 0 and math.isfinite(y) and (y > 0 or not y_axis.is_log)):
        return None
    place = x_axis.position(x), y_axis.position(y)
    return _thousandths(*place) if all(-1e-9 <= one <= 1 + 1e-9 for one in place) else None


def _thousandths(x: float, y: float) -> Point:
    return round(1000 * x, 1), round(1000 * y, 1)


def curve(x_axis: Axis, xs: Iterable[float], y_axis: Axis, ys: Iterable[float]) -> list[Point]:
    """The points of a curve within its chart, and a little beyond its top."""
    found = []
    for x, y in zip(xs, ys, strict=True):
        if not (math.isfinite(y) and (y > 0 or not y_axis.is_log)):
            continue
        place = x_axis.position(x), y_axis.position(y)
        if -0.02 <= place[0] <= 1.02 and -0.5 <= place[1] <= 1.5:
            found.append(_thousandths(*place))
    return found


def _map(facts: PlanFacts, tokens: FloatArray, total: FloatArray) -> dict[str, list[Point]]:
    """The curve of equal loss, and the part of it that is nearly as cheap as the plan."""
    across, up = facts.frames.parameters, facts.frames.tokens
    sizes = facts.question.choices.parameters
    near = total <= CHEAP * facts.answer.plan.total_usd
    return {
        "iso": curve(across, sizes, up, tokens),
        "cheap": curve(across, sizes[near], up, tokens[near]),
    }


def optima(facts: PlanFacts, tokens: FloatArray) -> list[int]:
    """For each of USES the cheapest choice of the plan's loss, whatever the limits."""
    choices = facts.question.choices
    found = []
    for used in USES:
        usd = choices.training * tokens + choices.inference * used
        found.append(int(np.where(np.isfinite(usd), usd, math.inf).argmin()))
    return found


def _dots(facts: PlanFacts, tokens: FloatArray) -> dict[str, Point | None]:
    frames, plan, other = facts.frames, facts.answer.plan, facts.answer.chinchilla
    sizes = facts.question.choices.parameters
    found = {
        "plan": (plan.parameters, plan.tokens),
        "chinchilla": (other.parameters, other.tokens),
    }
    for number, index in enumerate(optima(facts, tokens)):
        found[f"use-{number}"] = (float(sizes[index]), float(tokens[index]))
    dots = {key: _at(frames.parameters, n, frames.tokens, d) for key, (n, d) in found.items()}
    band = facts.answer.band
    flops = 6 * plan.parameters * plan.tokens
    for key, loss in (
        ("law-plan", plan.loss),
        ("law-low", band.loss[0] if band else plan.loss),
        ("law-high", band.loss[1] if band else plan.loss),
    ):
        dots[key] = _at(frames.flops, flops, frames.loss, loss)
    return dots


# Costs


def _costs(facts: PlanFacts, training: FloatArray, use: FloatArray) -> dict[str, list[Point]]:
    """Money over sizes of the plan's loss, in multiples of the plan's size and cost."""
    plan, frames = facts.answer.plan, facts.frames
    times = facts.question.choices.parameters / plan.parameters
    return {
        f"cost-{name}": curve(frames.times, times, frames.cost, usd / plan.total_usd)
        for name, usd in (("total", training + use), ("training", training), ("use", use))
    }


def _labels(costs: dict[str, list[Point]]) -> dict[str, Point | None]:
    """Where each curve of costs is named: the total where it leaves on the right, training near
    its right end, use at its left one."""
    seen = {
        name: [point for point in points if 0 <= point[0] <= 1000 and 0 <= point[1] <= 1000]
        for name, points in costs.items()
    }
    total, training, use = (seen[f"cost-{name}"] for name in ("total", "training", "use"))
    return {
        "label-total": total[-1] if total else None,
        "label-training": training[-1] if training else None,
        "label-use": use[0] if use else None,
    }


# Memory


def _memory(facts: PlanFacts) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Bars of the sizes nearest to the plan and to Chinchilla's, and words about each."""
    bars, said = {}, {}
    for name, plan in (("plan", facts.answer.plan), ("chinchilla", facts.answer.chinchilla)):
        size = nearest(facts.laid, plan.parameters)
        rooms = facts.money.train.device.usable_bytes, facts.money.serve.device.usable_bytes
        kinds = (("training", size.training, size.layout), ("serving", size.serving, size.group))
        for (kind, parts, words), room in zip(kinds, rooms, strict=True):
            key, total = f"{name}-{kind}", sum(parts.values())
            whole = max(room, total)
            bars[key] = [round(1000 * parts.get(part, 0.0) / whole, 1) for part in PARTS] + [
                round(1000 * room / whole, 1)
            ]
            said[f"{key}-of"] = f"{human_count(size.parameters)}: {words}"
            over = f", {(total - room) / GIB:.1f} too much" if total > room else ""
            said[f"{key}-total"] = (
                f"{total / GIB:.1f} of {room / GIB:.1f} GiB{over}" if parts else "-"
            )
            said[f"{key}-parts"] = ", ".join(
                f"{PART_WORDS[part]} {parts[part] / GIB:.1f}" for part in PARTS if parts.get(part)
            )
    return bars, said


PART_WORDS = {
    "weights": "weights", "gradients": "gradients", "optimizer": "optimiser",
    "activations": "activations", "workspace": "workspace", "allocator": "allocator",
    "kv": "keys and values",
}  # fmt: skip


def nearest(laid: tuple[Laid, ...], parameters: float) -> Laid:
    """The size laid out that is nearest, as a ratio."""
    return min(laid, key=lambda one: abs(math.log(one.parameters / parameters)))
