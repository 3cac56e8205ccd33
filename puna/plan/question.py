"""Which model should be trained, if it also has to be run?

Chinchilla asks for the least loss of a training compute. Here the bill has two parts (LLaMA's
introduction; Sardana et al. 2024, arXiv 2401.00448):

    cost = training(N) · D + inference(N) · tokens of its life        least, for a loss
    or the least loss for a cost

over real shapes, with what every token really costs on the devices at hand, within limits. Each
shape's D follows from the loss or from what money is left, so nothing is searched but the shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from puna.console import human_count
from puna.errors import ConfigError
from puna.model.sizes import ModelConfig
from puna.plan.candidates import Choices
from puna.plan.known import Trained
from puna.plan.law import PUBLISHED, SUSPECT, FloatArray, Law
from puna.plan.limits import SERVING, Limit, money

ROUNDING = 1e-9  # by which a share of exactly 1 may be computed too large
COVERAGE = 0.9  # of the draws, in every interval of an answer
NEAR = 0.2  # of a logarithm: as far may a size be from one that is asked about


@dataclass(frozen=True)
class Goal:
    """A loss to reach, or a model to be as good as (by the same law); or the most money in all.

    With a loss and money, money is a limit. With neither loss nor money the limits must bound
    the training, and the least loss within them is wanted.
    """

    loss: float | None = None
    as_good_as: Trained | None = None
    budget_usd: float | None = None

    def target(self, law: Law) -> float | None:
        """The loss to reach under a law; None where the least one is wanted."""
        return law.loss(*self.as_good_as) if self.as_good_as else self.loss


@dataclass(frozen=True)
class Question:
    """All that decides an answer: the law, what is wanted, how much it will be used, what each
    shape costs, and what it must keep to."""

    law: Law
    goal: Goal
    choices: Choices
    inference_tokens: float = 0.0
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One model: its shape, parameters as the law counts them, training tokens, loss, money.

    `inference_usd` is infinite for a model that one node cannot serve.
    """

    config: ModelConfig
    parameters: float
    tokens: float
    loss: float
    training_usd: float
    inference_usd: float
    broken: tuple[str, ...] = ()  # limits that it does not keep to, a word for each

    @property
    def total_usd(self) -> float:
        """Training and inference."""
        return self.training_usd + self.inference_usd


@dataclass(frozen=True)
class Kept:
    """A limit, and what the answer takes of it."""

    label: str
    value: str
    bound: str
    share: float
    asked: bool


@dataclass(frozen=True)
class Band:
    """What the laws of runs drawn again say: intervals that hold 90 % of them.

    `loss` is that of the answer itself; the others are of the best plan under each law.
    `unanswered` is the share of laws under which nothing keeps to the limits.
    """

    loss: tuple[float, float]
    parameters: tuple[float, float]
    tokens: tuple[float, float]
    total_usd: tuple[float, float]
    unanswered: float


@dataclass(frozen=True)
class Answer:
    """The best plan, beside others of the same loss; None where no such size reaches it."""

    plan: Plan
    chinchilla: Plan  # least training: free of limits, and whether or not it can be served
    half: Plan | None
    twice: Plan | None
    named: Plan | None  # the size nearest to the model to be as good as
    break_even_tokens: float | None  # of inference, from which on the plan beats Chinchilla's
    kept: tuple[Kept, ...]
    band: Band | None  # None where the law has no draws
    warnings: tuple[str, ...]


def answer(question: Question) -> Answer:
    """The best plan for the question, with its alternatives, its uncertainty and its warnings.

    Raises ConfigError where nothing does: it says which limits are to blame, and by how much.
    """
    goal, law, choices = question.goal, question.law, question.choices
    target = goal.target(law)
    if target is not None and target <= law.e:
        law.cheapest(target)  # raises
    problem = _Problem(question)
    best = problem.best(law)
    if best is None:
        raise ConfigError(problem.reasons(law), hint="relax what you can, or ask for less")
    index, tokens = best
    plan = problem.plan(index, tokens, law)
    same_loss = law.tokens_for(plan.loss, choices.parameters)
    trained = problem.least_training(same_loss)
    chinchilla = plan if trained == index else problem.plan(trained, same_loss[trained], law)
    half, twice = (problem.beside(plan.parameters * times, same_loss, law) for times in (0.5, 2))
    model = goal.as_good_as
    return Answer(
        plan=plan,
        chinchilla=chinchilla,
        half=half,
        twice=twice,
        named=problem.beside(model.parameters, same_loss, law) if model else None,
        break_even_tokens=problem.break_even(plan, index, chinchilla, trained),
        kept=problem.kept(index, tokens),
        band=problem.band(plan, law.draws) if law.draws else None,
        warnings=tuple(_warnings(question, plan, index)),
    )


