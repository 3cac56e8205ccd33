"""Near duplicates; oracles: Jaccard by sets, the formula of the bands, a plain search of graphs."""

import random
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_rounds import duplicates_told, run_rounds

from puna.data import files
from puna.data.build.stages import Context
from puna.data.build.task import Task, run_task
from puna.data.dedup import components, fuzzy
from puna.data.dedup.minhash import band_keys, grams, jaccard, signature, similarity
from puna.errors import ConfigError, DataError

WORDS = [f"word{number}" for number in range(5000)]


def a_text(seed: int, length: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def replaced(text: str, share: float, seed: int) -> str:
    drawn = random.Random(seed)
    return " ".join("new" if drawn.random() < share else word for word in text.split())


def pair_of_sets(share: float, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of random numbers whose Jaccard similarity is `share`."""
    drawn = np.random.default_rng(seed).integers(0, 2**63, 2 * size, dtype=np.uint64)
    shared = round(size * share)
    rest = (size - shared) // 2
    common = drawn[:shared]
    return np.r_[common, drawn[size : size + rest]], np.r_[common, drawn[-rest:]]


@pytest.mark.parametrize("unit", ["words", "characters"])
@given(one=st.text("ab c", max_size=30), other=st.text("ab c", max_size=30))
def test_jaccard_of_numbers_is_that_of_n_grams(unit, one, other):
    def plain(text: str) -> set[object]:
        units = text.split() if unit == "words" else list(" ".join(text.split()))
        runs = {tuple(units[at : at + 3]) for at in range(max(len(units) - 2, 1))}
        return runs - {()}

    first, second = plain(one), plain(other)
    expected = len(first & second) / max(len(first | second), 1)
    assert jaccard(grams(one, unit, 3), grams(other, unit, 3)) == expected


def test_case_and_punctuation_do_not_count_and_long_texts_are_cut_between_words(monkeypatch):
    assert (grams("One, two: THREE four five!") == grams("one two three four five")).all()
    assert len(grams("... !")) == 0
    text = a_text(1)
    whole = grams(text)
    monkeypatch.setattr("puna.data.words._PIECE", 50)
    assert (grams(text) == whole).all()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_signatures_estimate_jaccard_and_bands_find_pairs_as_the_formula_says(share):
    count = 400
    pairs = [pair_of_sets(share, 300, seed) for seed in range(count)]
    one = np.array([signature(first) for first, _ in pairs])
    other = np.array([signature(second) for _, second in pairs])
    errors = similarity(one, other) - np.array([jaccard(*pair) for pair in pairs])
    deviation = (share * (1 - share) / 128) ** 0.5
    assert abs(errors.mean()) < 4 * deviation / count**0.5
    assert 0.85 * deviation < errors.std() < 1.15 * deviation
    found = (band_keys(one, 16) == band_keys(other, 16)).any(axis=1).mean()
    expected = 1 - (1 - share**8) ** 16
    assert abs(found - expected) < 4 * (expected * (1 - expected) / count) ** 0.5 + 0.005


def first_of_each(edges: list[tuple[int, int]]) -> dict[int, int]:
    """The smallest node of each node's component, by a plain search."""
    near: dict[int, list[int]] = defaultdict(list)
    for one, other in edges:
        near[one].append(other)
        near[other].append(one)
    first: dict[int, int] = {}
    for start in sorted(near):
        waiting = [] if start in first else [start]
        while waiting:
            node = waiting.pop()
            if node not in first:
                first[node] = start
                waiting += near[node]
    return {node: start for node, start in first.items() if node != start}


def stars_of(edges: list[tuple[int, int]], parts: int, folder: Path) -> tuple[dict[int, int], int]:
    """What the rounds find, and how many rounds they were."""
    pairs = [(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]]
    name = str(folder / "edges.bin")
    with files.write_whole(name) as output:
        rows = np.array(pairs, components.EDGE)
        components.write_edges(output, rows, parts, is_for_large=True)
    rounds = components.stars(files.find(name), parts, Context(str(folder), "stage", 0))
    answer, turns = None, 0
    while True:
        try:
            tasks = next(rounds) if answer is None else rounds.send(answer)
        except StopIteration:
            break
        for task in tasks:
            run_task(task)
        answer, turns = [files.find(task.output)[0] for task in tasks], turns + 1
    found = [
        tuple(row)
        for file in answer
        for part in range(parts)
        for row in components.read_slice(file.path, part, parts, components.EDGE).tolist()
    ]
    assert len(found) == len(dict(found))
    return dict(found), turns


nodes = st.integers(0, 25)


@settings(max_examples=60, deadline=None)
@given(edges=st.lists(st.tuples(nodes, nodes), max_size=40), parts=st.sampled_from([1, 3]))
def test_components_are_those_of_a_plain_search(tmp_path_factory, edges, parts):
    found, _ = stars_of(edges, parts, tmp_path_factory.mktemp("stars"))
    assert found == first_of_each([edge for edge in edges if edge[0] != edge[1]])


def test_a_long_chain_needs_few_rounds(tmp_path: Path):
    order = random.Random(0).sample(range(2000), 2000)
    chain = list(pairwise(order))
    found, turns = stars_of(chain, 3, tmp_path)
    assert found == dict.fromkeys(range(1, 2000), 0)
    assert turns < 24


def test_of_texts_that_are_alike_the_first_stays(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fuzzy, "_PART_BYTES", 1000)
    base = [a_text(seed) for seed in range(8)]
    texts = [
        [*base[:4], "", "..."],
        [replaced(base[2], 0.01, 1), base[4], ""],
        [],
        [base[5], replaced(base[2], 0.01, 2), replaced(base[4], 0.01, 3), base[6], "..."],
    ]
    left = run_rounds(fuzzy, texts, tmp_path, fuzzy.Settings())
    ids = [[one.id for one in of_file] for of_file in left]
    assert ids == [[f"0.{at}" for at in range(6)], ["1.1", "1.2"], [], ["3.0", "3.3", "3.4"]]
    assert duplicates_told(tmp_path) == {"1.0": "0.2", "3.1": "0.2", "3.2": "1.1"}


def test_signatures_confirm_what_bands_suppose(tmp_path: Path):
    base = a_text(3)
    texts = [[base, replaced(base, 0.15, 4)]]
    for min_similarity, count in ((0.0, 1), (0.7, 2)):
        rules = fuzzy.Settings(bands=64, min_similarity=min_similarity)
        folder = tmp_path / str(count)
        folder.mkdir()
        assert len(run_rounds(fuzzy, texts, folder, rules)[0]) == count


def test_signatures_of_another_kind_are_refused(tmp_path: Path):
    (tmp_path / "other.bin").write_bytes(b"another kind of file")
    task = Task("puna.data.dedup.fuzzy:pair", (str(tmp_path / "other.bin"),), None, "")
    with pytest.raises(DataError, match=r"other\.bin holds no MinHash signatures"):
        fuzzy._bytes_before_keys(task.inputs[0])


@pytest.mark.parametrize(
    "wrong", [{"bands": 7}, {"length": 0}, {"unit": "lines"}, {"min_similarity": 2.0}]
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        fuzzy.Settings(**wrong)
