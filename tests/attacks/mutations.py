"""Bent copies of a good file, and the one question they all get: does reading it end well?

Reading ends well when it gives a correct result or raises one PunaError that names the file,
within a second, and with memory below twice the file's size plus 64 MB.
"""

from __future__ import annotations

import copy
import errno
import json
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
STATM = Path("/proc/self/statm")
SPECIAL_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)  # where signs, lengths and carries break
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 1 << 20, (1 << 20) - 1, (1 << 31) - 1, 1 << 31, 1 << 63),
    *(10**400, 0.5, 1.0, -1.0, 1e308, 1e-300, "", "a", "1", "<s>", "\ud800", "\0", "é" * 3000),
    *([], {}, [[]], [1, 2], ["a"], [{}], {"a": 1}, {"content": "a"}, {"type": "a"}),
)
IN_REGIONS = 0.9  # of all flips; the rest fall anywhere

try:
    import resource
except ImportError:  # Windows
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


def other_values(content: bytes, count: int, *, seed: int = 0) -> Iterator[bytes]:
    """`count` copies of a JSON file with one to three values left out or replaced by odd ones.

    Most flips break the JSON itself; these reach what is read from it.
    """
    rng = random.Random(seed)
    for _ in range(count):
        record = json.loads(content)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _swap(record, rng)
        yield json.dumps(record).encode()


def _swap(record: Any, rng: random.Random) -> None:
    """Change one value, those near the top more often than one among many deep inside."""
    place: Any = record
    while place:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    if place and rng.random() < 0.1:
        del place[key]
    elif place:
        place[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def ends_well(load: Callable[[], Any], path: Path) -> Any:
    """What `load` returns for the file or folder at `path`, or the PunaError it raises.

    Any other exception, a hang, or too much memory is an AssertionError. The caller checks that
    a returned value is a correct one.
    """
    limit = 2 * size_of(path) + EXTRA_BYTES
    started = time.process_time()
    try:
        with alarm(HANG_SECONDS), allowance(limit):
            outcome = load()
    except PunaError as error:
        outcome = error
    except (Hangs, KeyboardInterrupt):
        raise
    except BaseException as error:  # Rust's PanicException is no Exception
        raise AssertionError(f"{path}: {type(error).__name__} instead of a PunaError") from error
    seconds = time.process_time() - started
    assert seconds < LIMIT_SECONDS, f"{path}: took {seconds:.2f} s of CPU"
    if isinstance(outcome, PunaError):
        _check_message(outcome, path)
    return outcome


def _check_message(error: PunaError, path: Path) -> None:
    cause = error.__context__
    is_memory = isinstance(cause, MemoryError) or getattr(cause, "errno", 0) == errno.ENOMEM
    assert not is_memory, f"{path}: too much memory was asked for behind {error.message}"
    assert path.name in error.message, f"{path}: the error does not name the file: {error.message}"
    assert len(error.message) < 2000, f"{path}: the error is a flood: {error.message[:200]}..."


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size


@contextmanager
def allowance(limit: int) -> Iterator[None]:
    """A MemoryError for what asks for more than `limit` bytes in the block, used or not.

    On Linux the system refuses, native libraries too; memory that malloc kept when it was freed
    is had already (`make test-fuzz` lets it keep little). Elsewhere Python's demands are counted.
    """
    if sys.platform != "linux":
        tracemalloc.start()
        try:
            yield
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            if peak > limit:
                raise MemoryError(f"{peak} bytes allocated, {limit} allowed")
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def mapped_bytes() -> int:
    """All memory that this process has asked Linux for."""
    return int(STATM.read_bytes().split()[0]) * resource.getpagesize()


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
