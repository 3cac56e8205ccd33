"""Log-probabilities of a row of logits: the chosen token's and the likeliest alternatives'.

They are the model's own, before logit bias, penalties and temperature, as vLLM reports them: so
they do not hang on how a text was sampled, and a prompt's tokens have them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from puna.infer.sampler import Logits, likeliest_ids


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability in nats, and those of the likeliest ids there, best first.

    The token itself is among `alternatives` only where it is one of the likeliest.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


def token_logprob(logits: Logits, token: int, alternatives: int = 0) -> TokenLogprob:
    """What the model gave `token` in `logits` [vocabulary], with that many alternatives.

    log softmax(logits)[token] = logits[token] - log sum exp(logits)
    """
    best = logits.max()
    log_sum = float(best) + math.log(float(np.exp(logits - best).sum()))
    ids = likeliest_ids(logits, alternatives)
    return TokenLogprob(
        token=token,
        logprob=float(logits[token]) - log_sum,
        alternatives=tuple((int(one), float(logits[one]) - log_sum) for one in ids),
    )
