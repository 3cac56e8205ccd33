"""Scaling laws, held to the papers that published them and to the closed form."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import ConfigError, SchemaError
from puna.plan import law as laws
from puna.plan.law import FRONTIERS, PUBLISHED, break_even_tokens

EPOCH, HOFFMANN = PUBLISHED["epoch"], PUBLISHED["hoffmann"]
CHINCHILLA = 70e9, 1.4e12
LLAMA_65B = 65.2e9, 1.4e12

sizes = st.floats(1e7, 1e12)
amounts = st.floats(1e9, 1e14)


@pytest.mark.parametrize(
    ("name", "losses"),
    [  # 7B on 1T, 13B on 1T, 33B and 65B on 1.4T, 10B on 200B tokens, from the papers' constants
        ("hoffmann-printed", (2.055, 2.017, 1.962, 1.939, 2.133)),
        ("hoffmann", (2.039, 2.001, 1.946, 1.923, 2.106)),
        ("epoch", (2.087, 2.049, 1.999, 1.976, 2.131)),
    ],
)
def test_predicted_losses_of_llama(name: str, losses: tuple[float, ...]):
    models = ((6.7e9, 1e12), (13e9, 1e12), (32.5e9, 1.4e12), LLAMA_65B, (10e9, 200e9))
    predicted = [PUBLISHED[name].loss(*model) for model in models]
    assert predicted == pytest.approx(losses, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "ratio"), [("hoffmann-printed", 92), ("hoffmann", 59), ("epoch", 18.4)]
)
def test_the_best_tokens_a_parameter_at_the_compute_of_65b(name: str, ratio: float):
    parameters, tokens = PUBLISHED[name].optimum(6 * LLAMA_65B[0] * LLAMA_65B[1])
    assert tokens / parameters == pytest.approx(ratio, rel=0.005)


def test_half_of_chinchillas_size_costs_more_to_train_and_pays_back():
    """Epoch's constants: 3.65T tokens, 1.30 times the training, back after 2.5T tokens."""
    small = 35e9, EPOCH.tokens_for(EPOCH.loss(*CHINCHILLA), 35e9)
    assert small[1] == pytest.approx(3.65e12, rel=0.002)
    assert small[0] * small[1] / math.prod(CHINCHILLA) == pytest.approx(1.30, abs=0.005)
    assert break_even_tokens(small, CHINCHILLA) == pytest.approx(2.5e12, rel=0.02)


def test_by_the_first_published_constants_the_small_model_is_cheaper_even_to_train():
    """Which no fit with Chinchilla as its optimum can say: why they are suspect."""
    tokens = HOFFMANN.tokens_for(HOFFMANN.loss(*CHINCHILLA), 35e9)
    assert tokens == pytest.approx(2.57e12, rel=0.002)
    assert 35e9 * tokens / math.prod(CHINCHILLA) == pytest.approx(0.92, abs=0.005)
    assert break_even_tokens((35e9, tokens), CHINCHILLA) < 0
    assert "hoffmann" in laws.SUSPECT


def test_sardanas_13b_with_two_trillion_inference_tokens():
    """arXiv 2401.00448's example by Epoch's constants: 6.1B on 0.74T tokens, 29 % less in all."""
    large, inference_tokens = (13e9, 260e9), 2e12
    parameters, tokens = EPOCH.cheapest(EPOCH.loss(*large), inference_tokens)
    assert parameters == pytest.approx(6.1e9, rel=0.01)
    assert tokens == pytest.approx(0.74e12, rel=0.01)

    def flops(size: float, trained: float) -> float:
        return 6 * size * trained + 2 * size * inference_tokens

    assert flops(parameters, tokens) / flops(*large) == pytest.approx(0.71, abs=0.005)


def test_the_optimum_is_that_of_the_first_papers_table():
    """Hoffmann et al., table A3: FLOPs and tokens for 0.4B to 280B parameters, approach 3."""
    for flops, size, tokens in (
        (2.21e19, 0.4e9, 9.2e9),
        (1.62e20, 1e9, 27.1e9),
        (2.46e22, 10e9, 410.1e9),
        (1.71e24, 67e9, 4.1e12),
        (3.52e25, 280e9, 20.1e12),
    ):
        assert HOFFMANN.optimum(flops) == pytest.approx((size, tokens), rel=0.12)


@pytest.mark.parametrize(
    ("name", "rows"),
    [  # Hoffmann et al., tables 3 and A3: FLOPs, parameters, tokens
        ("hoffmann-1", ((1.92e19, 0.4e9, 8.0e9), (5.76e23, 67e9, 1.5e12), (9.9e24, 280e9, 5.9e12))),
        (
            "hoffmann-2",
            ((1.84e19, 0.4e9, 7.7e9), (6.88e23, 67e9, 1.7e12), (1.18e25, 280e9, 7.1e12)),
        ),
    ],
)
def test_rules_without_losses_follow_their_tables(name: str, rows):
    for flops, size, tokens in rows:
        assert FRONTIERS[name].optimum(flops) == pytest.approx((size, tokens), rel=0.08)


