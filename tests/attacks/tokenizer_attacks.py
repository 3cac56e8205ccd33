"""Broken tokenizer files, one for every way to break them: name, content, what the error says."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

from small_tokenizers import byte_level_engine, ranks, sentencepiece_model, tokenizer_bin

from puna.tokens.formats.protobuf import bytes_field, float_field, number_field, varint
from puna.tokens.tokenizer import Tokenizer
from puna.weights.gguf_file import read_gguf

Attack = tuple[str, bytes, str]

MODEL = sentencepiece_model()
BIN = tokenizer_bin()
RANKS = ranks()
TEXT = "the llama's  1,024 <s>é\n🦙"


def use(path: Path) -> int:
    """Load a tokenizer and make it work: there and back, markup, one id after another."""
    if path.suffix == ".gguf":
        tokenizer = Tokenizer.from_gguf(read_gguf(path).metadata, path)
    else:
        tokenizer = Tokenizer.load(path)
    ids = tokenizer.encode(TEXT, special=True)
    assert all(0 <= token < tokenizer.vocabulary_size for token in ids)
    decoded = tokenizer.decode(ids)
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == decoded
    assert all(0 <= token < tokenizer.vocabulary_size for token in tokenizer.stop_ids)
    return len(ids)


def piece(text: bytes, *rest: bytes) -> bytes:
    return bytes_field(1, bytes_field(1, text) + b"".join(rest))


def model(*parts: bytes, start: bytes = MODEL) -> bytes:
    """The good model with more at its end."""
    return start + b"".join(parts)


def rules(trie: bytes, texts: bytes, size: int | None = None) -> bytes:
    """A normaliser's precompiled rules."""
    head = struct.pack("<I", len(trie) if size is None else size)
    return bytes_field(3, bytes_field(2, head + trie + texts))


def unit(*, offset: int = 0, leaf: int | None = None) -> bytes:
    """One unit of the trie."""
    return struct.pack("<I", offset << 10 if leaf is None else 1 << 31 | leaf)


TRIE = bytes(1024)
MODELS: dict[str, Attack] = {
    label: ("tokenizer.model", content, says)
    for label, (content, says) in {
        "nothing": (b"", "found 0 other bytes"),
        "text": (b"just some words", "other bytes"),
        "a length beyond the file": (model(b"\x0a" + varint(2**62)), "are left"),
        "a length that does not end": (model(b"\x0a" + b"\xff" * 11), "does not end"),
        "a length that is cut off": (model(b"\x0a\x80"), "does not end"),
        "a group": (model(varint(9 << 3 | 3)), "wire type 3"),
        "a wire type that is none": (model(varint(9 << 3 | 7)), "wire type 7"),
        "field number 0": (model(b"\x00\x00"), "field number 0"),
        "a piece that is a number": (model(number_field(1, 5)), "a piece has wire type 0"),
        "an empty piece": (model(piece(b"")), r"piece \d+ is empty"),
        "a piece without text": (model(bytes_field(1, float_field(2, 1.0))), "is empty"),
        "a piece with NUL": (model(piece(b"a\0b")), r"piece \d+ is 'a\\x00b'"),
        "a piece twice": (model(piece(b"<s>")), "is the same as piece 1"),
        "a piece that is not UTF-8": (model(piece(b"\xff\xfe")), "is not UTF-8"),
        "a piece of type 7": (model(piece(b"new", number_field(3, 7))), "type 7"),
        "a piece of type 0": (model(piece(b"new", number_field(3, 0))), "type 0"),
        "a piece of a negative type": (model(piece(b"new", number_field(3, -1))), "type -1"),
        "a score that is no number": (model(piece(b"new", float_field(2, float("nan")))), "is nan"),
        "an endless score": (model(piece(b"new", float_field(2, float("inf")))), "is inf"),
        "a score as text": (model(piece(b"new", bytes_field(2, b"1"))), "wire type 2, not 5"),
        "a very long piece": (model(piece(b"x" * 70_000)), "takes 70,0"),
        "two unknown pieces": (model(piece(b"new", number_field(3, 2))), "one unknown piece"),
        "a 257th byte": (model(piece(b"<0xGG>", number_field(3, 6))), "257 of 256 byte pieces"),
        "a unigram model": (model(bytes_field(2, number_field(3, 1))), "of type unigram"),
        "a model of type 99": (model(bytes_field(2, number_field(3, 99))), "number 99"),
        "spaces after words": (model(bytes_field(2, number_field(24, 1))), "marks spaces after"),
        "bytes without fallback": (model(bytes_field(2, number_field(35, 0))), "has byte pieces"),
        "rules of no size": (model(rules(b"", b"\0", size=0)), "rules are broken"),
        "rules larger than they are": (model(rules(TRIE, b"\0", size=1 << 20)), "rules are broken"),
        "rules of a huge size": (model(rules(TRIE, b"\0", size=0xFFFF_FC00)), "rules are broken"),
        "rules of half a block": (model(rules(TRIE[:512], b"\0")), "rules are broken"),
        "rules without an end": (model(rules(TRIE, b"abc")), "rules are broken"),
        "rules that lead outside": (
            model(rules(unit(offset=1 << 20) + TRIE[4:], b"\0")),
            "lead outside their table",
        ),
        "rules with texts outside": (
            model(rules(unit(leaf=77) + TRIE[4:], b"\0")),
            "lead outside their texts",
        ),
    }.items()
}


