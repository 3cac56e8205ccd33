"""How a training run lies on its devices: what is split, what is repeated, what is recomputed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from puna.errors import ConfigError
from puna.model.count import Checkpointing
from puna.model.sizes import ModelConfig
from puna.plan.devices import Device

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Layout:
    """Ways of parallelism; their product is the number of devices.

    `zero` says what a data-parallel device holds only its share of: 0 nothing, 1 the optimizer's
    moments, 2 the gradients too, 3 the weights too (FSDP). With `tensor`, activations between the
    products are split by sequence (Korthikanti et al. 2022). Puna trains on one device today:
    every other layout is planned for, not run.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    zero: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "pipeline"):
            if getattr(self, name) < 1:
                raise ConfigError(f"layout {name} must be at least 1, got {getattr(self, name)}")
        if self.zero not in (0, 1, 2, 3):
            raise ConfigError(f"layout zero must be 0, 1, 2 or 3, got {self.zero}")

    @property
    def devices(self) -> int:
        """How many devices there are in all."""
        return self.data * self.tensor * self.pipeline

    @property
    def is_punas(self) -> bool:
        """Whether `puna train` runs this layout today: one process on one device."""
        return self.devices == 1


@dataclass(frozen=True)
class TrainingRun:
    """A model on devices: what a step is made of. `micro_batch` counts sequences on one device.

    Raises ConfigError for what does not divide.
    """

    config: ModelConfig
    device: Device
    layout: Layout = Layout()
    batch_tokens: int = 1 << 22
    micro_batch: int = 1
    context_length: int = 0  # 0: the model's own
    precision: Precision = "bf16"
    checkpointing: Checkpointing = "selective"
    compiled: bool = True  # as `puna train` does wherever it pays

    def __post_init__(self) -> None:
        layout, config = self.layout, self.config
        if config.kv_head_count % layout.tensor:
            raise ConfigError(
                f"layout tensor must divide the model's {config.kv_head_count} key-value heads, "
                f"got {layout.tensor}"
            )
        if layout.pipeline > config.layers:
            raise ConfigError(
                f"layout pipeline must be at most the model's {config.layers} layers, got "
                f"{layout.pipeline}"
            )
        if self.micro_batch < 1:
            raise ConfigError(f"micro_batch must be at least 1 sequence, got {self.micro_batch}")
        at_once = self.context * self.micro_batch * layout.data
        if self.batch_tokens < at_once or self.batch_tokens % at_once:
            raise ConfigError(
                f"a batch must be a multiple of {at_once:,} tokens ({layout.data} x "
                f"{self.micro_batch} sequences of {self.context:,}), got {self.batch_tokens:,}",
                hint=f"batch_tokens = {max(1, round(self.batch_tokens / at_once)) * at_once}",
            )

    @property
    def context(self) -> int:
        """Tokens of a sequence."""
        return self.context_length or self.config.context_length

    @property
    def micro_batches(self) -> int:
        """How often a device goes forward and backward before the weights move."""
        return self.batch_tokens // (self.context * self.micro_batch * self.layout.data)

    @property
    def micro_tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.micro_batch * self.context
