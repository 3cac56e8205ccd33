"""The slow plain twin of the engine: one text at a time, all of it anew for each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from puna.infer.grammar import Grammar, GrammarText
from puna.infer.logprobs import TokenLogprob, token_logprob
from puna.infer.sampler import TokenCounts, next_token, uniform
from puna.infer.sampling_params import SamplingParams
from puna.tokens.tokenizer import Tokenizer

LogitsAfter = Callable[[Sequence[int]], np.ndarray]


@dataclass
class PlainText:
    """What a text should be."""

    text: str
    ids: tuple[int, ...]
    ended_by: str
    logprobs: tuple[TokenLogprob, ...] | None


def plain_text(
    logits_after: LogitsAfter,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    context_length: int,
    choice: int = 0,
    grammar: Grammar | None = None,
) -> PlainText:
    """The continuation of `prompt`; `params` must have a seed, and what its constraint became."""
    made: list[int] = []
    logprobs = []
    ended_by, text = "context end", ""
    while params.max_tokens and len(prompt) + len(made) < context_length:
        logits = logits_after([*prompt, *made]).astype(np.float32)
        counts = TokenCounts(prompt, made)
        point = uniform(params.seed, len(made), choice)
        allowed = logits[: tokenizer.vocabulary_size]
        if grammar is not None:
            allowed = grammar_text(grammar, tokenizer, params, made).masked(allowed)
        token = next_token(allowed, params, counts, point)
        ending = None if params.ignore_eos or token not in tokenizer.stop_ids else "eos"
        ending = ending or ("stop token" if token in params.stop_ids else None)
        if ending:
            ended_by = ending
            break
        made.append(token)
        logprobs.append(token_logprob(logits, token, params.logprobs or 0))
        text = continuation(tokenizer, prompt, made)
        if any(stop in text for stop in params.stop):
            ended_by = "stop string"
            # That which is complete first, and of two the longer.
            ends = [
                (text.find(stop) + len(stop), -len(stop)) for stop in params.stop if stop in text
            ]
            end, minus_length = min(ends)
            text = text[: end + minus_length]
            break
        if grammar and grammar_text(grammar, tokenizer, params, made).is_complete:
            ended_by = "constraint"
            break
        if len(made) == params.max_tokens:
            ended_by = "max tokens"
            break
    ended_by = ended_by if params.max_tokens else "max tokens"
    is_asked = params.logprobs is not None
    return PlainText(text, tuple(made), ended_by, tuple(logprobs) if is_asked else None)


def grammar_text(
    grammar: Grammar, tokenizer: Tokenizer, params: SamplingParams, made: Sequence[int]
) -> GrammarText:
    """The grammar, gone through anew."""
    ends = set() if params.ignore_eos else tokenizer.stop_ids
    text = grammar.text({*ends, *params.stop_ids})
    for token in made:
        text.take(token)
    return text


def continuation(tokenizer: Tokenizer, prompt: Sequence[int], made: Sequence[int]) -> str:
    """The text of `made` after the prompt's, with the rest of a character that the prompt began."""
    stream = tokenizer.stream()
    before = "".join(map(stream.push, prompt))
    return tokenizer.decode([*prompt, *made]).removeprefix(before)


def prompt_logprobs(
    logits_after: LogitsAfter, prompt: Sequence[int], alternatives: int
) -> tuple[TokenLogprob | None, ...]:
    """Of each of the prompt's ids; None for the first."""
    return (
        None,
        *(
            token_logprob(logits_after(prompt[:end]).astype(np.float32), prompt[end], alternatives)
            for end in range(1, len(prompt))
        ),
    )
