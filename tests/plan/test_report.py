"""The plan's page tells what was answered, needs nothing else, runs nothing that it quotes."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from html_page import Page, assert_needs_no_network, assert_only_its_script_may_run
from plan.planned_page import State

from puna import cli, schema
from puna.console import human_count
from puna.errors import PunaError, SchemaError
from puna.page import write
from puna.plan.limits import money
from puna.plan.report import PlanFacts, facts, gather, render
from puna.plan.report.axes import Axis
from puna.plan.report.moving import moving

GIB = 2**30
MOST_BYTES = 200_000
ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"


@pytest.fixture(autouse=True)
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "LAID_STEP", 200)


@pytest.fixture(scope="module")
def shown() -> PlanFacts:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "LAID_STEP", 200)
        return State(model="llama-13b").facts()


def swept(tmp_path: Path, **changes: Any) -> Path:
    """A sweep.json as `puna plan sweep` leaves it, of made-up runs."""
    runs = [
        {
            "name": f"{size}", "parameters": size + 4000, "embedding_parameters": 4000,
            "tokens": tokens, "loss": 2 + 50 / size**0.4 + 90 / tokens**0.4,
        }
        for size in (100_000, 400_000, 1_600_000)
        for tokens in (2e6, 2e7)
    ]  # fmt: skip
    constants = {"e": 2.0, "a": 50.0, "b": 90.0, "alpha": 0.4, "beta": 0.4}
    record = {
        "runs": runs,
        "law": {
            **constants,
            "counts": "without embeddings",
            "constants": {
                name: {"value": value, "interval": [0.9 * value, 1.1 * value]}
                for name, value in constants.items()
            },
        },
        "errors": [0.0 for _run in runs],
        "prediction": {"name": "3.2M", "loss": 2.2345, "low": 2.2, "high": 2.28},
        "truth": {**runs[-1], "parameters": 3_204_000, "loss": 2.25},
        "error": 2.2345 / 2.25 - 1,
        **changes,
    }
    path = tmp_path / "sweep.json"
    schema.write_json(path, facts.SWEEP, record)
    return path


def test_the_page_is_whole_and_asks_nothing_of_the_network(shown: PlanFacts) -> None:
    html = render(shown)
    assert_needs_no_network(html)
    assert len(html.encode()) < MOST_BYTES
    elements = Page(html).elements
    keys = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(keys) == len(set(keys))
    labelled = {attributes.get("for") for tag, attributes in elements if tag == "label"}
    assert {"used", "price", "share", "loss", "model"} == labelled


def test_only_our_own_script_may_run(shown: PlanFacts) -> None:
    assert_only_its_script_may_run(render(shown))


def test_the_static_page_tells_the_answer(shown: PlanFacts) -> None:
    answer, page = shown.answer, Page(render(shown))
    plan = answer.plan
    assert f"Train {human_count(plan.parameters)} parameters on" in page.text
    for one in (plan, answer.chinchilla, answer.half, answer.twice):
        assert one is not None
        row = [human_count(one.parameters), human_count(one.tokens)]
        row += [money(usd) for usd in (one.training_usd, one.inference_usd, one.total_usd)]
        assert " ".join(row) in page.text
    assert answer.break_even_tokens is not None
    assert f"from {human_count(answer.break_even_tokens)} tokens of use" in page.text
    assert "beyond the runs behind the law: 5.48 times the most tokens (318B)." in page.text
    assert all(one in page.text for one in answer.warnings if "extrapolated" not in one)


def test_the_same_question_gives_the_same_page(shown: PlanFacts) -> None:
    assert render(shown) == render(shown)


def test_a_curve_of_equal_loss_goes_through_the_plan(shown: PlanFacts) -> None:
    moved = moving(shown)
    assert list(moved["dots"]["plan"]) in [list(point) for point in moved["curves"]["iso"]]
    assert set(moved["curves"]["cheap"]) < set(moved["curves"]["iso"])
    x, y = zip(*moved["curves"]["iso"], strict=True)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y, reverse=True)


def test_more_use_moves_the_best_up_and_left(shown: PlanFacts) -> None:
    dots = moving(shown)["dots"]
    places = [dots["chinchilla"], *(dots[f"use-{number}"] for number in range(3))]
    for before, after in pairwise(places):
        assert after[0] < before[0]
        assert after[1] > before[1]


def test_the_plan_costs_least_on_the_chart_of_costs(shown: PlanFacts) -> None:
    curves, frames = moving(shown)["curves"], shown.frames
    one = 1000 * frames.cost.position(1)
    assert min(y for _, y in curves["cost-total"]) == pytest.approx(one, abs=0.1)


def test_bars_are_the_memory_of_one_device(shown: PlanFacts) -> None:
    size = next(
        one for one in shown.laid if one.parameters == pytest.approx(shown.answer.plan.parameters)
    )
    *shares, room = moving(shown)["bars"]["plan-training"]
    usable = shown.money.train.device.usable_bytes
    assert room == 1000
    assert sum(shares) == pytest.approx(1000 * sum(size.training.values()) / usable, abs=1)
    serving = size.serving["weights"] / GIB
    assert f"weights {serving:.1f}" in moving(shown)["said"]["plan-serving-parts"]


def test_a_sweep_is_shown_with_its_prediction_and_truth(shown: PlanFacts, tmp_path: Path) -> None:
    found = gather(shown.question, shown.answer, shown.money, swept(tmp_path))
    page = Page(render(found))
    assert "2.2345 (open circle; 95 % from 2.2000 to 2.2800)" in page.text
    assert "it came to 2.2500 (filled): -0.69 % off" in page.text
    circles = re.findall(r'<svg class="known"', render(found).split('id="sweep"')[1])
    assert len(circles) == 6


def test_whatever_a_sweep_is_called_is_shown_as_text(shown: PlanFacts, tmp_path: Path) -> None:
    told = {"name": ATTACK, "loss": 2.2345, "low": 2.2, "high": 2.28}
    page = Page(
        render(gather(shown.question, shown.answer, shown.money, swept(tmp_path, prediction=told)))
    )
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "points"}, {}]
    assert "img" not in [tag for tag, _ in page.elements]
    assert ATTACK in page.text


@pytest.mark.parametrize("changes", [{"runs": []}, {"error": "none"}, {"truth": {}}, {"law": 3}])
def test_a_broken_sweep_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"should be the sweep\.json"):
        facts.read_sweep(swept(tmp_path, **changes))


def test_a_page_that_cannot_be_written_says_so(shown: PlanFacts, tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="could not be written"):
        write(render(shown), tmp_path)  # a folder


def test_ticks_are_round_and_within(shown: PlanFacts) -> None:
    assert [words for _, words in Axis(5e8, 2e12).ticks()] == ["1B", "10B", "100B", "1T"]
    assert [words for _, words in Axis(1.8, 3.4, is_log=False).ticks()] == ["2", "2.5", "3"]
    axes = vars(shown.frames)
    for axis in (axes[name] for name in axes if name != "times"):  # which has ticks of its own
        ticks = [value for value, _ in axis.ticks()]
        assert 2 <= len(ticks) <= 8
        assert all(axis.low <= tick <= axis.high for tick in ticks)


def test_the_command_writes_the_page_and_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.html"
    words = ["plan", "report", "--as-good-as", "llama-7b", "--inference-tokens", "1T"]
    assert cli.main([*words, "--out", str(out), "--sweep", str(swept(tmp_path)), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["report"] == str(out)
    assert record["bytes"] == out.stat().st_size
    assert record["plan"]["total_usd"] < record["chinchilla"]["total_usd"]
    assert record["sweep"]["prediction"]["name"] == "3.2M"
    assert human_count(record["plan"]["parameters"]) in Page(out.read_text()).text


def test_the_command_wants_something_to_aim_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "report"]) == 2
    assert "something to aim at" in capsys.readouterr().err
