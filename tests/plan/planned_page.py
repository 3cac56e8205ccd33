"""A plan's facts for tests of its page: questions in plain values, few sizes laid out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from puna.plan import candidates, devices, limits, question
from puna.plan.known import KNOWN
from puna.plan.law import Counts, named
from puna.plan.report import PlanFacts, gather

DEVICE, DEVICES = "A100-80GB", 256
SHARE = devices.device(DEVICE).training


@dataclass(frozen=True)
class State:
    """What the sliders stand at, and the limits that no slider moves."""

    loss: float | None = None
    model: str | None = None
    budget: float | None = None
    used: float = 2e12
    price: float = 2.0
    share: float = SHARE
    days: float | None = None
    training_budget: float | None = None
    law: str = "epoch"
    on: str | None = None  # a device that must hold it, and read a prompt in half a second
    serve: str = DEVICE
    counts: Counts = "all"

    def script(self) -> dict[str, Any]:
        """The same as the page's script has it."""
        model = KNOWN[self.model] if self.model else None
        names = ("loss", "budget", "used", "price", "share")
        return {
            "model": model and [*model],
            **{name: getattr(self, name) for name in names},
        }

    def money(self) -> candidates.Money:
        """Who trains and serves, at the same price."""
        device = devices.device(DEVICE)
        training = candidates.Training(replace(device, training=self.share), DEVICES, self.price)
        load = candidates.Load(self.used)
        serving = candidates.Serving(devices.device(self.serve), self.price)
        if self.serve != DEVICE:  # at its own price, which no slider moves
            serving = replace(serving, usd_per_hour=None)
        return candidates.Money(training, serving, load)

    def question(self) -> question.Question:
        """As `puna plan ask` would put it."""
        money = self.money()
        found = [limits.data()]
        if self.days is not None:
            found.append(limits.days(money.train, self.days))
        if self.training_budget is not None:
            found.append(limits.training_money(money.training, self.training_budget))
        if self.used:
            found.append(limits.servable(money.serve, money.load))
        if self.on is not None:
            home = limits.Home(self.on, devices.device(self.on).usable_bytes)
            device = devices.device(self.on)
            found += [
                limits.fits(home, money.load),
                limits.first_token(device, "Q4_0", money.load, 0.5),
            ]
        goal = question.Goal(self.loss, KNOWN[self.model] if self.model else None, self.budget)
        law = replace(named(self.law), counts=self.counts)
        choices = candidates.choices(money, law.counts)
        return question.Question(law, goal, choices, self.used, tuple(found))

    def facts(self) -> PlanFacts:
        """What its page shows."""
        asked = self.question()
        return gather(asked, question.answer(asked), self.money())

    def moved(self, page: PlanFacts) -> PlanFacts:
        """What the page of another state shows once its sliders stand here."""
        asked = self.question()
        found = question.answer(asked)
        return replace(page, question=asked, answer=found, money=self.money())
