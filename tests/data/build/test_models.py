"""Benchmarks that a build compiles, what stages count, and circles of models."""

import json

import pytest

from puna.console import silent
from puna.data.build import recipe as recipes
from puna.data.build.executor import Here
from puna.data.build.run import build
from puna.data.build.work import Options
from puna.data.document import read_documents
from puna.data.report import gather, render
from puna.errors import ConfigError


def run(recipe, out, *settings: str) -> dict:
    return build(recipes.load(recipe, settings), Options(str(out)), Here(), silent())


@pytest.mark.parametrize("where", ["stages", "together"])
def test_benchmarks_are_compiled_and_what_they_share_with_text_is_counted(
    recipe, tree, tmp_path, where
):
    asked = tmp_path / "asked.jsonl"
    texts = [one.text for one in read_documents(tree / "lines" / "0.jsonl.zst")]
    whole = next(text for text in texts if len(text.split()) > 40)
    words = " ".join(whole.split()[:14])
    asked.write_text(json.dumps({"question": words}) + "\n")
    sets = f'settings.decontaminate.sets={{quiz=["{asked}"], other=["{asked}"]}}'
    record = run(recipe, tmp_path / "out", f'{where}=["decontaminate"]', sets)
    stages = record["sources"]["lines"]["stages"]
    (stage,) = (one for one in stages if one["stage"].startswith("decontaminate"))
    counts = {f"{name}: {what}": n for name in ("quiz", "other") for what, n in FOUND}
    assert stage["counts"] == counts
    folders = list((tmp_path / "out" / "work").glob("*/model-decontaminate-*"))
    assert len(folders) == 1
    asked.write_text(json.dumps({"question": words + " and more"}) + "\n")
    run(recipe, tmp_path / "out", f'{where}=["decontaminate"]', sets)
    assert len(list((tmp_path / "out" / "work").glob("*/model-decontaminate-*"))) == 2


FOUND = (("documents", 1), ("sequences", 2))


def test_what_is_masked_is_counted_by_kind_and_on_the_page(recipe, tree, tmp_path):
    (tree / "notes" / "mail.txt").write_text("a@puna.org b@puna.org 81.2.69.142")
    (tree / "notes" / "many.txt").write_text(" ".join(f"a{n}@puna.org" for n in range(6)))
    record = run(recipe, tmp_path / "out", 'sources.notes.stages=["scrub"]')
    stage = record["sources"]["notes"]["stages"][-1]
    assert stage["counts"] == {"EMAIL_ADDRESS": 2, "IP_ADDRESS": 1}
    assert stage["dropped"]["personal data"]["documents"] == 1
    facts = gather(str(tmp_path / "out"))
    assert facts.sources[1].steps[-1].counts == stage["counts"]
    assert "EMAIL_ADDRESS" in render(facts)


def test_models_of_each_other_are_refused_before_anything_is_read(recipe, tmp_path):
    settings = ['stages=["perplexity"]', 'settings.perplexity.train=["notes"]']
    settings += ['sources.notes.stages=["perplexity"]']
    settings += ['sources.notes.settings.perplexity.train=["lines"]']
    with pytest.raises(ConfigError, match="models of lines and notes are made in a circle"):
        run(recipe, tmp_path / "out", *settings)
    assert not (tmp_path / "out").exists()
