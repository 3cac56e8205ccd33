"""Resuming: to the bit what an uninterrupted run does, or refused by what changed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal

import numpy as np
import pytest
from tiny_training import (
    CONTEXT,
    inputs,
    learnt,
    losses,
    run_config,
    stop_at,
    trace,
    write_shards_folder,
)

from puna import config as recipes
from puna import hardware
from puna.console import Console, silent
from puna.errors import CheckpointError, DataError, TrainingError
from puna.train.metrics import read_metrics
from puna.weights import checkpoint
from puna.weights.checkpoint import complete_checkpoints, find_checkpoint
from puna.weights.convert import Conversion, convert
from puna.weights.open_model import load_tokenizer, open_model

pytest.importorskip("torch")

import torch

from puna.model.llama import Llama
from puna.tokens.loader import TokenLoader
from puna.train import pretrain as module
from puna.train.state import load_weights

# Resuming


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stops", [[1], [7], [2, 3, 1, 4]])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    train, tmp_path, precision, stops
):
    train("whole", precision=precision)
    done = 0
    for stop in stops:
        outcome = train("parts", precision=precision, **stop_at(stop))
        done += stop
        assert (outcome.step, outcome.steps_now, outcome.exit_code) == (done, stop, 143)
    outcome = train("parts", precision=precision, sample_every=1)
    assert (outcome.step, outcome.steps_now, outcome.reason) == (12, 12 - done, "finished")
    assert trace(tmp_path / "parts") == trace(tmp_path / "whole")
    assert learnt(tmp_path / "parts") == learnt(tmp_path / "whole")
    sessions = read_metrics(tmp_path / "parts" / "metrics.jsonl").sessions
    assert [session.step for session in sessions] == [0, *np.cumsum(stops)]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"tied_embeddings": True}},
        {"model": {"heads": 4, "kv_heads": 2}},
        {"activation_checkpointing": "full", "micro_batch_sequences": 2},
    ],
    ids=["tied", "grouped-query", "full, two micro-batches"],
)
def test_other_shapes_and_settings_resume_to_the_bit_too(train, tmp_path, changes):
    train("whole", **changes)
    train("parts", **changes, **stop_at(5))
    train("parts", **changes)
    assert trace(tmp_path / "parts") == trace(tmp_path / "whole")
    assert learnt(tmp_path / "parts") == learnt(tmp_path / "whole")


def test_a_resume_late_in_an_epoch_still_sees_all_of_the_next(train, tiny_shards, tmp_path):
    """Other stacks then read the end of the text over and over."""
    small = shutil.copytree(tiny_shards, tmp_path / "small")
    shutil.rmtree(small / "train")
    shutil.copytree(small / "heldout", small / "train")
    options = {"shards": small, "steps": 40, "validate_every": 40, "checkpoint_every": 40}
    train("whole", **options)
    train("parts", **options, **stop_at(15))
    train("parts", **options)
    epochs = [step.epoch for step in read_metrics(tmp_path / "parts" / "metrics.jsonl").steps]
    assert 0.8 < epochs[14] < 1
    assert epochs[-1] > 2
    assert trace(tmp_path / "parts") == trace(tmp_path / "whole")


def test_a_run_that_died_repeats_the_steps_since_its_last_checkpoint(train, tmp_path):
    class Died(BaseException):
        pass

    calls = 0

    def die(model):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise Died
        return "text"

    train("whole")
    with pytest.raises(Died):
        train("parts", sample=die, sample_every=1, validate_every=100)
    assert find_checkpoint(tmp_path / "parts").name == "step-000005"
    train("parts")
    run = read_metrics(tmp_path / "parts" / "metrics.jsonl")
    assert [session.step for session in run.sessions] == [0, 5]
    assert run.repeated_steps == 3
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert learnt(tmp_path / "parts") == learnt(tmp_path / "whole")


def test_a_finished_run_says_so_and_does_nothing(train, tmp_path):
    train()
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    said = io.StringIO()
    outcome = train(console=Console(stderr=said))
    assert (outcome.step, outcome.steps_now, outcome.exit_code) == (12, 0, 0)
    assert "already trained: 12 of 12 steps" in said.getvalue()
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_costs_go_on_from_what_they_were(train, tmp_path):
    train(**stop_at(6))
    train()
    steps = read_metrics(tmp_path / "run" / "metrics.jsonl").steps
    assert [step.elapsed_seconds for step in steps] == sorted(s.elapsed_seconds for s in steps)
    assert [step.core_seconds for step in steps] == sorted(step.core_seconds for step in steps)


# Stopping


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_signal_saves_and_says_so(train, tmp_path, stop, code):
    said = io.StringIO()
    outcome = train(console=Console(stderr=said), **stop_at(7, stop))
    assert (outcome.step, outcome.exit_code) == (7, code)
    assert outcome.reason == f"stopped by {stop.name}"
    assert find_checkpoint(tmp_path / "run").name == "step-000007"
    end = read_metrics(tmp_path / "run" / "metrics.jsonl").end
    assert (end.step, end.reason) == (7, f"stopped by {stop.name}")
    assert "the same command goes on from here" in said.getvalue()


def test_a_stop_in_the_last_step_is_a_finished_run(train):
    outcome = train(**stop_at(12))
    assert (outcome.step, outcome.reason, outcome.exit_code) == (12, "finished", 0)


def test_a_second_ctrl_c_ends_the_run_at_once(train, tmp_path):
    def impatient(model):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return "never"

    with pytest.raises(KeyboardInterrupt):
        train(sample=impatient, sample_every=7)
    assert find_checkpoint(tmp_path / "run").name == "step-000005"
    train("whole")
    train()
    assert learnt(tmp_path / "run") == learnt(tmp_path / "whole")


# Refusals


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"learning_rate": 2e-2}, "train.learning_rate = 0.01, this recipe says 0.02"),
        ({"steps": 13}, "train.steps = 12, this recipe says 13"),
        ({"seed": 2}, "train.seed"),
        ({"batch_tokens": 64}, "train.batch_tokens"),
        ({"precision": "bf16"}, "train.precision"),
        ({"model": {"layers": 3}}, "model.layers = 2, this recipe says 3"),
        ({"model": {"kv_heads": 1}}, "model.kv_heads"),
    ],
)
def test_a_changed_recipe_is_refused_by_the_key_that_changed(train, tmp_path, changes, name):
    train(**stop_at(2))
    before = learnt(tmp_path / "run")
    with pytest.raises(CheckpointError) as caught:
        train(**changes)
    assert name in caught.value.message
    assert str(tmp_path / "run") in caught.value.message
    assert "another --out" in str(caught.value.hint)
    assert learnt(tmp_path / "run") == before


def test_what_only_watches_a_run_may_change(train, tmp_path):
    train("whole")
    train(**stop_at(6))
    outcome = train(
        validate_every=3,
        checkpoint_every=1,
        keep_last=3,
        sample_tokens=3,
        activation_checkpointing="none",
    )
    assert outcome.reason == "finished"
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert len(complete_checkpoints(tmp_path / "run" / "checkpoints")) >= 3


def test_another_micro_batch_is_allowed_and_told(train, tmp_path):
    train("whole")
    train(**stop_at(6))
    said = io.StringIO()
    train(micro_batch_sequences=1, console=Console(stderr=said))
    assert "micro_batch was 4 before the resume and is 1" in said.getvalue()
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_another_number_of_threads_is_allowed_and_told(train):
    train(**stop_at(6))
    said = io.StringIO()
    outcome = train(threads=2, console=Console(stderr=said))
    assert outcome.reason == "finished"
    assert "threads was 1 before the resume and is 2: the losses will differ" in said.getvalue()


@pytest.mark.parametrize(("before", "after"), [("amx", "none"), ("none", "amx"), (None, "none")])
def test_other_kernels_are_allowed_and_told(train, monkeypatch, before, after):
    """They round otherwise. A checkpoint from before they were recorded says nothing."""
    said = io.StringIO()
    for kernels, options in ((before, stop_at(6)), (after, {})):
        monkeypatch.setattr(module.execution.Plan, "kernels", kernels)
        outcome = train(console=Console(stderr=said), **options)
    assert outcome.reason == "finished"
    told = f"kernels was {before} before the resume and is {after}: the losses will differ"
    assert (told in said.getvalue()) == (before is not None)


def test_less_free_memory_on_resuming_does_not_change_the_micro_batch(train, tmp_path, monkeypatch):
    """Derived from the memory free at the start, it is part of what must not change."""
    train("whole")
    train(**stop_at(6))
    monkeypatch.setattr(module.execution, "micro_batch", lambda *_: 1)
    train()
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")


def test_changed_shards_are_refused(train, tiny_shards, tmp_path):
    train(**stop_at(2))
    other = shutil.copytree(tiny_shards, tmp_path / "other")
    shutil.rmtree(other / "train")
    shutil.copytree(tiny_shards / "heldout", other / "train")
    with pytest.raises(CheckpointError, match="was trained on token shards") as caught:
        train(shards=other)
    assert "the token shards changed" in str(caught.value.hint)


def test_a_changed_tokenizer_is_refused(train, tmp_path):
    train(**stop_at(2))
    other = write_shards_folder(tmp_path / "other", seed=9)
    with pytest.raises(CheckpointError, match=r"trained on (token shards|tokenizer)"):
        train(shards=other)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_shards_of_another_tokenizer_are_refused_before_any_work(
    train, tiny_shards, tmp_path, split
):
    other = write_shards_folder(tmp_path / "other", seed=9)
    mixed = shutil.copytree(tiny_shards, tmp_path / "mixed")
    shutil.rmtree(mixed / split)
    shutil.copytree(other / split, mixed / split)
    with pytest.raises(DataError, match=f"mixed/{split} were made with another tokenizer"):
        train(shards=mixed)


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(train):
    with pytest.raises(TrainingError, match=r"320 pieces, model\.vocabulary_size is 300"):
        train(model={"vocabulary_size": 300})


def test_another_precision_of_the_machine_is_refused(train, monkeypatch):
    train(precision="auto", **stop_at(2))
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset({"avx2"}))
    with pytest.raises(CheckpointError, match="trained in bf16, this machine would go on in fp32"):
        train(precision="auto")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_checkpoint_is_named_and_without_it_the_one_before_goes_on(
    train, tmp_path, name, damage
):
    train(**stop_at(7))
    path = find_checkpoint(tmp_path / "run") / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(content[:middle] if damage == "cut" else flipped)
    with pytest.raises(CheckpointError) as caught:
        train()
    assert str(path) in caught.value.message
    assert f"remove {path.parent}" in str(caught.value.hint)
    shutil.rmtree(path.parent)
    train()
    train("whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert learnt(tmp_path / "run") == learnt(tmp_path / "whole")


def test_a_checkpoint_of_a_newer_puna_is_refused(train, tmp_path):
    train(**stop_at(2))
    path = find_checkpoint(tmp_path / "run") / "manifest.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"version": 99}))
    with pytest.raises(CheckpointError, match="version 99, this Puna reads up to 1") as caught:
        train()
    assert "upgrade" in str(caught.value.hint)


def change_state(folder, part: str, **changes) -> None:
    """Write other fields into a part of state.json, as another Puna would; None removes one."""
    state = checkpoint.read_state(folder)
    fields = {**state[part], **changes}
    state[part] = {name: value for name, value in fields.items() if name not in changes or value}
    content = {name: state[name] for name in state.keys() - {"schema", "version"}}
    recipe = recipes.load(module.RunConfig, folder / "recipe.toml")
    (folder / "manifest.json").unlink()
    checkpoint.seal(folder, content.pop("step"), content, recipe)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("provenance", {"optimizer": "muon"}, "provenance: unknown key optimizer"),
        ("provenance", {"shards": None}, r"provenance\.shards is missing"),
        ("provenance", {"threads": "two"}, "threads should be int, got 'two'"),
        ("progress", {"epoch": 3}, "progress: unknown key epoch"),
        ("progress", {"position": None}, r"progress\.position is missing"),
        ("progress", {"best_loss": "low"}, "best_loss should be float, got 'low'"),
    ],
)
def test_fields_that_a_resume_does_not_know_or_lacks_are_one_error(
    train, tmp_path, part, changes, message
):
    train(**stop_at(3))
    change_state(find_checkpoint(tmp_path / "run"), part, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        train()
    assert "state.json" in caught.value.message
    assert "resume with the Puna that wrote it" in str(caught.value.hint)


def test_an_older_checkpoint_without_the_name_of_its_kernels_goes_on(train, tmp_path):
    train("whole")
    train(**stop_at(3))
    change_state(find_checkpoint(tmp_path / "run"), "provenance", kernels=None)
    train()
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")


def test_a_run_stopped_before_its_first_step_begins_again(train, tmp_path, monkeypatch):
    class Stopped(module.Interrupt):
        def __enter__(self):
            self.received = signal.SIGTERM
            return self

    train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(module, "Interrupt", Stopped)
        assert train().step == 0
    assert find_checkpoint(tmp_path / "run").name == "step-000000"
    train()
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")


# Weights from elsewhere


@pytest.fixture
def converted(train, tmp_path):
    """The run folder that a run's weights become by way of Hugging Face's form."""
    train("origin")
    for source, target in (("origin", "hf"), ("hf", "puna")):
        opened = open_model(tmp_path / source)
        destination = tmp_path / target
        convert(opened, destination, Conversion(target), silent(), load_tokenizer(opened))
    return tmp_path / "puna"


def test_training_goes_on_from_weights_of_elsewhere(train, tmp_path, tiny_shards, converted):
    shutil.copytree(converted, tmp_path / "whole")
    said = Console(stdout=io.StringIO(), stderr=io.StringIO())
    train("puna", console=said, **stop_at(5))
    assert "checkpoints/step-000000, AdamW begins anew" in said.stderr.getvalue()
    # What the other run left, on the first batch in the loader's order.
    model = Llama(run_config().model)
    load_weights(model, checkpoint.read_model(tmp_path / "origin").arrays, converted)
    batch = torch.from_numpy(TokenLoader(inputs(tiny_shards).train, CONTEXT, 1).sequences(0, 4))
    with torch.no_grad():
        logits = model(batch[:, :-1]).flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten()).item()
    assert losses(converted)[0] == pytest.approx(wanted, rel=1e-6)
    # From there on it is a run like any other, whose resume is exact.
    train("puna")
    train("whole")
    assert trace(converted) == trace(tmp_path / "whole")
    assert learnt(converted) == learnt(tmp_path / "whole")


def test_weights_of_elsewhere_may_be_trained_on_shorter_texts(train, converted):
    outcome = train("puna", model={"context_length": 16}, batch_tokens=128)
    assert (outcome.step, outcome.reason) == (12, "finished")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"rope_theta": 5e5}, r"with rope_theta 10000\.0, this recipe says 500000\.0"),
        ({"heads": 4}, "with heads 2, this recipe says 4"),
        ({"layers": 3}, r"layers\.2\..* should have shape .* found no such tensor"),
    ],
)
def test_weights_of_another_model_begin_no_run(train, converted, model, message):
    with pytest.raises(CheckpointError, match=message):
        train("puna", model=model)


def test_weights_of_elsewhere_want_the_tokenizer_that_came_with_them(train, tmp_path, converted):
    other = write_shards_folder(tmp_path / "other", seed=9)
    with pytest.raises(CheckpointError, match=r"go with tokenizer .* the shards with") as caught:
        train("puna", shards=other)
    own = converted / "checkpoints" / "step-000000" / "tokenizer.model"
    assert f"--tokenizer {own}" in str(caught.value.hint)


def test_too_little_text_for_one_window_is_refused(train):
    with pytest.raises(DataError, match="a window of context length 65,536 needs 65,537 tokens"):
        train(model={"context_length": 65536}, batch_tokens=65536)


def test_heldout_text_below_one_window_means_no_validation_and_is_said(train, tmp_path):
    said = io.StringIO()
    outcome = train(
        model={"context_length": 4096}, batch_tokens=4096, steps=3, console=Console(stderr=said)
    )
    assert outcome.reason == "finished"
    assert "warning: the held-out text has" in said.getvalue()
    assert read_metrics(tmp_path / "run" / "metrics.jsonl").validations == []
