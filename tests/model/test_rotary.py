"""Rotary positions as complex numbers, in Meta's interleaved layout."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from puna.model.sizes import ModelConfig, RopeScaling

torch = pytest.importorskip("torch")

from puna.model.rotary import rotary_angles, rotary_factors, rotate  # noqa: E402

CONFIG = ModelConfig(dim=64, heads=4, context_length=128)
# Angles up to 127 radians have an error of 127 · 2^-24 in float32.
TOLERANCE = 2e-5
LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, original_context_length=32)


def turned(x: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    return rotate(x, *rotary_factors(config, x.shape[2]))


def random_rows(time: int, seed: int = 0) -> torch.Tensor:
    """[batch, heads, time, head_dim]"""
    return torch.randn(2, 4, time, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_pairs_are_complex_numbers_turned_by_position_times_frequency(theta):
    config = dataclasses.replace(CONFIG, rope_theta=theta)
    x = random_rows(128)
    frequencies = theta ** (-np.arange(0, 16, 2) / 16)
    turns = np.exp(1j * np.outer(np.arange(128), frequencies))
    wanted = (x[..., 0::2].numpy() + 1j * x[..., 1::2].numpy()) * turns
    found = turned(x, config)
    np.testing.assert_allclose(found[..., 0::2].numpy(), wanted.real, atol=TOLERANCE * 4)
    np.testing.assert_allclose(found[..., 1::2].numpy(), wanted.imag, atol=TOLERANCE * 4)


def test_position_zero_is_left_as_it_is_and_no_length_changes():
    x = random_rows(64)
    found = turned(x, CONFIG)
    assert torch.equal(found[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1), atol=1e-5, rtol=0)


def test_a_product_of_query_and_key_depends_on_their_distance_alone():
    query, key = (row.expand(1, 4, 100, 16) for row in random_rows(1))
    query, key = turned(query, CONFIG), turned(key, CONFIG)
    products = torch.einsum("bhqd,bhkd->hqk", query, key)
    for distance in (0, 1, 17, 60):
        diagonal = products.diagonal(distance, dim1=1, dim2=2)
        torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal), atol=1e-4, rtol=0)


def test_bf16_rows_are_turned_in_float32_and_come_back_as_bf16():
    x = random_rows(100).bfloat16()
    found = turned(x, CONFIG)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, turned(x.float(), CONFIG).bfloat16())


def test_linear_scaling_makes_a_position_count_as_a_fraction_of_itself():
    scaled = dataclasses.replace(CONFIG, rope_scaling=RopeScaling("linear", 4.0))
    torch.testing.assert_close(rotary_angles(scaled, 128)[::4], rotary_angles(CONFIG, 32))


def test_llama3_scaling_keeps_fast_pairs_slows_slow_ones_and_blends_between():
    scaled = dataclasses.replace(CONFIG, rope_scaling=LLAMA3)
    plain, found = (rotary_angles(config, 2)[1] for config in (CONFIG, scaled))
    waves = 2 * math.pi / plain
    ratio = plain / found
    fast, slow = waves < 32 / 4, waves > 32 / 1
    assert fast.any()
    assert slow.any()
    assert (~fast & ~slow).any()
    torch.testing.assert_close(ratio[fast], torch.ones_like(ratio[fast]))
    torch.testing.assert_close(ratio[slow], torch.full_like(ratio[slow], 8.0))
    between = ratio[~fast & ~slow]
    assert ((between > 1) & (between < 8)).all()
