"""A tokenizer's content, free of any file format: pieces, what they are, how text is cut.

Each file format (SentencePiece, tiktoken, tokenizer.json, GGUF, llama2.c) is read into this and
some are written from it, so that formats know this form and not one another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

Kind = Literal["spm", "bpe"]


class PieceType(IntEnum):
    """What a piece is; the numbers are SentencePiece's and GGUF's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Pieces by id, and the rules around them.

    spm: SentencePiece BPE; `pieces` spell a space as U+2581 and a byte as <0x0A>, `scores` rank
    merges. bpe: byte-level BPE; `pieces` are spelled in GPT-2's printable bytes, `merges` are
    ranked pairs "a b", and `pre_tokenizer` names how text is cut before merging.
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
    chat_template: str | None = None
    extra_stop_ids: tuple[int, ...] = field(default=())  # end of turn, end of message
