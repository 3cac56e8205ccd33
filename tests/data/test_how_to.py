"""What the how-tos of the sources tell a user to type is what the commands take."""

import argparse
import shlex
import tomllib
from pathlib import Path

import pytest

from puna.commands import data_fetch
from puna.console import silent
from puna.data.build import recipe as recipes
from puna.errors import UsageError

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "how-to").glob("get-*.md"))


def blocks(language: str) -> list[tuple[str, str]]:
    """Each fenced block of a language, with its page's name."""
    found = []
    for page in PAGES:
        parts = page.read_text("utf-8").split("```")
        found += [(page.stem, part) for part in parts[1::2] if part.startswith(f"{language}\n")]
    return [(name, part.partition("\n")[2]) for name, part in found]


RECIPES = blocks("toml")
FETCHES = [
    line
    for _, block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("puna data fetch")
]


def test_every_source_has_its_page_with_a_recipe_and_the_law():
    described = {name for _, text in RECIPES for name in tomllib.loads(text)["sources"]}
    assert {
        "arxiv",
        "books",
        "c4",
        "commoncrawl",
        "github",
        "stackexchange",
        "wikipedia",
    } < described
    pages = {name for name, _ in RECIPES}
    assert len(pages) == 8
    for page in PAGES:
        if page.stem in pages:
            assert "\n## The law\n" in page.read_text("utf-8")


@pytest.mark.parametrize(("name", "text"), RECIPES)
def test_a_how_to_s_recipe_is_one(name: str, text: str, tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    assert recipes.plan(recipes.load(path))


@pytest.mark.parametrize("line", FETCHES)
def test_a_how_to_s_fetch_is_one(line: str, monkeypatch):
    asked = []
    monkeypatch.setattr(data_fetch, "_fetch", lambda *given: asked.append(given))
    parser = argparse.ArgumentParser()
    data_fetch.configure(parser)
    arguments = parser.parse_args(shlex.split(line, comments=True)[3:])
    data_fetch.run(arguments, silent())
    assert len(asked) == 1


def test_a_fetch_that_no_how_to_should_have_is_seen():
    parser = argparse.ArgumentParser()
    data_fetch.configure(parser)
    with pytest.raises(UsageError):
        data_fetch.run(parser.parse_args(["c4", "--date", "20220601", "--out", "x"]), silent())