def _warnings(question: Question, plan: Plan, index: int) -> list[str]:
    """Why not to believe every digit."""
    law, found = question.law, []
    beyond = law.fitted.outside(plan.parameters, plan.tokens) if law.fitted else []
    if beyond:
        found.append(f"extrapolated beyond the runs behind the law {law.name}: {', '.join(beyond)}")
    if law.fitted and plan.tokens / plan.parameters > law.fitted.tokens_per_parameter[1]:
        found.append(
            "laws of shorter training promise too much of so long a one (arXiv 2401.00448)"
        )
    if law.name in SUSPECT and law.record() == PUBLISHED[law.name].record():
        found.append(f"the law {law.name} is suspect: {SUSPECT[law.name]}")
    if not law.draws:
        found.append(f"no intervals: the law {law.name} comes without refits")
    if index in (0, len(question.choices.configs) - 1):
        found.append(f"the {'smallest' if index == 0 else 'largest'} size that was tried")
    return found


@dataclass(frozen=True)
class _Row:
    """Something that every choice must keep to, with each one's share of it [choices]."""

    short: str
    label: str
    share: FloatArray
    values: FloatArray
    bound: float
    show: Callable[[float], str]
    is_least: bool = False  # the bound is a lower one
    of_tokens: bool = False  # it depends on the training tokens

    def said(self, index: int, size: float) -> str:
        """How far one choice is from the bound."""
        best, bound = self.show(float(self.values[index])), self.show(self.bound)
        wanted = "asked for" if self.is_least else "allowed"
        return (
            f"{self.label}: {best} at best (by {human_count(size)}), {bound} {wanted}: "
            f"{human_count(self.share[index])} times {'short' if self.is_least else 'over'}"
        )


