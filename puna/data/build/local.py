"""Tasks on processes of this machine, which may die at any time.

Each worker has a pipe of its own. When one is killed, the driver sees its pipe end, starts another
and does that one task again; the others notice nothing. (concurrent.futures breaks the whole pool
and cannot say whose task it was; with max_tasks_per_child it also hangs, CPython issue 115634.)
A worker whose driver is gone ends at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from puna.data.build.executor import Attempts, Done, attempt
from puna.data.build.task import Task
from puna.errors import PunaError

TASKS_PER_WORKER = 64  # then it makes room for a new one: libraries leak, and memory fragments


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    tasks_left: int = TASKS_PER_WORKER


class LocalProcesses:
    """`workers` processes, started when there is work and ended with the block."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._alive: list[_Worker] = []

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """Each task as it is done or given up. Raises the first PunaError of a task."""
        waiting = deque(tasks)
        attempts = Attempts()
        while waiting or self._busy():
            self._hand_out(waiting)
            pipes: list[Any] = [worker.pipe for worker in self._busy()]
            ready = wait(pipes)
            for worker in [one for one in self._busy() if one.pipe in ready]:
                task = worker.task
                assert task is not None
                done = attempts.judge(task, self._answer(worker))
                if done:
                    yield done
                else:
                    waiting.append(task)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._alive if worker.task]

    def _hand_out(self, waiting: deque[Task]) -> None:
        """A task for every idle worker; new workers while there are too few."""
        idle = [worker for worker in self._alive if not worker.task]
        while waiting and len(idle) + len(self._busy()) < self.workers:
            idle.append(self._start())
        for worker in idle:
            if waiting:
                worker.task = waiting.popleft()
                self._send(worker)

    def _send(self, worker: _Worker) -> None:
        with contextlib.suppress(OSError):  # it died idle: its pipe has ended, which is seen later
            worker.pipe.send(worker.task)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._alive.append(worker)
        return worker

    def _answer(self, worker: _Worker) -> PunaError | str | None:
        """What became of the worker's task; a worker that died or is worn out is let go."""
        error: PunaError | str | None
        worker.task = None
        worker.tasks_left -= 1
        try:
            error = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            error = f"its worker died ({_death(worker.process.exitcode)})"
            worker.tasks_left = 0
        if not worker.tasks_left:
            self._end(worker)
        return error

    def _end(self, worker: _Worker) -> None:
        self._alive.remove(worker)
        worker.pipe.close()
        worker.process.join()
        worker.process.close()

    def __enter__(self) -> LocalProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        """End every worker, also in the middle of a task."""
        for worker in list(self._alive):
            if worker.task:
                worker.process.terminate()
            self._end(worker)


def _death(code: int | None) -> str:
    hint = ", as the kernel does when memory runs out: fewer --workers need less"
    return f"signal {-code}{hint if code == -9 else ''}" if code and code < 0 else f"exit {code}"


def _work(pipe: Connection) -> None:
    """A worker's life: tasks come, answers go, until the driver closes the pipe."""
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(task))


def _end_with_the_driver() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
