"""What a run can be told: values and combinations that cannot be are refused by name."""

from __future__ import annotations

import dataclasses

import pytest
from tiny_training import run_config

from puna.errors import ConfigError
from puna.model.sizes import ModelConfig
from puna.train.settings import OPERATIONAL, RunConfig, TrainConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_tokens", 0),
        ("validate_every", 0),
        ("validation_tokens", 0),
        ("sample_every", -1),
        ("sample_tokens", 0),
        ("checkpoint_every", 0),
        ("keep_last", 0),
        ("threads", 0),
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", 30.0),
        ("learning_rate", float("nan")),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("epsilon", 0.0),
        ("weight_decay", -0.1),
        ("gradient_clip", 0.0),
        ("final_learning_rate_fraction", 1.5),
        ("warmup_steps", 0),
        ("seed", -1),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"train\.{name} .*got {value}"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize(("steps", "wanted"), [(1, 1), (30, 1), (900, 45), (250_000, 2000)])
def test_the_warm_up_is_the_papers_or_a_twentieth_of_a_shorter_run(steps, wanted):
    settings = TrainConfig(steps=steps)
    assert settings.warmup_step_count == wanted
    run = RunConfig(train=TrainConfig(steps=steps, warmup_steps=wanted))
    assert RunConfig(train=settings).learnt() == run.learnt()


def test_a_warm_up_longer_than_the_run_gets_one_that_fits():
    with pytest.raises(ConfigError, match=r"from 1 to train\.steps 200, got 2000") as caught:
        TrainConfig(steps=200, warmup_steps=2000)
    assert caught.value.hint == "try --set train.warmup_steps=10"


def test_a_batch_is_whole_sequences():
    with pytest.raises(
        ConfigError, match=r"multiple of model\.context_length 32, got 100"
    ) as caught:
        run_config(batch_tokens=100)
    assert caught.value.hint == "try --set train.batch_tokens=96"
    with pytest.raises(ConfigError) as caught:
        run_config(batch_tokens=20)
    assert caught.value.hint == "try --set train.batch_tokens=32"


@pytest.mark.parametrize("micro", [0, -1, 3, 8])
def test_a_micro_batch_divides_the_batch(micro):
    with pytest.raises(ConfigError, match=f"divide the 4 sequences of a batch, got {micro}"):
        run_config(micro_batch_sequences=micro)


def test_sequences_of_a_step_follow_from_tokens():
    assert run_config().sequences == 4
    assert RunConfig(ModelConfig(context_length=256), TrainConfig()).sequences == 16


def test_what_only_watches_the_run_may_change_and_what_is_learnt_may_not():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(OPERATIONAL) <= names
    learnt = names - set(OPERATIONAL)
    assert learnt == {
        "steps", "batch_tokens", "seed", "learning_rate", "warmup_steps",
        "final_learning_rate_fraction", "beta1", "beta2", "epsilon", "weight_decay",
        "gradient_clip", "precision", "compile",
    }  # fmt: skip
    base = run_config()
    watched = run_config(
        threads=2, validate_every=3, keep_last=7, sample_prompt="Once", checkpoint_every=1,
        micro_batch_sequences=2, activation_checkpointing="full", device="auto",
    )  # fmt: skip
    assert watched.learnt() == base.learnt()
    assert run_config(seed=2).learnt() != base.learnt()
    assert run_config(model={"layers": 3}).learnt() != base.learnt()
