"""Tokens that stand for themselves in a text: where markup such as <|eot_id|> is, and what is not.

User-defined tokens are found in every text; control tokens only where they were asked for, so that
a text cannot pass for a conversation by spelling its marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

from puna.tokens.vocabulary import MARKUP, PieceType, Vocabulary


class Marks:
    """Finds the tokens of a vocabulary that are spelt out in a text."""

    def __init__(self, vocabulary: Vocabulary, found_by_encoder: frozenset[int]) -> None:
        """`found_by_encoder` are user-defined tokens to leave in the text."""
        self._vocabulary = vocabulary
        self._user_defined = [
            token
            for token in vocabulary.ids_of(PieceType.USER_DEFINED)
            if token not in found_by_encoder
        ]
        self._ids = {piece: token for token, piece in enumerate(vocabulary.pieces)}

    def split(self, text: str, *, special: bool) -> Iterator[str | int]:
        """The text's parts in order, ids of tokens among them; no part is empty."""
        pattern = self._all if special else self._only_user_defined
        strips_left, strips_right = self._vocabulary.strips_left, self._vocabulary.strips_right
        end = 0
        strips = False
        for found in pattern.finditer(text) if pattern else ():
            token = self._ids[found[0]]
            part = text[end : found.start()]
            part = part.lstrip() if strips else part
            if part := part.rstrip() if token in strips_left else part:
                yield part
            yield token
            end, strips = found.end(), token in strips_right
        if rest := text[end:].lstrip() if strips else text[end:]:
            yield rest

    @cached_property
    def _only_user_defined(self) -> re.Pattern[str] | None:
        return self._pattern(self._user_defined)

    @cached_property
    def _all(self) -> re.Pattern[str] | None:
        return self._pattern([*self._user_defined, *self._vocabulary.ids_of(*MARKUP)])

    def _pattern(self, tokens: list[int]) -> re.Pattern[str] | None:
        """One that matches the longest token at a place."""
        pieces = sorted((self._vocabulary.pieces[token] for token in tokens), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, pieces))) if pieces else None
