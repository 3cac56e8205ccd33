"""What a plan must keep to: memory, latency, speed, data, days, money."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from puna.console import human_bytes, human_count, human_duration
from puna.model.sizes import ModelConfig
from puna.plan import memory, speed
from puna.plan.candidates import Choices, Load, Serving, Training
from puna.plan.devices import Device
from puna.plan.law import FloatArray

DAY = 86400.0
SERVING = "serving"  # the limit of the devices of one node
ALL_TEXT_TOKENS = 300e12  # public text by people, 100T to 1,000T (Villalobos et al., 2211.04325)


@dataclass(frozen=True)
class Limit:
    """A bound on something of a model; where `per_token`, `measure` is of one training token."""

    short: str  # one word of the label
    label: str
    bound: float
    measure: Callable[[ModelConfig], float]
    show: Callable[[float], str]
    per_token: bool = False
    at_least: bool = False
    asked: bool = True  # by a person; not one that goes without saying

    def measured(self, choices: Choices) -> FloatArray:
        """The measure of every choice [choices]."""
        return np.array([self.measure(config) for config in choices.configs], dtype=np.float64)

    def share(self, values: FloatArray) -> FloatArray:
        """How much of the bound each value takes; above 1 it is broken."""
        with np.errstate(divide="ignore"):
            return self.bound / values if self.at_least else values / self.bound


@dataclass(frozen=True)
class Home:
    """One device that must hold the model and answer on it, one request at a time."""

    name: str
    memory_bytes: float
    device: Device | None = None  # None: only its memory is known
    kind: str = "Q4_0"


Group = Callable[[ModelConfig], int]  # how many devices answer together


def alone(_config: ModelConfig) -> int:
    """One device."""
    return 1


def fits(home: Home, load: Load) -> Limit:
    """Weights, and keys and values of one request, in the device's memory."""

    def needed(config: ModelConfig) -> float:
        return memory.weight_bytes(config, home.kind) + memory.kv_bytes(config, load.length)

    label = f"in the memory of {home.name} ({home.kind})"
    return Limit("memory", label, home.memory_bytes, needed, human_bytes)


def first_token(
    device: Device, kind: str, load: Load, seconds: float, group: Group = alone
) -> Limit:
    """Seconds until a prompt is read, on as many devices as `group` says."""

    def reading(config: ModelConfig) -> float:
        return speed.prefill_seconds(config, load.prompt, device, kind=kind, devices=group(config))

    label = f"first token of {load.prompt:,} read, on {device.name} ({kind})"
    return Limit("first token", label, seconds, reading, _milliseconds)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else human_duration(seconds)


def decoding(
    device: Device, kind: str, load: Load, tokens_per_second: float, group: Group = alone
) -> Limit:
    """Tokens a second of one request, in the middle of its answer, on as many devices."""
    middle = load.prompt + load.output // 2

    def writing(config: ModelConfig) -> float:
        return speed.decode_tokens_per_second(
            config, device, kind=kind, context=middle, devices=group(config)
        )

    label = f"tokens a second on {device.name} ({kind})"
    return Limit("speed", label, tokens_per_second, writing, human_count, at_least=True)


def servable(serving: Serving, load: Load) -> Limit:
    """Weights and one request on the devices of one node."""

    def needed(config: ModelConfig) -> float:
        return serving.group_bytes(config, load)

    label = f"on one node of {serving.device.node_devices} x {serving.device.name} ({serving.kind})"
    return Limit(SERVING, label, serving.node_bytes, needed, human_bytes, asked=False)


def days(train: Training, most: float) -> Limit:
    """Days of training."""

    def each(config: ModelConfig) -> float:
        return speed.training_seconds(config, 1, train.device, train.devices) / DAY

    label = f"days on {train.devices} x {train.device.name}"
    return Limit("days", label, most, each, human_count, per_token=True)


def data(most_tokens: float = ALL_TEXT_TOKENS) -> Limit:
    """Tokens of text that there are."""
    return Limit(
        "data",
        "tokens of text",
        most_tokens,
        lambda _config: 1.0,
        human_count,
        per_token=True,
        asked=most_tokens != ALL_TEXT_TOKENS,
    )


def money(usd: float) -> str:
    """An amount in three digits: $950, $1.2M."""
    return f"${human_count(usd)}"


def training_money(price: Callable[[ModelConfig], float], most_usd: float) -> Limit:
    """USD of training."""
    return Limit("training", "for training", most_usd, price, money, per_token=True)
