"""Stop strings in a stream: text that may be the start of one is held back until it is decided."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of `stops` appears; the stop itself is never passed on."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that may go out now; after a stop (`found`), always empty."""
        if self.found is not None:
            return ""
        text = self._held + piece
        # The stop that is complete first, so that the cut does not hang on how the text arrives.
        found = [stop for stop in self.stops if stop in text]
        ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in found]
        if ends:
            end, minus_length, self.found = min(ends)
            self._held = ""
            return text[: end + minus_length]
        self._held = text[len(text) - self._undecided(text) :]
        return text[: len(text) - len(self._held)]

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that starts one of the stops."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stops):
                return length
        return 0
