"""The sliders, which a script brings to life; without one they are not shown."""

from __future__ import annotations

import math
from html import escape

from puna.console import human_count
from puna.plan.known import KNOWN
from puna.plan.report.facts import PlanFacts

LEAST_USE, MOST_USE = 8.0, 14.0  # powers of ten; the slider's left end is no use at all
TIMES_PRICE, TIMES_BUDGET = 8.0, 1000.0
LEAST_SHARE, MOST_SHARE = 0.05, 0.8
EASIEST_FLOPS, HARDEST_FLOPS = 1e18, 1e27


def controls(facts: PlanFacts) -> str:
    """A form of sliders at what was asked, hidden until the script shows it."""
    train = facts.money.train.device.name
    price, share = facts.usd_per_hour, facts.share
    used = facts.question.inference_tokens
    most = max(MOST_USE, math.log10(used) if used else 0.0)
    low, high = math.log10(price / TIMES_PRICE), math.log10(price * TIMES_PRICE)
    who = "that trains or serves" if facts.serves_at_same_price else "that trains"
    rows = [
        *_goal(facts),
        _slider(
            "used", "Tokens of use in its life", LEAST_USE, most,
            math.log10(used) if used else LEAST_USE,
        ),
        _slider("price", f"USD an hour of one {train} {who}", low, high, math.log10(price)),
        _slider(
            "share", "Share of the peak that training reaches (MFU)",
            min(LEAST_SHARE, share), max(MOST_SHARE, share), share,
        ),
    ]  # fmt: skip
    return f"""<form class="controls" id="controls" hidden>
<h2>What if</h2>
{"".join(rows)}
<p class="impossible" id="impossible" role="status"></p>
<button type="reset">As it was asked</button>
</form>
<noscript><p class="soft">This is the answer as it was asked; its sliders need JavaScript.</p>
</noscript>"""


def _goal(facts: PlanFacts) -> list[str]:
    """What is aimed at: a loss, or money; nothing where the limits alone decide."""
    goal, law = facts.question.goal, facts.question.law
    target = goal.target(law)
    if target is None:
        if goal.budget_usd is None:
            return []
        middle, wide = math.log10(goal.budget_usd), math.log10(TIMES_BUDGET)
        words = "USD for training and use"
        return [_slider("budget", words, middle - wide, middle + wide, middle)]
    low = min(target, law.loss(*law.optimum(HARDEST_FLOPS)))
    high = max(target, law.loss(*law.optimum(EASIEST_FLOPS)))
    slider = _slider("loss", "Loss to reach, nats a token", low, high, target)
    if law.counts != "all":
        return [slider]
    options = "".join(
        f'<option value="{escape(name)}"{" selected" if model == goal.as_good_as else ""}>'
        f"{escape(name)}</option>"
        for name, model in KNOWN.items()
    )
    named = goal.as_good_as
    if named is not None and named not in KNOWN.values():
        words = f"{human_count(named[0])} on {human_count(named[1])}"
        options = f'<option value="asked" selected>{words}</option>{options}'
    own = "" if named else " selected"
    return [
        f'<label for="model">As good as</label><select id="model"><option value=""{own}>'
        f"the loss set below</option>{options}</select>",
        slider,
    ]


def _slider(key: str, words: str, low: float, high: float, value: float) -> str:
    return (
        f'<label for="{key}">{escape(words)}</label><div class="slide"><input type="range" '
        f'id="{key}" min="{low:.6g}" max="{high:.6g}" step="any" value="{value:.6g}">'
        f'<output for="{key}" id="{key}-said"></output></div>'
    )
