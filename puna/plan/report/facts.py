"""What the page of a plan shows: question and answer, memory, the runs behind the law, a sweep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puna import schema
from puna.errors import SchemaError
from puna.model.sizes import ModelConfig
from puna.plan import advice, memory, runs, speed
from puna.plan.candidates import Money
from puna.plan.law import PUBLISHED
from puna.plan.question import Answer, Question
from puna.plan.report.axes import Frames, frames
from puna.plan.runs import Runs

SWEEP = "puna.sweep"
LAID_STEP = 24  # of the sizes, which double in as many, one is laid out on the devices


@dataclass(frozen=True)
class Laid:
    """A size on its devices: bytes of one device by what they are for, training and serving."""

    parameters: float
    training: dict[str, float]
    layout: str
    serving: dict[str, float]  # empty where no node is large enough
    group: str


@dataclass(frozen=True)
class PlanFacts:
    """All that the page shows; `swept` is the record of a sweep, if one is shown too."""

    question: Question
    answer: Answer
    money: Money
    laid: tuple[Laid, ...]
    frames: Frames
    runs: Runs | None = None
    swept: dict[str, Any] | None = None

    @property
    def share(self) -> float:
        """Of the peak that training reaches."""
        return self.money.train.device.training

    @property
    def usd_per_hour(self) -> float:
        """Of one device that trains."""
        price = self.money.train.price
        assert price is not None  # else nothing would have a cost
        return price

    @property
    def serves_at_same_price(self) -> bool:
        """Whether the devices that serve are those that train, at their price."""
        serve = self.money.serve
        return serve.device == self.money.train.device and serve.price == self.usd_per_hour

    def days(self, config: ModelConfig, tokens: float) -> float:
        """Of training."""
        who = self.money.train
        return speed.training_seconds(config, tokens, who.device, who.devices) / 86400


def gather(
    question: Question, answer: Answer, money: Money, sweep: Path | None = None
) -> PlanFacts:
    """The facts of an answer; a few seconds, for layouts of some sizes.

    Raises SchemaError for a `sweep` that is not the sweep.json of `puna plan sweep`.
    """
    swept = None if sweep is None else read_sweep(sweep)
    published = PUBLISHED.get(question.law.name)
    is_chinchillas = published is not None and published.record() == question.law.record()
    is_chinchillas &= question.law.name == "epoch"  # Hoffmann et al. fitted other readings of them
    behind = runs.chinchilla() if is_chinchillas else None
    chosen = {*range(0, len(question.choices.configs), LAID_STEP)}
    chosen |= {
        question.choices.nearest(plan.parameters) for plan in (answer.plan, answer.chinchilla)
    }
    return PlanFacts(
        question,
        answer,
        money,
        tuple(laid(question, money, index) for index in sorted(chosen)),
        frames(question, answer, behind),
        behind,
        swept,
    )


def laid(question: Question, money: Money, index: int) -> Laid:
    """One size in the fastest layout that fits the devices, or the smallest, and as it serves."""
    config = question.choices.configs[index]
    train, serve = money.train, money.serve
    best = advice.best(advice.Wish(config, train.device, train.devices))
    layout = best.run.layout
    ways = {"data": layout.data, "tensor": layout.tensor, "pipeline": layout.pipeline}
    words = [f"{name} {number}" for name, number in ways.items() if number > 1]
    words += [f"ZeRO {layout.zero}"] if layout.zero else []
    words.append(f"checkpointing {best.run.checkpointing}")
    parts, group = {}, "no node is large enough"
    if serve.groups(config, money.load):
        devices, batch = money.group(config)
        kept = batch * memory.kv_bytes(config, money.load.length)
        parts = {"weights": memory.weight_bytes(config, serve.kind) / devices, "kv": kept / devices}
        group = f"{serve.kind} on {devices}, {batch} at once"
    return Laid(
        float(question.choices.parameters[index]),
        asdict(best.memory),
        ", ".join(words),
        parts,
        group,
    )


def read_sweep(path: Path) -> dict[str, Any]:
    """The record in a sweep.json. Raises SchemaError for anything else."""
    record = schema.read_json(path, SWEEP)
    try:
        numbers = [
            record["error"],
            *(record["law"][name] for name in ("e", "a", "b", "alpha", "beta")),
            *(record["prediction"][name] for name in ("loss", "low", "high")),
            *(run[name] for run in [*record["runs"], record["truth"]]
              for name in ("parameters", "embedding_parameters", "tokens", "loss")),
            *(bound for one in record["law"]["constants"].values() for bound in one["interval"]),
            *record["errors"],
        ]  # fmt: skip
        names = [record["law"]["counts"], record["prediction"]["name"]]
        if not all(isinstance(one, int | float) for one in numbers) or not record["runs"]:
            raise TypeError("a number is none")
        if not all(isinstance(one, str) for one in names) or len(record["errors"]) != len(
            record["runs"]
        ):
            raise TypeError("a name is none")
    except (KeyError, TypeError, AttributeError) as error:
        raise SchemaError(
            f"{path} should be the sweep.json of a finished `puna plan sweep`, found a broken one: "
            f"{error}"
        ) from None
    return record
