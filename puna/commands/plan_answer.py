"""What `puna plan ask` says: advice that fits a screen, or the same as a record."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from puna.console import human_count, human_duration, table
from puna.plan.known import name_of
from puna.plan.limits import money
from puna.plan.shapes import shape_words

if TYPE_CHECKING:
    from puna.commands.plan_ask import Asked
    from puna.plan.question import Answer, Plan

DAY = 86400
SHOWN_LIMITS = 5
BINDS = 0.97  # of a limit: sizes are tried in steps of 2.8 %
COLUMNS = ("same loss", "size", "tokens", "training", "use", "total", "breaks")


def text(asked: Asked, answer: Answer) -> str:
    """The advice: what to train, what it costs beside others, how sure that is, what it assumes."""
    plan = answer.plan
    advice = (
        f"Train {human_count(plan.parameters)} parameters ({shape_words(plan.config)}) on "
        f"{human_count(plan.tokens)} tokens, {human_count(plan.tokens / plan.parameters)} a "
        "parameter."
    )
    lines = [
        textwrap.fill(advice, 80),
        "",
        table(COLUMNS, _rows(asked, answer)),
        "",
        *_quality(asked, answer),
        *_limits(answer),
        "",
        *_assumptions(asked, answer),
    ]
    lines[3:] = [textwrap.fill(line, 80, subsequent_indent="  ") for line in lines[3:]]
    return "\n".join(lines)


def _rows(asked: Asked, answer: Answer) -> Iterator[tuple[str, ...]]:
    """The plan and the others of the same loss."""
    plans = {"this plan": answer.plan}
    if answer.chinchilla != answer.plan:
        plans["Chinchilla's"] = answer.chinchilla
    model = asked.question.goal.as_good_as
    if model and answer.named and answer.named.config != answer.plan.config:
        plans[name_of(model)] = answer.named
    for name, plan in (*plans.items(), ("half of it", answer.half), ("twice it", answer.twice)):
        if plan is None:
            yield (name, "out of reach", "", "", "", "", "")
            continue
        usd = (plan.training_usd, plan.inference_usd, plan.total_usd)
        cells = [money(one) if one < math.inf else "-" for one in usd]
        counts = human_count(plan.parameters), human_count(plan.tokens)
        yield (name, *counts, *cells, ", ".join(plan.broken))


def _quality(asked: Asked, answer: Answer) -> Iterator[str]:
    """The loss, how sure it all is, and when the plan has paid back."""
    band, plan = answer.band, answer.plan
    between = f" ({band.loss[0]:.3f} to {band.loss[1]:.3f})" if band else ""
    yield f"Loss {plan.loss:.3f}{between} nats a token by the law {asked.law.name}."
    if band and band.unanswered < 1:
        sizes, tokens, usd = map(_span, (band.parameters, band.tokens, band.total_usd))
        yield f"90 % of refits: {sizes} on {tokens} tokens for ${usd}."
    if band and band.unanswered:
        yield f"By {band.unanswered:.0%} of the refits nothing keeps to the limits."
    yield from _beside_chinchilla(asked, answer)


def _beside_chinchilla(asked: Asked, answer: Answer) -> Iterator[str]:
    """From how much use on the plan is the cheaper one."""
    used, goal = asked.money.load.tokens, asked.question.goal
    if answer.plan == answer.chinchilla:
        why = "" if used else ": no use is expected (--inference-tokens)"
        yield f"It is Chinchilla's, the least training{why}."
    elif answer.chinchilla.inference_usd == math.inf:
        yield f"Chinchilla's is too large for one node of {asked.money.serve.device.name}."
    elif not used:
        yield "No use is expected: --inference-tokens or --requests-a-day says how much."
    elif answer.break_even_tokens is not None:
        even = human_count(answer.break_even_tokens)
        yield f"It beats Chinchilla's from {even} tokens of use; {human_count(used)} are expected."
    if used and goal.target(asked.law) is None and goal.budget_usd is None:
        yield "Use is not made cheap here: --budget is for training and use together."


def _span(bounds: tuple[float, float]) -> str:
    low, high = map(human_count, bounds)
    return low if low == high else f"{low} to {high}"


def _limits(answer: Answer) -> Iterator[str]:
    """What it takes of the limits, the tightest first: of those asked for, and others that bind."""
    told = [one for one in answer.kept if one.asked or one.share >= BINDS]
    for one in sorted(told, key=lambda one: -one.share)[:SHOWN_LIMITS]:
        yield f"Keeps to {one.bound} {one.label}: {one.value}."


def _assumptions(asked: Asked, answer: Answer) -> Iterator[str]:
    """What the numbers rest on."""
    from puna.plan import speed

    train, serve, load = asked.money.train, asked.money.serve, asked.money.load
    plan = answer.plan
    seconds = speed.training_seconds(plan.config, plan.tokens, train.device, train.devices)
    yield (
        f"assumes {human_duration(seconds)} on {train.devices} x {train.device.name} at "
        f"${train.price:.2f} an hour, {train.device.training:.0%} of their peak"
    )
    if load.tokens:
        devices, batch = asked.money.group(plan.config)
        million = 1e6 * plan.inference_usd / load.tokens
        yield (
            f"  served in {serve.kind} on {devices} x {serve.device.name}, {batch} at once, "
            f"{serve.busy:.0%} busy: ${million:.3g}/M tokens"
        )
        yield (
            f"  {human_count(load.tokens)} tokens of use, {load.prompt:,} read and "
            f"{load.output:,} written a request"
        )
    yield f"  {asked.law.source}"


def record(asked: Asked, answer: Answer) -> dict[str, Any]:
    """Everything that is said, in full digits."""
    found = asdict(answer)
    for name in ("plan", "chinchilla", "half", "twice", "named"):
        plan: Plan | None = getattr(answer, name)
        if plan is not None:
            usd = {"inference_usd": plan.inference_usd, "total_usd": plan.total_usd}
            found[name] |= {key: one if one < math.inf else None for key, one in usd.items()}
    money = asked.money
    return {
        **found,
        "law": asked.law.record(),
        "load": asdict(money.load),
        "training": {"device": money.train.device.name, "devices": money.train.devices},
        "serving": {"device": money.serve.device.name, "kind": money.serve.kind},
    }
