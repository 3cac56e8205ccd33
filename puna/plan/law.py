"""Scaling laws: the loss that N parameters trained on D tokens reach.

    L(N, D) = E + A / N^alpha + B / D^beta      nats a token (Hoffmann et al. 2022, equation 10)

E is the text's own entropy; the other two terms are what a finite model and finite data lose.
Training costs about 6ND FLOPs, every token read or written later 2N.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from puna import schema
from puna.config import nearest
from puna.console import human_count
from puna.errors import ConfigError, SchemaError

FloatArray = npt.NDArray[np.float64]
Number = TypeVar("Number", float, FloatArray)
Counts = Literal["all", "without embeddings"]
CONSTANTS = ("e", "a", "b", "alpha", "beta")
KIND = "puna.law"
EPOCH_DRAWS = Path(__file__).with_name("chinchilla_law.json")
HALVINGS = 100  # of an interval of log N: far below what a double can tell apart


@dataclass(frozen=True)
class Span:
    """Where the runs lie that a law was fitted to: each a lowest and a highest value."""

    parameters: tuple[float, float]
    tokens: tuple[float, float]
    tokens_per_parameter: tuple[float, float]

    def outside(self, parameters: float, tokens: float) -> list[str]:
        """What of this model lies beyond the runs, each with how far: "3.1 times the tokens"."""
        found = []
        for what, value, (low, high) in (
            ("parameters", parameters, self.parameters),
            ("tokens", tokens, self.tokens),
            ("tokens a parameter", tokens / parameters, self.tokens_per_parameter),
        ):
            if value > high * 1.01:
                found.append(f"{value / high:.3g} times the most {what} ({human_count(high)})")
            elif value < low / 1.01:
                found.append(f"{value / low:.2g} of the fewest {what} ({human_count(low)})")
        return found


@dataclass(frozen=True, kw_only=True)
class Law:
    """One fit of the law. `counts` says which parameters N counts; `draws` are the laws of runs
    drawn again (bootstrap), from which uncertainty is told, () where nobody published them."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float
    name: str = "fitted"
    source: str = ""
    counts: Counts = "all"
    fitted: Span | None = None
    draws: tuple[Law, ...] = ()

    def __post_init__(self) -> None:
        for name in CONSTANTS:
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ConfigError(f"a law's {name} should be a number above 0, got {value!r}")

    @property
    def parameter_exponent(self) -> float:
        """a in N* ∝ C^a, the share of more compute that goes into parameters: beta/(alpha+beta)."""
        return self.beta / (self.alpha + self.beta)

    def loss(self, parameters: Number, tokens: Number) -> Number:
        """Nats a token of a model with so many parameters after so many tokens."""
        value: Number = self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta
        return value

    def optimum(self, flops: float) -> tuple[float, float]:
        """(parameters, tokens) of the least loss for 6ND training FLOPs, in closed form:

        N* = G (C/6)^(beta/(alpha+beta)), D* = (C/6)/N*, G = (alpha A / beta B)^(1/(alpha+beta))
        """
        both = self.alpha + self.beta
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / both)
        parameters = ratio * (flops / 6) ** (self.beta / both)
        return parameters, flops / 6 / parameters

    def tokens_for(self, loss: float, parameters: Number) -> Number:
        """Tokens after which so many parameters reach `loss`; infinite where they never do.

        D = (B / (loss - E - A/N^alpha))^(1/beta)
        """
        room = np.asarray(loss - self.e - self.a / parameters**self.alpha)
        with np.errstate(divide="ignore", over="ignore"):
            found = (self.b / np.maximum(room, 0.0)) ** (1 / self.beta)
        tokens: Number = found if isinstance(parameters, np.ndarray) else float(found)
        return tokens

    def least_parameters(self, loss: float) -> float:
        """Parameters that reach `loss` with endless data; infinite from E downwards."""
        room = loss - self.e
        return (self.a / room) ** (1 / self.alpha) if room > 0 else math.inf

    def cheapest(self, loss: float, inference_tokens: float = 0.0) -> tuple[float, float]:
        """(parameters, tokens) of least 6ND + 2N·`inference_tokens` FLOPs that reach `loss`.

        Sardana et al. 2024 (arXiv 2401.00448), equation 3. Where the cost is least,
        alpha A/N^alpha = beta B/D^beta (1 + inference_tokens/3D); without inference that is
        Chinchilla's answer. Raises ConfigError for a loss that no model reaches.
        """
        least = self.least_parameters(loss)
        if not math.isfinite(least):
            raise ConfigError(
                f"a loss of {loss:g} was asked for, by the law {self.name} none is below "
                f"{self.e:.4g}: the text's own entropy"
            )
        low, high = math.log(least), math.log(least) + 40
        for _halving in range(HALVINGS):
            middle = (low + high) / 2
            parameters = math.exp(middle)
            tokens = self.tokens_for(loss, parameters)
            by_size = self.alpha * self.a / parameters**self.alpha
            by_data = self.beta * self.b / tokens**self.beta
            is_too_small = by_size > by_data * (1 + inference_tokens / (3 * tokens))
            low, high = (middle, high) if is_too_small else (low, middle)
        parameters = math.exp(high)
        return parameters, self.tokens_for(loss, parameters)

    def record(self) -> dict[str, Any]:
        """The constants and where they come from, for JSON."""
        return {name: getattr(self, name) for name in ("name", *CONSTANTS, "source", "counts")}


