"""A real model, served and offline: a client has to be told what the engine itself says.

Both compute row by row in one way, so that texts are the same whatever runs beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.engine_runs import BACKEND
from serve.puna_serve import puna_serve

from puna.infer.constraint import Constraint
from puna.infer.engine import Engine, load_engine
from puna.infer.result import GenerationResult
from puna.infer.sampling_params import SamplingParams

TOKENS = 24
Prompt = str | list[int] | list[dict[str, Any]]


@dataclass(frozen=True)
class Offline:
    """Where the model is served, and the engine that has the same weights."""

    url: str
    engine: Engine

    def result(self, prompt: Prompt, **sampling: Any) -> GenerationResult:
        """What follows a text, ids or a conversation; greedily, 24 tokens at most."""
        if isinstance(prompt, list) and isinstance(prompt[0], dict):
            tokenizer = self.engine.tokenizer
            prompt = tokenizer.encode_chat(tokenizer.render_chat(prompt))
        params = SamplingParams(**{"max_tokens": TOKENS, "temperature": 0, **sampling})
        (found,) = self.engine.generate([prompt], params)
        return found

    def text(self, prompt: Prompt, **sampling: Any) -> str:
        """The text alone."""
        return self.result(prompt, **sampling).text

    def form(self, prompt: Prompt, schema: dict[str, Any], **sampling: Any) -> str:
        """The text that keeps to a JSON schema."""
        return self.text(prompt, constraint=Constraint.of({"json_schema": schema}), **sampling)

    def scores(self, contexts: Sequence[list[int]], ends: Sequence[list[int]]) -> list[float]:
        """The log-probability of each end after its context, of both in ids; and in nats."""
        whole = [before + after for before, after in zip(contexts, ends, strict=True)]
        params = SamplingParams(max_tokens=0, prompt_logprobs=0)
        scores = []
        for result, after in zip(self.engine.generate(whole, params), ends, strict=True):
            assert result.prompt_logprobs is not None
            found = result.prompt_logprobs[-len(after) :]
            scores.append(sum(one.logprob for one in found if one is not None))
        return scores


@contextmanager
def served(model: Path, name: str, *options: object) -> Iterator[Offline]:
    """The model by `puna serve`, and offline."""
    with puna_serve(model, "--name", name, "--backend", BACKEND, *options) as url:
        yield Offline(url, load_engine(model, BACKEND))


def asked(question: str) -> list[dict[str, Any]]:
    """A conversation that begins with it."""
    return [{"role": "user", "content": question}]
