"""SIGTERM and Ctrl-C end a run after the step it is in, saved; a second Ctrl-C ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOPS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """While open, remembers the first stop signal instead of dying from it.

    SIGTERM may come twice for one stop (to the process, and to its group): only Ctrl-C insists.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {stop: signal.signal(stop, self._remember) for stop in STOPS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stop, handler in self._before.items():
            signal.signal(stop, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
