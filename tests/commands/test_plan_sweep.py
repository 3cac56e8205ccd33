"""`puna plan sweep`: what it takes, what it refuses, what it tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from token_texts import documents

from puna import cli
from puna.plan.fit import Fitted
from puna.plan.law import Law
from puna.plan.runs import Runs

pytest.importorskip("torch")
pytest.importorskip("scipy", reason="needs SciPy: pip install 'puna[plan]'")

from puna.commands.plan_sweep import told
from puna.workflows.sweep import Measured, Prediction, Swept

LADDER = "recipes/ladder.toml"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the text as --data PATH or as --shards DIR, one of the two"),
        (["--data", "a", "--shards", "b"], "one of the two"),
        (["--data", "a", "--workers", "0"], "--workers must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(words, message, capsys):
    assert cli.main(["plan", "sweep", LADDER, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_text_becomes_shards_and_too_little_of_it_one_error(tmp_path: Path, capsys):
    texts = tmp_path / "mine"
    texts.mkdir()
    for name, text in documents(160):
        (texts / f"{name}.txt").write_text(text)
    words = ["--data", str(texts), "--out", str(tmp_path / "out")]
    code = cli.main(["plan", "sweep", LADDER, *words, "--set", "tokenizer.vocabulary_size=320"])
    said = capsys.readouterr().err
    assert code == 1
    assert "the longest run wants 20,480,000 tokens, none of them twice" in said
    assert (tmp_path / "out" / "shards" / "train" / "manifest.json").is_file()
    assert not (tmp_path / "out" / "runs").exists()


def test_the_answer_has_the_law_the_prediction_and_the_truth():
    law = Law(e=2.0, a=100.0, b=1000.0, alpha=0.4, beta=0.5)
    law = replace(law, draws=tuple(replace(law, e=2.0 + shift) for shift in (-0.1, 0.0, 0.1)))
    run = Measured("100k-2M", "", 100_000, 0, 2_000_000, 3.5, 60.0, 1e-5)
    errors = np.array([float(np.log(law.loss(1e5, 2e6) / 3.5))])
    fitted = Fitted(law, Runs((run.run("all"),)), errors, ("few runs",))
    prediction = Prediction(
        "3M-20M",
        2.70,
        2.65,
        2.75,
        "all",
        "1.6M-2M",
        {"all": 0.004, "without embeddings": 0.01},
        0.0,
    )
    truth = Measured("3M-20M", "", 3_000_000, 0, 20_000_000, 2.68, 60.0, 1e-5)
    text = told(Swept(Path("out"), (run,), fitted, prediction, truth))
    for wanted in (
        "100k-2M     100,000  2,000,000  3.5000",
        "e 2 (1.905 to 2.095), a 100",
        "note       few runs",
        "tested     on 1.6M-2M by the law of the smaller sizes: off by",
        "\n           0.40 % (all)\n           1.00 % (without embeddings)\n",
        "predicted  2.7000 nats a token for 3M-20M, 95 % from 2.6500 to 2.7500",
        "measured   2.6800: the prediction was +0.75 % off, inside its interval",
        "cost       2 min 00 s of one core",
    ):
        assert wanted in text
