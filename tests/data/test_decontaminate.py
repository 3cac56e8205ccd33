"""Decontamination; the oracle of what is shared is a set of tuples of 13 words."""

import gzip
import json
import random
import string
from pathlib import Path

import pytest
from stage_rounds import run_rounds

from puna.data import decontaminate_rounds as rounds
from puna.data.benchmarks import compile_sets
from puna.data.decontaminate import Benchmarks, Settings, apply, overlaps, words_of
from puna.data.document import Document, Dropped
from puna.errors import ConfigError, DataError

QUESTION = "Which of these birds, seen at noon, is the one that never sings in the old town?"
rng = random.Random(1)
LEXICON = ["".join(rng.choices(string.ascii_lowercase, k=rng.randrange(2, 9))) for _ in range(400)]


def prose(words: int) -> str:
    return " ".join(rng.choices(LEXICON, k=words))


def document(text: str) -> Document:
    return Document(text, "test", "CC0-1.0", "1")


@pytest.fixture
def compiled(tmp_path: Path) -> str:
    (tmp_path / "quiz.jsonl").write_text(
        json.dumps({"q": QUESTION, "options": [{"text": "a"}, prose(20)]}) + '\n{"q": "Short?"}\n'
    )
    (tmp_path / "lines.txt.gz").write_bytes(gzip.compress(f"{QUESTION}\n\n{prose(15)}".encode()))
    out = str(tmp_path / "sets.npz")
    sets = {"quiz": [str(tmp_path / "quiz.jsonl")], "lines": [str(tmp_path / "lines.txt.gz")]}
    facts = compile_sets(sets, out)
    assert (facts["quiz"].examples, facts["quiz"].too_short) == (2, 1)
    assert facts["quiz"].sequences == 17 - 12 + 20 - 12
    return out


def test_finds_what_a_set_of_tuples_finds(tmp_path: Path):
    def grams(text: str) -> set[tuple[str, ...]]:
        words = words_of(text)
        return {tuple(words[k : k + 13]) for k in range(len(words) - 12)}

    tests = [prose(rng.randrange(5, 40)) for _ in range(60)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps({"x": one}) + "\n" for one in tests))
    compile_sets({"set": [str(tmp_path)]}, str(tmp_path / "out.npz"))
    known = set().union(*map(grams, tests))
    found = Benchmarks.load(str(tmp_path / "out.npz"))
    hits = 0
    for _ in range(200):
        words = rng.choice(tests).split()
        part = " ".join(words[: rng.randrange(8, 20)]).title()
        text = f"{prose(rng.randrange(30))}, {part}! {prose(20)}"
        wanted = len(grams(text) & known)
        overlap = overlaps([document(text)], found)["set"]
        assert overlap.sequences == wanted
        assert overlap.documents == (wanted > 0)
        hits += wanted > 0
    assert 50 < hits < 200


def test_cuts_out_the_sequence_and_200_characters_around(compiled: str):
    before, after = prose(100), prose(100)
    text = f"{before} {QUESTION.upper()} {after}"
    (kept,) = apply([document(text)], Settings(compiled))
    assert isinstance(kept, Document)
    first, last = kept.text.split("\n")
    assert first == text[: len(before) + 1 - 200].strip()
    assert last == after[200 - 1 :].strip()


def test_what_is_clean_stays_the_same_object(compiled: str):
    clean = [document(prose(100)), document("short"), document("")]
    assert all(a is b for a, b in zip(apply(clean, Settings(compiled)), clean, strict=True))


def test_drops_what_is_cut_to_nothing_or_all_on_request(compiled: str):
    for text, settings in (
        (f"{prose(10)} {QUESTION}", Settings(compiled)),
        (f"{prose(100)} {QUESTION}", Settings(compiled, action="drop")),
        (f"{prose(100)} {QUESTION} {prose(100)}", Settings(compiled, max_pieces=1)),
    ):
        (dropped,) = apply([document(text)], settings)
        assert isinstance(dropped, Dropped)
        assert dropped.reason == "benchmark lines"
        assert dropped.detail.startswith("lines, quiz: 5 sequences")


def test_marks_between_words_do_not_move_the_cut(compiled: str):
    text = f"{prose(100)} -- ... {QUESTION.replace(' ', ' - ')} !! {prose(100)}"
    (kept,) = apply([document(text)], Settings(compiled, window_characters=0))
    assert isinstance(kept, Document)
    assert "birds" not in kept.text
    assert "town" not in kept.text
    assert "!!" in kept.text


def test_counts_each_set_and_example(compiled: str):
    found = overlaps([document(QUESTION), document(prose(40))], Benchmarks.load(compiled))
    assert {name: (x.sequences, x.documents, x.examples) for name, x in found.items()} == {
        "quiz": (5, 1, {1}),
        "lines": (5, 1, {1}),
    }


@pytest.mark.parametrize("max_documents", [0, 4, 5])
def test_a_sequence_that_too_many_documents_have_is_common_text(
    compiled: str, tmp_path: Path, max_documents: int
):
    """GPT-3's rule over many files; the oracle counts documents, then looks at each alone."""
    phrase = json.loads((tmp_path / "quiz.jsonl").read_text().split("\n")[0])["options"][1]
    texts = [[f"{prose(120)} {phrase} {prose(120)}"] * 2 + [prose(50)] for _ in range(2)]
    texts += [[f"{prose(120)} {QUESTION} {prose(120)} {phrase}"], [], [QUESTION]]
    left = run_rounds(rounds, texts, tmp_path, Settings(compiled, max_documents=max_documents))
    contaminating = [QUESTION] if max_documents == 4 else [QUESTION, phrase]
    assert [len(of_file) for of_file in left] == [3, 3, 1, 0, 0]
    for of_file, kept in zip(texts, left, strict=True):
        for text, document_left in zip(of_file, kept, strict=False):
            gone = [one for one in contaminating if one in text]
            assert (document_left.text == text) == (not gone)
            assert not any(one in document_left.text for one in gone)
    alone = apply([document(text) for of_file in texts for text in of_file], Settings(compiled))
    texts_left = [one.text for of_file in left for one in of_file]
    expected = [one.text for one in alone if isinstance(one, Document)]
    assert (texts_left == expected) == (max_documents != 4)


def test_what_cannot_be_read_is_said(tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text("{")
    (tmp_path / "short.csv").write_text("a,b\n")
    (tmp_path / "file.npz").write_text("nothing")
    with pytest.raises(DataError, match=r"bad\.jsonl cannot be read"):
        compile_sets({"bad": [str(tmp_path / "bad.jsonl")]}, str(tmp_path / "out"))
    with pytest.raises(DataError, match="has no text of 13 words"):
        compile_sets({"short": [str(tmp_path / "short.csv")]}, str(tmp_path / "out"))
    with pytest.raises(DataError, match="found none"):
        compile_sets({}, str(tmp_path / "out"))
    with pytest.raises(DataError, match="holds no benchmarks"):
        Benchmarks.load(str(tmp_path / "file.npz"))
    with pytest.raises(ConfigError, match="action should be"):
        Settings(action="shred")
    with pytest.raises(ConfigError, match="max_documents should be 0 or more"):
        Settings(max_documents=-1)
