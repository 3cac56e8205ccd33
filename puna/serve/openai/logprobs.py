"""Log-probabilities in the two shapes of OpenAI's routes, from those of the engine process.

The engine's: {"id", "text", "bytes", "logprob", "top": [{"id", "text", "bytes", "logprob"}]}, best
first; `logprob` is None for a prompt's first token. `text` is what the bytes decode to, or of a
control token its name.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

TokenLogprob = dict[str, Any]

_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Chat's: {"content": [{"token", "bytes", "logprob", "top_logprobs"}], "refusal": None}."""
    content = [
        {**_entry(one), "top_logprobs": [_entry(top) for top in one["top"]]} for one in tokens
    ]
    return {"content": content, "refusal": None}


class LegacyLogprobs:
    """Completions': lists of a text's tokens, their log-probabilities, the likeliest, and where
    they begin in the text, in characters; what is a part of one begins where that does.

    As OpenAI's, `top_logprobs` has the chosen token beside the likeliest.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self.lists: dict[str, list[Any]] = {name: [] for name in _LISTS}

    def add(self, tokens: Iterable[TokenLogprob]) -> dict[str, list[Any]]:
        """The lists of the tokens that follow, and nothing else."""
        rows = [(one["text"], one["logprob"], _top(one), self._place(one)) for one in tokens]
        added = {name: [row[place] for row in rows] for place, name in enumerate(_LISTS)}
        for name, values in added.items():
            self.lists[name] += values
        return added

    def _place(self, one: TokenLogprob) -> int:
        place = self._offset
        self._offset += len(self._decoder.decode(bytes(one["bytes"])))
        return place


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
