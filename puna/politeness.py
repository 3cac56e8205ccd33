"""How a server is asked: pauses between requests, patience after failures, bytes a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LONGEST_PAUSE_SECONDS = 300.0  # of our own; a server that asks for more is asked again another day
WORTH_TELLING_SECONDS = 2.0


class Stopped(Exception):
    """`Manner.stop` was called; what has come so far is kept."""


class Manner:
    """How a server is asked by all connections together: its pauses, our patience, the rate.

    A file is given up after `attempts` in all, and after `patience` + 1 in a row that brought
    nothing; before each of those is a pause, from `first_pause_seconds` on doubled, or what the
    server asks for (Retry-After). Requests are `between_seconds` apart. Pauses that a person
    would wonder about are told to `tell`, with the reason.
    """

    def __init__(
        self,
        *,
        attempts: int = 4,
        patience: int = 0,
        first_pause_seconds: float = 1.0,
        between_seconds: float = 0.0,
        bytes_per_second: float | None = None,
        room_hint: str = "name a folder on another disk in PUNA_CACHE",
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.attempts = attempts
        self.patience = patience
        self.room_hint = room_hint
        self._tell = tell
        self._first_pause_seconds = first_pause_seconds
        self._between_seconds = between_seconds
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._next_request = self._next_byte = 0.0

    def stop(self) -> None:
        """Let every download end at its next chunk."""
        self._stopped.set()

    def wait_turn(self) -> None:
        """Return when the next request may be sent. Raises Stopped."""
        while (seconds := self._turn_in()) > 0:
            self._sleep(seconds)
        self._sleep(0)

    def hold(self, seconds: float, why: str = "") -> None:
        """Nobody asks the server for as long."""
        if self._tell and seconds >= WORTH_TELLING_SECONDS:
            self._tell(f"{why}\n  next try in {seconds:.0f} s")
        with self._lock:
            self._next_request = max(self._next_request, time.monotonic() + seconds)

    def took(self, count: int) -> None:
        """So many bytes came: wait as long as the rate asks for. Raises Stopped."""
        seconds = 0.0
        if self._bytes_per_second:
            with self._lock:
                begin = max(time.monotonic(), self._next_byte)
                self._next_byte = begin + count / self._bytes_per_second
                seconds = self._next_byte - time.monotonic()
        self._sleep(seconds)

    def pause_seconds(self, fruitless: int, asked_seconds: float) -> float:
        """How long to wait after so many attempts in a row that brought nothing."""
        if not fruitless:
            return asked_seconds
        own = self._first_pause_seconds * 2.0 ** (fruitless - 1)
        return max(min(own, LONGEST_PAUSE_SECONDS), asked_seconds)

    def _turn_in(self) -> float:
        """The seconds until our turn, which is taken when there are none."""
        with self._lock:
            now = time.monotonic()
            if self._next_request <= now:
                self._next_request = now + self._between_seconds
                return 0.0
            return self._next_request - now

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds) if seconds > 0 else self._stopped.is_set():
            raise Stopped
