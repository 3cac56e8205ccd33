"""`puna plan fit`: a law for people, for machines, as a file and as a picture."""

import json
import sys
from pathlib import Path

import pytest

from puna import cli
from puna.plan import law as laws

pytest.importorskip("scipy")


def plan_fit(*words: object) -> int:
    return cli.main(["plan", "fit", *map(str, words)])


def test_chinchillas_law_fits_a_screen(capsys: pytest.CaptureFixture[str]):
    assert plan_fit("chinchilla", "--draws", 40) == 0
    said = capsys.readouterr().out.splitlines()
    assert "L(N, D) = 1.817 + 477.8 / N^0.3473 + 2143 / D^0.3672" in said
    assert "best for C training FLOPs: N* ∝ C^0.514, D* ∝ C^0.486" in said
    assert len(said) <= 24
    assert max(map(len, said)) <= 80


def test_json_holds_all_digits_and_every_run(capsys: pytest.CaptureFixture[str]):
    assert plan_fit("chinchilla", "--draws", 3, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["law"]["e"] == pytest.approx(1.81722, abs=1e-5)
    assert len(record["runs"]) == 240
    assert record["intervals"]["alpha"][0] <= record["law"]["alpha"] + 0.05
    assert record["root_mean_square_error"] == pytest.approx(0.0075, abs=1e-4)


def test_a_saved_law_can_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert plan_fit("chinchilla", "--draws", 2, "--save", tmp_path / "mine.json") == 0
    law = laws.load(tmp_path / "mine.json")
    assert (law.name, law.source) == ("mine", "240 runs, fitted by `puna plan fit`")
    assert len(law.draws) == 2
    assert "for puna plan ask --law" in capsys.readouterr().err


def test_a_picture_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    assert plan_fit("chinchilla", "--draws", 0, "--plot", tmp_path / "law.png") == 0
    assert (tmp_path / "law.png").read_bytes().startswith(b"\x89PNG")
    assert plan_fit("chinchilla", "--draws", 0, "--plot", tmp_path / "law.what") == 1
    assert "law.what should be a picture (.png, .svg, .pdf)" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plan_fit("chinchilla", "--draws", 0, "--plot", tmp_path / "law.png") == 1
    assert "pip install 'puna[plan]'" in capsys.readouterr().err


def test_doubts_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [(10**6, 10**8, 5.0), (10**7, 10**9, 4.0), (10**8, 10**10, 3.0)]
    rows += [(2 * n, d, loss - 0.1) for n, d, loss in rows]
    table = "".join(f"{n},{d},{loss}\n" for n, d, loss in rows)
    (tmp_path / "runs.csv").write_text(f"parameters,tokens,loss\n{table}")
    assert plan_fit(tmp_path / "runs.csv", "--draws", 2) == 0
    said = capsys.readouterr().err
    assert "warning: 6 runs for five constants: the intervals are too narrow" in said
    assert "warning: parameters and tokens grow together" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["absent"], 1, "absent should hold a run"),
        (["chinchilla", "--draws", "1"], 2, "--draws should be 0, or 2 and more, got 1"),
        (["chinchilla", "--without-embeddings"], 2, "known only with their embeddings"),
    ],
)
def test_mistakes_are_explained(words, code, said, capsys: pytest.CaptureFixture[str]):
    assert plan_fit(*words) == code
    assert said in capsys.readouterr().err
