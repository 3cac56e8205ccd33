"""Kneser-Ney against the definition, NLTK's, kenlm's query, and the sum over the vocabulary."""

import gzip
import io
import random
from pathlib import Path

import numpy as np
import pytest

from puna.data.quality import arpa, kneser_ney
from puna.data.quality.ngram_model import BEGIN, END, NgramModel
from puna.errors import DataError

WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnop"]
VOCABULARY = len(WORDS)


def random_lines(count: int, seed: int = 1) -> list[np.ndarray]:
    """Lines with structure: a word is mostly a neighbour of the one before."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        line = [rng.randrange(3, VOCABULARY - 1)]
        for _ in range(rng.randrange(12)):
            step = rng.choice([1, 1, 1, 2, 5, -3])
            line.append(3 + (line[-1] - 3 + step) % (VOCABULARY - 4))  # never the last word
        lines.append(np.array(line))
    return lines


def probability(model: NgramModel, history: list[int], word: int) -> float:
    """By the backoff rule of ARPA files, with a dictionary of what the file says."""
    tables = model_tables(model)

    def log(history: tuple[int, ...], word: int) -> float:
        if (*history, word) in tables[0]:
            return tables[0][(*history, word)]
        return tables[1].get(history, 0.0) + log(history[1:], word)

    return 10 ** log(tuple(history[-(len(model.orders) - 1) :]), word)


_TABLES: dict[int, tuple[dict, dict]] = {}


def model_tables(model: NgramModel) -> tuple[dict, dict]:
    if id(model) not in _TABLES:
        file = io.BytesIO()
        arpa.write(model, WORDS, file)
        numbers = {word: number for number, word in enumerate(WORDS)}
        probabilities, backoffs = {}, {}
        for line in gzip.decompress(file.getvalue()).decode().splitlines():
            fields = line.split("\t")
            if len(fields) > 1:
                ngram = tuple(numbers[word] for word in fields[1].split())
                probabilities[ngram] = float(fields[0])
                backoffs[ngram] = float(fields[2]) if len(fields) > 2 else 0.0
        _TABLES[id(model)] = (probabilities, backoffs)
    return _TABLES[id(model)]


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return kneser_ney.train(random_lines(400), VOCABULARY, 5)


def test_the_probabilities_after_each_history_sum_to_1(model: NgramModel):
    rng = random.Random(2)
    seen = [list(line) for line in random_lines(30, seed=3)]
    unseen = [[rng.randrange(VOCABULARY) for _ in range(4)] for _ in range(40)]
    histories = [[], [BEGIN], *([BEGIN, *line[:3]] for line in seen), *unseen]
    histories += [line[k : k + 4] for line in seen for k in range(len(line))]
    for history in histories:
        allowed = [word for word in range(VOCABULARY) if word != BEGIN]
        total = sum(probability(model, history, word) for word in allowed)
        assert total == pytest.approx(1, abs=1e-5), history


def test_scores_of_batches_are_those_of_the_arpa_file(model: NgramModel):
    lines = [*random_lines(50, seed=4), np.array([], int), np.array([0, 18, 0])]
    for line, score in zip(lines, model.scores(lines), strict=True):
        words = [BEGIN, *line.tolist(), END]
        each = [probability(model, words[:k], words[k]) for k in range(1, len(words))]
        assert score == pytest.approx(np.log10(each).sum(), abs=1e-4)
    assert len(model.scores([])) == 0


def test_discounts_are_chen_and_goodman_s():
    counts = np.repeat([1, 2, 3, 4, 9], [400, 150, 80, 50, 100])
    y = 400 / (400 + 2 * 150)
    wanted = [1 - 2 * y * 150 / 400, 2 - 3 * y * 80 / 150, 3 - 4 * y * 50 / 80]
    assert kneser_ney.discounts_of(counts, None) == pytest.approx(wanted)


def test_discounts_that_do_not_follow_are_the_fallback_or_refused():
    counts = np.array([1, 1, 1, 2])
    assert list(kneser_ney.discounts_of(counts, kneser_ney.FALLBACK)) == [0.5, 1.0, 1.5]
    with pytest.raises(DataError, match="occur 1, 2, 3 and 4 times are 3, 1, 0, 0"):
        kneser_ney.discounts_of(counts, None)
    with pytest.raises(DataError, match="needs lines"):
        kneser_ney.train([], 5)


@pytest.mark.parametrize("order", [2, 3])
def test_equals_nltk_where_the_discounts_coincide(order: int):
    lm = pytest.importorskip("nltk.lm", reason="nltk is in the dev extra")
    from nltk.util import everygrams

    lines = random_lines(120, seed=5)
    texts = [["<s>", *(WORDS[word] for word in line), "</s>"] for line in lines]
    peer = lm.KneserNeyInterpolated(order, discount=0.1)
    peer.fit([everygrams(text, max_len=order) for text in texts], [w for t in texts for w in t])
    fixed = [[0.0] * 3, *[[0.1] * 3] * (order - 1)]
    ours = kneser_ney.train(lines, VOCABULARY, order, fixed=fixed)
    rng = random.Random(6)
    places = [
        (line[k : k + order - 1], line[k + order - 1])
        for line in lines
        for k in range(len(line) - order + 1)
    ]
    for history, word in rng.sample(places, 100):
        wanted = peer.score(WORDS[word], [WORDS[one] for one in history])
        assert probability(ours, history.tolist(), int(word)) == pytest.approx(wanted, abs=1e-6)


def test_kenlm_scores_the_arpa_file_the_same(model: NgramModel, tmp_path: Path):
    kenlm = pytest.importorskip("kenlm", reason="kenlm-ex is in the dev extra")
    path = tmp_path / "model.arpa.gz"
    with path.open("wb") as file:
        arpa.write(model, WORDS, file)
    peer = kenlm.Model(str(path))
    lines = random_lines(50, seed=7)
    for line, score in zip(lines, model.scores(lines), strict=True):
        text = " ".join(WORDS[word] for word in line)
        assert peer.score(text, bos=True, eos=True) == pytest.approx(score, abs=1e-4)


def test_a_saved_model_is_the_same_and_writes_the_same_bytes(model: NgramModel, tmp_path: Path):
    path = str(tmp_path / "model.npz")
    model.save(path)
    loaded = NgramModel.load(path)
    files = io.BytesIO(), io.BytesIO()
    arpa.write(model, WORDS, files[0])
    arpa.write(loaded, WORDS, files[1])
    assert files[0].getvalue() == files[1].getvalue()


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path):
    (tmp_path / "model.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="is no n-gram model"):
        NgramModel.load(tmp_path / "model.npz")
