"""Small tokenizers of every format, made here by the libraries that define the formats."""

from __future__ import annotations

import base64
import io
import json
import struct
from functools import cache

import sentencepiece
import tokenizers
from token_texts import sentences
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from puna.tokens.formats.tokenizer_json import LLAMA3_PATTERN

CHATML = "<|im_start|>", "<|im_end|>"
SPECIAL = ("<|endoftext|>", *CHATML)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def sentencepiece_model(vocabulary_size: int = 320, **settings: object) -> bytes:
    """A tokenizer.model of LLaMA's kind, by SentencePiece's own trainer."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(300)),
        model_writer=model,
        **{
            "vocab_size": vocabulary_size,
            "model_type": "bpe",
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "split_digits": True,
            "character_coverage": 0.99,
            "minloglevel": 2,
            **settings,
        },
    )
    return model.getvalue()


def pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut, by Hugging Face's library."""
    with_rules = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt-2":
        return with_rules
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, with_rules])
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3_PATTERN), "isolated")
    only_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, only_bytes])


@cache
def byte_level_engine(name: str, size: int = 320) -> tokenizers.Tokenizer:
    """Byte-level BPE learnt from a few sentences, by Hugging Face's trainer."""
    engine = tokenizers.Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    engine.pre_tokenizer = pre_tokenizer(name)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator(
        sentences(300),
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL),
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    ends = [("<|endoftext|>", engine.token_to_id("<|endoftext|>"))]
    engine.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=ends
    )
    return engine


def tokenizer_json(name: str = "llama-bpe", size: int = 320) -> bytes:
    """The tokenizer.json of byte-level BPE."""
    return byte_level_engine(name, size).to_str().encode()


@cache
def ranks(merges: int = 40) -> bytes:
    """Llama 3's kind of tokenizer.model: all bytes, then the merges of the engine above."""
    model = json.loads(byte_level_engine("llama-bpe", 299 + merges).to_str())["model"]
    to_byte = {letter: byte for byte, letter in _printable()}
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in model["merges"]:
        tokens.append(bytes(to_byte[letter] for letter in left + right))
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def tokenizer_bin(model: bytes | None = None) -> bytes:
    """llama2.c's tokenizer.bin of a SentencePiece model, as its export writes it."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.load_from_serialized_proto(model or sentencepiece_model())
    pieces = []
    for token in range(processor.get_piece_size()):
        piece = processor.id_to_piece(token).replace("\u2581", " ")
        piece = f"\n{piece}\n" if token in (1, 2) else piece
        pieces.append((processor.get_score(token), piece.encode()))
    longest = max(len(piece) for _, piece in pieces)
    return struct.pack("<i", longest) + b"".join(
        struct.pack("<fi", score, len(piece)) + piece for score, piece in pieces
    )


def _printable() -> list[tuple[int, str]]:
    """GPT-2's table, as its authors published it."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [(byte, chr(byte)) for byte in shown] + [
        (byte, chr(256 + index)) for index, byte in enumerate(hidden)
    ]
