"""How fast this machine's memory is read: the bound on decoding, where each weight is read once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from puna import hardware
from puna.console import human_bytes
from puna.errors import MachineError
from puna.native import kernels

PROBE_BYTES = 2 << 30  # beyond any cache, and long enough for the rate to settle
REPEATS = 4  # the best counts: other work only ever makes a reading slower


class ReadProbe:
    """A buffer that all usable cores read together; call it for bytes a second, the best of some.

    The kernels read it, with prefetch; without them NumPy does. `source` says which. Raises
    MachineError when there is no room for the buffer.
    """

    def __init__(self, total_bytes: int) -> None:
        available = hardware.memory_available_bytes()
        if total_bytes > available:
            raise MachineError(
                f"probing the memory's bandwidth takes {human_bytes(total_bytes)} of it, "
                f"{human_bytes(available)} are free",
                hint="close other programs, or let puna bench do with --no-probe",
            )
        threads = hardware.usable_cores()
        self._measure: Callable[[], float]
        if kernels.inference_isas():
            isa, by = kernels.inference_isa(), "C++ for " + kernels.inference_isa()
            self._measure = kernels.extension().BandwidthProbe(isa, threads, total_bytes).measure
        else:
            by = "NumPy"
            self._measure = _NumpyReader(threads, total_bytes).measure
        self.source = f"{human_bytes(total_bytes)} read by {by}, threads: {threads}"

    def __call__(self) -> float:
        """Bytes a second."""
        return max(self._measure() for _ in range(REPEATS))


class _NumpyReader:
    """Sums as fast as memory gives them: within 5 % of the kernels' reading on two cores."""

    def __init__(self, threads: int, total_bytes: int) -> None:
        words = np.ones(total_bytes // 8, dtype=np.int64)  # written, so that each page is its own
        self.parts = np.array_split(words, threads)
        self._pool = ThreadPoolExecutor(threads)

    def measure(self) -> float:
        """Bytes a second of one reading."""
        began = time.perf_counter()
        list(self._pool.map(np.sum, self.parts))
        return sum(part.nbytes for part in self.parts) / (time.perf_counter() - began)
