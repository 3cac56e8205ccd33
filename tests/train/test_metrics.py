"""The run's journal survives kills, full disks and resumes, and refuses what is not its own."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from puna.console import Console, silent
from puna.errors import MachineError, SchemaError, TrainingError
from puna.train import metrics
from puna.train.metrics import (
    Checkpoint,
    End,
    MetricsWriter,
    Sample,
    Session,
    Step,
    Validation,
    read_metrics,
)


def session(step: int = 0, **changes: Any) -> Session:
    facts: dict[str, Any] = {
        "time": 1.7e9,
        "recipe": {"train": {"steps": 10}},
        "parameters": 1000,
        "flops_per_token": 6e3,
        "device": "cpu",
        "device_name": "a processor",
        "threads": 2,
        "precision": "fp32",
        "compiled": False,
        "attention": "fused",
        "train_tokens_per_epoch": 5000,
    }
    return Session(step=step, **{**facts, **changes})


def step(number: int, loss: float | None = None, **changes: Any) -> Step:
    facts: dict[str, Any] = {
        "tokens": 64 * number,
        "epoch": 0.01 * number,
        "loss": 8.0 / number if loss is None else loss,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0,
        "seconds": 0.5,
        "tokens_per_second": 128.0,
        "memory_bytes": 1 << 20,
        "elapsed_seconds": 0.5 * number,
        "core_seconds": 1.0 * number,
    }
    return Step(step=number, **{**facts, **changes})


def journal(path: Path, *events: metrics.Event) -> Path:
    with MetricsWriter(path, silent()) as writer:
        for event in events:
            writer.write(event)
    return path


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    facts = session(peak_tflops=1.5, peak_source="measured", command="puna train", corpus={"a": 1})
    validation = Validation(step=2, tokens=128, loss=3.0, bits_per_byte=1.5, seconds=0.1)
    sample = Sample(step=2, prompt="Once\n", text="</script> \u2028 \U0001f999")
    checkpoint = Checkpoint(step=2, path="checkpoints/step-000002", seconds=0.1, bytes=9, best=True)
    end = End(step=2, tokens=128, elapsed_seconds=1.25, core_seconds=2.5, reason="finished")
    path = tmp_path / "run" / "metrics.jsonl"
    journal(path, facts, step(1), step(2), validation, sample, checkpoint, end)
    run = read_metrics(path)
    assert run.sessions == [facts]
    assert run.steps == [step(1), step(2)]
    assert (run.validations, run.samples, run.checkpoints, run.end) == (
        [validation],
        [sample],
        [checkpoint],
        end,
    )
    assert (run.core_seconds, run.elapsed_seconds) == (2.5, 1.25)


def test_every_line_is_json_of_the_documented_shape_and_there_as_soon_as_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path, silent())
    writer.write(session())
    writer.write(step(1))
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["event"] for record in records] == ["start", "step"]
    assert (records[0]["schema"], records[0]["version"]) == ("puna.metrics", 1)
    assert records[1]["loss"] == 8.0
    writer.write(session(step=1))
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["event"] == "resume"
    writer.close()
    writer.close()


def test_numbers_that_are_not_finite_become_null_since_json_has_none(tmp_path: Path) -> None:
    path = journal(
        tmp_path / "metrics.jsonl",
        session(recipe={"clip": math.inf}),
        step(1, loss=math.nan, gradient_norm=math.inf),
    )
    assert "NaN" not in path.read_text(encoding="utf-8")
    assert "Infinity" not in path.read_text(encoding="utf-8")
    run = read_metrics(path)
    assert (run.steps[0].loss, run.steps[0].gradient_norm) == (None, None)


def test_a_resume_takes_back_later_events_and_counts_what_they_cost(tmp_path: Path) -> None:
    later = Validation(step=4, tokens=256, loss=9.0, bits_per_byte=9.0, seconds=0.1)
    path = journal(
        tmp_path / "metrics.jsonl",
        session(),
        *[step(number, loss=1.0) for number in (1, 2, 3, 4)],
        later,
        Sample(step=4, prompt="p", text="taken back"),
        End(step=4, tokens=256, elapsed_seconds=2, core_seconds=4, reason="stopped by SIGTERM"),
        session(step=2),
        step(3, loss=2.0),
    )
    run = read_metrics(path)
    assert [(event.step, event.loss) for event in run.steps] == [(1, 1.0), (2, 1.0), (3, 2.0)]
    assert (run.validations, run.samples, run.end) == ([], [], None)
    assert (run.repeated_steps, run.repeated_core_seconds) == (2, 2.0)
    assert run.core_seconds == 3.0 + 2.0
    assert run.session.step == 2


def test_a_run_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    path = journal(tmp_path / "metrics.jsonl", session(), step(1), step(2), session(), step(1))
    run = read_metrics(path)
    assert [event.step for event in run.steps] == [1]
    assert (run.repeated_steps, run.repeated_core_seconds) == (2, 2.0)


def test_several_samples_of_a_step_are_kept_and_replaced_together_after_a_resume(
    tmp_path: Path,
) -> None:
    first = [Sample(step=2, prompt="p", text=text) for text in ("a", "b")]
    again = [Sample(step=2, prompt="p", text=text) for text in ("c", "d")]
    path = journal(tmp_path / "metrics.jsonl", session(), step(1), step(2), *first)
    assert read_metrics(path).samples == first
    journal(path, session(step=2), *again, step(3))
    assert read_metrics(path).samples == again


def test_the_last_line_of_a_step_counts(tmp_path: Path) -> None:
    path = journal(tmp_path / "metrics.jsonl", session(), step(1), step(1, loss=5.0))
    assert [event.loss for event in read_metrics(path).steps] == [5.0]


@pytest.mark.parametrize("cut", [1, 2, 20, 100])
def test_a_killed_process_loses_only_its_last_line_to_readers_and_to_the_next_writer(
    tmp_path: Path, cut: int
) -> None:
    path = journal(tmp_path / "metrics.jsonl", session(), step(1), step(2))
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    kept = [1, 2] if cut == 1 else [1]  # one byte less is only the line break
    assert [event.step for event in read_metrics(path).steps] == kept
    journal(path, session(step=1), step(2), step(3))
    assert [event.step for event in read_metrics(path).steps] == [1, 2, 3]


def test_the_cut_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = journal(tmp_path / "metrics.jsonl", session())
    with path.open("ab") as file:
        file.write(b'{"event": "st')
    MetricsWriter(path, Console()).close()
    assert "cut off a half-written last line (13 bytes)" in capsys.readouterr().err


def test_any_other_broken_line_is_refused_with_its_number(tmp_path: Path) -> None:
    path = journal(tmp_path / "metrics.jsonl", session(), step(1), step(2))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:30] + b"\n" + lines[2])
    with pytest.raises(SchemaError, match=r"metrics\.jsonl line 2 should be one JSON object"):
        read_metrics(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"event": "step", "step": 1}', "line 2: a step line should have tokens"),
        ('{"event": "stepp"}', "line 2: event should be one of start, .* found 'stepp'"),
        ("[1]", "line 2: event should be one of"),
        (
            json.dumps({"event": "step", **vars(step(1)), "loss": "low"}),
            "line 2: loss should be int or float or null, found 'low'",
        ),
        (
            json.dumps({"event": "step", **vars(step(1)), "tokens": True}),
            "line 2: tokens should be int, found True",
        ),
    ],
)
def test_a_line_of_another_shape_is_refused(tmp_path: Path, line: str, complaint: str) -> None:
    path = journal(tmp_path / "metrics.jsonl", session())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SchemaError, match=complaint):
        read_metrics(path)


def test_fields_that_a_later_writer_added_are_left_out(tmp_path: Path) -> None:
    path = journal(tmp_path / "metrics.jsonl", session())
    line = json.dumps({"event": "step", **vars(step(1)), "temperature_celsius": 60})
    path.write_text(path.read_text() + line + "\n")
    assert read_metrics(path).steps == [step(1)]


def test_a_newer_schema_is_refused_by_reader_and_writer(tmp_path: Path) -> None:
    path = journal(tmp_path / "metrics.jsonl", session())
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(SchemaError, match=r"puna\.metrics version 2, this Puna reads up to 1"):
        read_metrics(path)
    with pytest.raises(SchemaError, match=r"puna\.metrics version 2"):
        MetricsWriter(path, silent())


@pytest.mark.parametrize("content", [None, "", "\n", '{"event": "sta'])
def test_a_file_that_tells_nothing_yet_is_one_clear_error(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SchemaError, match=r"found (no whole line|nothing there)") as caught:
        read_metrics(path)
    assert caught.value.hint


def test_another_programs_file_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 3}\n')
    with pytest.raises(SchemaError, match="found no schema field"):
        MetricsWriter(path, silent())
    assert path.read_text() == '{"loss": 3}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
def test_a_full_disk_is_one_clear_error() -> None:
    writer = MetricsWriter(Path("/dev/full"), silent())
    with pytest.raises(TrainingError, match="the disk is full") as caught:
        writer.write(session())
    assert "resume" in str(caught.value)
    writer.close()


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="could not be written"):
        MetricsWriter(tmp_path / "file" / "metrics.jsonl", silent())


def test_tensorboard_gets_the_numbers_and_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Board:
        def __init__(self, folder: str) -> None:
            assert Path(folder) == tmp_path / "tensorboard"

        def add_scalar(self, *values: object) -> None:
            calls.append(values)

        def add_text(self, *values: object) -> None:
            calls.append(values)

        def close(self) -> None:
            calls.append(("closed",))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Board  # type: ignore[attr-defined]
    for name in ("torch", "torch.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with MetricsWriter(tmp_path / "metrics.jsonl", silent(), tensorboard=True) as writer:
        writer.write(session())
        writer.write(step(3, loss=math.nan))
        writer.write(Validation(step=3, tokens=9, loss=2.0, bits_per_byte=1.0, seconds=0.1))
        writer.write(Sample(step=3, prompt="p", text="t"))
    assert ("step/learning_rate", 1e-3, 3) in calls
    assert ("validation/bits_per_byte", 1.0, 3) in calls
    assert ("sample/p", "t", 3) in calls
    assert not [call for call in calls if call[0] == "step/loss"]
    assert calls[-1] == ("closed",)


def test_tensorboard_missing_names_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MachineError, match=r"pip install 'puna\[tensorboard\]'"):
        MetricsWriter(tmp_path / "metrics.jsonl", silent(), tensorboard=True)
    assert not (tmp_path / "metrics.jsonl").exists()
