"""The linear classifier on two kinds of text that share most words."""

import random
from pathlib import Path

import numpy as np
import pytest

from puna.data.document import Document, Dropped
from puna.data.quality import classifier
from puna.data.quality.classifier import BUCKETS, Classifier, Settings, features, train
from puna.errors import DataError

SHARED = ["the", "of", "and", "a", "in", "to", "is", "was", "for", "on"]


def texts(kind: str, count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = SHARED + {"good": ["river", "treaty"], "bad": ["click", "cheap"]}[kind]
    return [" ".join(rng.choices(words, k=rng.randrange(20, 60))) for _ in range(count)]


@pytest.fixture(scope="module")
def model() -> Classifier:
    return train(texts("good", 80, 1), texts("bad", 40, 2))


def test_tells_texts_it_has_not_seen(model: Classifier):
    good, bad = model.scores(texts("good", 30, 3)), model.scores(texts("bad", 30, 4))
    assert good.min() > 0.5 > bad.max()
    assert np.isfinite(model.scores(["", "x" * 10_000])).all()


def test_the_same_texts_give_the_same_model(model: Classifier):
    again = train(texts("good", 80, 1), texts("bad", 40, 2))
    assert np.array_equal(again.weights, model.weights)
    assert again.bias == model.bias


def test_features_are_words_and_pairs_of_length_1():
    buckets, values = features("River river, BEND")
    assert len(buckets) == 3 + 3  # river , bend; (river river) (river ,) (, bend)
    assert np.linalg.norm(values) == pytest.approx(1)
    assert buckets.max() < BUCKETS
    assert sorted(values)[-1] == pytest.approx(np.sqrt(2 / 7))


def test_a_stage_drops_what_scores_less(model: Classifier, tmp_path: Path):
    path = str(tmp_path / "model.npz")
    model.save(path)
    pages = [*texts("good", 1, 5), *texts("bad", 1, 6)]
    documents = [Document(text, "test", "CC0-1.0", str(k)) for k, text in enumerate(pages)]
    kept, dropped = classifier.apply(documents, Settings(path))
    assert kept is documents[0]
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "unlike references"


def test_what_cannot_be_used_is_said(tmp_path: Path):
    (tmp_path / "model.npz").write_text("nothing")
    with pytest.raises(DataError, match="is no classifier"):
        Classifier.load(tmp_path / "model.npz")
    with pytest.raises(DataError, match="texts of both classes, found 1 and 0"):
        train(["a"], [])
