"""Writes `tokenizer.json` and `tokenizer_config.json` as Hugging Face's libraries read them."""

from __future__ import annotations

import json
from typing import Any

from puna.tokens.formats.tokenizer_json import PRE_TOKENIZERS, PREFIX_FORMS
from puna.tokens.vocabulary import MARKUP, SPACE_MARK, PieceType, Vocabulary

_NO_LIMIT = 1_000_000_000_000_000_019_884_624_838_656  # how transformers writes "no length known"


def write_tokenizer_json(vocabulary: Vocabulary) -> bytes:
    """The `tokenizer.json` of a vocabulary that says all that counts.

    Raises KeyError for a pre-tokenizer without a name; its reader kept the original file.
    """
    is_spm = vocabulary.kind == "spm"
    normalizer, pre_tokenizer = prefix_form(vocabulary) if is_spm else (None, None)
    if not is_spm:
        pre_tokenizer = PRE_TOKENIZERS[vocabulary.pre_tokenizer]
    record = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _post_processor(vocabulary),
        "decoder": _spm_decoder(vocabulary) if is_spm else PRE_TOKENIZERS["gpt-2"],
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": vocabulary.pieces[vocabulary.unknown_id] if is_spm else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": is_spm,
            "byte_fallback": is_spm,
            "ignore_merges": vocabulary.pre_tokenizer == "llama-bpe",
            "vocab": {piece: token for token, piece in enumerate(vocabulary.pieces)},
            "merges": [merge.split(" ") for merge in vocabulary.merges or spm_merges(vocabulary)],
        },
    }
    return _as_json(record)


def _as_json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode()


def write_tokenizer_config(vocabulary: Vocabulary) -> bytes:
    """The `tokenizer_config.json` beside it: which tokens do what, and the chat template."""
    record: dict[str, Any] = {
        # The class that takes tokenizer.json as it is; LlamaTokenizer puts no space before a text
        # that begins with one.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": _NO_LIMIT,
        "add_bos_token": vocabulary.adds_bos,
        "add_eos_token": vocabulary.adds_eos,
        "added_tokens_decoder": {
            str(token.pop("id")): token for token in _added_tokens(vocabulary)
        },
    }
    record |= {name: piece for name, piece in vocabulary.named_pieces().items() if piece}
    if vocabulary.kind == "spm":
        record["legacy"] = vocabulary.prefix_after_marks
        record["add_prefix_space"] = vocabulary.dummy_prefix
    if vocabulary.chat_template is not None:
        record["chat_template"] = vocabulary.chat_template
    return _as_json(record)


def write_generation_config(vocabulary: Vocabulary) -> bytes | None:
    """A `generation_config.json` that names every token which ends a turn; None for one EOS."""
    if len(vocabulary.stop_ids) < 2:
        return None
    record: dict[str, Any] = {"eos_token_id": list(vocabulary.stop_ids)}
    if vocabulary.bos_id >= 0:
        record["bos_token_id"] = vocabulary.bos_id
    return _as_json(record)


def prefix_form(vocabulary: Vocabulary) -> tuple[Any, Any]:
    """Normaliser and pre-tokenizer that put the vocabulary's spaces where it wants them."""
    if not vocabulary.dummy_prefix:
        return PREFIX_FORMS["never"]
    if not vocabulary.prefix_after_marks:
        return PREFIX_FORMS["first"]
    return PREFIX_FORMS["always" if vocabulary.prefix_doubles_spaces else "always but at spaces"]


def spm_merges(vocabulary: Vocabulary) -> list[str]:
    """The merges "a b" that scores stand for: best piece first, its longest left part first."""
    known = set(vocabulary.pieces)
    scored = zip(vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True)
    kinds = (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED)
    ranked = sorted(
        ((piece, score) for piece, score, kind in scored if kind in kinds), key=lambda one: -one[1]
    )
    return [
        f"{piece[:cut]} {piece[cut:]}"
        for piece, _score in ranked
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in known and piece[cut:] in known
    ]


def _added_tokens(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    return [
        {
            "id": token,
            "content": vocabulary.pieces[token],
            "single_word": False,
            "lstrip": token in vocabulary.strips_left,
            "rstrip": token in vocabulary.strips_right,
            "normalized": False,
            "special": vocabulary.types[token] in MARKUP,
        }
        for token in vocabulary.ids_of(*MARKUP, PieceType.USER_DEFINED)
    ]


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any]:
    """A template that puts BOS and EOS where the vocabulary has them."""
    before = [vocabulary.bos_id] if vocabulary.adds_bos else []
    after = [vocabulary.eos_id] if vocabulary.adds_eos else []
    names = {token: vocabulary.pieces[token] for token in (*before, *after) if token >= 0}

    def marks(tokens: list[int], number: int) -> list[dict[str, Any]]:
        return [
            {"SpecialToken": {"id": names[token], "type_id": number}}
            for token in tokens
            if token in names
        ]

    def text(name: str, number: int) -> list[dict[str, Any]]:
        sequence = {"Sequence": {"id": name, "type_id": number}}
        return [*marks(before, number), sequence, *marks(after, number)]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": {
            name: {"id": name, "ids": [token], "tokens": [name]} for token, name in names.items()
        },
    }


def _spm_decoder(vocabulary: Vocabulary) -> dict[str, Any]:
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *(strip if vocabulary.dummy_prefix else []),
        ],
    }
