"""Tasks on a Ray cluster (`puna[cluster]`): each is one Ray task of one core.

The nodes need Puna installed, and must reach the folders of the build by the same names. A cluster
that asks for a token finds it where Ray looks (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from puna.data.build.executor import ATTEMPTS, Attempts, Done, attempt
from puna.data.build.task import Task
from puna.errors import MachineError, PunaError, missing_package

_TASKS_PER_CORE = 2  # given to Ray at a time, so that no core waits for the driver


class RayCluster:
    """The cluster at an address (`auto`, `ray://host:10001`), left when the block ends."""

    def __init__(self, address: str) -> None:
        """Raises MachineError where Ray is not installed or does not answer."""
        try:
            import ray
        except ImportError:
            raise missing_package("ray", "cluster", f"--on {address}") from None
        self._ray: Any = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray's own kinds, without a common base
            raise MachineError(
                f"no Ray cluster answers at {address}: {str(error).strip()}"[:500],
                hint="`ray start --head` starts one; give the driver the token of the cluster",
            ) from None
        self.workers = int(ray.cluster_resources().get("CPU", 1))
        self._attempt = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(attempt)

    def run(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """Each task as it is done or given up. Raises the first PunaError of a task."""
        waiting = deque(tasks)
        attempts = Attempts()
        running: dict[Any, Task] = {}
        while waiting or running:
            while waiting and len(running) < self.workers * _TASKS_PER_CORE:
                task = waiting.popleft()
                running[self._attempt.remote(task)] = task
            (ready,), _ = self._ray.wait(list(running), num_returns=1)
            task = running.pop(ready)
            done = attempts.judge(task, self._answer(ready))
            if done:
                yield done
            else:
                waiting.append(task)

    def _answer(self, reference: Any) -> PunaError | str | None:
        """What became of a task; Ray has tried again those whose worker or node died."""
        answer: PunaError | str | None
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return answer

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what is under way and leave the cluster."""
        self._ray.shutdown()
