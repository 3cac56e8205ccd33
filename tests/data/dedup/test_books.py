"""Books in several editions; the oracle is the overlap of their sets of six-word runs."""

import random
from pathlib import Path

import pytest
from public_samples import SAMPLES, needs_samples
from stage_rounds import duplicates_told, run_rounds

from puna.data.dedup import books
from puna.data.document import Document
from puna.data.sources import books as source
from puna.errors import ConfigError

WORDS = [f"word{number}" for number in range(5000)]


def a_book(seed: int, length: int = 6000) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def runs(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(*(words[at:] for at in range(6)), strict=False))


def left_ids(texts: list[list[str]], folder: Path) -> list[list[str]]:
    left = run_rounds(books, texts, folder, books.Settings())
    return [[one.id for one in of_file] for of_file in left]


@pytest.mark.parametrize("part_bytes", [1 << 30, 5000])
def test_the_longer_of_two_editions_stays_and_of_equal_ones_the_first(
    tmp_path: Path, monkeypatch, part_bytes
):
    monkeypatch.setattr(books, "_PART_BYTES", part_bytes)
    one, other = a_book(1), a_book(2)
    texts = [
        [" ".join(one), " ".join(other[:3000]), "short"],
        [" ".join(other), " ".join(a_book(3)), "short"],
        [" ".join(one).upper(), ""],
    ]
    assert left_ids(texts, tmp_path) == [["0.0", "0.2"], ["1.0", "1.1", "1.2"], ["2.1"]]
    assert duplicates_told(tmp_path) == {"0.1": "1.0", "2.0": "0.0"}


@pytest.mark.parametrize(("common", "stays"), [(0.85, True), (0.95, False)])
def test_more_than_nine_tenths_is_too_much(tmp_path: Path, common, stays):
    book = a_book(1, 60_000)
    length = round(len(book) * common)
    other = " ".join(book[:length] + a_book(2, len(book) - length))
    shared = runs(" ".join(book)) & runs(other)
    assert abs(len(shared) / len(runs(other)) - common) < 0.01
    left = left_ids([[" ".join(book)], [other]], tmp_path)
    assert len(left[0] + left[1]) == 1 + stays


def test_what_many_books_share_does_not_count(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(books, "_MOST_TEXTS", 2)
    texts = [[" ".join(a_book(1))] * 3]
    assert left_ids(texts, tmp_path) == [["0.0", "0.1", "0.2"]]


@needs_samples
def test_real_books_in_several_encodings_and_editions_are_kept_once(tmp_path: Path):
    settings = source.Settings()
    texts = []
    names = sorted((SAMPLES / "books" / "gitenberg").glob("*.txt"))
    for name in names:
        with name.open("rb") as file:
            found = list(source.read(file, name.name, settings))
        texts.append([one.text for one in found if isinstance(one, Document)])
    assert [len(of_file) for of_file in texts] == [1] * 10
    left = run_rounds(books, texts, tmp_path, books.Settings())
    titles = [name.name[:8] for name, of_file in zip(names, left, strict=True) if of_file]
    assert titles == ["Entre_No", "News_fro", "The_Comp", "The_Devi"]


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="max_overlap must be between 0 and 1"):
        books.Settings(max_overlap=1.0)
