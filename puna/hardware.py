"""What this machine is and can do: devices, precision, cores, memory, measured rates.

The only reader of the environment beside cli.py. torch is imported inside functions, where present.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from puna.console import human_bytes
from puna.errors import MachineError, UsageError, missing_package

DeviceKind = Literal["cuda", "mps", "cpu"]
DeviceWish = Literal["auto", "cuda", "mps", "cpu"]
PrecisionWish = Literal["auto", "bf16", "fp32"]

# Dense bf16 tensor rates with fp32 accumulation, TFLOP/s, from NVIDIA's data sheets (where a sheet
# prints the rate "with sparsity", half of it). Matched as whole words, the longest name first.
PEAK_BF16_TFLOPS = {
    "B200": 2250.0,  # DGX B200 data sheet: 72 PFLOPS FP8 for 8 with sparsity, bf16 a quarter dense
    "H200": 989.4,  # H200 data sheet: 1,979 with sparsity
    "GH200": 989.4,  # Grace Hopper data sheet: the H100 SXM die
    "H100 NVL": 835.5,  # H100 data sheet: 1,671 with sparsity
    "H100 PCIe": 756.5,  # H100 data sheet (PCIe): 1,513 with sparsity
    "H100": 989.4,  # H100 data sheet (SXM): 1,979 with sparsity
    "A100": 312.0,  # A100 data sheet
    "A40": 149.7,  # A40 data sheet
    "A30": 165.0,  # A30 data sheet
    "A10": 125.0,  # A10 data sheet
    "L40S": 362.05,  # L40S data sheet
    "L40": 181.05,  # L40 data sheet
    "L4": 121.0,  # L4 data sheet: 242 with sparsity
    "RTX 6000 Ada": 364.25,  # RTX 6000 Ada data sheet: 1,457 FP8 with sparsity
    "RTX A6000": 154.8,  # RTX A6000 data sheet: 309.7 with sparsity
    "RTX 5090": 209.5,  # Blackwell architecture paper, appendix A
    "RTX 4090": 165.2,  # Ada architecture paper, appendix A
    "RTX 4080": 97.5,  # Ada architecture paper, appendix A
    "RTX 3090": 71.0,  # Ampere GA102 architecture paper, table 9
}
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
CUDA_WITH_BF16 = (8, 0)  # Ampere; older GPUs emulate it


@dataclass(frozen=True)
class Device:
    """Where tensors live; `name` is the hardware's own, `memory_bytes` what it has in all."""

    kind: DeviceKind
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Precision:
    """The dtype that matmuls run in, and why this one."""

    dtype: Literal["bf16", "fp32"]
    reason: str

    @property
    def label(self) -> str:
        """What reports and metrics call it."""
        return "bf16 autocast" if self.dtype == "bf16" else "fp32"


@dataclass(frozen=True)
class Rate:
    """A rate with its origin: `source` says measured (and how) or from which table."""

    per_second: float
    source: str


# Choosing


def choose_device(wanted: DeviceWish = "auto") -> Device:
    """The device to train or generate on: CUDA, then Apple's MPS, then the CPU.

    Raises MachineError when torch is absent, or when the wanted device is.
    """
    found = {device.kind: device for device in devices()}
    if wanted == "auto":
        return next(found[kind] for kind in ("cuda", "mps", "cpu") if kind in found)
    if wanted not in found:
        raise MachineError(
            f"device {wanted} was asked for, this machine has {', '.join(found)}",
            hint="leave it on auto, or see what `puna doctor` finds",
        )
    return found[wanted]


def devices() -> list[Device]:
    """Every device torch can use here, the CPU last. Raises MachineError without torch."""
    if not has_package("torch"):
        raise missing_package("torch", "train", "choosing a device")
    import torch

    found: list[Device] = []
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        found.append(Device("cuda", facts.name, facts.total_memory))
    if torch.backends.mps.is_available():
        found.append(Device("mps", cpu_name(), memory_total_bytes()))
    return [*found, Device("cpu", cpu_name(), memory_total_bytes())]


def choose_precision(device: DeviceKind, wanted: PrecisionWish = "auto") -> Precision:
    """bf16 autocast where the hardware has it, fp32 elsewhere, with the reason in words.

    Raises MachineError when bf16 is wanted on hardware without it.
    """
    has_bf16, reason = _bf16_support(device)
    if wanted == "fp32":
        return Precision("fp32", "asked for")
    if wanted == "bf16" and not has_bf16:
        raise MachineError(
            f"precision bf16 was asked for, {device} has no bf16 matmul ({reason})",
            hint="leave it on auto, which takes fp32 here",
        )
    return Precision("bf16" if has_bf16 else "fp32", reason)


