"""Recipes become frozen dataclasses, or one error that names the file, the key and the nearest."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna import config
from puna.errors import ConfigError, SchemaError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)
    fused: bool = True


@dataclass(frozen=True)
class Recipe:
    name: str
    steps: int = 100
    checkpointing: Literal["none", "selective", "full"] = "none"
    prompts: tuple[str, ...] = ()
    heldout: int | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")


def write_recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_sets_what_it_names_and_leaves_the_rest(tmp_path: Path):
    path = write_recipe(tmp_path, 'name = "demo"\n[optimizer]\nlearning_rate = 1\n')
    assert config.load(Recipe, path) == Recipe("demo", optimizer=Optimizer(learning_rate=1.0))


def test_set_overrides_the_recipe(tmp_path: Path):
    path = write_recipe(tmp_path, 'name = "demo"\nsteps = 5\n')
    overrides = [
        "steps=7",
        "name=another name",
        "optimizer.betas=[0.8, 0.9]",
        "optimizer.fused=false",
        "checkpointing=full",
        "heldout=3",
    ]
    assert config.load(Recipe, path, overrides) == Recipe(
        "another name", 7, "full", (), 3, Optimizer(1e-3, (0.8, 0.9), False)
    )


@given(
    st.builds(
        Recipe,
        name=st.text(st.characters(exclude_categories=["Cs"])),
        steps=st.integers(1, 2**62),
        checkpointing=st.sampled_from(["none", "selective", "full"]),
        prompts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
        heldout=st.none() | st.integers(-(2**62), 2**62),
        optimizer=st.builds(
            Optimizer,
            learning_rate=st.floats(allow_nan=False),
            betas=st.lists(st.floats(allow_nan=False)).map(tuple),
            fused=st.booleans(),
        ),
    )
)
def test_the_resolved_recipe_reads_back_equal(tmp_path_factory, recipe: Recipe):
    path = tmp_path_factory.mktemp("run") / "recipe.toml"
    config.write(recipe, path)
    assert config.load(Recipe, path) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "message", "hint"),
    [
        ('name = "a"\nstep = 5', [], "unknown key step", "did you mean steps"),
        ('name = "a"\n[optimizer]\nbeta = 5', [], "unknown key optimizer.beta", "betas"),
        ('name = "a"', ["optimizer.lr=5"], "unknown key optimizer.lr", "known: learning_rate"),
        ("steps = 5", [], "name is missing", None),
        ('name = "a"\nsteps = 5.5', [], "steps should be int, got 5.5", None),
        ('name = "a"\nsteps = true', [], "steps should be int, got True", None),
        ('name = "a"\nsteps = "5"', [], "steps should be int, got '5'", None),
        ('name = "a"\nsteps = 0', [], "steps must be at least 1, got 0", None),
        ('name = "a"\ncheckpointing = "ful"', [], "should be one of none, selective, full", "full"),
        ('name = "a"\noptimizer = 5', [], "optimizer should be a section, got 5", None),
        ('name = "a"', ["steps"], "--set wants name=value, got 'steps'", "--set train.steps=200"),
        ('name = "a"', ["=5"], "--set wants name=value, got '=5'", None),
        ('name = "a"', ["name.first=b"], "name is a value, not a section", None),
        ("name = ", [], "is not a readable TOML recipe", None),
    ],
)
def test_a_mistake_is_one_error_with_the_nearest_right_thing(
    text: str, overrides: list[str], message: str, hint: str | None, tmp_path: Path
):
    path = write_recipe(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        config.load(Recipe, path, overrides)
    assert hint is None or hint in str(raised.value.hint)


def test_a_missing_recipe_and_a_folder_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no recipe"):
        config.load(Recipe, tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="found a folder"):
        config.load(Recipe, tmp_path)


def test_a_recipe_of_a_newer_puna_is_refused(tmp_path: Path):
    path = write_recipe(tmp_path, 'schema = "puna.recipe"\nversion = 99\nname = "a"\n')
    with pytest.raises(SchemaError, match="version 99"):
        config.load(Recipe, path)


def test_a_recipe_that_comes_with_puna_is_found_from_any_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = sorted((ROOT / "recipes").glob("*.toml"))
    assert shipped
    for path in shipped:
        assert config.find_recipe(Path("recipes") / path.name) == path
        assert config.find_recipe(Path(path.name)) == path
    (tmp_path / "recipes").mkdir()
    mine = Path("recipes") / shipped[0].name
    mine.write_text("")
    assert config.find_recipe(mine) == mine
    assert config.find_recipe(Path("other") / shipped[0].name).parent == Path("other")


def test_none_is_left_out_and_tuples_become_lists():
    table = config.to_table(Recipe("a", prompts=("x",)))
    assert "heldout" not in table
    assert table["prompts"] == ["x"]
    assert table["optimizer"]["betas"] == [0.9, 0.95]
    assert dataclasses.is_dataclass(config.from_table(Recipe, table, "here"))


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        config.read_toml(tmp_path / "none.toml")
    assert "recipes/demo.toml" in str(caught.value.hint)
    assert "recipes/data/llama1.toml" in str(caught.value.hint)