def lines(*changes: tuple[int, bytes]) -> bytes:
    """The good ranks with some lines changed; lines count from 1."""
    found = RANKS.splitlines()
    for number, line in changes:
        found[number - 1] = line
    return b"\n".join(found) + b"\n"


LAST = len(RANKS.splitlines())
RANK_FILES: dict[str, Attack] = {
    label: ("tokenizer.model", content, says)
    for label, (content, says) in {
        "a rank left out": (lines((5, b"BQ== 9")), r"line 5 should have rank 4"),
        "a rank twice": (lines((5, b"BQ== 3")), r"line 5 should have rank 4"),
        "a negative rank": (lines((5, b"BQ== -4")), "line 5 should be a token"),
        "a rank of many digits": (lines((5, b"BQ== " + b"9" * 5000)), "line 5 should be a token"),
        "a token twice": (lines((LAST, b"AA== %d" % (LAST - 1))), "is the same token as line"),
        "no base64": (lines((5, b"B*== 4")), "line 5 should be a token in base64"),
        "base64 cut short": (lines((5, b"BQ= 4")), "line 5 should be a token in base64"),
        "an empty token": (lines((5, b" 4")), "line 5 should be a token in base64"),
        "a very long token": (
            lines((LAST, base64.b64encode(b"x" * 2000) + b" %d" % (LAST - 1))),
            f"line {LAST} should be a token in base64",
        ),
        "a byte without a token": (b"\n".join(RANKS.splitlines()[:100]), "none for the byte 0x64"),
        "three columns": (lines((5, b"BQ== 4 4")), "line 5 should be a token"),
        "other bytes within": (lines((5, b"\0\xff\n")), "line 5 should be a token"),
    }.items()
}


def bin_with(offset: int, code: str, value: Any) -> bytes:
    """The good tokenizer.bin with one number changed."""
    bent = bytearray(BIN)
    struct.pack_into(code, bent, offset, value)
    return bytes(bent)


BINS: dict[str, Attack] = {
    label: ("tokenizer.bin", content, says)
    for label, (content, says) in {
        "a longest piece of none": (bin_with(0, "<i", 0), "the longest piece would have 0"),
        "a piece longer than the longest": (bin_with(8, "<i", 99), "a piece of 99 bytes"),
        "a piece of a negative length": (bin_with(8, "<i", -1), "a piece of -1 bytes"),
        "a piece of two gigabytes": (bin_with(8, "<i", 2**31 - 1), "a piece of 2147483647 bytes"),
        "a score that is no number": (bin_with(17, "<f", float("nan")), "score of piece 1 is nan"),
        "a piece that is not UTF-8": (BIN[:-1] + b"\xff", "is not UTF-8"),
        "no byte pieces": (BIN.replace(b"<0x41>", b"<0x4_>"), "256 byte pieces from id 3"),
        "another begin": (BIN.replace(b"\n<s>\n", b"\n<x>\n"), "begin with <unk>, <s> and </s>"),
        "half a head": (BIN + b"\0\0\0", "cut short"),
    }.items()
}

GOOD_JSON = json.loads(byte_level_engine("llama-bpe").to_str())


def changed(**parts: Any) -> bytes:
    """The good tokenizer.json with other values; a double underscore goes one level down."""
    record = json.loads(json.dumps(GOOD_JSON))
    for name, value in parts.items():
        outer, _, inner = name.partition("__")
        if inner:
            record[outer][inner] = value
        else:
            record[outer] = value
    return json.dumps(record).encode()


