"""Log-probabilities in the two shapes of OpenAI's routes, from those of the engine process.

The engine's: {"id", "text", "bytes", "logprob", "top": [{"id", "text", "bytes", "logprob"}]}, best
first; `logprob` is None for a prompt's first token. `text` is what the token alone decodes to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TokenLogprob = dict[str, Any]


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Chat's: {"content": [{"token", "bytes", "logprob", "top_logprobs"}], "refusal": None}."""
    content = [
        {**_entry(one), "top_logprobs": [_entry(top) for top in one["top"]]} for one in tokens
    ]
    return {"content": content, "refusal": None}


def legacy_logprobs(tokens: Iterable[TokenLogprob], offset: int = 0) -> dict[str, list[Any]]:
    """Completions': lists of tokens, their log-probabilities, the likeliest, and where they begin.

    `offset` is the number of characters before the first; below 0 where a text's begin leaves some
    out, as the space before a first word. As OpenAI's, `top_logprobs` has the chosen token beside
    the likeliest.
    """
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    lists: dict[str, list[Any]] = {name: [] for name in names}
    for one in tokens:
        lists["tokens"].append(one["text"])
        lists["token_logprobs"].append(one["logprob"])
        lists["top_logprobs"].append(_top(one))
        lists["text_offset"].append(max(offset, 0))
        offset += characters(one)
    return lists


def characters(one: TokenLogprob) -> int:
    """How many characters begin in a token: none in a control token or in the rest of one."""
    return sum(byte & 0xC0 != 0x80 for byte in one["bytes"])


def _top(one: TokenLogprob) -> dict[str, float] | None:
    """By their texts; of two tokens with one spelling the likelier stays."""
    if one["logprob"] is None:
        return None
    top: dict[str, float] = {}
    for entry in (*one["top"], one):
        top.setdefault(entry["text"], entry["logprob"])
    return top


def _entry(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one["text"], "bytes": one["bytes"], "logprob": one["logprob"]}
