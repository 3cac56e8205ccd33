"""Models whose parameters and training tokens are published, to measure plans against."""

from __future__ import annotations

import re
from typing import NamedTuple

from puna.config import nearest
from puna.console import human_count, parse_count
from puna.errors import ConfigError


class Trained(NamedTuple):
    """A model's parameters (all of them) and the tokens it was trained on."""

    parameters: float
    tokens: float


# LLaMA: the paper's tables 1 and 2; the others: each model's own paper or card.
KNOWN = {
    "llama-7b": Trained(6.74e9, 1.0e12),
    "llama-13b": Trained(13.02e9, 1.0e12),
    "llama-33b": Trained(32.53e9, 1.4e12),
    "llama-65b": Trained(65.29e9, 1.4e12),
    "llama2-7b": Trained(6.74e9, 2.0e12),
    "llama2-13b": Trained(13.02e9, 2.0e12),
    "llama2-70b": Trained(68.98e9, 2.0e12),
    "llama3-8b": Trained(8.03e9, 15e12),
    "llama3-70b": Trained(70.55e9, 15e12),
    "llama3.1-405b": Trained(405.85e9, 15.6e12),
    "gpt3-175b": Trained(175e9, 300e9),
    "gopher-280b": Trained(280e9, 300e9),
    "chinchilla-70b": Trained(70e9, 1.4e12),
    "palm-540b": Trained(540e9, 780e9),
    "smollm2-135m": Trained(134.5e6, 2e12),
}


def name_of(model: Trained) -> str:
    """Its published name, or PARAMETERS@TOKENS."""
    names = (name for name, one in KNOWN.items() if one == model)
    return next(names, f"{human_count(model.parameters)}@{human_count(model.tokens)}")


def known(name: str) -> Trained:
    """A published model by its name, or any as PARAMETERS@TOKENS (13B@260B).

    Raises ConfigError that names the nearest.
    """
    if "@" in name:
        parameters, _at, tokens = name.partition("@")
        model = Trained(parse_count(parameters), parse_count(tokens))
        if min(model) <= 0:
            raise ConfigError(f"a model has more than 0 parameters and tokens, got {name!r}")
        return model
    plain = {re.sub(r"\W", "", key): key for key in KNOWN}
    key = plain.get(re.sub(r"\W", "", name.lower()))
    if key is None:
        raise ConfigError(
            f"there is no published model {name!r}",
            hint=f"{nearest(name.lower(), list(KNOWN))}; or PARAMETERS@TOKENS, such as 13B@260B",
        )
    return KNOWN[key]