def _bf16_support(device: DeviceKind) -> tuple[bool, str]:
    """Whether matmuls on this device run in bf16, and the fact that decides it."""
    if device == "cpu":
        found = [name for name in BF16_INSTRUCTIONS if name in instruction_sets()]
        return bool(found), f"CPU has {found[0]}" if found else "CPU has no bf16 instructions"
    if device == "mps":
        return False, "bf16 autocast is not dependable on MPS"
    import torch

    capability = torch.cuda.get_device_capability(0)
    version = ".".join(str(part) for part in capability)
    return capability >= CUDA_WITH_BF16, f"CUDA compute capability {version}, bf16 from 8.0 on"


def peak_flops(device_name: str) -> Rate | None:
    """The tabulated dense bf16 peak of a GPU in FLOP/s, or None for a GPU not in the table."""
    if "MIG" in device_name:  # a slice of a GPU; the table knows whole ones
        return None
    for name in sorted(PEAK_BF16_TFLOPS, key=len, reverse=True):
        if re.search(rf"\b{re.escape(name)}\b", device_name):
            return Rate(PEAK_BF16_TFLOPS[name] * 1e12, f"NVIDIA data sheet, {name} dense bf16")
    return None


# The processor


def instruction_sets() -> frozenset[str]:
    """The CPU's instruction-set flags by Linux's names; from sysctl on macOS, else empty."""
    return _instruction_sets(Path("/proc/cpuinfo"))


@functools.lru_cache(maxsize=4)
def _instruction_sets(cpuinfo: Path) -> frozenset[str]:
    text = _read(cpuinfo)
    if text:
        line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
        return frozenset(line[1].split()) if line else frozenset()
    if sys.platform == "darwin":
        return _apple_instruction_sets()
    return frozenset()


def _apple_instruction_sets() -> frozenset[str]:
    """`hw.optional.*` switches that are on, as lower-case words without their prefixes."""
    output = _output_of(["sysctl", "hw.optional"])
    on = re.findall(r"hw\.optional\.(?:arm\.FEAT_|arm\.)?(\w+): 1", output)
    return frozenset(name.lower() for name in on)


