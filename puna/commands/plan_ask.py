"""`puna plan ask`: which model to train, if it also has to be run."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from puna.commands import plan_run
from puna.console import Console, parse_count
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.plan.candidates import Load, Money
    from puna.plan.devices import Device
    from puna.plan.law import Law
    from puna.plan.limits import Home, Limit
    from puna.plan.question import Question

KINDS = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
WHICH_MODEL = (
    "loss", "as_good_as", "budget", "training_budget", "training_days", "most_tokens",
)  # fmt: skip
CHOSEN_MODEL = (
    "tokens", "batch_tokens", "context", "micro_batch", "precision", "compile", "checkpointing",
    "tensor", "pipeline", "zero",
)  # fmt: skip
LEAST_VOCABULARY, MOST_VOCABULARY = 2_000, 1_000_000
MOST_SHARING = 128  # heads: more than any model's
DAYS_OF_A_YEAR = 365.25
DEVICES = "256xA100-80GB"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna plan ask`."""
    parser.description = (
        "Which model to train, on how much data, for how much money, if it also has to be run:\n"
        "the cheapest that reaches a loss, or the best for a budget. Costs are those of the\n"
        "devices: training and reading at shares of their peak, writing at that of their memory.\n"
        "With --model: whether one that is chosen already fits, how long it takes, what it costs."
    )
    add_question_arguments(parser)
    plan_run.add_run_arguments(parser)
    parser.epilog = """examples:
  puna plan ask --as-good-as llama-13b --inference-tokens 2T
  puna plan ask --budget 1M --requests-a-day 500k --years 2 --devices 128xH100-SXM
  puna plan ask --as-good-as llama-7b --inference-tokens 1T --on RTX-4090 \\
      --first-token 200ms --tokens-per-second 20
  puna plan ask --training-budget 300 --devices 8xH100-SXM --law law.json
  puna plan ask --model 7B --devices 8xA100-80GB"""


def add_question_arguments(parser: argparse.ArgumentParser) -> None:
    """All that says what is wanted, with what, for what use and within which limits."""
    _goal(parser.add_argument_group("what is wanted (one of the first three, or a bound)"))
    _use(parser.add_argument_group("how much it will be used"))
    _devices(parser.add_argument_group("who trains and serves"))
    _limits(parser.add_argument_group("what it must keep to"))


def _goal(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--as-good-as", metavar="MODEL",
        help="llama-7b to llama-65b, chinchilla-70b, gpt3-175b, ...; or PARAMETERS@TOKENS",
    )  # fmt: skip
    group.add_argument("--loss", type=float, metavar="NATS", help="a token, on the law's text")
    group.add_argument("--budget", metavar="USD", help="for training and use together")
    group.add_argument("--training-budget", metavar="USD", help="the most for training")
    group.add_argument("--training-days", type=float, metavar="DAYS", help="the most of training")
    group.add_argument("--most-tokens", metavar="N", help="the most text (300T: all)")
    group.add_argument(
        "--vocabulary", type=int, default=32000, metavar="N", help="tokens the model knows"
    )
    group.add_argument(
        "--gqa", type=int, default=1, metavar="N",
        help="most heads that share keys and values; 1: none",
    )  # fmt: skip
    group.add_argument(
        "--law", default="epoch", metavar="NAME|FILE",
        help="epoch, hoffmann, hoffmann-printed, or a file of puna plan fit --save",
    )  # fmt: skip


def _use(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--inference-tokens", metavar="N", help="read and written in its whole life (0)"
    )
    group.add_argument("--requests-a-day", metavar="N", help="instead, with --years")
    group.add_argument("--years", type=float, default=2.0, metavar="Y", help="its life")
    group.add_argument(
        "--prompt", type=int, default=1000, metavar="N", help="tokens read a request"
    )
    group.add_argument(
        "--output", type=int, default=250, metavar="N", help="tokens written a request"
    )


