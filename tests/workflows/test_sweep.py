"""A ladder of tiny models: what is trained, predicted, refused, and done again after a kill."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from tiny_training import CONTEXT, SEQUENCES, VOCABULARY

from puna import config as recipes
from puna import hardware
from puna.console import Console, silent
from puna.data.build.executor import Here
from puna.errors import ConfigError, DataError
from puna.model import count
from puna.model.sizes import ModelConfig
from puna.plan.fit import Fitted, fit
from puna.plan.law import Law
from puna.plan.runs import Run, Runs, read_runs
from puna.tokens.mixture import Mixture
from puna.tokens.shards import ShardSet
from puna.train.metrics import read_metrics
from puna.train.settings import TrainConfig

pytest.importorskip("torch")
pytest.importorskip("scipy", reason="needs SciPy: pip install 'puna[plan]'")

from puna.workflows import sweep as sweeping
from puna.workflows.ladder import Ladder, Size, load_ladder
from puna.workflows.sweep import sweep
from puna.workflows.text_to_model import open_shards

BATCH = CONTEXT * SEQUENCES
DRAWS = 10
PATIENCE_SECONDS = 240
SIZES = tuple(Size(dim, 2, 2, 1e-2, hidden_dim=2 * dim) for dim in (8, 12, 16, 24))


def ladder(**changes) -> Ladder:
    """Four sizes on 4 to 12 steps each; the target is one size more."""
    given = {
        "sizes": SIZES,
        "tokens": (4 * BATCH, 6 * BATCH, 9 * BATCH, 12 * BATCH),
        "target": Size(32, 2, 2, 1e-2, hidden_dim=64),
        "target_tokens": 12 * BATCH,
        "model": ModelConfig(context_length=CONTEXT, tied_embeddings=True),
        "train": TrainConfig(
            batch_tokens=BATCH,
            device="cpu",
            threads=1,
            precision="fp32",
            compile="off",
            validation_tokens=8 * CONTEXT,
            checkpoint_every=4,
        ),
    }
    return Ladder(**given | changes)


class HereAndWatched(Here):
    """Trains in this process; notes what is on disk as the target's turn comes."""

    seen: ClassVar[list[tuple[bool, bool]]] = []

    def run(self, tasks):
        for task in tasks:
            folder = Path(task.output).parent
            if folder.name == "target":
                prediction = folder.parent / "prediction.json"
                self.seen.append((folder.exists(), prediction.is_file()))
            yield from super().run([task])


