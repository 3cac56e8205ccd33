"""The sampler against transformers' own processors, a plain twin, formulas and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import CheckpointError
from puna.infer.sampler import (
    LIKELIEST,
    TokenCounts,
    adjusted,
    draw_for,
    greatest,
    keep_top_p,
    likeliest_ids,
    next_token,
    place_at,
    possible,
    tempered,
    uniform,
)
from puna.infer.sampling_params import SamplingParams

PROBABILITY_TOLERANCE = 1e-6  # of float32
LEAST_SHARE = 2**-32  # below half of it, of the likeliest, a weight is 0
ROUNDING = 3e-6  # how far from a filter's line float32 and float64 may decide differently
OFF = {"temperature": 1.0, "top_p": 1.0}
NOTHING = TokenCounts([])

logits_lists = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40)


def random_logits(seed: int, size: int = 97, spread: float = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def shares_of(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """The probability of each id."""
    weights = possible(logits, draw_for(params, len(logits), 0.5), params.typical_p)
    return weights / weights.sum(dtype=np.float64)


def assert_leaves(logits: np.ndarray, values: dict[str, float], wanted: np.ndarray) -> None:
    """That those settings leave the ids and probabilities of `wanted`, filtered logits."""
    params = SamplingParams(**{**OFF, **values})
    assert_shares(shares_of(logits, params), softmax(wanted), PROBABILITY_TOLERANCE)


def assert_shares(shares: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """That the same ids are possible, but for the least likely ones, and about as likely."""
    assert (shares[wanted > LEAST_SHARE * wanted.max()] > 0).all()
    assert (wanted[shares > 0] > 0).all()
    np.testing.assert_allclose(shares, wanted, atol=tolerance)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


# transformers


def peer_logits(
    processor_name: str, argument: float, logits: np.ndarray, ids: tuple[int, ...] = (3, 5, 5, 90)
) -> np.ndarray:
    """What transformers' processor of that name makes of the logits after `ids`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, processor_name)(argument)
    return processor(torch.tensor([ids]), torch.from_numpy(logits)[None].clone())[0].numpy()


PEERS = {
    "temperature": ("TemperatureLogitsWarper", (0.1, 0.8, 2.5)),
    "top_k": ("TopKLogitsWarper", (1, 10, 80, 1000)),
    "top_p": ("TopPLogitsWarper", (0.05, 0.5, 0.95)),
    "min_p": ("MinPLogitsWarper", (0.02, 1.0)),
    "typical_p": ("TypicalLogitsWarper", (0.1, 0.5, 0.95)),
}


@pytest.mark.parametrize("size", [97, 5000])
@pytest.mark.parametrize("name", PEERS)
def test_each_setting_leaves_what_that_of_transformers_leaves(name, size):
    peer, arguments = PEERS[name]
    for seed, argument in enumerate([*arguments, *arguments]):
        logits = random_logits(seed, size)
        assert_leaves(logits, {name: argument}, peer_logits(peer, argument, logits))


def test_all_filters_together_act_in_the_order_of_transformers():
    values = {"temperature": 1.3, "top_k": 300, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8}
    for seed in range(10):
        logits = wanted = random_logits(seed, 1000)
        for name, value in values.items():
            wanted = peer_logits(PEERS[name][0], value, wanted)
        assert_leaves(logits, values, wanted)


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_equals_that_of_transformers(penalty):
    logits = random_logits(5)
    counts = TokenCounts([5, 3], [90, 5])
    ours = adjusted(logits, SamplingParams(repetition_penalty=penalty), counts)
    wanted = peer_logits("RepetitionPenaltyLogitsProcessor", penalty, logits)
    np.testing.assert_allclose(ours, wanted, rtol=PROBABILITY_TOLERANCE)


# The formulas of bias and penalties


def test_frequency_and_presence_penalties_follow_openais_formula():
    # mu[j] -> mu[j] - c[j] alpha_frequency - [c[j] > 0] alpha_presence, c of generated ids alone
    logits = random_logits(1, 10)
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=-1.25)
    counts = TokenCounts(prompt_ids=[1, 2, 2], generated_ids=[2, 7, 7, 7])
    wanted = logits.copy()
    wanted[2] -= 0.5 - 1.25
    wanted[7] -= 3 * 0.5 - 1.25
    np.testing.assert_allclose(adjusted(logits, params, counts), wanted, rtol=1e-6)


