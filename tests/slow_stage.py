"""A stage that takes its time and says when it works, and tasks that go wrong, for tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from puna.data.build.task import Task
from puna.data.document import Document
from puna.errors import DataError


@dataclass(frozen=True)
class Settings:
    """How long a batch takes, and a folder in which workers leave their process id and network."""

    seconds: float = 0.0
    folder: str = ""


def apply(documents: Sequence[Document], settings: Settings) -> list[Document]:
    """The documents as they are, after a while."""
    if settings.folder:
        network = Path("/proc/self/ns/net")
        name = os.readlink(network) if network.exists() else "the only one"
        (Path(settings.folder) / str(os.getpid())).write_text(name)
    time.sleep(settings.seconds)
    return list(documents)


def write(task: Task, output: BinaryIO, report: dict[str, Any]) -> None:
    """Write the settings' text; or die, or fail, as they say, the first `times`."""
    kind, times = task.settings
    tries = Path(task.output + ".tries")
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    output.write(kind.encode())
    if len(tries.read_text()) > times:
        return
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "fail":
        raise OSError("the network is gone")
    if kind == "refuse":
        raise DataError("the file is not ours", hint="give another")
