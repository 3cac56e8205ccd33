"""What could be trained: real LLaMA shapes of up to 2 trillion parameters, and what each costs:
money for a token of training, money for a token of its life."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import numpy as np

from puna.model import count
from puna.model.sizes import SIZES, ModelConfig
from puna.plan import cost, memory
from puna.plan.devices import Device
from puna.plan.law import Counts, FloatArray
from puna.plan.runs import embedding_parameters
from puna.plan.shapes import shape_of

SMALLEST_BY_VOCABULARY = 600  # parameters for each of its tokens: 19M with LLaMA's 32,000
CONTEXT = 2048  # of training, for small sizes too: what attention costs hangs on it
LARGEST, STEP = 2e12, 1.028  # the costs' minimum is flat: 2.8 % off costs below 0.1 %
MEASURED_TOKENS = 1e9  # of which a cost a token is taken


class Prices(Protocol):
    """What a question needs to know of costs; a unit of money, or FLOPs."""

    def training(self, config: ModelConfig) -> float:
        """Of one token of training."""
        ...

    def inference(self, config: ModelConfig) -> float:
        """Of one token of its life, as its requests read and write; infinite if too large."""
        ...


@dataclass(frozen=True)
class Load:
    """What the model will be used for: `tokens` in its life, in requests of so many read (prompt)
    and written (output)."""

    tokens: float = 0.0
    prompt: int = 1000
    output: int = 250

    @property
    def length(self) -> int:
        """Tokens of one request, read and written."""
        return self.prompt + self.output


@dataclass(frozen=True)
class Training:
    """Who trains: so many devices at a price an hour each."""

    device: Device
    devices: int
    usd_per_hour: float | None = None  # None: the device's own

    @property
    def price(self) -> float | None:
        """USD of one device's hour; None where nobody says."""
        return self.device.usd_per_hour if self.usd_per_hour is None else self.usd_per_hour


@dataclass(frozen=True)
class Serving:
    """Who answers: devices, paid for `busy` of their hours' worth, `batch` requests at once."""

    device: Device
    usd_per_hour: float | None = None
    kind: str = "BF16"  # of the weights, one of GGUF's
    batch: int = 64
    busy: float = 0.5

    @property
    def price(self) -> float | None:
        """USD of one device's hour; None where nobody says."""
        return self.device.usd_per_hour if self.usd_per_hour is None else self.usd_per_hour

    def group_bytes(self, config: ModelConfig, load: Load) -> float:
        """What the weights and one request's keys and values take."""
        return memory.weight_bytes(config, self.kind) + memory.kv_bytes(config, load.length)

    @property
    def node_bytes(self) -> float:
        """What the devices of one node can hold together."""
        return self.device.node_devices * self.device.usable_bytes

    def groups(self, config: ModelConfig, load: Load) -> list[tuple[int, int]]:
        """The ways to serve within one node: (devices that share the weights, requests at once)."""
        found, devices = [], 1
        each = memory.kv_bytes(config, load.length)
        while devices <= self.device.node_devices:
            room = devices * self.device.usable_bytes - memory.weight_bytes(config, self.kind)
            if room >= each:
                found.append((devices, min(self.batch, int(room / each))))
            devices *= 2
        return found


@dataclass(frozen=True)
class Money:
    """Costs in USD: training at its share of the peak, reading at another, writing as fast as
    weights and caches are read; all from `puna.plan.cost`."""

    train: Training
    serve: Serving
    load: Load

    def training(self, config: ModelConfig) -> float:
        """USD of one token of training. Raises ConfigError for a device without a price."""
        who = self.train
        usd = cost.training_usd(config, MEASURED_TOKENS, who.device, who.devices, who.usd_per_hour)
        return usd / MEASURED_TOKENS

    def inference(self, config: ModelConfig) -> float:
        """USD of one token, on the cheapest group of devices; infinite where a node is too small.

        Raises ConfigError for a device without a price.
        """
        groups = self.serve.groups(config, self.load)
        return min((self._served(config, *group) for group in groups), default=float("inf"))

    def group(self, config: ModelConfig) -> tuple[int, int]:
        """The cheapest way to serve it: (devices that share the weights, requests at once)."""
        groups = self.serve.groups(config, self.load)
        return min(groups, key=lambda group: self._served(config, *group))

    def _served(self, config: ModelConfig, devices: int, batch: int) -> float:
        load, serve = self.load, self.serve
        usd = cost.inference_usd(
            config,
            serve.device,
            prompt_tokens=load.prompt / load.length,
            output_tokens=load.output / load.length,
            prompt=load.prompt,
            kind=serve.kind,
            batch=batch,
            context=load.prompt + load.output // 2,
            devices=devices,
            usd_per_hour=serve.usd_per_hour,
        )
        return usd / serve.busy


@dataclass(frozen=True)
class Choices:
    """Shapes in order of size, with arrays [choices]: parameters as the law counts them, costs."""

    configs: tuple[ModelConfig, ...]
    parameters: FloatArray
    training: FloatArray
    inference: FloatArray

    def nearest(self, parameters: float) -> int:
        """The choice of about so many parameters."""
        return int(np.abs(np.log(self.parameters / parameters)).argmin())


def choices(
    prices: Prices, counts: Counts = "all", shapes: Iterable[ModelConfig] | None = None
) -> Choices:
    """Every shape (those of `shapes`, else the family's) with its costs."""
    tried = family() if shapes is None else shapes
    sized = sorted(((counted(config, counts), config) for config in tried), key=lambda one: one[0])
    configs = tuple(config for _size, config in sized)
    return Choices(
        configs,
        np.array([size for size, _config in sized]),
        np.array([prices.training(config) for config in configs]),
        np.array([prices.inference(config) for config in configs]),
    )


def counted(config: ModelConfig, counts: Counts) -> float:
    """The parameters of a shape, as a law counts them."""
    every = count.parameters(config)
    return float(every if counts == "all" else every - embedding_parameters(config))


@cache
def family(vocabulary_size: int = 32000, group: int = 1) -> tuple[ModelConfig, ...]:
    """The named sizes of that vocabulary, and shapes like theirs of every size between; where
    heads share keys and values, in groups of up to `group`, the named are not among them."""
    smallest = SMALLEST_BY_VOCABULARY * vocabulary_size
    number = max(2, round(math.log(LARGEST / smallest, STEP)))
    sizes = np.geomspace(smallest, LARGEST, number)
    between = [shape_of(float(size), vocabulary_size, group) for size in sizes]
    same = [
        replace(config, context_length=CONTEXT)
        for config in SIZES.values()
        if config.vocabulary_size == vocabulary_size and group == 1
    ]
    named = [config for config in same if count.parameters(config) >= smallest]
    return tuple(dict.fromkeys([*named, *between]))