@settings(max_examples=50)
@given(st.sampled_from(list(PUBLISHED.values())), st.floats(1e18, 1e27))
def test_the_closed_form_is_the_least_loss_of_a_search(law: laws.Law, flops: float):
    best, tokens = law.optimum(flops)
    assert 6 * best * tokens == pytest.approx(flops)
    grid = best * np.exp(np.linspace(-3, 3, 2001))
    losses = law.loss(grid, flops / 6 / grid)
    assert grid[losses.argmin()] == pytest.approx(best, rel=0.004)
    exponent = math.log(law.optimum(flops * 10)[0] / best, 10)
    assert exponent == pytest.approx(law.parameter_exponent)


@settings(max_examples=50)
@given(sizes, amounts, st.floats(0, 1e15))
def test_the_cheapest_model_is_that_of_a_search(size: float, amount: float, inference: float):
    loss = EPOCH.loss(size, amount)
    best, tokens = EPOCH.cheapest(loss, inference)
    assert EPOCH.loss(best, tokens) == pytest.approx(loss)
    grid = best * np.exp(np.linspace(-4, 4, 4001))
    costs = 6 * grid * EPOCH.tokens_for(loss, grid) + 2 * grid * inference
    assert 6 * best * tokens + 2 * best * inference <= costs.min() * (1 + 1e-6)


@given(sizes, amounts)
def test_without_inference_the_cheapest_is_chinchillas(size: float, amount: float):
    best = EPOCH.cheapest(EPOCH.loss(size, amount))
    assert best == pytest.approx(EPOCH.optimum(6 * math.prod(best)), rel=1e-6)


@given(sizes, amounts, st.floats(1.01, 100))
def test_more_of_either_never_gives_a_worse_loss(size: float, amount: float, times: float):
    loss = EPOCH.loss(size, amount)
    assert EPOCH.e < EPOCH.loss(size * times, amount) < loss
    assert EPOCH.loss(size, amount * times) < loss


@given(sizes, amounts)
def test_tokens_for_a_loss_are_the_tokens_that_gave_it(size: float, amount: float):
    assert EPOCH.tokens_for(EPOCH.loss(size, amount), size) == pytest.approx(amount, rel=1e-6)


def test_a_loss_out_of_reach_takes_endless_tokens():
    least = EPOCH.least_parameters(2.0)
    assert EPOCH.loss(least, 1e40) == pytest.approx(2.0)
    assert EPOCH.tokens_for(2.0, least * 0.999) == math.inf
    found = EPOCH.tokens_for(2.0, np.array([least * 0.5, least * 2]))
    assert found[0] == math.inf
    assert math.isfinite(found[1])
    assert EPOCH.least_parameters(EPOCH.e) == math.inf
    with pytest.raises(ConfigError, match=r"none is below 1\.817"):
        EPOCH.cheapest(1.8)


def test_what_lies_beyond_the_runs_is_told():
    assert EPOCH.fitted is not None
    assert EPOCH.fitted.outside(1e9, 20e9) == []
    assert EPOCH.fitted.outside(7e9, 1e12) == ["3.15 times the most tokens (318B)"]
    assert EPOCH.fitted.outside(1e6, 1e9) == [
        "0.017 of the fewest parameters (57.3M)",
        "2.93 times the most tokens a parameter (341)",
    ]


def test_a_saved_law_is_the_same_law(tmp_path: Path):
    law = laws.named("epoch")
    assert len(law.draws) == 200
    laws.save(law, tmp_path / "law.json")
    assert laws.load(tmp_path / "law.json") == law
    bare = replace(law, draws=(), fitted=None)
    laws.save(bare, tmp_path / "law.json")
    assert laws.load(tmp_path / "law.json") == bare


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ('"e": 1.8172', '"e": "1.8"'),
        ('"e": 1.8172', '"e": -1'),
        ('"alpha": 0.3478', '"alpha": NaN'),
        ('"counts": "all"', '"counts": "some"'),
        ('"name"', '"nome"'),
        ('"draws": [', '"draws": [[1, 2],'),
    ],
)
def test_a_broken_law_is_refused(damage: str, said: str, tmp_path: Path):
    path = tmp_path / "law.json"
    laws.save(laws.named("epoch"), path)
    path.write_text(path.read_text().replace(damage, said, 1))
    with pytest.raises(SchemaError, match="puna plan fit --save"):
        laws.load(path)


def test_an_unknown_law_names_the_nearest():
    with pytest.raises(ConfigError, match="epoch"):
        laws.named("epok")
