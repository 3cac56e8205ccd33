"""Does a training run fit, which layout is the fastest that does, and what else would fit."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from puna.errors import ConfigError
from puna.model.count import Checkpointing
from puna.model.sizes import ModelConfig
from puna.plan import memory, speed
from puna.plan.devices import Device
from puna.plan.layout import Layout, Precision, TrainingRun

POLICIES: tuple[Checkpointing, ...] = ("none", "selective", "narrow", "full")
PAPER_BATCH_TOKENS = 1 << 22  # 4M (paper, table 2)
ZERO_SHARES = ("nothing", "the optimizer", "optimizer and gradients", "weights too (FSDP)")
ROOMY = 0.8  # of the memory: up to it `puna train` takes more sequences at once
AS_FAST = 0.02  # less of a difference in time is none: then the simpler layout is taken


@dataclass(frozen=True)
class Wish:
    """What is given; what is None is chosen. `batch_tokens` None: near the paper's 4M."""

    config: ModelConfig
    device: Device
    devices: int = 1
    context_length: int = 0  # 0: the model's own
    batch_tokens: int | None = None
    micro_batch: int | None = None
    precision: Precision = "bf16"
    checkpointing: Checkpointing | None = None
    tensor: int | None = None
    pipeline: int | None = None
    zero: int | None = None
    compiled: bool | None = None  # None: except on Apple's, as `puna train` does

    @property
    def context(self) -> int:
        """Tokens of a sequence."""
        return self.context_length or self.config.context_length


@dataclass(frozen=True)
class Option:
    """One way to run it, with its memory on the fullest device and its step."""

    run: TrainingRun
    memory: memory.TrainingMemory
    step: speed.StepTime

    @property
    def fits(self) -> bool:
        """Whether it fits in what a program can have of a device."""
        return self.memory.total <= self.run.device.usable_bytes

    @property
    def _rank(self) -> tuple[float, ...]:
        layout = self.run.layout
        pace = round(math.log(self.step.seconds / self.run.batch_tokens) / AS_FAST)
        simple = (layout.pipeline, layout.tensor, layout.zero)
        if not self.fits:
            return (1, self.memory.total, *simple)
        policy = POLICIES.index(self.run.checkpointing)
        is_roomy = self.memory.total <= ROOMY * self.run.device.usable_bytes
        at_once = self.run.micro_batch if layout.is_punas and is_roomy else 0
        return (0, pace, *simple, policy, -at_once, self.memory.total)


def option(run: TrainingRun) -> Option:
    """A run with what it takes."""
    return Option(run, memory.training(run), speed.training_step(run))


def best(wish: Wish) -> Option:
    """The fastest way that fits, the simplest among equals; where none fits, the smallest.

    Raises ConfigError where no layout keeps to what the wish fixes.
    """
    found = [option(run) for run in _runs(wish)]
    if not found:
        raise _impossible(wish)
    return min(found, key=lambda one: one._rank)


