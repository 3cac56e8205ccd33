"""A run: what it does step by step, what it leaves, and what is left when something breaks."""

from __future__ import annotations

import dataclasses
import errno
import io
import math
import os
import shutil
from pathlib import Path

import pytest
from tiny_training import CONTEXT, inputs, learnt, losses, run_config, stop_at, trace

from puna import config as recipes
from puna.errors import MachineError, PunaError, TrainingError
from puna.train.metrics import MetricsWriter, Step, read_metrics
from puna.train.schedule import learning_rate
from puna.weights.checkpoint import complete_checkpoints, find_checkpoint, read_model

torch = pytest.importorskip("torch")

from puna.train import pretrain as module  # noqa: E402
from puna.train.pretrain import Trainer  # noqa: E402

# What a run leaves


def test_a_run_learns_and_leaves_what_the_contract_says(train, tmp_path):
    outcome = train(steps=60, checkpoint_every=25)
    out = tmp_path / "run"
    assert (outcome.folder, outcome.step, outcome.steps_now) == (out, 60, 60)
    assert (outcome.reason, outcome.exit_code) == ("finished", 0)
    run = read_metrics(out / "metrics.jsonl")
    values = [step.loss for step in run.steps]
    assert values[0] == pytest.approx(math.log(320), abs=0.2)
    assert outcome.loss == values[-1] < 0.65 * values[0]
    assert [v.step for v in run.validations] == list(range(4, 61, 4))
    assert run.end.reason == "finished"
    assert (run.end.step, run.end.tokens) == (60, 60 * 128)
    names = [path.name for path in complete_checkpoints(out / "checkpoints")]
    assert names[-1] == "step-000060"
    assert {path.name for path in out.iterdir()} == {
        ".lock", "checkpoints", "metrics.jsonl", "recipe.toml",
    }  # fmt: skip
    stored = read_model(out)
    assert (stored.step, stored.tokens, stored.config) == (60, 60 * 128, run_config().model)


def test_every_step_is_told_with_its_rate_tokens_and_costs(train, tmp_path):
    train()
    run = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [step.step for step in run.steps] == list(range(1, 13))
    for step in run.steps:
        assert step.tokens == 128 * step.step
        assert step.learning_rate == learning_rate(step.step, peak=1e-2, warmup_steps=3, steps=12)
        assert step.tokens_per_second == pytest.approx(128 / step.seconds)
        assert step.gradient_norm > 0
        assert step.memory_bytes > 1e7
        assert step.mfu == pytest.approx(
            run.session.flops_per_token * step.tokens_per_second / 1e12, rel=1e-9
        )
    times = [step.elapsed_seconds for step in run.steps]
    assert times == sorted(times)
    assert run.session.peak_tflops == 1.0
    assert run.session.recipe["train"]["steps"] == 12


def test_without_a_known_peak_no_mfu_is_told(train, tmp_path, monkeypatch):
    decided = module.execution.decide

    def unknown(*arguments):
        return dataclasses.replace(decided(*arguments), peak=None)

    monkeypatch.setattr(module.execution, "decide", unknown)
    train(steps=3)
    run = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {step.mfu for step in run.steps} == {None}
    assert run.session.peak_tflops is None


def test_the_first_loss_is_that_of_the_seeds_weights_on_the_loaders_first_batch(
    train, tmp_path, tiny_shards
):
    from puna.model.llama import Llama
    from puna.tokens.loader import TokenLoader

    train(steps=3, seed=5)
    model = Llama(run_config().model)
    model.initialise(torch.Generator().manual_seed(5))
    batch = torch.from_numpy(TokenLoader(inputs(tiny_shards).train, CONTEXT, 5).sequences(0, 4))
    with torch.no_grad():
        logits = model(batch[:, :-1]).flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten()).item()
    assert losses(tmp_path / "run")[0] == pytest.approx(wanted, rel=1e-6)


def test_the_validation_loss_is_the_mean_over_the_first_heldout_windows(
    train, tmp_path, tiny_shards
):
    from puna.model.llama import Llama
    from puna.tokens.loader import TokenLoader
    from puna.train.state import load_weights

    train(validation_tokens=3 * CONTEXT, micro_batch_sequences=2)
    heldout = inputs(tiny_shards).heldout
    windows = torch.from_numpy(TokenLoader(heldout, CONTEXT, 0).sequences(0, 3))
    stored = read_model(tmp_path / "run")
    model = Llama(stored.config)
    load_weights(model, stored.arrays, Path("x"))
    with torch.no_grad():
        logits = model(windows[:, :-1]).flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten()).item()
    last = read_metrics(tmp_path / "run" / "metrics.jsonl").validations[-1]
    assert last.loss == pytest.approx(wanted, rel=1e-6)
    bytes_per_token = heldout.text_bytes / heldout.tokens
    assert last.bits_per_byte == pytest.approx(wanted / math.log(2) / bytes_per_token, rel=1e-6)


