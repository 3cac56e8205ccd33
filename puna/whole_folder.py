"""A folder that appears under its name whole, or not at all; and room on the disk for it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puna.console import human_bytes
from puna.errors import DataError, MachineError

SPARE_BYTES = 16 << 20  # left free, and for the headers of what is written


def is_free(path: Path) -> bool:
    """Whether a new folder may be written at `path`: nothing is there, or an empty folder.

    Raises DataError when a file is there.
    """
    if path.is_file():
        raise DataError(f"{path} should be a folder to write, found a file")
    return not path.exists() or not any(path.iterdir())


def require_room(folder: Path, needed: int, what: str, *, hint: str) -> None:
    """Raise MachineError unless `needed` bytes for `what` fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise MachineError(
            f"{what} needs {human_bytes(needed)} in {folder}, {human_bytes(free)} are free",
            hint=f"make room, or {hint}",
        )


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill; when the block ends well it replaces what is at `path`.

    After an error nothing is left behind and `path` is as it was. What a killed process left is
    cleared away by the next one. Raises DataError when the disk is full or not writable.
    """
    final = Path(os.path.abspath(path))
    partial = final.with_name(f".{final.name}.partial-{os.getpid()}")
    old = final.with_name(f".{final.name}.replaced-{os.getpid()}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for leftover in final.parent.iterdir():
            if leftover.name.startswith(f".{final.name}.partial-"):
                shutil.rmtree(leftover)
        partial.mkdir()
        yield partial
        _flush(partial)
        if final.exists():
            final.rename(old)
        partial.rename(final)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    """To the disk: every file, then the folder's own list of names."""
    for path in [*sorted(folder.rglob("*")), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> DataError:
    hint = "give a folder you may write to"
    if error.errno == errno.ENOSPC:
        hint = f"make room, or give a folder on another disk; {path} is as it was before"
    return DataError(f"cannot write {path}: {error.strerror or error}", hint=hint)
