"""Perplexities by a small model, against CCNet's formula and buckets."""

import random
from pathlib import Path

import pytest

from puna.data import files
from puna.data.document import Document, Dropped
from puna.data.quality import perplexity
from puna.data.quality.perplexity import Settings, normalised
from puna.data.quality.perplexity_training import TrainingConfig, train
from puna.errors import ConfigError, DataError

WORDS = [
    "the",
    "old",
    "river",
    "runs",
    "past",
    "a",
    "small",
    "town",
    "and",
    "into",
    "the",
    "sea",
    "where",
    "ships",
    "wait",
    "for",
    "wind",
]


def sentence(rng: random.Random) -> str:
    start = rng.randrange(len(WORDS))
    return " ".join((WORDS * 2)[start : start + rng.randrange(4, 12)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = random.Random(1)
    out = str(tmp_path_factory.mktemp("lm"))
    texts = ["\n".join(sentence(rng) for _ in range(5)) for _ in range(100)]
    sample = [" ".join(rng.sample(WORDS, 8)) for _ in range(60)] + texts[:40]
    train(texts, sample, files.join(out, "en"), TrainingConfig(vocabulary_size=80))
    return out


def document(text: str, language: str = "en") -> Document:
    return Document(text, "test", "CC0-1.0", text[:9], language=language)


def test_is_ccnet_s_formula(folder: str):
    model = perplexity.load(files.join(folder, "en"))
    text = "The old RIVER runs\n\nships wait for wind\n"
    lines = ["the old river runs", "ships wait for wind"]
    pieces = [model.pieces.encode(line) for line in lines]
    total = sum(float(model.ngrams.scores([line])[0]) for line in pieces)
    wanted = 10 ** (-total / sum(len(line) + 1 for line in pieces))
    found, empty = model.perplexities([text, " \n"])
    assert found == pytest.approx(wanted)
    assert empty == float("inf")
    assert model.perplexities([]) == []


def test_buckets(folder: str):
    model = perplexity.load(files.join(folder, "en"))
    texts = ["the old river runs past a small town", "wait wait zebra 9 town a into old"]
    low, high = model.perplexities(texts)
    assert low < model.head_below < model.middle_below < high
    documents = [document(text) for text in texts]
    kept, dropped = perplexity.apply(documents, Settings(folder))
    assert kept is documents[0]
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "perplexity tail"
    given = Settings(folder, head_below=high + 1, middle_below=high + 2, keep=("head",))
    assert perplexity.apply(documents, given) == documents


def test_languages_have_their_own_models(folder: str):
    (dropped,) = perplexity.apply([document("text", "")], Settings(folder))
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "language unknown"
    with pytest.raises(DataError):
        perplexity.apply([document("texte", "fr")], Settings(folder))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (" Ångström’s Café, 1984… ", "angstrom's cafe, 0000..."),  # noqa: RUF001
        ("„Grüße“ — «да»", '"gruße" - "да"'),
        ("x\x07y\u00ad", "xy\u00ad"),
    ],
)
def test_lines_are_normalised(line: str, wanted: str):
    assert normalised(line) == wanted


def test_training_writes_the_same_bytes_and_says_what_it_lacks(folder: str, tmp_path: Path):
    config = TrainingConfig(vocabulary_size=60)
    texts = [" ".join(WORDS)] * 5 + ["old town ships wind sea"]
    for name in ("a", "b"):
        train(texts, texts, str(tmp_path / name), config)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    with pytest.raises(DataError, match="found none"):
        train([], texts, str(tmp_path / "c"), config)
    with pytest.raises(DataError, match="need a sample"):
        train(texts, [" "], str(tmp_path / "c"), config)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="keep should be"):
        Settings(keep=("best",))
    with pytest.raises(ConfigError, match="at least head_below"):
        Settings(head_below=5, middle_below=4)
    with pytest.raises(ConfigError, match="from 2 to 6"):
        TrainingConfig(order=1)
