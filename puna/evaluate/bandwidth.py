"""How fast this machine's memory is read: the bound on decoding, where each weight is read once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from puna import hardware
from puna.console import human_bytes
from puna.errors import MachineError

PROBE_BYTES = 2 << 30  # beyond any cache, and long enough for the rate to settle
REPEATS = 2  # a probe stands beside each trial; the better one counts


class ReadProbe:
    """A buffer of memory that all usable cores read together; call it for bytes a second.

    Raises MachineError when there is no room for it.
    """

    def __init__(self, total_bytes: int) -> None:
        available = hardware.memory_available_bytes()
        if total_bytes > available:
            raise MachineError(
                f"probing the memory's bandwidth takes {human_bytes(total_bytes)} of it, "
                f"{human_bytes(available)} are free",
                hint="close other programs, or give --no-probe",
            )
        self.threads = hardware.usable_cores()
        self.total_bytes = total_bytes
        words = np.ones(total_bytes // 8, dtype=np.int64)  # written, so that each page is its own
        self._parts = np.array_split(words, self.threads)
        self._pool = ThreadPoolExecutor(self.threads)

    def __call__(self) -> float:
        """Bytes a second, the better of some readings: other work only ever slows one down."""
        return self.total_bytes / min(self._seconds() for _ in range(REPEATS))

    def _seconds(self) -> float:
        began = time.perf_counter()
        list(self._pool.map(np.sum, self._parts))
        return time.perf_counter() - began
