"""SentencePiece's `tokenizer.model`: a ModelProto, read and written without its library.

The library trusts what it loads: hostile bytes can make it crash. Everything that reaches it is
checked here first, the precompiled rules of a normaliser included.

  ModelProto      1 pieces (1 piece, 2 score, 3 type)   2 trainer   3 normalizer
  TrainerSpec     3 model type   24 space as suffix   35 byte fallback   44 unknown surface
                  45-48 names of the unknown, begin, end and padding pieces
  NormalizerSpec  2 precompiled rules   3 dummy prefix   4 remove extra spaces   5 escape spaces
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from puna.errors import TokenizerError
from puna.tokens.formats.protobuf import (
    BYTES,
    FIXED32,
    Field,
    WireReader,
    bytes_field,
    float_field,
    number_field,
)
from puna.tokens.vocabulary import PieceType, Vocabulary, checked, shown

BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
UNKNOWN_SURFACE = " \u2047 "  # what the unknown piece decodes to
_BPE = 2
_MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}
_NORMAL_PIECE = struct.Struct("<Bf")  # the tag of the score, and the score
_SCORE_TAG = 2 << 3 | FIXED32
_TYPE_TAG = 3 << 3
_LONGEST_PIECE_BYTES = 1 << 16


@dataclass
class _Trainer:
    """What counts of a TrainerSpec, with the defaults of its definition."""

    model_type: int = 1
    byte_fallback: bool = False
    space_as_suffix: bool = False
    unknown_surface: str = UNKNOWN_SURFACE
    names: dict[int, str] = field(
        default_factory=lambda: {45: "<unk>", 46: "<s>", 47: "</s>", 48: "<pad>"}
    )


@dataclass
class _Normalizer:
    """What counts of a NormalizerSpec, with the defaults of its definition."""

    rules: bytes = b""
    dummy_prefix: bool = True
    removes_spaces: bool = True
    escapes_spaces: bool = True


@dataclass(frozen=True)
class SentencePieceModel:
    """A checked `tokenizer.model`: its vocabulary, and what only this format can say."""

    vocabulary: Vocabulary
    unknown_surface: str
    removes_spaces: bool  # leading, trailing and double ones


def is_sentencepiece(start: bytes) -> bool:
    """Whether a file that begins so could be a ModelProto: a piece, and its text within it."""
    return len(start) > 3 and start[0] == 0x0A and start[1] > 0 and 0x0A in start[2:4]


def read_sentencepiece(content: bytes, path: Path) -> SentencePieceModel:
    """The model in a file's bytes.

    Raises TokenizerError, with the offset, for bytes that are no ModelProto, and for a model that
    is not BPE or contradicts itself.
    """
    reader = WireReader(content, path)
    pieces: list[str] = []
    scores: list[float] = []
    types: list[PieceType] = []
    trainer, normalizer = _Trainer(), _Normalizer()
    for part in reader.fields(0, len(content)):
        if part.number == 1:
            reader.require(part, BYTES, "a piece")
            piece, score, kind = _piece(reader, part.start, part.value, len(pieces))
            pieces.append(piece)
            scores.append(score)
            types.append(kind)
        elif part.number == 2:
            _read_trainer(reader, part, trainer)
        elif part.number == 3:
            _read_normalizer(reader, part, normalizer)
    if not pieces:
        raise TokenizerError(f"{path} should be a SentencePiece model, found none of its pieces")
    _check(trainer, pieces, types, path)
    ids = {piece: token for token, piece in enumerate(pieces)}

    def control(number: int) -> int:
        token = ids.get(trainer.names[number], -1)
        return token if token >= 0 and types[token] == PieceType.CONTROL else -1

    is_plain = normalizer.escapes_spaces and not normalizer.rules and not normalizer.removes_spaces
    vocabulary = Vocabulary(
        kind="spm",
        pieces=tuple(pieces),
        types=tuple(types),
        scores=tuple(scores),
        bos_id=control(46),
        eos_id=control(47),
        padding_id=control(48),
        unknown_id=types.index(PieceType.UNKNOWN),
        adds_bos=control(46) >= 0,
        dummy_prefix=normalizer.dummy_prefix,
        normalizes=not is_plain,
    )
    checked(vocabulary, path)
    return SentencePieceModel(vocabulary, trainer.unknown_surface, normalizer.removes_spaces)


def write_sentencepiece(vocabulary: Vocabulary) -> bytes:
    """A BPE ModelProto of LLaMA's kind: identity normaliser, byte fallback where it has the bytes.

    The same vocabulary gives the same bytes.
    """
    parts = []
    for piece, score, kind in zip(
        vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True
    ):
        body = bytes_field(1, piece.encode("utf-8")) + float_field(2, score)
        if kind != PieceType.NORMAL:
            body += number_field(3, kind)
        parts.append(bytes_field(1, body))
    marks = {
        45: vocabulary.unknown_id,
        46: vocabulary.bos_id,
        47: vocabulary.eos_id,
        48: vocabulary.padding_id,
    }
    trainer = number_field(3, _BPE) + number_field(4, len(vocabulary))
    trainer += number_field(35, has_byte_fallback(vocabulary))
    for number, token in marks.items():
        trainer += number_field(number - 5, token)  # 40 to 43 are the ids
    for number, token in marks.items():
        if token >= 0:
            trainer += bytes_field(number, vocabulary.pieces[token].encode("utf-8"))
    normalizer = bytes_field(1, b"identity") + number_field(3, vocabulary.dummy_prefix)
    normalizer += number_field(4, 0) + number_field(5, 1)
    return b"".join([*parts, bytes_field(2, trainer), bytes_field(3, normalizer)])


def without_dummy_prefix(content: bytes) -> bytes:
    """The model in `content`, but for the space that it puts before a text.

    Messages that follow one another are merged, so a second NormalizerSpec overrides the first.
    """
    return content + bytes_field(3, number_field(3, 0))


def has_byte_fallback(vocabulary: Vocabulary) -> bool:
    """Whether any text can be spelt, by its bytes where nothing else does."""
    return vocabulary.types.count(PieceType.BYTE) == 256


def _piece(reader: WireReader, start: int, end: int, index: int) -> tuple[str, float, PieceType]:
    """A SentencePiece message; nearly all are laid out alike, and read without a loop."""
    data = reader.data
    if end - start > _LONGEST_PIECE_BYTES:
        reader.fail(start, f"piece {index} takes {end - start:,} bytes")
    if end - start > 7 and data[start] == 0x0A and data[start + 1] < 0x80:
        after = start + 2 + data[start + 1]
        has_type = after + 7 == end and data[after + 5] == _TYPE_TAG and data[end - 1] <= 6
        if (after + 5 == end or has_type) and data[after] == _SCORE_TAG:
            score = _NORMAL_PIECE.unpack_from(data, after)[1]
            kind = PieceType(data[end - 1] or 1) if has_type else PieceType.NORMAL
            text = reader.text(Field(1, BYTES, start + 2, after), f"piece {index}")
            return _valid(reader, start, index, text), score, kind
    piece, score, kind = "", 0.0, PieceType.NORMAL
    for part in reader.fields(start, end):
        if part.number == 1:
            piece = reader.text(part, f"piece {index}")
        elif part.number == 2:
            score = reader.float32(part, f"the score of piece {index}")
        elif part.number == 3:
            number = reader.number(part, f"the type of piece {index}")
            if not 1 <= number <= 6:
                reader.fail(part.start, f"piece {index} has type {number}, types are 1 to 6")
            kind = PieceType(number)
    return _valid(reader, start, index, piece), score, kind


def _valid(reader: WireReader, start: int, index: int, piece: str) -> str:
    if not piece or "\0" in piece:
        reader.fail(start, f"piece {index} is {'empty' if not piece else shown(piece)}")
    return piece


def _read_trainer(reader: WireReader, part: Field, trainer: _Trainer) -> None:
    reader.require(part, BYTES, "the trainer's settings")
    for one in reader.fields(part.start, part.value):
        if one.number == 3:
            trainer.model_type = reader.number(one, "the model type")
        elif one.number == 24:
            trainer.space_as_suffix = bool(reader.number(one, "treat_whitespace_as_suffix"))
        elif one.number == 35:
            trainer.byte_fallback = bool(reader.number(one, "byte_fallback"))
        elif one.number == 44:
            trainer.unknown_surface = reader.text(one, "unk_surface")
        elif one.number in trainer.names:
            trainer.names[one.number] = reader.text(one, "the name of a special piece")


def _read_normalizer(reader: WireReader, part: Field, normalizer: _Normalizer) -> None:
    reader.require(part, BYTES, "the normaliser's settings")
    for one in reader.fields(part.start, part.value):
        if one.number == 2:
            reader.require(one, BYTES, "the normaliser's rules")
            normalizer.rules = reader.data[one.start : one.value]
            _check_rules(reader, one)
        elif one.number == 3:
            normalizer.dummy_prefix = bool(reader.number(one, "add_dummy_prefix"))
        elif one.number == 4:
            normalizer.removes_spaces = bool(reader.number(one, "remove_extra_whitespaces"))
        elif one.number == 5:
            normalizer.escapes_spaces = bool(reader.number(one, "escape_whitespaces"))


def _check_rules(reader: WireReader, part: Field) -> None:
    """Refuse a double-array trie with a transition that leads outside it.

    The rules are the trie's size in bytes, the trie (Darts: units of 32 bits), and texts that each
    end with NUL. From the unit at `place`, byte `b` leads to unit `place ^ offset ^ b`; a leaf
    holds where its text begins.
    """
    rules = reader.data[part.start : part.value]
    size = int.from_bytes(rules[:4], "little")
    texts = rules[4 + size :]
    if not rules:
        return
    if size % 1024 or not 0 < size < len(rules) - 4 or texts[-1] != 0:
        reader.fail(part.start, "the normaliser's rules are broken")
    units = np.frombuffer(rules, dtype="<u4", count=size // 4, offset=4)
    is_leaf = units >> 31 == 1
    offset = (units >> 10) << ((units & (1 << 9)) >> 6)
    reaches = (np.arange(len(units), dtype=np.uint32) ^ offset) >> 8  # the block of 256 units
    if np.any(reaches[~is_leaf] >= len(units) >> 8):
        reader.fail(part.start, "the normaliser's rules lead outside their table")
    if np.any((units[is_leaf] & 0x7FFF_FFFF) >= len(texts)):
        reader.fail(part.start, "the normaliser's rules lead outside their texts")


def _check(trainer: _Trainer, pieces: list[str], types: list[PieceType], path: Path) -> None:
    """Refuse what is not LLaMA's kind of model, and what the library would stumble over."""
    if trainer.model_type != _BPE:
        kind = _MODEL_TYPES.get(trainer.model_type, f"number {trainer.model_type}")
        raise TokenizerError(f"{path} is a SentencePiece model of type {kind}; LLaMA's are BPE")
    if trainer.space_as_suffix:
        raise TokenizerError(f"{path} marks spaces after words; LLaMA's models mark them before")
    if types.count(PieceType.UNKNOWN) != 1:
        count = types.count(PieceType.UNKNOWN)
        raise TokenizerError(f"{path} should have one unknown piece, found {count}")
    of_bytes = [piece for piece, kind in zip(pieces, types, strict=True) if kind == PieceType.BYTE]
    if trainer.byte_fallback and set(of_bytes) != set(BYTE_PIECES):
        raise TokenizerError(
            f"{path} spells unknown text in bytes, but has {len(of_bytes)} of 256 byte pieces"
        )
    if not trainer.byte_fallback and of_bytes:
        raise TokenizerError(f"{path} has byte pieces, but does not spell unknown text in bytes")
