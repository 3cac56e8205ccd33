"""The steps of an engine: a scheduler, a backend, and the texts under way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence as ListLike
from dataclasses import dataclass

from puna.errors import BusyError, PunaError
from puna.infer.backends.base import Backend
from puna.infer.scheduler import Limits, Scheduler, Work
from puna.infer.sequence import Sequence


@dataclass(frozen=True)
class Metrics:
    """An engine's state and what it has done since it was loaded; `Core.metrics` fills it."""

    running: int
    waiting: int
    pages: int
    pages_used: int
    steps: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
    finished: int
    cancelled: int
    failed: int


class Core:
    """Texts under way on one backend. Any thread may submit, cancel and step.

    Nothing runs by itself: whoever wants a text calls `step` until it is there.
    """

    def __init__(self, backend: Backend, pages: int, limits: Limits, queue_limit: int) -> None:
        backend.reserve(pages)
        self.scheduler = Scheduler(pages, limits)
        self.queue_limit = queue_limit
        self._backend = backend
        self._stepping = threading.Lock()
        self._submitting = threading.Lock()
        self._inbox: deque[Sequence] = deque()
        self._counts = dict.fromkeys(
            (
                "steps",
                "prompt_tokens",
                "cached_tokens",
                "generated_tokens",
                "drafted_tokens",
                "accepted_tokens",
                "finished",
                "cancelled",
                "failed",
            ),
            0,
        )

    @property
    def has_work(self) -> bool:
        """Whether any text is under way or waits."""
        return bool(self._inbox or self.scheduler.running or self.scheduler.waiting)

    @property
    def metrics(self) -> Metrics:
        """State and counts, of one moment as nearly as another thread can tell."""
        pool = self.scheduler.pool
        return Metrics(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting) + len(self._inbox),
            pages=pool.count,
            pages_used=pool.count - pool.available,
            preemptions=self.scheduler.preemptions,
            **self._counts,
        )

    def room(self) -> int:
        """How many more texts may wait."""
        return self.queue_limit - len(self._inbox) - len(self.scheduler.waiting)

    def submit(self, sequences: ListLike[Sequence]) -> None:
        """Have the texts of one request wait for their turn: all of them or, where the queue has
        no room, none. Raises BusyError then."""
        with self._submitting:
            if len(sequences) > self.room():
                raise BusyError(
                    f"the queue has room for {self.queue_limit} texts, "
                    f"{max(self.room(), 0)} are free and {len(sequences)} were asked for",
                    hint="try again later",
                )
            self._inbox.extend(sequences)

    def cancel(self, sequences: ListLike[Sequence]) -> None:
        """End texts here; their pages are free once this returns."""
        for sequence in sequences:
            sequence.is_cancelled = True
        with self._stepping:
            self._sweep()

    def cancel_all(self) -> None:
        """End all texts that were submitted."""
        self.cancel([*self._inbox, *self.scheduler.running, *self.scheduler.waiting])

    def step(self) -> bool:
        """Run one step for all texts; whether there was any to run.

        What the backend raises ends the texts that run, each with the `error`.
        """
        with self._stepping:
            began = time.perf_counter()
            self._sweep()
            if not self.scheduler.running and not self.scheduler.waiting:
                return False
            try:
                done = self._run(self.scheduler.plan())
            except Exception as error:
                done = list(self.scheduler.running)
                for sequence in done:
                    sequence.error = error
            seconds = time.perf_counter() - began
            self._counts["steps"] += 1
            for sequence in done:
                sequence.count_seconds(seconds)
                self._settle(sequence)
        return True

    def _run(self, works: list[Work]) -> list[Sequence]:
        """A call of the backend for those that generate, and one for those that want states."""
        assert works, "of what runs, the oldest can always go on"
        for has_mean in (False, True):
            some = [work for work in works if (work.sequence.mean is not None) == has_mean]
            if some:
                self._compute(some)
        return [work.sequence for work in works]

    def _compute(self, works: list[Work]) -> None:
        """One call of the backend, and what each sequence makes of its rows."""
        chunks = [work.sequence.chunk(work.rows, work.drafts) for work in works]
        has_mean = works[0].sequence.mean is not None
        output = self._backend.hidden(chunks) if has_mean else self._backend.choose(chunks)
        row = 0
        counts = self._counts
        for work, chunk in zip(works, chunks, strict=True):
            sequence, rows = work.sequence, output[row : row + chunk.wanted_rows]
            row += chunk.wanted_rows
            before, computed = sequence.generated_tokens, sequence.computed + work.rows
            try:
                sequence.advance(work.rows, work.drafts, rows)
            except PunaError as error:  # one text's own: logits that are not finite
                sequence.error = error
            counts["generated_tokens"] += sequence.generated_tokens - before
            counts["drafted_tokens"] += len(work.drafts)
            counts["accepted_tokens"] += sequence.computed - computed

    def _settle(self, sequence: Sequence) -> None:
        """Share its pages, free them at its end, and tell who listens."""
        self.scheduler.settle(sequence)
        if sequence.is_over:
            self._counts["failed" if sequence.error else "finished"] += 1
            self._counts["prompt_tokens"] += sequence.prompt_tokens
            self._counts["cached_tokens"] += sequence.cached_tokens
        sequence.tell()

    def _sweep(self) -> None:
        """Take in what was submitted, let go of what was cancelled."""
        while self._inbox:
            self.scheduler.add(self._inbox.popleft())
        everyone = (*self.scheduler.running, *self.scheduler.waiting)
        for sequence in [one for one in everyone if one.is_cancelled or one.is_over]:
            if sequence.is_over:  # Ctrl-C came before it was settled
                self._settle(sequence)
                continue
            sequence.ended_by = "cancelled"
            self.scheduler.remove(sequence)
            self._counts["cancelled"] += 1
            sequence.tell()
