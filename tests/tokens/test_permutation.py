"""The order is a permutation, the same for ever, with no array of its own."""

import hashlib
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.tokens.permutation import Permutation

MASK = 2**64 - 1


def slow_twin(size: int, name: str, place: int) -> int:
    """The same network in Python's own whole numbers, one place at a time."""

    def mix(value: int) -> int:
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
        value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
        return value ^ value >> 31

    side = math.isqrt(size - 1) + 1
    digest = hashlib.blake2b(name.encode(), digest_size=64).digest()
    value = place
    while True:
        left, right = divmod(value, side)
        for start in range(0, 64, 8):
            key = int.from_bytes(digest[start : start + 8], "little")
            left, right = right, (left + mix(right ^ key)) % side
        value = left * side + right
        if value < size:
            return value


@pytest.mark.parametrize("name", ["", "seed 0", "🦙"])
def test_every_small_size_is_permuted(name):
    for size in range(1, 400):
        things = Permutation(size, name)(np.arange(size))
        assert np.array_equal(np.sort(things), np.arange(size)), size


@pytest.mark.parametrize("size", [4095, 4096, 4097, 65_535, 65_537, 99_991, 250_000])
def test_larger_sizes_are_permuted(size):
    things = Permutation(size, "large")(np.arange(size))
    assert np.array_equal(np.sort(things), np.arange(size))


@given(size=st.integers(1, 2**62), name=st.text(max_size=5), seed=st.integers(0, 99))
def test_it_equals_its_slow_twin_at_any_size(size, name, seed):
    places = np.random.default_rng(seed).integers(0, size, 4)
    things = Permutation(size, name)(places)
    assert things.tolist() == [slow_twin(size, name, place) for place in places.tolist()]


def test_a_place_has_its_thing_whatever_else_is_asked():
    order = Permutation(1000, "x")
    whole = order(np.arange(1000))
    assert order(np.array([7, 993, 7])).tolist() == whole[[7, 993, 7]].tolist()
    assert order(np.array([], dtype=np.int64)).tolist() == []


def test_the_values_are_frozen():
    """A change here would change the data order of every run: resumed ones would repeat text."""
    golden = {
        10: [0, 2, 1, 4, 3, 6, 9, 5],
        1000: [754, 526, 31, 612, 412, 703, 442, 435],
        10**12: [
            528928472258,
            478917768455,
            225148006168,
            218795973715,
            847581862214,
            67488741368,
            537599047118,
            992422606191,
        ],
    }
    for size, values in golden.items():
        assert Permutation(size, "golden")(np.arange(8)).tolist() == values


def test_memory_does_not_grow_with_the_size():
    tracemalloc.start()
    try:
        order = Permutation(2**62, "x")
        order(np.arange(2**62 - 1000, 2**62))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_every_thing_comes_to_every_place_equally_often():
    size, names = 10, 4000
    counts = np.zeros((size, size))
    for name in range(names):
        counts[np.arange(size), Permutation(size, f"name {name}")(np.arange(size))] += 1
    expected = names / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # 81 degrees of freedom: 81 on average, above 126 once in a thousand.
    assert chi_square < 126


def test_neighbours_are_torn_apart():
    things = Permutation(100_000, "x")(np.arange(100_000))
    assert abs(np.corrcoef(things[:-1], things[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(things, np.arange(100_000))[0, 1]) < 0.01


def test_names_give_different_orders():
    first, second = (Permutation(10_000, name)(np.arange(10_000)) for name in ("a", "b"))
    assert np.count_nonzero(first == second) < 20  # one is expected by chance


@pytest.mark.parametrize("size", [0, -1, 2**62 + 1])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match="size must be from 1"):
        Permutation(size, "x")


@pytest.mark.parametrize("place", [-1, 10])
def test_places_outside_are_refused(place):
    with pytest.raises(ValueError, match="places must be from 0 to 9"):
        Permutation(10, "x")(np.array([0, place]))
