"""Bent copies of a good file, and the one question they all get: does reading it end well?

Reading ends well when it gives a correct result or raises one PunaError that names the file,
within a second, and with memory below twice the file's size plus 64 MB.
"""

from __future__ import annotations

import random
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from puna.errors import PunaError

LIMIT_SECONDS = 1.0  # of CPU time: a busy machine is no fault of the parser
HANG_SECONDS = 20  # of the clock: what waits for ever uses no CPU
EXTRA_BYTES = 64 << 20
SPECIAL_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)  # where signs, lengths and carries break
IN_REGIONS = 0.9  # of all flips; the rest fall anywhere

try:
    import resource
except ImportError:  # Windows: tracemalloc alone watches the memory there
    resource = None  # type: ignore[assignment]


class Hangs(BaseException):
    """Reading took too long; no `except Exception` of a parser can swallow it."""


def truncations(data: bytes) -> Iterator[bytes]:
    """Every proper prefix of `data`, the empty one first."""
    return (data[:end] for end in range(len(data)))


def flips(
    data: bytes, count: int, *, regions: Sequence[range] = (), seed: int = 0
) -> Iterator[bytes]:
    """`count` copies of `data` with one to three bytes changed, the same ones for the same seed.

    Nine of ten changes fall into `regions` (offsets of headers, metadata, opcodes); no regions
    means anywhere. A change flips one bit, or puts a random byte or one that is often special.
    """
    rng = random.Random(seed)
    inside = [region for region in regions if len(region)] or [range(len(data))]
    weights = [len(region) for region in inside]
    for _ in range(count):
        bent = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            picked = rng.random() < IN_REGIONS
            region = rng.choices(inside, weights)[0] if picked else range(len(data))
            _change(bent, rng.choice(region), rng)
        yield bytes(bent)


def _change(bent: bytearray, offset: int, rng: random.Random) -> None:
    kind = rng.randrange(3)
    if kind == 0:
        bent[offset] ^= 1 << rng.randrange(8)
    elif kind == 1:
        bent[offset] = rng.choice(SPECIAL_BYTES)
    else:
        bent[offset] = rng.randrange(256)


def ends_well(load: Callable[[], Any], path: Path) -> Any:
    """What `load` returns for the file or folder at `path`, or the PunaError it raises.

    Any other exception, a hang, or too much memory is an AssertionError. The caller checks that
    a returned value is a correct one.
    """
    limit = 2 * size_of(path) + EXTRA_BYTES
    resident = peak_resident_bytes()
    tracemalloc.start()
    started = time.process_time()
    try:
        with alarm(HANG_SECONDS):
            outcome = load()
    except PunaError as error:
        outcome = error
    except (Hangs, KeyboardInterrupt):
        raise
    except BaseException as error:  # Rust's PanicException is no Exception
        raise AssertionError(f"{path}: {type(error).__name__} instead of a PunaError") from error
    finally:
        seconds = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < LIMIT_SECONDS, f"{path}: took {seconds:.2f} s of CPU"
    assert peak <= limit, f"{path}: {peak} bytes allocated, {limit} allowed"
    grown = peak_resident_bytes() - resident  # sees what native libraries allocate
    assert grown <= limit, f"{path}: the process grew by {grown} bytes, {limit} allowed"
    if isinstance(outcome, PunaError):
        _check_message(outcome, path)
    return outcome


def _check_message(error: PunaError, path: Path) -> None:
    assert path.name in error.message, f"{path}: the error does not name the file: {error.message}"
    assert len(error.message) < 2000, f"{path}: the error is a flood: {error.message[:200]}..."


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size


def peak_resident_bytes() -> int:
    """The most memory this process ever held; 0 where the platform does not tell."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise Hangs in the block after `seconds` by the clock, where the platform has timers."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: object) -> None:
        raise Hangs(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
