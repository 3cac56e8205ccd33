"""`puna doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna import hardware
from puna.console import Console, human_bytes
from puna.native import kernels

PROBE_BYTES = 512 * 2**20  # well beyond one core's share of any cache
LITTLE_BYTES = 2 * 2**30  # the demo's memory and disk stay below this
NOTABLE_INSTRUCTIONS = (
    "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "f16c",
    "bf16", "i8mm", "asimddp", "asimd",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the table: a fact, and what to do where something is missing."""

    name: str
    value: str
    todo: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `puna doctor`."""
    parser.description = (
        "Looks at processor, memory, devices and packages and measures two rates: how fast memory\n"
        "is read (the bound on generating) and how fast matrices multiply (the bound on training)."
    )
    parser.epilog = "examples:\n  puna doctor\n  puna doctor --json"


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the findings; about five seconds, most of it measuring and importing torch."""
    console.say("looking and measuring, about five seconds ...")
    findings, record = examine(Path.cwd())
    record["findings"] = [dataclasses.asdict(finding) for finding in findings]
    console.result(record, findings_table(findings, console))
    return 0


def examine(folder: Path) -> tuple[list[Finding], dict[str, Any]]:
    """Every finding, and the same facts as numbers. `folder` is where disk space counts."""
    versions = hardware.versions()
    record: dict[str, Any] = {"versions": versions}
    findings = [
        *_processor(record),
        *_memory(folder, record),
        *_rates(record),
        *_training(versions, record),
        *_packages(versions),
    ]
    return findings, record


def findings_table(findings: list[Finding], console: Console) -> str:
    """A mark, a name and a fact a line; what to do stands below its line."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        mark = console.paint("!", "33") if finding.todo else console.paint("✓", "32")
        lines.append(f"{mark} {finding.name:<{width}}  {finding.value}")
        if finding.todo:
            lines.append(f"  {'':<{width}}  -> {finding.todo}")
    return "\n".join(lines)


def _processor(record: dict[str, Any]) -> list[Finding]:
    flags = hardware.instruction_sets()
    notable = [name for name in NOTABLE_INSTRUCTIONS if name in flags]
    cores = hardware.usable_cores()
    record.update(cpu=hardware.cpu_name(), usable_cores=cores, instruction_sets=notable)
    vector = {"avx2", "asimd", "avx512f"} & flags
    isa, missing = kernels.isa(), kernels.missing_reason()
    record.update(kernels=isa, kernels_missing=missing)
    return [
        Finding("processor", f"{hardware.cpu_name()}, {cores} usable cores"),
        Finding(
            "instructions",
            ", ".join(notable) or "none known",
            "" if vector else "no vector instructions found: training will be slow here",
        ),
        Finding(
            "kernels",
            f"built for {isa}" if isa else f"none ({missing})",
            kernels.INSTALL_THEM if missing and "not built" in missing else "",
        ),
    ]


def _memory(folder: Path, record: dict[str, Any]) -> list[Finding]:
    total, free = hardware.memory_total_bytes(), hardware.memory_available_bytes()
    disk = shutil.disk_usage(folder).free
    record.update(memory_bytes=total, memory_available_bytes=free, disk_free_bytes=disk)
    return [
        Finding(
            "memory",
            f"{human_bytes(total)}, {human_bytes(free)} available",
            "" if free > LITTLE_BYTES else "close something: the demo wants up to 2 GiB",
        ),
        Finding(
            "disk",
            f"{human_bytes(disk)} free here",
            "" if disk > LITTLE_BYTES else "make room: runs keep several checkpoints",
        ),
    ]


def _rates(record: dict[str, Any]) -> list[Finding]:
    from puna.evaluate.bandwidth import ReadProbe

    probe = ReadProbe(PROBE_BYTES)
    reading = probe()
    rates = {"fp32": hardware.matmul_rate("cpu", "fp32")}
    if hardware.has_package("torch"):
        rates["bf16"] = hardware.matmul_rate("cpu", "bf16")
    record["read_bytes_per_second"] = reading
    record["cpu_matmul_flops_per_second"] = {key: rate.per_second for key, rate in rates.items()}
    matmul = ", ".join(f"{_tflops(rate)} in {key}" for key, rate in rates.items())
    return [
        Finding("memory reads", f"{reading / 1e9:.1f} GB/s ({probe.source})"),
        Finding("CPU matmul", matmul),
    ]


def _training(versions: dict[str, str | None], record: dict[str, Any]) -> list[Finding]:
    """torch, the device and precision a training run would take, and torch.compile's compiler."""
    if versions["torch"] is None:
        return [Finding("torch", "not installed", "to train: pip install 'puna[train]'")]
    device = hardware.choose_device()
    precision = hardware.choose_precision(device.kind)
    record["device"] = dataclasses.asdict(device)
    record["precision"] = dataclasses.asdict(precision)
    idle_gpu = device.kind == "cpu" and hardware.has_nvidia_driver()
    findings = [
        Finding("torch", versions["torch"]),
        Finding(
            "device",
            f"{device.kind}: {device.name}, {human_bytes(device.memory_bytes)}",
            "there is an NVIDIA GPU, but this torch cannot use it: install a CUDA build of torch"
            if idle_gpu
            else "",
        ),
        Finding("precision", f"{precision.label} ({precision.reason})"),
    ]
    if device.kind != "cpu":
        findings.append(_device_rate(device, record))
    path, missing = hardware.compiler()
    record["compiler"] = path
    findings.append(
        Finding("compiler", path or "none", missing and f"{missing}; only torch.compile needs it")
    )
    return findings


def _device_rate(device: hardware.Device, record: dict[str, Any]) -> Finding:
    """The accelerator's measured bf16 matmul rate, beside its data sheet where there is one."""
    measured = hardware.matmul_rate(device.kind, "bf16")
    sheet = hardware.peak_flops(device.name)
    record["device_matmul_flops_per_second"] = {"bf16": measured.per_second}
    beside = f", {_tflops(sheet)} on the data sheet" if sheet else ""
    return Finding("device matmul", f"{_tflops(measured)} in bf16{beside}")


def _tflops(rate: hardware.Rate) -> str:
    return f"{rate.per_second / 1e12:.3g} TFLOP/s"


def _packages(versions: dict[str, str | None]) -> list[Finding]:
    present = [f"{name} {version}" for name, version in versions.items() if version]
    findings = [Finding("packages", ", ".join(present))]
    if versions["pyarrow"] is None:
        findings.append(
            Finding("pyarrow", "not installed", "to read .parquet: pip install 'puna[data]'")
        )
    return findings