def cpu_name() -> str:
    """The processor's own name."""
    line = re.search(r"^model name\s*:\s*(.*)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    if line:
        return line[1].strip()
    if sys.platform == "darwin":
        return _output_of(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or "Apple CPU"
    return platform.processor() or platform.machine()


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: its affinity, cut by the container's CPU quota."""
    cores = _affinity_cores()
    quotas = []
    for folder in _cgroup_folders(cgroups, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quotas.append((quota, period))
        quotas.append((_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")))
    for quota, period in quotas:
        if quota.strip().isdigit() and period.strip().isdigit():
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def _affinity_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Memory


def memory_total_bytes(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory this process may use in all: the machine's, cut by the container's limit."""
    return min([_machine_memory(), *_memory_limits(cgroups)])


def memory_available_bytes(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that can be taken now without pushing others out."""
    line = re.search(r"MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    available = int(line[1]) * 1024 if line else _machine_memory()
    return min([available, *_memory_limits(cgroups)])


def require_memory(needed_bytes: int, what: str) -> None:
    """Raise MachineError unless `needed_bytes` can be taken now; `what` needs them."""
    available = memory_available_bytes()
    if needed_bytes > available:
        raise MachineError(
            f"{what} needs {human_bytes(needed_bytes)} of memory, {human_bytes(available)} are "
            "free",
            hint="close other programs, or take a smaller model; puna inspect shows what one needs",
        )


def _machine_memory() -> int:
    if sys.platform == "win32":
        raise MachineError("memory cannot be measured on Windows", hint="run Puna inside WSL")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_limits(cgroups: Path) -> list[int]:
    """The container's memory limits in bytes; cgroup 1 writes a huge number for none."""
    found = []
    for folder in _cgroup_folders(cgroups, "memory"):
        texts = [_read(folder / name).strip() for name in ("memory.max", "memory.limit_in_bytes")]
        found += [int(text) for text in texts if text.isdigit()]
    return found


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """This process's control groups (version 2 and 1) and their parents, where they are visible."""
    folders = {root, root / controller}
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _number, controllers, path = line.split(":", 2)
        base = root / controller if controller in controllers.split(",") else root
        if not controllers or controller in controllers.split(","):
            here = base / path.lstrip("/")
            folders |= {here, *(parent for parent in here.parents if base in parent.parents)}
    return sorted(folder for folder in folders if folder.is_dir())


def resident_bytes() -> int:
    """Memory this process holds now (its resident set); its peak where Linux's file is absent."""
    pages = _read(Path("/proc/self/statm")).split()
    if pages:
        return int(pages[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most memory this process has held at once."""
    if sys.platform == "win32":
        raise MachineError("memory cannot be measured on Windows", hint="run Puna inside WSL")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


# Places


def cache_folder() -> Path:
    """Where pulled models lie: PUNA_CACHE, else the platform's folder for caches."""
    chosen = os.environ.get("PUNA_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("puna", appauthor=False))


def packed_cache_bytes(folder: Path) -> int:
    """What packed weights may take on the disk of `folder`: PUNA_PACKED_CACHE in GB, 0 for none.

    Unset, a tenth of the disk, at most 50 GB. Raises UsageError for what is no such number.
    """
    chosen = os.environ.get("PUNA_PACKED_CACHE")
    if chosen:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", chosen):
            raise UsageError(
                f"PUNA_PACKED_CACHE should be a number of GB, got {chosen[:40]!r}",
                hint="PUNA_PACKED_CACHE=20, or 0 to keep no packed weights",
            )
        return int(float(chosen) * 1e9)
    there = next(one for one in (folder, *folder.parents) if one.exists())
    return min(50 * 10**9, shutil.disk_usage(there).total // 10)


def is_offline() -> bool:
    """Whether the network must not be touched: PUNA_OFFLINE or HF_HUB_OFFLINE is set."""
    values = (os.environ.get(name, "") for name in ("PUNA_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.lower() not in ("", "0", "false", "no", "off") for value in values)


# Measured rates


def matmul_rate(
    device: DeviceKind = "cpu", dtype: Literal["bf16", "fp32"] = "fp32", budget_seconds: float = 0.5
) -> Rate:
    """FLOP/s of one large square matmul on this device (torch; NumPy without it, fp32 only).

    Raises MachineError when the dtype or device needs a torch that is not there.
    """
    size = 1024 if device == "cpu" else 8192
    if has_package("torch"):
        multiply, wait = _torch_matmul(device, dtype, size)
        by = "torch"
    elif device == "cpu" and dtype == "fp32":
        multiply, wait = _numpy_matmul(size)
        by = "NumPy"
    else:
        raise missing_package("torch", "train", f"measuring {dtype} matmul on {device}")
    for _warm_up in range(2):
        multiply()
    wait()
    count, elapsed, start = 0, 0.0, time.perf_counter()
    while elapsed < budget_seconds:
        for _burst in range(4):
            multiply()
        wait()
        count += 4
        elapsed = time.perf_counter() - start
    source = f"measured: {by} {dtype} matmul {size} x {size} on {device}"
    return Rate(2.0 * size**3 * count / elapsed, source)


def _torch_matmul(
    device: DeviceKind, dtype: Literal["bf16", "fp32"], size: int
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """One multiplication, and the wait for the device to be done with it."""
    import torch

    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    left = torch.randn(size, size, device=device).to(kind)
    right = torch.randn(size, size, device=device).to(kind)
    out = torch.empty(size, size, device=device, dtype=kind)
    waits: dict[DeviceKind, Callable[[], None]] = {
        "cuda": torch.cuda.synchronize,
        "mps": torch.mps.synchronize,
        "cpu": lambda: None,
    }
    return lambda: torch.mm(left, right, out=out), waits[device]


def _numpy_matmul(size: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    import numpy

    left = numpy.ones((size, size), dtype=numpy.float32)
    return lambda: left @ left, lambda: None


# Software


def compiler() -> tuple[str | None, str]:
    """The C++ compiler that torch.compile would use on a CPU (None: none) and what is missing."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        return None, f"no C++ compiler ({', '.join(names)})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return path, "Python.h is missing (Debian: apt-get install python3-dev)"
    return path, ""


def isa_wish() -> str | None:
    """The build of the kernels that the user names in PUNA_ISA; None leaves the choice to Puna."""
    return os.environ.get("PUNA_ISA") or None


def versions() -> dict[str, str | None]:
    """Python, Puna and the packages it can use -> version, None for an absent one."""
    from importlib import metadata  # 20 ms

    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("puna", "numpy", "sentencepiece", "safetensors", "tokenizers", "torch",
                    "pyarrow", "tensorboard"):  # fmt: skip
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def has_package(name: str) -> bool:
    """Can this package be imported? Nothing is imported to find out."""
    return importlib.util.find_spec(name) is not None


def has_nvidia_driver() -> bool:
    """Is an NVIDIA driver here? Nothing is imported to find out; torch may still lack CUDA."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _read(path: Path) -> str:
    """A small system file's text, empty where it is absent or closed to us."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output_of(command: list[str]) -> str:
    """What a system tool prints, empty where there is no such tool."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""
