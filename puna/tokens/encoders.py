"""Plain text to ids by the libraries that know how: SentencePiece, and Hugging Face's tokenizers.

An encoder sees text without markup and puts no space before it, unless `adds_prefix`. Where
`words` is not None, a text may be cut into what it finds and encoded part by part: the ids joined
are those of the whole text. `whole_because` says why not, where it is None. `finds` are the
user-defined pieces that it finds in a text by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
import tokenizers.models
from numpy.typing import NDArray

from puna.errors import TokenizerError
from puna.tokens.formats.sentencepiece_model import has_byte_fallback, without_dummy_prefix
from puna.tokens.formats.tokenizer_json import PRE_TOKENIZERS, PREFIX_FORMS
from puna.tokens.vocabulary import SPACE_MARK, PieceType, Vocabulary

Ids = NDArray[np.int32]

LONG_TEXT = 1 << 14  # characters: a server's other texts would wait for more, 1 ms and longer

# Latin letters up to U+024F: the alphabets of LLaMA's twenty languages but for Cyrillic.
_LETTERS = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_CROSSES_LETTERS = re.compile(
    f"[{_LETTERS}][^{_LETTERS}{SPACE_MARK}\0]|[^{_LETTERS}{SPACE_MARK}\0][{_LETTERS}]"
)
_CROSSES_WORDS = re.compile(f"[^{SPACE_MARK}\0]{SPACE_MARK}")

# Byte-level BPE merges within what its pre-tokenizer cuts out. These find longer parts, with ends
# that are cuts in any text: after a run of ASCII letters before another ASCII character, for no
# rule goes on from a letter to anything but a letter; and where whitespace begins that no rule
# joins to what is before it. Only ASCII is relied on: libraries differ in what else is a space.
_SPACED_WORD = r"[ \t\r\n]*+[^A-Za-z\s]*+[A-Za-z]++(?![^\x00-\x7f])"
_AFTER_LETTERS = r"(?<=[A-Za-z])(?=[\x00-\x7f])(?![A-Za-z])"
# GPT-2's rules join nothing but one space, and that to what follows it.
_GPT2_WORDS = re.compile(
    rf"{_SPACED_WORD}|[ \t\r\n]*+[^A-Za-z\s]++(?=[ \t\r\n]|\Z)"
    rf"|(?s:.)+?(?:{_AFTER_LETTERS}|(?<=\S)(?=[ \t\r\n])|\Z)"
)
# LLaMA 3's join line feeds to punctuation before them; a run of them ends before what is no space.
_LLAMA3_WORDS = re.compile(
    rf"{_SPACED_WORD}|[ \t]?+[^A-Za-z\s]++(?= \S|\Z)|[ \t]?+[^A-Za-z\s]*+\n++(?=\S)"
    rf"|(?s:.)+?(?:{_AFTER_LETTERS}|(?<=\S)(?= \S)|(?<=\n)(?=\S)|\Z)"
)
WORDS_OF_BPE = {"gpt-2": _GPT2_WORDS, "smollm": _GPT2_WORDS, "llama-bpe": _LLAMA3_WORDS}


class SentencePieceEncoder:
    """Runs a checked `tokenizer.model`."""

    def __init__(self, content: bytes, vocabulary: Vocabulary, path: Path) -> None:
        """Raises TokenizerError when the library refuses the model all the same."""
        self.adds_prefix = vocabulary.normalizes
        self.finds = frozenset(vocabulary.ids_of(PieceType.USER_DEFINED))
        self.words, self.whole_because = words_of_spm(vocabulary)
        self._model = sentencepiece.SentencePieceProcessor()
        model = content if self.adds_prefix else without_dummy_prefix(content)
        try:
            self._model.load_from_serialized_proto(model)
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"{path} is refused by SentencePiece: {error}") from None

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises ValueError for a lone surrogate."""
        try:
            ids: list[int] = self._model.encode(text)
        except (RuntimeError, TypeError) as error:
            raise ValueError(str(error)) from None
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, made on all cores. Raises as `encode` does."""
        try:
            encoded: list[Ids] = self._model.encode(list(texts), out_type="numpy")
        except (RuntimeError, TypeError) as error:
            raise ValueError(str(error)) from None
        return encoded


class BpeEncoder:
    """Runs merges with Hugging Face's tokenizers."""

    finds: frozenset[int] = frozenset()

    def __init__(
        self, build: Callable[[], tokenizers.Tokenizer], vocabulary: Vocabulary, path: Path
    ) -> None:
        """`build` gives the engine, which takes a second for 128,000 pieces, when it is needed."""
        self._build = build
        self._path = path
        self.adds_prefix = vocabulary.normalizes
        if vocabulary.kind == "spm":
            self.words, self.whole_because = words_of_spm(vocabulary)
        else:
            self.words = WORDS_OF_BPE.get(vocabulary.pre_tokenizer)
            self.whole_because = "the file cuts text by rules of its own"

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, path: Path) -> BpeEncoder:
        """The encoder of a vocabulary that has merges and says all that counts."""
        return cls(lambda: _engine(vocabulary), vocabulary, path)

    @classmethod
    def from_rules(cls, rules: dict[str, Any], vocabulary: Vocabulary, path: Path) -> BpeEncoder:
        """The encoder of a `tokenizer.json`, whatever it does with text.

        Raises TokenizerError when the library refuses its rules.
        """
        text = json.dumps({**rules, "truncation": None, "padding": None})
        with guarded(path):
            engine = tokenizers.Tokenizer.from_str(text)
        return cls(lambda: engine, vocabulary, path)

    @cached_property
    def _engine(self) -> tokenizers.Tokenizer:
        return self._build()

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises ValueError for a lone surrogate, TokenizerError where the file's own rules fail.
        """
        with guarded(self._path):
            if len(text) > LONG_TEXT:  # only a batch lets other threads go on meanwhile
                (encoded,) = self._engine.encode_batch_fast([text], add_special_tokens=False)
            else:
                encoded = self._engine.encode(text, add_special_tokens=False)
            ids: list[int] = encoded.ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, made on all cores. Raises as `encode` does."""
        with guarded(self._path):
            encoded = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int32) for one in encoded]


