"""The baselines against Python's own xz and sums written out."""

from __future__ import annotations

import lzma
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import TEXTS

from puna.console import silent
from puna.data.corpus import CorpusConfig, build_corpus
from puna.data.document import Document
from puna.errors import DataError
from puna.evaluate import baselines
from puna.evaluate.baselines import (
    ALONE,
    PRIMED,
    UNIGRAM,
    XZ_PRESET,
    corpus_baselines,
    last_bytes,
    primed_xz_bits_per_byte,
    unigram_bits_per_byte,
    xz_bits_per_byte,
)
from puna.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_run) -> Tokenizer:
    return Tokenizer.load(tiny_run.parent / "tokenizer")


def xz(content: bytes) -> int:
    """The size of the one-shot xz -9e file."""
    return len(lzma.compress(content, preset=XZ_PRESET))


def random_text(seed: int, size: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("abcdefgh 🦙"), size))


def test_xz_alone_is_the_size_of_the_xz_file(monkeypatch):
    monkeypatch.setattr(baselines, "_FEED_BYTES", 1000)  # many feeds, as for a large text
    texts = [random_text(0, 3000), random_text(1, 500)]
    content = "".join(texts).encode()
    found = xz_bits_per_byte(texts, len(content), silent())
    assert found == xz(content) * 8 / len(content)


def test_primed_xz_is_what_the_held_out_text_adds_to_the_file():
    train = random_text(2, 4000).encode()
    heldout = [random_text(3, 700), "the end"]
    content = "".join(heldout).encode()
    wanted = (xz(train + content) - xz(train)) * 8 / len(content)
    assert primed_xz_bits_per_byte(train, heldout, silent()) == wanted


def test_text_that_xz_has_seen_costs_next_to_nothing():
    seen = random_text(4, 4000)
    assert primed_xz_bits_per_byte(seen.encode(), [seen], silent()) < 0.1
    assert xz_bits_per_byte([seen], len(seen.encode()), silent()) > 2


def test_unigram_is_the_code_length_of_smoothed_token_counts(tokenizer):
    train, heldout = list(TEXTS), [TEXTS[1], "new words 🐦"]
    counts = Counter(token for text in train for token in tokenizer.encode(text))
    total = counts.total() + tokenizer.vocabulary_size
    ids = [token for text in heldout for token in tokenizer.encode(text)]
    bits = -sum(math.log2((counts[token] + 1) / total) for token in ids)
    wanted = bits / len("".join(heldout).encode())
    assert unigram_bits_per_byte(train, heldout, tokenizer) == pytest.approx(wanted)


@given(st.lists(st.text("aé🦙", max_size=9), max_size=9), st.integers(1, 20))
def test_last_bytes_are_the_end_of_the_joined_texts(texts, limit):
    assert last_bytes(texts, limit) == "".join(texts).encode()[-limit:]


def test_empty_text_is_refused(tokenizer):
    with pytest.raises(DataError, match="no text"):
        xz_bits_per_byte([], 0, silent())
    with pytest.raises(DataError, match="no text"):
        primed_xz_bits_per_byte(b"abc", [""], silent())
    with pytest.raises(DataError, match="no text"):
        unigram_bits_per_byte(["abc"], [], tokenizer)


def test_a_corpus_is_primed_with_its_training_text(tokenizer, tmp_path):
    texts = [random_text(seed, 400) for seed in range(12)]
    documents = [Document(text, "test", "none", str(n)) for n, text in enumerate(texts)]
    config = CorpusConfig(heldout_every=5, heldout_offset=2)
    corpus = build_corpus(documents, tmp_path / "corpus", config, silent())
    heldout = [text for n, text in enumerate(texts) if n % 5 == 2]
    train = [text for n, text in enumerate(texts) if n % 5 != 2]
    size = len("".join(heldout).encode())
    assert corpus_baselines(corpus, tokenizer, silent()) == {
        PRIMED: primed_xz_bits_per_byte("".join(train).encode(), heldout, silent()),
        ALONE: xz_bits_per_byte(heldout, size, silent()),
        UNIGRAM: unigram_bits_per_byte(train, heldout, tokenizer),
    }