class _Problem:
    """A question with what does not change between laws worked out once."""

    def __init__(self, question: Question) -> None:
        self.goal, self.limits, self.choices = question.goal, question.limits, question.choices
        self.measured = [limit.measured(self.choices) for limit in self.limits]
        used = question.inference_tokens
        self.lifetime_usd = self.choices.inference * used if used else 0 * self.choices.training

    def tokens(self, law: Law) -> FloatArray:
        """Training tokens of each choice: those the loss takes, or all that can be had [choices].

        Raises ConfigError where neither a loss nor money nor a limit bounds them.
        """
        target = self.goal.target(law)
        if target is not None:
            return law.tokens_for(target, self.choices.parameters)
        tokens = self.most_tokens()
        if not np.isfinite(tokens).any():
            raise ConfigError(
                "nothing bounds the training: neither a loss to reach nor money, days or data",
                hint="a loss, a model to be as good as, or a budget",
            )
        return tokens

    def most_tokens(self) -> FloatArray:
        """Training tokens that money and limits leave each choice, infinite without any."""
        tokens = np.full_like(self.choices.parameters, math.inf)
        if self.goal.budget_usd is not None:
            tokens = (self.goal.budget_usd - self.lifetime_usd) / self.choices.training
        for limit, each in zip(self.limits, self.measured, strict=True):
            tokens = np.minimum(tokens, limit.bound / each) if limit.per_token else tokens
        return np.maximum(tokens, 0.0)

    def rows(self, law: Law, tokens: FloatArray) -> list[_Row]:
        """What each choice must keep to with so many tokens."""
        rows, budget = [], self.goal.budget_usd
        if budget is not None:
            usd = self.lifetime_usd + self.choices.training * tokens
            rows.append(
                _Row("budget", "money in all", usd / budget, usd, budget, money, of_tokens=True)
            )
        for limit, each in zip(self.limits, self.measured, strict=True):
            values = each * tokens if limit.per_token else each
            rows.append(
                _Row(
                    limit.short,
                    limit.label,
                    limit.share(values),
                    values,
                    limit.bound,
                    limit.show,
                    is_least=limit.at_least,
                    of_tokens=limit.per_token,
                )
            )
        return rows

    def best(self, law: Law) -> tuple[int, float] | None:
        """The choice and its tokens: the cheapest that reaches the loss, or the one of least loss;
        None where none keeps to the limits."""
        tokens = self.tokens(law)
        kept = np.isfinite(tokens + self.lifetime_usd) & (tokens > 0)
        for row in self.rows(law, tokens):
            kept &= row.share <= 1 + ROUNDING
        if not kept.any():
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.goal.target(law) is None:
                score = law.loss(self.choices.parameters, tokens)
            else:
                score = self.choices.training * tokens + self.lifetime_usd
        index = int(np.where(kept, score, math.inf).argmin())
        return index, float(tokens[index])

    def plan(self, index: int, tokens: float, law: Law) -> Plan:
        """One choice trained on so many tokens."""
        size, tokens = float(self.choices.parameters[index]), float(tokens)
        rows = self.rows(law, np.full_like(self.choices.parameters, tokens))
        return Plan(
            config=self.choices.configs[index],
            parameters=size,
            tokens=tokens,
            loss=law.loss(size, tokens),
            training_usd=float(self.choices.training[index] * tokens),
            inference_usd=float(self.lifetime_usd[index]),
            broken=tuple(row.short for row in rows if 1 + ROUNDING < row.share[index] < math.inf),
        )

    def beside(self, parameters: float, tokens: FloatArray, law: Law) -> Plan | None:
        """The choice of about so many parameters on so many tokens [choices]; None where none is
        near, or it takes endless data."""
        index = self.choices.nearest(parameters)
        is_near = abs(math.log(self.choices.parameters[index] / parameters)) < NEAR
        if not is_near or tokens[index] == math.inf:
            return None
        return self.plan(index, tokens[index], law)

    def least_training(self, tokens: FloatArray) -> int:
        """The choice that costs least to train on so many tokens [choices]."""
        return int((self.choices.training * tokens).argmin())

    def break_even(self, plan: Plan, index: int, other: Plan, other_index: int) -> float | None:
        """Tokens of use from which on the plan costs less than the other; None where it never or
        always does."""
        use, other_use = (self.choices.inference[one] for one in (index, other_index))
        if not use < other_use < math.inf:
            return None
        return float((plan.training_usd - other.training_usd) / (other_use - use))

    def kept(self, index: int, tokens: float) -> tuple[Kept, ...]:
        """Each limit with what the choice takes of it."""
        found = []
        if (most := self.goal.budget_usd) is not None:
            usd = self._total(index, tokens)
            found.append(Kept("in all", money(usd), money(most), usd / most, asked=True))
        for limit, each in zip(self.limits, self.measured, strict=True):
            value = each[index : index + 1] * (tokens if limit.per_token else 1)
            share = float(limit.share(value)[0])
            shown = limit.show(float(value[0])), limit.show(limit.bound)
            found.append(Kept(limit.label, *shown, share, limit.asked))
        return tuple(found)

    def reasons(self, law: Law) -> str:
        """Why nothing keeps to all limits: each that alone is in the way, and by how much; else
        what the nearest miss breaks."""
        tokens = self.tokens(law)
        rows, sizes = self.rows(law, tokens), self.choices.parameters
        alone = self._least_loss(law)
        for row in rows:
            others = [one.share <= 1 + ROUNDING for one in rows if one is not row]
            usd = tokens if row.short == SERVING else tokens + self.lifetime_usd
            keeps = np.all([np.isfinite(usd), *others], axis=0)
            index = int(np.where(keeps, row.share, math.inf).argmin())
            if keeps[index] and math.isfinite(row.share[index]):
                alone.append((float(row.share[index]), row.said(index, float(sizes[index]))))
        head = "no model keeps to all that is asked; "
        found = []
        if alone:
            lines = [line for _share, line in sorted(alone)]
            found = [f"{head}any one of these, relaxed, would do:", *lines]
        index = int(np.max([0 * sizes, *(row.share for row in rows)], axis=0).argmin())
        broken = [row for row in rows if row.share[index] > 1 + ROUNDING]
        missed = [row.said(index, float(sizes[index])) for row in broken]
        if not alone:
            missed = missed or ["what could reach it is too large for one node that serves"]
            found = [f"{head}the nearest miss:", *missed]
        elif len(missed) > 1:
            found = ["\n".join(["\n  - ".join(found), "or all of these:"]), *missed]
        return "\n  - ".join(found)

    def _least_loss(self, law: Law) -> list[tuple[float, str]]:
        """How far the wanted loss is from the least within the limits, as a share and in words."""
        target, tokens = self.goal.target(law), self.most_tokens()
        rows = [row.share <= 1 + ROUNDING for row in self.rows(law, tokens) if not row.of_tokens]
        keeps = np.all([tokens > 0, np.isfinite(self.lifetime_usd), *rows], axis=0)
        with np.errstate(divide="ignore"):
            losses = np.where(keeps, law.loss(self.choices.parameters, tokens), math.inf)
        index = int(losses.argmin())
        if target is None or not target < losses[index] < math.inf:
            return []
        amount = human_count(tokens[index]) if np.isfinite(tokens[index]) else "endless"
        return [
            (
                float(losses[index] / target),
                f"a loss of {target:.4g}: {losses[index]:.4g} at best (by "
                f"{human_count(self.choices.parameters[index])} on {amount} tokens)",
            )
        ]

    def band(self, plan: Plan, draws: Sequence[Law]) -> Band:
        """What the laws of runs drawn again say of the plan, and would plan themselves."""
        others = [self.best(draw) for draw in draws]
        found = [
            (float(self.choices.parameters[index]), tokens, self._total(index, tokens))
            for index, tokens in (one for one in others if one is not None)
        ]
        columns = np.array(found).T if found else np.full((3, 1), math.nan)
        sizes, tokens, totals = (_interval(values) for values in columns)
        losses = np.array([draw.loss(plan.parameters, plan.tokens) for draw in draws])
        return Band(_interval(losses), sizes, tokens, totals, 1 - len(found) / len(draws))

    def _total(self, index: int, tokens: float) -> float:
        return float(self.choices.training[index] * tokens + self.lifetime_usd[index])


def _interval(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