def alternatives(wish: Wish, chosen: Option) -> list[tuple[str, Option]]:
    """Other ways, each one change away or the best of a kind, those that fit and are fast first.

    What the wish fixes is let go here, too: the names say what is changed. Where the chosen way
    does not fit, only ways that take less memory.
    """
    run, layout = chosen.run, chosen.run.layout
    found: dict[TrainingRun, str] = {}
    for policy in POLICIES:
        found.setdefault(replace(run, checkpointing=policy), f"checkpointing {policy}")
    for sequences in (1, run.micro_batch // 2, run.micro_batch * 2):
        if sequences >= 1 and _divides(run, sequences):
            found.setdefault(replace(run, micro_batch=sequences), f"micro-batch {sequences}")
    for zero in range(4) if layout.data > 1 else ():
        one = replace(run, layout=replace(layout, zero=zero))
        found.setdefault(one, f"ZeRO {zero}: split {ZERO_SHARES[zero]}")
    free = replace(
        wish, checkpointing=None, micro_batch=None, zero=None, tensor=None, pipeline=None
    )
    for ways in (1, 2, 4, 8, 16):
        for split in (
            replace(free, tensor=ways, pipeline=1),
            replace(free, tensor=1, pipeline=ways),
        ):
            with contextlib.suppress(ConfigError):  # no layout divides so
                one = best(split).run
                found.setdefault(one, _shown(one))
    if (unbound := best(free).run) not in found:
        found[unbound] = _shown(unbound)
    if not any(option(one).fits for one in found) and (larger := _more_devices(free)):
        found[larger] = f"{larger.layout.devices} of them: {_shown(larger)}"
    found.pop(run, None)
    listed = [(name, option(one)) for one, name in found.items()]
    if not chosen.fits:
        listed = [(name, one) for name, one in listed if one.memory.total < chosen.memory.total]
    return sorted(listed, key=lambda entry: entry[1]._rank)


def _more_devices(wish: Wish) -> TrainingRun | None:
    """The smallest doubling of the devices on which it fits; None where 1,024 times do not do."""
    for doublings in range(1, 11):
        more = best(replace(wish, devices=wish.devices << doublings, batch_tokens=None))
        if more.fits:
            return more.run
    return None


def _shown(run: TrainingRun) -> str:
    layout = run.layout
    ways = [
        f"{name} {ways}" for name in ("tensor", "pipeline") if (ways := getattr(layout, name)) > 1
    ]
    zero = [f"ZeRO {layout.zero}"] if layout.zero else []
    sequences = [f"micro-batch {run.micro_batch}"] if run.micro_batch > 1 else []
    return ", ".join([*ways, *zero, run.checkpointing, *sequences])


def _divides(run: TrainingRun, sequences: int) -> bool:
    return run.batch_tokens % (run.context * sequences * run.layout.data) == 0


def _runs(wish: Wish) -> Iterator[TrainingRun]:
    """Every layout that divides: powers of two of each kind, and those that the wish fixes."""
    policies = [wish.checkpointing] if wish.checkpointing else POLICIES
    for tensor, pipeline in itertools.product(_ways(wish.tensor), _ways(wish.pipeline)):
        if wish.devices % (tensor * pipeline) or wish.config.kv_head_count % tensor:
            continue
        if pipeline > wish.config.layers or tensor > max(
            wish.device.node_devices, wish.tensor or 1
        ):
            continue
        data = wish.devices // (tensor * pipeline)
        batch = wish.batch_tokens or _near_paper(wish.devices * wish.context)
        if batch % (wish.context * data):
            continue
        each = batch // (wish.context * data)
        if data == 1 and wish.zero:
            continue
        zeros = [wish.zero] if wish.zero is not None else range(4 if data > 1 else 1)
        for zero, policy, micro in itertools.product(zeros, policies, _micro_batches(wish, each)):
            yield TrainingRun(
                wish.config,
                wish.device,
                Layout(data, tensor, pipeline, zero),
                batch_tokens=batch,
                micro_batch=micro,
                context_length=wish.context,
                precision=wish.precision,
                checkpointing=policy,
                compiled=wish.device.kind != "apple" if wish.compiled is None else wish.compiled,
            )


def _ways(fixed: int | None) -> Sequence[int]:
    return [fixed] if fixed is not None else (1, 2, 4, 8, 16)


def _micro_batches(wish: Wish, sequences: int) -> list[int]:
    """Powers of two that divide a device's sequences; the one asked for alone, if it does."""
    tried = [wish.micro_batch] if wish.micro_batch else [1 << power for power in range(8)]
    return [size for size in tried if size <= sequences and sequences % size == 0]


def _near_paper(multiple: int) -> int:
    return max(1, round(PAPER_BATCH_TOKENS / multiple)) * multiple


def _impossible(wish: Wish) -> ConfigError:
    names = ("tensor", "pipeline", "zero", "micro_batch")
    asked = {name: value for name in names if (value := getattr(wish, name)) is not None}
    fixed = ", ".join(f"{name} {value}" for name, value in asked.items()) or "whole sequences"
    batch = wish.batch_tokens or PAPER_BATCH_TOKENS
    return ConfigError(
        f"{wish.devices} devices have no layout with {fixed} for {wish.config.layers} layers, "
        f"{wish.config.kv_head_count} key-value heads and {batch:,} tokens a step",
        hint=_what_would_do(wish, batch),
    )


def _what_would_do(wish: Wish, batch: int) -> str:
    """What to ask for instead, by the first thing that is in the way."""
    heads, layers = wish.config.kv_head_count, wish.config.layers
    tensor, pipeline = wish.tensor or 1, wish.pipeline or 1
    if heads % tensor:
        return f"tensor parallelism of a divisor of {heads}, at most {wish.device.node_devices}"
    if pipeline > layers:
        return f"at most {layers} stages, one for each layer"
    if wish.devices % (tensor * pipeline):
        return f"devices that {tensor} x {pipeline} divides, or other ways to split"
    data = wish.devices // (tensor * pipeline)
    if data == 1 and wish.zero:
        return "ZeRO splits over data-parallel devices and here is one: --zero 0, or more devices"
    at_once = data * wish.context * (wish.micro_batch or 1)
    fitting = max(1, round(batch / at_once)) * at_once
    return f"{data} data x micro-batch x context divides a step: try --batch-tokens {fitting}"