def test_gradients_are_clipped_to_the_norm_that_was_asked_for(train, tmp_path, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def watch(self, *arguments):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        seen.append(math.sqrt(sum(g.double().square().sum().item() for g in gradients)))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    train(gradient_clip=0.05, steps=4)
    told = [s.gradient_norm for s in read_metrics(tmp_path / "run" / "metrics.jsonl").steps]
    assert all(norm > 0.05 for norm in told)  # before clipping
    assert seen == pytest.approx([0.05] * 4, rel=1e-4)


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_change_the_losses_by_rounding_only(train, tmp_path, size):
    train("whole")
    train("parts", micro_batch_sequences=size)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_samples_come_from_the_model_as_it_is_and_change_nothing(train, tmp_path):
    train("without")
    seen = []

    def sample(model):
        assert not model.training
        torch.rand(7)  # a sampler that draws from the global generator
        seen.append(model.output.weight.detach().clone())
        return f"text {len(seen)}"

    train("with", sample=sample, sample_every=5, sample_prompt="Once")
    told = read_metrics(tmp_path / "with" / "metrics.jsonl").samples
    assert [(one.step, one.prompt, one.text) for one in told] == [
        (5, "Once", "text 1"),
        (10, "Once", "text 2"),
        (12, "Once", "text 3"),
    ]
    assert not torch.equal(seen[0], seen[1])
    assert trace(tmp_path / "with") == trace(tmp_path / "without")


def test_the_resolved_recipe_is_written_beside_the_run(train, tmp_path):
    train(steps=3)
    stored = recipes.load(type(run_config()), tmp_path / "run" / "recipe.toml")
    assert stored == run_config(steps=3)
    text = (tmp_path / "run" / "recipe.toml").read_text()
    assert 'schema = "puna.recipe"' in text


# Which checkpoints are kept


@pytest.fixture
def told_validation(monkeypatch):
    """Validation losses that fall until step 8 and then rise."""
    values = {4: 3.0, 8: 2.0, 12: 2.5, 16: 4.0, 20: 5.0, 24: 2.1}
    validate = Trainer._validate

    def told(self, journal, heldout):
        total = values[self.progress.step] * 8 * CONTEXT
        monkeypatch.setattr(module.execution.Execution, "score", lambda *_: total / 2)
        return validate(self, journal, heldout)

    monkeypatch.setattr(Trainer, "_validate", told)


def test_the_last_two_and_the_best_are_kept(train, tmp_path, told_validation):
    train(steps=24, keep_last=2, checkpoint_every=3)
    assert find_checkpoint(tmp_path / "run", "best").name == "step-000008"
    kept = {int(p.name[5:]) for p in complete_checkpoints(tmp_path / "run" / "checkpoints")}
    assert kept == {8, 21, 24}
    run = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [one.step for one in run.checkpoints if one.best] == [4, 8]


def test_the_best_is_still_known_after_a_resume(train, tmp_path, told_validation):
    train(steps=24, **stop_at(15))
    train(steps=24)
    assert find_checkpoint(tmp_path / "run", "best").name == "step-000008"


# Mishaps


def poison(monkeypatch, at_step: int, value=math.nan):
    """Make one weight not finite before a step."""
    take = Trainer._step

    def step(self, number, rate):
        if number == at_step:
            with torch.no_grad():
                self.model.layers[0].attention.wq.weight[0, 0] = value
        return take(self, number, rate)

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_move(
    train, tmp_path, monkeypatch, value
):
    moved = []
    step = torch.optim.AdamW.step
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self: (moved.append(1), step(self))[1])
        poison(patch, at_step=8, value=value)
        with pytest.raises(TrainingError, match=r"step 8 gave .*nan.* weights were not") as caught:
            train()
    assert "step-000005, is whole" in caught.value.message
    assert "learning_rate" in str(caught.value.hint)
    assert len(moved) == 7
    train()
    train("whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_before_the_first_checkpoint_the_error_says_that_none_was_saved(train, monkeypatch):
    poison(monkeypatch, at_step=1)
    with pytest.raises(TrainingError, match="none was saved yet"):
        train()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_one_error_that_says_what_to_try(train, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(module.execution.Execution, "loss", fail)
    with pytest.raises(MachineError, match=r"out of memory in step 1: about .* wanted") as caught:
        train()
    assert "train.micro_batch_sequences=2" in str(caught.value.hint)


def test_out_of_memory_while_the_model_is_built_is_the_same_error(train, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(module, "build_adamw", fail)
    with pytest.raises(MachineError, match="out of memory"):
        train(micro_batch_sequences=1)


def test_other_errors_are_not_taken_for_lack_of_memory(train, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(module.execution.Execution, "loss", fail)
    with pytest.raises(RuntimeError, match="shapes cannot"):
        train()


def test_an_impossible_model_is_refused_before_anything_is_built(train, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Llama", None)
    with pytest.raises(MachineError, match="even with one sequence at a time"):
        train(model={"dim": 65536, "layers": 100})
    assert not (tmp_path / "run" / "checkpoints").exists()


def fill_disk_at_the_third_checkpoint(patch):
    import safetensors.numpy

    write, left = safetensors.numpy.save_file, [2]

    def fill(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments, **options)

    patch.setattr(safetensors.numpy, "save_file", fill)


def fill_disk_at_a_line_of_the_journal(patch):
    write = MetricsWriter.write

    def fill(self, event):
        if isinstance(event, Step) and event.step == 7:
            self._file.close()
            self._file = io.FileIO("/dev/full", "a")
        write(self, event)

    patch.setattr(MetricsWriter, "write", fill)


def test_a_disk_without_room_for_one_checkpoint_is_refused_before_the_first_step(
    train, tmp_path, monkeypatch
):
    used = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: used._replace(free=1_000_000))
    with pytest.raises(MachineError, match=r"a checkpoint needs .* in .*, 976\.6 KiB are free"):
        train()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == b""


needs_dev_full = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="only Linux has /dev/full, a disk that is always full"
)


@pytest.mark.parametrize(
    "fill",
    [
        fill_disk_at_the_third_checkpoint,
        pytest.param(fill_disk_at_a_line_of_the_journal, marks=needs_dev_full),
    ],
)
def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(
    train, tmp_path, monkeypatch, fill
):
    with monkeypatch.context() as patch:
        fill(patch)
        with pytest.raises(PunaError, match="the disk is full") as caught:
            train()
    assert "again to resume" in str(caught.value.hint)
    read_model(tmp_path / "run")  # whole
    train()
    train("whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert learnt(tmp_path / "run") == learnt(tmp_path / "whole")
