"""One continuation under way, read by whoever drives it: token by token, as whole characters."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from puna.infer.core import Core
from puna.infer.result import GenerationResult, Piece
from puna.infer.sequence import Sequence


class Generation(Iterator[str]):
    """Iterate for the pieces of text; read `result` at any time; `cancel` ends it early.

    Who waits for a piece runs the engine's steps, for all texts under way. Raises CheckpointError
    where the model's logits are not finite, and what else the backend raises.
    """

    def __init__(self, core: Core, sequence: Sequence, pieces: deque[Piece]) -> None:
        self._core = core
        self._sequence = sequence
        self._pieces = pieces  # which the sequence appends to
        self._has_ended = False

    def __next__(self) -> str:
        while self._pieces or not self._has_ended:
            if not self._pieces:
                self._core.step()
                continue
            piece = self._pieces.popleft()
            self._has_ended = piece.result is not None or piece.error is not None
            if piece.error is not None:
                raise piece.error
            if piece.text:
                return piece.text
        raise StopIteration

    def cancel(self) -> None:
        """End here; the text so far stays in `result`."""
        self._core.cancel([self._sequence])

    @property
    def result(self) -> GenerationResult:
        """Text, counts and times so far."""
        return self._sequence.result

    def __del__(self) -> None:
        # Nobody will read on. No lock here: the collector may run in the midst of a step.
        self._sequence.is_cancelled = True
