"""The pictures of a plan: the map of sizes and tokens, costs, the law, memory, a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from puna.console import human_count
from puna.plan.known import KNOWN
from puna.plan.law import Law, of_constants
from puna.plan.report import charts
from puna.plan.report.axes import Axis
from puna.plan.report.charts import Chart, circle, dot, label, path
from puna.plan.report.facts import PlanFacts
from puna.plan.report.moving import PART_WORDS, PARTS, TICKS, USES, curve

LABEL_LEFT = 700  # thousandths: further right the plan's label would leave the chart
CONTOUR_FLOPS = (1e19, 1e21, 1e23, 1e25)
NAMES = (("total", -10, 4, "end"), ("training", -4, -8, "end"), ("use", 4, -8, "start"))
PLACES: dict[str, tuple[str, float, float, str, str]] = {  # words, place, anchor, class
    "llama-7b": ("LLaMA 7B", -8, 13, "end", ""),
    "llama-13b": ("13B", 0, 18, "middle", "minor"),
    "llama-33b": ("33B", 0, 18, "middle", "minor"),
    "llama-65b": ("65B", -2, 19, "middle", "minor"),
    "llama2-7b": ("Llama 2 7B", -8, -1, "end", "minor"),
    "llama2-13b": ("13B", 0, -9, "middle", "minor"),
    "llama2-70b": ("70B", 9, -2, "start", "minor"),
    "llama3-8b": ("Llama 3 8B", -9, 4, "end", ""),
    "llama3-70b": ("70B", 0, -9, "middle", "minor"),
    "llama3.1-405b": ("405B", 9, 4, "start", ""),
    "gpt3-175b": ("GPT-3", -9, 4, "end", ""),
    "gopher-280b": ("Gopher", 9, 4, "start", "minor"),
    "chinchilla-70b": ("Chinchilla", 9, 10, "start", ""),
    "palm-540b": ("PaLM", 0, 18, "middle", ""),
    "smollm2-135m": ("SmolLM2", 9, 4, "start", "minor"),
}


def said(key: str, words: dict[str, str]) -> str:
    """Words that move with the sliders."""
    return f'<span data-say="{key}">{escape(words[key])}</span>'


def said_in_svg(key: str, words: dict[str, str]) -> str:
    """The same inside an SVG text."""
    return f'<tspan data-say="{key}">{escape(words[key])}</tspan>'


def at(x_axis: Axis, x: float, y_axis: Axis, y: float) -> charts.Point:
    """A point in thousandths."""
    return 1000 * x_axis.position(x), 1000 * y_axis.position(y)


def map_picture(facts: PlanFacts, moved: dict[str, Any]) -> str:
    """Sizes and tokens of equal loss, the best of them as use grows, published models."""
    words, dots, curves = moved["said"], moved["dots"], moved["curves"]
    frames = facts.frames
    chart = Chart(
        "map",
        "Equal loss, and the best of it",
        f"Every point of the blue curve reaches a loss of {said('loss', words)}; its thick part "
        "costs at most 10 % more than the plan. The more a model is used, the further up and left "
        "the best one lies (open circles: tokens of use).",
        frames.parameters,
        frames.tokens,
        f"parameters ({facts.question.law.counts})",
        "tokens of training",
    )
    lines, marks = _contours(facts)
    lines += path("iso", curves["iso"], "iso") + path("cheap", curves["cheap"], "cheap")
    marks += _known(facts)
    for number, used in enumerate(USES):
        inside = circle(4) + label(human_count(used), -8, -6, "end")
        marks += dot(f"use-{number}", dots[f"use-{number}"], "use", inside)
    marks += dot(
        "chinchilla",
        dots["chinchilla"],
        "other",
        circle(5) + label("least training", -8, 15, "end"),
    )
    size, usd = (said_in_svg(f"plan-{key}", words) for key in ("size", "total"))
    is_left = dots["plan"] is not None and dots["plan"][0] > LABEL_LEFT
    anchor, dx = ("end", -11) if is_left else ("start", 11)
    named = label(f'plan {size}<tspan class="minor">, {usd}</tspan>', dx, -8, anchor)
    marks += dot("plan", dots["plan"], "plan", circle(7) + named)
    return charts.figure(chart, lines, marks)


def _contours(facts: PlanFacts) -> tuple[str, str]:
    """Other losses as thin curves, each labelled at its right end."""
    law, frames = facts.question.law, facts.frames
    sizes = facts.question.choices.parameters
    lines, marks = "", ""
    for flops in CONTOUR_FLOPS:
        loss = round(law.loss(*law.optimum(flops)), 2)
        tokens = law.tokens_for(loss, sizes)
        lines += path("", curve(frames.parameters, sizes, frames.tokens, tokens), "contour")
        place = at(frames.parameters, float(sizes[-1]), frames.tokens, float(tokens[-1]))
        if np.isfinite(place[1]) and 0 <= place[1] <= 1000:
            marks += dot("", place, "contour", label(f"loss {loss:g}", 0, -5, "end"))
    return lines, marks


def _known(facts: PlanFacts) -> str:
    if facts.question.law.counts != "all":
        return ""
    marks = ""
    for name, model in KNOWN.items():
        words, dx, dy, anchor, kind = PLACES.get(name, (name, 8, 4, "start", "minor"))
        place = at(facts.frames.parameters, model.parameters, facts.frames.tokens, model.tokens)
        if all(0 <= one <= 1000 for one in place):
            inside = circle(3.5) + label(escape(words), dx, dy, anchor)
            marks += dot("", place, f"known {kind}", inside)
    return marks


def cost_picture(facts: PlanFacts, moved: dict[str, Any]) -> str:
    """Training, use and total over sizes of the same loss."""
    words, frames, curves = moved["said"], facts.frames, moved["curves"]
    chart = Chart(
        "cost",
        "What other sizes of the same loss cost",
        f"In multiples of the plan: 1 is {said('plan-total', words)} and "
        f"{said('plan-size', words)} parameters.",
        frames.times,
        frames.cost,
        f"parameters ({facts.question.law.counts})",
        "times the plan's cost",
        [(times, said_in_svg(f"tick-{times:g}", words)) for times in TICKS],
    )
    lines = "".join(
        path(f"cost-{name}", curves[f"cost-{name}"], name) for name in ("training", "use", "total")
    )
    dots, marks = moved["dots"], ""
    for name, dx, dy, anchor in NAMES:
        beside = label(name, dx, dy, anchor)
        marks += dot(f"label-{name}", dots[f"label-{name}"], f"name-{name}", beside)
    inside = circle(5) + label("Chinchilla's", 0, 20, "middle")
    marks += dot("cost-chinchilla", dots["cost-chinchilla"], "other", inside)
    here = at(frames.times, 1, frames.cost, 1)
    marks += dot("", here, "plan", circle(7) + label("plan", 0, -13, "middle"))
    return charts.figure(chart, lines, marks)


def law_picture(facts: PlanFacts, moved: dict[str, Any]) -> str:
    """The runs behind the law, its least loss for each amount of compute, and the plan."""
    law, frames, dots = facts.question.law, facts.frames, moved["dots"]
    flops = np.geomspace(frames.flops.low, frames.flops.high, 80)
    best = [law.optimum(float(each)) for each in flops]
    line = path("", _frontier(facts, law, best), "total")
    if law.draws:
        losses = np.array([[draw.loss(*each) for each in best] for draw in law.draws])
        low, high = np.quantile(losses, [0.05, 0.95], axis=0)
        bounds = (curve(frames.flops, flops, frames.loss, bound) for bound in (low, high))
        line = charts.area(*bounds) + line
    marks = _run_dots(facts)
    marks += charts.whisker("law-whisker", dots["law-low"], dots["law-high"])
    marks += dot("law-plan", dots["law-plan"], "plan", circle(6) + label("plan", 0, -12, "middle"))
    runs = f"Dots are the {len(facts.runs.runs)} runs it is fitted to. " if facts.runs else ""
    band = "; the band holds 90 % of its refits" if law.draws else ""
    chart = Chart(
        "law",
        "The law, its runs, and how far beyond them the plan lies",
        f"The line is the least loss for each amount of training{band}. {runs}A plan that is used "
        "much lies above the line: it is trained longer than is best for training alone.",
        frames.flops,
        frames.loss,
        "FLOPs of training",
        "loss, nats a token",
    )  # fmt: skip
    return charts.figure(chart, line, marks)


def _frontier(
    facts: PlanFacts, law: Law, best: Sequence[tuple[float, float]]
) -> list[charts.Point]:
    flops = [6 * parameters * tokens for parameters, tokens in best]
    losses = [law.loss(*each) for each in best]
    return curve(facts.frames.flops, flops, facts.frames.loss, losses)


def _run_dots(facts: PlanFacts) -> str:
    if facts.runs is None:
        return ""
    frames = facts.frames
    return "".join(
        f'<circle class="run" r="2" cx="{charts.percent(x)}" cy="{charts.percent(1000 - y)}"/>'
        for run in facts.runs.runs
        for x, y in [at(frames.flops, 6 * run.parameters * run.tokens, frames.loss, run.loss)]
    )


def memory_picture(moved: dict[str, Any]) -> str:
    """Bars of one device's memory: training and serving, of the plan and of Chinchilla's."""
    rows = "".join(
        _memory_row(f"{name}-{kind}", f"{kind}, {owner}", moved)
        for kind in ("training", "serving")
        for name, owner in (("plan", "this plan"), ("chinchilla", "Chinchilla's"))
    )
    key = "".join(f'<span><i class="{part}"></i>{PART_WORDS[part]}</span>' for part in PARTS)
    return f'<div class="memory">{rows}<p class="key">{key}</p></div>'


def _memory_row(key: str, title: str, moved: dict[str, Any]) -> str:
    words, (*shares, room) = moved["said"], moved["bars"][key]
    parts = "".join(
        f'<i class="{part}" style="width:{share / 10:g}%"></i>'
        for part, share in zip(PARTS, shares, strict=True)
    )
    return (
        f'<div class="row"><h3>{title} <small>{said(f"{key}-of", words)}</small></h3>'
        f'<div class="bar" id="bar-{key}" aria-hidden="true">{parts}'
        f'<s style="left:{room / 10:g}%"></s></div>'
        f"<p><b>{said(f'{key}-total', words)}</b> {said(f'{key}-parts', words)}</p></div>"
    )


# A sweep


def sweep_picture(swept: dict[str, Any]) -> str:
    """The ladder's runs with the law's curves, what it predicted, and what came out."""
    runs, truth, told = swept["runs"], swept["truth"], swept["prediction"]
    law = of_constants(*(swept["law"][name] for name in ("e", "a", "b", "alpha", "beta")))
    x = Axis(0.8 * min(run["tokens"] for run in runs), 1.6 * truth["tokens"])
    losses = [run["loss"] for run in (*runs, truth)] + [told["low"], told["high"]]
    margin = 0.05 * (max(losses) - min(losses))
    y = Axis(min(losses) - margin, max(losses) + margin, is_log=False)
    lines, marks = "", ""
    tokens = np.geomspace(x.low, truth["tokens"], 60)
    for size in sorted({_size(run, swept) for run in (*runs, truth)}):
        kind = "target" if size == _size(truth, swept) else "contour"
        values = law.loss(np.full_like(tokens, size), tokens)
        lines += path("", curve(x, tokens, y, values), kind)
        place = at(x, truth["tokens"], y, float(values[-1]))
        if kind == "contour":
            marks += dot("", place, "contour", label(human_count(size), 6))
    for run in runs:
        marks += dot("", at(x, run["tokens"], y, run["loss"]), "known", circle(3.5))
    low, high, here, real = (
        at(x, truth["tokens"], y, value)
        for value in (told["low"], told["high"], told["loss"], truth["loss"])
    )
    marks += charts.whisker("", low, high) + dot("", here, "use", circle(6))
    marks += dot("", real, "plan", circle(4) + label(human_count(_size(truth, swept)), 10, 5))
    chart = Chart(
        "sweep",
        "The ladder, and a prediction put to a test",
        "Grey dots are runs, curves the law fitted to them, one a size. For "
        f"{escape(told['name'])} it said "
        f"{told['loss']:.4f} (open circle; 95 % from {told['low']:.4f} to {told['high']:.4f}) "
        f"before that was trained; it came to {truth['loss']:.4f} (filled): "
        f"{100 * swept['error']:+.2f} % off.",
        x,
        y,
        "tokens of training",
        "held-out loss, nats a token",
    )  # fmt: skip
    return charts.figure(chart, lines, marks)


def _size(run: dict[str, Any], swept: dict[str, Any]) -> float:
    """The run's parameters, as the sweep's law counts them."""
    is_all = swept["law"]["counts"] == "all"
    return float(run["parameters"] - (0 if is_all else run["embedding_parameters"]))