def test_bias_comes_before_the_penalties():
    logits = np.array([1, 1, -3], dtype=np.float32)
    params = SamplingParams(logit_bias={0: 4, 2: 1}, repetition_penalty=2)
    changed = adjusted(logits, params, TokenCounts([0, 2]))
    assert changed.tolist() == [(1 + 4) / 2, 1, (-3 + 1) * 2]
    assert logits.tolist() == [1, 1, -3]


def test_a_bias_of_100_forces_an_id_and_one_of_minus_100_bans_it():
    logits = random_logits(2)
    best = int(logits.argmax())
    for temperature in (0, 1):
        forced = SamplingParams(temperature=temperature, logit_bias={11: 100})
        banned = SamplingParams(temperature=temperature, logit_bias={best: -100})
        drawn = {next_token(logits, banned, NOTHING, uniform(1, i)) for i in range(200)}
        assert next_token(logits, forced, NOTHING, 0.99) == 11
        assert best not in drawn


@given(st.lists(st.integers(0, 300), max_size=200), st.integers(0, 200))
def test_counts_are_the_same_however_they_were_made(ids, prompt_length):
    prompt, generated = ids[:prompt_length], ids[prompt_length:]
    grown = TokenCounts(prompt)
    for token in generated:
        grown.add(token)
    for counts in (grown, TokenCounts(prompt, generated)):
        found = dict(zip(counts.ids.tolist(), counts.generated.tolist(), strict=True))
        assert found == {token: generated.count(token) for token in ids}


# The plain twin


def plain_probabilities(logits: np.ndarray, params: SamplingParams) -> tuple[np.ndarray, bool]:
    """Every step over the whole vocabulary, sorted, in float64; and whether no id is at a line."""
    logits = logits.astype(np.float64)
    clear = True
    order = np.argsort(-logits, kind="stable")
    if params.top_k:
        logits[order[params.top_k :]] = -np.inf
    shares = softmax(logits / params.temperature)
    if params.top_p < 1:
        order = np.argsort(-shares, kind="stable")
        before = np.cumsum(shares[order]) - shares[order]
        clear &= bool((np.abs(before - params.top_p) > ROUNDING).all())
        shares[order[before > params.top_p]] = 0
        shares /= shares.sum()
    if params.min_p:
        clear &= bool((np.abs(shares / shares.max() - params.min_p) > ROUNDING).all())
        shares[shares < params.min_p * shares.max()] = 0
        shares /= shares.sum()
    if params.typical_p < 1:
        with np.errstate(divide="ignore"):
            surprise = -np.log(shares)
        entropy = float((shares * np.where(shares > 0, surprise, 0)).sum())
        distance = np.abs(surprise - entropy)
        order = np.argsort(distance, kind="stable")
        running = np.cumsum(shares[order])
        last = min(int((running < params.typical_p).sum()), len(order) - 1)
        gaps = np.abs(np.delete(distance, order[last]) - distance[order[last]])
        clear &= bool((np.abs(running - params.typical_p) > ROUNDING).all())
        clear &= bool((gaps > ROUNDING * 10).all())
        shares[distance > distance[order[last]]] = 0
        shares /= shares.sum()
    return shares, clear


def test_the_sampler_equals_its_plain_twin_over_random_settings():
    random = np.random.default_rng(0)
    compared = 0
    for case in range(400):
        size = int(random.choice([1, 2, 63, 64, 65, 512, 1000, 3001, 8192, 50_257]))
        logits = random_logits(case, size, float(random.choice([0.3, 1, 3, 8])))
        params = SamplingParams(
            temperature=float(random.choice([0.3, 0.8, 1, 1.7])),
            top_k=int(random.choice([0, 0, 1, 7, 40, 900, 10_000])),
            top_p=float(random.choice([1, 1, 0.1, 0.9, 0.999])),
            min_p=float(random.choice([0, 0, 0.05, 0.5])),
            typical_p=float(random.choice([1, 1, 0.2, 0.95])),
        )
        wanted, clear = plain_probabilities(logits, params)
        if not clear:
            continue
        compared += 1
        assert_shares(shares_of(logits, params), wanted, 2e-6)
        running = np.cumsum(wanted)
        for point in random.random(5):
            token = next_token(logits, params, NOTHING, float(point))
            assert running[token] > point - ROUNDING
            assert running[token] - wanted[token] < point + ROUNDING
    assert compared > 300


