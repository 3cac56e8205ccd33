"""`puna plan ask --model`: will it fit, how long will it take, what will it cost."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.console import (
    Console,
    human_bytes,
    human_count,
    human_duration,
    human_scaled,
    parse_count,
    table,
)
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.model.sizes import ModelConfig
    from puna.plan.advice import Option, Wish
    from puna.plan.cost import Cost
    from puna.plan.devices import Device
    from puna.plan.layout import Precision
    from puna.plan.limits import Home

MIB, GIB = 2**20, 2**30
BAR = 38
MARKS = {
    "weights": "w", "gradients": "g", "optimizer": "o", "activations": "a", "workspace": "t",
    "allocator": "h",
}  # fmt: skip
PAPER_TOKENS = {"7B": 1.0e12, "13B": 1.0e12, "33B": 1.4e12, "65B": 1.4e12}
CHINCHILLA = 20  # tokens a parameter
MOST_CONTEXT = 8192  # of pretraining, unless more is asked for
LARGE_STEP = 1 << 24  # four times the paper's
SMALL_MODEL = 1e8  # parameters: below, products are too small for the share that is assumed
READ = 1000  # tokens of a prompt whose reading is told
KINDS = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}  # of weights that are served
SHOWN = 5


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What `puna plan ask` takes about a model that is already chosen."""
    group = parser.add_argument_group("will it fit, how long, how much (with --model)")
    group.add_argument(
        "--model",
        metavar="MODEL",
        help="7B, llama2-70b, any size (3B), a recipe, or a model's folder or file",
    )
    group.add_argument("--tokens", metavar="N", help="to train on (the paper's, or 20 a parameter)")
    group.add_argument("--batch-tokens", metavar="N", help="of a step (about 4M)")
    group.add_argument("--context", type=int, metavar="N", help="of a sequence (the model's)")
    group.add_argument("--micro-batch", type=int, metavar="N", help="sequences at once (chosen)")
    group.add_argument(
        "--precision", choices=("bf16", "fp32"), help="of the products (bf16 where it runs)"
    )
    group.add_argument("--compile", choices=("on", "off"), help="blocks (on; off on Apple's)")
    group.add_argument(
        "--checkpointing", choices=("none", "selective", "narrow", "full"), help="(chosen)"
    )
    group.add_argument("--tensor", type=int, metavar="N", help="ways to split layers (chosen)")
    group.add_argument("--pipeline", type=int, metavar="N", help="stages of a pipeline (chosen)")
    group.add_argument(
        "--zero", type=int, choices=(0, 1, 2, 3), help="stage of ZeRO; 3 is FSDP (chosen)"
    )


@dataclass(frozen=True)
class Found:
    """What there is to say."""

    name: str
    wish: Wish
    chosen: Option
    others: list[tuple[str, Option]]
    tokens: float
    cost: Cost
    usd_per_hour: float | None
    home: Home | None  # of --on


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print whether it fits, how long it takes and what it costs, with other ways beside it.

    Raises ConfigError or UsageError for what cannot be, CheckpointError for a broken model.
    """
    found = _found(arguments)
    step = found.chosen.run.batch_tokens
    if arguments.batch_tokens is None and step > LARGE_STEP:
        console.warn(
            f"a step of {human_count(step)} tokens is {step / 2**22:.0f} times the paper's, since "
            "no device can take less than a sequence: such steps learn less from a token"
        )
    console.result(record(found), text(found))
    return 0


def _found(arguments: argparse.Namespace) -> Found:
    from puna.commands import plan_devices
    from puna.plan import advice, cost, shapes

    config = shapes.model(arguments.model)
    arguments = _with_recipe(arguments, config)
    devices, device = plan_devices.find(arguments.devices)
    wish = advice.Wish(
        config,
        device,
        devices,
        context_length=_context(arguments.context, config),
        batch_tokens=_whole("--batch-tokens", arguments.batch_tokens),
        micro_batch=_positive("--micro-batch", arguments.micro_batch),
        precision=arguments.precision or _precision(device),
        checkpointing=arguments.checkpointing,
        tensor=_positive("--tensor", arguments.tensor),
        pipeline=_positive("--pipeline", arguments.pipeline),
        zero=arguments.zero,
        compiled=None if arguments.compile is None else arguments.compile == "on",
    )
    chosen = advice.best(wish)
    tokens = _tokens(arguments, config)
    price = device.usd_per_hour if arguments.usd_per_hour is None else arguments.usd_per_hour
    if price is not None and not 0 < price < math.inf:
        raise UsageError(f"--usd-per-hour should be above 0, got {price:g}")
    weights = arguments.on_weights or "int4"
    return Found(
        arguments.model,
        wish,
        chosen,
        advice.alternatives(wish, chosen),
        tokens,
        cost.cost(tokens / chosen.step.tokens_per_second, device, devices, price),
        price,
        plan_devices.home(arguments.on, weights) if arguments.on else None,
    )


def _precision(device: Device) -> Precision:
    """What `puna train` takes there: bf16 but for Apple's GPUs, and processors without it."""
    has_bf16 = device.kind != "apple" and "bf16" in device.flops_per_second
    return "bf16" if has_bf16 else "fp32"


