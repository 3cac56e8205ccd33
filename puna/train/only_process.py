"""One process a run folder: a second one would mix its steps into the first one's journal."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puna.errors import TrainingError


@contextmanager
def only_process(out: Path) -> Iterator[None]:
    """Hold the run folder `out`; the kernel lets go of it however the process ends.

    Raises TrainingError when another process holds it, or the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TrainingError(
            f"the run folder {out} cannot be written to: {error.strerror}",
            hint="choose another --out, or mend its permissions",
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode() or "unknown"
            raise TrainingError(
                f"{out} is being trained by another process (id {holder})",
                hint="let it finish, stop it with Ctrl-C, or choose another --out",
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
