"""The table of devices: published figures, names as people write them, this machine as one more."""

from __future__ import annotations

import pytest

from puna import hardware
from puna.errors import UsageError
from puna.plan import devices

# Memory in GB or GiB as the maker prints it, TB/s, dense bf16 TFLOP/s, watts: from the data sheets,
# typed in here apart from the table.
SHEETS = {
    "A100-40GB": (40, 1.555, 312, 400),
    "A100-80GB": (80, 2.039, 312, 400),
    "H100-PCIe": (80, 2.0, 1513 / 2, 350),
    "H100-SXM": (80, 3.35, 1979 / 2, 700),
    "H200": (141, 4.8, 1979 / 2, 700),
    "B200": (1440 / 8, 8.0, 4500 / 2, 1000),
    "MI300X": (192, 5.3, 1307.4, 750),
    "RTX-4090": (24, 1.008, 330.3 / 2, 450),
    "RTX-5090": (32, 1.792, 419 / 2, 575),
    "M2-Ultra": (192, 0.8, None, None),
    "M3-Max": (128, 0.4, None, None),
    "M4-Max": (128, 0.546, None, None),
}


@pytest.mark.parametrize("name", SHEETS)
def test_figures_are_those_of_the_data_sheets(name):
    found, (memory, bandwidth, tflops, watts) = devices.device(name), SHEETS[name]
    # Makers print GB where they build GiB, but for H200 and B200.
    assert memory * 1e9 * 0.99 < found.memory_bytes <= memory * 2**30
    assert found.read_bytes_per_second == pytest.approx(bandwidth * 1e12)
    if tflops is not None:
        assert found.peak("bf16") == pytest.approx(tflops * 1e12, rel=2e-3)
        assert found.watts == watts


@pytest.mark.parametrize("name", devices.table())
def test_every_row_is_whole_and_says_its_sources(name):
    found = devices.device(name)
    assert found.source
    assert found.training_source
    assert 0 < found.training < 1
    assert 0 < found.usable <= 1
    assert (found.usd_per_hour is None) == (found.price_source == "not rented by the hour")
    rates = found.flops_per_second
    assert rates["fp32"] <= rates["bf16"]
    for narrow in ("fp8", "int8"):  # dense rates double when the width halves; sparse ones would
        most = 4.01 if "RTX" in name and narrow == "int8" else 2.01  # be four times
        assert rates.get(narrow, 0.0) <= most * rates["bf16"]
    # The trainer's own table of bf16 peaks, where both have the GPU.
    of_trainer = hardware.peak_flops(f"NVIDIA {name.replace('-80GB', '').replace('-', ' ')}")
    if of_trainer is not None:
        assert found.peak("bf16") == pytest.approx(of_trainer.per_second, rel=1e-3)


def test_no_rate_is_one_with_sparsity():
    assert devices.device("H100").peak("fp8") == pytest.approx(1979e12, rel=1e-3)
    assert devices.device("A100").peak("int8") == pytest.approx(624e12)
    assert devices.device("MI300X").peak("fp8") == pytest.approx(2614.9e12)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A100-80GB", (1, "A100-80GB")),
        ("8xA100-80GB", (8, "A100-80GB")),
        ("8 x a100 80gb", (8, "A100-80GB")),
        ("2048*H100-SXM", (2048, "H100-SXM")),
        ("h100", (1, "H100-SXM")),
        ("rtx4090", (1, "RTX-4090")),
    ],
)
def test_a_fleet_is_a_count_and_a_name_however_it_is_spelt(text, wanted):
    count, name = devices.fleet(text)
    assert (count, devices.device(name).name) == wanted


def test_an_unknown_device_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="has no 'RTX-4080'") as caught:
        devices.device("RTX-4080")
    assert "RTX-4090" in str(caught.value.hint)
    for text in ("0xA100", "", "  "):
        with pytest.raises(UsageError, match="wants a count and a name"):
            devices.fleet(text)


def test_this_machine_has_the_rates_that_were_measured_and_no_price():
    found = devices.this_machine(31e9, {"fp32": 2e11, "bf16": 1.5e12}, "a probe")
    assert found.kind == "cpu"
    assert found.peak("bf16") == 1.5e12
    assert found.peak("int8") == found.peak("fp32") == 2e11  # what is not measured is fp32's
    assert found.usable_bytes <= hardware.memory_total_bytes()
    assert found.usd_per_hour is None
    assert found.watts is None
    assert found.source == "a probe"
