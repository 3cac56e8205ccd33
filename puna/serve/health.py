"""GET /health and /version: public, answered by this process alone while the engines compute."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

import puna
from puna.serve.clients import Pool
from puna.serve.errors import ServeError
from puna.serve.openai.responses import ERRORS
from puna.serve.openai.streaming import json_bytes

PUBLIC: dict[int | str, dict[str, Any]] = {403: ERRORS[403]}  # how a route fails that needs no key


class Health(BaseModel):
    """At least one model answers, or will be loaded when it is asked for."""

    status: Literal["ok"]


class Trouble(BaseModel):
    """llama.cpp's body of a server that cannot answer yet."""

    code: Literal[503]
    message: str
    type: Literal["unavailable_error"]


class Unhealthy(BaseModel):
    """No model answers."""

    error: Trouble


class Version(BaseModel):
    """Puna's."""

    version: str


router = APIRouter(tags=["server"])
_HEALTH: dict[int | str, dict[str, Any]] = {
    **PUBLIC,
    503: {"model": Unhealthy, "description": "No model answers"},
}


@router.head("/health", include_in_schema=False)
@router.get("/health", response_model=Health, responses=_HEALTH)
async def health(request: Request) -> Any:
    """Whether requests would be answered: 503 while the first model loads, or if all failed.

    Where all failed it has one loaded again: who sends requests only to servers that are well
    would never send the one that does.
    """
    state = request.app.state
    states = {state.pool.state(name) for name in state.pool.names()}
    if states & {"ready", "unloaded"}:
        return {"status": "ok"}
    if "loading" not in states:
        state.waking = asyncio.ensure_future(_load(state.pool))  # kept, or it might be collected
    message = "Loading model" if "loading" in states else "No model could be loaded"
    error = {"code": 503, "message": message, "type": "unavailable_error"}
    return Response(
        json_bytes({"error": error}),
        status_code=503,
        headers={"Retry-After": "2"},
        media_type="application/json",
    )


async def _load(pool: Pool) -> None:
    with contextlib.suppress(ServeError):  # the pool logs it, and rests after three times
        async with pool.use(pool.names()[0]):
            pass


@router.get("/version", response_model=Version, responses=PUBLIC)
async def version() -> Any:
    """Of the server."""
    return {"version": puna.__version__}
