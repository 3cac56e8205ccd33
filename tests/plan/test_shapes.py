"""Which model is meant: names, published counts, folders, shapes of any size."""

from __future__ import annotations

import json

import pytest

from puna.errors import CheckpointError, ConfigError
from puna.model import count
from puna.model.sizes import named
from puna.plan import shapes
from puna.weights.huggingface_config import config_json

# Exact counts: Meta's and others' published totals.
COUNTS = {
    "SmolLM2-135M": 134_515_008,
    "TinyLlama-1.1B": 1_100_048_384,
    "Llama2-7B": 6_738_415_616,
    "Llama2-13B": 13_015_864_320,
    "Llama2-70B": 68_976_648_192,
    "Llama3-8B": 8_030_261_248,
    "Llama3-70B": 70_553_706_496,
    "Llama3.1-405B": 405_853_388_800,
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_shapes_have_the_published_counts(name):
    assert count.parameters(shapes.PUBLISHED[name]) == COUNTS[name]
    assert shapes.model(name.lower()) == shapes.PUBLISHED[name]


def test_sizes_go_by_the_names_that_puna_knows():
    assert shapes.model("7b") == named("7B")
    assert shapes.model("LLaMA-65B") == named("65B")
    assert shapes.model("llama-2-70b") == shapes.PUBLISHED["Llama2-70B"]


def test_a_models_folder_is_read_for_its_shape(tiny_run):
    assert shapes.model(str(tiny_run)).layers == 2


def test_a_recipe_a_description_or_any_count_is_enough(tmp_path):
    assert (shapes.model("demo.toml").dim, shapes.model("demo.toml").vocabulary_size) == (256, 4096)
    assert count.parameters(shapes.model("3B")) == pytest.approx(3e9, rel=0.05)
    config = shapes.PUBLISHED["Llama3-8B"]
    (tmp_path / "config.json").write_text(json.dumps(config_json(config, "BF16", None)))
    for there in (tmp_path, tmp_path / "config.json"):  # no weights beside it
        assert count.parameters(shapes.model(str(there))) == COUNTS["Llama3-8B"]
    with pytest.raises(ConfigError, match="a ladder of many models"):
        shapes.model("ladder.toml")
    (tmp_path / "none.toml").write_text("[train]\n")
    with pytest.raises(ConfigError, match=r"a recipe with a \[model\]"):
        shapes.model(str(tmp_path / "none.toml"))


def test_what_is_nothing_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="'7C'") as caught:
        shapes.model("7C")
    assert "7B" in str(caught.value.hint)
    with pytest.raises(CheckpointError):  # a folder without a model says what it lacks
        shapes.model(str(tmp_path))


@pytest.mark.parametrize("parameters", [15e6, 1e8, 3e8, 1e9, 3e9, 7e9, 2e10, 7e10, 4e11, 2e12])
def test_a_shape_of_any_size_is_near_its_count_and_looks_like_the_papers(parameters):
    config = shapes.shape_of(parameters)
    assert count.parameters(config) == pytest.approx(parameters, rel=0.05)
    assert 50 < config.dim / config.layers < 200
    assert config.head_dim in (64, 128)


def test_more_parameters_are_never_a_smaller_shape():
    counts = [count.parameters(shapes.shape_of(2e7 * 1.1**power)) for power in range(100)]
    assert counts == sorted(counts)


def test_no_llama_is_smaller_than_a_million():
    with pytest.raises(ConfigError, match="at least 1M"):
        shapes.shape_of(1e5)


@pytest.mark.parametrize("parameters", [3e8, 1e9, 7e9, 7e10, 4e11])
def test_heads_share_keys_and_values_in_groups_of_about_that_many(parameters):
    config = shapes.shape_of(parameters, group=8)
    assert count.parameters(config) == pytest.approx(parameters, rel=0.05)
    assert 4 <= config.heads // config.kv_head_count <= 8
    assert shapes.shape_words(config).endswith("heads a key")
    assert shapes.shape_words(shapes.model("llama3-8b")) == "32 layers of 4096, 4 heads a key"
    assert shapes.shape_words(named("7B")) == "32 layers of 4096"
