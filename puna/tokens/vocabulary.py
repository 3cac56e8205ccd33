"""A tokenizer's content, free of any file format: pieces, what they are, how text is cut.

Each file format (SentencePiece, tiktoken, tokenizer.json, GGUF, llama2.c) is read into this and
some are written from it, so that formats know this form and not one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Literal

from puna.errors import TokenizerError

Kind = Literal["spm", "bpe"]

SPACE_MARK = "\u2581"  # SentencePiece writes a space inside a piece as this character
MOST_PIECES = 1 << 20  # four times the largest vocabulary in use
MOST_UNUSED = 1 << 16  # pieces that added tokens may leave unused; a few hundred bytes each

# Tokens that end a model's turn or its text, whatever a file names as EOS: Meta's, ChatML's and
# those of common fine-tunes (llama.cpp goes by the same names).
TURN_ENDS = frozenset(
    ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|end|>")
) | {"</s>", "<end_of_turn>", "<EOT>", "_<EOT>", "<|return|>", "<|call|>"}


# Hugging Face's names of the tokens that have a part to play.
MARK_NAMES = {
    "bos_id": "bos_token",
    "eos_id": "eos_token",
    "unknown_id": "unk_token",
    "padding_id": "pad_token",
}


class PieceType(IntEnum):
    """What a piece is; the numbers are SentencePiece's and GGUF's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


MARKUP = frozenset((PieceType.CONTROL, PieceType.UNKNOWN))  # read from text only when asked for


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by id, and the rules around them.

    spm: SentencePiece BPE; `pieces` spell a space as U+2581 and a byte as <0x0A>, `scores` rank
    merges. bpe: byte-level BPE; `pieces` are spelled in GPT-2's printable bytes, `merges` are
    ranked pairs "a b", and `pre_tokenizer` names how text is cut before merging. Control and
    user-defined pieces are spelled as themselves in both.
    """

    kind: Kind
    pieces: tuple[str, ...]
    types: tuple[PieceType, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    pre_tokenizer: str = ""  # llama-bpe, gpt-2, smollm; GGUF's tokenizer.ggml.pre
    bos_id: int = -1  # -1: there is none
    eos_id: int = -1
    unknown_id: int = -1
    padding_id: int = -1
    adds_bos: bool = True  # whether the file says that a text begins with BOS
    adds_eos: bool = False
    dummy_prefix: bool = True  # spm: a space is put before a text
    prefix_after_marks: bool = True  # spm: and before what follows a control token within a text
    prefix_doubles_spaces: bool = True  # spm: and before a text that begins with a space
    normalizes: bool = False  # spm: text is changed by rules of the file's own; LLaMA has none
    chat_template: str | None = None
    extra_stop_ids: tuple[int, ...] = field(default=())  # end of turn, end of message
    strips_left: frozenset[int] = frozenset()  # control tokens that take the spaces before them
    strips_right: frozenset[int] = frozenset()  # and those after them

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """EOS first, then what else ends a turn: named by the file, or known by its spelling."""
        known = [
            token
            for token, kind in enumerate(self.types)
            if kind in (PieceType.CONTROL, PieceType.USER_DEFINED)
            and self.pieces[token] in TURN_ENDS
        ]
        found = dict.fromkeys([self.eos_id, *self.extra_stop_ids, *known])
        return tuple(token for token in found if token >= 0)

    def named_pieces(self) -> dict[str, str]:
        """bos_token and its like, as Hugging Face's files name them; empty for those not there."""
        ids = {name: getattr(self, field) for field, name in MARK_NAMES.items()}
        return {name: self.pieces[token] if token >= 0 else "" for name, token in ids.items()}

    def ids_of(self, *types: PieceType) -> list[int]:
        """The ids of all pieces of these types, in order."""
        return [token for token, kind in enumerate(self.types) if kind in types]


@dataclass(frozen=True)
class AddedToken:
    """A token that a file adds to a vocabulary, or says more about: Hugging Face's added tokens."""

    id: int
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False