def _with_recipe(arguments: argparse.Namespace, config: ModelConfig) -> argparse.Namespace:
    """What a recipe says of its training, where the command line does not."""
    if not arguments.model.endswith(".toml"):
        return arguments
    from puna.config import find_recipe, from_table, read_toml
    from puna.train.settings import TrainConfig

    path = find_recipe(Path(arguments.model))
    train = from_table(TrainConfig, read_toml(path).get("train", {}), str(path))
    said = {
        "tokens": str(train.steps * train.batch_tokens),
        "batch_tokens": str(train.batch_tokens),
        "context": config.context_length,
        "micro_batch": train.micro_batch_sequences,
        "checkpointing": train.activation_checkpointing,
        "precision": None if train.precision == "auto" else train.precision,
        "compile": None if train.compile == "auto" else train.compile,
    }
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    return argparse.Namespace(**{**vars(arguments), **said, **given})


def _context(asked: int | None, config: ModelConfig) -> int:
    return _positive("--context", asked) or min(MOST_CONTEXT, config.context_length)


def _tokens(arguments: argparse.Namespace, config: ModelConfig) -> float:
    from puna.model import count
    from puna.model.sizes import ALIASES

    if arguments.tokens is not None:
        return _more_than_none("--tokens", parse_count(arguments.tokens))
    size = arguments.model.upper().removeprefix("LLAMA-")
    default = CHINCHILLA * count.parameters(config)
    return PAPER_TOKENS.get(ALIASES.get(size, size), default)


def _whole(name: str, value: str | None) -> int | None:
    return None if value is None else int(_more_than_none(name, parse_count(value)))


def _positive(name: str, value: int | None) -> int | None:
    return None if value is None else int(_more_than_none(name, value))


def _more_than_none(name: str, value: float) -> float:
    if value < 1:
        raise UsageError(f"{name} should be at least 1, got {value:g}")
    return value


def record(found: Found) -> dict[str, Any]:
    """Everything as plain values: bytes, seconds, USD, kWh, kg."""
    from puna.plan import memory

    chosen, config = found.chosen, found.wish.config
    device = chosen.run.device
    return {
        "model": {"name": found.name, **asdict(config)},
        "device": {**asdict(device), "usable_bytes": device.usable_bytes},
        "devices": found.wish.devices,
        "tokens": found.tokens,
        **_option_record(chosen),
        "cost": {**asdict(found.cost), "days": found.cost.days},
        "usd_per_hour": found.usd_per_hour,
        "home": _home_record(found),
        "alternatives": [{"change": name, **_option_record(one)} for name, one in found.others],
        "serving": {
            "weight_bytes": {kind: memory.weight_bytes(config, kind) for kind in KINDS.values()},
            "kv_bytes_per_token": {
                kind: memory.kv_bytes(config, 1, 1, kind) for kind in ("bf16", "int8")
            },
        },
    }


def _home_record(found: Found) -> dict[str, Any] | None:
    from puna.plan import memory

    home, config = found.home, found.wish.config
    if home is None:
        return None
    needed = memory.weight_bytes(config, home.kind) + memory.kv_bytes(config, found.wish.context)
    return {
        "name": home.name,
        "kind": home.kind,
        "needed_bytes": needed,
        "memory_bytes": home.memory_bytes,
        "fits": needed <= home.memory_bytes,
    }


