"""Texts for asyncio: a thread of its own runs the engine's steps, and sleeps while none is due."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from puna.errors import BusyError, UsageError
from puna.infer.embedding import Embeddings
from puna.infer.result import Piece
from puna.infer.sampling_params import SamplingParams
from puna.infer.sequence import Listener, Sequence

if TYPE_CHECKING:
    from puna.infer.engine import Engine, Prompt, Prompts

Pieces = asyncio.Queue[Piece]
EMBEDDED_AT_ONCE = 16  # texts of a call, so that others get in between


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
        BusyError is for a server's 429. Here params.n may be more than 1. A constraint is compiled
        here, unless Engine.grammar did it before, in another thread.
        """
        listener, pieces = self._listen()
        sequences = self.engine.prepare(prompt, params, listener)
        self._submit(sequences)
        return AsyncGeneration(self, sequences, pieces)

    async def embed(self, prompts: Prompts, *, is_unit: bool = True) -> Embeddings:
        """As Engine.embed, with other texts going on beside it, step by step.

        Raises as it does, and BusyError where the queue has no room for the first text. A task
        that is cancelled lets go of the texts.
        """
        listener, pieces = self._listen()
        sequences = await asyncio.to_thread(self.engine.prepare_embeddings, prompts, listener)
        waiting, running = deque(sequences), 0
        try:
            while waiting or running:
                running += self._submit_some(waiting, running)
                piece = await pieces.get()
                if piece.error is not None:
                    raise piece.error
                if piece.result is not None and piece.result.ended_by == "cancelled":
                    raise UsageError("the engine is closed")
                running -= 1
        finally:
            for sequence in sequences:
                sequence.is_cancelled = True
            self.wake()
        return Embeddings.of((one.mean for one in sequences if one.mean), is_unit=is_unit)

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
        self._core.cancel_all()
        self._hand_over()

    def _listen(self) -> tuple[Listener, Pieces]:
        """What hands pieces over to the running event loop. Raises UsageError once closed."""
        self._require_open()
        pieces = Pieces()
        return functools.partial(self._tell, asyncio.get_running_loop(), pieces), pieces

    def _submit(self, sequences: list[Sequence]) -> None:
        with self._due:
            self._require_open()
            self._core.submit(sequences)
            self._due.notify()

    def _require_open(self) -> None:
        if self._is_closed:
            raise UsageError("the engine is closed")

    def _submit_some(self, waiting: deque[Sequence], running: int) -> int:
        """Submit texts beside so many of their call; how many. Raises BusyError where none is."""
        count = 0
        while waiting and running + count < EMBEDDED_AT_ONCE:
            try:
                self._submit([waiting[0]])
            except BusyError:
                if running + count:
                    break
                raise
            waiting.popleft()
            count += 1
        return count

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
