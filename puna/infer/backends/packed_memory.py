"""Memory for packed weights: in huge pages wherever the system gives them, for decoding's sake."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from puna.console import Progress, untold
from puna.errors import MachineError
from puna.native.packed import Bytes

_POPULATE_READ = 22  # Linux 5.14's MADV_POPULATE_READ, which Python has no name for
_PIECE_BYTES = 32 << 20
_HUGE_PAGE_BYTES = 2 << 20
_HUGE_SHARE = 0.9


def anonymous_memory(size: int) -> Bytes:
    """Memory that begins on a page; huge pages are asked for: fewer misses of addresses.

    Private: of shared memory most systems make no huge pages (docs/log.md: decode 13 % faster).
    """
    pages = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)[:size]


def file_memory(
    descriptor: int, offset: int, size: int, threads: int, *, progress: Progress = untold
) -> Bytes:
    """`size` bytes of a file from `offset`: the file's own pages where those are huge, else a copy.

    Raises MachineError when the file is cut short meanwhile. The descriptor stays open.
    """
    if sys.platform != "linux":
        return _mapped(descriptor, offset, size, progress)
    mapped = _mapped(descriptor, offset, size, progress)
    if _is_huge(mapped):
        return mapped
    del mapped
    memory = anonymous_memory(size)
    starts = range(0, size, _PIECE_BYTES)
    with ThreadPoolExecutor(threads) as pool:
        pieces = (memory[start : start + _PIECE_BYTES].data for start in starts)
        reads = pool.map(lambda piece, at: _read(descriptor, piece, offset + at), pieces, starts)
        for start, _done in zip(starts, reads, strict=True):
            progress("copying packed weights", start, size)
    return memory


def _mapped(descriptor: int, offset: int, size: int, progress: Progress) -> Bytes:
    pages = mmap.mmap(descriptor, offset + size, prot=mmap.PROT_READ)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # an older kernel: pages come when they are touched
            pages.madvise(mmap.MADV_HUGEPAGE)  # what has to come from the disk comes in such pages
            for start in range(0, offset + size, _PIECE_BYTES):
                progress("reading packed weights", start, size)
                pages.madvise(_POPULATE_READ, start, min(_PIECE_BYTES, offset + size - start))
    return np.frombuffer(pages, dtype=np.uint8)[offset:]


def _is_huge(memory: Bytes) -> bool:
    """Whether the mapping that ends with `memory` is of huge pages, but for its ends."""
    end = memory.ctypes.data + memory.nbytes
    try:
        text = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for match in re.finditer(r"^([0-9a-f]+)-([0-9a-f]+) .*$", text, re.MULTILINE):
        if int(match[1], 16) < end <= int(match[2], 16):
            found = re.search(r"^FilePmdMapped:\s+(\d+) kB", text[match.end() :], re.MULTILINE)
            held = int(found[1]) * 1024 if found else 0
            return held >= _HUGE_SHARE * memory.nbytes - _HUGE_PAGE_BYTES
    return False


def _read(descriptor: int, piece: memoryview, start: int) -> None:
    while piece:
        count = os.preadv(descriptor, [piece], start)
        if not count:
            raise MachineError("it was cut short while it was read")
        piece, start = piece[count:], start + count
