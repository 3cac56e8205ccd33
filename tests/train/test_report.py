"""The page tells what the run folder holds, needs nothing else, and runs nothing that it quotes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from html_page import Page, assert_needs_no_network, assert_only_its_script_may_run

from puna import cli, schema
from puna.errors import PunaError, SchemaError
from puna.page import write
from puna.train.metrics import Sample, read_metrics
from puna.train.report import gather, render
from puna.train.report.series import (
    MOST_POINTS,
)

MakeRun = Callable[..., Path]
MOST_BYTES = 1_000_000


def report(run: Path) -> str:
    return render(gather(run))


def svg_of(html: str, chart: str) -> ElementTree.Element:
    found = re.search(
        rf'<figure [^>]*data-chart="{chart}".*?(<svg.*?</svg>)<div class="hit">', html, re.S
    )
    assert found
    return ElementTree.fromstring(found[1])


def drawn_points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_the_page_is_whole_and_asks_nothing_of_the_network(make_run: MakeRun) -> None:
    html = report(make_run())
    assert_needs_no_network(html)
    assert len(html.encode()) < MOST_BYTES


def test_only_our_own_script_may_run(make_run: MakeRun) -> None:
    assert_only_its_script_may_run(report(make_run()))


def test_whatever_a_model_writes_is_shown_as_text(make_run: MakeRun) -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"
    run = make_run(
        facts={
            "device_name": attack,
            "attention": attack,
            "peak_source": attack,
            "command": attack,
            "versions": {attack: attack},
            "corpus": {attack: {attack: 1}},
        },
        events=[Sample(step=900, prompt=attack, text=attack + "\x00")],
    )
    record = json.loads((run / "evaluation.json").read_text())
    record["baselines"] = {attack: 2.0}
    record["per_document"][0]["id"] = attack
    (run / "evaluation.json").write_text(json.dumps(record))
    (run / "recipe.toml").write_text(f"# {attack}\n")
    page = Page(report(run))
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "points"}, {}]
    assert "img" not in [tag for tag, _ in page.elements]
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    assert page.text.count(attack) >= 9


def test_the_headline_compares_the_model_with_its_baselines(make_run: MakeRun) -> None:
    html = report(make_run())
    page = Page(html)
    assert "1.47 bits per byte" in page.text
    assert "11 % fewer than xz -9e primed with the training text" in page.text
    bars = re.search(r'<svg class="bars".*?</svg>', html, re.S)
    assert bars
    picture = ElementTree.fromstring(bars[0])
    rows = []
    for group in picture.iter("g"):
        texts = [element.text for element in group.iter("text")]
        width = next(group.iter("rect")).get("width", "")
        rows.append((group.get("class"), float(texts[-1] or 0), float(width.rstrip("%"))))
    assert [kind for kind, _, _ in rows] == ["ours", "theirs", "theirs", "theirs"]
    assert [value for _, value, _ in rows] == sorted(value for _, value, _ in rows)
    for _, value, width in rows:  # bars start at zero, so lengths stand as values do
        assert width / rows[0][2] == pytest.approx(value / rows[0][1], rel=1e-3)


def test_a_model_that_loses_is_told_so(make_run: MakeRun) -> None:
    run = make_run()
    record = json.loads((run / "evaluation.json").read_text())
    record["bits_per_byte"] = 2 * 1.6516
    (run / "evaluation.json").write_text(json.dumps(record))
    assert "100 % more than xz -9e primed with the training text" in Page(report(run)).text


def test_the_summary_line_counts_size_text_time_and_cost(make_run: MakeRun) -> None:
    text = Page(report(make_run())).text
    for words in (
        "6.82M parameters",
        "3.69M tokens in 900 steps",
        "5 min 06 s of training",
        "594 core-seconds",
        "AMD EPYC 9B45 64-Core Processor 2 threads, bf16 autocast",
    ):
        assert words in text


def test_the_loss_curve_lies_where_the_journal_says(make_run: MakeRun) -> None:
    run = make_run(steps=300)
    picture = svg_of(report(run), "loss")
    steps = read_metrics(run / "metrics.jsonl").steps
    ticks = {
        float(element.get("y", "").rstrip("%")): float(element.text or 0)
        for element in picture.iter("text")
        if element.get("class") == "y"
    }
    bottom, top = ticks[100.0], ticks[0.0]
    raw = next(path for path in picture.iter("path") if path.get("class") == "raw")
    points = drawn_points(raw.get("d", ""))
    assert len(points) == len(steps)
    for (x, y), step in zip(points, steps, strict=True):
        assert step.loss is not None
        assert x == pytest.approx(1000 * step.step / 300, abs=0.06)
        assert bottom + (1 - y / 1000) * (top - bottom) == pytest.approx(step.loss, abs=1e-3)
    dots = [element for element in picture.iter("circle") if element.get("class") == "dot"]
    assert len(dots) == len(read_metrics(run / "metrics.jsonl").validations)


def test_every_chart_has_a_title_a_description_ticks_and_a_read_out(make_run: MakeRun) -> None:
    html = report(make_run())
    found = re.search(r'id="points">(.*?)</script>', html, re.S)
    assert found
    points = json.loads(found[1])
    assert list(points["charts"]) == ["loss", "bits", "rate", "norm", "speed", "memory", "mfu"]
    for name, chart in points["charts"].items():
        picture = svg_of(html, name)
        named = {element.get("id"): element.text for element in picture.iter()}
        labels = (picture.get("aria-labelledby") or "").split()
        assert all(named[label] for label in labels)
        assert len(labels) == 2
        kinds = [element.get("class") for element in picture.iter("text")]
        assert kinds.count("x") >= 3
        assert kinds.count("y") >= 3
        steps = chart.get("x", points["x"])
        assert len(steps) == len(chart["y"]) == len(chart["text"])
        assert steps == sorted(steps)
        assert all(0 <= value <= 1000 for value in chart["y"])


def test_validation_is_drawn_against_the_best_baseline(make_run: MakeRun) -> None:
    html = report(make_run())
    rules = [e for e in svg_of(html, "bits").iter("line") if e.get("class") == "rule"]
    assert len(rules) == 1
    assert "xz -9e primed with the training text, 1.65" in Page(html).text
    unmeasured = report(make_run("unmeasured", is_evaluated=False))
    assert not [e for e in svg_of(unmeasured, "bits").iter("line") if e.get("class") == "rule"]


def test_samples_show_the_model_learning_to_write_from_first_to_last(make_run: MakeRun) -> None:
    html = report(make_run(every=10))
    text = Page(html).text
    assert html.count("<blockquote>") == 12
    assert "12 of 91 shown" in text
    assert text.index("step 0 3.6") < text.index("rthowlevy") < text.index("step 900")
    assert "a treasury that pays its debts" in text


def test_a_prompt_that_the_text_repeats_is_shown_once(make_run: MakeRun) -> None:
    sample = Sample(step=900, prompt="Call me", text="Call me Ishmael.")
    html = report(make_run(events=[sample]))
    assert "<b>Call me</b> Ishmael.</blockquote>" in html


def test_a_very_long_sample_is_cut_and_says_so(make_run: MakeRun) -> None:
    sample = Sample(step=900, prompt="p", text="a" * 100_000)
    html = report(make_run(events=[sample]))
    assert "a […]</blockquote>" in html
    assert len(html) < MOST_BYTES


def test_a_run_that_goes_on_says_how_far_it_is_and_how_to_look_again(make_run: MakeRun) -> None:
    run = make_run("going", steps=437, planned=900, is_ended=False)
    text = Page(report(run)).text
    assert "This run has not ended: step 437 of 900 so far" in text
    assert "puna report going" in text


def test_a_stopped_run_says_what_stopped_it(make_run: MakeRun) -> None:
    run = make_run(steps=50, planned=900)
    journal = run / "metrics.jsonl"
    journal.write_text(journal.read_text().replace('"finished"', '"stopped by SIGTERM"'))
    assert "Stopped by SIGTERM at step 50 of 900. The training" in Page(report(run)).text


def test_a_resumed_run_is_marked_and_its_repeated_steps_are_counted(make_run: MakeRun) -> None:
    html = report(make_run(resumed_at=500))
    marks = [e for e in svg_of(html, "loss").iter("line") if e.get("class") == "mark"]
    assert [mark.get("x1") for mark in marks] == ["55.56%"]
    text = Page(html).text
    assert "7 steps, 5 core-seconds" in text
    assert "599 core-seconds" in text


def test_a_missing_evaluation_names_the_command_that_makes_it(make_run: MakeRun) -> None:
    text = Page(report(make_run("young", is_evaluated=False))).text
    assert "puna evaluate perplexity young --data CORPUS" in text
    assert "bits per byte in validation" in text


def test_an_unknown_peak_is_said_instead_of_drawn(make_run: MakeRun) -> None:
    html = report(make_run(has_peak=False))
    assert 'data-chart="mfu"' not in html
    assert (
        "Its share of the peak is not shown: the peak matmul rate of this device "
        "(AMD EPYC 9B45 64-Core Processor) is not known" in Page(html).text
    )


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_run_that_has_hardly_begun_has_a_page(make_run: MakeRun, steps: int) -> None:
    run = make_run(steps=steps, planned=900, is_ended=False, is_evaluated=False)
    page = Page(report(run))
    assert f"step {steps} of 900 so far" in page.text


def test_a_long_run_stays_small_and_keeps_its_peaks(make_run: MakeRun) -> None:
    html = report(make_run(steps=12_000))
    assert len(html.encode()) < MOST_BYTES
    picture = svg_of(html, "norm")
    paths = {path.get("class"): path.get("d", "") for path in picture.iter("path")}
    assert len(drawn_points(paths["band"])) <= MOST_POINTS
    assert "mean of 24 steps, band from lowest to highest" in Page(html).text


def test_a_loss_that_was_not_finite_leaves_a_gap(make_run: MakeRun) -> None:
    run = make_run(steps=30)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for index, line in enumerate(lines):
        record = json.loads(line)
        if record["event"] == "step" and record["step"] == 15:
            lines[index] = json.dumps(record | {"loss": None})
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    html = report(run)
    path = next(p for p in svg_of(html, "loss").iter("path") if p.get("class") == "line")
    assert path.get("d", "").count("M") == 2
    assert '"not finite"' in html


def test_the_recipe_and_the_making_are_on_the_page(make_run: MakeRun) -> None:
    text = Page(report(make_run())).text
    for words in (
        "learning_rate = 0.0015",
        "seed 1",
        "public domain (237)",
        "torch 2.13.0+cpu",
        "puna train recipes/demo.toml --shards demo/shards --out demo/run",
        "1.5 · 10¹⁴ floating-point operations",
        "9 of 78.1 MiB",
    ):
        assert words in text


def test_without_a_recipe_file_the_journals_recipe_is_shown(make_run: MakeRun) -> None:
    run = make_run(steps=5)
    (run / "recipe.toml").unlink()
    assert "clip_norm = 1.0" in Page(report(run)).text


def test_the_tokenizer_is_told_from_the_checkpoints_own_file(make_run: MakeRun) -> None:
    run = make_run()
    text = Page(report(run)).text
    assert "400 pieces: " in text
    assert "256 bytes" in text
    assert "The last sample as the model sees it" in text
    assert "trained on" not in text
    tokenizer = next(run.glob("checkpoints/*/tokenizer.model"))
    record = {"sha256": schema.sha256_file(tokenizer), "trained_on": {"documents": 7, "bytes": 9}}
    schema.write_json(run.parent / "tokenizer" / "manifest.json", "puna.tokenizer", record)
    assert "7 documents, 9 bytes" in Page(report(run)).text
    record["sha256"] = "of another tokenizer"
    schema.write_json(run.parent / "tokenizer" / "manifest.json", "puna.tokenizer", record)
    assert "7 documents, 9 bytes" not in Page(report(run)).text


def test_before_the_first_checkpoint_there_is_no_tokenizer_section(make_run: MakeRun) -> None:
    assert 'id="tokenizer"' not in report(make_run(has_checkpoint=False))


def test_no_path_of_this_machine_is_on_the_page(make_run: MakeRun) -> None:
    run = make_run(is_evaluated=False, is_ended=False)
    assert str(run.parent) not in report(run)


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(make_run: MakeRun) -> None:
    run = make_run(steps=50)
    elsewhere = run.parent / "elsewhere" / "run"
    shutil.copytree(run, elsewhere)
    assert report(run) == report(elsewhere)


def test_a_folder_that_is_no_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="should be the folder of a training run, found nothing"):
        gather(tmp_path / "none")
    with pytest.raises(SchemaError, match=r"metrics\.jsonl should be a puna\.metrics file"):
        gather(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"baselines": None}, "puna.evaluation record, but"),
        ({"version": 2}, "puna.evaluation version 2"),
        ({"bits_per_byte": "few"}, "puna.evaluation record, but"),
    ],
)
def test_a_broken_evaluation_is_one_clear_error(
    make_run: MakeRun, change: dict[str, Any], complaint: str
) -> None:
    run = make_run(steps=5)
    record = json.loads((run / "evaluation.json").read_text()) | change
    (run / "evaluation.json").write_text(json.dumps(record))
    with pytest.raises(SchemaError, match=re.escape(complaint)):
        gather(run)


def test_the_command_writes_the_page_and_says_where(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(steps=5)
    assert cli.main(["report", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    out = run.parent / "pages" / "today.html"
    assert cli.main(["report", str(run), "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["report"] == str(out)
    assert record["bytes"] == out.stat().st_size
    assert (record["step"], record["bits_per_byte"]) == (5, 1.4712)


def test_the_command_opens_a_browser_when_asked(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))
    run = make_run(steps=5, is_evaluated=False)
    assert cli.main(["report", str(run), "--open"]) == 0
    assert opened == [(run / "report.html").resolve().as_uri()]
    talk = capsys.readouterr().err
    assert "found no browser" in talk
    assert "puna evaluate perplexity" in talk


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = make_run(steps=5)
    facts = gather(run)
    assert write(render(facts), run / "report.html") == (run / "report.html").stat().st_size
    before = (run / "report.html").read_bytes()
    with pytest.raises(PunaError, match=r"could not be written to .*: Is a directory"):
        write(render(facts), run / "checkpoints")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(PunaError, match=r"could not be written to .*: No space left on device"):
        write(render(facts), run / "report.html")
    assert (run / "report.html").read_bytes() == before
    assert [path.name for path in run.glob(".*")] == []


def test_the_report_never_imports_torch() -> None:
    code = (
        "import sys, puna.train.report, puna.train.metrics, puna.commands.report\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
