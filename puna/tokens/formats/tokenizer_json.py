"""Hugging Face's `tokenizer.json`: the parts of a text's way to ids, each named by its type.

Two shapes of it are LLaMA's. Byte-level BPE (LLaMA 3, SmolLM2, GPT-2): a pre-tokenizer cuts text
into words, whose bytes are merged. SentencePiece's (LLaMA 1 and 2, TinyLlama, Mistral): spaces
become U+2581, one is put in front, and characters are merged, with bytes for unknown ones.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from puna.errors import TokenizerError
from puna.tokens.formats.bpe_parts import bpe_vocabulary, check_merges, pieces_by_id
from puna.tokens.formats.json_text import read_object
from puna.tokens.formats.sentencepiece_model import BYTE_PIECES
from puna.tokens.vocabulary import (
    MARKUP,
    SPACE_MARK,
    AddedToken,
    PieceType,
    Vocabulary,
    checked,
    shown,
)

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_Json = dict[str, Any]
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
# How text is cut before merging, under GGUF's names for it.
PRE_TOKENIZERS: dict[str, _Json] = {
    "gpt-2": {**_BYTES, "use_regex": True},
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {**_BYTES, "use_regex": True},
        ],
    },
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": LLAMA3_PATTERN},
                "behavior": "Isolated",
                "invert": False,
            },
            {**_BYTES, "use_regex": False},
        ],
    },
}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
_PREPEND = {
    "type": "Sequence",
    "normalizers": [{"type": "Prepend", "prepend": SPACE_MARK}, _REPLACE],
}
_SPACES = {"type": "Metaspace", "replacement": SPACE_MARK, "split": False}
# Where spaces are put: (normaliser, pre-tokenizer).
PREFIX_FORMS: dict[str, tuple[Any, Any]] = {
    "always": (_PREPEND, None),
    "always but at spaces": (None, {**_SPACES, "prepend_scheme": "always"}),
    "first": (None, {**_SPACES, "prepend_scheme": "first"}),
    "never": (_REPLACE, None),
    "never, by Metaspace": (None, {**_SPACES, "prepend_scheme": "never"}),
}
_PREFIX_RULES: dict[str, dict[str, bool]] = {
    "always": {},
    "always but at spaces": {"prefix_doubles_spaces": False},
    "first": {"prefix_after_marks": False, "prefix_doubles_spaces": False},
    "never": {"dummy_prefix": False},
    "never, by Metaspace": {"dummy_prefix": False},
}
# Texts of the pieces that begin and end a text, where no other file names them.
_USUAL_BEGINS = ("<|begin_of_text|>", "<s>")
_USUAL_ENDS = ("<|end_of_text|>", "</s>", "<|endoftext|>")


@dataclass(frozen=True)
class TokenizerJson:
    """A checked `tokenizer.json`.

    `rules` is None where the vocabulary says all that counts; else it is the file without its
    added tokens, for a text's way to ids that Vocabulary has no words for.
    """

    vocabulary: Vocabulary
    rules: _Json | None


def read_tokenizer_json(content: bytes, path: Path) -> TokenizerJson:
    """The tokenizer in a file's bytes.

    Raises TokenizerError for broken JSON, a part of another type than LLaMA's, ids with gaps,
    merges of pieces that are not there.
    """
    record = read_object(content, path)
    model = _part(record, "model", path)
    if model is None or model.get("type", "BPE") != "BPE":
        found = "no model" if model is None else f"a model of type {shown(str(model['type']))}"
        raise TokenizerError(f"{path} should be a tokenizer.json with a BPE model, found {found}")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise TokenizerError(f"{path}: model.{name} should be absent, as in LLaMA's")
    added = _added_tokens(record, path)
    ids = model.get("vocab")
    if not isinstance(ids, dict):
        raise TokenizerError(f"{path}: model.vocab should be an object of ids")
    for token in added:
        if ids.setdefault(token.content, token.id) != token.id:
            raise TokenizerError(
                f"{path}: the added token {shown(token.content)} has the id {token.id}, "
                f"and {shown(str(ids[token.content]))} in the vocabulary"
            )
    pieces, merges = pieces_by_id(ids, path), _merges(model, path)
    read = _read_spm if model.get("byte_fallback") is True else _read_bpe
    vocabulary, is_whole = read(_Parts(record, model, pieces, merges, added, path))
    vocabulary = _with_ends(vocabulary, record, path)
    rules = None if is_whole else {**record, "added_tokens": [], "post_processor": None}
    return TokenizerJson(vocabulary, rules)


class _Parts(NamedTuple):
    """A file's JSON, and what was checked and taken out of it."""

    record: _Json
    model: _Json
    pieces: list[str]
    merges: list[str]
    added: list[AddedToken]
    path: Path


