"""What the formats of byte-level BPE share: pieces with ids from 0 on, merges that can be made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from puna.errors import TokenizerError
from puna.tokens.byte_spelling import BYTE_OF_CHARACTER, read_spelling
from puna.tokens.vocabulary import MOST_PIECES, PieceType, Vocabulary, checked, shown


def pieces_by_id(ids: Mapping[str, Any], path: Path) -> list[str]:
    """The pieces of a table piece -> id, in the order of their ids.

    Raises TokenizerError unless the ids are all numbers from 0 on without a gap.
    """
    result: list[str | None] = [None] * len(ids)
    for piece, token in ids.items():
        if type(token) is not int or not 0 <= token < len(ids):
            raise TokenizerError(
                f"{path}: piece {shown(piece)} should have an id from 0 to {len(ids) - 1}, "
                f"found {shown(str(token))}"
            )
        if result[token] is not None:
            raise TokenizerError(f"{path}: pieces {shown(piece)} and others share the id {token}")
        result[token] = piece
    return [piece for piece in result if piece is not None]


def check_merges(pieces: Iterable[str], merges: Sequence[str], path: Path) -> None:
    """Raise TokenizerError for a merge that is no pair of pieces which make a piece."""
    if len(merges) > 16 * MOST_PIECES:
        raise TokenizerError(f"{path} has {len(merges):,} merges, more than any vocabulary")
    known = set(pieces)
    for number, merge in enumerate(merges):
        left, _space, right = merge.partition(" ")
        if left not in known or right not in known or left + right not in known:
            raise TokenizerError(
                f"{path}: merge {number} should join two pieces to a third, found {shown(merge)}"
            )
    if len(set(merges)) < len(merges):
        raise TokenizerError(f"{path}: a merge comes twice")


def bpe_vocabulary(
    pieces: Sequence[str],
    merges: Sequence[str],
    path: Path,
    *,
    types: Sequence[PieceType] | None = None,
    control: Iterable[int] = (),
    **rules: Any,
) -> Vocabulary:
    """A checked vocabulary of byte-level BPE; `rules` are fields of Vocabulary.

    Raises TokenizerError for pieces that are not spelt in GPT-2's bytes, and impossible merges.
    """
    if types is None:
        marks = set(control)
        types = [
            PieceType.CONTROL if token in marks else PieceType.NORMAL
            for token in range(len(pieces))
        ]
    typed = list(zip(pieces, types, strict=True))
    normal = (piece for piece, kind in typed if kind == PieceType.NORMAL)
    is_spelt = BYTE_OF_CHARACTER.keys() >= set("".join(normal))
    for token, (piece, kind) in enumerate([] if is_spelt else typed):
        if kind == PieceType.NORMAL and read_spelling(piece) is None:
            raise TokenizerError(
                f"{path}: piece {token} {shown(piece)} is not spelt in GPT-2's printable bytes"
            )
    check_merges(pieces, merges, path)
    return checked(
        Vocabulary("bpe", tuple(pieces), tuple(types), merges=tuple(merges), **rules), path
    )
