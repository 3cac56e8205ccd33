"""What is held out: every 20th document, one in so many by its text's hash, or where there are too
few, the end of each.

A held-out text is never trained on: its exact equals are gone before the split (dedup), and
`cut_tails` drops a text that is left equal to a tail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from puna.data.dedup.exact import EXACT_DUPLICATE
from puna.data.document import Document, Dropped

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, Split] = ("train", "heldout")
EQUALS_HELDOUT = "equals held-out text"

# From best to worst place to cut a text; a cut is made right after the mark.
_BOUNDARIES = ("\n", ". ", "。", " ")
_LEAST_REACH = 40  # characters to look for a boundary in: a short text is cut between words too


@dataclass(frozen=True)
class HoldOut:
    """The rule of a build. By a text's hash equal texts fall on the same side, in any order and on
    any number of machines; with an `offset` it is `split_of`, for few documents of one order."""

    every: int
    offset: int | None = None

    def split(self, index: int, text: str) -> Split:
        """Where a document belongs: its number from 0 in reading order, and its text."""
        if self.offset is not None:
            return split_of(index, self.every, self.offset)
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
        return "heldout" if int.from_bytes(digest, "little") % self.every == 0 else "train"


def split_of(index: int, heldout_every: int, heldout_offset: int) -> Split:
    """Where document number `index` (from 0, in reading order, without duplicates) belongs."""
    return "heldout" if index % heldout_every == heldout_offset else "train"


def cut_tails(
    documents: Callable[[], Iterable[Document]], share: float
) -> Iterator[tuple[Split, Document] | Dropped]:
    """Every document's end as a held-out document `id#tail`, then the beginnings to train on.

    `documents` is called twice, so that one text at a time is in memory. A text too short to cut
    is trained on whole.
    """
    tails: dict[str, str] = {}
    for document in documents():
        tail = document.text[tail_start(document.text, share) :]
        tail_id = f"{document.id}#tail"
        if tail in tails:
            text_bytes = len(tail.encode("utf-8"))
            yield Dropped(tail_id, document.source, EXACT_DUPLICATE, tails[tail], text_bytes)
        elif tail:
            tails[tail] = tail_id
            yield "heldout", replace(document, text=tail, id=tail_id)
    for document in documents():
        head = document.text[: tail_start(document.text, share)]
        if head in tails:
            text_bytes = len(head.encode("utf-8"))
            yield Dropped(document.id, document.source, EQUALS_HELDOUT, tails[head], text_bytes)
        else:
            yield "train", replace(document, text=head)


def tail_start(text: str, share: float) -> int:
    """The character where the last `share` of a text begins, near a line, sentence or word's start.

    The boundary makes the tail half to one and a half of its size (more freely in short texts).
    The length of the text when it is too short to leave more than white space on both sides.
    """
    cut = _best_cut(text, share)
    has_both_sides = bool(text[:cut].strip()) and bool(text[cut:].strip())
    return cut if has_both_sides else len(text)


def _best_cut(text: str, share: float) -> int:
    wanted = len(text) - round(len(text) * share)
    if wanted == len(text):
        return wanted
    reach = max((len(text) - wanted) // 2, _LEAST_REACH)
    first, last = max(wanted - reach, 1), min(wanted + reach, len(text) - 1)
    for mark in _BOUNDARIES:
        if (cut := _nearest_cut(text, mark, first, wanted, last)) is not None:
            return cut
    return wanted


def _nearest_cut(text: str, mark: str, first: int, wanted: int, last: int) -> int | None:
    """The place after a `mark` that is nearest to `wanted`, within first..last."""
    before = text.rfind(mark, max(first - len(mark), 0), wanted)
    after = text.find(mark, max(wanted - len(mark), 0), last)
    places = [place + len(mark) for place in (before, after) if place >= 0]
    allowed = [place for place in places if first <= place <= last]
    return min(allowed, key=lambda place: abs(place - wanted), default=None)
