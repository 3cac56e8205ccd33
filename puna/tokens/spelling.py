"""Ids to text, at once or one at a time, never splitting a UTF-8 character.

SentencePiece's way: pieces are text, bytes that stand together must make characters, a wrong one
becomes U+FFFD by itself, and the space that was put before the text is taken away. Byte-level
BPE's: every piece is bytes, and the bytes of all pieces are decoded together.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from puna.tokens.byte_spelling import read_spelling
from puna.tokens.formats.sentencepiece_model import UNKNOWN_SURFACE
from puna.tokens.vocabulary import SPACE_MARK, PieceType, Vocabulary

_REPLACEMENT = "\ufffd"


class SentencePieceSpelling:
    """What SentencePiece's decoder does with ids."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        unknown_surface: str = UNKNOWN_SURFACE,
        removes_spaces: bool = False,
    ) -> None:
        """`removes_spaces`: all spaces at the beginning go, not only the one put there."""
        self.texts = [piece.replace(SPACE_MARK, " ") for piece in vocabulary.pieces]
        self.bytes: dict[int, int] = {
            token: int(vocabulary.pieces[token][1:-1], 16)
            for token in vocabulary.ids_of(PieceType.BYTE)
        }
        self.control = frozenset(vocabulary.ids_of(PieceType.CONTROL))
        for token in vocabulary.ids_of(PieceType.UNKNOWN):
            self.texts[token] = unknown_surface
        self.takes_spaces = vocabulary.dummy_prefix or removes_spaces
        self.takes_all_spaces = removes_spaces
        self.spaced = frozenset(
            token for token, text in enumerate(self.texts) if text[0] == " "
        ) - frozenset(vocabulary.ids_of(PieceType.UNKNOWN))

    def decode(self, ids: Sequence[int], *, markup: bool) -> str:
        """The text of `ids`, all within the vocabulary; `markup` spells control tokens out."""
        stream = self.stream(markup=markup)
        return "".join([*map(stream.push, ids), stream.flush()])

    def bytes_of(self, token: int) -> bytes:
        """What `token` adds to a text; nothing where it is a control token."""
        byte = self.bytes.get(token)
        if byte is not None:
            return bytes([byte])
        return b"" if token in self.control else self.texts[token].encode()

    def stream(self, *, markup: bool) -> SentencePieceStream:
        """A decoder for ids that arrive one at a time."""
        return SentencePieceStream(self, markup)


class SentencePieceStream:
    """Holds the bytes of a character that is not complete, and watches for the first space."""

    def __init__(self, spelling: SentencePieceSpelling, markup: bool) -> None:
        self._spelling = spelling
        self._hidden = frozenset() if markup else spelling.control
        self._bytes = bytearray()
        self._takes_space = spelling.takes_spaces

    def push(self, token: int) -> str:
        """The text that `token` completes, often all of its piece, sometimes nothing."""
        byte = self._spelling.bytes.get(token)
        if byte is not None:
            self._bytes.append(byte)
            text = _take_characters(self._bytes)
        else:
            text = self._take_rest()
            self._takes_space &= not text
            if token not in self._hidden:
                text += self._text_of(token)
        self._takes_space &= not text
        return text

    def flush(self) -> str:
        """What is still held back, as U+FFFD; the next `push` starts a new text."""
        text = self._take_rest()
        self._takes_space = self._spelling.takes_spaces
        return text

    def _text_of(self, token: int) -> str:
        text = self._spelling.texts[token]
        if self._takes_space and token in self._spelling.spaced:
            self._takes_space = self._spelling.takes_all_spaces
            return text[1:]
        return text

    def _take_rest(self) -> str:
        text = _REPLACEMENT * len(self._bytes)
        self._bytes.clear()
        return text


class ByteLevelSpelling:
    """What GPT-2's decoder does with ids, and all that came after it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.bytes = _BytesOfIds(vocabulary)
        self.control = frozenset(vocabulary.ids_of(PieceType.CONTROL, PieceType.UNKNOWN))

    def decode(self, ids: Sequence[int], *, markup: bool) -> str:
        """The text of `ids`, all within the vocabulary; `markup` spells control tokens out."""
        shown: Iterable[int] = ids
        if not markup and not self.control.isdisjoint(ids):
            shown = (token for token in ids if token not in self.control)
        return b"".join(map(self.bytes.__getitem__, shown)).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """What `token` adds to a text; nothing where it is a control token."""
        return b"" if token in self.control else self.bytes[token]

    def stream(self, *, markup: bool) -> ByteLevelStream:
        """A decoder for ids that arrive one at a time."""
        return ByteLevelStream(self, markup)


class ByteLevelStream:
    """Holds the bytes of a character that is not complete."""

    def __init__(self, spelling: ByteLevelSpelling, markup: bool) -> None:
        self._bytes = spelling.bytes
        self._hidden = frozenset() if markup else spelling.control
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that `token` completes, often all of its piece, sometimes nothing."""
        return "" if token in self._hidden else self._decoder.decode(self._bytes[token])

    def flush(self) -> str:
        """What is still held back, as U+FFFD; the next `push` starts a new text."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


TextStream = SentencePieceStream | ByteLevelStream


class _BytesOfIds(dict[int, bytes]):
    """The bytes of each id that was asked for: few of a vocabulary's, when a text is short.

    Control and user-defined pieces are spelt as themselves, others in GPT-2's bytes.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __missing__(self, token: int) -> bytes:
        """Filled in by whichever thread comes first; all would put the same."""
        piece, kind = self._vocabulary.pieces[token], self._vocabulary.types[token]
        content = read_spelling(piece) if kind == PieceType.NORMAL else None
        self[token] = piece.encode("utf-8") if content is None else content
        return self[token]


def _take_characters(held: bytearray) -> str:
    """Take the complete characters off the front of `held`; bytes that cannot be are U+FFFD."""
    text = ""
    while held:
        try:
            text += held.decode("utf-8")
        except UnicodeDecodeError as error:
            text += held[: error.start].decode("utf-8")
            if error.reason == "unexpected end of data":
                del held[: error.start]
                return text
            text += _REPLACEMENT * (error.end - error.start)
            del held[: error.end]
        else:
            held.clear()
    return text