def _devices(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--devices", default=DEVICES, metavar="NxNAME", help="that train")
    group.add_argument("--usd-per-hour", type=float, metavar="USD", help="of one (the table's)")
    group.add_argument("--serve-on", metavar="NAME", help="one that serves (as those that train)")
    group.add_argument("--serve-usd-per-hour", type=float, metavar="USD", help="of one that serves")
    group.add_argument(
        "--serve-weights", choices=KINDS, default="bf16", help="their type while serving"
    )
    group.add_argument(
        "--serve-batch", type=int, default=64, metavar="N", help="the most requests at once"
    )
    group.add_argument(
        "--serve-busy", type=float, default=0.5, metavar="SHARE", help="of the hours that are paid"
    )


def _limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--on", metavar="NAME", help="a device that must hold and run it: RTX-4090, 24GB, this"
    )
    group.add_argument("--on-weights", choices=KINDS, default="int4", help="their type there")
    group.add_argument("--first-token", metavar="SECONDS", help="the most: 0.2 or 200ms")
    group.add_argument("--tokens-per-second", type=float, metavar="N", help="the least, of one")


@dataclass(frozen=True)
class Asked:
    """The arguments as the planner takes them."""

    question: Question
    money: Money

    @property
    def law(self) -> Law:
        """The one that the question goes by."""
        return self.question.law


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the plan, its alternatives and what it assumes; of a chosen model, what it takes.

    Raises ConfigError where nothing keeps to the limits, UsageError for wrong arguments.
    """
    wanted, chosen = (_given(arguments, names) for names in (WHICH_MODEL, CHOSEN_MODEL))
    if arguments.model is not None:
        if wanted:
            raise UsageError(f"{wanted} asks which model to train, --model has chosen one")
        return plan_run.run(arguments, console)
    if chosen:
        raise UsageError(f"{chosen} is of a model that is chosen already: --model names it")
    from puna.commands import plan_answer
    from puna.plan import question

    asked = read(arguments)
    found = question.answer(asked.question)
    for warning in found.warnings:
        console.warn(warning)
    console.result(plan_answer.record(asked, found), plan_answer.text(asked, found))
    return 0


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> str | None:
    """The first option of these that was given."""
    given = (name for name in names if getattr(arguments, name) is not None)
    return next((f"--{name.replace('_', '-')}" for name in given), None)


def read(arguments: argparse.Namespace) -> Asked:
    """Read every argument. Raises UsageError for those that contradict each other."""
    from puna.plan import candidates
    from puna.plan.candidates import Money, Serving, Training
    from puna.plan.known import known
    from puna.plan.question import Goal, Question

    if _given(arguments, WHICH_MODEL) is None:
        raise UsageError(
            "puna plan ask wants something to aim at: a model to be as good as, a loss, a budget",
            hint="puna plan ask --as-good-as llama-13b --inference-tokens 2T",
        )
    if arguments.loss is not None and arguments.as_good_as:
        raise UsageError("--loss and --as-good-as both name a loss", hint="leave one out")
    law, wanted = _law(arguments.law), arguments.as_good_as
    if wanted and "@" not in wanted and law.counts != "all":
        raise UsageError(
            f"the law {law.name} counts parameters {law.counts}, those of {wanted} are all of them",
            hint="--as-good-as PARAMETERS@TOKENS, as the law counts them",
        )
    model = known(wanted) if wanted else None
    goal = Goal(_amount(arguments, "loss"), model, _amount(arguments, "budget"))
    devices, device = _found(arguments.devices)
    served = device if arguments.serve_on is None else _found(arguments.serve_on)[1]
    price, served_price = (_amount(arguments, n) for n in ("usd_per_hour", "serve_usd_per_hour"))
    if served_price is None and arguments.serve_on is None:
        served_price = price
    serving = Serving(
        served,
        served_price,
        KINDS[arguments.serve_weights],
        int(_needed(arguments, "serve_batch")),
        _needed(arguments, "serve_busy", most=1),
    )
    money = Money(Training(device, devices, price), serving, _load(arguments))
    limits = _all_limits(arguments, money)
    group = int(_needed(arguments, "gqa", most=MOST_SHARING))
    shapes = candidates.family(_vocabulary(arguments.vocabulary), group)
    choices = candidates.choices(money, law.counts, shapes)
    return Asked(Question(law, goal, choices, money.load.tokens, limits), money)


def _law(name: str) -> Law:
    from puna.plan import law

    return law.load(Path(name)) if Path(name).is_file() else law.named(name)


def _load(arguments: argparse.Namespace) -> Load:
    """The life's tokens. Raises UsageError where two arguments say them."""
    from puna.plan.candidates import Load

    prompt, output = (int(_needed(arguments, name)) for name in ("prompt", "output"))
    tokens = parse_count(arguments.inference_tokens or "0")
    if arguments.requests_a_day is not None:
        if arguments.inference_tokens is not None:
            raise UsageError(
                "--inference-tokens and --requests-a-day both say how much it will be used",
                hint="leave one out",
            )
        requests = parse_count(arguments.requests_a_day) * DAYS_OF_A_YEAR
        tokens = requests * _needed(arguments, "years") * (prompt + output)
    return Load(tokens, prompt, output)