def _read_bpe(parts: _Parts) -> tuple[Vocabulary, bool]:
    """Byte-level BPE, and whether the vocabulary says all of it."""
    record, model, pieces, merges, added, path = parts
    if "ByteLevel" not in _types_in(record.get("decoder")):
        raise TokenizerError(
            f"{path} should decode bytes (ByteLevel) or SentencePiece's pieces (ByteFallback), "
            f"as LLaMA's files do; it does neither"
        )
    found = _canonical(record.get("pre_tokenizer"))
    names = [name for name, form in PRE_TOKENIZERS.items() if _canonical(form) == found]
    name = names[0] if names else ""
    is_whole = (
        bool(names)
        and record.get("normalizer") is None
        and bool(model.get("ignore_merges")) == (name == "llama-bpe")
        and model.get("unk_token") is None
    )
    types = _types(pieces, added)
    vocabulary = bpe_vocabulary(
        pieces, merges, path, types=types, pre_tokenizer=name if is_whole else "", **_strips(added)
    )
    return vocabulary, is_whole


def _read_spm(parts: _Parts) -> tuple[Vocabulary, bool]:
    """SentencePiece's BPE as Hugging Face writes it, and whether the vocabulary says all of it."""
    record, model, pieces, merges, added, path = parts
    if "ByteFallback" not in _types_in(record.get("decoder")):
        raise TokenizerError(f"{path} spells unknown text in bytes but does not decode them")
    unknown = model.get("unk_token")
    if unknown not in pieces:
        raise TokenizerError(f"{path}: model.unk_token should name a piece, found {unknown!r:.40}")
    types = _types(pieces, added)
    types[pieces.index(unknown)] = PieceType.UNKNOWN
    missing = set(BYTE_PIECES) - set(pieces)
    if missing:
        raise TokenizerError(f"{path} has no piece for {len(missing)} of 256 bytes")
    for piece in BYTE_PIECES:
        types[pieces.index(piece)] = PieceType.BYTE
    check_merges(pieces, merges, path)
    found = [_canonical(record.get("normalizer")), _canonical(record.get("pre_tokenizer"))]
    named = [
        _PREFIX_RULES[name]
        for name, form in PREFIX_FORMS.items()
        if [_canonical(one) for one in form] == found
    ]
    prefix = {"dummy_prefix": "Strip" in _types_in(record.get("decoder"))}
    rules: dict[str, Any] = {**(named[0] if named else prefix), **_strips(added)}
    vocabulary = Vocabulary(
        kind="spm",
        pieces=tuple(pieces),
        types=tuple(types),
        scores=_scores(pieces, types, merges),
        merges=tuple(merges),
        unknown_id=pieces.index(unknown),
        normalizes=not named,
        **rules,
    )
    return checked(vocabulary, path), bool(named)


def _scores(pieces: list[str], types: list[PieceType], merges: list[str]) -> tuple[float, ...]:
    """Scores that order pieces as their merges do.

    SentencePiece's trainer gives the n-th normal piece the score -n, so where the merges come in
    the order of ids, as LLaMA's do, these are the scores of the original model.
    """
    ids = {piece: token for token, piece in enumerate(pieces)}
    made = list(dict.fromkeys(ids[merge.replace(" ", "", 1)] for merge in merges))
    normal = [token for token, kind in enumerate(types) if kind == PieceType.NORMAL]
    if made == sorted(made):
        ranked = normal
    else:
        is_made = set(made)
        ranked = [*made, *(token for token in normal if token not in is_made)]
    scores = [0.0] * len(pieces)
    for rank, token in enumerate(ranked):
        scores[token] = -float(rank)
    return tuple(scores)


def _types(pieces: list[str], added: list[AddedToken]) -> list[PieceType]:
    types = [PieceType.NORMAL] * len(pieces)
    for token in added:
        types[token.id] = PieceType.CONTROL if token.special else PieceType.USER_DEFINED
    return types


def _strips(added: list[AddedToken]) -> dict[str, Any]:
    return {
        "strips_left": frozenset(token.id for token in added if token.lstrip),
        "strips_right": frozenset(token.id for token in added if token.rstrip),
    }


def _part(record: _Json, name: str, path: Path) -> _Json | None:
    value = record.get(name)
    if value is not None and not isinstance(value, dict):
        raise TokenizerError(f"{path}: {name} should be an object")
    return value


def _added_tokens(record: _Json, path: Path) -> list[AddedToken]:
    listed = record.get("added_tokens", [])
    if not isinstance(listed, list):
        raise TokenizerError(f"{path}: added_tokens should be a list")
    return [
        added_token(one.get("id"), one, path) if isinstance(one, dict) else _refuse_token(one, path)
        for one in listed
    ]


