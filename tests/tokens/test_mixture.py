"""Sources mixed by shares; the oracles are the paper's table 1 and counting by position."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna import schema
from puna.errors import DataError
from puna.tokens.loader import TokenLoader, rank_slice
from puna.tokens.mixture import KIND, Mixture, MixtureLoader, epochs, loader_of
from puna.tokens.shards import ShardSet

# Paper, table 1: share in percent, epochs; and what both imply for 1.4e12 tokens, in 1e9.
TABLE_1 = {
    "commoncrawl": (67.0, 1.10, 853),
    "c4": (15.0, 1.06, 198),
    "github": (4.5, 0.64, 98),
    "wikipedia": (4.5, 2.45, 25.7),
    "books": (4.5, 2.23, 28.3),
    "arxiv": (2.5, 1.06, 33.0),
    "stackexchange": (2.0, 1.03, 27.2),
}
CONTEXT = 4


@dataclass
class Places:
    """A source in which every token is its own position above `first`."""

    tokens: int
    first: int
    folder: Path = Path("places")

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        return self.first + (starts[:, None] + np.arange(length)) % self.tokens


def mixture(shares: list[float], tokens: list[int]) -> Mixture:
    names = [f"source-{number}" for number in range(len(shares))]
    sources = [Places(size, 1_000_000 * number) for number, size in enumerate(tokens)]
    total = sum(shares)
    return Mixture(
        Path("mixed"),
        cast(Any, dict(zip(names, sources, strict=True))),
        {name: share / total for name, share in zip(names, shares, strict=True)},
    )


def test_epochs_follow_from_shares_as_in_table_1():
    shares = {name: share for name, (share, _, _) in TABLE_1.items()}
    unique = {name: int(billions * 1e9) for name, (_, _, billions) in TABLE_1.items()}
    read = epochs(shares, unique, 1.4e12)
    for name, (_, published, _) in TABLE_1.items():
        assert read[name] == pytest.approx(published, abs=0.005), name
    assert sum(read[name] * unique[name] for name in read) == pytest.approx(1.4e12)


def test_every_stretch_of_table_1_s_mixture_has_its_shares():
    shares = [share for share, _, _ in TABLE_1.values()]
    loader = MixtureLoader(mixture(shares, [1000] * len(shares)), CONTEXT, seed=0)
    for first in (0, 12_345, 7_000_000_000):
        found = Counter(loader.source_of(np.arange(first, first + 10_000)))
        for number, share in enumerate(shares):
            assert abs(found[f"source-{number}"] - share * 100) <= 8


@given(
    shares=st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    first=st.integers(0, 300),
    count=st.integers(1, 200),
)
def test_each_source_is_read_in_its_own_loader_s_order(shares, first, count):
    mixed = mixture(shares, [40 + 7 * number for number in range(len(shares))])
    loader = MixtureLoader(mixed, CONTEXT, seed=3)
    names = loader.source_of(np.arange(first + count))
    found = loader.sequences(first, count)
    for name, shards in mixed.sources.items():
        of_source = [position for position, one in enumerate(names) if one == name]
        alone = TokenLoader(shards, CONTEXT, seed=3).sequences(0, len(of_source))
        rows = [(position, row) for row, position in enumerate(of_source) if position >= first]
        for position, row in rows:
            assert found[position - first].tolist() == alone[row].tolist()


def test_a_run_goes_on_from_any_position_on_any_number_of_processes():
    loader = MixtureLoader(mixture([3, 1, 0.2], [50, 60, 70]), CONTEXT, seed=1)
    whole = loader.sequences(0, 90)
    assert np.array_equal(whole[37:], loader.sequences(37, 53))
    for world in (2, 3):
        for rank in range(world):
            taken = rank_slice(30, 60, rank, world)
            assert np.array_equal(loader.sequences_at(taken), whole[taken])
    assert loader.sequences_at(np.arange(0)).shape == (0, CONTEXT + 1)
    with pytest.raises(ValueError, match="start at 0"):
        loader.sequences_at(np.array([-1]))


def test_no_window_comes_twice_within_windows_per_epoch():
    loader = MixtureLoader(mixture([2, 1], [400, 400]), CONTEXT, seed=1)
    assert 148 <= loader.windows_per_epoch <= 150
    beginnings = loader.sequences(0, loader.windows_per_epoch - 2)[:, 0].tolist()
    assert len(set(beginnings)) == len(beginnings)


def test_a_mixture_on_disk_names_its_shards(tiny_shards: Path, tmp_path: Path):
    train, heldout = (ShardSet.open(tiny_shards / name) for name in ("train", "heldout"))
    record = {
        "sources": {
            "a": {"share": 3, "folder": str(train.folder), "fingerprint": train.fingerprint},
            "b": {"share": 1, "folder": str(heldout.folder), "fingerprint": heldout.fingerprint},
        },
        "heldout": None,
    }
    schema.write_json(tmp_path / "mixture.json", KIND, record)
    mixed = Mixture.open(tmp_path, verify=True)
    assert mixed.shares == {"a": 0.75, "b": 0.25}
    assert mixed.tokens == train.tokens + heldout.tokens
    assert loader_of(mixed, 8, 0).sequences(0, 5).shape == (5, 9)
    assert mixed.epochs(4 * train.tokens)["a"] == 3
    record["sources"]["a"]["fingerprint"] = "other"
    schema.write_json(tmp_path / "mixture.json", KIND, record)
    with pytest.raises(DataError, match="holds other shards"):
        Mixture.open(tmp_path)
    (tmp_path / "mixture.json").write_text(json.dumps(schema.stamp(KIND)))
    with pytest.raises(DataError, match="damaged: KeyError"):
        Mixture.open(tmp_path)
