"""What a pretraining run can be told; everything that can be derived is derived."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from puna.errors import ConfigError
from puna.model.sizes import ModelConfig

# These may differ when a run is resumed: they do not change what is learnt.
OPERATIONAL = (
    "device",
    "threads",
    "micro_batch_sequences",
    "activation_checkpointing",
    "validate_every",
    "validation_tokens",
    "sample_every",
    "sample_prompt",
    "sample_tokens",
    "checkpoint_every",
    "keep_last",
    "tensorboard",
)
_AT_LEAST_ONE = (
    "steps",
    "batch_tokens",
    "validate_every",
    "validation_tokens",
    "sample_every",
    "sample_tokens",
    "checkpoint_every",
    "keep_last",
)


@dataclass(frozen=True)
class TrainConfig:
    """One run's recipe (paper 2.3). Steps are optimizer steps, batches are given in tokens."""

    steps: int = 900
    batch_tokens: int = 4096  # tokens of one optimizer step, over all processes
    micro_batch_sequences: int | None = None  # None: as many as fit in memory
    seed: int = 1

    learning_rate: float = 3e-4  # the peak
    warmup_steps: int | None = None  # None: the paper's 2,000, but at most a twentieth of the run
    final_learning_rate_fraction: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    gradient_clip: float = 1.0

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = None  # CPU threads; None: all usable cores
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    activation_checkpointing: Literal["none", "selective", "narrow", "full"] = "selective"

    validate_every: int = 100
    validation_tokens: int = 65536
    sample_every: int = 100
    sample_prompt: str = "The"
    sample_tokens: int = 60
    checkpoint_every: int = 100
    keep_last: int = 2
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _require(getattr(self, name) >= 1, "must be at least 1", self, name)
        _require(0 <= self.seed < 2**63, "must be from 0 to 2^63 - 1", self, "seed")
        _require(self.threads is None or self.threads >= 1, "must be at least 1", self, "threads")
        _require(0 < self.learning_rate < 10, "must be above 0 and below 10", self, "learning_rate")
        _require(0 <= self.beta1 < 1, "must be from 0 to below 1", self, "beta1")
        _require(0 <= self.beta2 < 1, "must be from 0 to below 1", self, "beta2")
        _require(self.epsilon > 0, "must be above 0", self, "epsilon")
        _require(self.weight_decay >= 0, "must not be negative", self, "weight_decay")
        _require(self.gradient_clip > 0, "must be above 0", self, "gradient_clip")
        _require(
            0 <= self.final_learning_rate_fraction <= 1,
            "must be from 0 to 1",
            self,
            "final_learning_rate_fraction",
        )
        if not 1 <= self.warmup_step_count <= self.steps:
            raise ConfigError(
                f"train.warmup_steps must be from 1 to train.steps {self.steps}, "
                f"got {self.warmup_steps}",
                hint=f"try --set train.warmup_steps={max(1, self.steps // 20)}",
            )

    @property
    def warmup_step_count(self) -> int:
        """Steps until the learning rate is at its peak."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return max(1, min(2000, self.steps // 20))


def _require(holds: bool, wanted: str, config: TrainConfig, name: str) -> None:
    if not holds:
        raise ConfigError(f"train.{name} {wanted}, got {getattr(config, name)}")


@dataclass(frozen=True)
class RunConfig:
    """What a checkpoint carries: the model's shape and how it was trained."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        batch, context = self.train.batch_tokens, self.model.context_length
        if batch % context:
            raise ConfigError(
                f"train.batch_tokens must be a multiple of model.context_length {context}, "
                f"got {batch}",
                hint=f"try --set train.batch_tokens={max(1, batch // context) * context}",
            )
        micro = self.train.micro_batch_sequences
        if micro is not None and (micro < 1 or self.sequences % micro):
            raise ConfigError(
                f"train.micro_batch_sequences must divide the {self.sequences} sequences of a "
                f"batch, got {micro}"
            )

    @property
    def sequences(self) -> int:
        """Sequences in one optimizer step."""
        return self.train.batch_tokens // self.model.context_length

    def learnt(self) -> RunConfig:
        """The same run with the operational fields at their defaults: what must not change."""
        defaults = TrainConfig()
        kept = {name: getattr(defaults, name) for name in OPERATIONAL}
        warmup = self.train.warmup_step_count
        return replace(self, train=replace(self.train, warmup_steps=warmup, **kept))
