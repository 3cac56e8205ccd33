"""Drafts without a second model: how the text went on after its last words, earlier in it.

(Prompt lookup decoding, Saxena 2023.) The model checks all drafts in one step, and only those that
it chooses itself, with the same draw of the same number, are kept: so no text changes by it.
"""

from __future__ import annotations

from collections.abc import Iterable


class NgramDrafts:
    """The ids of one sequence so far, and where each of their n-grams stood last.

    An appended id and a proposal cost microseconds at any length.
    """

    def __init__(self, ids: Iterable[int], shortest: int, longest: int) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # n-gram -> position after its last one
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Append ids of the prompt, or those generated."""
        for token in ids:
            # Known only now that something follows: a proposal should not find the text's end.
            for ngram in self._last_ngrams():
                self._next[ngram] = len(self._ids)
            self._ids.append(token)

    def propose(self, count: int) -> list[int]:
        """Up to `count` ids that followed the longest last n-gram where it last stood before.

        Where that reaches the end of the text it goes on with the drafts: a loop stays a loop.
        """
        begin = next((self._next[one] for one in self._last_ngrams() if one in self._next), None)
        if begin is None:
            return []
        followed = self._ids[begin : begin + count]
        period = len(self._ids) - begin
        return [followed[i % period] for i in range(count)]

    def _last_ngrams(self) -> list[tuple[int, ...]]:
        """The n-grams that end the text, the longest first."""
        ids = self._ids
        return [tuple(ids[-size:]) for size in self._sizes if size <= len(ids)]
