"""The memory of words changes no id, stays bounded, and is left alone where it would be wrong."""

import json
import random
import threading

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import sentencepiece_model, tokenizer_json
from token_texts import sentences

from puna import hardware
from puna.tokens import encoders, word_cache
from puna.tokens.encoders import _GPT2_WORDS, _LLAMA3_WORDS, words_of_spm
from puna.tokens.formats.sentencepiece_model import write_sentencepiece
from puna.tokens.tokenizer import Tokenizer
from puna.tokens.vocabulary import PieceType

ANY_TEXT = st.text(st.sampled_from("abzé \n\t\r.,'1\x1c\x85高🦙"), max_size=40) | st.text(
    max_size=40
)


def with_pieces(*pieces: str) -> Tokenizer:
    """A model of LLaMA's kind that has these pieces too, and all that they are merged from."""
    base = Tokenizer(sentencepiece_model()).vocabulary
    parts = {piece[:end] for piece in pieces for end in range(1, len(piece) + 1)}
    parts |= {letter for piece in pieces for letter in piece}
    new = sorted(parts - set(base.pieces), key=len)
    changed = {
        "pieces": (*base.pieces, *new),
        "types": (*base.types, *[PieceType.NORMAL] * len(new)),
        "scores": (*base.scores, *[10.0 + len(piece) for piece in new]),
    }
    return Tokenizer(write_sentencepiece(type(base)(**{**vars(base), **changed})))


@given(text=ANY_TEXT)
def test_words_joined_are_the_text(text):
    patterns = [words_of_spm(Tokenizer(sentencepiece_model()).vocabulary)[0]]
    for pattern in [*patterns, _GPT2_WORDS, _LLAMA3_WORDS]:
        assert pattern is not None
        assert "".join(pattern.findall(text)) == text


@pytest.mark.parametrize(
    ("piece", "remembers"),
    [
        ("a\u2581b", False),  # reaches into the next word
        ("don't", True),  # letters with others: cut at spaces and line feeds only
        ("a\nb", True),  # cut at spaces only
        ("\u2581\u2581ab", True),
        ("1a", True),
    ],
)
def test_what_a_vocabulary_s_pieces_join_is_never_cut(piece, remembers):
    tokenizer = with_pieces(piece)
    assert (tokenizer._encoder.words is not None) == remembers
    assert ("remembered" in tokenizer.speed) == remembers
    library = sentencepiece.SentencePieceProcessor()
    library.load_from_serialized_proto(tokenizer._content.original["tokenizer.model"])
    draw = random.Random(0)
    text = piece.replace("\u2581", " ")
    for _ in range(200):
        mixed = "".join(draw.choices([text, *text, " ", "\n", "the", "1", "'"], k=12))
        assert tokenizer.encode(mixed) == library.encode(mixed), repr(mixed)


def test_a_vocabulary_without_bytes_is_encoded_whole():
    tokenizer = Tokenizer(sentencepiece_model(byte_fallback=False))
    library = sentencepiece.SentencePieceProcessor()
    library.load_from_serialized_proto(sentencepiece_model(byte_fallback=False))
    assert tokenizer.speed == (
        "every text is encoded anew: unknown characters are joined to one piece"
    )
    for text in ("高🦙", "the 高 🦙 the"):
        assert tokenizer.encode(text) == library.encode(text)
        assert tokenizer.decode(library.encode(text)) == library.decode(library.encode(text))


def test_a_model_that_normalises_is_left_to_the_library():
    content = sentencepiece_model(normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    library = sentencepiece.SentencePieceProcessor()
    library.load_from_serialized_proto(content)
    tokenizer = Tokenizer(content)
    assert "rules of its own" in tokenizer.speed
    for text in ("", " ", "  the   llama ", "ﬁ１２ Å", "\tthe\n"):
        ids = library.encode(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == library.decode(ids)


def test_rules_that_have_no_name_are_left_to_the_library():
    from tokenizers import Tokenizer as Engine

    record = json.loads(tokenizer_json("gpt-2"))
    record["normalizer"] = {"type": "NFC"}
    tokenizer = Tokenizer(json.dumps(record).encode())
    library = Engine.from_str(json.dumps(record))
    assert "rules of its own" in tokenizer.speed
    for text in ("e\u0301 the", "  the llama's", "<|im_end|>x"):
        assert tokenizer.encode(text, special=True) == (
            library.encode(text, add_special_tokens=False).ids
        )


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(word_cache, "MOST_WORDS", 100)
    tokenizer = Tokenizer(sentencepiece_model())
    fresh = Tokenizer(sentencepiece_model())
    text = " ".join(f"word{number} {'x' * (number % 60)}" for number in range(1000))
    for _ in range(2):
        assert tokenizer.encode(text) == fresh.encode(text)
        assert len(tokenizer._words) <= 100
    assert max(map(len, tokenizer._words._memory)) <= word_cache.LONGEST_WORD


def test_many_cores_give_the_same_ids(monkeypatch):
    texts = [*sentences(50), "", " ", "高🦙 the"]
    tokenizers = [Tokenizer(sentencepiece_model()), Tokenizer(tokenizer_json("gpt-2"))]
    few = [one.encode_many(texts) for one in tokenizers]
    monkeypatch.setattr(hardware, "usable_cores", lambda: 64)
    many = [one.encode_many(texts) for one in tokenizers]
    for ours, theirs in zip(few, many, strict=True):
        assert [ids.tolist() for ids in ours] == [ids.tolist() for ids in theirs]
        assert all(ids.dtype == np.int32 for ids in [*ours, *theirs])


def test_several_threads_share_a_memory(monkeypatch):
    monkeypatch.setattr(word_cache, "MOST_WORDS", 50)
    tokenizer = Tokenizer(sentencepiece_model())
    texts = sentences(300)
    expected = [Tokenizer(sentencepiece_model()).encode(text) for text in texts]
    found: list[list[list[int]]] = []
    threads = [
        threading.Thread(target=lambda: found.append([tokenizer.encode(text) for text in texts]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@pytest.mark.parametrize("name", ["sentencepiece", "words", "rules of its own"])
def test_a_long_text_has_the_ids_that_it_has_otherwise(name, monkeypatch):
    content = sentencepiece_model() if name == "sentencepiece" else tokenizer_json("gpt-2")
    if name == "rules of its own":
        content = json.dumps({**json.loads(content), "normalizer": {"type": "NFC"}}).encode()
    tokenizer = Tokenizer(content)
    text = " ".join(sentences(20))
    wanted = tokenizer.encode(text)
    for module in (word_cache, encoders):
        monkeypatch.setattr(module, "LONG_TEXT", 10)
    assert tokenizer.encode(text) == wanted
    assert Tokenizer(content).encode(text) == wanted
