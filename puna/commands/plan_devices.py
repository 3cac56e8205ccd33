"""Devices as the command line names them: a count and a name of the table, or this machine."""

from __future__ import annotations

import re
from dataclasses import replace

from puna import hardware
from puna.commands.plan_run import KINDS
from puna.console import human_scaled
from puna.errors import MachineError, UsageError
from puna.plan import devices
from puna.plan.devices import Device
from puna.plan.limits import Home

RATES = ("", "k", "M", "G", "T")
HERE = ("this", "here", "cpu")
PROBE_BYTES = 512 * 2**20  # as puna doctor
# What a driver calls a GPU -> its name in the table.
DRIVERS = (
    (r"A100.*80GB", "A100-80GB"), (r"A100", "A100-40GB"), (r"H100 PCIe", "H100-PCIe"),
    (r"H100", "H100-SXM"), (r"H200", "H200"), (r"B200", "B200"), (r"MI300X", "MI300X"),
    (r"RTX 3090\b", "RTX-3090"), (r"RTX 4090\b", "RTX-4090"), (r"RTX 5090\b", "RTX-5090"),
)  # fmt: skip


def find(text: str) -> tuple[int, Device]:
    """The count and the device of `8xA100-80GB`; `this` is the machine that we are on, measured.

    Probing takes about three seconds. Raises UsageError for an unknown name and for several of
    this machine, MachineError for a GPU here that the table does not have.
    """
    count, name = devices.fleet(text)
    if name.lower() not in HERE:
        return count, devices.device(name)
    if count > 1:
        raise UsageError(
            f"--devices {text}: there is one machine here, and nobody knows what links several",
            hint="name devices of the table, such as 8xA100-80GB",
        )
    if name.lower() != "cpu" and hardware.has_package("torch"):
        found = hardware.choose_device()
        if found.kind == "cuda":
            return count, _of_driver(found.name)
    return count, _processor()


def fleet(text: str) -> tuple[int, Device]:
    """The same; this machine by what was measured of it."""
    count, found = find(text)
    if text.lower() not in HERE or found.kind != "cpu":
        return count, found
    reads = human_scaled(found.read_bytes_per_second, RATES) + "B/s"
    multiplies = human_scaled(found.peak(), RATES) + "FLOP/s"
    return count, replace(found, name=f"this machine ({reads}, {multiplies})")


def one(option: str, text: str) -> Device:
    """The device that an option names. Raises UsageError for several."""
    count, found = fleet(text)
    if count > 1:
        raise UsageError(f"{option} is one device, got {text}", hint=f"{option} {found.name}")
    return found


def home(text: str, weights: str) -> Home:
    """The device of `--on`, or an amount of memory in GB or GiB, with weights of a type.

    Raises UsageError for what is neither.
    """
    amount = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|GiB|)", text, re.IGNORECASE)
    if amount and not (amount[2] and float(amount[1])):
        raise UsageError(f"--on wants a device or its memory, got {text}", hint="such as 24GB")
    if amount:
        unit = 1e9 if amount[2].lower() == "gb" else 2**30
        return Home(text, float(amount[1]) * unit, None, KINDS[weights])
    device = one("--on", text)
    return Home(device.name, device.usable_bytes, device, KINDS[weights])


def _of_driver(name: str) -> Device:
    for pattern, known in DRIVERS:
        if re.search(pattern, name):
            return devices.device(known)
    raise MachineError(
        f"the table of devices has no {name}, which this machine has",
        hint="name the nearest of the table, or --devices cpu for its processors",
    )


def _processor() -> Device:
    """This machine's cores, measured as `puna doctor` does."""
    from puna.evaluate.bandwidth import ReadProbe

    probe = ReadProbe(PROBE_BYTES)
    reading = probe()
    rates = {"fp32": hardware.matmul_rate("cpu", "fp32").per_second}
    has_bf16 = any(name in hardware.instruction_sets() for name in hardware.BF16_INSTRUCTIONS)
    if hardware.has_package("torch") and has_bf16:
        rates["bf16"] = hardware.matmul_rate("cpu", "bf16").per_second
    return devices.this_machine(reading, rates, f"measured here: {probe.source}")
