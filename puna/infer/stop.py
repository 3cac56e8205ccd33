"""Stop strings in a stream: text that may be the start of one is held back until it is decided."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of `stops` appears; the stop itself is never passed on.

    The stop that is complete first counts, of two that end together the longer: so the cut does
    not hang on how the text arrives. Time goes with the text's characters times the stops.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""
        self._firsts = frozenset(stop[0] for stop in stops)
        self._shorter = [_shorter_matches(stop) for stop in stops]
        self._matched = [0] * len(self.stops)  # how much of each stop ends the text so far

    def push(self, piece: str) -> str:
        """The text that may go out now; after a stop (`found`), always empty."""
        if self.found is not None:
            return ""
        if not self._held and self._firsts.isdisjoint(piece):
            return piece
        for index, character in enumerate(piece):
            complete = self._advance(character)
            if complete is not None:
                self.found = complete
                text = self._held + piece[: index + 1]
                self._held = ""
                return text[: len(text) - len(complete)]
        text = self._held + piece
        going = len(text) - max(self._matched)
        self._held = text[going:]
        return text[:going]

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self.stops)
        return held

    def _advance(self, character: str) -> str | None:
        """Take one character; the longest stop that it completes (Knuth, Morris, Pratt 1977)."""
        complete: str | None = None
        for number, stop in enumerate(self.stops):
            matched = self._matched[number]
            while matched and stop[matched] != character:
                matched = self._shorter[number][matched - 1]
            matched += stop[matched] == character
            self._matched[number] = matched
            if matched == len(stop) and len(stop) > len(complete or ""):
                complete = stop
        return complete


def _shorter_matches(stop: str) -> list[int]:
    """For each beginning of `stop`, how much of its end is a shorter beginning."""
    shorter = [0]
    for character in stop[1:]:
        matched = shorter[-1]
        while matched and stop[matched] != character:
            matched = shorter[matched - 1]
        shorter.append(matched + (stop[matched] == character))
    return shorter
