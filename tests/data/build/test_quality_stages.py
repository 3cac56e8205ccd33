"""The stages of quality as a recipe names them."""

import pytest

from puna.data.build.stages import sees_all, stage


@pytest.mark.parametrize("name", ["classifier", "decontaminate", "perplexity", "scrub"])
def test_a_recipe_finds_the_stage(name: str):
    found = stage(name, {}, "settings")
    assert (found.name, sees_all(found)) == (name, name == "decontaminate")
