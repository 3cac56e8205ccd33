"""Text to token ids and back, with LLaMA's kind of tokenizer: SentencePiece BPE (paper 2.1)."""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from puna import schema
from puna.errors import TokenizerError

FILE_NAME = "tokenizer.model"
MANIFEST_NAME = "manifest.json"
KIND = "puna.tokenizer"
SPACE_MARK = "\u2581"  # SentencePiece writes a space inside a piece as this character

# Long texts are cut before encoding: parts of 2,000 characters ran 1.4 times faster than whole
# speeches of 50 kB, and one document of 12 MB took 930 MB of memory uncut.
_PART_CHARACTERS = 2000
_PLACE_TO_CUT = re.compile(f"(?<=[^ {SPACE_MARK}]) (?=[^ {SPACE_MARK}])")
_CROSSES_WORDS = re.compile(f"[^{SPACE_MARK}]{SPACE_MARK}")


class Tokenizer:
    """A SentencePiece tokenizer file: `encode` gives ids, `decode` gives the text back.

    With a tokenizer of LLaMA's kind (identity normaliser, byte fallback, dummy prefix; Puna trains
    no other) `decode(encode(text)) == text` for every valid text: emoji, tabs, CRLF, NUL, leading
    and trailing spaces, the empty text. The one exception is U+2581, a block character that
    SentencePiece uses as its own mark for a space: it is read as a space and comes back as one.
    Markup such as `<s>` inside a text is encoded as plain text, never as a control token.
    """

    def __init__(self, content: bytes, path: Path) -> None:
        """Use the bytes of a `tokenizer.model`; `path` says where they came from.

        Raises TokenizerError when the bytes are no SentencePiece model.
        """
        self.path = path
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.load_from_serialized_proto(content)
            self.vocabulary_size: int = self._model.get_piece_size()
        except (RuntimeError, ValueError):
            raise TokenizerError(
                f"{path} should be a SentencePiece model, found {len(content):,} other bytes",
                hint="LLaMA's tokenizer file is called tokenizer.model; "
                "`puna tokenizer train` makes one from your text",
            ) from None
        self.bos_id: int = self._model.bos_id()
        self.eos_id: int = self._model.eos_id()
        self.unknown_id: int = self._model.unk_id()

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """The tokenizer in a file, or in a folder that holds a `tokenizer.model`.

        In a folder that `puna tokenizer train` wrote, the file must still be the one that its
        manifest names. Raises TokenizerError when it is missing, changed, or no tokenizer.
        """
        given = Path(path)
        file = given / FILE_NAME if given.is_dir() else given
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise TokenizerError(
                f"there is no tokenizer at {file}",
                hint="give a tokenizer.model or a folder that holds one; "
                "`puna tokenizer train` makes one from your text",
            ) from None
        except OSError as error:
            raise TokenizerError(f"{file} cannot be read: {error.strerror}") from None
        tokenizer = cls(content, file)
        if given.is_dir():
            _check_manifest(given / MANIFEST_NAME, tokenizer)
        return tokenizer

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """The ids of `text`, between the begin and end tokens where asked.

        Raises TokenizerError for a lone surrogate, naming its position.
        """
        if len(text) > _PART_CHARACTERS:
            whole: list[int] = self.encode_many([text], bos=bos, eos=eos)[0].tolist()
            return whole
        self._require_marks(bos, eos)
        try:
            ids: list[int] = self._model.encode(text, add_bos=bos, add_eos=eos)
        except (RuntimeError, TypeError, ValueError):
            utf8(text)
            raise
        return ids

    def encode_many(
        self, texts: Sequence[str], *, bos: bool = False, eos: bool = False
    ) -> list[NDArray[np.int32]]:
        """The ids of each text, the same as from `encode`, made on all cores at once.

        Raises TokenizerError for a lone surrogate, naming the text's index and the position.
        """
        self._require_marks(bos, eos)
        parts_of = [self._parts(text) for text in texts]
        try:
            encoded = self._model.encode(
                [part for parts in parts_of for part in parts], out_type="numpy"
            )
        except (RuntimeError, TypeError, ValueError):
            for index, text in enumerate(texts):
                utf8(text, f"text {index}: ")
            raise
        before = np.array([self.bos_id] if bos else [], dtype=np.int32)
        after = np.array([self.eos_id] if eos else [], dtype=np.int32)
        result = []
        start = 0
        for parts in parts_of:
            end = start + len(parts)
            result.append(np.concatenate([before, *encoded[start:end], after]))
            start = end
        return result

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; begin and end tokens add nothing.

        Byte pieces that make no UTF-8 together become U+FFFD, one for each byte. Raises
        TokenizerError for an id outside the vocabulary, naming its position.
        """
        whole = [operator.index(token) for token in ids]
        if whole and not 0 <= min(whole) <= max(whole) < self.vocabulary_size:
            for position, token in enumerate(whole):
                self._require_known(token, f" at position {position}")
        text: str = self._model.decode(whole)
        return text

    def stream(self) -> StreamDecoder:
        """A decoder for ids that arrive one at a time."""
        return StreamDecoder(self)

    def piece(self, token: int) -> str:
        """The piece as it stands in the vocabulary, such as `▁the`, `<0x0A>` or `</s>`.

        Raises TokenizerError for an id outside the vocabulary.
        """
        self._require_known(token)
        text: str = self._model.id_to_piece(token)
        return text

    def byte_of(self, token: int) -> int | None:
        """The byte that a byte piece stands for; None for any other piece."""
        piece = self.piece(token)
        return int(piece[1:-1], 16) if self._model.is_byte(token) else None

    def is_control(self, token: int) -> bool:
        """Whether the piece is a token without text, such as begin and end."""
        self._require_known(token)
        return bool(self._model.is_control(token))

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.path)!r}, {self.vocabulary_size} pieces)"

    def _parts(self, text: str) -> list[str]:
        if len(text) <= _PART_CHARACTERS or not self._words_stand_alone:
            return [text]
        return cut_at_spaces(text, _PART_CHARACTERS)

    @cached_property
    def _words_stand_alone(self) -> bool:
        """Whether no piece spans the end of a word and the next, so that cuts change no id."""
        first, second = self._model.encode(["a", "b"])
        pieces = self._model.id_to_piece(list(range(self.vocabulary_size)))
        return self._model.encode("a b") == first + second and not any(
            _CROSSES_WORDS.search(piece) for piece in pieces
        )

    def _require_marks(self, bos: bool, eos: bool) -> None:
        for is_wanted, token, name in ((bos, self.bos_id, "begin"), (eos, self.eos_id, "end")):
            if is_wanted and token < 0:
                raise TokenizerError(f"{self.path} has no {name} token, and one was asked for")

    def _require_known(self, token: int, where: str = "") -> None:
        if not 0 <= token < self.vocabulary_size:
            raise TokenizerError(
                f"token ids go from 0 to {self.vocabulary_size - 1}, got {token}{where}",
                hint="were these ids made with another tokenizer?",
            )


class StreamDecoder:
    """Text from ids one at a time: the pieces joined equal `Tokenizer.decode` of all the ids.

    A character whose bytes are spread over several ids is held back until it is complete.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = bytearray()  # of a character that is not complete yet
        self._first: list[int] = []  # pieces so far, while no text has come out
        self._has_started = False

    def push(self, token: int) -> str:
        """The text that `token` completes, often all of its piece, sometimes nothing.

        Raises TokenizerError for an id outside the vocabulary.
        """
        byte = self._tokenizer.byte_of(token)
        if byte is not None:
            self._bytes.append(byte)
            text = _take_characters(self._bytes)
        else:
            text = self._take_rest()
            self._has_started |= bool(text)
            text += self._text_of(token)
        self._has_started |= bool(text)
        return text

    def flush(self) -> str:
        """What is still held back, as U+FFFD for each byte; the next `push` starts a new text."""
        text = self._take_rest()
        self._first.clear()
        self._has_started = False
        return text

    def _take_rest(self) -> str:
        text = "\ufffd" * len(self._bytes)
        self._bytes.clear()
        return text

    def _text_of(self, token: int) -> str:
        """The text of a piece that is no byte; the first one loses the dummy prefix."""
        if self._tokenizer.is_control(token):
            return ""
        if self._has_started:
            if token == self._tokenizer.unknown_id:
                return self._tokenizer.decode([token])
            return self._tokenizer.piece(token).replace(SPACE_MARK, " ")
        self._first.append(token)
        return self._tokenizer.decode(self._first)