@pytest.fixture(scope="module")
def here():
    """No processes, no measuring of the machine, and few draws: seconds instead of minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "LocalProcesses", lambda workers: HereAndWatched())
        patch.setattr(sweeping, "DRAWS", DRAWS)
        patch.setattr(hardware, "matmul_rate", lambda *_: hardware.Rate(1e12, "not measured"))
        yield


@pytest.fixture(scope="module")
def swept(here, tiny_shards, tmp_path_factory):
    return sweep(ladder(), tiny_shards, tmp_path_factory.mktemp("sweep") / "out", silent(), 2)


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}


def test_every_size_is_trained_on_every_amount_of_tokens(swept):
    assert [one.tokens for one in swept.measured] == [
        4 * BATCH,
        6 * BATCH,
        9 * BATCH,
        12 * BATCH,
    ] * 4
    assert len({one.parameters for one in swept.measured}) == 4
    for one in swept.measured:
        run = read_metrics(swept.folder / "runs" / one.name / "metrics.jsonl")
        assert run.end.reason == "finished"
        assert (run.validations[-1].loss, run.steps[-1].tokens) == (one.loss, one.tokens)
        assert run.steps[-1].epoch <= 1.0
        assert run.steps[-1].learning_rate == pytest.approx(1e-3)  # its own cosine came down


def test_parameters_are_counted_with_and_without_the_tied_table(swept):
    # Two layers of 4d² + 3·d·2d + 2d, and one norm: 20d² + 5d; the table is 320 pieces of d.
    for one, size in zip(swept.measured[::4], SIZES, strict=True):
        assert one.run("without embeddings").parameters == 20 * size.dim**2 + 5 * size.dim
        assert one.run("all").parameters == 20 * size.dim**2 + (5 + VOCABULARY) * size.dim


def test_the_law_is_that_of_the_runs_journals(swept):
    counts = swept.prediction.counts
    runs = read_runs(sorted((swept.folder / "runs").iterdir()), counts).runs
    least = sorted({run.tokens for run in runs})[swept.prediction.left_out]
    assert sorted(run for run in runs if run.tokens >= least) == sorted(swept.fitted.runs.runs)
    assert len(swept.errors) == len(runs)
    law = fit(swept.fitted.runs, draws=0).law
    assert law.e == pytest.approx(swept.fitted.law.e)
    saved = json.loads((swept.folder / "law.json").read_text())
    assert (saved["counts"], len(saved["draws"])) == (counts, DRAWS)


def test_the_prediction_is_the_laws_and_is_told_with_the_truth(swept):
    record = json.loads((swept.folder / "sweep.json").read_text())
    said = json.loads((swept.folder / "prediction.json").read_text())
    model = 20 * 32**2 + 5 * 32 + (VOCABULARY * 32 if said["counts"] == "all" else 0)
    assert said["loss"] == pytest.approx(swept.fitted.law.loss(model, 12 * BATCH))
    assert said["low"] < said["loss"] < said["high"]
    truth = read_metrics(swept.folder / "target" / "metrics.jsonl").validations[-1].loss
    assert record["truth"]["loss"] == truth
    assert record["error"] == pytest.approx(said["loss"] / truth - 1)
    best = min(said["tests"], key=said["tests"].__getitem__)
    assert best == said["counts"] + (", shortest left out" if said["left_out"] else "")
    assert len(said["tests"]) == 4


def test_the_same_command_again_trains_nothing(swept, here, tiny_shards):
    before = files(swept.folder)
    again = sweep(ladder(), tiny_shards, swept.folder, silent(), 2)
    assert files(swept.folder) == before
    assert (again.measured, again.truth) == (swept.measured, swept.truth)


def test_a_further_amount_of_tokens_trains_only_its_own_runs(swept, here, tiny_shards, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(swept.folder, out)
    before = files(out)
    wider = ladder(tokens=(4 * BATCH, 6 * BATCH, 8 * BATCH, 9 * BATCH, 12 * BATCH))
    again = sweep(wider, tiny_shards, out, silent(), 1)
    assert before.items() <= files(out).items()
    assert len(again.measured) == 20
    assert again.prediction == swept.prediction  # made before the target was trained: it stays
    assert "the prediction is of 16 runs, the law of 20" in again.fitted.notes


def test_the_prediction_is_on_disk_before_the_targets_first_step(swept):
    assert HereAndWatched.seen[0] == (False, True)  # no folder of the target's, a prediction


def test_text_that_would_be_read_twice_is_refused_before_any_training(here, tiny_shards, tmp_path):
    has = ShardSet.open(tiny_shards / "train").tokens
    long = ladder(target_tokens=(has // BATCH + 1) * BATCH)
    with pytest.raises(DataError, match=rf"none of them twice.* has {has:,}") as raised:
        sweep(long, tiny_shards, tmp_path / "out", silent(), 2)
    assert "target_tokens" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_of_a_mixture_the_source_that_is_used_up_first_sets_the_end(tiny_shards):
    shards = open_shards(tiny_shards)
    assert isinstance(shards.train, ShardSet)
    sources = {"books": shards.train, "web": shards.train}
    mixed = replace(shards, train=Mixture(tiny_shards, sources, {"books": 0.8, "web": 0.2}))
    holds = int(shards.train.tokens / 0.8)
    enough = ladder(target_tokens=holds // BATCH * BATCH).target_rung(VOCABULARY)
    too_many = ladder(target_tokens=(holds // BATCH + 1) * BATCH).target_rung(VOCABULARY)
    sweeping._require_text([enough], mixed, tiny_shards)
    with pytest.raises(DataError, match=rf"wants {too_many.tokens:,} tokens.* has {holds:,}"):
        sweeping._require_text([too_many], mixed, tiny_shards)


def test_too_little_held_out_text_is_refused(here, tiny_shards, tmp_path):
    much = ladder(train=replace(ladder().train, validation_tokens=1 << 20))
    with pytest.raises(DataError, match="the same 1,048,576 held-out tokens"):
        sweep(much, tiny_shards, tmp_path / "out", silent(), 2)


@pytest.mark.parametrize("change", [{"learning_rate": 2e-2}, {"heads": 1}])
def test_runs_of_another_recipe_are_not_mixed_with_these(swept, here, tiny_shards, change):
    other = ladder(sizes=(replace(SIZES[0], **change), *SIZES[1:]))
    with pytest.raises(DataError, match="trained by another recipe or on other text"):
        sweep(other, tiny_shards, swept.folder, silent(), 2)


def test_a_ladder_needs_four_sizes_that_differ_and_four_amounts_of_tokens():
    with pytest.raises(ConfigError, match=r"at least 4 sizes and 4 amounts.*got 3 and 4"):
        ladder(sizes=SIZES[:3])
    with pytest.raises(ConfigError, match="should differ"):
        ladder(tokens=(512, 512, 1024, 2048))
    with pytest.raises(ConfigError, match="should differ"):
        ladder(target=SIZES[0])


def test_the_estimate_is_linear_in_flops_between_the_two_timed_shapes(
    here, tiny_shards, tmp_path, monkeypatch
):
    said = io.StringIO()
    console = Console(stderr=said)
    trainer = sweeping._Trainer(open_shards(tiny_shards), tiny_shards, tmp_path, console, 2)
    plan = ladder()
    rungs, target = plan.rungs(VOCABULARY), plan.target_rung(VOCABULARY)
    flops = count.training_flops_per_token

    def timed(asked, kind):
        each = [3e-3 + 1e-7 * flops(rung.config.model) for rung in asked]
        return [sweeping.Measured("", "", 1, 0, 1, 1.0, 1.0, seconds) for seconds in each]

    monkeypatch.setattr(trainer, "measure", timed)
    trainer.estimate(rungs, target)
    for rung in [*rungs, target]:
        tokens = rung.tokens + 8 * CONTEXT
        wanted = tokens * (3e-3 + 1e-7 * flops(rung.config.model))
        assert trainer.seconds[rung.name] == pytest.approx(wanted)
    assert "16 runs" in said.getvalue()
    assert "2 at a time" in said.getvalue()


def test_the_interval_is_of_the_draws_and_of_the_runs_own_scatter():
    exact = Law(e=2.0, a=100.0, b=1000.0, alpha=0.4, beta=0.5)
    draws = tuple(replace(exact, e=2.0 + shift) for shift in np.linspace(-0.1, 0.1, 201))
    runs = Runs((Run("one", 1e5, 1e6, 3.0),))
    certain = Fitted(replace(exact, draws=draws), runs, np.zeros(1), ())
    loss, low, high = sweeping.predict(certain, 1e6, 1e7)
    assert loss == pytest.approx(2 + 100 / 1e6**0.4 + 1000 / 1e7**0.5)
    assert (low - loss, high - loss) == pytest.approx((-0.095, 0.095))
    scattered = replace(certain, errors=np.array([-0.02, 0.02]))
    _, lower, higher = sweeping.predict(scattered, 1e6, 1e7)
    assert lower < low - 0.01
    assert higher > high + 0.01


def test_a_journal_tells_the_tokens_of_its_last_whole_step(tmp_path):
    journal = tmp_path / "metrics.jsonl"
    assert sweeping.tokens_told(journal) == 0
    step = '{{"event": "step", "step": {0}, "tokens": {1}}}\n'
    journal.write_text(step.format(1, 128) + step.format(2, 256) + '{"event": "step", "st')
    assert sweeping.tokens_told(journal) == 256


def test_the_ladder_that_comes_with_puna_is_the_one_described():
    plan = load_ladder(Path("recipes/ladder.toml"))
    rungs = plan.rungs(4096)
    sizes = [rung.name.partition("-")[0] for rung in rungs[:: len(plan.tokens)]]
    assert sizes == ["107k", "203k", "402k", "804k", "1.59M"]
    assert plan.target_rung(4096).name == "3.21M-20.5M"
    assert (min(plan.tokens), max(plan.tokens)) == (2_048_000, 20_480_000)


@pytest.mark.kill
def test_a_sweep_that_is_killed_goes_on_and_finds_the_same(tiny_shards, tmp_path):
    """The whole command, killed with SIGKILL at three moments; its processes die with it."""
    recipes.write(ladder(), tmp_path / "ladder.toml")

    def start(out: str) -> subprocess.Popen[bytes]:
        words = ["plan", "sweep", tmp_path / "ladder.toml", "--shards", tiny_shards, "--quiet"]
        command = [sys.executable, "-m", "puna", *words, "--out", tmp_path / out, "--json"]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    def trained(out: str) -> int:
        return len(list((tmp_path / out).glob("*/*/result.json")))

    for wanted in (1, 7, 15):
        process = start("killed")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while trained("killed") < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.communicate()
    found = []
    for out in ("killed", "whole"):
        said, _ = start(out).communicate(timeout=PATIENCE_SECONDS)
        record = json.loads(said)
        found.append([(one["name"], one["loss"]) for one in [*record["runs"], record["truth"]]])
    assert found[0] == found[1]
    assert len(found[0]) == 17
