"""What the routes need of the models: a pool of them by name."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

from puna.serve.engine_client import EngineClient

State = Literal["loading", "ready", "unloaded", "failed"]


class Pool(Protocol):
    """The models that are served."""

    def names(self) -> list[str]:
        """Of all of them, loaded or not."""
        ...

    def state(self, name: str) -> State:
        """What the model is doing."""
        ...

    def use(self, name: str) -> AbstractAsyncContextManager[EngineClient]:
        """The loaded model, which stays loaded meanwhile; entering it loads. Raises ServeError."""
        ...

    async def metrics(self) -> dict[str, dict[str, Any]]:
        """Of each model its `state`, and what its engine counts where it is loaded."""
        ...
