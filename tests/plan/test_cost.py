"""Money, energy, carbon: the paper's table 15, recomputed, with the slips that are its own."""

from __future__ import annotations

import pytest

from puna.errors import ConfigError
from puna.model.sizes import named
from puna.plan import cost, devices

A100 = devices.device("A100-80GB")
# The paper, table 15: GPU-hours, watts, MWh, tCO2e.
TABLE_15 = {
    "OPT-175B": (809_472, 400, 356, 137),
    "7B": (82_432, 400, 36, 14),
    "13B": (135_168, 400, 59, 23),
    "33B": (530_432, 400, 233, 90),
    "65B": (1_022_362, 400, 449, 173),
}


@pytest.mark.parametrize("name", TABLE_15)
def test_table_15_recomputes(name):
    """To what the table rounds to; it cuts 59.5 and 449.8 MWh where it should round up."""
    hours, watts, mwh, tonnes = TABLE_15[name]
    energy = cost.energy_kwh(hours, watts) / 1000
    assert mwh - 0.5 < energy < mwh + 1
    assert energy * cost.CARBON_KG_PER_KWH == pytest.approx(tonnes, abs=0.5)


def test_blooms_row_is_off_by_half_a_percent_and_the_five_months_are_four():
    """1,082,880 hours give 476.5 MWh where the table has 475; 2,638 MWh of 2,048 GPUs are 122
    days, where the text has "approximately 5 months"."""
    assert cost.energy_kwh(1_082_880, 400) / 1000 == pytest.approx(476.5, abs=0.05)
    days = 2_638e6 / (400 * cost.PUE) / 2048 / 24
    assert days == pytest.approx(122, abs=0.5)
    assert pytest.approx(1_015, abs=1) == 2_638 * cost.CARBON_KG_PER_KWH


def test_opts_hours_are_34_days_of_992_gpus():
    assert TABLE_15["OPT-175B"][0] == 34 * 24 * 992


def test_a_cost_adds_up():
    found = cost.cost(86400 * 10, A100, devices=2048, usd_per_hour=2.0)
    assert found.days == 10
    assert found.device_hours == 2048 * 240
    assert found.usd == 2 * 2048 * 240
    assert found.energy_kwh == pytest.approx(2048 * 240 * 0.4 * 1.1)
    assert found.carbon_kg == pytest.approx(found.energy_kwh * 0.385)
    assert cost.cost(3600, A100).usd == A100.usd_per_hour


def test_where_nobody_says_a_price_or_the_watts_there_is_none():
    here = devices.this_machine(31e9, {"fp32": 2e11}, "not measured")
    found = cost.cost(3600, here)
    assert (found.usd, found.energy_kwh, found.carbon_kg) == (None, None, None)
    with pytest.raises(ConfigError, match="has no price an hour"):
        cost.training_usd(named("110M"), 1e9, here)
    assert cost.training_usd(named("110M"), 1e9, here, usd_per_hour=0.1) > 0


def test_training_and_use_are_priced_by_their_seconds():
    config = named("7B")
    paid = cost.training_usd(config, 1e12, A100, 2048)
    assert paid == pytest.approx(82_432 * A100.usd_per_hour, rel=0.1)  # GPU-hours of table 15
    one = cost.inference_usd(config, A100, prompt_tokens=1e9, output_tokens=1e9, batch=8)
    twice = cost.inference_usd(config, A100, prompt_tokens=2e9, output_tokens=2e9, batch=8)
    assert twice == pytest.approx(2 * one)
    alone = cost.inference_usd(config, A100, prompt_tokens=1e9, output_tokens=1e9, batch=1)
    assert alone > 2 * one  # decoding one by one reads all weights for each token
