"""`puna plan ask`: which model to train, if it also has to be run."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from puna.commands import plan_run
from puna.commands.plan_run import KINDS
from puna.console import Console, human_bytes, parse_count
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.model.sizes import ModelConfig
    from puna.plan.candidates import Load, Money
    from puna.plan.law import Law
    from puna.plan.limits import Group, Limit
    from puna.plan.question import Answer, Goal, Question

AIMS = (
    "loss", "as_good_as", "budget", "training_budget", "training_days", "most_tokens",
)  # fmt: skip
# What is not said; None where an option is parsed, so that one that is in vain is noticed.
UNSAID = {
    "vocabulary": 32000, "gqa": 1, "law": "epoch", "years": 2.0, "prompt": 1000, "output": 250,
    "serve_weights": "bf16", "serve_batch": 64, "serve_busy": 0.5, "on_weights": "int4",
}  # fmt: skip
WHICH_MODEL = (
    *AIMS, "vocabulary", "gqa", "law", "inference_tokens", "requests_a_day", "years", "prompt",
    "output", "serve_on", "serve_usd_per_hour", "serve_weights", "serve_batch", "serve_busy",
    "first_token", "tokens_per_second",
)  # fmt: skip
CHOSEN_MODEL = (
    "tokens", "batch_tokens", "context", "micro_batch", "precision", "compile", "checkpointing",
    "tensor", "pipeline", "zero",
)  # fmt: skip
LEAST_VOCABULARY, MOST_VOCABULARY = 2_000, 1_000_000
MOST_SHARING = 128  # heads: more than any model's
LONGER = 0.05  # more of a training's time, from which on it is worth telling
DAYS_OF_A_YEAR = 365.25
DEVICES = "256xA100-80GB"


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna plan ask`."""
    parser.description = (
        "Which model to train, on how much data, for how much money, if it also has to\n"
        "be run: the cheapest that reaches a loss, or the best for a budget. Costs are\n"
        "those of the devices: training and reading at shares of their peak, writing at\n"
        "that of their memory. With --model: whether one that is chosen already fits, how\n"
        "long it takes, what it costs."
    )
    add_question_arguments(parser)
    plan_run.add_run_arguments(parser)
    parser.epilog = """examples:
  puna plan ask --as-good-as llama-13b --inference-tokens 2T
  puna plan ask --budget 1M --requests-a-day 500k --devices 128xH100-SXM
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
    group.add_argument("--vocabulary", type=int, metavar="N", help="tokens it knows (32000)")
    group.add_argument(
        "--gqa", type=int, metavar="N", help="most heads that share keys and values (1: none)"
    )
    group.add_argument(
        "--law", metavar="NAME|FILE",
        help="epoch (unless said), hoffmann, hoffmann-printed, or a file of puna plan fit --save",
    )  # fmt: skip


def _use(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--inference-tokens", metavar="N", help="read and written in its whole life (0)"
    )
    group.add_argument("--requests-a-day", metavar="N", help="instead, with --years")
    group.add_argument("--years", type=float, metavar="Y", help="its life (2)")
    group.add_argument("--prompt", type=int, metavar="N", help="tokens read a request (1000)")
    group.add_argument("--output", type=int, metavar="N", help="tokens written a request (250)")


def _devices(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--devices", default=DEVICES, metavar="NxNAME", help="that train")
    group.add_argument("--usd-per-hour", type=float, metavar="USD", help="of one (the table's)")
    group.add_argument("--serve-on", metavar="NAME", help="one that serves (as those that train)")
    group.add_argument("--serve-usd-per-hour", type=float, metavar="USD", help="of one that serves")
    group.add_argument("--serve-weights", choices=KINDS, help="their type while serving (bf16)")
    group.add_argument(
        "--serve-batch", type=int, metavar="N", help="the most requests at once (64)"
    )
    group.add_argument(
        "--serve-busy", type=float, metavar="SHARE", help="of the hours that are paid (0.5)"
    )


def _limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--on", metavar="NAME", help="a device that must hold and run it: RTX-4090, 24GB, this"
    )
    group.add_argument("--on-weights", choices=KINDS, help="their type there (int4)")
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
    _require_place(arguments)
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
    for warning in warnings(asked, found):
        console.warn(warning)
    console.result(plan_answer.record(asked, found), plan_answer.text(asked, found))
    return 0


def warnings(asked: Asked, found: Answer) -> list[str]:
    """Why not to believe every digit, and whether the plan fits those that are to train it."""
    from puna.plan import advice, speed

    who, plan = asked.money.train, found.plan
    best = advice.best(advice.Wish(plan.config, who.device, who.devices))
    where = f"{who.devices} x {who.device.name}"
    if not best.fits:
        needed, has = (human_bytes(one) for one in (best.memory.total, who.device.usable_bytes))
        return [*found.warnings, f"it does not fit {where} to train: {needed} of {has} on each"]
    seconds = speed.training_seconds(plan.config, plan.tokens, who.device, who.devices)
    longer = plan.tokens / best.step.tokens_per_second / seconds - 1
    if longer < LONGER:
        return [*found.warnings]
    laid = f"laid out on {where} its training takes {longer:.0%} longer and costs as much more"
    return [*found.warnings, f"{laid}: puna plan ask --model says why"]


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> str | None:
    """The first option of these that was given."""
    given = (name for name in names if getattr(arguments, name) is not None)
    return next((f"--{name.replace('_', '-')}" for name in given), None)


def read(arguments: argparse.Namespace) -> Asked:
    """Read every argument. Raises UsageError for those that contradict each other."""
    from puna.commands import plan_devices
    from puna.plan import candidates
    from puna.plan.candidates import Money, Serving, Training
    from puna.plan.question import Question

    _require_sense(arguments)
    _require_place(arguments)
    _require_use(arguments)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    arguments = argparse.Namespace(**{**vars(arguments), **UNSAID, **given})
    law = _law(arguments.law)
    goal = _aimed_at(arguments, law)
    devices, device = plan_devices.fleet(arguments.devices)
    served = device
    if arguments.serve_on is not None:
        served = plan_devices.one("--serve-on", arguments.serve_on)
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


def _require_sense(arguments: argparse.Namespace) -> None:
    """Raise UsageError for what is missing, or is said twice or in vain."""
    if _given(arguments, AIMS) is None:
        raise UsageError(
            "a plan wants something to aim at: a model to be as good as, a loss, a budget",
            hint="puna plan ask --as-good-as llama-13b --inference-tokens 2T",
        )
    if arguments.loss is not None and arguments.as_good_as:
        raise UsageError("--loss and --as-good-as both name a loss", hint="leave one out")
    if arguments.inference_tokens is not None:
        if arguments.requests_a_day is not None:
            raise UsageError(
                "--inference-tokens and --requests-a-day both say how much it will be used",
                hint="leave one out",
            )
        if arguments.years is not None:
            raise UsageError(
                "--inference-tokens is of the whole life, however many --years",
                hint="leave --years out, or say --requests-a-day",
            )


def _require_place(arguments: argparse.Namespace) -> None:
    """Raise UsageError for a type of weights on a device that is not named."""
    if arguments.on is None and arguments.on_weights is not None:
        raise UsageError("--on-weights is the type of the weights --on a device, and none is named")


def _require_use(arguments: argparse.Namespace) -> None:
    """Raise UsageError for how a model is used or served where no use is expected."""
    used = arguments.inference_tokens is not None or arguments.requests_a_day is not None
    timed = arguments.first_token is not None or arguments.tokens_per_second is not None
    vain = ["years", "serve_usd_per_hour", "serve_batch", "serve_busy"]
    vain += [] if timed else ["serve_on", "serve_weights"]
    vain += [] if timed or arguments.on is not None else ["prompt", "output"]
    if not used and (option := _given(arguments, vain)):
        raise UsageError(
            f"{option} is of a model's use, and none is expected",
            hint="say how much: --inference-tokens 1T, or --requests-a-day 1M",
        )


def _aimed_at(arguments: argparse.Namespace, law: Law) -> Goal:
    """What is wanted. Raises UsageError for a loss no better than guessing, or other counts."""
    from puna.plan.known import known
    from puna.plan.question import Goal

    wanted = arguments.as_good_as
    if wanted and "@" not in wanted and law.counts != "all":
        raise UsageError(
            f"the law {law.name} counts parameters {law.counts}, those of {wanted} are all of them",
            hint="--as-good-as PARAMETERS@TOKENS, as the law counts them",
        )
    model = known(wanted) if wanted else None
    goal = Goal(_amount(arguments, "loss"), model, _amount(arguments, "budget"))
    target, guessed = goal.target(law), math.log(_vocabulary(arguments.vocabulary))
    if target is not None and target >= guessed:
        raise UsageError(
            f"a loss of {target:.4g} is worse than guessing among {arguments.vocabulary:,} tokens "
            f"({guessed:.4g})",
            hint="a better model, or more tokens",
        )
    return goal


def _law(name: str) -> Law:
    from puna.plan import law

    if name in law.PUBLISHED or not (Path(name).suffix or Path(name).exists()):
        return law.named(name)
    return law.load(Path(name))


def _load(arguments: argparse.Namespace) -> Load:
    """The life's tokens."""
    from puna.plan.candidates import Load

    prompt, output = (int(_needed(arguments, name)) for name in ("prompt", "output"))
    tokens = _count("--inference-tokens", arguments.inference_tokens or "0")
    if arguments.requests_a_day is not None:
        requests = _count("--requests-a-day", arguments.requests_a_day) * DAYS_OF_A_YEAR
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
    from puna.commands import plan_devices
    from puna.plan import limits

    home = plan_devices.home(arguments.on, arguments.on_weights) if arguments.on else None
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
    group = limits.alone if home else _serving_group(money)
    if arguments.first_token is not None:
        seconds = _seconds(arguments.first_token)
        found.append(limits.first_token(device, kind, money.load, seconds, group))
    if least is not None:
        found.append(limits.decoding(device, kind, money.load, least, group))
    return found


def _serving_group(money: Money) -> Group:
    """As many devices as serve a model together; all of a node for one that none can serve."""

    def devices(config: ModelConfig) -> int:
        served = money.serve.groups(config, money.load)
        return money.group(config)[0] if served else money.serve.device.node_devices

    return devices


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
    option = f"--{name.replace('_', '-')}"
    number = _count(option, value) if isinstance(value, str) else float(value)
    if not 0 < number <= most or math.isinf(number):
        bound = "" if math.isinf(most) else f" and at most {most:g}"
        raise UsageError(f"{option} should be above 0{bound}, got {value}")
    return number


def _count(option: str, text: str) -> float:
    """The number in such a text. Raises UsageError that names the option."""
    try:
        return parse_count(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}") from None


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