def _all_limits(arguments: argparse.Namespace, money: Money) -> tuple[Limit, ...]:
    """Those of the arguments, and that one node can serve the model if it is used at all."""
    from puna.plan import limits

    found = [*_at_home(arguments, money)]
    found.append(limits.data(_amount(arguments, "most_tokens") or limits.ALL_TEXT_TOKENS))
    if (days := _amount(arguments, "training_days")) is not None:
        found.append(limits.days(money.train, days))
    if (usd := _amount(arguments, "training_budget")) is not None:
        found.append(limits.training_money(money.training, usd))
    if money.load.tokens:
        found.append(limits.servable(money.serve, money.load))
    return tuple(found)


def _at_home(arguments: argparse.Namespace, money: Money) -> list[Limit]:
    """Limits of the device that must run it; of the serving one where none is named."""
    from puna.plan import limits

    home = _home(arguments.on, KINDS[arguments.on_weights]) if arguments.on else None
    device = home.device if home else money.serve.device
    kind = home.kind if home else money.serve.kind
    found = [limits.fits(home, money.load)] if home else []
    least = _amount(arguments, "tokens_per_second")
    if arguments.first_token is None and least is None:
        return found
    if device is None:
        raise UsageError(
            f"--first-token and --tokens-per-second need a device, --on {arguments.on} is none",
            hint="--on RTX-4090, or --on this",
        )
    if arguments.first_token is not None:
        seconds = _seconds(arguments.first_token)
        found.append(limits.first_token(device, kind, money.load, seconds))
    if least is not None:
        found.append(limits.decoding(device, kind, money.load, least))
    return found


def _home(name: str, kind: str) -> Home:
    """The device of `--on`, or an amount of memory in GB or GiB."""
    from puna.plan.limits import Home

    amount = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|GiB)", name, re.IGNORECASE)
    if amount and float(amount[1]) > 0:
        unit = 1e9 if amount[2].lower() == "gb" else 2**30
        return Home(name, float(amount[1]) * unit, None, kind)
    _number, device = _found(name)
    return Home(device.name, device.usable_bytes, device, kind)


def _found(text: str) -> tuple[int, Device]:
    """The count and the device of such a text; this machine by no longer name."""
    from puna.commands import plan_devices

    number, device = plan_devices.find(text)
    is_here = text.lower() in plan_devices.HERE
    return number, replace(device, name="this machine") if is_here else device


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|)", text)
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"--first-token should be seconds, such as 0.2 or 200ms, got {text!r:.40}")
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def _amount(arguments: argparse.Namespace, name: str, most: float = float("inf")) -> float | None:
    """An argument as a number above 0, None where it was not given. Raises UsageError."""
    value = getattr(arguments, name)
    if value is None:
        return None
    number = parse_count(value) if isinstance(value, str) else float(value)
    if not 0 < number <= most or math.isinf(number):
        option = f"--{name.replace('_', '-')}"
        bound = "" if math.isinf(most) else f" and at most {most:g}"
        raise UsageError(f"{option} should be above 0{bound}, got {value}")
    return number


def _needed(arguments: argparse.Namespace, name: str, most: float = float("inf")) -> float:
    """The same of an argument that has a default."""
    number = _amount(arguments, name, most)
    assert number is not None
    return number


def _vocabulary(size: int) -> int:
    if not LEAST_VOCABULARY <= size <= MOST_VOCABULARY:
        raise UsageError(
            f"--vocabulary should be {LEAST_VOCABULARY:,} to {MOST_VOCABULARY:,}, got {size:,}"
        )
    return size