def break_even_tokens(small: tuple[float, float], large: tuple[float, float]) -> float:
    """Inference tokens from which on the small model (N, D) costs fewer FLOPs in all than the
    large one: 3 (N₁D₁ - N₂D₂) / (N₂ - N₁), from 6ND + 2N·tokens on both sides."""
    return 3 * (small[0] * small[1] - large[0] * large[1]) / (large[0] - small[0])


@dataclass(frozen=True)
class Frontier:
    """A rule for the best size of a training compute, N* = N₀ (C/C₀)^exponent, without losses."""

    exponent: float
    parameters: float
    flops: float
    source: str

    def optimum(self, flops: float) -> tuple[float, float]:
        """(parameters, tokens) for 6ND training FLOPs."""
        parameters = self.parameters * (flops / self.flops) ** self.exponent
        return parameters, flops / 6 / parameters


HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556"
HOFFMANN_SPAN = Span((70e6, 16e9), (5e9, 500e9), (1, 500))  # their section 3, in round numbers
CHINCHILLA_SPAN = Span((57.33e6, 16.18e9), (0.8187e9, 317.8e9), (0.456, 341))  # the 240 runs
PUBLISHED: dict[str, Law] = {
    "epoch": Law(
        e=1.8172, a=482.01, b=2085.43, alpha=0.3478, beta=0.3658, name="epoch",
        source="the law of 240 of Chinchilla's runs (Epoch AI, arXiv 2404.10102)",
        fitted=CHINCHILLA_SPAN,
    ),
    "hoffmann": Law(
        e=1.6934, a=406.4, b=410.7, alpha=0.3392, beta=0.2849, name="hoffmann",
        source=f"{HOFFMANN}, approach 3, digits of the TeX source",
        fitted=HOFFMANN_SPAN,
    ),
    "hoffmann-printed": Law(
        e=1.69, a=406.4, b=410.7, alpha=0.34, beta=0.28, name="hoffmann-printed",
        source=f"{HOFFMANN}, approach 3, as printed", fitted=HOFFMANN_SPAN,
    ),
}  # fmt: skip
SUSPECT = {
    "hoffmann": "their fit contradicts their own other two: the optimiser stopped early "
    "(arXiv 2404.10102), and so a model of half the size looks cheaper even to train",
    "hoffmann-printed": "rounding to two digits moved its optimum to 92 tokens a parameter "
    "at 65B's compute, the digits in the TeX source give 59, a sound fit 18",
}
FRONTIERS: dict[str, Frontier] = {  # their tables 3 and A3, the row of 10B parameters
    "hoffmann-1": Frontier(0.50, 10e9, 1.23e22, f"{HOFFMANN}, approach 1"),
    "hoffmann-2": Frontier(0.49, 10e9, 1.32e22, f"{HOFFMANN}, approach 2"),
}


def of_constants(e: float, a: float, b: float, alpha: float, beta: float) -> Law:
    """A law without a story. Raises ConfigError for constants that are not numbers above 0."""
    return Law(e=e, a=a, b=b, alpha=alpha, beta=beta)


def named(name: str) -> Law:
    """A published law; Epoch's with our draws. Raises ConfigError with the nearest names."""
    if name in FRONTIERS:
        raise ConfigError(
            f"{name} says the best size of a compute, not the loss of a size and its text",
            hint="hoffmann is their approach 3, epoch the same runs fitted again",
        )
    if name not in PUBLISHED:
        raise ConfigError(f"there is no published law {name!r}", hint=nearest(name, [*PUBLISHED]))
    if name != "epoch":
        return PUBLISHED[name]
    return replace(PUBLISHED[name], draws=_epoch_draws())


@cache
def _epoch_draws() -> tuple[Law, ...]:
    return load(EPOCH_DRAWS).draws


def save(law: Law, path: Path) -> None:
    """Write the law with its draws, which `load` reads again; whole or not at all."""
    span = None if law.fitted is None else vars(law.fitted)
    record = {**schema.stamp(KIND), **law.record(), "fitted": span}
    rows = [json.dumps([_shortened(draw, name) for name in CONSTANTS]) for draw in law.draws]
    head = json.dumps(record, indent=1, ensure_ascii=False)[:-2]
    text = f'{head},\n "draws": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"
    schema.write_atomic(path, text.encode("utf-8"))


def _shortened(law: Law, name: str) -> float:
    return float(f"{getattr(law, name):.6g}")


def load(path: Path) -> Law:
    """The law in a file that `save` wrote. Raises SchemaError for anything else."""
    record = schema.read_json(path, KIND)
    try:
        span = record["fitted"]
        fitted = Span(**{key: tuple(value) for key, value in span.items()}) if span else None
        law = of_constants(*(record[name] for name in CONSTANTS))
        draws = tuple(of_constants(*row) for row in record["draws"])
        if record["counts"] not in ("all", "without embeddings"):
            raise ConfigError(f"counts should be all or without embeddings: {record['counts']!r}")
        name, source, counts = str(record["name"]), str(record["source"]), record["counts"]
        return replace(law, name=name, source=source, counts=counts, fitted=fitted, draws=draws)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise SchemaError(
            f"{path} should be a law that `puna plan fit --save` wrote, found a broken one: {error}"
        ) from None
