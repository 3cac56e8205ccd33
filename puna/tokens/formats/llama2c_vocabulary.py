"""llama2.c's `tokenizer.bin`: the longest piece's bytes, then score, length and bytes of each.

The file says neither what a piece is nor how many there are: pieces go on to its end, the first
three are unknown, begin and end, and bytes are spelt <0x0A>. Spaces are plain, and llama2.c puts
line feeds around begin and end.
"""

from __future__ import annotations

import struct
from pathlib import Path

from puna.errors import TokenizerError
from puna.tokens.formats.sentencepiece_model import BYTE_PIECES
from puna.tokens.vocabulary import MOST_PIECES, SPACE_MARK, PieceType, Vocabulary, checked

_LONGEST = struct.Struct("<i")
_HEAD = struct.Struct("<fi")
_LONGEST_PIECE_BYTES = 1 << 16
_MARKS = (b"<unk>", b"\n<s>\n", b"\n</s>\n")


def is_llama2c_vocabulary(start: bytes) -> bool:
    """Whether a file that begins so could be a `tokenizer.bin`: its first piece is <unk>."""
    return (
        len(start) >= 4
        and start[2:4] == b"\0\0"
        and start[4:8] == b"\0\0\0\0"
        and (start[12:17] == _MARKS[0])
    )


def read_llama2c_vocabulary(content: bytes, path: Path) -> Vocabulary:
    """The vocabulary of a `tokenizer.bin`.

    Raises TokenizerError, with the offset, where a piece runs over the end, is longer than the file
    says, or is no text; and where the first pieces are not LLaMA's.
    """
    if len(content) < _LONGEST.size:
        raise TokenizerError(f"{path} should be a llama2.c tokenizer, found {len(content)} bytes")
    longest = _LONGEST.unpack_from(content)[0]
    if not 0 < longest <= _LONGEST_PIECE_BYTES:
        raise TokenizerError(f"{path}: byte 0: the longest piece would have {longest} bytes")
    pieces: list[str] = []
    scores: list[float] = []
    at = _LONGEST.size
    while at < len(content):
        score, piece, at = _piece(content, at, longest, path)
        if len(pieces) == MOST_PIECES:
            raise TokenizerError(f"{path}: byte {at}: more pieces than any vocabulary has")
        pieces.append(piece)
        scores.append(score)
    types = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL]
    if tuple(piece.encode() for piece in pieces[:3]) != _MARKS:
        raise TokenizerError(f"{path} should begin with <unk>, <s> and </s>, found other pieces")
    has_bytes = tuple(pieces[3:259]) == BYTE_PIECES
    if not has_bytes:
        raise TokenizerError(f"{path} should have the 256 byte pieces from id 3 on")
    types += [PieceType.BYTE] * 256
    types += [PieceType.NORMAL] * (len(pieces) - len(types))
    vocabulary = Vocabulary(
        kind="spm",
        pieces=("<unk>", "<s>", "</s>", *(piece.replace(" ", SPACE_MARK) for piece in pieces[3:])),
        types=tuple(types),
        scores=tuple(scores),
        bos_id=1,
        eos_id=2,
        unknown_id=0,
    )
    return checked(vocabulary, path)


def _piece(content: bytes, at: int, longest: int, path: Path) -> tuple[float, str, int]:
    """Score and text of the piece at an offset, and where the next one begins."""
    if at + _HEAD.size > len(content):
        raise TokenizerError(f"{path}: byte {at}: {_cut_short(len(content) - at)}")
    score, size = _HEAD.unpack_from(content, at)
    start = at + _HEAD.size
    if not 0 < size <= longest:
        raise TokenizerError(f"{path}: byte {at + 4}: a piece of {size} bytes, 1 to {longest} fit")
    if start + size > len(content):
        raise TokenizerError(f"{path}: byte {at}: {_cut_short(len(content) - start)}")
    try:
        return score, content[start : start + size].decode("utf-8"), start + size
    except UnicodeDecodeError as error:
        offset = start + error.start
        raise TokenizerError(f"{path}: byte {offset}: a piece is not UTF-8") from None


def _cut_short(left: int) -> str:
    return f"a piece is cut short, {left} bytes are left"