def cut_at_spaces(text: str, limit: int) -> list[str]:
    """`text` in parts of at most `limit` characters, cut at single spaces, which are dropped.

    SentencePiece puts a space before every text (the dummy prefix), so each part gets its lost
    space back: words, and with them ids and counts, stay the same. Where no single space lies
    within `limit` characters the part runs on to the next one. `" ".join` gives `text` again.
    """
    parts = []
    start = 0
    while len(text) - start > limit:
        place = _last_place(text, start, start + limit)
        if place < 0:
            later = _PLACE_TO_CUT.search(text, start + limit)
            if later is None:
                break
            place = later.start()
        parts.append(text[start:place])
        start = place + 1
    parts.append(text[start:])
    return parts


def utf8(text: str, name: str = "") -> bytes:
    """The bytes of `text`. Raises TokenizerError at a lone surrogate, which UTF-8 cannot hold."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise TokenizerError(
            f"{name}character {error.start} is a lone surrogate (U+{code:04X}), "
            "which no valid text holds",
            hint="it comes from broken UTF-16 or JSON escapes; "
            "text.encode('utf-8', 'replace').decode() puts '?' in its place",
        ) from None


def _last_place(text: str, start: int, end: int) -> int:
    """The last place in `text[start:end]` to cut at; -1 where there is none."""
    place = text.rfind(" ", start, end)
    while place >= 0 and not _PLACE_TO_CUT.match(text, place):
        place = text.rfind(" ", start, place)
    return place


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
            text += "\ufffd" * (error.end - error.start)
            del held[: error.end]
        else:
            held.clear()
    return text


def _check_manifest(path: Path, tokenizer: Tokenizer) -> None:
    """Refuse a file other than the one that the manifest beside it names."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return
    if not isinstance(record, dict) or record.get("schema") != KIND:
        return  # the manifest of a checkpoint, or someone else's
    schema.check(record, KIND, path)
    if record.get("sha256") != tokenizer.sha256:
        raise TokenizerError(
            f"{tokenizer.path} is not the file that {path.name} beside it names: "
            f"SHA-256 {tokenizer.sha256[:12]}... instead of {str(record.get('sha256'))[:12]}...",
            hint="it was changed or replaced; train it again, or delete the manifest to accept it",
        )