def _option_record(option: Option) -> dict[str, Any]:
    run, step = option.run, option.step
    return {
        "layout": {**asdict(run.layout), "is_punas": run.layout.is_punas},
        "batch_tokens": run.batch_tokens,
        "micro_batch": run.micro_batch,
        "context_length": run.context,
        "precision": run.precision,
        "checkpointing": run.checkpointing,
        "compiled": run.compiled,
        "fits": option.fits,
        "memory": {**asdict(option.memory), "total": option.memory.total},
        "step": {**asdict(step), "seconds": step.seconds},
    }


def text(found: Found) -> str:
    """The same for people, in 24 lines of 80 columns."""
    lines = [*_head(found), *_memory(found.chosen), *_speed(found.chosen), *_cost(found)]
    lines += ["", _others(found), "", *_serving(found)]
    return "\n".join(lines)


def _wrapped(name: str, words: str) -> str:
    """A named line of at most 80 columns, going on below itself."""
    return textwrap.fill(words, 80, initial_indent=f"{name:<10}", subsequent_indent=" " * 10)


def _head(found: Found) -> Iterator[str]:
    from puna.model import count
    from puna.plan.shapes import shape_words

    run, layout = found.chosen.run, found.chosen.run.layout
    size = human_count(count.parameters(run.config))
    shape = f"{size} parameters ({shape_words(run.config)})"
    who = f"{found.wish.devices} x {run.device.name}"
    yield textwrap.fill(f"{found.name}: {shape} on {who}", 80)
    ways = [f"{layout.data} data"] if layout.data > 1 else []
    ways += [f"{layout.tensor} tensor"] if layout.tensor > 1 else []
    ways += [f"{layout.pipeline} pipeline"] if layout.pipeline > 1 else []
    ways += [f"ZeRO {layout.zero}"] if layout.zero else []
    who = "puna train runs it" if layout.is_punas else "planned: puna train takes one device"
    yield _wrapped("layout", f"{' x '.join(ways) or 'one device'} ({who})")
    yield _wrapped(
        "",
        f"checkpointing {run.checkpointing}, {run.precision}"
        f"{'' if run.compiled else ', not compiled'}, {run.micro_batches:,} micro-batch"
        f"{'es' * (run.micro_batches > 1)} of {run.micro_batch} x {run.context:,} tokens",
    )


def _memory(option: Option) -> Iterator[str]:
    """A bar of one device, and its parts."""
    usable, parts = option.run.device.usable_bytes, asdict(option.memory)
    scale = BAR / max(usable, option.memory.total)
    drawn, end = "", 0.0
    for name, value in parts.items():
        end += value
        drawn += MARKS[name] * (round(end * scale) - len(drawn))
    room = round(usable * scale)
    drawn = drawn.ljust(room, ".")
    bar = f"[{drawn[:room]}]{drawn[room:]}"
    total, usable = option.memory.total / GIB, usable / GIB
    verdict = "fits" if option.fits else f"{total - usable:.1f} over"
    yield f"memory    {bar} {total:.1f} of {usable:.1f} GiB: {verdict}"
    unit, size = ("GiB", GIB) if option.memory.total >= GIB else ("MiB", MIB)
    shown = [
        f"{name} {value / size:.1f}"
        for name, value in parts.items()
        if value or name != "allocator"
    ]
    yield f"          {', '.join(shown[:4])},"
    yield f"          {', '.join(shown[4:])} {unit} on the fullest device"


def _speed(option: Option) -> Iterator[str]:
    run, step = option.run, option.step
    each = step.tokens_per_second / run.layout.devices
    yield (
        f"speed     {human_count(step.tokens_per_second)} tokens/s, {each:,.0f} a device, MFU "
        f"{step.mfu:.1%}; {human_duration(step.seconds)} a step of {human_count(run.batch_tokens)}"
    )
    kinds = {name: value for name, value in asdict(step.traffic).items() if value}
    sent = ", ".join(
        f"{name.replace('_', '-')} {value / 1e9:,.{0 if value > 1e10 else 2}f}"
        for name, value in kinds.items()
    )
    waits = f"waits {step.communication_seconds / step.seconds:.0%} of it"
    if step.bubble_seconds:
        waits += f", {step.bubble_seconds / step.seconds:.0%} for the pipeline to fill"
    yield _wrapped("", f"sends {f'{sent} GB' if sent else 'nothing'} a step; {waits}")


