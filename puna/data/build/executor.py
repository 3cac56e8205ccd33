"""Who does the tasks: this process, processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from puna.data.build.task import Task, run_task
from puna.errors import PunaError

ATTEMPTS = 3  # of a task whose worker died, or that failed for no reason known to Puna


@dataclass(frozen=True)
class Done:
    """A task that was done, or what went wrong with it the last time."""

    task: Task
    error: str = ""


class Executor(Protocol):
    """Does tasks in any order, each ATTEMPTS times at most.

    `run` yields each task once, as it is done or given up. A PunaError of a task (a package is
    missing, a file is damaged and the build strict) is no matter of luck: `run` raises it.
    """

    workers: int

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]: ...

    def __enter__(self) -> Executor: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Here:
    """Does the tasks one by one in this process: to debug, or for files of this process alone."""

    workers = 1

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """Each task; what a task raises is raised."""
        for task in tasks:
            run_task(task)
            yield Done(task)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was begun."""


class Attempts:
    """How often each task was tried."""

    def __init__(self) -> None:
        self._made: Counter[str] = Counter()

    def judge(self, task: Task, error: PunaError | str | None) -> Done | None:
        """What an attempt means: the task is done or given up, or None: it is to be tried again.

        Raises the error where it is one of Puna's.
        """
        if isinstance(error, PunaError):
            raise error
        self._made[task.output] += 1
        if error and self._made[task.output] < ATTEMPTS:
            return None
        return Done(task, error or "")


def attempt(task: Task) -> PunaError | str | None:
    """Do a task inside a worker: None when it is done, an error of ours, or what else happened."""
    try:
        run_task(task)
    except PunaError as error:
        return error
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
