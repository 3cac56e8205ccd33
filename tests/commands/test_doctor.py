"""`puna doctor`: each fact is what hardware.py finds, and each lack says what to do."""

import json
from pathlib import Path

import pytest

from puna import cli, hardware
from puna.commands import doctor
from puna.console import Console
from puna.evaluate import bandwidth

VERSIONS = {
    "python": "3.11.7",
    "puna": "0.1.0",
    "numpy": "2.4.6",
    "torch": None,
    "pyarrow": None,
}


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch):
    """The probes' own tests measure; here they answer at once."""
    monkeypatch.setattr(bandwidth.ReadProbe, "__init__", lambda self, _bytes: None)
    monkeypatch.setattr(bandwidth.ReadProbe, "__call__", lambda self: 18.1e9)
    monkeypatch.setattr(bandwidth.ReadProbe, "source", "measured", raising=False)
    monkeypatch.setattr(
        hardware, "matmul_rate", lambda *_device: hardware.Rate(1.48e12, "measured")
    )


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch):
    """A machine without torch, pyarrow and vector instructions, and little memory."""
    monkeypatch.setattr(hardware, "versions", lambda: dict(VERSIONS))
    monkeypatch.setattr(hardware, "has_package", lambda name: False)
    monkeypatch.setattr(hardware, "instruction_sets", frozenset)
    monkeypatch.setattr(hardware, "memory_available_bytes", lambda: 2**30)


def finding(name: str) -> doctor.Finding:
    findings, _record = doctor.examine(Path.cwd())
    return next(one for one in findings if one.name == name)


def test_rates_are_in_the_units_people_compare():
    assert finding("memory reads").value == "18.1 GB/s (measured)"
    assert "1.48 TFLOP/s in fp32" in finding("CPU matmul").value


@pytest.mark.parametrize(
    ("name", "todo"),
    [
        ("torch", "to train: pip install 'puna[train]'"),
        ("pyarrow", "to read .parquet: pip install 'puna[data]'"),
        ("memory", "close something: the demo wants up to 2 GiB"),
        ("instructions", "no vector instructions found: training will be slow here"),
    ],
)
@pytest.mark.usefixtures("bare")
def test_what_is_missing_says_what_to_do(name: str, todo: str):
    assert finding(name).todo == todo


def test_a_gpu_that_this_torch_cannot_use_is_pointed_out(monkeypatch: pytest.MonkeyPatch):
    cpu = hardware.Device("cpu", "Made Up CPU", 2**34)
    monkeypatch.setattr(hardware, "choose_device", lambda: cpu)
    monkeypatch.setattr(hardware, "versions", lambda: {**VERSIONS, "torch": "2.13.0+cpu"})
    monkeypatch.setattr(hardware, "has_nvidia_driver", lambda: True)
    assert "install a CUDA build of torch" in finding("device").todo
    monkeypatch.setattr(hardware, "has_nvidia_driver", lambda: False)
    assert finding("device").todo == ""


def test_an_accelerator_is_measured_and_compared_with_its_data_sheet(monkeypatch):
    gpu = hardware.Device("cuda", "NVIDIA H100 80GB HBM3", 80 * 2**30)
    monkeypatch.setattr(hardware, "choose_device", lambda: gpu)
    monkeypatch.setattr(
        hardware, "choose_precision", lambda kind: hardware.Precision("bf16", "bf16 from 8.0 on")
    )
    monkeypatch.setattr(hardware, "versions", lambda: {**VERSIONS, "torch": "2.13.0"})
    assert finding("device matmul").value == ("1.48 TFLOP/s in bf16, 989 TFLOP/s on the data sheet")


@pytest.mark.usefixtures("bare")
def test_lacks_are_marked_and_their_remedy_stands_below():
    findings = [doctor.Finding("one", "here"), doctor.Finding("other", "absent", "install it")]
    assert doctor.findings_table(findings, Console()).splitlines() == [
        "✓ one    here",
        "! other  absent",
        "         -> install it",
    ]


@pytest.mark.usefixtures("bare")
def test_json_holds_the_same_facts_as_numbers(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["doctor", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    record = json.loads(printed.out)
    assert record["read_bytes_per_second"] == 18.1e9
    assert record["versions"]["torch"] is None
    assert {one["name"] for one in record["findings"]} >= {"processor", "memory", "torch"}
