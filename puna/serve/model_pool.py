"""The models that a server serves, by name: loaded when asked for, within a budget of memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from puna import hardware
from puna.console import human_bytes
from puna.serve.clients import State
from puna.serve.engine_client import EngineClient, EngineOptions
from puna.serve.errors import ServeError

logger = logging.getLogger("puna.serve")

T = TypeVar("T")

MOST_FAILURES, FAILURE_SECONDS = 3, 60  # a model that fails so often is left alone for a while
PATIENCE_SECONDS = 5  # of a model that waits for memory, before one in use has to make room


@dataclass
class Slot:
    """A model that is served, and its process while there is one.

    `wanted` counts the requests for it, `users` those of them that have its client. `makes_room` is
    there while it takes no more of them, and is set when that is over.
    """

    name: str
    model: str
    client: EngineClient | None = None
    loading: asyncio.Task[None] | None = None
    wanted: int = 0
    users: int = 0
    makes_room: asyncio.Event | None = None
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

    @property
    def is_idle(self) -> bool:
        """Whether nobody has its client, or is about to take it."""
        return not self.users and (not self.wanted or self.makes_room is not None)

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
    waits at most `wait_seconds` for its model, which may take `load_seconds` to load. A model that
    waits for memory has the one used longest ago unloaded: an idle one at once, one in use after
    PATIENCE_SECONDS without new requests, which wait until the other is loaded. Belongs to one
    event loop.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        options: EngineOptions | None = None,
        *,
        budget_bytes: int | None = None,
        wait_seconds: float = 60.0,
        load_seconds: float = 600.0,
    ) -> None:
        self.budget_bytes = budget_bytes or hardware.memory_available_bytes()
        self.wait_seconds = wait_seconds
        self.load_seconds = load_seconds
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
        slot.wanted += 1
        try:
            wait = self.wait_seconds if wait_seconds is None else wait_seconds
            client = await self._client(slot, wait)
            slot.users += 1
            try:
                yield client
            finally:
                slot.users -= 1
                slot.used_at = time.monotonic()
        finally:
            slot.wanted -= 1
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
        try:
            async with asyncio.timeout(wait_seconds):
                while True:
                    while slot.makes_room is not None:
                        await slot.makes_room.wait()
                    slot.note_end()
                    if slot.client is not None:
                        return slot.client
                    await asyncio.shield(self._loading_of(slot))
                    if slot.client is None and slot.problem is not None:
                        raise slot.problem
        except TimeoutError:
            state = "is loading" if slot.makes_room is None else "makes room for another model"
            raise ServeError("unavailable", f"{slot.name} {state}") from None

    def _loading_of(self, slot: Slot) -> asyncio.Task[None]:
        """What loads it, begun now if not before. Raises ServeError where it may not begin."""
        if self._is_closing:
            raise ServeError("unavailable", "the server is ending")
        if slot.loading is None:
            slot.require_rest()
            slot.loading = asyncio.ensure_future(self._load(slot))
        return slot.loading

    async def _load(self, slot: Slot) -> None:
        """Give the slot a client, or a problem."""
        client = None
        try:
            client = await EngineClient.spawn(slot.name, slot.model)
            needed_bytes = await self._in_time(slot, client.open(self._options))
            async with self._loading:
                room_bytes = await self._make_room(slot, needed_bytes)
                await self._in_time(slot, client.load(self._options, room_bytes))
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

    async def _in_time(self, slot: Slot, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await asyncio.wait_for(work, self.load_seconds)
        except TimeoutError:
            raise ServeError(
                "failed",
                f"{slot.name} did not load within {self.load_seconds:g} seconds",
                hint="--load-seconds gives it longer",
            ) from None

    async def _make_room(self, slot: Slot, needed_bytes: int) -> int:
        """The memory that is left for a model, after others were unloaded where it has to be."""
        if needed_bytes > self.budget_bytes:
            raise ServeError(
                "failed",
                f"{slot.name} needs {human_bytes(needed_bytes)} of memory, all models together may "
                f"take {human_bytes(self.budget_bytes)}",
                hint="a larger --memory-budget, or a smaller model",
            )
        patient_until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        try:
            while True:
                others = [one for one in self._slots.values() if one is not slot and one.is_ready]
                room_bytes = self.budget_bytes - sum(one.memory_bytes for one in others)
                if needed_bytes <= room_bytes:
                    return room_bytes
                if not slot.wanted:
                    raise ServeError("unavailable", "the memory is in use by other models")
                await self._make_some_room(others, patient_until)
        finally:
            for one in self._slots.values():
                if one.makes_room is not None:
                    one.makes_room.set()
                    one.makes_room = None

    async def _make_some_room(self, others: list[Slot], patient_until: float) -> None:
        """Unload one that is idle, or wait until something has changed."""
        idle = [one for one in others if one.is_idle]
        if idle:
            return await self._unload(min(idle, key=lambda one: one.used_at))
        self._idle.clear()
        is_made = any(one.makes_room is not None for one in others)
        try:
            async with asyncio.timeout_at(None if is_made else patient_until):
                await self._idle.wait()
        except TimeoutError:
            chosen = min(others, key=lambda one: one.used_at)
            chosen.makes_room = asyncio.Event()
            logger.info("%s takes no more requests until another model is loaded", chosen.name)
        return None

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
