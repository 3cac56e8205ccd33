"""Texts for asyncio: a thread of its own runs the engine's steps, and sleeps while none is due."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from puna.errors import UsageError
from puna.infer.result import Piece
from puna.infer.sampling_params import SamplingParams
from puna.infer.sequence import Sequence

if TYPE_CHECKING:
    from puna.infer.engine import Engine, Prompt

Pieces = asyncio.Queue[Piece]


class AsyncEngine:
    """Runs an engine for the tasks of any event loops until it is closed."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._core = engine.core
        self._due = threading.Condition()
        self._is_closed = False
        self._told: deque[tuple[asyncio.AbstractEventLoop, Pieces, Piece]] = deque()
        self._thread = threading.Thread(target=self._run, name="puna-engine", daemon=True)
        self._thread.start()

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> AsyncGeneration:
        """An asynchronous iterator over what each step adds to the texts of one request.

        To be called in the event loop that will read it. Raises at once as Engine.stream does;
        BusyError is for a server's 429. Here params.n may be more than 1.
        """
        if self._is_closed:
            raise UsageError("the engine is closed")
        loop, pieces = asyncio.get_running_loop(), Pieces()
        listener = functools.partial(self._tell, loop, pieces)
        sequences = self.engine.prepare(prompt, params, listener)
        self._core.submit(sequences)
        self.wake()
        return AsyncGeneration(self, sequences, pieces)

    def wake(self) -> None:
        """Have the thread look for work."""
        with self._due:
            self._due.notify()

    def close(self) -> None:
        """Cancel what is under way and end the thread."""
        with self._due:
            self._is_closed = True
            self._due.notify()
        self._thread.join()
        scheduler = self._core.scheduler
        self._core.cancel([*scheduler.running, *scheduler.waiting])
        self._hand_over()

    def _tell(self, loop: asyncio.AbstractEventLoop, pieces: Pieces, piece: Piece) -> None:
        self._told.append((loop, pieces, piece))

    def _run(self) -> None:
        while True:
            with self._due:
                while not self._is_closed and not self._core.has_work:
                    self._due.wait()
                if self._is_closed:
                    return
            self._core.step()
            self._hand_over()

    def _hand_over(self) -> None:
        """Give each event loop the pieces of its tasks, all at once: a call costs it a wake-up."""
        batches: dict[asyncio.AbstractEventLoop, list[tuple[Pieces, Piece]]] = {}
        while self._told:
            loop, pieces, piece = self._told.popleft()
            batches.setdefault(loop, []).append((pieces, piece))
        for loop, batch in batches.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                loop.call_soon_threadsafe(_deliver, batch)


class AsyncGeneration(AsyncIterator[Piece]):
    """`async for` yields a Piece for each step and text that had something new.

    A text's last piece has its `result`. Raises the error that ended a text. A task that is
    cancelled while it waits cancels the texts, and so does who stops reading: by `cancel`, by
    `async with`, or by dropping the iterator.
    """

    def __init__(self, running: AsyncEngine, sequences: list[Sequence], pieces: Pieces) -> None:
        self._running = running
        self._sequences = sequences
        self._pieces = pieces
        self._open = len(sequences)

    async def __anext__(self) -> Piece:
        if not self._open:
            raise StopAsyncIteration
        try:
            piece = await self._pieces.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if piece.error is not None:
            self._open = 0
            self.cancel()
            raise piece.error
        self._open -= piece.result is not None
        return piece

    def cancel(self) -> None:
        """End the texts within a step; those that are over stay as they are."""
        for sequence in self._sequences:
            sequence.is_cancelled = True
        self._running.wake()

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        for sequence in self._sequences:
            sequence.is_cancelled = True


def _deliver(batch: list[tuple[Pieces, Piece]]) -> None:
    for pieces, piece in batch:
        pieces.put_nowait(piece)