def _cost(found: Found) -> Iterator[str]:
    cost, device = found.cost, found.chosen.run.device
    price = "no price is known (--usd-per-hour)"
    if cost.usd is not None:
        price = f"${human_count(cost.usd)} at ${found.usd_per_hour:.2f} an hour each"
    took = human_duration(cost.seconds)
    yield f"training  {human_count(found.tokens)} tokens: {took}, {price}"
    if cost.energy_kwh is None or cost.carbon_kg is None:
        yield "          energy and carbon: nobody says what this machine draws"
        return
    energy = human_scaled(1000 * cost.energy_kwh, ("Wh", "kWh", "MWh", "GWh"))
    carbon = human_scaled(1000 * cost.carbon_kg, ("g", "kg", "t", "kt"))
    yield (
        f"          {human_count(cost.device_hours)} device-hours at {device.watts:g} W: "
        f"{energy}, {carbon} of CO2e"
    )


def _others(found: Found) -> str:
    rows, others = [], found.others
    if not found.chosen.fits and any(one.fits for _name, one in others):
        others = [(name, one) for name, one in others if one.fits]
    for name, one in others[:SHOWN]:
        days = found.tokens / one.step.tokens_per_second
        fits = "fits" if one.fits else "too large"
        rows.append([name[:44], f"{one.memory.total / GIB:.1f} GiB", fits, human_duration(days)])
    head = "other ways" if found.chosen.fits else "what would make it fit"
    if not any(one.fits for _name, one in found.others) and not found.chosen.fits:
        head = "nothing makes it fit; smallest first"
    if not rows:
        return (
            "nothing that was tried makes it fit, nor do 1,024 times the devices;\n"
            "a shorter --context might"
        )
    return table([head, "memory", "", "time"], rows)


def _serving(found: Found) -> Iterator[str]:
    from puna.model import count
    from puna.plan import memory

    config, context = found.wish.config, found.wish.context
    sizes = [f"{kind} {human_bytes(memory.weight_bytes(config, kind))}" for kind in KINDS.values()]
    kept = human_bytes(memory.kv_bytes(config, context))
    yield _wrapped("to run", f"{', '.join(sizes)}, and {kept} for {context:,} tokens of context")
    if found.home:
        yield _wrapped("", _at_home(found.home, config, context))
    device = found.chosen.run.device
    source = f"products at {device.training:.0%} of the peak: {device.training_source}"
    if count.parameters(config) < SMALL_MODEL:
        source += "; so small a model reaches less"
    if found.chosen.step.mfu > 1.2 * device.training:
        source += "; MFU is PaLM's, which counts causal attention twice"
    if device.kind == "cpu":
        rates = ", ".join(
            f"{human_scaled(rate, ('FLOP/s', 'kFLOP/s', 'MFLOP/s', 'GFLOP/s', 'TFLOP/s'))} {dtype}"
            for dtype, rate in device.flops_per_second.items()
        )
        source += f"; peak {rates}, measured here"
    yield _wrapped("assumes", source)


def _at_home(home: Home, config: ModelConfig, context: int) -> str:
    """Whether one device holds the model with a context, and how fast it then is."""
    from puna.plan import memory, speed

    needed = memory.weight_bytes(config, home.kind) + memory.kv_bytes(config, context)
    fits = "fits" if needed <= home.memory_bytes else "is too large"
    words = f"on {home.name} it {fits} in {home.kind}: {human_bytes(needed)} of "
    words += human_bytes(home.memory_bytes)
    if home.device is None or needed > home.memory_bytes:
        return words
    rate = speed.decode_tokens_per_second(config, home.device, kind=home.kind, context=context // 2)
    seconds = speed.prefill_seconds(config, READ, home.device, kind=home.kind)
    return f"{words}; {human_count(rate)} tokens/s, {READ:,} read in {human_duration(seconds)}"
