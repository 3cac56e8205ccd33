"""Bits per byte against slow sums, closed forms, and the rule that every byte counts once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import TEXTS

from puna.data.document import Document
from puna.errors import CheckpointError, DataError
from puna.evaluate.perplexity import backend_scores, bits_per_byte
from puna.infer.backends.base import Chunk, pages_for
from puna.infer.engine import load_engine
from puna.tokens.tokenizer import Tokenizer

RELATIVE_TOLERANCE = 1e-5  # float32 logits, summed over a few hundred tokens


def documents(*texts: str) -> list[Document]:
    return [Document(text, "test", "none", f"document {n}") for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def engine(tiny_run):
    return load_engine(tiny_run, "numpy")


@pytest.fixture(scope="module")
def tokenizer(engine) -> Tokenizer:
    return engine.tokenizer


class Recorder:
    """A scorer that gives every token the same probability and remembers what it was asked."""

    def __init__(self, vocabulary_size: int = 320) -> None:
        self.vocabulary_size = vocabulary_size
        self.windows: list[tuple[list[int], list[int]]] = []
        self.sizes: list[int] = []

    def __call__(self, windows):
        for inputs, targets in windows:
            assert inputs.shape == targets.shape
            assert inputs.dtype == targets.dtype == np.int64
            self.windows.append((inputs.tolist(), targets.tolist()))
        self.sizes.append(len(windows))
        return np.array([-math.log(self.vocabulary_size) * len(t) for _, t in windows])


def slow_nats(engine, text: str, context_length: int) -> float:
    """One token at a time, each from a fresh pass over its window's inputs so far."""
    stream = engine.tokenizer.encode(text, bos=True)
    pages = np.arange(pages_for(context_length), dtype=np.int32)
    engine.backend.reserve(len(pages))
    nats = 0.0
    for position, target in enumerate(stream[1:]):
        start = position // context_length * context_length
        seen = np.array(stream[start : position + 1])
        logits = engine.backend.step([Chunk(pages, 0, seen)])[0]
        wide = logits.astype(np.float64)
        nats += math.log(np.exp(wide - wide.max()).sum()) + wide.max() - wide[target]
    return nats


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_bits_per_byte_equal_the_slow_sum_of_every_token(engine, tiny_run, name):
    if name == "torch":
        pytest.importorskip("torch")
    texts = ["a", *TEXTS, TEXTS[0] * 2]
    result = bits_per_byte(
        backend_scores(load_engine(tiny_run, name).backend),
        engine.tokenizer,
        documents(*texts),
        context_length=16,
        batch=3,
    )
    wanted = [slow_nats(engine, text, 16) for text in texts]
    found = [document.nats for document in result.documents]
    np.testing.assert_allclose(found, wanted, rtol=RELATIVE_TOLERANCE)
    size = sum(len(text.encode()) for text in texts)
    assert result.bits_per_byte == pytest.approx(sum(wanted) / math.log(2) / size)


def test_a_unigram_model_gives_the_closed_form(tokenizer):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(320))

    def score(windows):
        return np.array([np.log(probabilities[targets]).sum() for _, targets in windows])

    result = bits_per_byte(score, tokenizer, documents(*TEXTS), context_length=7)
    ids = [token for text in TEXTS for token in tokenizer.encode(text)]
    bits = -sum(math.log2(probabilities[token]) for token in ids)
    assert result.bits_per_byte == pytest.approx(bits / len("".join(TEXTS).encode()))
    assert result.nats_per_token == pytest.approx(bits * math.log(2) / len(ids))


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity(tokenizer):
    result = bits_per_byte(Recorder(320), tokenizer, documents(*TEXTS), context_length=9)
    assert result.perplexity_per_token == pytest.approx(320)
    assert result.tokens == sum(len(tokenizer.encode(text)) for text in TEXTS)


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), min_size=1),
        min_size=1,
        max_size=5,
    ),
    context_length=st.integers(1, 12),
    batch=st.integers(1, 5),
)
def test_every_byte_and_token_counts_exactly_once(tokenizer, texts, context_length, batch):
    score = Recorder()
    result = bits_per_byte(
        score, tokenizer, documents(*texts), context_length=context_length, batch=batch
    )
    assert result.bytes == len("".join(texts).encode("utf-8"))
    targets = [token for _, aims in score.windows for token in aims]
    assert targets == [token for text in texts for token in tokenizer.encode(text)]
    assert tokenizer.decode(targets[: len(tokenizer.encode(texts[0]))]) == texts[0]
    assert max(score.sizes, default=0) <= batch
    assert all(len(aims) <= context_length for _, aims in score.windows)


def test_windows_are_disjoint_and_begin_with_the_last_token_before_them(tokenizer):
    score = Recorder()
    bits_per_byte(score, tokenizer, documents(TEXTS[0], "ab"), context_length=4)
    ids = tokenizer.encode(TEXTS[0])
    stream = [tokenizer.bos_id, *ids]
    wanted = [(stream[i : i + 4], stream[i + 1 : i + 5]) for i in range(0, len(ids), 4)]
    wanted[-1] = (wanted[-1][0][: len(wanted[-1][1])], wanted[-1][1])
    second = tokenizer.encode("ab", bos=True)
    assert score.windows == [*wanted, (second[:-1], second[1:])]
    assert tokenizer.eos_id not in [token for _, aims in score.windows for token in aims]


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_the_batch_size_does_not_change_the_result(engine, batch):
    def measure(size):
        return bits_per_byte(
            backend_scores(engine.backend), engine.tokenizer, documents(*TEXTS), 16, batch=size
        )

    assert measure(batch).nats == pytest.approx(measure(5).nats, rel=RELATIVE_TOLERANCE)


def test_progress_sums_to_the_bytes_of_the_text(tokenizer):
    told: list[float] = []
    result = bits_per_byte(Recorder(), tokenizer, documents(*TEXTS), 5, progress=told.append)
    assert sum(told) == pytest.approx(result.bytes)


def test_the_record_holds_totals_and_each_document(tokenizer):
    record = bits_per_byte(Recorder(), tokenizer, documents("ab", "", TEXTS[0]), 8).record()
    assert record["documents"] == 2
    assert record["bytes"] == 2 + len(TEXTS[0].encode())
    assert [one["id"] for one in record["per_document"]] == ["document 0", "document 2"]
    whole = sum(one["bits_per_byte"] * one["bytes"] for one in record["per_document"])
    assert record["bits_per_byte"] == pytest.approx(whole / record["bytes"])


def test_no_text_and_broken_scores_are_refused(tokenizer):
    with pytest.raises(DataError, match="no text to measure"):
        bits_per_byte(Recorder(), tokenizer, documents("", ""), 8)
    with pytest.raises(CheckpointError, match="not finite"):
        bits_per_byte(lambda windows: np.full(len(windows), np.nan), tokenizer, documents("ab"), 8)
