"""Runs to fit a law to: Chinchilla's, tables, and what `puna train` wrote."""

import csv
import json
from pathlib import Path

import pytest

from puna.errors import DataError, SchemaError
from puna.plan.runs import chinchilla, read_runs
from puna.schema import stamp

FIGURE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "chinchilla_figure4.csv"
MODEL = {"dim": 64, "layers": 2, "heads": 2, "vocabulary_size": 1000, "tied_embeddings": True}
START = {"event": "start", **stamp("puna.metrics"), "parameters": 163_520, "step": 0,
         "recipe": {"model": MODEL}}  # fmt: skip


def validation(step: int, loss: float | None) -> dict:
    return {"event": "validation", "step": step, "tokens": step * 1000, "loss": loss}


def end(reason: str = "finished") -> dict:
    return {"event": "end", "step": 30, "tokens": 30_000, "reason": reason}


def write_run(folder: Path, *events: dict) -> Path:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(event) + "\n" for event in (START, *events))
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def test_chinchillas_runs_are_those_of_the_replication():
    runs = chinchilla()
    assert len(runs.runs) == 240
    assert runs.span.tokens_per_parameter[0] > 0.45
    assert runs.span.parameters == pytest.approx((57.33e6, 16.18e9), rel=1e-3)


@pytest.mark.skipif(not FIGURE.is_file(), reason="../shared/reference is absent")
def test_the_table_holds_the_replications_numbers():
    with FIGURE.open() as file:
        rows = list(csv.DictReader(file))
    ours = {(run.parameters, run.loss) for run in chinchilla().runs}
    theirs = {(float(f"{float(r['Model Size']):.6e}"), round(float(r["loss"]), 6)) for r in rows}
    assert len(rows) == 245
    assert ours < theirs


def test_a_run_counts_with_its_last_held_out_loss(tmp_path: Path):
    events = [validation(10, 5.0), validation(20, 4.5), validation(30, 4.25), end()]
    runs = read_runs([write_run(tmp_path / "one", *events)])
    assert runs.runs == (("one", 163_520, 30_000, 4.25),)
    assert runs.notes == ()
    assert read_runs([tmp_path / "one" / "metrics.jsonl"]) == runs


def test_what_a_resume_took_back_does_not_count(tmp_path: Path):
    resumed = {**START, "event": "resume", "step": 10}
    events = [validation(10, 5.0), validation(40, 1.0), resumed, validation(30, None), end()]
    assert read_runs([write_run(tmp_path / "one", *events)]).runs[0].loss == 5.0


def test_parameters_without_embeddings(tmp_path: Path):
    folder = write_run(tmp_path / "one", validation(30, 4.0), end())
    assert read_runs([folder], "without embeddings").runs[0].parameters == 163_520 - 64_000


def test_unfinished_and_repeating_runs_are_told_of(tmp_path: Path):
    stopped = write_run(tmp_path / "stopped", validation(30, 4.0), end("stopped by Ctrl-C"))
    killed = write_run(tmp_path / "killed", validation(30, 4.0))
    unmeasured = write_run(tmp_path / "unmeasured", end())
    again = {"event": "step", "step": 30, "epoch": 3.2}
    repeats = write_run(tmp_path / "repeats", again, validation(30, 4.0), end())
    runs = read_runs([stopped, killed, unmeasured, repeats])
    assert [run.name for run in runs.runs] == ["repeats"]
    assert runs.notes == (
        "stopped is left out: not finished (stopped by Ctrl-C)",
        "killed is left out: not finished (killed)",
        "unmeasured is left out: it has no held-out loss",
        "repeats saw its text 3.2 times: repeated tokens teach less",
    )


def test_a_cut_last_line_is_passed_over(tmp_path: Path):
    folder = write_run(tmp_path / "one", validation(30, 4.0), end())
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "st')
    assert read_runs([folder]).runs[0].loss == 4.0


def test_tables_give_tokens_or_flops(tmp_path: Path):
    path = tmp_path / "runs.csv"
    path.write_text("# mine\nname,parameters,tokens,loss\nfirst,1e6,2e7,4.5\n,2e6,4e7,4.0\n")
    runs = read_runs([path]).runs
    assert runs == (("first", 1e6, 2e7, 4.5), ("row 2", 2e6, 4e7, 4.0))
    path.write_text("loss, parameters, flops\n4.5,1e6,1.2e14\n")
    assert read_runs([path]).runs[0].tokens == pytest.approx(2e7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parameters,loss\n1,2\n", "tokens or flops, found parameters, loss"),
        ("", "found none"),
        ("parameters,tokens,loss\n1e6,1e7,-1\n", "row 1: loss should be a number above 0"),
        ("parameters,tokens,loss\n1e6,1e7\n", "row 1: loss should be a number above 0"),
        ("parameters,tokens,loss\n1e6,nan,2\n", "row 1: tokens should be a number above 0"),
    ],
)
def test_a_bad_table_is_refused(text: str, said: str, tmp_path: Path):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_runs([tmp_path / "runs.csv"])


def test_what_is_no_run_is_refused(tmp_path: Path):
    for path in (tmp_path / "absent.csv", tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match="give folders of runs"):
            read_runs([path])
    (tmp_path / "metrics.jsonl").write_text('{"event": "start"}\n')
    with pytest.raises(SchemaError, match="no schema field"):
        read_runs([tmp_path])
    write_run(tmp_path, {"event": "validation", "step": 3})
    with pytest.raises(SchemaError, match="a line lacks 'loss'"):
        read_runs([tmp_path])
