"""The tokenizer in GGUF's metadata: the keys `tokenizer.ggml.*` and `tokenizer.chat_template`.

Defaults and exceptions are llama.cpp's: what it would do with the keys, this does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from puna.errors import TokenizerError
from puna.tokens.formats.bpe_parts import bpe_vocabulary
from puna.tokens.formats.sentencepiece_model import BYTE_PIECES
from puna.tokens.vocabulary import TURN_ENDS, PieceType, Vocabulary, checked, shown

# GGUF's names for how text is cut; llama.cpp gives some of them the same rules.
PRE_TOKENIZERS = {
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "gpt-2": "gpt-2",
    "smollm": "smollm",
}
_KEYS = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_NO_TOKEN = 0xFFFF_FFFF
_MARKS = {
    "bos_id": "bos_token_id",
    "eos_id": "eos_token_id",
    "unknown_id": "unknown_token_id",
    "padding_id": "padding_token_id",
}
_SPM_DEFAULTS = {"bos_id": 1, "eos_id": 2, "unknown_id": 0}
_TYPE_OF_NUMBER = {int(kind): kind for kind in PieceType}
_TURN_ENDS = ("eot_token_id", "eom_token_id")


def read_gguf_vocabulary(metadata: Mapping[str, Any], path: Path) -> Vocabulary:
    """The vocabulary that GGUF's metadata holds; arrays may be lists, tuples or NumPy's.

    Raises TokenizerError, with the key, for a missing or contradicting one, and for a kind of
    tokenizer that LLaMA does not have.
    """
    keys = _Keys(metadata, path)
    model = keys.text("model")
    pieces = keys.texts("tokens")
    types = _types(keys, len(pieces))
    if model == "llama":
        vocabulary = _spm(keys, pieces, types)
    elif model == "gpt2":
        vocabulary = _bpe(keys, pieces, types)
    else:
        raise TokenizerError(
            f"{path}: {_KEYS}model is {shown(model)}; LLaMA's are 'llama' (SentencePiece) and "
            "'gpt2' (byte-level BPE)"
        )
    template = metadata.get(_TEMPLATE)
    if template is not None and not isinstance(template, str):
        raise TokenizerError(f"{path}: {_TEMPLATE} should be text")
    ends = [keys.token(name, -1, len(pieces)) for name in _TURN_ENDS]
    extra = tuple(token for token in ends if token >= 0)
    return replace(vocabulary, chat_template=template, extra_stop_ids=extra)


def gguf_metadata(vocabulary: Vocabulary) -> dict[str, Any]:
    """The keys of `vocabulary` for a GGUF file: strings, bools, ints, lists of str, NumPy arrays.

    Ids are uint32, scores float32, types int32. Raises TokenizerError for a vocabulary that GGUF
    cannot say: one with rules of its own for normalising, or for cutting text before merging.
    """
    if vocabulary.normalizes:
        raise TokenizerError("this tokenizer changes text by rules of its own; GGUF holds none")
    if vocabulary.kind == "spm" and not vocabulary.scores:
        raise TokenizerError("this tokenizer has merges but no scores, which GGUF needs")
    if vocabulary.kind == "bpe" and vocabulary.pre_tokenizer not in PRE_TOKENIZERS:
        raise TokenizerError(
            "this tokenizer cuts text by rules that GGUF has no name for",
            hint=f"GGUF files can be written with {', '.join(PRE_TOKENIZERS)}",
        )
    is_spm = vocabulary.kind == "spm"
    record: dict[str, Any] = {
        "model": "llama" if is_spm else "gpt2",
        "pre": "default" if is_spm else vocabulary.pre_tokenizer,
        "tokens": list(vocabulary.pieces),
        "token_type": np.array(vocabulary.types, dtype=np.int32),
    }
    if is_spm:
        record["scores"] = np.array(vocabulary.scores, dtype=np.float32)
        record["add_space_prefix"] = vocabulary.dummy_prefix
    else:
        record["merges"] = list(vocabulary.merges)
    for field, name in _MARKS.items():
        if getattr(vocabulary, field) >= 0:
            record[name] = getattr(vocabulary, field)
    # Most tokens that end a turn are known by their spelling; these are not.
    others = [
        token
        for token in vocabulary.extra_stop_ids
        if token != vocabulary.eos_id and vocabulary.pieces[token] not in TURN_ENDS
    ]
    record.update(zip(_TURN_ENDS, others, strict=False))
    record["add_bos_token"] = vocabulary.adds_bos
    record["add_eos_token"] = vocabulary.adds_eos
    result = {f"{_KEYS}{name}": value for name, value in record.items()}
    if vocabulary.chat_template is not None:
        result[_TEMPLATE] = vocabulary.chat_template
    return result


class _Keys:
    """Typed reading of `tokenizer.ggml.*`."""

    def __init__(self, metadata: Mapping[str, Any], path: Path) -> None:
        self.metadata = metadata
        self.path = path

    def wrong(self, name: str, wanted: str) -> TokenizerError:
        found = self.metadata.get(f"{_KEYS}{name}")
        word = "nothing" if found is None else type(found).__name__
        return TokenizerError(f"{self.path}: {_KEYS}{name} should be {wanted}, found {word}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self.metadata.get(f"{_KEYS}{name}", default)
        if not isinstance(value, str):
            raise self.wrong(name, "text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.metadata.get(f"{_KEYS}{name}", default)
        if not isinstance(value, bool | np.bool_):
            raise self.wrong(name, "true or false")
        return bool(value)

    def texts(self, name: str) -> list[str]:
        value = self.metadata.get(f"{_KEYS}{name}")
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise self.wrong(name, "an array of text")
        return list(value)

    def numbers(self, name: str, count: int) -> list[Any] | None:
        """An array of `count` numbers; None where there is none."""
        value = self.metadata.get(f"{_KEYS}{name}")
        if value is None:
            return None
        if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
            raise self.wrong(name, "an array of numbers")
        if len(value) != count:
            raise TokenizerError(
                f"{self.path}: {_KEYS}{name} has {len(value):,} values for {count:,} tokens"
            )
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise self.wrong(name, "an array of numbers")
        return list(array.tolist())

    def token(self, name: str, default: int, size: int) -> int:
        """A token's id; -1 where the file says that there is none."""
        value = self.metadata.get(f"{_KEYS}{name}")
        if value is None:
            return default if default < size else -1
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise self.wrong(name, "a token's id")
        if value in (_NO_TOKEN, -1):
            return -1
        if not 0 <= value < size:
            raise TokenizerError(
                f"{self.path}: {_KEYS}{name} is {value}, the last token is {size - 1}"
            )
        return int(value)


