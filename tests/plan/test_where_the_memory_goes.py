"""The tables of docs/explain/where-the-memory-goes.md are what the planner and the rows say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from puna.model import count
from puna.model.sizes import ModelConfig, named
from puna.plan import devices, memory, speed
from puna.plan.layout import Layout, TrainingRun

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "explain" / "where-the-memory-goes.md").read_text(encoding="utf-8")
SHAPES = ("weights", "long", "vocabulary", "tied")  # in the order of the page
POLICIES = ("none", "selective", "narrow", "full")
GPU_HOURS = {"7B": (82_432, 1), "13B": (135_168, 2), "33B": (530_432, 4), "65B": (1_022_362, 8)}
A100 = devices.device("A100-80GB")


def cells(start: str) -> list[list[str]]:
    """The rows of the table whose head begins so."""
    lines = PAGE[PAGE.index(f"| {start}") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def numbers(row: list[str]) -> list[float]:
    return [float(re.sub(r"[ %]", "", cell)) for cell in row]


def measured_and_planned(
    compiled: bool,
) -> dict[tuple[str, str], tuple[int, memory.TrainingMemory]]:
    """The newest peak of every shape and policy, and what is planned for it."""
    here = devices.this_machine(31e9, {"fp32": 2e11, "bf16": 1.5e12}, "not measured")
    found = {}
    for line in (ROOT / "bench" / "history.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["bench"] != "memory_plan" or row.get("compiled", False) != compiled:
            continue
        config = ModelConfig(**row["model"])
        run = TrainingRun(
            config,
            here,
            batch_tokens=row["sequences"] * config.context_length,
            micro_batch=row["micro_batch"],
            checkpointing=row["policy"],
            compiled=compiled,
        )
        found[row["shape"], row["policy"]] = row["peak_bytes"], memory.training(run)
    return found


def test_the_peaks_of_compiled_runs_are_the_newest_and_the_plan_is_so_far_off():
    cases = measured_and_planned(compiled=True)
    for shape, line in zip(SHAPES, cells("compiled"), strict=True):
        for policy, cell in zip(POLICIES, line[1:], strict=True):
            measured, planned = cases[shape, policy]
            shown = [float(one) for one in re.findall(r"[-+]?[\d.]+", cell)]
            off = 100 * (planned.total / measured - 1)
            assert shown == [
                pytest.approx(measured / 1e9, abs=0.0051),
                pytest.approx(off, abs=0.051),
            ]


def test_the_measured_peaks_are_the_newest_and_the_planned_ones_are_planned():
    found = measured_and_planned(compiled=False)
    cases = [(shape, policy) for shape in SHAPES for policy in POLICIES]
    for (shape, policy), line in zip(cases, cells("shape"), strict=True):
        measured, planned = found[shape, policy]
        off = 100 * (planned.total / measured - 1)
        assert line[1] == policy
        wanted = [measured / 1e9, planned.total / 1e9, planned.allocator / 1e9]
        assert numbers(line[2:5]) == pytest.approx(wanted, abs=0.0051)
        assert numbers(line[5:]) == pytest.approx([off], abs=0.051)


def test_bytes_a_token_of_the_block_are_those_counted():
    config = ModelConfig(
        dim=3072, heads=24, layers=1, hidden_dim=8192, vocabulary_size=256, context_length=1024
    )
    copies = 2 * (count.parameters(config) - 2 * 256 * 3072 - 3 * 3072)
    for named_policy, _of_it, shown in cells("kept"):
        policy = re.match(r"`(\w+)`", named_policy)[1]
        kept = count.activation_bytes(config, 1, 1024, policy)
        kept -= copies if policy == "none" else 0
        a_width = float(re.match(r"[\d.]+", shown)[0])
        assert kept / 1024 / 3072 == pytest.approx(a_width, abs=0.1)


@pytest.mark.parametrize("line", cells("fitted on"), ids=lambda line: line[0])
def test_the_papers_runs_are_predicted_as_told(line, monkeypatch):
    told, shown = line[0], numbers(line[1:])
    exposed = {"nothing": 0.0, "all": 1.0}
    waited = next((share for word, share in exposed.items() if word in told), 0.5)
    monkeypatch.setattr(speed, "TENSOR_EXPOSED", waited)
    runs = {}
    for name, (hours, tensor) in GPU_HOURS.items():
        tokens = 1.0e12 if name in ("7B", "13B") else 1.4e12
        layout = Layout(data=2048 // tensor, tensor=tensor, zero=1)
        seconds = hours * 3600 / 2048 / (tokens / 2**22)
        run = TrainingRun(
            named(name), A100, layout, batch_tokens=1 << 22, micro_batch=layout.tensor
        )
        runs[name] = (run, seconds)
    fitted = [name for name in ("7B", "13B") if f"{name} alone" in told] or ["7B", "13B"]
    share = speed.fitted_share([runs[name] for name in fitted])
    missed = [
        100 * (speed.training_step(run, share).seconds / took - 1) for run, took in runs.values()
    ]
    assert shown == pytest.approx([100 * share, *missed], abs=0.06)
