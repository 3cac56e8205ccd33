"""The settings of a generation, apart from the sampler so that commands show them without NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from puna.errors import ConfigError


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop. Raises ConfigError for a value out of range.

    `temperature` 0 is greedy; `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 are off.
    The release generates with temperature 0.8 and top_p 0.95, the defaults here. The same `seed`
    gives the same text; without one, the generation draws and reports its own.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", "at least 1", self.max_tokens)
        is_temperature = math.isfinite(self.temperature) and self.temperature >= 0
        _require(is_temperature, "temperature", "0 (greedy) or more", self.temperature)
        _require(self.top_k >= 0, "top_k", "0 (off) or more", self.top_k)
        _require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (off)", self.top_p)
        _require(0 <= self.min_p <= 1, "min_p", "between 0 (off) and 1", self.min_p)
        is_penalty = math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0
        _require(is_penalty, "repetition_penalty", "above 0; 1 is off", self.repetition_penalty)
        _require(self.seed is None or self.seed >= 0, "seed", "0 or more", self.seed)
        is_stop = isinstance(self.stop, tuple) and all(self.stop)
        _require(is_stop, "stop", "a tuple of texts that are not empty", self.stop)


def _require(holds: bool, name: str, wanted: str, found: object) -> None:
    if not holds:
        raise ConfigError(f"{name} should be {wanted}, got {found!r}")