Encoder = SentencePieceEncoder | BpeEncoder


def words_of_spm(vocabulary: Vocabulary) -> tuple[re.Pattern[str] | None, str]:
    """What to cut a text into, spaces first; or None, and why its pieces do not allow it.

    A cut changes no id where no piece holds the two characters on its sides, for then nothing is
    merged across it. It is for text, where a space is a space and never U+2581.
    """
    kinds = (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED)
    pairs = zip(vocabulary.pieces, vocabulary.types, strict=True)
    pieces = "\0".join(piece for piece, kind in pairs if kind in kinds)
    if vocabulary.normalizes:
        return None, "the file changes text by rules of its own"
    if not has_byte_fallback(vocabulary):
        return None, "unknown characters are joined to one piece"
    if _CROSSES_WORDS.search(pieces):
        return None, "some pieces reach from one word into the next"
    if "\n" in pieces or " " in pieces:
        return re.compile(r" *+[^ ]++| ++"), ""
    if _CROSSES_LETTERS.search(pieces):
        return re.compile(r"\n| *+[^ \n]++| ++"), ""
    return re.compile(rf"\n| *+[{_LETTERS}]++| *+[^{_LETTERS} \n]++| ++"), ""


class guarded:
    """A block in which whatever tokenizers makes of a bad file becomes a TokenizerError.

    A panic in Rust is a BaseException that is no Exception. A text that is none (TypeError) becomes
    a ValueError, as the other library has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: Any, _trace: Any) -> None:
        if kind is None or issubclass(kind, TokenizerError | MemoryError):
            return
        if issubclass(kind, TypeError):
            raise ValueError(str(error)) from None
        if issubclass(kind, Exception) or kind.__name__ == "PanicException":
            reason = str(error).splitlines()[0][:200] if str(error) else kind.__name__
            raise TokenizerError(f"{self._path} is refused by tokenizers: {reason}") from None


def _engine(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """A tokenizer without added tokens, prefix and post-processing: only cutting and merging."""
    is_spm = vocabulary.kind == "spm"
    normalizer, pre_tokenizer = PREFIX_FORMS["never"]
    if not is_spm:
        normalizer, pre_tokenizer = None, PRE_TOKENIZERS[vocabulary.pre_tokenizer]
    rules = {"version": "1.0", "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    engine = tokenizers.Tokenizer.from_str(json.dumps({**rules, "model": empty}))
    kinds = (PieceType.CONTROL, PieceType.USER_DEFINED, PieceType.UNUSED)
    typed = zip(vocabulary.pieces, vocabulary.types, strict=True)
    ids = {piece: token for token, (piece, kind) in enumerate(typed) if kind not in kinds}
    merges = [(left, right) for left, _, right in (one.partition(" ") for one in vocabulary.merges)]
    # As JSON they would take twice as long.
    engine.model = tokenizers.models.BPE(
        vocab=ids,
        merges=[pair for pair in merges if pair[0] + pair[1] in ids],
        unk_token=vocabulary.pieces[vocabulary.unknown_id] if is_spm else None,
        fuse_unk=is_spm,
        byte_fallback=is_spm,
        ignore_merges=vocabulary.pre_tokenizer == "llama-bpe",
    )
    return engine
