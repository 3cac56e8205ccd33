"""Llama 3's `tokenizer.model`: a line for each token, its bytes in base64 and its rank.

The file holds no special tokens: Meta's code puts 256 of them after the last rank, always the
same ones. A rank is an id, and the order in which merges are made.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from puna.errors import TokenizerError
from puna.tokens.byte_spelling import read_spelling, spelled
from puna.tokens.vocabulary import MOST_PIECES, PieceType, Vocabulary, checked, shown

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(5, 251)),
)
PRE_TOKENIZER = "llama-bpe"
_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d{1,7}\r?\n?")
_LONGEST_TOKEN_BYTES = 1 << 10


def is_tiktoken(start: bytes) -> bool:
    """Whether a file that begins so has base64 and a rank in its first line."""
    return _LINE.match(start) is not None


def read_tiktoken(content: bytes, path: Path) -> Vocabulary:
    """The vocabulary of a Llama 3 `tokenizer.model`, with Meta's special tokens at its end.

    Raises TokenizerError, with the line, for a line that is no token, a token that comes twice, a
    rank out of its order, or a single byte without a token.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        token = _token(line, number, path)
        if len(ranks) >= MOST_PIECES - len(SPECIAL_TOKENS):
            raise TokenizerError(f"{path}: line {number}: more tokens than any vocabulary has")
        if int(line.rpartition(b" ")[2]) != len(ranks):
            raise TokenizerError(
                f"{path}: line {number} should have rank {len(ranks)}, found {shown_bytes(line)}"
            )
        if ranks.setdefault(token, len(ranks)) != len(ranks) - 1:
            raise TokenizerError(f"{path}: line {number} is the same token as line {ranks[token]}")
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise TokenizerError(
                f"{path} has {len(ranks):,} tokens and none for the byte 0x{byte:02X}",
                hint="the file is cut short: copy or download it again",
            )
    pieces = (*map(spelled, ranks), *SPECIAL_TOKENS)
    kinds = [PieceType.NORMAL] * len(ranks) + [PieceType.CONTROL] * len(SPECIAL_TOKENS)
    vocabulary = Vocabulary(
        kind="bpe",
        pieces=pieces,
        types=tuple(kinds),
        merges=merges_by_rank(dict(zip(pieces, range(len(ranks)), strict=False))),
        pre_tokenizer=PRE_TOKENIZER,
        bos_id=len(ranks),
        eos_id=len(ranks) + 1,
    )
    return checked(vocabulary, path)


def write_tiktoken(vocabulary: Vocabulary) -> bytes | None:
    """The file as Meta has it; None where ranks and ids cannot say what `vocabulary` does.

    They can where its pieces are Llama 3's kind: every merge's rank follows from its id, and all
    special tokens come after, 256 of them.
    """
    count = len(vocabulary) - len(SPECIAL_TOKENS)
    kinds = vocabulary.types
    if (
        count < 256
        or vocabulary.pre_tokenizer != PRE_TOKENIZER
        or PieceType.NORMAL in kinds[count:]
    ):
        return None
    spellings = [read_spelling(piece) for piece in vocabulary.pieces[:count]]
    if any(kind != PieceType.NORMAL for kind in kinds[:count]) or None in spellings:
        return None
    ranks = {piece: token for token, piece in enumerate(vocabulary.pieces[:count])}
    if merges_by_rank(ranks) != vocabulary.merges:
        return None
    lines = [
        base64.b64encode(content) + b" %d\n" % rank
        for rank, content in enumerate(spellings)
        if content is not None
    ]
    return b"".join(lines)


def merges_by_rank(ranks: dict[str, int]) -> tuple[str, ...]:
    """The merges that make each piece, as pairs "a b" in the order in which they are tried.

    A piece is made from any two pieces that join to it; the pairs of a piece are ordered by the
    ranks of their parts, which is how the merges that Hugging Face publishes are ordered.
    """
    merges: list[str] = []
    for piece in ranks:
        pairs = [
            (ranks[piece[:cut]], ranks[piece[cut:]], cut)
            for cut in range(1, len(piece))
            if piece[:cut] in ranks and piece[cut:] in ranks
        ]
        merges += [f"{piece[:cut]} {piece[cut:]}" for _left, _right, cut in sorted(pairs)]
    return tuple(merges)


def shown_bytes(line: bytes) -> str:
    """The start of a line for a message."""
    return shown(line[:48].decode("ascii", "backslashreplace"))


def _token(line: bytes, number: int, path: Path) -> bytes:
    match = _LINE.fullmatch(line)
    try:
        token = base64.b64decode(line.partition(b" ")[0], validate=True) if match else b""
    except binascii.Error:
        token = b""
    if not 0 < len(token) <= _LONGEST_TOKEN_BYTES:
        raise TokenizerError(
            f"{path}: line {number} should be a token in base64 and its rank, "
            f"found {shown_bytes(line)}"
        )
    return token