def added_token(token: Any, facts: Mapping[str, Any], path: Path) -> AddedToken:
    """The added token that a file tells these `facts` about. Raises TokenizerError for nonsense."""
    content = facts.get("content")
    flags = {
        name: facts.get(name, default)
        for name, default in (("special", False), ("lstrip", False), ("rstrip", False))
    }
    is_known = type(token) is int and token >= 0 and isinstance(content, str) and content
    if not is_known or not all(isinstance(flag, bool) for flag in flags.values()):
        _refuse_token(facts, path)
    if facts.get("single_word"):
        raise TokenizerError(f"{path}: the added token {shown(str(content))} is for whole words")
    return AddedToken(token, str(content), **flags)


def _refuse_token(found: Any, path: Path) -> AddedToken:
    raise TokenizerError(
        f"{path}: an added token should have a content, an id and flags, found {shown(str(found))}"
    )


def _merges(model: _Json, path: Path) -> list[str]:
    """The merges as "a b"; the file has them so, or as pairs."""
    listed = model.get("merges")
    if not isinstance(listed, list):
        raise TokenizerError(f"{path}: model.merges should be a list")
    merges = []
    for number, merge in enumerate(listed):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(parts, list) and len(parts) == 2
        if not is_pair or not all(isinstance(part, str) and part for part in parts):
            raise TokenizerError(f"{path}: merge {number} should be a pair of pieces")
        if " " in parts[0] or " " in parts[1]:
            raise TokenizerError(f"{path}: merge {number} has a space in a piece")
        merges.append(f"{parts[0]} {parts[1]}")
    return merges


def _types_in(part: Any) -> set[str]:
    """The types of a part and of the parts within it."""
    if not isinstance(part, dict):
        return set()
    found = {part["type"]} if isinstance(part.get("type"), str) else set()
    for name in ("decoders", "pretokenizers", "normalizers", "processors"):
        inner = part.get(name)
        if isinstance(inner, list):
            found = found.union(*(_types_in(one) for one in inner))
    return found


def _canonical(part: Any) -> Any:
    """A part without what changes no id, its defaults written out, sequences of one unwrapped."""
    if not isinstance(part, dict):
        return part
    same = {name: value for name, value in part.items() if name not in ("trim_offsets", "str_rep")}
    if part.get("type") == "ByteLevel":
        same = {"use_regex": True, "add_prefix_space": True, **same}
    elif part.get("type") == "Split":
        same = {"invert": False, **same}
    elif part.get("type") == "Metaspace":
        same.pop("add_prefix_space", None)
        same = {"prepend_scheme": "always", "split": True, **same}
    for name in ("pretokenizers", "normalizers"):
        if isinstance(part.get(name), list):
            same[name] = [_canonical(one) for one in part[name]]
            if len(same[name]) == 1:
                return same[name][0]
    return same


def _with_ends(vocabulary: Vocabulary, record: _Json, path: Path) -> Vocabulary:
    """`vocabulary` with the tokens that the file puts around a text, or would by their names."""
    begins, ends = _template(record, path)
    for tokens in (begins, ends):
        if len(tokens) > 1 or not all(0 <= token < len(vocabulary) for token in tokens):
            raise TokenizerError(f"{path} should put at most one token before and after a text")
    control = {vocabulary.pieces[token]: token for token in vocabulary.ids_of(*MARKUP)}
    usual_begin = [control[piece] for piece in _USUAL_BEGINS if piece in control]
    usual_end = [control[piece] for piece in _USUAL_ENDS if piece in control]
    return replace(
        vocabulary,
        bos_id=next(iter([*begins, *usual_begin]), -1),
        eos_id=next(iter([*ends, *usual_end]), -1),
        adds_bos=bool(begins),
        adds_eos=bool(ends),
    )


def _template(record: _Json, path: Path) -> tuple[list[int], list[int]]:
    """The ids that the post-processor puts before a text, and after it."""
    part = _part(record, "post_processor", path)
    parts = [part] if part is not None else []
    if part is not None and isinstance(part.get("processors"), list):
        parts = [one for one in part["processors"] if isinstance(one, dict)]
    templates = [one for one in parts if one.get("type") == "TemplateProcessing"]
    try:
        found = [_ids_around(one["single"], one["special_tokens"]) for one in templates]
    except (LookupError, TypeError, StopIteration, AttributeError):
        raise TokenizerError(f"{path}: post_processor is no template") from None
    begins = [token for before, _ in found for token in before]
    return begins, [token for _, after in found for token in after]


def _ids_around(single: list[_Json], specials: _Json) -> tuple[list[int], list[int]]:
    """The ids that a template has before the text, and after it."""
    place = next(at for at, item in enumerate(single) if "Sequence" in item)
    before, after = (
        [
            operator.index(token)
            for item in items
            for token in specials[item["SpecialToken"]["id"]]["ids"]
        ]
        for items in (single[:place], single[place + 1 :])
    )
    return before, after
