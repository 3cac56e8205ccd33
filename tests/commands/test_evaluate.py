"""`puna evaluate perplexity` as a user runs it, on a tiny model."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny_model import TEXTS

from puna import cli
from puna.console import silent
from puna.data.corpus import CorpusConfig, build_corpus
from puna.data.document import Document
from puna.evaluate import heldout

TEXT_COUNT = 12


@pytest.fixture
def run_folder(tiny_run, tmp_path):
    """A copy that a test may write to."""
    return shutil.copytree(tiny_run, tmp_path / "run")


@pytest.fixture
def corpus(tmp_path):
    texts = [f"{TEXTS[n % 4]} Number {n}." for n in range(TEXT_COUNT)]
    documents = [Document(text, "test", "none", f"{n}.txt") for n, text in enumerate(texts)]
    build_corpus(documents, tmp_path / "corpus", CorpusConfig(4, 1), silent())
    return tmp_path / "corpus"


def evaluate(*words) -> int:
    return cli.main(["evaluate", "perplexity", *map(str, words), "--backend", "numpy"])


def test_a_run_folder_gets_its_evaluation(run_folder, corpus, capsys):
    assert evaluate(run_folder, "--data", corpus) == 0
    record = json.loads((run_folder / "evaluation.json").read_text())
    assert (record["schema"], record["version"]) == ("puna.evaluation", 1)
    assert (record["documents"], record["checkpoint"], record["step"]) == (3, "step-000007", 7)
    assert [one["id"] for one in record["per_document"]] == ["1.txt", "5.txt", "9.txt"]
    assert list(record["baselines"]) == [
        "xz -9e primed with the training text",
        "xz -9e alone",
        "unigram over tokens",
    ]
    printed = capsys.readouterr()
    assert f"{record['bits_per_byte']:.3f}" in printed.out
    assert "xz -9e primed" in printed.out
    assert "engine: NumPy twin (asked for)" in printed.err


def test_baselines_are_computed_once_for_a_corpus_and_tokenizer(
    run_folder, corpus, tmp_path, monkeypatch, capsys
):
    assert evaluate(run_folder, "--data", corpus) == 0
    before = json.loads((run_folder / "evaluation.json").read_text())["baselines"]

    def forbidden(*_):
        raise AssertionError("the baselines are computed again")

    monkeypatch.setattr(heldout, "corpus_baselines", forbidden)
    for extra in ([], ["--no-baselines"]):
        assert evaluate(run_folder, "--data", corpus, *extra) == 0
        assert json.loads((run_folder / "evaluation.json").read_text())["baselines"] == before
    assert "those computed before" in capsys.readouterr().err
    other = tmp_path / "other"
    documents = [Document(text * 2, "test", "none", str(n)) for n, text in enumerate(TEXTS)]
    build_corpus(documents, other, CorpusConfig(4, 1), silent())
    assert evaluate(run_folder, "--data", other) == 1
    assert "computed again" in capsys.readouterr().err


def test_text_of_ones_own_is_measured_whole_and_kept_only_where_asked(run_folder, tmp_path, capsys):
    own = tmp_path / "own.txt"
    own.write_text(TEXTS[0], encoding="utf-8")
    assert evaluate(run_folder, "--data", own, "--json", "--out", tmp_path / "own.json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["bytes"] == len(TEXTS[0].encode())
    assert list(record["baselines"]) == ["xz -9e alone"]
    assert not (run_folder / "evaluation.json").exists()
    assert json.loads((tmp_path / "own.json").read_text())["bytes"] == record["bytes"]


def test_documents_are_listed_where_asked(run_folder, corpus, capsys):
    assert evaluate(run_folder, "--data", corpus, "--documents", "--no-baselines") == 0
    printed = capsys.readouterr().out
    assert "5.txt" in printed
    assert "xz" not in printed


def test_a_checkpoint_folder_is_measured_and_left_as_it_is(run_folder, corpus, capsys):
    checkpoint = run_folder / "checkpoints" / "step-000007"
    before = sorted(path.name for path in checkpoint.iterdir())
    assert evaluate(checkpoint, "--data", corpus, "--no-baselines") == 0
    assert sorted(path.name for path in checkpoint.iterdir()) == before
    assert not (run_folder / "evaluation.json").exists()


def test_mistakes_get_one_clear_error(run_folder, corpus, tmp_path, capsys):
    assert evaluate(run_folder, "--data", tmp_path / "nothing") == 1
    assert "nothing" in capsys.readouterr().err
    assert evaluate(tmp_path / "no_run", "--data", corpus) == 1
    assert "should be a model's folder, file or name" in capsys.readouterr().err
    assert evaluate(run_folder, "--data", corpus, "--batch", "0") == 2
    assert "--batch must be at least 1" in capsys.readouterr().err
    (run_folder / "evaluation.json").write_text('{"schema": "puna.evaluation", "version": 99}')
    assert evaluate(run_folder, "--data", corpus) == 1
    assert "version 99" in capsys.readouterr().err


def test_the_same_weights_are_not_scored_again(run_folder, corpus, monkeypatch, capsys):
    assert evaluate(run_folder, "--data", corpus) == 0
    before = json.loads((run_folder / "evaluation.json").read_text())
    monkeypatch.setattr(heldout, "evaluate", None)  # a second scoring would fail
    assert evaluate(run_folder, "--data", corpus) == 0
    assert json.loads((run_folder / "evaluation.json").read_text()) == before
    assert "scores: those of before" in capsys.readouterr().err
