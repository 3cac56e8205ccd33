"""Recipes: what comes with Puna is valid, and a wrong word is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_training import recipe_text, run_config

from puna import config as recipes
from puna.data.build import recipe as data_recipes
from puna.errors import ConfigError
from puna.model import count
from puna.workflows.ladder import load_ladder
from puna.workflows.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(RECIPES.rglob("*.toml"))
LOADERS = {"data": data_recipes.load, "ladder.toml": load_ladder, "demo.toml": load_recipe}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_recipe_that_comes_with_puna_is_valid(path):
    folder = path.parent.name
    LOADERS[folder if folder in LOADERS else path.name](path)


def test_the_demo_is_what_is_promised_of_it():
    """Held out: index % 20 == 10. 4,096 pieces; batches in tokens; a tenth of the rate at last."""
    recipe = load_recipe(Path("recipes/demo.toml"))
    assert (recipe.corpus.heldout_every, recipe.corpus.heldout_offset) == (20, 10)
    assert recipe.tokenizer.vocabulary_size == 4096
    assert 5e6 < count.parameters(recipe.model) < 10e6
    assert recipe.train.final_learning_rate_fraction == 0.1


def test_an_empty_recipe_has_a_default_for_everything(tmp_path):
    path = tmp_path / "empty.toml"
    path.write_text("")
    assert load_recipe(path) == Recipe()


def test_a_recipe_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("demo.toml")) == load_recipe(RECIPES / "demo.toml")
    (tmp_path / "demo.toml").write_text("train.steps = 7\n")
    assert load_recipe(Path("demo.toml")).train.steps == 7


def test_overrides_change_single_values(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text())
    recipe = load_recipe(
        path,
        [
            "train.steps=99",
            "train.sample_prompt=Once upon a time",
            'train.device="cpu"',
            "model.kv_heads=1",
            "model.tied_embeddings=true",
            "train.learning_rate=1",
            "corpus.heldout_every=7",
            "corpus.heldout_offset=0",
        ],
    )
    assert (recipe.train.steps, recipe.train.sample_prompt) == (99, "Once upon a time")
    assert (recipe.model.kv_heads, recipe.model.tied_embeddings) == (1, True)
    assert recipe.train.learning_rate == 1.0
    assert recipe.corpus.heldout_every == 7
    rope = load_recipe(
        path, ["model.rope_scaling.kind=linear", "model.rope_scaling.factor=2"]
    ).model.rope_scaling
    assert (rope.kind, rope.factor) == ("linear", 2.0)


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("train.step=5", "unknown key train.step", "steps"),
        ("trian.steps=5", "unknown key trian", "train"),
        ("steps=5", "unknown key steps", "did you mean train.steps?"),
        ("vocabulary_size=5", "unknown key vocabulary_size", "tokenizer.vocabulary_size or model"),
        ("model.size=5", "unknown key model.size", None),
        ("train.steps=many", "train.steps should be int, got 'many'", None),
        ("train.steps=5.5", "train.steps should be int, got 5.5", None),
        ("train.device=tpu", "train.device should be one of auto, cpu, cuda, mps", None),
        ("train.activation_checkpointing=some", "should be one of none", None),
        ("train.steps", "wants name=value", "--set train.steps=200"),
        ("train=5", "train should be a section", None),
        ("train.steps.more=5", "steps is a value, not a section", None),
        ("model.dim=30", "heads times an even head size", "64 * heads"),
        ("model.heads=3", "heads times an even head size", None),
        ("train.batch_tokens=100", "multiple of model.context_length", "train.batch_tokens=96"),
        ("train.warmup_steps=13", "from 1 to train.steps 12, got 13", "warmup_steps=1"),
        ("train.micro_batch_sequences=3", "must divide the 4 sequences", None),
        ("tokenizer.vocabulary_size=100", "at least 260", None),
        ("corpus.heldout_offset=20", "from 0 to heldout_every - 1", None),
        ("shards.shard_bytes=1", "at least 4", None),
        ("model.rope_scaling.kind=linear", "model.rope_scaling.factor is missing", None),
    ],
)
def test_mistakes_are_refused_by_name_with_what_is_nearest(tmp_path, override, message, hint):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text())
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, [override])
    assert message in caught.value.message
    if hint:
        assert hint in str(caught.value.hint)


def test_a_missing_recipe_and_one_that_is_no_toml_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no recipe .*mine\.toml"):
        load_recipe(tmp_path / "mine.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("steps = = 5")
    with pytest.raises(ConfigError, match=r"bad\.toml is not a readable TOML recipe"):
        load_recipe(bad)


def test_what_a_run_wrote_is_a_recipe_again(tmp_path):
    config = run_config(model={"vocabulary_size": 777, "kv_heads": 1})
    recipes.write(config, tmp_path / "recipe.toml")
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert (recipe.model, recipe.train) == (config.model, config.train)
    whole = Recipe(model=config.model, train=config.train)
    recipes.write(whole, tmp_path / "whole.toml")
    assert load_recipe(tmp_path / "whole.toml") == whole
