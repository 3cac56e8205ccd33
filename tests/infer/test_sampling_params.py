"""The settings of a generation: bounds, immutability, and the way through `/set` and recipes."""

from __future__ import annotations

import numpy as np
import pytest

from puna import config
from puna.errors import ConfigError
from puna.infer.constraint import Constraint
from puna.infer.sampling_params import (
    LONGEST_STOP,
    MOST_BIASES,
    MOST_STOP_IDS,
    MOST_STOPS,
    SamplingParams,
)

EVERYTHING = SamplingParams(
    max_tokens=9,
    temperature=0.5,
    top_k=4,
    top_p=0.9,
    min_p=0.1,
    typical_p=0.95,
    repetition_penalty=1.1,
    presence_penalty=-0.5,
    frequency_penalty=2,
    logit_bias={13: -100.0, 7: 2.5},
    seed=0,
    stop=("END", "\n"),
    stop_ids=(2, 5),
    ignore_eos=True,
    n=3,
    logprobs=0,
    prompt_logprobs=20,
    draft_tokens=8,
    shortest_ngram=1,
    longest_ngram=8,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 2.0),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("temperature", None),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e9),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("seed", -1),
        ("seed", 2**63),
        ("n", 0),
        ("n", 129),
        ("logprobs", -1),
        ("logprobs", 21),
        ("prompt_logprobs", 21),
        ("draft_tokens", 33),
        ("longest_ngram", 9),
        ("shortest_ngram", 0),
        ("shortest_ngram", 5),
        ("ignore_eos", 1),
        ("stop", ("",)),
        ("stop", "text"),
        ("stop", (3,)),
        ("stop", ("x" * (LONGEST_STOP + 1),)),
        ("stop", ("x",) * (MOST_STOPS + 1)),
        ("stop_ids", [1]),
        ("stop_ids", (-1,)),
        ("stop_ids", (1,) * (MOST_STOP_IDS + 1)),
        ("logit_bias", [(1, 2.0)]),
        ("logit_bias", {-1: 2.0}),
        ("logit_bias", {"1": 2.0}),
        ("logit_bias", {1: 101}),
        ("logit_bias", {1: float("nan")}),
        ("logit_bias", dict.fromkeys(range(MOST_BIASES + 1), 0.0)),
    ],
)
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=f"^{name} should be .*, got "):
        SamplingParams(**{name: value})


def test_numbers_of_numpy_are_numbers():
    assert SamplingParams(temperature=np.float32(0.5), max_tokens=np.int64(3)).max_tokens == 3


def test_ids_that_a_model_lacks_are_refused():
    EVERYTHING.require_known_ids(14)
    with pytest.raises(ConfigError, match=r"logit_bias should be of token ids below 13.*, got 13"):
        EVERYTHING.require_known_ids(13)
    with pytest.raises(ConfigError, match=r"stop_ids should be .* got 9"):
        SamplingParams(stop_ids=(9,)).require_known_ids(9)


def test_settings_cannot_change_from_outside():
    bias = {1: 2.0}
    params = SamplingParams(logit_bias=bias)
    bias[1] = 3.0
    assert params.logit_bias == {1: 2.0}
    with pytest.raises(TypeError):
        params.logit_bias[1] = 3.0
    assert len({params, SamplingParams(logit_bias={1: 2.0})}) == 1


@pytest.mark.parametrize("params", [SamplingParams(), EVERYTHING])
def test_settings_survive_a_table_and_a_recipe(params, tmp_path):
    assert config.from_table(SamplingParams, config.to_table(params), "here") == params
    config.write(params, tmp_path / "sampling.toml")
    assert config.load(SamplingParams, tmp_path / "sampling.toml") == params


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({"x": 1.0}, "a key of logit_bias should be int, got 'x'"),
        ({"3": "much"}, "logit_bias.3 should be float, got 'much'"),
        (5, "logit_bias should be a table, got 5"),
    ],
)
def test_a_wrong_bias_in_a_table_is_explained(bias, message):
    with pytest.raises(ConfigError, match=message):
        config.from_table(SamplingParams, {"logit_bias": bias}, "/set")


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, False),
        ({"top_k": 3, "top_p": 0.5, "min_p": 0.1, "seed": 1, "stop": ("x",)}, False),
        ({"temperature": 0, "typical_p": 0.5}, False),
        ({"typical_p": 0.5}, True),
        ({"temperature": 0, "presence_penalty": 1}, True),
        ({"logit_bias": {1: 1}}, True),
        ({"temperature": 0, "logprobs": 0}, True),
        ({"constraint": Constraint("regex", "a+")}, True),
    ],
)
def test_only_what_changes_or_reports_logits_and_typical_need_them(settings, needed):
    assert SamplingParams(**settings).needs_logits is needed
