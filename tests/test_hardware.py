"""Probes against known machines: made-up /proc and control-group files, tables, and the clock."""

import builtins
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from puna import hardware
from puna.errors import MachineError

CPUINFO = """processor\t: 0
model name\t: Made Up CPU @ 3.00GHz
flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16
bugs\t\t: none
"""


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty control-group tree on a machine with 8 cores."""
    monkeypatch.setattr(hardware, "_affinity_cores", lambda: 8)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000\n", 2), ("1000 100000\n", 1)],
)
def test_a_version_2_quota_cuts_the_cores_rounded_up(cgroups: Path, quota: str, cores: int):
    write(cgroups / "cpu.max", quota)
    assert hardware.usable_cores(cgroups) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
def test_a_version_1_quota_cuts_the_cores(cgroups: Path, quota: str, cores: int):
    write(cgroups / "cpu" / "cpu.cfs_quota_us", quota + "\n")
    write(cgroups / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert hardware.usable_cores(cgroups) == cores


def test_a_memory_limit_cuts_the_memory(cgroups: Path):
    whole = hardware.memory_total_bytes(cgroups)
    write(cgroups / "memory.max", "max\n")
    assert hardware.memory_total_bytes(cgroups) == whole
    write(cgroups / "memory.max", str(2**28) + "\n")
    assert hardware.memory_total_bytes(cgroups) == 2**28
    assert hardware.memory_available_bytes(cgroups) <= 2**28


def test_an_unlimited_version_1_group_is_no_limit(cgroups: Path):
    whole = hardware.memory_total_bytes(cgroups)
    write(cgroups / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    assert hardware.memory_total_bytes(cgroups) == whole


def test_flags_are_read_from_cpuinfo(tmp_path: Path):
    write(tmp_path / "cpuinfo", CPUINFO)
    flags = hardware._instruction_sets(tmp_path / "cpuinfo")
    assert flags == {"fpu", "avx2", "avx512f", "avx512_bf16", "amx_bf16"}


def test_flags_of_arm_are_called_features(tmp_path: Path):
    write(tmp_path / "cpuinfo", "processor : 0\nFeatures\t: fp asimd bf16 i8mm\n")
    assert "bf16" in hardware._instruction_sets(tmp_path / "cpuinfo")


@pytest.mark.parametrize(
    ("flags", "dtype", "reason"),
    [
        ({"avx2", "avx512_bf16", "amx_bf16"}, "bf16", "CPU has amx_bf16"),
        ({"avx2", "avx512_bf16"}, "bf16", "CPU has avx512_bf16"),
        ({"avx2"}, "fp32", "CPU has no bf16 instructions"),
    ],
)
def test_precision_follows_the_instructions_and_says_so(flags, dtype, reason, monkeypatch):
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset(flags))
    precision = hardware.choose_precision("cpu")
    assert (precision.dtype, precision.reason) == (dtype, reason)
    assert precision.label == {"bf16": "bf16 autocast", "fp32": "fp32"}[dtype]


def test_bf16_on_a_machine_without_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hardware, "instruction_sets", lambda: frozenset({"avx2"}))
    assert hardware.choose_precision("cpu", "fp32").reason == "asked for"
    with pytest.raises(MachineError, match="precision bf16 was asked for, cpu has no bf16 matmul"):
        hardware.choose_precision("cpu", "bf16")


def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch: pytest.MonkeyPatch):
    cpu = hardware.Device("cpu", "Made Up CPU", 2**30)
    monkeypatch.setattr(hardware, "devices", lambda: [cpu])
    assert hardware.choose_device() == cpu
    assert hardware.choose_device("cpu") == cpu
    with pytest.raises(MachineError, match="device cuda was asked for, this machine has cpu"):
        hardware.choose_device("cuda")


def test_an_accelerator_is_taken_before_the_cpu(monkeypatch: pytest.MonkeyPatch):
    found = [hardware.Device("cuda", "GPU", 1), hardware.Device("cpu", "CPU", 1)]
    monkeypatch.setattr(hardware, "devices", lambda: found)
    assert hardware.choose_device().kind == "cuda"


def test_without_torch_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hardware, "has_package", lambda name: False)
    with pytest.raises(MachineError) as raised:
        hardware.choose_device()
    assert raised.value.hint == "pip install 'puna[train]'"
    with pytest.raises(MachineError, match="bf16 matmul"):
        hardware.matmul_rate("cpu", "bf16")


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX 6000 Ada Generation", 364.25),
    ],
)
def test_a_known_gpu_has_its_data_sheet_s_peak(name: str, tflops: float):
    peak = hardware.peak_flops(name)
    assert peak is not None
    assert peak.per_second == tflops * 1e12
    assert "data sheet" in peak.source


@pytest.mark.parametrize(
    "name", ["NVIDIA A10G", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Some GPU", "Tesla T4"]
)
def test_an_unknown_gpu_has_no_peak_rather_than_a_wrong_one(name: str):
    assert hardware.peak_flops(name) is None


def test_the_matmul_probe_without_torch_uses_numpy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hardware, "has_package", lambda name: name != "torch")
    rate = hardware.matmul_rate(budget_seconds=0.01)
    assert rate.per_second > 1e8
    assert "NumPy" in rate.source


def test_the_matmul_probe_agrees_with_a_timed_product():
    """The oracle is a clock around the same product; both see the same busy machine."""
    torch = pytest.importorskip("torch")
    left = torch.randn(1024, 1024)
    torch.mm(left, left)
    seconds = []
    for _repeat in range(5):
        start = time.perf_counter()
        torch.mm(left, left)
        seconds.append(time.perf_counter() - start)
    direct = 2 * 1024**3 / sorted(seconds)[2]
    probed = hardware.matmul_rate("cpu", "fp32", budget_seconds=0.1).per_second
    assert direct / 4 < probed < direct * 4


GROWTH = """
from puna import hardware
before = hardware.resident_bytes()
block = bytearray(64 << 20)
block[::1024] = b"1" * (64 << 10)  # touched, so that it is really there
print(hardware.resident_bytes() - before, hardware.peak_resident_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_grows_with_what_is_held():
    # In a process of its own: one that has trained keeps freed memory and need not grow.
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, timeout=60
    )
    grown, peak = (int(word) for word in done.stdout.split())
    assert 0.9 < grown / (64 << 20) < 1.5
    assert peak >= grown * 0.9


def test_the_compiler_is_the_one_the_environment_names(tmp_path: Path, monkeypatch):
    fake = tmp_path / "my-compiler"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    assert hardware.compiler()[0] == str(fake)
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    path, missing = hardware.compiler()
    assert path is None
    assert missing.startswith("no C++ compiler")


def test_versions_name_what_is_installed_and_what_is_not(monkeypatch: pytest.MonkeyPatch):
    found = hardware.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == __import__("numpy").__version__
    monkeypatch.setattr(
        metadata,
        "version",
        lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name)),
    )
    assert hardware.versions()["torch"] is None


def test_asking_for_a_package_imports_nothing(monkeypatch: pytest.MonkeyPatch):
    def refuse(name, *rest):
        raise AssertionError(f"imported {name}")

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert hardware.has_package("json")
    assert not hardware.has_package("surely_no_such_package")