VOCABULARY = GOOD_JSON["model"]["vocab"]
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
JSONS: dict[str, Attack] = {
    label: ("tokenizer.json", content, says)
    for label, (content, says) in {
        "half": (changed()[:500], r"line 1, column \d+"),
        "deep nesting": (b'{"a":' * 100_000, "nests too deep"),
        "a number of thousands of digits": (
            b'{"a":' + b"1" * 5000 + b"}",
            "JSON: Exceeds",
        ),
        "NaN": (b'{"a": NaN}', "NaN is no number"),
        "a key twice": (b'{"model": 1, "model": 2}', "'model' comes twice"),
        "not UTF-8": (b'{"\xff": 1}', "not UTF-8"),
        "another object": (b'{"a": 1}', "found no model"),
        "a model that is none": (changed(model=[1]), "model should be an object"),
        "a unigram model": (changed(model__type="Unigram"), "of type 'Unigram'"),
        "a vocabulary that is a list": (changed(model__vocab=[]), "should be an object of ids"),
        "an id that is text": (changed(model__vocab={**VOCABULARY, "x\u0100x": "1"}), "an id from"),
        "a negative id": (changed(model__vocab={**VOCABULARY, "x\u0100x": -1}), "an id from"),
        "a huge id": (changed(model__vocab={**VOCABULARY, "x\u0100x": 2**63}), "an id from"),
        "an id twice": (changed(model__vocab={**VOCABULARY, "x\u0100x": 5}), "an id from|share"),
        "an empty piece": (changed(model__vocab={**VOCABULARY, "": len(VOCABULARY)}), "is empty"),
        "a piece in other letters": (
            changed(model__vocab={**VOCABULARY, "\u9ad8": len(VOCABULARY)}),
            "not spelt in GPT-2's",
        ),
        "a lone surrogate": (
            changed(model__vocab={**VOCABULARY, "\ud800": len(VOCABULARY)}),
            "not spelt in GPT-2's|lone surrogate",
        ),
        "merges that are none": (changed(model__merges="a b"), "merges should be a list"),
        "a merge of three": (changed(model__merges=[["a", "b", "c"]]), "merge 0 should be a pair"),
        "a merge of one": (changed(model__merges=["ab"]), "merge 0 should be a pair"),
        "a merge of numbers": (changed(model__merges=[[1, 2]]), "merge 0 should be a pair"),
        "a merge of strangers": (changed(model__merges=["a \u0100\u0100"]), "join two pieces"),
        "a merge twice": (
            changed(model__merges=GOOD_JSON["model"]["merges"][:1] * 2),
            "a merge comes twice",
        ),
        "dropout": (changed(model__dropout=0.5), "dropout should be absent"),
        "added tokens that are none": (changed(added_tokens={}), "should be a list|should have"),
        "an added token of text": (changed(added_tokens=["x"]), "an added token should have"),
        "an added token without id": (changed(added_tokens=[{"content": "x"}]), "should have a"),
        "an added token far away": (
            changed(added_tokens=[{"content": "new", "id": 2**40}]),
            "an id from 0",
        ),
        "an added token elsewhere": (
            changed(added_tokens=[{"content": "a", "id": 0}]),
            "has the id 0",
        ),
        "an added token for whole words": (
            changed(added_tokens=[{"content": "a", "id": VOCABULARY["a"], "single_word": True}]),
            "is for whole words",
        ),
        "no decoder": (changed(decoder=None), "should decode bytes"),
        "a template of nonsense": (
            changed(post_processor={"type": "TemplateProcessing", "single": 5}),
            "is no template",
        ),
        "a template of foreign ids": (
            changed(
                post_processor={
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
                    "special_tokens": {"x": {"ids": [10**9]}},
                }
            ),
            "at most one token",
        ),
        "an unknown pre-tokenizer": (
            changed(pre_tokenizer={"type": "Nonsense"}),
            "refused by tokenizers",
        ),
        "a pattern that is none": (
            changed(pre_tokenizer={**SPLIT, "pattern": {"Regex": "("}}),
            "refused by tokenizers",
        ),
        "an unknown normaliser": (
            changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "refused by tokenizers",
        ),
    }.items()
}

FOLDERS: dict[str, tuple[str, bytes, str]] = {
    "a config that is none": ("tokenizer_config.json", b"[1]", "should hold a JSON object"),
    "a BOS that is none": ("tokenizer_config.json", b'{"bos_token": "<x>"}', "which is no token"),
    "a BOS that is a list": ("tokenizer_config.json", b'{"bos_token": [1]}', "should be text"),
    "a flag that is text": ("tokenizer_config.json", b'{"add_bos_token": "no"}', "true or false"),
    "a template that is a number": ("tokenizer_config.json", b'{"chat_template": 5}', "be text"),
    "added tokens in a list": (
        "tokenizer_config.json",
        b'{"added_tokens_decoder": []}',
        "should be an object",
    ),
    "an added id that is none": (
        "tokenizer_config.json",
        b'{"added_tokens_decoder": {"x": {"content": "y"}}}',
        "from ids to tokens",
    ),
    "an added id of a billion": (
        "tokenizer_config.json",
        b'{"added_tokens_decoder": {"999999999": {"content": "y"}}}',
        "must be 0 to",
    ),
    "an added id of a million": (
        "tokenizer_config.json",
        b'{"added_tokens_decoder": {"1048575": {"content": "y"}}}',
        "would leave 1,048,2.. ids without a token",
    ),
    "a million in an older folder": ("added_tokens.json", b'{"y": 999999}', "would leave"),
    "an added token twice": (
        "tokenizer_config.json",
        b'{"added_tokens_decoder": {"400": {"content": "<y>"}, "401": {"content": "<y>"}}}',
        "is the same as piece 400",
    ),
    "an added token that is empty": ("added_tokens.json", b'{"": 400}', "should have a content"),
    "a stop id that is text": ("generation_config.json", b'{"eos_token_id": "2"}', "an id or a"),
    "a stop id outside": ("generation_config.json", b'{"eos_token_id": [99999]}', "a stop id is"),
    "a template that is not UTF-8": ("chat_template.jinja", b"\xff", "byte 0: not UTF-8"),
}
