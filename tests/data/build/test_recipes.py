"""The recipes that come with Puna; the oracle of the shares is the paper's table 1."""

from pathlib import Path

import pytest

from puna.data.build.recipe import load, plan, together

FOLDER = Path(__file__).parents[3] / "recipes" / "data"
TABLE_1 = {
    "commoncrawl": 67.0,
    "c4": 15.0,
    "github": 4.5,
    "wikipedia": 4.5,
    "books": 4.5,
    "arxiv": 2.5,
    "stackexchange": 2.0,
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_word_of_a_recipe_has_a_meaning(path: Path):
    recipe = load(path)
    assert [one.name for one in plan(recipe)] == list(recipe.sources)
    assert len(together(recipe)) == len(recipe.together)


def test_llama_1_s_shares_are_the_paper_s():
    recipe = load(FOLDER / "llama1.toml")
    assert recipe.tokens == 1.4e12
    assert {name: source.share for name, source in recipe.sources.items()} == TABLE_1


def test_a_recipe_is_found_from_any_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(Path("recipes/data/own.toml")).heldout_every == 100
    assert load(Path("data/own.toml")) == load(FOLDER / "own.toml")
