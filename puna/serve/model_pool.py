"""The models that a server serves, by name: loaded when asked for, within a budget of memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from puna import hardware
from puna.console import human_bytes
from puna.serve.clients import State
from puna.serve.engine_client import EngineClient, EngineOptions
from puna.serve.errors import ServeError

logger = logging.getLogger("puna.serve")

MOST_FAILURES, FAILURE_SECONDS = 3, 60  # a model that fails so often is left alone for a while


@dataclass
class Slot:
    """A model that is served, and its process while there is one."""

    name: str
    model: str
    client: EngineClient | None = None
    loading: asyncio.Task[None] | None = None
    users: int = 0
    used_at: float = 0.0
    loads: int = 0
    failures: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_FAILURES))
    problem: ServeError | None = None

    @property
    def memory_bytes(self) -> int:
        """What its process takes."""
        if self.client is None or not self.client.is_alive:
            return 0
        return int(self.client.described["memory_bytes"])

    @property
    def is_ready(self) -> bool:
        """Whether its process answers."""
        return self.client is not None and self.client.is_alive

    def note_end(self) -> None:
        """Take notice of a process that ended by itself."""
        if self.client is not None and not self.client.is_alive:
            self.client = None
            self.fail(ServeError("failed", f"the engine of {self.name} ended by itself"))

    def fail(self, problem: ServeError) -> None:
        """Remember why, unless it is for lack of room that others take."""
        if problem.kind != "unavailable":
            self.problem = problem
            self.failures.append(time.monotonic())

    def require_rest(self) -> None:
        """Raises ServeError (unavailable) while it has failed too often of late."""
        if len(self.failures) < MOST_FAILURES:
            return
        rest_seconds = self.failures[0] + FAILURE_SECONDS - time.monotonic()
        if rest_seconds > 0:
            assert self.problem is not None
            raise ServeError(
                "unavailable",
                f"{self.name} failed {MOST_FAILURES} times within {FAILURE_SECONDS} seconds, at "
                f"last: {self.problem.message}",
                hint=f"it is tried again in {rest_seconds:.0f} seconds; the server's log says more",
            )


class ModelPool:
    """Engine processes for `models`, names and what each stands for.

    Together they take at most `budget_bytes` of memory, without it what is free now. A request
    waits at most `wait_seconds` for its model. Belongs to one event loop.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        options: EngineOptions | None = None,
        *,
        budget_bytes: int | None = None,
        wait_seconds: float = 60.0,
    ) -> None:
        self.budget_bytes = budget_bytes or hardware.memory_available_bytes()
        self.wait_seconds = wait_seconds
        self._options = options or EngineOptions()
        self._slots = {name: Slot(name, model) for name, model in models.items()}
        self._loading = asyncio.Lock()
        self._idle = asyncio.Event()
        self._is_closing = False

    def names(self) -> list[str]:
        """Of all models, loaded or not."""
        return list(self._slots)

    def state(self, name: str) -> State:
        """What the model is doing; `failed` until it is asked for again."""
        slot = self._slot(name)
        slot.note_end()
        if slot.loading is not None:
            return "loading"
        if slot.is_ready:
            return "ready"
        return "unloaded" if slot.problem is None else "failed"

    def problem(self, name: str) -> ServeError | None:
        """Why it failed last, if nothing went well after it."""
        return self._slot(name).problem

    @contextlib.asynccontextmanager
    async def use(
        self, name: str, *, wait_seconds: float | None = None
    ) -> AsyncGenerator[EngineClient]:
        """The model's client; meanwhile it stays loaded.

        Waits while it loads, at most so long; 0 is not at all. Raises ServeError: `unknown`;
        `unavailable` while it loads longer, or while it has failed too often; `failed` where it
        cannot be loaded.
        """
        slot = self._slot(name)
        slot.users += 1
        try:
            wait = self.wait_seconds if wait_seconds is None else wait_seconds
            yield await self._client(slot, wait)
        finally:
            slot.users -= 1
            slot.used_at = time.monotonic()
            self._idle.set()

    async def metrics(self) -> dict[str, dict[str, Any]]:
        """Of each model its state, how often it was loaded, and what its engine counts."""
        return {name: await self._metrics_of(slot) for name, slot in self._slots.items()}

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, and let those under way end; at most so long."""
        self._is_closing = True
        ready = [slot.client for slot in self._slots.values() if slot.is_ready and slot.client]
        asked = [client.ask("drain") for client in ready]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), seconds)

    async def close(self) -> None:
        """End every process, and what is under way in it."""
        self._is_closing = True
        slots = self._slots.values()
        loading = [slot.loading for slot in slots if slot.loading is not None]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        await asyncio.gather(*(slot.client.end() for slot in slots if slot.client is not None))

    def _slot(self, name: str) -> Slot:
        slot = self._slots.get(name)
        if slot is None:
            known = ", ".join(self._slots)
            raise ServeError("unknown", f"there is no model {name[:100]!r}", hint=f"one of {known}")
        return slot

    async def _client(self, slot: Slot, wait_seconds: float) -> EngineClient:
        slot.note_end()
        if slot.client is None:
            if self._is_closing:
                raise ServeError("unavailable", "the server is ending")
            if slot.loading is None:
                slot.require_rest()
                slot.loading = asyncio.ensure_future(self._load(slot))
            try:
                await asyncio.wait_for(asyncio.shield(slot.loading), wait_seconds)
            except TimeoutError:
                raise ServeError("unavailable", f"{slot.name} is loading") from None
        if slot.client is None:
            raise slot.problem or ServeError("unavailable", f"{slot.name} is not loaded yet")
        return slot.client

    async def _load(self, slot: Slot) -> None:
        """Give the slot a client, or a problem."""
        client = None
        try:
            client = await EngineClient.spawn(slot.name, slot.model)
            needed_bytes = await client.open(self._options)
            async with self._loading:
                room_bytes = await self._make_room(slot, needed_bytes)
                await client.load(self._options, room_bytes)
                slot.client, slot.problem = client, None
            slot.loads += 1
            logger.info("%s is loaded, process %d", slot.name, client.pid)
        except (ServeError, OSError) as error:
            logger.error("%s cannot be loaded: %s", slot.name, error)
            slot.fail(error if isinstance(error, ServeError) else ServeError("failed", str(error)))
        finally:
            slot.loading = None
            if client is not None and slot.client is not client:
                await client.end()

    async def _make_room(self, slot: Slot, needed_bytes: int) -> int:
        """The memory that is left for a model, after others were unloaded where it has to be."""
        if needed_bytes > self.budget_bytes:
            raise ServeError(
                "failed",
                f"{slot.name} needs {human_bytes(needed_bytes)} of memory, all models together may "
                f"take {human_bytes(self.budget_bytes)}",
                hint="a larger --memory-budget, or a smaller model",
            )
        while True:
            others = [one for one in self._slots.values() if one is not slot and one.is_ready]
            room_bytes = self.budget_bytes - sum(one.memory_bytes for one in others)
            if needed_bytes <= room_bytes:
                return room_bytes
            idle = [one for one in others if not one.users]
            if not slot.users:  # nobody waits for it any more
                raise ServeError("unavailable", "the memory is in use by other models")
            if idle:
                await self._unload(min(idle, key=lambda one: one.used_at))
            else:
                self._idle.clear()
                await self._idle.wait()

    async def _unload(self, slot: Slot) -> None:
        client, slot.client = slot.client, None
        if client is not None:
            await client.end()
            logger.info("%s is unloaded", slot.name)

    async def _metrics_of(self, slot: Slot) -> dict[str, Any]:
        state = self.state(slot.name)
        own = {"state": state, "loads": slot.loads, "memory_bytes": slot.memory_bytes}
        if state == "ready" and slot.client is not None:
            with contextlib.suppress(ServeError):  # it ends right now
                own |= await slot.client.ask("metrics")
        return own
