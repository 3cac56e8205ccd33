"""Accelerators as a budget sees them: memory, rates, power, links, price, and who says so.

The table is devices.toml; this machine is one more device, from what a probe measured.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from puna import hardware
from puna.config import nearest, read_toml
from puna.errors import UsageError

TABLE = Path(__file__).with_name("devices.toml")
OWN = ("kind", "usable", "training", "prefill", "few_rows", "read")  # else the defaults below
COMMON = {"a100": "a100-80gb", "h100": "h100-sxm"}  # names that people use


@dataclass(frozen=True)
class Device:
    """One device; rates a second, those of links in one direction, flops dense and by dtype.

    `usable` is the share of the memory that a program can have; `training`, `prefill` and
    `few_rows` (decoding) are shares of the peak that products reach, `read` is the share of the
    bandwidth when decoding. None: nobody says (no price, no power).
    """

    name: str
    memory_bytes: float
    read_bytes_per_second: float
    flops_per_second: Mapping[str, float] = field(hash=False)
    watts: float | None
    link_bytes_per_second: float
    network_bytes_per_second: float
    node_devices: int
    usd_per_hour: float | None
    price_source: str
    source: str
    training_source: str
    usable: float = 0.94  # of a GPU: its context and the allocator's fragments; an assumption
    training: float = 0.487
    prefill: float = 0.5
    few_rows: float = 0.5
    read: float = 0.7
    kind: Literal["gpu", "apple", "cpu"] = "gpu"

    @property
    def usable_bytes(self) -> float:
        """Memory that weights and the rest can have."""
        return self.memory_bytes * self.usable

    def peak(self, dtype: str = "bf16") -> float:
        """Dense flops a second in `dtype`, in fp32 where the device has no such rate."""
        return self.flops_per_second.get(dtype, self.flops_per_second["fp32"])


FITTED = "fitted to LLaMA's 7B and 13B runs (paper, table 15)"


@functools.lru_cache(maxsize=1)
def table() -> dict[str, Device]:
    """Every device of the table by its name."""
    return {name: _device(name, row) for name, row in read_toml(TABLE).items()}


def _device(name: str, row: Mapping[str, Any]) -> Device:
    shares = {key: row[key] for key in OWN if key in row}
    return Device(
        name=name,
        memory_bytes=row["memory_gib"] * 2**30,
        read_bytes_per_second=row["read_gb_per_second"] * 1e9,
        flops_per_second={dtype: rate * 1e12 for dtype, rate in row["tflops"].items()},
        watts=row["watts"],
        link_bytes_per_second=row["link_gb_per_second"] * 1e9,
        network_bytes_per_second=row["network_gb_per_second"] * 1e9,
        node_devices=row["node_devices"],
        usd_per_hour=row.get("usd_per_hour"),
        price_source=row.get("price_source", "not rented by the hour"),
        source=row["source"],
        training_source=row.get("training_source", FITTED),
        **shares,
    )


def device(name: str) -> Device:
    """The device of that name, whatever its case and hyphens.

    Raises UsageError that names the nearest for one that is not in the table.
    """
    known = {_plain(one): one for one in table()}
    wanted = _plain(name)
    wanted = _plain(COMMON.get(wanted, wanted))
    if wanted not in known:
        raise UsageError(
            f"the table of devices has no {name!r}",
            hint=f"{nearest(name.upper(), list(table()))} (this: the machine that you are on)",
        )
    return table()[known[wanted]]


def fleet(text: str) -> tuple[int, str]:
    """The count and the name in a text such as `8xA100-80GB`; one where no count stands.

    Raises UsageError for a count of none.
    """
    match = re.fullmatch(r"\s*(?:(\d{1,7})\s*[xX*]\s*)?(\S.*?)\s*", text)
    if match is None or (match[1] is not None and int(match[1]) < 1):
        raise UsageError(
            f"--devices wants a count and a name, got {text!r}", hint="example: 8xA100-80GB"
        )
    return int(match[1] or 1), match[2]


def this_machine(
    read_bytes_per_second: float, flops_per_second: Mapping[str, float], probe: str
) -> Device:
    """This machine's processors as a device, from measured rates; `probe` says how measured."""
    return Device(
        name=hardware.cpu_name(),
        memory_bytes=hardware.memory_available_bytes(),
        read_bytes_per_second=read_bytes_per_second,
        flops_per_second=dict(flops_per_second),
        watts=None,
        link_bytes_per_second=read_bytes_per_second,
        network_bytes_per_second=read_bytes_per_second,
        node_devices=1,
        usd_per_hour=None,
        price_source="your own",
        source=probe,
        training_source="measured on a Xeon with AMX (bench/history.jsonl)",
        usable=1.0,
        training=0.8,  # of 110M, compiled; 7M reach 0.55
        prefill=1.45 if "bf16" in flops_per_second else 1.0,  # our kernels against torch's product
        few_rows=0.9,
        read=1.0,
        kind="cpu",
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())
