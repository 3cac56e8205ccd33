"""The settings of a generation, apart from the sampler so that commands show them without NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from puna.errors import ConfigError
from puna.infer.constraint import Constraint

# Requests come from strangers: each bound caps what one of them may cost.
MOST_CHOICES = 128
MOST_LOGPROBS = 20
MOST_STOPS, LONGEST_STOP, MOST_STOP_IDS = 32, 1024, 256
MOST_BIASES = 1024
MOST_DRAFT_TOKENS, LONGEST_NGRAM = 32, 8

# name -> kind, least, most, what to say when it is neither
RANGES: dict[str, tuple[type, float, float, str]] = {
    "max_tokens": (Integral, 0, math.inf, "0 (only read the prompt) or more"),
    "temperature": (Real, 0, 1000, "between 0 (greedy) and 1000"),
    "top_k": (Integral, 0, math.inf, "0 (off) or more"),
    "top_p": (Real, 1e-30, 1, "above 0 and at most 1 (off)"),
    "min_p": (Real, 0, 1, "between 0 (off) and 1"),
    "typical_p": (Real, 1e-30, 1, "above 0 and at most 1 (off)"),
    "repetition_penalty": (Real, 0.01, 100, "between 0.01 and 100; 1 is off"),
    "presence_penalty": (Real, -2, 2, "between -2 and 2; 0 is off"),
    "frequency_penalty": (Real, -2, 2, "between -2 and 2; 0 is off"),
    "seed": (Integral, 0, 2**63 - 1, "a whole number between 0 and 2^63 - 1"),
    "n": (Integral, 1, MOST_CHOICES, f"between 1 and {MOST_CHOICES}"),
    "logprobs": (Integral, 0, MOST_LOGPROBS, f"between 0 and {MOST_LOGPROBS}"),
    "prompt_logprobs": (Integral, 0, MOST_LOGPROBS, f"between 0 and {MOST_LOGPROBS}"),
    "draft_tokens": (Integral, 0, MOST_DRAFT_TOKENS, f"between 0 (off) and {MOST_DRAFT_TOKENS}"),
    "shortest_ngram": (Integral, 1, LONGEST_NGRAM, f"between 1 and {LONGEST_NGRAM}"),
    "longest_ngram": (Integral, 1, LONGEST_NGRAM, f"between 1 and {LONGEST_NGRAM}"),
}
MAY_BE_NONE = ("seed", "logprobs", "prompt_logprobs")


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens and when to stop. Raises ConfigError for a value out of range.

    `temperature` 0 is greedy; `top_k` 0, `top_p` 1, `min_p` 0, `typical_p` 1, and the penalties
    1, 0 and 0 are off. The release generates with temperature 0.8 and top_p 0.95, the defaults
    here; the sampler says in which order all of them act. The same `seed` gives the same text;
    without one, the generation draws and reports its own.

    `logit_bias` adds to the logits of token ids, -100 to 100. `stop` and `stop_ids` end the text
    and are no part of it; so does the model's own end unless `ignore_eos`. `n` is the number of
    texts. `constraint` says what a text has to be. `logprobs` and `prompt_logprobs` ask for
    log-probabilities with so many alternatives.
    `draft_tokens` guesses that many tokens a step from how the text went on after its last
    `longest_ngram` to `shortest_ngram` tokens before; that changes the speed and never the text.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    draft_tokens: int = 0
    shortest_ngram: int = 2
    longest_ngram: int = 4

    def __post_init__(self) -> None:
        for name, (kind, least, most, wanted) in RANGES.items():
            value = getattr(self, name)
            fits = _is(kind, value) and least <= value <= most
            _require(fits or (value is None and name in MAY_BE_NONE), name, wanted, value)
        in_order = self.shortest_ngram <= self.longest_ngram
        _require(in_order, "shortest_ngram", "at most longest_ngram", self.shortest_ngram)
        _require(type(self.ignore_eos) is bool, "ignore_eos", "true or false", self.ignore_eos)
        is_constraint = isinstance(self.constraint, Constraint | None)
        _require(is_constraint, "constraint", "a Constraint or None", self.constraint)
        self._check_stops()
        self._check_bias()
        object.__setattr__(self, "logit_bias", MappingProxyType(dict(self.logit_bias)))

    @property
    def has_penalties(self) -> bool:
        """Whether the choice hangs on which ids the text has so far."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1, 0, 0)

    @property
    def needs_logits(self) -> bool:
        """Whether something changes logits before a token is drawn, reports them, or is typical."""
        is_changed = self.has_penalties or bool(self.logit_bias) or self.constraint is not None
        is_typical = self.typical_p != 1 and self.temperature != 0
        return is_changed or self.logprobs is not None or is_typical

    def require_known_ids(self, vocabulary_size: int) -> None:
        """Raises ConfigError for a `logit_bias` or stop id that the model does not have."""
        for name, ids in (("logit_bias", self.logit_bias), ("stop_ids", self.stop_ids)):
            unknown = next((one for one in ids if one >= vocabulary_size), None)
            wanted = f"of token ids below {vocabulary_size}, the size of the vocabulary"
            _require(unknown is None, name, wanted, unknown)

    def _check_stops(self) -> None:
        are_texts = isinstance(self.stop, tuple) and all(
            isinstance(stop, str) and 0 < len(stop) <= LONGEST_STOP for stop in self.stop
        )
        wanted = f"a tuple of texts of 1 to {LONGEST_STOP} characters"
        _require(are_texts, "stop", wanted, self.stop)
        _require(
            len(self.stop) <= MOST_STOPS, "stop", f"at most {MOST_STOPS} texts", len(self.stop)
        )
        are_ids = isinstance(self.stop_ids, tuple) and all(
            _is(Integral, one) and one >= 0 for one in self.stop_ids
        )
        _require(are_ids, "stop_ids", "a tuple of token ids", self.stop_ids)
        count = len(self.stop_ids)
        _require(count <= MOST_STOP_IDS, "stop_ids", f"at most {MOST_STOP_IDS} ids", count)

    def _check_bias(self) -> None:
        bias = self.logit_bias
        _require(isinstance(bias, Mapping), "logit_bias", "a mapping of token ids to numbers", bias)
        _require(len(bias) <= MOST_BIASES, "logit_bias", f"at most {MOST_BIASES} ids", len(bias))
        for token, value in bias.items():
            fits = _is(Integral, token) and token >= 0 and _is(Real, value) and -100 <= value <= 100
            wanted = "token ids with numbers between -100 and 100"
            _require(fits, "logit_bias", wanted, {token: value})


def _is(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _require(holds: bool, name: str, wanted: str, found: object) -> None:
    if not holds:
        raise ConfigError(f"{name} should be {wanted}, got {found!r}")
