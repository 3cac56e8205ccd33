"""Near duplicates in a whole build; the oracle is Jaccard's similarity, by plain sets of words."""

import random
from pathlib import Path

import pytest

from puna.console import silent
from puna.data.build.executor import Here
from puna.data.build.recipe import DataRecipe, SourceRecipe, TokenizerChoice
from puna.data.build.run import build
from puna.data.build.work import Options
from puna.data.document import Document, write_documents

WORDS = [f"word{number}" for number in range(5000)]


def runs(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(words, words[1:], words[2:], strict=False))


def like(text: str, replaced: int, seed: int) -> str:
    """The text with so many words of its 200 replaced, far from one another."""
    words = text.split()
    for place in random.Random(seed).sample(range(0, 200, 5), replaced):
        words[place] = f"other{place}"
    return " ".join(words)


@pytest.mark.parametrize(("min_similarity", "expected"), [(0.7, {2}), (0.0, {2, 20})])
def test_pairs_that_share_a_band_are_verified_where_the_recipe_says(
    tmp_path: Path, tokenizer_path: Path, min_similarity, expected
):
    texts, similarities = {}, {}
    for number in range(20):
        base = " ".join(random.Random(number).choices(WORDS, k=200))
        texts[f"{number} 0"] = base
        for replaced in (2, 20):
            texts[f"{number} {replaced}"] = one = like(base, replaced, number)
            shared = len(runs(base) & runs(one)) / len(runs(base) | runs(one))
            similarities.setdefault(replaced, []).append(shared)
    assert min(similarities[2]) > 0.9
    assert max(similarities[20]) < 0.55
    inputs, names = tmp_path / "texts", {}
    for number, some in enumerate((list(texts)[:30], list(texts)[30:])):
        written = [Document(texts[name], "own", "CC0", name) for name in some]
        write_documents(inputs / f"{number}.jsonl.zst", written)
        names |= {f"{number}.jsonl.zst#{line}": name for line, name in enumerate(some, start=1)}
    recipe = DataRecipe(
        {"own": SourceRecipe((str(inputs),))},
        stages=("fuzzy",),
        settings={"fuzzy": {"min_similarity": min_similarity, "bands": 64}},
        tokenizer=TokenizerChoice(str(tokenizer_path)),
        task_bytes=1,
    )
    record = build(recipe, Options(str(tmp_path / "out")), Here(), silent())
    stage = record["sources"]["own"]["stages"][-1]
    assert stage["documents"] == 60 - 20 * len(expected)
    for example in stage["examples"]["near duplicate"]:
        number, replaced = names[example["id"]].split()
        assert int(replaced) in expected
        assert names[example["detail"]] == f"{number} 0"