@given(
    st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=300),
    st.integers(0, 300),
)
def test_of_equals_the_lower_ids_are_the_greatest(values, count):
    array = np.array(values, dtype=np.float32)
    wanted = np.argsort(-array, kind="stable")[:count]
    assert greatest(array, count).tolist() == sorted(wanted.tolist())
    assert likeliest_ids(array, count).tolist() == wanted.tolist()


def test_top_p_keeps_the_token_that_crosses_the_line_as_the_release_does():
    def kept(weights: np.ndarray, top_p: float) -> list[int]:
        return np.flatnonzero(keep_top_p(weights, top_p)).tolist()

    weights = np.array([0.125, 0.5, 0.125, 0.25])
    assert kept(weights, 0.6) == [1, 3]
    # The sum before the third is 0.75, not above 0.75: it stays, the lower id of two equals.
    assert kept(weights, 0.75) == [0, 1, 3]
    assert kept(weights, 0.8) == [0, 1, 3]
    assert kept(np.ones(4), 0.8) == [0, 1, 2, 3]


LARGE = 49_152


def large_logits(kind: str, seed: int) -> np.ndarray:
    """Of a large vocabulary: what is quick on one of these kinds goes another way on the next."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1, LARGE)
    if kind == "wide":
        logits *= 4
    if kind == "peaked":
        logits[random.integers(0, LARGE, 50)] += 12 * random.random(50)
    if kind == "rounded":  # thousands of ties
        logits = np.round(logits * 2) / 2
    if kind == "equal":
        logits[:] = 1.5
    if kind == "two heights":
        logits = np.where(random.random(LARGE) < 0.01, 5.0, 0.0)
    if kind == "one apart":
        logits = np.where(np.arange(LARGE) == 77, 8.0, 0.0)
    if kind == "sorted":
        logits.sort()
    if kind == "masked":
        logits[random.random(LARGE) < 0.9] = -np.inf
    return logits.astype(np.float32)


KINDS = (
    *("flat", "wide", "peaked", "rounded", "equal"),
    *("two heights", "one apart", "sorted", "masked"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_p", [1e-30, 0.02, 0.5, 0.95, 0.9999, 1 - 2**-53])
def test_top_p_of_a_large_vocabulary_is_a_beginning_of_the_full_sort(kind, top_p):
    logits = large_logits(kind, 1)
    kept = shares_of(logits, SamplingParams(temperature=0.8, top_p=top_p)) > 0
    # By weight, which are as whole numbers sometimes equal; of equals the lower ids first.
    order = np.argsort(-tempered(logits, 0.8), kind="stable")
    count = int(kept.sum())
    assert kept[order[:count]].all()
    sums = np.cumsum(softmax(logits / np.float32(0.8))[order])
    before = np.concatenate([[0], sums])
    assert before[count - 1] <= top_p + ROUNDING
    assert count == np.count_nonzero(tempered(logits, 0.8)) or before[count] > top_p - ROUNDING


@given(st.sampled_from(KINDS), st.integers(0, 99), st.floats(0.01, 5), st.floats(-6, 0))
@settings(max_examples=60, deadline=None)
def test_top_p_keeps_as_many_as_the_full_sort_does(kind, seed, temperature, exponent):
    top_p = 1 - 10**exponent * 0.99
    logits = large_logits(kind, seed)
    left = shares_of(logits, SamplingParams(temperature=temperature, top_p=top_p))
    weights = np.sort(tempered(logits, temperature).astype(np.float64))[::-1]
    before = (np.cumsum(weights) - weights) / weights.sum()
    least, most = ((before <= top_p + one).sum() for one in (-ROUNDING, ROUNDING))
    assert least <= np.count_nonzero(left) + (weights == 0).sum()
    assert np.count_nonzero(left) <= most


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mass", [0.02, 0.5, 0.95])
def test_typical_sampling_of_a_large_vocabulary_keeps_the_nearest_to_the_entropy(kind, mass):
    logits = large_logits(kind, 2)
    kept = shares_of(logits, SamplingParams(**{**OFF, "typical_p": mass})) > 0
    shares = softmax(logits)
    surprise = -np.log(np.maximum(shares, 1e-300))
    distance = np.where(shares > 0, np.abs(surprise - float((shares * surprise).sum())), np.inf)
    furthest = distance[kept].max()
    assert shares[kept].sum() > mass - ROUNDING
    assert shares[distance < furthest - 10 * ROUNDING].sum() < mass + ROUNDING
    assert kept[distance < furthest - 10 * ROUNDING].all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 40, 300, 2000, 20_000, 40_000])
def test_top_k_of_a_large_vocabulary_is_the_beginning_of_the_full_sort(kind, count):
    logits = large_logits(kind, 3)
    wanted = np.sort(np.argsort(-logits, kind="stable")[:count])
    np.testing.assert_array_equal(greatest(logits, count), wanted)


@given(logits_lists, st.floats(0.01, 5))
def test_filters_keep_the_best_and_nothing_new(numbers, temperature):
    logits = np.array(numbers, dtype=np.float32)
    for name, value in (("top_k", 3), ("top_p", 0.7), ("min_p", 0.3)):
        values = {"top_p": 1.0, "temperature": temperature, name: value}
        kept = possible(logits, draw_for(SamplingParams(**values), len(logits), 0.5))
        assert kept[logits.argmax()] == kept.max() == LIKELIEST
        assert set(kept) <= {0, *tempered(logits, temperature)}


# Drawing


@given(logits_lists, st.floats(0, 1, exclude_max=True), st.integers(1, 60))
def test_draw_never_returns_an_impossible_token(values, point, copies):
    weights = np.tile(tempered(np.array(values, dtype=np.float32), 0.05), copies)
    weights = np.concatenate([weights, np.zeros(700, dtype=np.float32)])
    assert weights[place_at(weights, point)] > 0


def test_draw_inverts_the_running_sum():
    weights = np.array([0.0, 0.5, 0.0, 1, 0.5])
    drawn = [place_at(weights, u) for u in (0, 0.249, 0.25, 0.749, 0.75, 0.999)]
    assert drawn == [1, 1, 3, 3, 4, 4]


def test_drawn_tokens_follow_the_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    params = SamplingParams(**OFF)
    drawn = [next_token(logits, params, NOTHING, uniform(0, i)) for i in range(4000)]
    # Four standard deviations of 4000 draws at probability 1/2 are 0.032.
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.5, 0.3, 0.2], atol=0.032)


def test_uniform_numbers_are_even_and_independent_of_seed_index_and_choice():
    rows = [
        [uniform(7, i) for i in range(5000)],
        [uniform(i, 7) for i in range(5000)],
        [uniform(7, 7, i) for i in range(5000)],
        [uniform(8, i) for i in range(5000)],
    ]
    for row in rows:
        assert 0 <= min(row) < 0.002
        assert 0.998 < max(row) < 1
        # Four standard deviations of the 500 in each tenth are 85.
        assert np.abs(np.histogram(row, bins=10, range=(0, 1))[0] - 500).max() < 85
        # Four standard deviations of a correlation over 5000 pairs are 0.057.
        assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 0.057
    assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 0.057


def test_uniform_is_the_same_on_every_machine():
    assert uniform(0, 0) == uniform(0, 0, 0)
    assert uniform(2**63 - 1, 2**40, 127) == 0.009365203918214382


# Edges


def test_temperature_zero_takes_the_first_of_the_best():
    logits = random_logits(6)
    logits[[40, 50]] = 30
    assert next_token(logits, SamplingParams(temperature=0), NOTHING, 0.99) == 40


@pytest.mark.parametrize("point", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-6])
def test_a_tiny_temperature_is_greedy_without_a_warning(temperature, point):
    logits = random_logits(7)
    token = next_token(logits, SamplingParams(temperature=temperature, top_p=1), NOTHING, point)
    assert token == logits.argmax()


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad, temperature):
    logits = random_logits(8)
    logits[3] = bad
    with pytest.raises(CheckpointError, match="not finite"):
        next_token(logits, SamplingParams(temperature=temperature), NOTHING, 0.5)
    with pytest.raises(CheckpointError, match="not finite"):
        next_token(np.full(9, -np.inf, dtype=np.float32), SamplingParams(), NOTHING, 0.5)


def test_an_id_ruled_out_by_minus_infinity_is_never_drawn():
    logits = np.zeros(5, dtype=np.float32)
    logits[[0, 4]] = -np.inf
    params = SamplingParams(**{**OFF, "typical_p": 0.9, "min_p": 0.1})
    drawn = {next_token(logits, params, NOTHING, uniform(3, i)) for i in range(100)}
    assert drawn == {1, 2, 3}
