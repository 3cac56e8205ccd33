"""One global order: whole epochs, any number of ranks, resumable anywhere."""

import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_texts import documents

from puna.console import silent
from puna.errors import ConfigError, DataError
from puna.tokens.loader import TokenLoader, rank_slice
from puna.tokens.shards import ShardsConfig, ShardSet, write_shards


@dataclass
class Places:
    """A corpus in which every token is its own position."""

    tokens: int
    folder: Path = Path("places")

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        return (starts[:, None] + np.arange(length)) % self.tokens


def loader_of_places(tokens: int, context_length: int, seed: int = 0) -> TokenLoader:
    return TokenLoader(cast(Any, Places(tokens)), context_length, seed)


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory) -> ShardSet:
    out = tmp_path_factory.mktemp("loader") / "shards"
    return write_shards(documents(120), tokenizer, out, ShardsConfig(2000), silent())


@given(
    context_length=st.integers(1, 40),
    extra=st.integers(1, 300),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_each_token_as_a_target_once(context_length, extra, seed, epoch):
    tokens = context_length + extra
    loader = loader_of_places(tokens, context_length, seed)
    windows = loader.windows_per_epoch
    assert windows == tokens // context_length
    targets = loader.sequences(epoch * windows, windows)[:, 1:]
    counts = np.bincount(targets.ravel(), minlength=tokens)
    assert counts.max() == 1
    assert (counts == 0).sum() == tokens % context_length


def test_what_an_epoch_leaves_out_differs_between_epochs():
    loader = loader_of_places(1000, 300)
    left_out = [
        set(range(1000)) - set(loader.sequences(epoch * 3, 3)[:, 1:].ravel().tolist())
        for epoch in range(6)
    ]
    assert all(len(tokens) == 100 for tokens in left_out)
    assert len({min(tokens) for tokens in left_out}) > 3


def test_a_sequence_is_a_stretch_of_the_corpus(shards):
    loader = TokenLoader(shards, 32, seed=0)
    whole = shards.read(0, shards.tokens).tolist()
    circle = str([*whole, *whole[:32]])[1:-1]
    batch = loader.sequences(0, 50)
    assert batch.dtype == np.int64
    assert batch.shape == (50, 33)
    for row in batch.tolist():
        assert str(row)[1:-1] in circle


def test_the_order_changes_with_the_epoch_and_with_the_seed():
    first = loader_of_places(10_000, 10, seed=0)
    other = loader_of_places(10_000, 10, seed=1)
    orders = [first.sequences(0, 1000), first.sequences(1000, 1000), other.sequences(0, 1000)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(orders[i], orders[j])
        assert (orders[i][:, 0] == orders[j][:, 0]).mean() < 0.01


def test_the_order_is_frozen():
    """A change here would change the data order of every run: resumed ones would repeat text."""
    loader = loader_of_places(1_000_003, 256, seed=42)
    assert loader.windows_per_epoch == 3906
    assert loader.sequences(0, 6)[:, 0].tolist() == [41084, 758908, 424572, 761724, 341884, 680316]
    assert loader.sequences(3906 * 5 - 3, 6)[:, 0].tolist() == [
        27957,
        312629,
        549685,
        287251,
        570198,
        498006,
    ]


@given(data=st.data())
def test_ranks_together_take_what_one_would(shards, data):
    loader = TokenLoader(shards, 16, seed=3)
    position = data.draw(st.integers(0, 3 * loader.windows_per_epoch))
    count = data.draw(st.integers(1, 48))
    whole = loader.sequences(position, count)
    for world in (1, 2, 3, 4):
        taken = np.full_like(whole, -1)
        for rank in range(world):
            taken[rank::world] = loader.sequences_at(rank_slice(position, count, rank, world))
        assert np.array_equal(taken, whole)


def test_a_resumed_run_on_other_ranks_sees_what_an_uninterrupted_one_sees(shards):
    batch, steps = 12, 40
    uninterrupted = TokenLoader(shards, 16, seed=9).sequences(0, batch * steps)
    seen = []
    for start, end, world in ((0, 13, 4), (13, 14, 1), (14, 31, 3), (31, steps, 2)):
        loader = TokenLoader(ShardSet.open(shards.folder), 16, seed=9)
        for step in range(start, end):
            rows = np.empty((batch, 17), np.int64)
            for rank in range(world):
                mine = rank_slice(step * batch, batch, rank, world)
                rows[rank::world] = loader.sequences_at(mine)
            seen.append(rows)
    assert np.array_equal(np.concatenate(seen), uninterrupted)


def test_one_call_may_cross_several_epochs():
    loader = loader_of_places(100, 30)
    whole = loader.sequences(0, 20)
    assert np.array_equal(whole, np.concatenate([loader.sequences(i, 1) for i in range(20)]))


def test_the_layout_on_disk_does_not_change_the_order(shards, tokenizer, tmp_path):
    one = write_shards(documents(120), tokenizer, tmp_path / "one", ShardsConfig(), silent())
    assert len(one.files) == 2 < len(shards.files)
    first, second = (TokenLoader(each, 20, seed=1) for each in (one, shards))
    count = 2 * first.windows_per_epoch
    assert np.array_equal(first.sequences(0, count), second.sequences(0, count))


def test_a_trillion_tokens_take_no_memory():
    tracemalloc.start()
    try:
        loader = loader_of_places(10**15, 1000)
        loader.sequences(10**12 - 8, 16)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_corpus_below_one_window_is_refused(shards):
    tokens = shards.tokens
    assert TokenLoader(shards, tokens - 1, seed=0).windows_per_epoch == 1
    with pytest.raises(DataError, match=rf"needs {tokens + 1:,} tokens.* has {tokens:,}") as raised:
        TokenLoader(shards, tokens, seed=0)
    assert "context_length" in str(raised.value.hint)


def test_impossible_arguments_are_refused(shards):
    with pytest.raises(ConfigError, match="context_length must be at least 1, got 0"):
        TokenLoader(shards, 0, seed=0)
    with pytest.raises(ValueError, match="positions start at 0, got -1"):
        TokenLoader(shards, 8, seed=0).sequences(-1, 3)
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="rank must be from 0"):
            rank_slice(0, 8, rank, world)


def test_no_sequences_are_an_empty_batch(shards):
    assert TokenLoader(shards, 8, seed=0).sequences(5, 0).shape == (0, 9)