def _types(keys: _Keys, size: int) -> list[PieceType]:
    numbers = keys.numbers("token_type", size)
    if numbers is None:
        raise keys.wrong("token_type", "an array of numbers")
    for token, number in enumerate(numbers):
        if number not in _TYPE_OF_NUMBER:
            raise TokenizerError(
                f"{keys.path}: {_KEYS}token_type of token {token} is {number}, types are 1 to 6"
            )
    return [_TYPE_OF_NUMBER[number] for number in numbers]


def _spm(keys: _Keys, pieces: list[str], types: list[PieceType]) -> Vocabulary:
    scores = keys.numbers("scores", len(pieces))
    if scores is None:
        raise keys.wrong("scores", "an array of numbers")
    marks: dict[str, Any] = {
        field: keys.token(name, _SPM_DEFAULTS.get(field, -1), len(pieces))
        for field, name in _MARKS.items()
    }
    unknown = marks["unknown_id"]
    if types.count(PieceType.UNKNOWN) != 1 or types[unknown] != PieceType.UNKNOWN:
        raise TokenizerError(
            f"{keys.path} should have one unknown token, {_KEYS}unknown_token_id, "
            f"found {types.count(PieceType.UNKNOWN)} by type"
        )
    of_bytes = [piece for piece, kind in zip(pieces, types, strict=True) if kind == PieceType.BYTE]
    if of_bytes and set(of_bytes) != set(BYTE_PIECES):
        raise TokenizerError(f"{keys.path} has {len(of_bytes)} byte tokens, 256 different or none")
    vocabulary = Vocabulary(
        kind="spm",
        pieces=tuple(pieces),
        types=tuple(types),
        scores=tuple(float(score) for score in scores),
        adds_bos=keys.flag("add_bos_token", True),
        adds_eos=keys.flag("add_eos_token", False),
        dummy_prefix=keys.flag("add_space_prefix", True),
        **marks,
    )
    return checked(vocabulary, keys.path)


def _bpe(keys: _Keys, pieces: list[str], types: list[PieceType]) -> Vocabulary:
    pre_tokenizer = PRE_TOKENIZERS.get(name := keys.text("pre", "default"))
    if pre_tokenizer is None:
        raise TokenizerError(
            f"{keys.path}: {_KEYS}pre is {shown(name)}, a way to cut text that Puna does not know",
            hint=f"known are {', '.join(PRE_TOKENIZERS)}",
        )
    marks: dict[str, Any] = {
        field: keys.token(name, -1, len(pieces)) for field, name in _MARKS.items()
    }
    return bpe_vocabulary(
        pieces,
        keys.texts("merges"),
        keys.path,
        types=types,
        pre_tokenizer=pre_tokenizer,
        adds_bos=keys.flag("add_bos_token", pre_tokenizer == "llama-bpe"),
        adds_eos=keys.flag("add_eos_token", False),
        **marks,
    )
