"""The plan as one HTML page that needs nothing else: no network, no fonts, no other file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from puna import page
from puna.plan.known import KNOWN
from puna.plan.law import CONSTANTS, Law
from puna.plan.question import NEAR
from puna.plan.report import sections
from puna.plan.report.axes import Axis
from puna.plan.report.controls import controls
from puna.plan.report.facts import PlanFacts
from puna.plan.report.moving import CHEAP, PART_WORDS, TICKS, USES, moving
from puna.plan.report.pictures import LABEL_LEFT, said
from puna.plan.shapes import shape_words

DIGITS = 9


def render(facts: PlanFacts) -> str:
    """The page for a plan; the same facts give the same bytes."""
    moved = moving(facts)
    train = facts.money.train
    body = [
        page.masthead(
            "plan",
            f"by the law {facts.question.law.name}",
            f"{train.devices:,} x {train.device.name}",
        ),
        _headline(facts, moved["said"]),
        _strip(moved["said"]),
        *map(page.section, sections.all_sections(facts, moved)),
        page.footer("puna plan report"),
    ]
    return page.html(
        f"plan: {moved['said']['plan-size']} parameters",
        body,
        page.resource(__package__, "page.css"),
        page.resource(__package__, "page.js"),
        data(facts),
    )


def _headline(facts: PlanFacts, words: dict[str, str]) -> str:
    return f"""<section class="headline">
<div class="verdict">
<h1 aria-live="polite">Train <strong>{said("plan-size", words)}</strong> parameters on
{said("plan-tokens", words)} tokens</h1>
<p>{said("per-parameter", words)} tokens a parameter, {said("shape", words)}: about
{said("time", words)} on {facts.money.train.devices:,} x {facts.money.train.device.name}.
{said("even", words)}</p>
</div>
{controls(facts)}
</section>"""


def _strip(words: dict[str, str]) -> str:
    cells = (
        ("plan-total", "in all"),
        ("plan-training", "for training"),
        ("plan-use", "for use"),
        ("million", "a million tokens of use"),
        ("loss", "nats a token"),
    )
    items = "".join(f"<div><dd>{said(key, words)}</dd><dt>{text}</dt></div>" for key, text in cells)
    return f'<dl class="strip">{items}</dl>'


def data(facts: PlanFacts) -> str:
    """The numbers that the script computes with, as JSON that cannot end its element."""
    question, choices = facts.question, facts.question.choices
    record = {
        "asked": asked(facts),
        "law": _constants(question.law),
        "draws": [_constants(draw) for draw in question.law.draws],
        "models": {name: [*model] for name, model in KNOWN.items()},
        "parameters": _numbers(choices.parameters),
        "training": _numbers(choices.training),
        "inference": _numbers(choices.inference),
        "days": _numbers(facts.days(config, 1.0) for config in choices.configs),
        "shapes": [shape_words(config) for config in choices.configs],
        "servesAtSamePrice": facts.serves_at_same_price,
        "keeps": _keeps(facts),
        "perToken": [_per_token(facts, *one) for one in _limits(facts) if one[0].per_token],
        "span": question.law.fitted and [*vars(question.law.fitted).values()],
        "frames": {name: _axis(axis) for name, axis in vars(facts.frames).items()},
        "laid": [vars(one) for one in facts.laid],
        "rooms": [
            facts.money.train.device.usable_bytes, facts.money.serve.device.usable_bytes
        ],
        "labelLeft": LABEL_LEFT,
        "uses": USES, "near": NEAR, "cheap": CHEAP, "ticks": TICKS,
        "parts": [*PART_WORDS.items()],
    }  # fmt: skip
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def asked(facts: PlanFacts) -> dict[str, Any]:
    """The question as the script takes it: what the sliders stand at."""
    goal = facts.question.goal
    return {
        "loss": goal.loss,
        "model": goal.as_good_as and [*goal.as_good_as],
        "budget": goal.budget_usd,
        "used": facts.question.inference_tokens,
        "price": facts.usd_per_hour,
        "share": facts.share,
    }


def _limits(facts: PlanFacts) -> list[tuple[Any, Any]]:
    choices = facts.question.choices
    return [(limit, limit.measured(choices)) for limit in facts.question.limits]


def _keeps(facts: PlanFacts) -> str:
    """A digit for each choice: 1 where it keeps to the limits that no slider moves. What cannot
    be served is told by an endless cost of use."""
    kept = np.ones(len(facts.question.choices.configs), dtype=bool)
    for limit, measured in _limits(facts):
        if not limit.per_token and limit.short != "serving":
            kept &= limit.share(measured) <= 1 + 1e-9
    return "".join("1" if one else "0" for one in kept)


def _per_token(facts: PlanFacts, limit: Any, measured: Any) -> dict[str, Any]:
    """A limit of the training tokens; `price` and `share` tell which sliders change its measure."""
    return {
        "bound": limit.bound,
        "each": _numbers(measured),
        "price": limit.short == "training",
        "share": limit.short in ("training", "days"),
    }


def _constants(law: Law) -> list[float | None]:
    return _numbers(getattr(law, name) for name in CONSTANTS)


def _axis(axis: Axis) -> list[float | bool]:
    return [axis.low, axis.high, axis.is_log]


def _numbers(values: Iterable[float]) -> list[float | None]:
    """Short numbers; None for what is endless."""
    return [
        float(f"{float(value):.{DIGITS}g}") if math.isfinite(value) else None for value in values
    ]