def checked(vocabulary: Vocabulary, path: Path) -> Vocabulary:
    """`vocabulary` itself. Raises TokenizerError where its parts contradict one another."""
    size = len(vocabulary.pieces)
    if not 0 < size <= MOST_PIECES:
        raise TokenizerError(f"{path} should hold 1 to {MOST_PIECES:,} pieces, found {size:,}")
    for name, count in (("types", len(vocabulary.types)), ("scores", len(vocabulary.scores))):
        if count != size and not (name == "scores" and count == 0):
            raise TokenizerError(f"{path} has {size:,} pieces but {count:,} {name} of pieces")
    _check_pieces(vocabulary, path)
    named = [(name, getattr(vocabulary, name)) for name in MARK_NAMES]
    for name, token in [*named, *(("a stop id", token) for token in vocabulary.extra_stop_ids)]:
        if not -1 <= token < size:
            raise TokenizerError(f"{path}: {name} is {token}, the last piece is {size - 1}")
    return vocabulary


def _check_pieces(vocabulary: Vocabulary, path: Path) -> None:
    if len(set(vocabulary.pieces)) < len(vocabulary.pieces):
        first: dict[str, int] = {}
        for token, piece in enumerate(vocabulary.pieces):
            if first.setdefault(piece, token) != token:
                raise TokenizerError(
                    f"{path}: piece {token} {shown(piece)} is the same as piece {first[piece]}"
                )
    if "" in vocabulary.pieces:
        raise TokenizerError(f"{path}: piece {vocabulary.pieces.index('')} is empty")
    for token, score in enumerate(vocabulary.scores):
        if not math.isfinite(score):
            raise TokenizerError(f"{path}: the score of piece {token} is {score}")
    try:
        "".join(vocabulary.pieces).encode("utf-8")
    except UnicodeEncodeError:
        token, piece = next(
            (token, piece)
            for token, piece in enumerate(vocabulary.pieces)
            if any("\ud800" <= letter <= "\udfff" for letter in piece)
        )
        raise TokenizerError(
            f"{path}: piece {token} {shown(piece)} holds a lone surrogate"
        ) from None


def shown(text: str) -> str:
    """`text` for a message: quoted, everything unprintable escaped, cut to 40 characters."""
    return ascii(text) if len(text) <= 40 else f"{text[:40]!a}..."


def padded(vocabulary: Vocabulary, size: int) -> Vocabulary:
    """`vocabulary` with unused pieces [PAD32000], [PAD32001], ... up to `size` pieces.

    A model's embedding often has more rows than its tokenizer has pieces.
    """
    extra = range(len(vocabulary.pieces), size)
    return replace(
        vocabulary,
        pieces=(*vocabulary.pieces, *(f"[PAD{token}]" for token in extra)),
        types=(*vocabulary.types, *(PieceType.UNUSED for _ in extra)),
        scores=(*vocabulary.scores, *(-1000.0 for _ in extra)) if vocabulary.scores else (),
    )


def with_added(vocabulary: Vocabulary, added: Iterable[AddedToken], path: Path) -> Vocabulary:
    """`vocabulary` with added tokens in their places, as control or user-defined pieces.

    Places between the last piece and the first added token become unused pieces. Raises
    TokenizerError for an id that no vocabulary has.
    """
    tokens = sorted(added, key=lambda token: token.id)
    if not tokens:
        return vocabulary
    if not 0 <= tokens[0].id <= tokens[-1].id < MOST_PIECES:
        raise TokenizerError(f"{path}: the ids of added tokens must be 0 to {MOST_PIECES - 1:,}")
    unused = tokens[-1].id + 1 - len(vocabulary) - len(tokens)
    if unused > MOST_UNUSED:
        raise TokenizerError(
            f"{path}: the added token {tokens[-1].id} would leave {unused:,} ids without a token, "
            f"{MOST_UNUSED:,} are allowed"
        )
    result = padded(vocabulary, tokens[-1].id + 1)
    pieces, types = list(result.pieces), list(result.types)
    for token in tokens:
        wanted = PieceType.CONTROL if token.special else PieceType.USER_DEFINED
        if token.id == vocabulary.unknown_id:
            wanted = PieceType.UNKNOWN
        pieces[token.id], types[token.id] = token.content, wanted
    return replace(
        result,
        pieces=tuple(pieces),
        types=tuple(types),
        strips_left=result.strips_left | {token.id for token in tokens if token.lstrip},
        strips_right=result.strips_right | {token.id for token in tokens if token.rstrip},
    )
